"""From a model server's own log in its pod to the rows a gate reads: sent, collected, brought. DEMAND SRV-6"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import waiting

from windtunnel.data import objects
from windtunnel.errors import DataError, DescriptionError
from windtunnel.serving.collector import bringing, sending
from windtunnel.serving.collector.bringing import Brought
from windtunnel.serving.collector.places import Folder
from windtunnel.serving.collector.sending import Sender
from windtunnel.serving.predictions import PredictionLog, PredictionWriter
from windtunnel.serving.release import rows


class Taking(BaseHTTPRequestHandler):
    """A collector that writes what it is sent, or answers what the test says."""

    server: Any

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        status = self.server.statuses.pop(0) if self.server.statuses else 201
        self.server.came.append((self.path, self.headers.get("authorization"), status))
        if status == 201:
            key = self.path.removeprefix("/v1/files/")
            if self.path.startswith("/v1/marks/"):
                key = self.path.removeprefix("/v1/marks/").replace("/", "/_watermark/", 1)
            self.server.place.file(key, body)
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None: ...


@pytest.fixture
def taking(tmp_path: Path) -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Taking)
    server.place, server.statuses, server.came = Folder(tmp_path / "log"), [], []
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Rows in a pod's log; its root."""

    def made(*values: float, version: str = "3", at: float | None = None) -> Path:
        writer = PredictionWriter(tmp_path / "pod", "visits", version, "pod-1", flush_s=0.1, features=["age"])
        for value in values:
            writer.write(f"r{value}", at or time.time(), None, [{"age": value}], [2 * value], 1.0, 200)
        writer.close()
        return tmp_path / "pod"

    return made


