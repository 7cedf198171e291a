"""The meter: counters equal the lines, whatever is killed (contract Traffic numbers)."""

from __future__ import annotations

import json
import os
import random
import signal
import socketserver
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from windtunnel.errors import UnavailableError
from windtunnel.home import Home
from windtunnel.loopback import any_free
from windtunnel.serving.traffic import countfiles as traffic
from windtunnel.serving.traffic import meter as meter_module
from windtunnel.serving.traffic.meter import Meter, read_traffic, reopen_logs, run


def line(n: int, **more: Any) -> bytes:
    plain = {"time": str(int(time.time() * 1000)), "request_id": f"r{n}", "model": "visits", "version": "1",
             "status": 200, "response_flags": "-", "duration_us": 2500}  # fmt: skip
    return json.dumps(plain | more).encode() + b"\n"


def append(home: Home, *lines: bytes) -> None:
    home.access_log.parent.mkdir(parents=True, exist_ok=True)
    with home.access_log.open("ab") as file:
        file.write(b"".join(lines))


def wait(condition: Any, limit: float = 10.0) -> None:
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.02)


def requests(home: Home) -> int:
    try:
        return sum(arm.requests for arm in read_traffic(home, "visits").arms.values())
    except UnavailableError:
        return -1


def test_counters_by_version(tmp_path: Path) -> None:
    home = Home(tmp_path)
    meter = Meter(home)
    append(home, line(0), line(1, status=500), line(2, version="2", status=404))
    append(home, line(3, version="2", duration_us=50_000),
           b"garbage\n", line(4, model=None, version=None), line(5, model="other"), b'{"torn')  # fmt: skip
    meter.step(force=True)
    found = read_traffic(home, "visits")
    one, two = found.arms["1"], found.arms["2"]
    assert (one.requests, one.errors, one.client_errors) == (2, 1, 0)
    assert (two.requests, two.errors, two.client_errors) == (2, 0, 1)
    assert one.latency.total == 2
    assert one.latency.quantile(0.5) == pytest.approx(2.6, rel=0.1)
    assert two.latency.above(10) == 1
    assert read_traffic(home, "other").arms["1"].requests == 1
    assert (meter.counters.malformed, meter.counters.other) == (1, 1)
    recent = traffic.read_recent(home, "visits")["1"]
    assert [sum(pair) for pair in zip(*recent.values(), strict=True)] == [2, 1]


