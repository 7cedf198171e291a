"""A pod's server keeps its stated limit (DEMAND SRV-4, SRV-9): over real HTTP, with the server that MLServer uses."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from waiting import until

from windtunnel.serving.modelserver import admission
from windtunnel.serving.modelserver.admission import Admission

uvicorn = pytest.importorskip("uvicorn")
INFER = "/v2/models/visits/infer"


class Model:
    """An app whose requests wait until they are let go."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.go = threading.Event()
        self.fails = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if "infer" in scope["path"]:
            self.inside += 1
            self.most = max(self.most, self.inside)
            try:
                while not self.go.is_set():
                    await asyncio.sleep(0.005)
            finally:
                self.inside -= 1
            if self.fails:
                raise RuntimeError("boom")
        body = b'{"answer": 1}'
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Served:
    def __init__(self, most: int, queue: int, timeout_s: float) -> None:
        self.model = Model()
        self.gate = Admission(self.model, max_concurrency=most, queue=queue, timeout_s=timeout_s)
        listening = socket.socket()
        listening.bind(("127.0.0.1", 0))
        self.port = listening.getsockname()[1]
        config = uvicorn.Config(self.gate, log_level="critical", lifespan="off")
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, args=([listening],), daemon=True)
        self.thread.start()
        until(lambda: self.server.started, 30)
        self.pool = ThreadPoolExecutor(50)

    def ask(self, path: str = INFER) -> tuple[int, dict[str, str], Any]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=b"{}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, dict(answer.headers), json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raw = error.read()
            return (
                error.code,
                {k.lower(): v for k, v in error.headers.items()},
                json.loads(raw) if raw[:1] == b"{" else raw,
            )

    def many(self, n: int) -> list[Any]:
        return [self.pool.submit(self.ask) for _ in range(n)]

    def stop(self) -> None:
        self.model.go.set()
        self.pool.shutdown()
        self.server.should_exit = True
        self.thread.join(30)


@pytest.fixture
def serve() -> Iterator[Any]:
    started: list[Served] = []

    def start(most: int = 2, queue: int = 3, timeout_s: float = 60.0) -> Served:
        started.append(Served(most, queue, timeout_s))
        return started[-1]

    yield start
    for one in started:
        one.stop()


def test_what_is_more_than_running_and_waiting_is_refused_at_once(serve: Any) -> None:
    served = serve()
    first = served.many(5)
    until(lambda: (served.gate.running, served.gate.waiting) == (2, 3), 30)
    status, headers, body = served.ask()
    assert (status, headers["retry-after"]) == (503, "1")
    assert "2 are running and 3 waiting" in body["error"]
    assert served.ask("/v2/models/visits/ready")[0] == 200, "probes pass"
    served.model.go.set()
    assert [one.result()[0] for one in first] == [200] * 5
    assert (served.model.most, served.gate.running, served.gate.waiting) == (2, 0, 0)
    until(lambda: (served.gate.answered, served.gate.refused, served.gate.late) == (5, 1, 0), 30)


def test_a_tenfold_burst_is_answered_or_refused_and_nothing_falls_over(serve: Any) -> None:
    served = serve(most=2, queue=3)
    burst = served.many(50)
    until(lambda: served.gate.refused + served.gate.running + served.gate.waiting == 50, 60)
    served.model.go.set()
    found = [one.result()[0] for one in burst]
    assert sorted(set(found)) == [200, 503] and found.count(200) == 5
    assert served.ask()[0] == 200


def test_no_answer_in_time_is_504_and_its_work_keeps_its_place(serve: Any) -> None:
    """Else a slow model would be asked more and more at once, the slower it is."""
    served = serve(most=1, queue=1, timeout_s=0.5)
    running, waiting = served.many(2)
    assert {running.result()[0], waiting.result()[0]} == {504}
    assert (served.gate.running, served.gate.waiting, served.gate.late) == (1, 0, 2)
    assert served.ask()[0] == 504, "the model is still busy"
    assert served.model.most == 1
    served.model.go.set()
    until(lambda: served.gate.running == 0, 30)
    assert served.ask()[0] == 200


def test_a_model_that_fails_gives_its_place_back(serve: Any) -> None:
    served = serve(most=1, queue=5)
    served.model.fails = True
    served.model.go.set()
    assert [one.result()[0] for one in served.many(3)] == [500] * 3
    served.model.fails = False
    assert served.ask()[0] == 200 and served.gate.running == 0


def test_its_numbers_are_what_a_prometheus_reads(serve: Any) -> None:
    served = serve(most=1, queue=0)
    first = served.many(1)
    until(lambda: served.gate.running == 1, 30)
    served.ask()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = admission.export(lambda: served.gate, "visits", "3", port, "127.0.0.1")
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/prometheus", timeout=10).read().decode()
    finally:
        server.shutdown()
        server.server_close()
    assert 'windtunnel_server_running{model="visits",version="3"} 1\n' in text
    assert 'windtunnel_server_waiting{model="visits",version="3"} 0\n' in text
    assert 'windtunnel_server_requests_total{model="visits",version="3",outcome="refused"} 1\n' in text
    served.model.go.set()
    assert first[0].result()[0] == 200
