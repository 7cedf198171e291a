"""What a logged prediction costs the request, and how many rows and access-log lines a second the house can take."""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass

from bench import rig
from bench.table import Table
from windtunnel.home import Home

ROUNDS = 5
ROWS = 20_000
RATE = 2_000
SECONDS = 5.0
LINES = 50_000
FEATURES = tuple(f"feature{n}" for n in range(9))


@dataclass(frozen=True, slots=True)
class Written:
    """What a round of logging measured."""

    call_us: float
    processor_us: float
    rows: int
    dropped: int


def write_rows(home: Home, version: str, count: int, rate: float | None) -> Written:
    """Log ``count`` requests of one row, at ``rate`` a second or as fast as the caller can; then count them."""
    from windtunnel.serving.predictions import PredictionLog
    from windtunnel.serving.predictions.writer import PredictionWriter, new_prediction_ids

    writer = PredictionWriter(home.predictions, rig.MODEL, version, "0", flush_s=1.0, features=FEATURES)
    row = dict.fromkeys(FEATURES, 0.5)
    took: list[float] = []
    began, used = time.time(), time.process_time()
    for n in range(count):
        if rate:
            ahead = began + n / rate - time.time()
            if ahead > 0.001:
                time.sleep(ahead)
        at = time.time()
        ids = new_prediction_ids(1)
        start = time.perf_counter()
        writer.write(f"request-{n}", at, ids, [dict(row)], [2.5], 1.5, 200, client="bench")
        took.append(time.perf_counter() - start)
    writer.close()
    used = time.process_time() - used
    dropped = writer.counts["dropped"]
    log = PredictionLog(home.predictions)
    rows = len(log.read(rig.MODEL, began - 60, time.time() + 60, columns=["prediction_id"], versions=[version]))
    return Written(statistics.median(took) * 1e6, used / count * 1e6, rows, dropped)


def count_lines(home: Home) -> float:
    """Lines of the access log a second that the meter reads, counts, keeps and publishes."""
    from windtunnel.serving.traffic.meter import Meter

    meter = Meter(home)
    now = int(time.time() * 1000)
    plain = {
        "time": str(now), "request_id": "0" * 36, "model": rig.MODEL, "version": "1", "cluster": f"{rig.MODEL}.1",
        "status": 200, "response_flags": "-", "duration_ms": 2, "duration_us": 2500, "upstream_ms": "2",
        "bytes_in": 900, "bytes_out": 300, "method": "POST", "path": rig.PATH, "route": f"infer:{rig.MODEL}",
        "correlation_id": None, "client": None,
    }  # fmt: skip
    line = json.dumps(plain).encode() + b"\n"
    with home.access_log.open("ab") as file:
        file.write(line * LINES)
    found, began = 0, time.perf_counter()
    while found < LINES and time.perf_counter() < began + 60:
        meter.step(force=True)
        found = sum(tally.requests for tally in meter.counters.models[rig.MODEL].arms.values())
    seconds = time.perf_counter() - began
    meter.close()
    if found != LINES:
        raise RuntimeError(f"the meter counted {found} of {LINES} lines")
    return LINES / seconds


def run() -> Table:
    table = Table("The prediction log and the meter", ("what", "median", "range"))
    with rig.temporary_home() as home:
        fast = [write_rows(home, str(n + 1), ROWS, None) for n in range(ROUNDS)]
        steady = write_rows(home, "100", int(RATE * SECONDS), RATE)
    rates = []
    for _ in range(ROUNDS):
        with rig.temporary_home() as home:
            rates.append(count_lines(home))
    for name, values, unit in (
        ("a request waits for its row, as fast as one thread can", [one.call_us for one in fast], "µs"),
        ("processor time of a row until it is Parquet", [one.processor_us for one in fast], "µs"),
    ):
        table.add(name, f"{statistics.median(values):.1f} {unit}", f"{min(values):.1f} to {max(values):.1f}")
    table.add(f"a request waits for its row, at {RATE:,} rows/s", f"{steady.call_us:.1f} µs", "")
    table.add("lines of the access log the meter counts", f"{statistics.median(rates):,.0f} a second",
              f"{min(rates):,.0f} to {max(rates):,.0f}")  # fmt: skip
    wanted = int(RATE * SECONDS)
    table.demand(
        f"the log takes more than 1,000 rows/s, here {RATE:,}, and loses none",
        f"{steady.rows:,} of {wanted:,} rows read back, {steady.dropped:,} dropped",
        steady.rows == wanted and steady.dropped == 0,
    )
    table.demand(
        "the meter counts more than 1,000 lines/s", f"{statistics.median(rates):,.0f}", statistics.median(rates) > 1000
    )
    table.note = f"Nine features a row; {ROUNDS} rounds of {ROWS:,} rows and of {LINES:,} lines."
    return table
