"""What a gate's look costs, and a thousand rollouts watched by one process (looks every ten seconds).

Real triggers in one asyncio loop, real look logs with their fsync, real manifests, prediction logs and labels on the
disk; only the router is a cheap one in this process, so that the watcher is measured and not the watched.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from bench import rig
from bench.table import Table
from windtunnel.home import Home
from windtunnel.rollout import Evidence, Plan, RolloutState, decide, look_record, resume
from windtunnel.serving.backend import ArmStatus, ArmTraffic, Observed, Traffic
from windtunnel.serving.predictions.labels import Labels
from windtunnel.serving.release import lookout
from windtunnel.serving.release.looklog import LookLog
from windtunnel.serving.release.lookout import Watch
from windtunnel.spec import Rollout
from windtunnel.stats.histogram import Histogram, bucket

ROLLOUTS = 1000
EVERY_S = 10.0
SECONDS = 70.0
LOOKS = 300
#: Requests a second and rollout; one in ten rows is labelled.
RATE = 20.0
GATES = [
    {"metric": "errors", "margin": 0.005},
    {"metric": "latency", "margin": 0.05},
    {"metric": "quality", "margin": 0.1, "loss": "absolute"},
    {"metric": "prediction", "margin": 0.1},
]
#: Shares of requests by latency, milliseconds.
_SPREAD = ((2.0, 0.2), (4.0, 0.4), (8.0, 0.3), (16.0, 0.08), (60.0, 0.02))


@dataclass
class Router:
    """Counters that grow with the time, the same for both arms and every model."""

    began: float = field(default_factory=time.time)

    def observe(self, model: str) -> Observed:
        arms = {version: ArmStatus(version, 50, True, "ready") for version in ("1", "2")}
        return Observed(model, arms, 1, f"r-{model}", None, None)

    def traffic(self, model: str) -> Traffic:
        now = time.time()
        n = int((now - self.began) * RATE / 2)
        slow = Histogram.from_dict({str(bucket(ms)): int(n * share) for ms, share in _SPREAD if int(n * share)})
        return Traffic(model, "epoch", now, {version: ArmTraffic(n, n // 200, 0, slow) for version in ("1", "2")})

    def check_target(self, model: str) -> list[str]:
        return []

    def renew(self, model: str, token: int, until: float) -> None:
        pass


def make_watch(home: Home, model: str, gates: list[dict[str, Any]]) -> Watch:
    """A rollout at 50 % that goes on for hours, with its sealed copy on the disk."""
    copy = home.serving_model(model) / "versions" / "2"
    (copy / "model").mkdir(parents=True)
    (copy / "manifest.json").write_text(json.dumps({"content": "sha256:two", "files": {}}))
    rollout = Rollout.model_validate({"gates": gates, "steps": [{"weight": 50, "hold": "4h"}]})
    return Watch(
        home=str(home.root), model=model, version="2", champion="1", rollout_id=f"r-{model}", token=1,
        plan=Plan.from_spec(rollout, False).to_dict(), step=0, lease_s=60.0, digest="sha256:two",
        losses="absolute" if len(gates) > 2 else None, predictions=len(gates) > 2,
    )  # fmt: skip


def publish_rows(home: Home, model: str, number: int, rows: int) -> None:
    """What both arms log between two looks, and the labels of some."""
    import numpy as np
    import pyarrow as pa

    from windtunnel.serving.predictions import publish

    dice = np.random.default_rng(number)
    labelled: list[dict[str, Any]] = []
    now = time.time()
    for version in ("1", "2"):
        ids = [f"{version}-{number:08d}-{n}" for n in range(rows)]
        predictions = dice.gamma(2.0, 1.5, rows)
        table = pa.table(
            {
                "prediction_id": ids,
                "time": pa.array([round(now * 1e6)] * rows, pa.timestamp("us", tz="UTC")),
                "version": [version] * rows,
                "error": pa.nulls(rows, pa.string()),
                "shadow": pa.array([False] * rows, pa.bool_()),
                "prediction": predictions,
            }
        )
        publish.publish(home.predictions, model, f"{version}-0-{number:06d}", [table])
        labelled += [
            {"prediction_id": ids[n], "label": float(predictions[n] + dice.normal()), "label_time": now}
            for n in range(0, rows, 10)
        ]
    Labels(home.labels).append(model, labelled)


@dataclass
class Cost:
    """Milliseconds of each look's parts."""

    gather: list[float] = field(default_factory=list)
    decide: list[float] = field(default_factory=list)
    append: list[float] = field(default_factory=list)

    def medians(self) -> tuple[float, float, float]:
        return statistics.median(self.gather), statistics.median(self.decide), statistics.median(self.append)


