"""The plan's own brain in a rehearsal: drawn traffic in, ``decide_batch``'s word out."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from windtunnel.rehearsal import peers
from windtunnel.rehearsal.arrivals import Counts
from windtunnel.rehearsal.scenarios import World
from windtunnel.rollout import batch, table
from windtunnel.rollout.batch import Lanes, Look, decide_batch
from windtunnel.rollout.intake import OUTAGE_CHANCE, OUTAGE_RATE
from windtunnel.rollout.plan import Plan
from windtunnel.stats.betting import FloatArray

Ints = NDArray[np.int64]


class Batch:
    """``windtunnel.rehearsal.runs.Brain`` over ``decide_batch``."""

    def __init__(self, world: World) -> None:
        self._world = world

    def begin(self, plan: Plan, runs: int) -> None:
        """``runs`` rollouts, each looked at once before any request."""
        world = self._world
        self._plan = plan
        parts = {name: i for i, name in enumerate(world.names) if name is not None}
        #: Gate to its row in ``Counts.bad`` and its segments (all for the whole).
        self._rates = [
            (g.name, 0 if g.metric == "errors" else 1 + world.latency_of[g.name.partition("@")[0]],
             slice(None) if g.segment is None else slice(parts[g.segment], parts[g.segment] + 1))
            for g in plan.gates if g.rates
        ]  # fmt: skip
        shapes = [len(world.cells[g.name][0]) for g in plan.gates if g.metric == "prediction"]
        events = 0 if not shapes else shapes[0] - 1 if world.ordered else shapes[0]
        self._lanes = Lanes.begin(plan, runs, events=events, ordered=world.ordered)
        self._held: Counts | None = None
        usual = min(world.errors, 1.0)
        self._bar = min(0.9, max(plan.error_rate or OUTAGE_RATE, OUTAGE_RATE, 3 * usual))
        parts_n, kinds = len(world.names), 1 + len(world.tails_a)
        nothing = np.zeros((runs, parts_n))
        self._decide(Counts(nothing, nothing, np.zeros((kinds, *nothing.shape)), np.zeros((kinds, *nothing.shape))), {},
                     True, world.start_s or 0.0)  # fmt: skip

    def look(
        self, runs: Ints, counts: Counts, rows: dict[str, tuple[FloatArray, FloatArray]], known: bool, now: float
    ) -> tuple[Ints, Ints]:
        """See ``rehearse.Brain``. What could not be read is counted when it can be again, as router counters are."""
        if self._held is not None:
            counts = counts + self._held
        self._held = None if known else counts
        self._decide(_emptied(counts) if not known else counts, rows, known, now)
        lanes = self._lanes
        how = np.where(lanes.ended == batch.RUNNING, peers.RUNNING, peers.PROMOTED)
        back = (lanes.ended == batch.ROLLED_BACK) | (lanes.ended == batch.WITHDRAWN)
        how = np.where(back, np.where(lanes.outcome == table.FAIL, peers.ROLLED_BACK, peers.UNDECIDED), how)
        going = lanes.running
        steps = lanes.step
        if not going.all():
            self._lanes = lanes.take(going)
            if self._held is not None:
                h = self._held
                self._held = Counts(h.n_a[going], h.n_b[going], h.bad_a[:, going], h.bad_b[:, going])
        return steps, how

    def _decide(self, counts: Counts, rows: dict[str, tuple[FloatArray, FloatArray]], known: bool, now: float) -> None:
        n_a, n_b = counts.n_a.sum(axis=1), counts.n_b.sum(axis=1)
        bad_a, bad_b = counts.bad_a.sum(axis=2), counts.bad_b.sum(axis=2)
        gates = dict(rows)
        for name, kind, part in self._rates:
            gates[name] = (
                _no_yes(counts.n_a[:, part], counts.bad_a[kind][:, part]),
                _no_yes(counts.n_b[:, part], counts.bad_b[kind][:, part]),
            )
        limits = {}
        if self._plan.error_rate is not None:
            limits["limit_error_rate"] = np.stack([n_b - bad_b[0], bad_b[0]], axis=-1)
        if self._plan.p95_ms is not None:
            slow = bad_b[1 + self._world.latency_of["limit_p95_ms"]]
            limits["limit_p95_ms"] = np.stack([n_b - slow, slow], axis=-1)
        look = Look(
            gates=gates,
            limits=limits,
            requests_champion=n_a,
            requests_candidate=n_b,
            known=known,
            outage=self._outage(n_a, n_b, bad_a[0], bad_b[0]),
        )
        self._lanes = decide_batch(self._plan, self._lanes, look, now)

    def _outage(self, n_a: FloatArray, n_b: FloatArray, bad_a: FloatArray, bad_b: FloatArray) -> NDArray[np.bool_]:
        """Both arms fail beyond chance, as ``decide`` has it."""
        if self._world.scenario.outage is None and self._world.recorded is None:
            return np.zeros(len(n_a), dtype=np.bool_)
        with np.errstate(divide="ignore", invalid="ignore"):
            rate_a, rate_b = bad_a / n_a, bad_b / n_b
            divergence = rate_a * np.log(rate_a / self._bar)
            divergence += np.where(rate_a < 1, (1 - rate_a) * np.log((1 - rate_a) / (1 - self._bar)), 0.0)
            found: NDArray[np.bool_] = (
                (rate_a > self._bar) & (rate_b > self._bar) & (-n_a * divergence <= math.log(OUTAGE_CHANCE))
            )
        return found


def _emptied(counts: Counts) -> Counts:
    """As many runs with nothing counted."""
    return replace(counts, n_a=counts.n_a * 0, n_b=counts.n_b * 0, bad_a=counts.bad_a * 0, bad_b=counts.bad_b * 0)


def _no_yes(n: FloatArray, hits: FloatArray) -> FloatArray:
    whole, bad = n.sum(axis=1), hits.sum(axis=1)
    return np.stack([whole - bad, bad], axis=-1)
