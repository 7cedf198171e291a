"""Weight changes under load, how exact weights and copies are, and how fast an abort is. DEMAND SRV-3, ROL-6.

Demanded: no failed request over 1,000 weight changes, weights that a binomial test at 10,000 requests does not tell
from what was asked, and the last answer of a candidate less than 5 s after the decision to abort.

The backend, the router and the meter are the real ones. Model servers are stubs that answer at once: they are what
the backend starts, asks for readiness and for an inference, so each change takes the whole way of a release.
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import load, rig
from bench.router import BODY
from bench.table import Table
from windtunnel.evidence import manifest
from windtunnel.serving import artifacts
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.local import LocalBackend
from windtunnel.serving.local.servers import ProcessStatus, Program
from windtunnel.serving.traffic.countfiles import read_traffic

CHANGES = 1000
ABORTS = 20
REQUESTS = 10_000
CONNECTIONS = 16
#: Splits that are held for ``REQUESTS`` requests: weights, and percent copied to the second version.
SPLITS: tuple[tuple[tuple[int, ...], int], ...] = (
    ((95, 5), 0), ((75, 25), 0), ((50, 50), 0), ((60, 30, 10), 0), ((100, 0), 20),
)  # fmt: skip
#: A router that is right is below this once in a hundred runs of the whole table (six tests).
UNLIKELY = 0.01 / 6


class Stubs:
    """A ``ServerManager`` whose model servers answer by themselves."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._running: set[str] = set()

    def start(self, program: Program) -> None:
        if program.name in self._running:
            return
        told = artifacts.Folder(program.folder).read_server()
        answer = {"model_name": told["model"], "model_version": told["version"], "outputs": []}
        self._stack.enter_context(rig.stub(answer, int(told["port"])))
        self._running.add(program.name)

    def stop(self, name: str) -> None:
        self._running.discard(name)  # it ends with the benchmark

    def status(self, name: str) -> ProcessStatus:
        return ProcessStatus("running" if name in self._running else "absent")

    def names(self) -> list[str]:
        return sorted(self._running)


class Flow(threading.Thread):
    """Load until told to stop; ``error`` says which request failed."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.ended, self.requests, self.error = url, threading.Event(), 0, ""

    def run(self) -> None:
        while not self.ended.is_set() and not self.error:
            try:
                self.requests += load.burst(self.url, BODY, connections=CONNECTIONS, seconds=1).requests
            except Exception as error:  # what fails is the result
                self.error = str(error)

    def __enter__(self) -> Flow:
        self.start()
        time.sleep(0.5)
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.join(30)


class Rollouts:
    """Releases of one model, one after the other."""

    def __init__(self, made: rig.Rig, stack: ExitStack) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="wtb-")))
        (folder / "MLmodel").write_text("flavors: {}\n", encoding="utf-8")
        self.arms = [Arm(str(n), manifest.build(folder).content, str(folder)) for n in (1, 2, 3)]
        self.made, self.backend, self.token = made, LocalBackend(made.home, Stubs(stack)), 0

    def apply(self, *weights: int, mirror: int = 0) -> None:
        champion, *rest = (
            Arm(arm.version, arm.digest, arm.source, weight) for arm, weight in zip(self.arms, weights, strict=False)
        )
        self.token += 1
        row = {"warmup": [{"feature0": 0.0}]}
        self.backend.apply(
            Release(
                rig.MODEL, champion, tuple(rest), token=self.token, rollout_id=f"r{self.token}", mirror=mirror,
                settings={arm.version: row for arm in self.arms},
            )
        )  # fmt: skip

    def counts(self) -> dict[tuple[str, str], int]:
        """Requests and copies by version, once all that were sent are counted."""
        time.sleep(1.5)
        found = read_traffic(self.made.home, rig.MODEL)
        parts: dict[str, Any] = {"arm": found.arms, "copy": found.shadow}
        return {(part, version): arm.requests for part, arms in parts.items() for version, arm in arms.items()}

    def last_answer(self, version: str, since: float) -> float:
        """Seconds after ``since`` at which the last answer of ``version`` was sent, by the router's own log."""
        time.sleep(1.0)
        ends = []
        with self.made.home.access_log.open(encoding="utf-8") as log:
            for line in log:
                plain = json.loads(line)
                if plain["version"] == version and float(plain["time"]) / 1000 > since - 5:
                    ends.append(float(plain["time"]) / 1000 + float(plain["duration_us"] or 0) / 1e6)
        return max(ends) - since