def test_a_deployed_model_without_requests_has_zero_not_nothing(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.serving_model("visits").mkdir(parents=True)
    Meter(home).step(force=True)
    assert read_traffic(home, "visits").arms == {}


@pytest.mark.parametrize(
    ("content", "age", "says"),
    [
        (None, 0.0, "no traffic counters"),
        ("", 0.0, "no traffic counters"),
        ('{"at": 0}', 0.0, "cannot be understood"),
        ('{"at": 0, "epoch": "e", "arms": {"1": {"requests": 1}}}', 0.0, "cannot be understood"),
        ('{"at": 0, "epoch": "e", "arms": {}}', 5.1, "5.1 s old"),
        ('{"at": 0, "epoch": "e", "arms": {}}', -60.0, "old"),
    ],
)
def test_a_dead_source_is_never_an_empty_answer(tmp_path: Path, content: str | None, age: float, says: str) -> None:
    home = Home(tmp_path)
    if content is not None:
        traffic.traffic_path(home, "visits").parent.mkdir(parents=True)
        traffic.traffic_path(home, "visits").write_text(content)
    with pytest.raises(UnavailableError, match=says):
        read_traffic(home, "visits", now=age)


def test_counters_that_cannot_be_kept_are_not_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disk full: the heartbeat ages, so readers learn that they do not know."""
    home = Home(tmp_path)
    meter = Meter(home)
    append(home, line(0))
    meter.step(force=True)
    before = read_traffic(home, "visits").at

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    append(home, line(1))
    with monkeypatch.context() as patch:
        patch.setattr(meter_module.files, "write_bytes", full)
        with pytest.raises(OSError):
            meter.step(force=True)
    found = read_traffic(home, "visits")
    assert (found.at, found.arms["1"].requests) == (before, 1)
    meter.step(force=True)
    assert requests(home) == 2


def test_the_epoch_stays_over_a_restart_and_changes_when_the_state_is_lost(tmp_path: Path) -> None:
    home = Home(tmp_path)
    append(home, line(0))
    for _ in range(2):
        meter = Meter(home)
        meter.step(force=True)
        meter.close()
    first = read_traffic(home, "visits")
    assert first.arms["1"].requests == 1
    (home.serving / "traffic" / "_meter.json").write_text("{broken")
    Meter(home).step(force=True)
    second = read_traffic(home, "visits")
    assert second.epoch != first.epoch
    assert second.arms["1"].requests == 1  # counted anew from what the log still holds


def test_the_heartbeat_is_renewed_when_idle(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.serving_model("visits").mkdir(parents=True)
    stop = threading.Event()
    thread = threading.Thread(target=run, args=(home, stop))
    thread.start()
    try:
        wait(lambda: requests(home) == 0)
        first = read_traffic(home, "visits").at
        wait(lambda: read_traffic(home, "visits").at > first + 0.4)
    finally:
        stop.set()
        thread.join()


class Router:
    """Writes lines as the router does: opens the log anew only some time after it was asked to."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.sent = 0
        self.reopened = 0
        self._ask = threading.Event()
        self._stop = threading.Event()
        home.access_log.parent.mkdir(parents=True, exist_ok=True)
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Router:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def reopen(self, _: Path) -> bool:
        self._ask.set()
        return True

    def _open(self) -> int:
        return os.open(self.home.access_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def _write(self) -> None:
        descriptor = self._open()
        while not self._stop.is_set():
            for _ in range(20):
                data = line(self.sent, version=str(self.sent % 2))
                os.write(descriptor, data[:30])
                os.write(descriptor, data[30:])
                self.sent += 1
            if self._ask.is_set():
                time.sleep(0.01)
                os.write(descriptor, line(self.sent))
                self.sent += 1
                os.close(descriptor)
                descriptor = self._open()
                self.reopened += 1
                self._ask.clear()
            time.sleep(0.002)
        os.close(descriptor)


def test_rotation_loses_no_line_and_old_files_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter_module, "PUBLISH_S", 0.03)
    home = Home(tmp_path)
    with Router(home) as router:
        meter = Meter(home, rotate_bytes=40_000, keep=2, quiet_s=0.05, reopen=router.reopen)
        end = time.monotonic() + 1.2
        while time.monotonic() < end:
            meter.step()
            time.sleep(0.005)
    for _ in range(3):
        meter.step(force=True)
        time.sleep(0.06)
    assert router.reopened >= 3
    assert requests(home) == router.sent
    assert len(list(home.access_log.parent.glob("access.jsonl.*"))) <= 3
    meter.close()
    again = Meter(home)
    again.step(force=True)
    assert requests(home) == router.sent


_METER = """
import sys, threading
from pathlib import Path
from windtunnel.home import Home
from windtunnel.serving.traffic import meter
meter.POLL_S, meter.PUBLISH_S = 0.01, 0.05
print("ready", flush=True)
real = meter.Meter
class Small(real):
    def __init__(self, home, **_):
        super().__init__(home, rotate_bytes=30_000, keep=2, quiet_s=0.2, reopen=lambda path: reopen(home))
def reopen(home):
    (home.root / "reopen").touch()
    return True
meter.Meter = Small
meter.run(Home(Path(sys.argv[1])), threading.Event())
"""


def kill_the_meter(home: Home, kills: int, seed: int) -> None:
    """The router writes and rotates all the time; the meter is killed at random moments and started again."""
    dice = random.Random(seed)
    with Router(home) as router:
        done = threading.Event()

        def relay() -> None:
            while not done.is_set():
                if (home.root / "reopen").exists():
                    (home.root / "reopen").unlink()
                    router.reopen(home.access_log)
                time.sleep(0.005)

        relaying = threading.Thread(target=relay)
        relaying.start()
        highest = 0
        for kill in range(kills):
            process = subprocess.Popen([sys.executable, "-c", _METER, str(home.root)], stdout=subprocess.PIPE)
            assert process.stdout
            assert process.stdout.readline() == b"ready\n"
            time.sleep(dice.uniform(0.05, 0.5))
            if kill == kills - 1:  # on a busy machine none may have come that far yet
                wait(lambda: requests(home) > 0 and router.reopened > 0, 60)
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()
            seen = requests(home)
            assert seen >= highest or seen == -1, "published counters went back"
            highest = max(highest, seen)
        done.set()
        relaying.join()
    meter = Meter(home)
    meter.step(force=True)
    assert meter.counters.malformed == 0
    assert requests(home) == router.sent
    assert highest > 0
    assert router.reopened > 0


def test_kill_9_neither_loses_nor_doubles(tmp_path: Path) -> None:
    kill_the_meter(Home(tmp_path), kills=4, seed=3)


@pytest.mark.long
def test_kill_9_many_times(tmp_path: Path) -> None:
    kill_the_meter(Home(tmp_path), kills=40, seed=5)


def test_a_second_meter_waits_for_the_first(tmp_path: Path) -> None:
    home = Home(tmp_path)
    append(home, line(0))
    stops = [threading.Event(), threading.Event()]
    threads = [threading.Thread(target=run, args=(home, stop)) for stop in stops]
    threads[0].start()
    wait(lambda: requests(home) == 1)
    threads[1].start()
    append(home, line(1))
    wait(lambda: requests(home) == 2)
    stops[0].set()
    threads[0].join()
    append(home, line(2))
    wait(lambda: requests(home) == 3)
    stops[1].set()
    threads[1].join()


class _Admin(BaseHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012

    def do_POST(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("content-length", "3")
        self.end_headers()
        self.wfile.write(b"OK\n")

    def log_message(self, *_: Any) -> None:
        pass

    def address_string(self) -> str:
        return "unix"


def test_the_router_is_asked_over_its_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    assert reopen_logs(path) is False
    with socketserver.UnixStreamServer(str(path), _Admin) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert reopen_logs(path) is True
        thread.join()
    assert _Admin.asked == ["/reopen_logs"]


@pytest.mark.real
def test_a_real_router_is_metered_and_its_log_rotated(tmp_path: Path) -> None:
    """Envoy with our bootstrap: requests are counted within two seconds, and none is lost when its log rotates.

    The route has no server, so every answer is Envoy's own 503 and a counted error.
    """
    import http.client

    from windtunnel.serving import routing
    from windtunnel.serving.local import envoy

    port, nobody = any_free(), 1
    home = Home(tmp_path)
    envoy.bootstrap(home, port)
    router = envoy.Router(home)
    router.write_clusters(routing.clusters([routing.Upstream("visits", "1", nobody)]))
    router.write_routes(routing.routes([routing.ModelRoute("visits", ("1",) * routing.SLOTS)]))

    def ask(count: int) -> int:
        asked = 0
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        for _ in range(count):
            connection.request("POST", "/v2/models/visits/infer", b"{}", {"content-type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 503
            asked += 1
        connection.close()
        return asked

    stop = threading.Event()
    with (tmp_path / "envoy.log").open("wb") as log:
        process = subprocess.Popen(envoy.command(home), stderr=log)
    thread = threading.Thread(target=run, args=(home, stop), kwargs={"rotate_bytes": 60_000})
    try:
        router.await_routes(15)
        thread.start()
        sent = ask(1)
        time.sleep(0.3)
        sent += ask(1)
        wait(lambda: requests(home) == sent, 8)  # Envoy keeps lines back for 10 s unless told: gates judge by them
        for _ in range(6):
            sent += ask(100)
            time.sleep(0.3)
        wait(lambda: requests(home) == sent)
        arm = read_traffic(home, "visits").arms["1"]
        assert (arm.requests, arm.errors, arm.latency.total) == (sent, sent, sent)
        assert list(home.access_log.parent.glob("access.jsonl.*")), "the log was never rotated"
        assert home.access_log.exists()
    finally:
        stop.set()
        if thread.ident:
            thread.join()
        process.terminate()
        process.wait(90)
