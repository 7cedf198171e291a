"""The brain over many rollouts of one plan at once: for simulation and rehearsal.

``decide`` is the same brain for one rollout whose numbers come from a real router; here they come as arrays, already
free of the troubles of reading them. Tests and decision table are the same lines of code for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from windtunnel.rollout import table
from windtunnel.rollout.comparisons import (
    TESTERS,
    Blocks,
    Comparisons,
    limits,
    loss_gates,
    reached,
    shift_gates,
    signs,
    update,
)
from windtunnel.rollout.hours import is_open
from windtunnel.rollout.plan import Plan
from windtunnel.rollout.table import Facts, Ints, Mask, Progress, Steps
from windtunnel.stats.betting import FloatArray

RUNNING, PROMOTED, ROLLED_BACK, WITHDRAWN = 0, 1, 2, 3
_ENDS = np.array([RUNNING, RUNNING, PROMOTED, ROLLED_BACK, WITHDRAWN], dtype=np.int8)

Pair = tuple[FloatArray, FloatArray]


@dataclass(frozen=True, slots=True)
class Look:
    """What came since the last look, of N rollouts.

    Attributes:
        gates: by gate name, increments of champion and candidate, shape (N, P): for errors and latency (no, yes), for
            quality and values losses at ``loss_points()``, for predictions bins. A gate may be left out.
        limits: by limit (``limit_error_rate``, ``limit_p95_ms``), the candidate's increments, shape (N, 2): no, yes.
        requests_champion, requests_candidate: shape (N,).
        known: the router's numbers can be read; where not, increments of requests must be 0 until they can.
        outage: both arms fail.
        ready: the candidate's server is ready.
        frozen: rollouts are frozen.
    """

    gates: Blocks
    limits: Mapping[str, FloatArray]
    requests_champion: FloatArray
    requests_candidate: FloatArray
    known: Mask | bool = True
    outage: Mask | bool = False
    ready: Mask | bool = True
    frozen: Mask | bool = False


@dataclass(frozen=True, slots=True)
class Lanes:
    """N rollouts of one plan.

    Attributes:
        progress: where each stands.
        tests: what its gates have seen.
        opened: by gate, increments of a block that is still open because one arm has none, shape (N, P) each.
        steps: the plan's steps as arrays.
        ended: shape (N,): 0 running, 1 promoted, 2 rolled back, 3 withdrawn.
        row, outcome: shape (N,): indices into ``table.ROWS``, ``table.OUTCOMES`` of the last look.
        at: shape (N,): time of the last look while it was running (seconds).
        requests: shape (N,): requests the candidate has answered.
        ordered: predictions are numbers, not categories.
    """

    progress: Progress
    tests: Comparisons
    steps: Steps
    ended: Ints
    row: Ints
    outcome: Ints
    at: FloatArray
    requests: FloatArray
    opened: Mapping[str, Pair] = field(default_factory=dict)
    ordered: bool = True

    @classmethod
    def begin(
        cls,
        plan: Plan,
        n: int,
        *,
        events: int = 0,
        ordered: bool = True,
        history: Mapping[str, tuple[float, float]] | None = None,
    ) -> Lanes:
        """``n`` rollouts nobody has looked at.

        Args:
            events: how many events predictions are counted in (``stats.shift.events``).
            ordered: predictions are numbers.
            history: see ``Comparisons.begin``.

        Raises:
            ValueError: the plan has no steps, so there is nothing to watch.
        """
        if not plan.steps:
            raise ValueError("a plan without steps promotes at once: there is nothing to decide")
        zeros = np.zeros(n, dtype=np.int64)
        return cls(
            Progress.begin(n), Comparisons.begin(plan, n, events, history), Steps.of(plan), zeros, zeros, zeros,
            np.zeros(n), np.zeros(n), {}, ordered,
        )  # fmt: skip

    @property
    def step(self) -> Ints:
        """Shape (N,): index of each one's step."""
        return self.progress.step

    @property
    def running(self) -> Mask:
        """Shape (N,): which are not over."""
        running: Mask = self.ended == RUNNING
        return running

    def take(self, chosen: Mask | Ints) -> Lanes:
        """Those of a mask or of indices."""
        p = self.progress
        return Lanes(
            Progress(
                p.step[chosen], p.entered[chosen], p.lost[chosen], p.since[chosen], p.last_look[chosen],
                p.requests[chosen], p.champion[chosen],
            ),
            self.tests.take(chosen),
            self.steps, self.ended[chosen], self.row[chosen], self.outcome[chosen], self.at[chosen],
            self.requests[chosen],
            {name: (a[chosen], b[chosen]) for name, (a, b) in self.opened.items()},
            self.ordered,
        )  # fmt: skip


