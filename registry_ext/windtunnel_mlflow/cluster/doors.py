"""What a registry's server answers while another one serves: it passes requests on, so any of them may be asked.

``/alive`` answers in every state (is the process well?), ``/health`` where requests are answered or passed on (may it
be asked?), ``/leader`` at the one that serves alone (for a load balancer that should pass on nothing).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any, Protocol

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]

ALIVE, HEALTH, LEADER = "/alive", "/health", "/leader"
#: Tells that a request was passed on once; it is not a second time.
PASSED = b"x-windtunnel-passed-on"
#: Belong to one connection, not to the request (RFC 9110, section 7.6.1).
_HOPS = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)


class Standing(Protocol):
    """What the doors need of ``election.Term``."""

    serving: bool
    leader: str | None

    def check(self) -> None: ...


class Forward:
    """Passes requests on to another server, bodies as they come.

    Args:
        tls: folder with ``ca.crt``, where the servers speak TLS by that authority; None for plain HTTP.
        name: what the other's certificate is made out to.
        own: HOST:PORT of this server. Who asked it by that (Prometheus does) asks the other by the other's: no server
            answers to another's address.
    """

    def __init__(self, tls: Path | None, name: str | None, own: str | None = None) -> None:
        self._tls, self._name, self._own = tls, name, own
        self._client: Any = None
        self._believed: tuple[int, ...] = ()

    def _http(self) -> Any:
        import ssl

        import httpx

        # An authority is renewed under the process, as the pair is. The former client ends with its last request.
        seen = self._authority()
        if self._client is None or self._believed != seen:
            self._believed = seen
            verify: ssl.SSLContext | bool = False
            if self._tls is not None:
                ca = self._tls / "ca.crt"
                verify = ssl.create_default_context(cafile=str(ca) if ca.is_file() else None)
            self._client = httpx.AsyncClient(
                verify=verify, trust_env=False, follow_redirects=False, limits=httpx.Limits(max_connections=None),
                # Registering a large model may take minutes.
                timeout=httpx.Timeout(1200, connect=3),
            )  # fmt: skip
        return self._client

    def _authority(self) -> tuple[int, ...]:
        """Another one when the file with the authority is."""
        try:
            found = (self._tls / "ca.crt").stat() if self._tls is not None else None
        except OSError:
            found = None
        return (found.st_mtime_ns, found.st_ino, found.st_size) if found else ()

    async def __call__(self, address: str, scope: Any, receive: Receive, send: Send) -> None:
        """Raises ``httpx.TransportError`` where nothing was answered yet."""
        import httpx

        host, _, port = address.rpartition(":")
        path = scope.get("raw_path") or scope["path"].encode()
        if scope["query_string"]:
            path += b"?" + scope["query_string"]
        kept = [(key, value) for key, value in scope["headers"] if key.lower() not in _HOPS]
        mine = (b"host", (self._own or "").encode())
        kept = [(key, address.encode() if (key.lower(), value) == mine else value) for key, value in kept]
        sized = {key.lower() for key, _ in scope["headers"]} & {b"content-length", b"transfer-encoding"}
        request = self._http().build_request(
            scope["method"],
            httpx.URL(
                scheme="http" if self._tls is None else "https", host=host.strip("[]"), port=int(port), raw_path=path
            ),
            headers=[*kept, (PASSED, b"1")],
            content=_body(receive) if sized else None,
            extensions={"sni_hostname": self._name} if self._name else {},
        )
        # A client's defaults are nobody's wishes.
        for name in (b"user-agent", b"accept", b"accept-encoding"):
            if name not in {key.lower() for key, _ in kept}:
                request.headers.pop(name.decode(), None)
        answer = await self._http().send(request, stream=True)
        try:
            headers = [(key.lower(), value) for key, value in answer.headers.raw if key.lower() not in _HOPS]
            await send({"type": "http.response.start", "status": answer.status_code, "headers": headers})
            async for piece in answer.aiter_raw():
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            await answer.aclose()


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ConnectionError("the client went away")
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body"):
            return


class Doors:
    """The ASGI app of one of several servers: the registry's own once it is made, before that the way to the other."""

    def __init__(self, standing: Standing, forward: Forward) -> None:
        self._standing, self._forward = standing, forward
        #: The registry's app, when this server serves.
        self.app: App | None = None
        #: Requests whose work was cut off when the server stopped: threads may go on with it.
        self.cut = 0
        #: Whether the web server was started, also when it has stopped since.
        self.listening = False

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            self.listening = True
            await _lifespan(receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1013})
        elif scope["path"] == ALIVE:
            await _answer(send, 200, {"serves": self.app is not None})
        elif scope["path"] == LEADER:
            serves = self.app is not None
            await _answer(send, 200 if serves else 503, {"serves": serves, "leader": self._standing.leader})
        elif self.app is not None:
            await self._serve(self.app, scope, receive, send)
        else:
            await self._pass_on(scope, receive, send)

    async def _serve(self, app: App, scope: Any, receive: Receive, send: Send) -> None:
        self._standing.check()

        async def checked() -> Message:
            message = await receive()
            self._standing.check()
            return message

        try:
            await app(scope, checked, send)
        except asyncio.CancelledError:
            self.cut += 1
            raise

    async def _pass_on(self, scope: Any, receive: Receive, send: Send) -> None:
        import httpx

        leader = None if self._standing.serving else self._standing.leader
        if leader is None:
            await _answer(send, 503, _wait("no server of this registry serves at present; the next one is about to"))
            return
        if scope["path"] == HEALTH:
            await _answer(send, 200, {"serves": False, "leader": leader})
            return
        if PASSED in {key.lower() for key, _ in scope["headers"]}:
            await _answer(send, 503, _wait(f"this server stands by, {leader} serves"))
            return
        began = False

        async def noting(message: Message) -> None:
            nonlocal began
            began = True
            await send(message)

        try:
            await self._forward(leader, scope, receive, noting)
        except (httpx.TransportError, ConnectionError) as error:
            if began:
                raise  # half an answer is none: the connection is cut
            why = f"{leader}, which serves, did not answer: {type(error).__name__}"
            await _answer(send, 503, _wait(why))


def _wait(why: str) -> dict[str, Any]:
    # As MLflow tells what is worth another try.
    return {"error_code": "TEMPORARILY_UNAVAILABLE", "message": why}


async def _answer(send: Send, status: int, plain: dict[str, Any]) -> None:
    body = json.dumps(plain).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 503:
        headers.append((b"retry-after", b"2"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _lifespan(receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})
