"""Closed-loop HTTP load on loopback: ``wrk`` where it is installed, else clients of our own."""

from __future__ import annotations

import asyncio
import math
import os
import random
import re
import shutil
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_SCRIPT = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local file = io.open(os.getenv("BENCH_BODY"), "r")
wrk.body = file:read("*a")
file:close()
local pause = tonumber(os.getenv("BENCH_PAUSE_MS"))
if pause > 0 then
  function delay() return math.random(0, 2 * pause) end
end
done = function(summary, latency, requests)
  local e = summary.errors
  print(string.format("bench %d %d %f %f %f", summary.requests, e.connect + e.read + e.write + e.timeout + e.status,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What one burst measured: answers, failures, seconds, and milliseconds of the median and the 99th percentile."""

    requests: int
    errors: int
    seconds: float
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float:
        """Answers per second."""
        return self.requests / self.seconds


def tool() -> str:
    """What makes the load."""
    return "wrk" if shutil.which("wrk") else "clients in one Python process"


def burst(url: str, body: bytes, *, connections: int, seconds: float, pause_ms: int = 0) -> Load:
    """POST ``body`` to ``url`` over ``connections`` for about ``seconds``.

    Args:
        pause_ms: each connection waits for so long on average (evenly between none and twice as long) before it sends
            again; without it, it sends as soon as it has its answer.

    Raises:
        RuntimeError: a request failed; what fails is not fast.
    """
    found = (_wrk if shutil.which("wrk") else _own)(url, body, connections, seconds, pause_ms)
    if found.errors or not found.requests:
        raise RuntimeError(f"{found.errors} of {found.requests} requests to {url} failed")
    return found


def _wrk(url: str, body: bytes, connections: int, seconds: float, pause_ms: int) -> Load:
    with tempfile.TemporaryDirectory() as folder:
        script, content = Path(folder, "post.lua"), Path(folder, "body")
        script.write_text(_SCRIPT, encoding="utf-8")
        content.write_bytes(body)
        done = subprocess.run(
            ["wrk", "-t1", f"-c{connections}", f"-d{math.ceil(seconds)}s", "-s", str(script), url],
            capture_output=True, text=True, timeout=seconds + 30, check=True,
            env={**os.environ, "BENCH_BODY": str(content), "BENCH_PAUSE_MS": str(pause_ms)},
        )  # fmt: skip
    told = re.search(r"^bench (\d+) (\d+) (\S+) (\S+) (\S+)$", done.stdout, re.M)
    if told is None:
        raise RuntimeError(f"wrk said nothing that can be read: {done.stdout}{done.stderr}")
    return Load(int(told[1]), int(told[2]), float(told[3]), float(told[4]), float(told[5]))


def _own(url: str, body: bytes, connections: int, seconds: float, pause_ms: int) -> Load:
    parts = urlsplit(url)
    request = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body
    took: list[float] = []
    errors = 0

    async def client(until: float) -> None:
        nonlocal errors
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        while time.perf_counter() < until:
            began = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head, re.I)
            await reader.readexactly(int(length[1]) if length else 0)
            if head.split(b" ", 2)[1] == b"200":
                took.append(time.perf_counter() - began)
            else:
                errors += 1
            if pause_ms:
                await asyncio.sleep(random.uniform(0, 2 * pause_ms) / 1000)
        writer.close()

    async def clients() -> float:
        began = time.perf_counter()
        await asyncio.gather(*(client(began + seconds) for _ in range(connections)))
        return time.perf_counter() - began

    wall = asyncio.run(clients())
    cuts = statistics.quantiles(took, n=100) if len(took) > 1 else [0.0] * 99
    return Load(len(took), errors, wall, cuts[49] * 1000, cuts[98] * 1000)
