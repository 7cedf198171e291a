"""HTTP in front of the keeper: one process, one loop; the disk is waited for in a thread, by all who wait together.

    POST /v1/events          an event of Seldon's request logger (also POST /)
    PUT  /v1/files/KEY       a file of a model server's own log
    PUT  /v1/marks/KEY       its watermark
    POST /v1/halves          halves that another collector hands over
    GET  /metrics /healthz /readyz

An answer of 2xx is given when what was sent is on the disk (events) or in the log (files); never before.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, unquote

from windtunnel.errors import WindtunnelError
from windtunnel.serving.collector import events, guests, metrics, writers
from windtunnel.serving.collector.admission import Limits, Rules, Token
from windtunnel.serving.collector.events import BadEvent, Half
from windtunnel.serving.collector.handing import Handing
from windtunnel.serving.collector.keeper import Keeper, framed, framed_guest
from windtunnel.serving.collector.writers import Writers

log = logging.getLogger("windtunnel.collector")

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]


class Refused(Exception):
    """An answer other than 2xx.

    Args:
        outcome: its name in the metrics.
        after_s: when to come again.
    """

    def __init__(self, status: int, outcome: str, message: str, field: str = "", after_s: int = 0) -> None:
        super().__init__(message)
        self.status, self.outcome, self.message, self.field, self.after_s = status, outcome, message, field, after_s


class Commits:
    """Events on their way to the disk: those that wait at one moment share one write and one sync."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._queue: list[tuple[Half, bytes, asyncio.Future[bool]]] = []
        self._busy = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="inbox")
        self._tasks: set[asyncio.Task[None]] = set()
        self.waiting = 0

    async def keep(self, half: Half, data: bytes) -> bool:
        """Return when the event is on the disk; whether it was new.

        Raises:
            OSError: it is not.
        """
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._queue.append((half, data, future))
        self.waiting += 1
        if not self._busy:
            self._busy = True
            task = asyncio.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            return await future
        finally:
            self.waiting -= 1

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._queue:
                batch, self._queue = self._queue, []
                try:
                    new = await loop.run_in_executor(self._pool, self._keeper.take, [(h, data) for h, data, _ in batch])
                except Exception as error:
                    for _, _, future in batch:
                        if not future.done():
                            future.set_exception(error)
                else:
                    for (_, _, future), one in zip(batch, new, strict=True):
                        if not future.done():  # its sender may have gone
                            future.set_result(one)
        finally:
            self._busy = False


