"""The demo's callers on a machine where the model is slow: they wait, and leave it the processor."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from windtunnel.home import Home
from windtunnel_examples.visits import traffic


class Slow(ThreadingHTTPServer):
    """Answers nobody before ``go`` is set, and counts who waits."""

    daemon_threads = True

    def __init__(self) -> None:
        self.go, self.lock, self.waiting, self.most, self.came = threading.Event(), threading.Lock(), 0, 0, 0
        super().__init__(("127.0.0.1", 0), Late)


class Late(BaseHTTPRequestHandler):
    server: Slow

    def do_POST(self) -> None:
        with self.server.lock:
            self.server.came += 1
            self.server.waiting += 1
            self.server.most = max(self.server.most, self.server.waiting)
        self.rfile.read(int(self.headers["content-length"]))
        self.server.go.wait(60)
        with self.server.lock:
            self.server.waiting -= 1
        self.send_response(503)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def slow() -> Iterator[Slow]:
    with Slow() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.go.set()
        server.shutdown()


def test_where_answers_come_late_no_more_callers_wait_than_a_client_bears(
    slow: Slow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{slow.server_port}"
    monkeypatch.setattr(traffic.StackFile, "read", lambda home: SimpleNamespace(urls={"inference": url}))
    monkeypatch.setattr(
        traffic,
        "Population",
        lambda: SimpleNamespace(draw=lambda _: (dict.fromkeys(traffic.data.FEATURES, 1.0), True)),
    )
    home = Home(tmp_path)
    traffic.control_file(home).parent.mkdir(parents=True)
    traffic.control_file(home).write_text(json.dumps({"rate": 500.0}))

    async def fly() -> traffic.Traffic:
        made = traffic.Traffic(home)
        running = asyncio.create_task(made.run())
        while slow.waiting < traffic.AT_ONCE:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.5)  # a hundred more would come
        tasks = len(asyncio.all_tasks())
        slow.go.set()
        while slow.came < 3 * traffic.AT_ONCE:  # and go on as soon as they are answered
            await asyncio.sleep(0.01)
        made.stopped.set()
        await running
        assert tasks < 2 * traffic.AT_ONCE
        return made

    made = asyncio.run(fly())
    assert slow.most == traffic.AT_ONCE and made.answers.no_answer == 0
    assert sum(made.answers.by_version["-"].values()) >= 3 * traffic.AT_ONCE
