"""The collector as a process, by real HTTP: what it takes, refuses and survives. DEMAND SRV-6, OPS-6"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import seldonevents
import waiting
from collectors import BEARER, TOKEN, Running

from windtunnel.loopback import any_free
from windtunnel.serving.collector.admission import Limits, Rules
from windtunnel.serving.collector.keeper import Keeper
from windtunnel.serving.collector.places import Folder
from windtunnel.serving.collector.server import Collector
from windtunnel.serving.collector.writers import Writers
from windtunnel.serving.predictions import PredictionLog, PredictionWriter, new_prediction_ids


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    options = ("--open-events", "--flush", "0.3", "--window", "600", "--sample", "sampled=0", "--namespace", "models")
    made = Running(tmp_path_factory.mktemp("collector"), any_free(), options)
    made.start()
    yield made
    assert made.end() == 0
    assert '"level": "error"' not in (made.folder / "out").read_text()


def rows(running: Running, model: str, wanted: int) -> Any:
    """The model's rows, once there are so many."""

    def read() -> Any:
        frame = running.log.read(model, time.time() - 600, time.time() + 600)
        return [frame] if len(frame) >= wanted else None

    (frame,) = waiting.until(read, every_s=0.1)
    assert len(frame) == wanted
    return frame


def test_halves_become_a_row_whoever_comes_first(running: Running) -> None:
    for number, order in enumerate((("request", "response"), ("response", "request"))):
        for what in order:
            ids = [f"ours-{number}"]
            body = seldonevents.asks(5.0) if what == "request" else seldonevents.answers(6.0, ids=ids)
            answer = running.send(what, f"r{number}", body, model="order", query="?shadow=1" if number else "")
            assert (answer.status_code, answer.json()) == (202, {"kept": True})
    frame = rows(running, "order", 2).set_index("prediction_id")
    assert frame["shadow"].to_dict() == {"ours-0": False, "ours-1": True}
    assert set(frame["feature_age"]) == {5.0} and set(frame["prediction"]) == {6.0}


def test_the_same_event_again_is_one_row(running: Running) -> None:
    before = running.number("duplicates_total")
    for _ in range(3):
        assert running.send("request", "r", seldonevents.asks(1.0), model="twice", id="q").status_code == 202
        assert running.send("response", "r", seldonevents.answers(1.0), model="twice", id="a").status_code == 202
    rows(running, "twice", 1)
    assert running.send("request", "r", seldonevents.asks(1.0), model="twice", id="q").status_code == 202
    assert running.number("duplicates_total") == before + 5


def test_what_cannot_be_taken_is_refused_by_name(running: Running) -> None:
    bad = running.send("request", "r", b'{"inputs": 3}')
    assert (bad.status_code, bad.json()["field"]) == (400, "inputs")
    assert running.send("request", "r", seldonevents.asks(1.0), endpoint="").json()["field"] == "ce-endpoint"
    other = running.send("request", "r", seldonevents.asks(1.0), namespace="theirs")
    assert (other.status_code, other.json()["field"]) == (403, "ce-namespace")
    large = running.send("request", "r", b" " * (2**20 + 1))
    assert large.status_code == 413
    assert httpx.get(f"{running.url}/v1/events").status_code == 405
    assert httpx.get(f"{running.url}/nothing").status_code == 404
    assert running.send("io.seldon.serving.feedback", "r", b"{}").json() == {"kept": False}
    assert running.send("request", "r", seldonevents.asks(1.0), model="sampled").json() == {"kept": False}
    assert httpx.get(f"{running.url}/readyz").status_code == 200
    assert running.number("sampled_out_total") == 1


def test_a_model_servers_own_log_is_taken_as_it_is(running: Running, tmp_path: Path) -> None:
    writer = PredictionWriter(tmp_path, "own", "7", "pod-1", flush_s=0.1, features=["age"])
    writer.write("r", time.time(), new_prediction_ids(2), [{"age": 1.0}, {"age": 2.0}], [3.0, 4.0], 1.5, 200)
    writer.close()
    (path,) = tmp_path.rglob("*.parquet")
    (mark,) = tmp_path.rglob("_watermark/*.json")
    key = path.relative_to(tmp_path).as_posix()
    url = f"{running.url}/v1/files/{key}"
    assert httpx.put(url, content=path.read_bytes()).status_code == 401
    assert httpx.put(url, content=path.read_bytes(), headers={"authorization": "Bearer x"}).status_code == 401
    for _ in range(2):
        assert httpx.put(url, content=path.read_bytes(), headers=BEARER).status_code == 201
    assert (running.folder / "log" / key).read_bytes() == path.read_bytes()
    url = f"{running.url}/v1/marks/own/{mark.name}"
    assert httpx.put(url, content=mark.read_bytes(), headers=BEARER).status_code == 201
    frame = rows(running, "own", 2)
    assert list(frame["instance"]) == ["pod_1"] * 2
    assert running.log.watermark("own").rows == 2
    for wrong, body, field in (
        (f"/v1/files/{key}", b"PAR1", "body"),
        (f"/v1/files/other/{key.partition('/')[2]}", path.read_bytes(), "model"),
        ("/v1/files/own/date=2027-01-01/hour=01/../x-1-1.parquet", path.read_bytes(), "path"),
        ("/v1/marks/own/7-other.json", mark.read_bytes(), "body"),
        (f"/v1/marks/own/{mark.name}", b"[]", "body"),
    ):
        told = httpx.put(f"{running.url}{wrong.replace('/../', '/%2e%2e/')}", content=body, headers=BEARER)
        assert (told.status_code, told.json()["field"]) == (400, field), wrong