class Collector:
    """The ASGI application.

    Args:
        handing: brings halves to other collectors; None where there are none.
    """

    def __init__(
        self, keeper: Keeper, sent: Writers, rules: Rules, limits: Limits, handing: Handing | None = None
    ) -> None:
        self._keeper, self._writers, self._rules, self._limits = keeper, sent, rules, limits
        self._handing = handing or Handing(keeper, {})
        self._token = Token(rules.token_file) if rules.token_file is not None else None
        self._commits = Commits(keeper)
        self._files = ThreadPoolExecutor(4, thread_name_prefix="files")
        self._files_waiting = 0
        self._requests: Counter[tuple[str, str]] = Counter()
        self._sampled_out = self._file_rows = 0
        self._stop = threading.Event()
        self._flusher = threading.Thread(target=self._flush, name="flush", daemon=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._life(receive, send)
            return
        route, body, kind, after = "other", b"", b"application/json", 0
        try:
            route, status, outcome, body, kind = await self._answer(scope, receive)
        except Refused as error:
            route, status, outcome, after = _route(scope), error.status, error.outcome, error.after_s
            told = {"error": error.message} | ({"field": error.field} if error.field else {})
            body = json.dumps(told).encode()
        except Exception as error:  # one request's mistake is not the next one's
            log.exception("a request failed")
            route, status, outcome = _route(scope), 500, "failed"
            body = json.dumps({"error": f"{type(error).__name__}: {error}"}).encode()
        self._requests[route, outcome] += 1
        headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
        if after:
            headers.append((b"retry-after", str(after).encode()))
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    # -- routes

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[str, int, str, bytes, bytes]:
        route, method = _route(scope), scope["method"]
        if route == "events" and method == "POST":
            return ("events", *(await self._event(scope, receive)), b"application/json")
        if route == "halves" and method == "POST":
            return (route, *(await self._guests(scope, receive)), b"application/json")
        if route in ("files", "marks") and method == "PUT":
            return (route, *(await self._sent(route, scope, receive)), b"application/json")
        if route == "metrics" and method == "GET":
            return route, 200, "ok", self._numbers().encode(), b"text/plain; version=0.0.4; charset=utf-8"
        if route == "healthz" and method == "GET":
            return route, 200, "ok", b'{"status":"alive"}', b"application/json"
        if route == "readyz" and method == "GET":
            why = self._why_not()
            if why:
                raise Refused(503, "not_ready", why, after_s=5)
            return route, 200, "ok", b'{"status":"ready"}', b"application/json"
        if route == "other":
            raise Refused(404, "unknown", f"{scope['path']}: expected /v1/events, /v1/files/..., /v1/marks/...")
        wanted = "POST" if route in ("events", "halves") else "PUT"
        raise Refused(405, "unknown", f"{method} {scope['path']}: expected {wanted}")

    async def _event(self, scope: Scope, receive: Receive) -> tuple[int, str, bytes]:
        headers = _headers(scope)
        if not self._rules.open_events:
            self._admit(headers)
        model = headers.get("ce-inferenceservicename", "")
        if self._commits.waiting >= self._limits.waiting or self._keeper.held_bytes >= self._limits.held_bytes:
            if headers.get("ce-type") == events.REQUEST and model in self._keeper.totals.seen:
                self._keeper.refused(model)
            raise Refused(429, "busy", "more events than the disk takes: come again", after_s=1)
        body = await self._body(headers, receive, self._limits.event_bytes)
        shadow = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("shadow", ["0"])[-1]
        came = time.time()
        try:
            half = events.understood(headers, body, came, shadow=shadow in ("1", "true"))
        except BadEvent as error:
            raise Refused(error.status, "bad", error.message, error.field) from None
        if half is None:
            return 202, "ignored", b'{"kept":false}'
        namespace = headers.get("ce-namespace", "")
        if self._rules.namespaces and namespace not in self._rules.namespaces:
            raise Refused(403, "bad", f"ce-namespace is {namespace[:80]!r}: not collected here", "ce-namespace")
        if not self._rules.keeps(half.model, half.request_id):
            self._sampled_out += 1
            return 202, "sampled_out", b'{"kept":false}'
        try:
            new = await self._commits.keep(half, framed(headers, body, came, half.shadow))
        except OSError as error:
            self._keeper.refused(half.model)
            raise Refused(503, "disk", f"the spool does not take it: {error.strerror or error}", after_s=5) from None
        return 202, "taken" if new else "duplicate", b'{"kept":true}'

    async def _guests(self, scope: Scope, receive: Receive) -> tuple[int, str, bytes]:
        headers = _headers(scope)
        self._admit(headers)
        if self._keeper.held_bytes >= self._limits.held_bytes:
            raise Refused(429, "busy", "more events than the disk takes: come again", after_s=1)
        body = await self._body(headers, receive, self._limits.file_bytes)
        try:
            batch = guests.read(body, time.time())
        except BadEvent as error:
            raise Refused(error.status, "bad", error.message, error.field) from None
        if batch.to != self._keeper.instance:
            raise Refused(421, "bad", f"this is collector {self._keeper.instance}, not {batch.to[:80]}", "to")
        try:
            kept = [self._commits.keep(half, framed_guest(half)) for half in batch.halves]
            new = await asyncio.gather(*kept)
        except OSError as error:
            raise Refused(503, "disk", f"the spool does not take it: {error.strerror or error}", after_s=5) from None
        renewed = batch.leaving and await asyncio.get_running_loop().run_in_executor(self._files, self._flushed)
        told = {"kept": len(new), "new": sum(new), "renewed": renewed}
        return 202, "taken" if any(new) or not new else "duplicate", json.dumps(told).encode()

    def _flushed(self) -> bool:
        """Publish now; whether the watermarks speak of everything that has come."""
        try:
            self._keeper.flush()
        except (OSError, WindtunnelError) as error:
            log.error("cannot publish: %s", error, extra={"operation": "flush"})
            return False
        return True

    async def _sent(self, route: str, scope: Scope, receive: Receive) -> tuple[int, str, bytes]:
        headers = _headers(scope)
        self._admit(headers)
        if self._files_waiting >= 16:
            raise Refused(429, "busy", "more files than the log takes: come again", after_s=2)
        self._files_waiting += 1
        try:
            body = await self._body(headers, receive, self._limits.file_bytes)
            key = unquote(scope["path"]).removeprefix(f"/v1/{route}/")
            take = self._take_file if route == "files" else self._take_mark
            return await asyncio.get_running_loop().run_in_executor(self._files, take, key, body)
        finally:
            self._files_waiting -= 1

    def _take_file(self, key: str, body: bytes) -> tuple[int, str, bytes]:
        return self._published(lambda: self._put_file(key, body))

    def _put_file(self, key: str, body: bytes) -> None:
        rows = writers.check_file(key, body)
        self._keeper.place.file(key, body)
        self._file_rows += rows

    def _take_mark(self, key: str, body: bytes) -> tuple[int, str, bytes]:
        return self._published(lambda: self._writers.heard(key, writers.check_mark(key, body)))

    def _published(self, do: Callable[[], None]) -> tuple[int, str, bytes]:
        try:
            do()
        except BadEvent as error:
            raise Refused(error.status, "bad", error.message, error.field) from None
        except (OSError, WindtunnelError) as error:
            raise Refused(503, "place", f"the log does not take it: {error}", after_s=5) from None
        return 201, "taken", b'{"kept":true}'

    # -- parts

    def _admit(self, headers: Mapping[str, str]) -> None:
        if self._token is not None and not self._token.fits(headers.get("authorization")):
            raise Refused(401, "stranger", "expected Authorization: Bearer with this collector's token")

    async def _body(self, headers: Mapping[str, str], receive: Receive, limit: int) -> bytes:
        told = headers.get("content-length", "")
        if told.isdigit() and int(told) > limit:
            raise Refused(413, "large", f"the body has {told} bytes: expected at most {limit}", "content-length")
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Refused(400, "gone", "the sender went away")
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise Refused(413, "large", f"the body has more than {limit} bytes", "content-length")
            parts.append(part)
            if not message.get("more_body"):
                return b"".join(parts)

    def _why_not(self) -> str | None:
        silent = time.time() - self._keeper.flushed_at
        if silent > max(self._limits.stuck_s, 3 * self._keeper.flush_s):
            return f"nothing could be published for {silent:.0f} s: {self._keeper.error}"
        return None

    def _numbers(self) -> str:
        keeper, tally = self._keeper, self._keeper.tally
        name = "windtunnel_collector_"
        counts = {f"{name}{key}_total": getattr(tally, key) for key in tally.__dataclass_fields__}
        return metrics.text(
            counts
            | {
                f"{name}sampled_out_total": self._sampled_out,
                f"{name}file_rows_total": self._file_rows,
                f"{name}waiting": keeper.waiting,
                f"{name}handing": keeper.handing,
                f"{name}peers_away": len(self._handing.away),
                f"{name}queue": self._commits.waiting,
                f"{name}held_bytes": keeper.held_bytes,
                f"{name}writers": self._writers.living,
                f"{name}flush_age_seconds": time.time() - keeper.flushed_at,
                f"{name}flush_problem": int(keeper.error is not None),
            },
            self._requests,
        )

    # -- life

    async def _life(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                self._flusher.start()
                self._handing.start()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                self._stop.set()
                await asyncio.get_running_loop().run_in_executor(None, self._end)
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _end(self) -> None:
        self._flusher.join(60)
        self._handing.stop()
        try:
            if self._keeper.peers and not self._handing.leave():
                log.warning("the log waits for this collector: %s", "; ".join(self._handing.away.values()))
        except (OSError, WindtunnelError) as error:
            log.warning("what waits stays in the spool: %s", error)
        try:
            if self._keeper.close():
                log.info("nothing is left in the spool: the watermarks are closed", extra={"operation": "end"})
        except (OSError, WindtunnelError) as error:
            log.warning("what has come stays in the spool for the next start: %s", error)

    def _flush(self) -> None:
        while not self._stop.wait(self._keeper.flush_s):
            try:
                rows = self._keeper.flush()
                if rows:
                    log.info("published %d rows", rows, extra={"operation": "flush", "rows": rows})
                for key in self._writers.sweep():
                    log.warning("the writer of %s is gone", key, extra={"operation": "sweep"})
            except Exception as error:  # a full disk or a store that is away: tried again, and told by the metrics
                log.error("cannot publish: %s", error, extra={"operation": "flush"})


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _route(scope: Scope) -> str:
    path = scope["path"]
    if path in ("/", "/v1/events"):
        return "events"
    if path == "/v1/halves":
        return "halves"
    for name in ("files", "marks"):
        if path.startswith(f"/v1/{name}/"):
            return name
    return path[1:] if path in ("/metrics", "/healthz", "/readyz") else "other"


def serve(app: Collector, host: str, port: int, *, tls: Any = None) -> None:
    """Serve until SIGTERM or SIGINT; then what is complete is published.

    Args:
        tls: an ``ssl.SSLContext``.
    """
    import uvicorn

    more: dict[str, Any] = {"ssl_context_factory": lambda config, default: tls} if tls is not None else {}
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.run(
            app,
            host=host,
            port=port,
            access_log=False,
            log_config=None,
            lifespan="on",
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=10,
            backlog=2048,
            **more,
        )
