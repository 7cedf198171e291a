"""The real router before small servers that answer as told, and the real meter behind it."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from windtunnel.home import Home
from windtunnel.serving import routing
from windtunnel.serving.local import envoy, servers
from windtunnel.serving.routing import ModelRoute, Upstream, assign
from windtunnel.serving.traffic.meter import Meter, read_traffic


@dataclass
class Stub:
    """One server: how long it takes, what it answers, and the requests it got, as their headers."""

    port: int = 0
    delay: float = 0.0
    status: int = 200
    seen: list[dict[str, str]] = field(default_factory=list)


class Stubs(threading.Thread):
    """Servers that answer at once (or after ``delay``) with the request's headers as JSON."""

    def __init__(self, count: int = 3) -> None:
        super().__init__(daemon=True)
        self.all = [Stub() for _ in range(count)]
        self.loop = asyncio.new_event_loop()
        self.up = threading.Event()

    @property
    def ports(self) -> list[int]:
        return [stub.port for stub in self.all]

    def reset(self) -> None:
        for stub in self.all:
            stub.delay, stub.status = 0.0, 200
            stub.seen.clear()

    def run(self) -> None:
        async def serve(stub: Stub, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode()
                    lines = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
                    await reader.readexactly(int(lines.get("content-length", "0")))
                    stub.seen.append(lines)
                    if stub.delay:
                        await asyncio.sleep(stub.delay)
                    body = json.dumps(lines).encode()
                    writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n%b" % (stub.status, len(body), body))
                    await writer.drain()
            except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
                writer.close()

        async def start() -> None:
            for stub in self.all:
                # Hundreds of copies open a connection each at once: a backlog of 100 would lose some for a second.
                server = await asyncio.start_server(
                    lambda r, w, stub=stub: serve(stub, r, w), "127.0.0.1", 0, backlog=4096
                )
                stub.port = server.sockets[0].getsockname()[1]
            self.up.set()

        self.loop.create_task(start())
        self.loop.run_forever()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))