def run() -> Table:
    table = Table("Weight changes, splits, copies and aborts under load", ("what", "how often", "found"))
    with rig.rig() as made, ExitStack() as stack:
        rollouts = Rollouts(made, stack)
        rollouts.apply(100, 0, 0)
        failed = _changes(table, rollouts)
        _splits(table, rollouts)
        _aborts(table, rollouts)
    table.note = (
        f"Load by {load.tool()}, {CONNECTIONS} connections in a closed loop. Each change is a whole `apply` of the "
        "local backend: state, servers looked at, clusters and routes written, the router's word awaited. Model "
        "servers are stubs that answer by themselves; router, meter, stubs and load share the machine. P values are "
        f"of exact binomial tests; a router that is right is below {UNLIKELY:.4f} in one of them once in a hundred "
        "runs. " + (f"The first failure: {failed}." if failed else "")
    ).strip()
    return table


def _changes(table: Table, rollouts: Rollouts) -> str:
    rng, took = random.Random(4), []
    with Flow(rollouts.made.url) as flow:
        for _ in range(CHANGES):
            low, high = sorted(rng.choices(range(101), k=2))
            began = time.perf_counter()
            rollouts.apply(100 - high, high - low, low)
            took.append((time.perf_counter() - began) * 1000)
    table.add(
        "weight changes of three arms",
        f"{CHANGES:,}, during {flow.requests:,} requests",
        f"{statistics.median(took):.0f} ms each in the median, {max(took):.0f} ms at most",
    )
    met = not flow.error and flow.requests > CHANGES
    table.demand(f"no failed request over {CHANGES:,} weight changes", flow.error or f"0 of {flow.requests:,}", met)
    return flow.error


def _splits(table: Table, rollouts: Rollouts) -> None:
    from scipy.stats import binomtest

    lowest = 1.0
    for weights, mirror in SPLITS:
        rollouts.apply(*weights, *(0,) * (2 - len(weights)), mirror=mirror)
        before = rollouts.counts()
        sent = 0
        while sent < REQUESTS:
            sent += load.burst(rollouts.made.url, BODY, connections=CONNECTIONS, seconds=1).requests
        found = {key: n - before.get(key, 0) for key, n in rollouts.counts().items()}
        total = sum(n for (part, _), n in found.items() if part == "arm")
        if mirror:
            asked = {("copy", "2"): mirror}
        else:
            asked = {("arm", str(n)): weight for n, weight in enumerate(weights, 1) if n > 1}
        values = [float(binomtest(found.get(key, 0), total, percent / 100).pvalue) for key, percent in asked.items()]
        lowest = min(lowest, *values)
        shares = ", ".join(f"{100 * found.get(key, 0) / total:.2f} %" for key in asked)
        what = f"{mirror} % copied" if mirror else " : ".join(map(str, weights))
        table.add(what, f"{total:,} requests", f"{shares} (p {', '.join(f'{value:.2f}' for value in values)})")
    table.demand(
        f"weights and copies are exact over {REQUESTS:,} requests each", f"lowest p {lowest:.3f}", lowest > UNLIKELY
    )


def _aborts(table: Table, rollouts: Rollouts) -> None:
    took, last = [], []
    with Flow(rollouts.made.url) as flow:
        for _ in range(ABORTS):
            rollouts.apply(50, 50)
            time.sleep(0.3)
            decided = time.time()
            rollouts.backend.abort(rig.MODEL, "bench", "bench")
            took.append((time.time() - decided) * 1000)
            last.append(rollouts.last_answer("2", decided) * 1000)
    table.add(
        "aborts at 50 : 50",
        f"{ABORTS}, during {flow.requests:,} requests",
        f"`abort` {statistics.median(took):.0f} ms (at most {max(took):.0f}); last answer of the candidate "
        f"{statistics.median(last):.0f} ms after the decision (at most {max(last):.0f})",
    )
    table.demand("last answer of a candidate < 5 s after the decision", f"{max(last):.0f} ms at most", max(last) < 5000)
    table.demand("no failed request over the aborts", flow.error or f"0 of {flow.requests:,}", not flow.error)