def test_every_file_is_sent_then_its_watermark(taking: Any, write: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    sender = Sender(write(1.0, 2.0), taking.url, token_file=tmp_path / "token")
    assert sender.round()
    kinds = [path.split("/")[2] for path, _, _ in taking.came]
    assert kinds == ["files", "marks"]
    assert {told for _, told, _ in taking.came} == {"Bearer secret"}
    log = PredictionLog(tmp_path / "log")
    assert sorted(log.read("visits", time.time() - 600, time.time() + 60)["feature_age"]) == [1.0, 2.0]
    assert log.watermark("visits").rows == 2
    assert not list((tmp_path / "pod").rglob("*.parquet"))


@pytest.mark.parametrize("status", [429, 500, 503, 401])
def test_what_is_not_taken_is_sent_again(taking: Any, write: Callable[..., Path], tmp_path: Path, status: int) -> None:
    taking.statuses[:] = [status]
    sender = Sender(write(1.0), taking.url)
    assert not sender.round()
    assert str(status) in str(sender.error)
    assert [path.split("/")[2] for path, _, _ in taking.came] == ["files"]  # no watermark before its rows
    assert sender.round() and sender.error is None
    assert PredictionLog(tmp_path / "log").count("visits", time.time() - 600, time.time() + 60) == 1


def test_nobody_there_and_then_somebody(taking: Any, write: Callable[..., Path], tmp_path: Path) -> None:
    root = write(1.0)
    away = Sender(root, "http://127.0.0.1:9")
    assert not away.round()
    sender = Sender(root, taking.url, every_s=0.05).start()
    waiting.until(lambda: len(taking.came) >= 2, every_s=0.05)
    write(2.0)
    sender.close()
    assert PredictionLog(tmp_path / "log").watermark("visits").rows == 2
    assert PredictionLog(tmp_path / "log").count("visits", time.time() - 600, time.time() + 60) == 2


def test_what_is_lost_for_good_is_counted(taking: Any, write: Callable[..., Path], tmp_path: Path) -> None:
    """A file that is refused, and those that a full disk has no room for."""
    taking.statuses[:] = [400]
    sender = Sender(write(1.0, 2.0), taking.url)
    assert sender.round()
    assert PredictionLog(tmp_path / "log").watermark("visits").dropped == 2
    sender = Sender(write(3.0), taking.url, keep_bytes=10)
    assert sender.round()
    assert PredictionLog(tmp_path / "log").watermark("visits").dropped == 1
    assert not list((tmp_path / "pod").rglob("*.parquet"))


def test_a_pod_without_a_collector_sends_nothing(tmp_path: Path) -> None:
    assert sending.of(tmp_path, {}) is None
    with pytest.raises(DescriptionError, match="collector:8080"):
        Sender(tmp_path, "collector:8080")


# -- brought to its readers


class Counted:
    """A store that counts what it is asked for."""

    def __init__(self, store: Any) -> None:
        self.store, self.got, self.url = store, list[str](), store.url

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def get(self, key: str, target: Path) -> bool:
        self.got.append(key)
        return bool(self.store.get(key, target))


def test_a_store_is_brought_once_and_its_watermarks_each_time(write: Callable[..., Path], tmp_path: Path) -> None:
    now = time.time()
    root = write(1.0, at=now - 7200)
    write(2.0)
    store: Any = Counted(objects.connect(root.as_uri()))
    brought = Brought(store, tmp_path / "home")
    assert brought.bring("visits", now - 3 * 3600) == 2
    log = PredictionLog(tmp_path / "home")
    assert sorted(log.read("visits", now - 8000, now + 60)["feature_age"]) == [1.0, 2.0]
    assert log.watermark("visits").rows == 2
    write(3.0)
    assert brought.bring("visits", now - 3 * 3600) == 1
    assert len(store.got) == 3
    assert log.watermark("visits").rows == 3
    later = Brought(store, tmp_path / "other")
    assert later.bring("visits", now - 60) == 2  # the hours asked for, not all
    assert later.bring("visits", now - 3 * 3600) == 1
    assert later.bring("visits", now - 9 * 86_400) == 0
    assert later.bring("visits", 0) == 0
    assert Brought(store, tmp_path / "all").bring("visits", 0) == 3


def test_a_gates_numbers_come_from_the_store(write: Callable[..., Path], tmp_path: Path) -> None:
    """The same rows as on one machine: predictions of both arms since the start."""
    from windtunnel.home import Home

    home, start = Home(tmp_path / "home"), time.time() - 60
    root = write(1.0, 2.0)
    write(5.0, version="4")
    bringing.bring(root.as_uri(), home.predictions, "visits", start)
    with rows.of(home, "visits", "visits-4", ("3", "4"), start) as read:
        assert read.counts == (2, 1)
    write(6.0, version="4")
    bringing.bring(root.as_uri(), home.predictions, "visits", start)
    with rows.of(home, "visits", "visits-4", ("3", "4"), start) as read:
        assert read.counts == (2, 2)
    assert bringing.bring(home.predictions.as_uri(), home.predictions, "visits", start) == 0
    with pytest.raises(DataError):
        bringing.bring("gs://x/y", home.predictions, "visits", start)


def test_a_look_in_a_cluster_brings_its_rows_and_says_when_it_cannot(
    write: Callable[..., Path], tmp_path: Path
) -> None:
    """DEMAND ROL-10: a gate on predictions judges what pods have logged; a store that is away is no evidence."""
    from windtunnel.home import Home
    from windtunnel.rollout import RolloutState
    from windtunnel.serving.release import lookout
    from windtunnel.serving.release.lookout import Watch
    from windtunnel.serving.seldon import Seldon, SeldonBackend

    start = time.time() - 60
    root = write(*(float(n) for n in range(20)))
    write(*(float(n) for n in range(30)), version="4")
    watch = Watch(str(tmp_path), "visits", "4", "3", "visits-4", 7, {}, 0, 30.0, predictions=True)
    state = RolloutState.begin(champion="3", candidate="4", at=start)

    def look(place: str, folder: str) -> dict[str, Any]:
        given = {"image": "i:1", "registry": "http://r", "predictions": place}
        backend = SeldonBackend(Seldon.of(given), client=object())  # type: ignore[arg-type]
        return lookout._rows(Home(tmp_path / folder), watch, "3", state, backend)

    found = look(root.as_uri(), "home")["prediction"]
    assert (sum(found.champion), sum(found.candidate)) == (20, 30)
    away = look("ftp://nowhere", "other")
    assert "prediction" not in away and "object store" in away["prediction_error"]