def one_by_one(home: Home, gates: list[dict[str, Any]], looks: int) -> Cost:
    """Looks at one rollout, ten seconds' rows between two of them."""
    model = f"m-{len(gates)}"
    watch, router, cost = make_watch(home, model, gates), Router(began=time.time() - 3600), Cost()
    log, plan = LookLog(home, model), Plan.from_dict(watch.plan)
    begun = RolloutState.begin(champion="1", candidate="2", at=time.time() - 1)

    def timed(into: list[float], call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        found = call()
        into.append((time.perf_counter() - start) * 1e3)
        return found

    for number in range(looks):
        if len(gates) > 2:
            publish_rows(home, model, number, int(RATE * EVERY_S / 2))
        before = log.tail(watch.rollout_id)
        state = resume(before) or begun
        now = time.time() + EVERY_S * number
        evidence: Evidence = timed(cost.gather, lambda s=state: lookout.gather(home, watch, router, s))  # type: ignore[misc]
        decision = timed(cost.decide, lambda e=evidence, s=state, n=now: decide(plan, s, e, n))  # type: ignore[misc]
        record = look_record(watch.rollout_id, now, evidence, decision)
        last = before[-1] if before else None
        timed(cost.append, lambda r=record, a=last: log.append(r, after=a))  # type: ignore[misc]
    return cost


@dataclass
class Watched:
    """What a thousand rollouts saw.

    Attributes:
        looks: how many were taken; ``gaps``: seconds between the starts of two looks at one rollout;
            ``each``: how many each rollout had.
        took: seconds from when a look was due until it was written; ``ended``: rollouts whose gate ended.
        processor: processor seconds of this process, ``seconds`` of the clock; ``memory``: MiB in the end.
    """

    looks: int
    gaps: list[float]
    each: list[int]
    took: list[float]
    ended: int
    processor: float
    seconds: float
    memory: float


def together(home: Home, rollouts: int, seconds: float, enough: float = math.inf) -> Watched:
    """``rollouts`` gates in one loop, all begun at once as after a restart of the triggerer.

    Ends after ``seconds``, or when each had ``enough`` looks.
    """
    os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="wt-airflow-"))
    from windtunnel.registry.orders import OrdersPage
    from windtunnel_airflow import orderbook
    from windtunnel_airflow.triggers import GateTrigger

    router = Router(began=time.time() - 3600)
    starts: dict[str, list[float]] = {}
    took: list[float] = []

    class Registry:
        def orders(self, since: int = 0) -> OrdersPage:
            return OrdersPage(0, (), ())

    book = orderbook.OrderBook(Registry)

    class Gate(GateTrigger):
        def backend(self) -> Any:
            return router

        def orders(self) -> Any:
            return book.standing(self.watch["rollout_id"], self.watch["model"])

        def look(self) -> Any:
            began = time.monotonic()
            found = super().look()
            starts.setdefault(self.watch["model"], []).append(began)
            took.append(time.monotonic() - began)
            return found

    async def gate(watch: Watch) -> bool:
        return [event async for event in Gate(watch.to_dict(), EVERY_S).run()] != []

    async def run() -> int:
        gates = [asyncio.create_task(gate(watch)) for watch in watches]
        while time.monotonic() < began + seconds and min(map(counted, watches)) < enough:
            await asyncio.sleep(0.1)
        done = sum(task.done() for task in gates)
        for task in gates:
            task.cancel()
        await asyncio.gather(*gates, return_exceptions=True)
        return done

    def counted(watch: Watch) -> int:
        return len(starts.get(watch.model, ()))

    watches = [make_watch(home, f"m-{n:04d}", GATES[:2]) for n in range(rollouts)]
    used, began = time.process_time(), time.monotonic()
    ended = asyncio.run(run())
    used, took_s = time.process_time() - used, time.monotonic() - began
    horizon = began + took_s
    gaps = []
    for model in (watch.model for watch in watches):
        moments = [began, *starts.get(model, ()), horizon]
        gaps += [b - a for a, b in pairwise(moments)]
    return Watched(len(took), gaps, [counted(watch) for watch in watches], took, ended, used, took_s, _memory())


def _memory() -> float:
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def run() -> Table:
    table = Table("A gate's looks", ("what", "gather", "decide", "write down"))
    with rig.temporary_home() as home:
        for count in (2, 4):
            cost = one_by_one(home, GATES[:count], LOOKS)
            table.add(f"one look, {count} gates, median", *(f"{ms:.2f} ms" for ms in cost.medians()))
            late = Cost(cost.gather[-50:], cost.decide[-50:], cost.append[-50:])
            table.add(f"the last 50 of {LOOKS}, {count} gates", *(f"{ms:.2f} ms" for ms in late.medians()))
    with rig.temporary_home() as home:
        seen = together(home, ROLLOUTS, SECONDS)
    missed = sum(gap > 2 * EVERY_S for gap in seen.gaps)
    table.demand(
        f"{ROLLOUTS:,} rollouts watched by one process, a look every {EVERY_S:g} s, none missed in {SECONDS:g} s",
        f"{seen.looks:,} looks, {missed} missed, longest pause {max(seen.gaps):.1f} s, {seen.ended} gates ended, "
        f"median {1e3 * statistics.median(seen.took):.0f} ms a look with its fsync, "
        f"{100 * seen.processor / seen.seconds:.0f} % of one core, {seen.memory:.0f} MiB",
        missed == 0 and seen.ended == 0 and seen.looks >= ROLLOUTS * int(SECONDS / EVERY_S),
    )
    table.note = (
        f"One look at a time, {RATE:g} requests/s; before each of four gates' looks {int(RATE * EVERY_S)} new rows and "
        f"{int(RATE)} new labels. Writing down is with fsync. The thousand have two gates and begin all at once."
    )
    return table
