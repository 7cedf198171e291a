"""How many events of Seldon's request logger a collector takes: acknowledged when they are on the disk, all of them
rows in the end; and what that costs beside appending the same bytes to a file."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench import rig
from bench.table import Table
from windtunnel.loopback import any_free

SECONDS = 10.0
ROUNDS = 3
#: Two executors with Seldon's ten logger workers each, and more.
CONNECTIONS = 32
FEATURES = 9
KINDS = ("request", "response")

_HEAD = (
    "POST /v1/events HTTP/1.1\r\nhost: collector\r\ncontent-type: application/json\r\ncontent-length: {size}\r\n"
    "ce-specversion: 1.0\r\nce-id: {id}\r\nce-source: http://bench-v3.models:8000/\r\n"
    "ce-type: io.seldon.serving.inference.{what}\r\nce-time: {time}\r\nce-requestid: {request}\r\nce-modelid: bench\r\n"
    "ce-inferenceservicename: bench\r\nce-namespace: models\r\nce-endpoint: v3\r\nce-protocol: v2\r\n\r\n"
)


@dataclass(frozen=True, slots=True)
class Round:
    """What one burst measured.

    Attributes:
        rate: events acknowledged a second.
        p50_ms, p99_ms: until the answer.
        processor: of the collector, cores.
        memory_mib: of the collector, at the end.
        acknowledged: predictions both of whose halves were.
        rows: of the log afterwards, as they are in the files.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    processor: float
    memory_mib: float
    acknowledged: int
    rows: int


def bodies() -> tuple[bytes, bytes]:
    """A request of nine features and its answer."""
    inputs = [{"name": f"f{n}", "shape": [1], "datatype": "FP64", "data": [0.5 * n]} for n in range(FEATURES)]
    answer = {
        "model_name": "bench",
        "model_version": "3",
        "outputs": [{"name": "predictions", "shape": [1], "datatype": "FP64", "data": [2.5]}],
    }
    return json.dumps({"inputs": inputs}).encode(), json.dumps(answer).encode()


async def _sender(port: int, numbers: itertools.count[int], end: float, took: list[float]) -> int:
    """Predictions whose both halves were acknowledged; one connection, one event at a time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found, both = 0, bodies()
    while time.monotonic() < end:
        number = next(numbers)
        for what, body in zip(KINDS, both, strict=True):
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            head = _HEAD.format(size=len(body), id=f"{what}-{number}", what=what, time=stamp, request=f"r{number}")
            began = time.perf_counter()
            writer.write(head.encode() + body)
            told = await reader.readuntil(b"\r\n\r\n")
            size = int(told.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(size)
            took.append(time.perf_counter() - began)
            if not told.startswith(b"HTTP/1.1 202"):
                raise RuntimeError(f"the collector answers {told[:40]!r}")
        found += 1
    writer.close()
    return found


async def _load(port: int, seconds: float, took: list[float]) -> int:
    numbers, end = itertools.count(), time.monotonic() + seconds
    return sum(await asyncio.gather(*(_sender(port, numbers, end, took) for _ in range(CONNECTIONS))))


def burst(folder: Path) -> Round:
    """One collector, one burst."""
    import httpx
    import psutil
    import pyarrow.parquet as pq

    port = any_free()
    command = [
        str(Path(sys.executable).with_name("windtunnel")), "collector", "--spool", str(folder / "spool"), "--to",
        (folder / "log").as_uri(), "--port", str(port), "--open-events", "--flush", "2",
    ]  # fmt: skip

    def answers() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=1).status_code == 200
        except httpx.HTTPError:
            return False

    with rig.process(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        rig.wait_until(answers, 60, "the collector")
        watched = psutil.Process(child.pid)
        took: list[float] = []
        began, used = time.monotonic(), sum(watched.cpu_times()[:2])
        acknowledged = asyncio.run(_load(port, SECONDS, took))
        seconds, used = time.monotonic() - began, sum(watched.cpu_times()[:2]) - used
        memory = watched.memory_info().rss / 2**20
        child.terminate()
        child.wait(60)
    rows = sum(pq.read_metadata(path).num_rows for path in (folder / "log").rglob("*.parquet"))
    took.sort()
    return Round(
        len(took) / seconds, took[len(took) // 2] * 1e3, took[len(took) * 99 // 100] * 1e3, used / seconds, memory,
        acknowledged, rows,
    )  # fmt: skip


def plain(folder: Path) -> float:
    """Events a second, by a loop that appends their bytes to a file and syncs once for as many as are sent at once."""
    data = b"".join(bodies()) * (CONNECTIONS // 2)
    count, end = 0, time.monotonic() + 3
    descriptor = os.open(folder / "plain", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    began = time.monotonic()
    while time.monotonic() < end:
        os.write(descriptor, data)
        os.fdatasync(descriptor)
        count += CONNECTIONS
    seconds = time.monotonic() - began
    os.close(descriptor)
    return count / seconds


def run() -> Table:
    table = Table("The collector", ("what", "median", "range"))
    rounds, appended = [], []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory(prefix="wtb-") as made:
            appended.append(plain(Path(made)))
            rounds.append(burst(Path(made)))
    for name, values, form in (
        ("events acknowledged a second", [one.rate for one in rounds], "{:,.0f}"),
        ("half of the answers within", [one.p50_ms for one in rounds], "{:.1f} ms"),
        ("99 % of the answers within", [one.p99_ms for one in rounds], "{:.1f} ms"),
        ("cores of the collector", [one.processor for one in rounds], "{:.2f}"),
        ("memory of the collector", [one.memory_mib for one in rounds], "{:.0f} MiB"),
        ("the same bytes appended and synced, events a second", appended, "{:,.0f}"),
        ("plain appending is faster", [a / one.rate for a, one in zip(appended, rounds, strict=True)], "{:.1f} times"),
    ):
        table.add(
            name, form.format(statistics.median(values)), f"{form.format(min(values))} to {form.format(max(values))}"
        )
    rate = statistics.median(one.rate for one in rounds)
    table.demand("more than 1,000 requests a second (SRV-4)", f"{rate:,.0f}", rate > 1000)
    sent, rows = sum(one.acknowledged for one in rounds), sum(one.rows for one in rounds)
    table.demand("every acknowledged prediction is one row", f"{rows:,} of {sent:,}", rows == sent)
    table.note = (
        f"{ROUNDS} rounds of {SECONDS:.0f} s; {CONNECTIONS} connections, one event at a time each, {FEATURES} "
        "features; the sender runs on the same machine."
    )
    return table
