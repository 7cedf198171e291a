"""How many requests a model server in a pod takes at once; what Envoy does in front of the servers of one machine.

Of the inference requests at most ``max_concurrency`` are with the model, ``queue`` more wait in the order they came,
and whoever comes after that is answered 503 with Retry-After at once. Whoever has no answer after ``timeout_s``,
waiting included, is answered 504; the model's work on it goes on, and holds its place until it has ended, so that what
is asked of the model never exceeds the limit.

Probes and all other paths pass. Plain ASGI: nothing of MLServer is needed here.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections import deque
from collections.abc import Awaitable, Callable, MutableMapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_INFER = re.compile(r"/v2/models/[^/]+(/versions/[^/]+)?/infer")
#: Seconds after which coming back may help; as the router of one machine says.
RETRY_AFTER_S = 1


class Admission:
    """ASGI middleware; one event loop.

    Args:
        app: what answers.
        max_concurrency, queue: requests with the model, and waiting.
        timeout_s: until an answer begins.

    Attributes:
        running, waiting: requests now.
        answered, refused, late: requests so far: passed on and answered in time; 503; 504.
    """

    def __init__(self, app: App, *, max_concurrency: int, queue: int, timeout_s: float) -> None:
        self._app, self._most, self._queue, self._timeout_s = app, max_concurrency, queue, timeout_s
        self._line: deque[asyncio.Future[None]] = deque()
        self._kept: set[asyncio.Task[None]] = set()
        self.running = self.answered = self.refused = self.late = 0

    @property
    def waiting(self) -> int:
        return sum(not one.done() for one in self._line)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _INFER.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return
        if self.running >= self._most and self.waiting >= self._queue:
            self.refused += 1
            text = f"too many requests: {self._most} are running and {self._queue} waiting; try again after Retry-After"
            await _answer(send, 503, text)
            return
        until = asyncio.get_running_loop().time() + self._timeout_s
        if not await self._turn(until):
            self.late += 1
            await _answer(send, 504, f"no answer within {self._timeout_s:g} s: the request was still waiting")
            return
        gate = _Gate(send)
        work = asyncio.create_task(self._work(scope, receive, gate))
        # The loop holds tasks weakly, and this one may outlive the request.
        self._kept.add(work)
        work.add_done_callback(self._ended)
        begun = asyncio.create_task(gate.begun.wait())
        left = until - asyncio.get_running_loop().time()
        await asyncio.wait({work, begun}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        begun.cancel()
        if not gate.begun.is_set() and not work.done():
            gate.shut = True
            self.late += 1
            await _answer(send, 504, f"no answer within {self._timeout_s:g} s")
            return
        await work
        self.answered += 1

    async def _turn(self, until: float) -> bool:
        """Wait for a place; False: there was none in time."""
        if self.running < self._most:
            self.running += 1
            return True
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(mine)
        try:
            await asyncio.wait_for(asyncio.shield(mine), until - asyncio.get_running_loop().time())
            return True
        except TimeoutError:
            if mine.done():  # the place came in the same moment
                return True
            self._line.remove(mine)
            return False
        except asyncio.CancelledError:
            if mine.done():
                self._leave()
            else:
                self._line.remove(mine)
            raise

    async def _work(self, scope: Message, receive: Receive, gate: _Gate) -> None:
        try:
            await self._app(scope, receive, gate)
        finally:
            self._leave()

    def _ended(self, work: asyncio.Task[None]) -> None:
        self._kept.discard(work)
        if not work.cancelled():
            work.exception()  # of work that nobody waits for any more: seen, so that the loop does not complain

    def _leave(self) -> None:
        """The place goes to whoever waits longest."""
        while self._line:
            mine = self._line.popleft()
            if not mine.done():
                mine.set_result(None)
                return
        self.running -= 1


class _Gate:
    """Lets an answer through until it is shut; then what the work still says goes nowhere."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.begun, self.shut = asyncio.Event(), False

    async def __call__(self, message: Message) -> None:
        if self.shut:
            return
        self.begun.set()
        await self._send(message)


async def _answer(send: Send, status: int, text: str) -> None:
    body = json.dumps({"error": text}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 503:
        headers.append((b"retry-after", str(RETRY_AFTER_S).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def export(
    of: Callable[[], Admission | None], model: str, version: str, port: int, host: str = "0.0.0.0"
) -> ThreadingHTTPServer:
    """Serve the numbers to a Prometheus on ``port``, at any path; from threads of their own, so that they are told also
    while the event loop is busy. Autoscalers ask for them.

    Returns:
        The server; ``shutdown()`` ends it.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = of()
            body = (text(found, model, version) if found else "").encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer((host, port), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server


def text(of: Admission, model: str, version: str) -> str:
    """The numbers in Prometheus' text format. Models and versions hold nothing that would have to be escaped."""
    labels = f'model="{model}",version="{version}"'
    lines = []
    for name, value, what in (
        ("running", of.running, "Inference requests with the model."),
        ("waiting", of.waiting, "Inference requests that wait for a place."),
    ):
        whole = f"windtunnel_server_{name}"
        lines += [f"# HELP {whole} {what}", f"# TYPE {whole} gauge", f"{whole}{{{labels}}} {value}"]
    whole = "windtunnel_server_requests_total"
    lines += [f"# HELP {whole} Inference requests by how they ended.", f"# TYPE {whole} counter"]
    lines += [
        f'{whole}{{{labels},outcome="{outcome}"}} {value}'
        for outcome, value in (("answered", of.answered), ("refused", of.refused), ("late", of.late))
    ]
    return "\n".join(lines) + "\n"