class Front:
    """Envoy in a home of its own, in front of the stubs: versions 1, 2 ... are theirs, version 9 is nobody's."""

    DEAD = "9"

    def __init__(self, home: Home, port: int, stubs: Stubs) -> None:
        self.home, self.port, self.stubs = home, port, stubs
        self.router = envoy.Router(home)
        self.slots: tuple[str, ...] = ()

    def stub(self, version: int) -> Stub:
        return self.stubs.all[version - 1]

    def upstreams(self, **limits: int) -> None:
        alive = [Upstream("m", str(n + 1), port, **limits) for n, port in enumerate(self.stubs.ports)]
        dead = Upstream("m", self.DEAD, servers.free_port(set(), 0))
        self.router.write_clusters(routing.clusters([*alive, dead]))
        self.router.await_clusters()

    def split(self, sticky: str | None = None, timeout_s: float = 5.0, **weights: int) -> None:
        """Weights by version, ``v1=95, v2=5``."""
        self.route({name.removeprefix("v"): weight for name, weight in weights.items()}, timeout_s, sticky=sticky)

    def route(self, weights: dict[str, int], timeout_s: float = 5.0, **more: Any) -> None:
        """Weights and whatever else a ``ModelRoute`` has."""
        self.slots = assign(self.slots, weights)
        ready = self.slots[0] if self.slots else None
        models = [ModelRoute("m", self.slots, timeout_s, ready_from=ready, **more), ModelRoute("off")]
        self.router.write_routes(routing.routes(models))
        self.router.await_routes()

    def send(self, headers: list[str], path: str = "/v2/models/m/infer") -> list[tuple[int, str]]:
        """Pipelined requests, one per extra header line; (status, version) of each answer, in order."""
        found = []
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            stream = connection.makefile("rb")
            for start in range(0, len(headers), 50):
                part = headers[start : start + 50]
                connection.sendall(
                    b"".join(
                        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n{line}\r\n{{}}".encode()
                        for line in (f"{extra}\r\n" if extra else "" for extra in part)
                    )
                )
                for _ in part:
                    found.append(_read(stream)[:2])
        return found

    def ask(self, method: str, path: str, *headers: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            lines = "".join(f"{header}\r\n" for header in headers)
            connection.sendall(
                f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n{lines}\r\n".encode() + body
            )
            status, _, found, answer = _read(connection.makefile("rb"))
            return status, found, answer


def _read(stream: Any) -> tuple[int, str, dict[str, str], bytes]:
    status = int(stream.readline().split()[1])
    headers: dict[str, str] = {}
    while (line := stream.readline().strip()) != b"":
        name, _, value = line.decode().partition(": ")
        headers[name.lower()] = value
    body = stream.read(int(headers.get("content-length", "0")))
    return status, headers.get("x-windtunnel-version", ""), headers, body


class Counted:
    """What the meter counts from now on, in a home whose log holds earlier requests too."""

    def __init__(self, front: Front) -> None:
        self.home = front.home
        self.meter = Meter(front.home)
        time.sleep(0.5)  # the router's last lines of before
        self.before = self._read()

    def _read(self) -> dict[tuple[str, ...], tuple[int, int]]:
        """(part, [segment,] version) to (requests, errors)."""
        self.meter.step(force=True)
        found = read_traffic(self.home, "m")
        parts = {"arms": found.arms, "audience": found.audience, "shadow": found.shadow}
        flat = {(part, version): arm for part, arms in parts.items() for version, arm in arms.items()}
        for part, segments in (("segments", found.segments), ("shadow_segments", found.shadow_segments)):
            flat |= {(part, name, v): arm for name, arms in segments.items() for v, arm in arms.items()}
        return {key: (arm.requests, arm.errors) for key, arm in flat.items()}

    def now(self) -> dict[tuple[str, ...], tuple[int, int]]:
        """Requests and errors since the beginning; what has none is left out."""
        counts = {
            key: (requests - self.before.get(key, (0, 0))[0], errors - self.before.get(key, (0, 0))[1])
            for key, (requests, errors) in self._read().items()
        }
        return {key: pair for key, pair in counts.items() if pair[0]}

    def settled(self, part: str, total: int, limit_s: float = 60.0) -> dict[tuple[str, ...], tuple[int, int]]:
        """``now`` once ``part`` has ``total`` requests; fails when it does not, or gets more."""
        deadline = time.monotonic() + limit_s
        while (got := sum(n for key, (n, _) in self.now().items() if key[0] == part)) < total:
            assert time.monotonic() < deadline, f"{part}: {got} of {total}: {self.now()}"
            time.sleep(0.1)
        time.sleep(0.5)
        found = self.now()
        assert sum(n for key, (n, _) in found.items() if key[0] == part) == total
        return found

    def close(self) -> None:
        self.meter.close()


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    folder = Path(tempfile.mkdtemp(prefix="wte-"))
    home, port = Home(folder / "home"), servers.free_port(set(), 7000)
    envoy.bootstrap(home, port)
    home.serving_model("m").mkdir(parents=True)  # a deployed model without a request has zero, not nothing
    stubs = Stubs()
    stubs.start()
    stubs.up.wait(90)
    process = subprocess.Popen(envoy.command(home), stderr=(folder / "log").open("wb"))
    found = Front(home, port, stubs)
    try:
        deadline = time.monotonic() + 60
        while not found.router.alive():
            assert time.monotonic() < deadline and process.poll() is None, (folder / "log").read_text()
            time.sleep(0.02)
        yield found
    finally:
        process.terminate()
        process.wait(60)
        stubs.loop.call_soon_threadsafe(stubs.loop.stop)
        stubs.join(90)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(autouse=True)
def fresh(front: Front) -> None:
    front.stubs.reset()
    front.slots = ()
    front.upstreams()
    front.split(v1=100)


@pytest.fixture
def counted(front: Front) -> Iterator[Counted]:
    found = Counted(front)
    yield found
    found.close()