@pytest.mark.parametrize("kills", [1, pytest.param(6, marks=pytest.mark.long)])
def test_kill_9_under_load_loses_no_acknowledged_event_and_doubles_none(tmp_path: Path, kills: int) -> None:
    """Killed while eight senders send; each sends again, by the same id, what was not acknowledged."""
    running = Running(tmp_path, any_free(), ("--open-events", "--flush", "0.2", "--window", "300"))
    running.start()
    acknowledged: set[int] = set()
    stop, lock = threading.Event(), threading.Lock()
    counter = iter(range(10**9))

    def sender() -> None:
        with httpx.Client(base_url=running.url, timeout=5) as client:
            while not stop.is_set():
                with lock:
                    number = next(counter)
                for what in ("request", "response"):
                    body = seldonevents.asks(float(number)) if what == "request" else seldonevents.answers(number)
                    headers = seldonevents.headers(what, f"r{number}", id=f"{what}-{number}")
                    while True:
                        try:
                            if client.post("/v1/events", content=body, headers=headers).status_code == 202:
                                break
                        except httpx.HTTPError:
                            pass
                        time.sleep(0.02)  # it is away: again
                with lock:
                    acknowledged.add(number)

    senders = [threading.Thread(target=sender) for _ in range(8)]
    for one in senders:
        one.start()
    try:
        for _ in range(kills):
            seen = len(acknowledged)
            waiting.until(lambda seen=seen: len(acknowledged) > seen + 100, every_s=0.02)
            running.end(signal.SIGKILL)
            running.start()
    finally:
        stop.set()
        for one in senders:
            one.join(60)
        assert running.end() == 0
    found = running.log.table("visits", time.time() - 600, time.time() + 60, columns=["prediction", "feature_age"])
    assert found.num_rows == len(acknowledged)
    assert sorted(found.column("prediction").to_pylist()) == sorted(acknowledged)
    assert found.column("feature_age").to_pylist() == found.column("prediction").to_pylist()
    import pyarrow.parquet as pq

    files = [pq.read_metadata(path).num_rows for path in (tmp_path / "log").rglob("*.parquet")]
    assert sum(files) == len(acknowledged)  # as they are, before a reader drops any
    assert running.log.watermark("visits").rows == len(acknowledged)


@pytest.mark.long
def test_a_disk_that_is_full_is_said_and_got_over(tmp_path: Path) -> None:
    """No file of this process may grow beyond 64 KiB, which is how a full disk looks to it."""

    def small() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, 65_536))

    running = Running(tmp_path, any_free(), ("--open-events", "--flush", "2"), preexec=small)
    running.start()
    taken, refused = 0, None
    try:
        body = seldonevents.asks(*([1.0] * 1000))
        while refused is None or refused.status_code == 202:
            refused = running.send("request", f"r{taken}", body)
            taken += refused.status_code == 202
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert "spool" in refused.json()["error"]
        assert taken > 3
        waiting.until(lambda: running.send("request", "later", body).status_code == 202)
    finally:
        assert running.end() == 0


# -- by the application itself


def _app(folder: Path, limits: Limits) -> Collector:
    place = Folder(folder / "log")
    keeper = Keeper(folder / "spool", place)
    return Collector(keeper, Writers(folder, place), Rules(open_events=True), limits)


def test_more_than_the_limits_is_refused_with_a_time_to_come_again(tmp_path: Path) -> None:
    """DEMAND SRV-4: what waits and what is held are bounded; beyond it 429, and nothing falls over."""
    app = _app(tmp_path, Limits(waiting=50, held_bytes=200_000))
    body = seldonevents.asks(*([1.0] * 100))

    async def flood(count: int, stem: str) -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://c") as client:
            posts = [
                client.post("/v1/events", content=body, headers=seldonevents.headers("request", f"{stem}{n}"))
                for n in range(count)
            ]
            return await asyncio.gather(*posts)

    answers = asyncio.run(flood(400, "a"))
    by_status = {status: [one for one in answers if one.status_code == status] for status in (202, 429)}
    assert len(by_status[202]) + len(by_status[429]) == 400
    assert 50 <= len(by_status[202]) < 400
    assert {one.headers["retry-after"] for one in by_status[429]} == {"1"}
    while {one.status_code for one in asyncio.run(flood(40, os.urandom(4).hex()))} != {429}:
        pass
    assert app._keeper.held_bytes < 200_000 + 50 * 2_000
    app._keeper.window_s = -60.0  # nothing waits any longer
    app._keeper.flush()
    assert {one.status_code for one in asyncio.run(flood(40, "later"))} == {202}