def decide_batch(plan: Plan, lanes: Lanes, look: Look, now: float) -> Lanes:
    """Judge one look of every rollout. Those that are over stay as they are.

    Args:
        now: seconds since the epoch, the same for all.
    """
    running = lanes.running
    if not running.any():
        return lanes
    n = len(running)
    known, outage = _mask(look.known, n), _mask(look.outage, n)
    alone = lanes.steps.alone[lanes.step]
    blocks, opened = _close(lanes.opened, look.gates, running & ~alone)
    limited = {
        name: np.where((running & ~outage)[:, None], look.limits[name], 0.0)
        if name in look.limits
        else np.zeros((n, 2))
        for name, _ in limits(plan)
    }
    tests = update(plan, lanes.tests, blocks, limited, ordered=lanes.ordered)
    found = signs(plan, tests)

    false = np.zeros(n, dtype=bool)
    harm, breach, silent, safe, shown = false, false, false, ~false, ~false
    rows = _rows_seen(plan, tests)
    for gate in plan.gates:
        harm = harm | reached(found.harm[gate.name], gate.alpha)
        good = reached(found.safe[gate.name], plan.beta)
        safe = safe & (good if gate.non_inferior else True)
        if gate.required:
            shown = shown & good
            quiet = np.isnan(found.harm[gate.name])
            if gate.name in rows:
                quiet = quiet | (rows[gate.name] < gate.min_rows)
            silent = silent | (quiet & ~alone)
    for name, log_e in found.breach.items():
        breach = breach | reached(log_e, plan.limit_alpha)
        if not name.endswith(TESTERS):  # nobody has to test
            silent = silent | np.isnan(log_e)
    trouble = np.select(
        [~known, outage, ~_mask(look.ready, n)],
        [table.ROW["source-down"], table.ROW["both-failing"], table.ROW["not-ready"]],
        table.NO_TROUBLE,
    )
    before = lanes.progress
    # What came before the step was entered (a first look) does not count for it.
    counts = ~np.isnan(before.entered)
    moved = replace(
        before,
        requests=before.requests + np.where(counts, look.requests_candidate, 0.0),
        champion=before.champion + np.where(counts, look.requests_champion, 0.0),
    )
    facts = Facts(
        aborted=False, harm=harm, limit=breach, trouble=trouble, there=True, sound=_mask(look.ready, n), silent=silent,
        safe=safe, shown=shown & bool(plan.gates), frozen=look.frozen, open=is_open(plan.windows, now),
    )  # fmt: skip
    said = table.judge(plan, lanes.steps, moved, facts, now)
    return replace(
        lanes,
        progress=_where(running, said.progress, before),
        tests=tests,
        ended=np.where(running, _ENDS[said.action], lanes.ended),
        row=np.where(running, said.row, lanes.row),
        outcome=np.where(running, said.outcome, lanes.outcome),
        at=np.where(running, now, lanes.at),
        requests=lanes.requests + np.where(running, look.requests_candidate, 0.0),
        opened=opened,
    )


def _mask(value: Mask | bool, n: int) -> Mask:
    found: Mask = np.broadcast_to(np.asarray(value, dtype=bool), (n,))
    return found


def _close(opened: Mapping[str, Pair], fresh: Blocks, counted: Mask) -> tuple[dict[str, Pair], dict[str, Pair]]:
    """Blocks that both arms have observations in, and what stays open until they have."""
    blocks: dict[str, Pair] = {}
    left: dict[str, Pair] = {}
    for name in {**opened, **fresh}:
        a, b = fresh.get(name, (0.0, 0.0))
        if name in opened:
            a, b = a + opened[name][0], b + opened[name][1]
        a, b = np.where(counted[:, None], a, 0.0), np.where(counted[:, None], b, 0.0)
        both = ((a.sum(axis=-1) > 0) & (b.sum(axis=-1) > 0))[:, None]
        blocks[name] = (np.where(both, a, 0.0), np.where(both, b, 0.0))
        if not both.all():
            left[name] = (np.where(both, 0.0, a), np.where(both, 0.0, b))
    return blocks, left


def _rows_seen(plan: Plan, tests: Comparisons) -> dict[str, FloatArray]:
    """By gate on rows, the smaller number of either arm, shape (N,)."""
    found = {}
    for i, gate in enumerate(loss_gates(plan)):
        found[gate.name] = np.minimum(tests.losses.champion[i, :, 0], tests.losses.candidate[i, :, 0])
    for gate, test in zip(shift_gates(plan), tests.shifts, strict=True):
        found[gate.name] = test.n[..., 1:].min(axis=-1)
    return found


def _where(mask: Mask, yes: Progress, no: Progress) -> Progress:
    return Progress(*(np.where(mask, getattr(yes, name), getattr(no, name)) for name in Progress.__dataclass_fields__))