def test_a_full_disk_is_told_its_sender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app, real = _app(tmp_path, Limits()), os.pwrite

    def full(descriptor: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def send(request_id: str) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://c") as client:
            headers = seldonevents.headers("request", request_id)
            return await client.post("/", content=seldonevents.asks(1.0), headers=headers)

    assert asyncio.run(send("before")).status_code == 202
    monkeypatch.setattr(os, "pwrite", full)
    told = asyncio.run(send("full"))
    assert (told.status_code, told.headers["retry-after"]) == (503, "5") and "No space" in told.json()["error"]
    monkeypatch.setattr(os, "pwrite", real)
    assert asyncio.run(send("after")).status_code == 202
    assert app._keeper.totals.dropped == {"visits": 1}, "its sender may not send it again: a loss, and counted"


def test_what_waits_shares_one_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = _app(tmp_path, Limits())
    syncs: list[int] = []
    real = os.fdatasync
    monkeypatch.setattr(os, "fdatasync", lambda descriptor: (syncs.append(1), real(descriptor))[1])

    async def many() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://c") as client:
            await asyncio.gather(
                *(
                    client.post("/", content=seldonevents.asks(1.0), headers=seldonevents.headers("request", f"r{n}"))
                    for n in range(200)
                )
            )

    asyncio.run(many())
    assert app._keeper.tally.events == 200
    assert 1 <= len(syncs) < 100


def test_a_half_that_never_comes_is_counted(tmp_path: Path) -> None:
    app = _app(tmp_path, Limits())

    async def life() -> str:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://c") as client:
            headers = seldonevents.headers("request", "r")
            assert (await client.post("/", content=seldonevents.asks(1.0), headers=headers)).status_code == 202
            before = (await client.get("/metrics")).text
            assert "windtunnel_collector_waiting 1\n" in before
            app._keeper.window_s = -60.0  # it has waited enough
            app._keeper.flush()
            return (await client.get("/metrics")).text

    told = asyncio.run(life())
    for said in ("unanswered_total 1", "rows_total 1", "waiting 0", "flush_problem 0"):
        assert f"windtunnel_collector_{said}\n" in told
    frame = PredictionLog(tmp_path / "log").read("visits", time.time() - 600, time.time() + 600)
    assert list(frame["error"]) == ["no answer was logged"]


def test_it_says_when_nothing_can_be_published(tmp_path: Path) -> None:
    app = _app(tmp_path, Limits(stuck_s=0.0))
    app._keeper.flush_s, app._keeper.flushed_at, app._keeper.error = 0.01, time.time() - 60, "UnavailableError: away"

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://c") as client:
            return await client.get("/readyz")

    told = asyncio.run(ask())
    assert told.status_code == 503 and "away" in told.json()["error"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--host", "0.0.0.0"), "--token-file"),
        (("--client-ca", "ca.pem"), "--tls"),
        (("--token-file", "/nowhere"), "/nowhere"),
        (("--sample", "visits=2"), "MODEL=FRACTION"),
        (("--tls", "/nowhere"), "tls.crt"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from windtunnel.cli.app import app
    from windtunnel.errors import DescriptionError

    arguments = ["collector", "--spool", str(tmp_path / "s"), "--to", (tmp_path / "l").as_uri(), *options]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, DescriptionError)
    assert said in str(result.exception)


def test_tls_and_senders_certificates(tmp_path: Path) -> None:
    """DEMAND OPS-6, OPS-10: with --client-ca nobody comes in without a certificate by it."""
    import ssl

    from windtunnel import tls

    for name, more in (("ca", ()), ("tls", ("-addext", "subjectAltName=IP:127.0.0.1"))):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", f"/CN={name}", "-keyout", tmp_path / f"{name}.key", "-out", tmp_path / f"{name}.crt", *more],
            check=True, capture_output=True,
        )  # fmt: skip
    context = tls.context(tmp_path, tmp_path / "ca.crt")
    assert context.verify_mode is ssl.CERT_REQUIRED
    running = Running(tmp_path, any_free(), ("--tls", str(tmp_path), "--client-ca", str(tmp_path / "ca.crt")))
    (tmp_path / "token").write_text(TOKEN)
    ours = ssl.create_default_context(cafile=str(tmp_path / "tls.crt"))
    ours.load_cert_chain(tmp_path / "ca.crt", tmp_path / "ca.key")
    stranger = ssl.create_default_context(cafile=str(tmp_path / "tls.crt"))
    command = [str(Path(sys.executable).with_name("windtunnel")), "collector", "--spool", str(tmp_path / "spool"),
               "--to", (tmp_path / "log").as_uri(), "--port", str(running.port), *running.options]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        url = f"https://127.0.0.1:{running.port}/healthz"
        assert waiting.until(lambda: httpx.get(url, verify=ours), every_s=0.1).status_code == 200
        with pytest.raises(httpx.HTTPError):
            httpx.get(url, verify=stranger)
    finally:
        process.terminate()
        assert process.wait(60) == 0
