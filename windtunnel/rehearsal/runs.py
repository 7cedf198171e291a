"""A plan flown many times before it flies: the very same brain, and other tools' rules, over the same traffic.

The runs are cut into chunks of a fixed size with seeds of their own, so that the result does not depend on how many
processes work on them. Starting processes is the caller's: ``run_chunk`` is pure, and its job and answer can be
pickled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from windtunnel.rehearsal import peers
from windtunnel.rehearsal.arrivals import BLOCK, Arrivals, Counts, Places, Rows, cuts
from windtunnel.rehearsal.peers import PROMOTED, ROLLED_BACK, RUNNING, UNDECIDED, Interval, Peer, Setting
from windtunnel.rehearsal.scenarios import World
from windtunnel.rollout.plan import Plan
from windtunnel.stats.betting import FloatArray

Ints = NDArray[np.int64]
Variant = Literal["harmless", "scenario"]

#: Runs that are drawn and decided together; part of what a seed means.
CHUNK = 1000
#: The gates of the plan itself, beside the peers' names.
OURS = "windtunnel"
#: Most looks of one run; a plan with finite patience ends long before.
MAX_LOOKS = 200_000


@dataclass(frozen=True, slots=True)
class Ends:
    """How the runs of one gate ended.

    Attributes:
        how: (n,) ``peers.PROMOTED``, ``ROLLED_BACK`` (harm was shown) or ``UNDECIDED`` (rolled back without a verdict).
        minutes: (n,) until then.
        requests: (n,) that the candidate had answered.
    """

    how: Ints
    minutes: FloatArray
    requests: FloatArray

    @classmethod
    def join(cls, parts: Sequence[Ends]) -> Ends:
        """All runs of several chunks, in their order."""
        return cls(
            np.concatenate([p.how for p in parts]),
            np.concatenate([p.minutes for p in parts]),
            np.concatenate([p.requests for p in parts]),
        )


@dataclass(frozen=True, slots=True)
class Job:
    """One chunk of a rehearsal; everything in it can be pickled.

    Attributes:
        variant: which of the rehearsal's two kinds of run this is; the traffic's chance is the same in both.
        runs: at most ``CHUNK``.
    """

    plan: Plan
    world: World
    variant: Variant
    runs: int
    seed: int
    number: int
    compare: tuple[str, ...] = ()


class Brain(Protocol):
    """Decides for many runs at once; ``windtunnel.rollout.batch`` is the one that counts."""

    def begin(self, plan: Plan, runs: int) -> None: ...

    def look(
        self, runs: Ints, counts: Counts, rows: dict[str, tuple[FloatArray, FloatArray]], known: bool, now: float
    ) -> tuple[Ints, Ints]:
        """What one look brought to ``runs`` (those still going); their steps and how they ended (``peers``)."""
        ...


def jobs(plan: Plan, worlds: dict[Variant, World], runs: int, seed: int, compare: tuple[str, ...] = ()) -> list[Job]:
    """The chunks of a rehearsal, the longest first. Windows of hours are left out where no world has a calendar."""
    found = []
    for variant in ("harmless", "scenario"):
        if variant in worlds:
            flown = plan if worlds[variant].start_s is not None else replace(plan, windows=())
            for number, start in enumerate(range(0, runs, CHUNK)):
                size = min(CHUNK, runs - start)
                found.append(Job(flown, worlds[variant], variant, size, seed, number, compare))
    return found


def run_chunk(job: Job, brain: Brain | None = None) -> dict[str, Ends]:
    """Fly one chunk.

    Args:
        brain: stands in for the real one.

    Returns:
        how the runs of each gate ended: ``windtunnel`` and each of ``job.compare``.
    """
    if brain is None:
        from windtunnel.rehearsal.ours import Batch

        brain = Batch(job.world)
    plan, world = job.plan, job.world
    traffic_seeds, row_seeds = np.random.SeedSequence((job.seed, job.number)).spawn(2)
    judged = world.latency_of
    needed = [k for name, k in judged.items() if name != "objective" or job.compare]
    arrivals = Arrivals(world, job.runs, cuts(plan), traffic_seeds, max(needed, default=-1) + 1)
    late = frozenset(g.name for g in plan.gates if g.metric in ("quality", "value"))
    ours = _Ours(plan, world, brain, Rows(world, job.runs, late, row_seeds), job.runs)
    every = minute_looks(plan)
    setting = Setting(lengths(plan, every), allowed(plan, world), plan.alpha)
    others = {name: _Theirs(peers.PEERS[name](job.runs, setting), plan, world, job.runs, every) for name in job.compare}
    limit = peer_looks(plan, every)
    look = 0
    while (ours.going or any(o.going for o in others.values())) and look < MAX_LOOKS:
        block = arrivals.block()
        for i in range(BLOCK):
            look += 1
            now = look * plan.look_every_s
            counts_ours = block.counts(i, ours.runs, ours.steps, ours.places) if ours.going else None
            if counts_ours is not None:
                ours.look(look, now, counts_ours)
            for other in others.values():
                if other.going:
                    all_runs = np.arange(job.runs)
                    other.look(look, now, block.counts(i, all_runs, other.peer.step, other.places))
                    if look >= limit:
                        other.stop()
    return {OURS: ours.ends(), **{name: other.ends() for name, other in others.items()}}


def minute_looks(plan: Plan) -> int:
    """Looks in the interval at which the compared tools check: a minute, or one look where steps are shorter."""
    if any(step.hold_s < 60 for step in plan.steps):
        return 1
    return max(1, round(60 / plan.look_every_s))


def lengths(plan: Plan, every: int) -> tuple[int, ...]:
    """Intervals of each step."""
    unit = every * plan.look_every_s
    return tuple(max(1, round(step.hold_s / unit)) for step in plan.steps) or (1,)


def peer_looks(plan: Plan, every: int) -> int:
    """When a tool that never comes to an end is given up: after three times the plan."""
    return 3 * every * sum(lengths(plan, every))


def latency_gates(plan: Plan) -> list[str]:
    return [g.name for g in plan.gates if g.metric == "latency" and g.segment is None]


def allowed(plan: Plan, world: World) -> tuple[float, ...]:
    """Objectives of the metrics the compared tools watch: errors, and a p95 where the plan looks at latency."""
    return (world.objective_errors, *(0.05 for _ in latency_gates(plan)[:1]))


def silent(world: World, now: float) -> str | None:
    """What is silent at ``now``: ``source``, ``candidate``, ``champion``."""
    silence = world.scenario.silence
    if silence is None:
        return None
    start = silence.after.total_seconds()
    if now <= start or (silence.lasts is not None and now > start + silence.lasts.total_seconds()):
        return None
    return silence.of


def _hushed(counts: Counts, what: str | None) -> Counts:
    """Without the requests of an arm that gets none."""
    if what == "candidate":
        return replace(counts, n_b=counts.n_b * 0, bad_b=counts.bad_b * 0)
    if what == "champion":
        return replace(counts, n_a=counts.n_a * 0, bad_a=counts.bad_a * 0)
    return counts


class _Ours:
    """The plan's own brain over all runs of a chunk; runs that ended are dropped."""

    def __init__(self, plan: Plan, world: World, brain: Brain, rows: Rows, runs: int) -> None:
        self._plan, self._world, self._brain, self._rows = plan, world, brain, rows
        self.places = Places.of(plan)
        self.runs: Ints = np.arange(runs)
        self.steps: Ints = np.zeros(runs, dtype=np.int64)
        self._how: Ints = np.full(runs, UNDECIDED, dtype=np.int64)
        self._minutes = np.full(runs, np.inf)
        self._requests = np.zeros(runs)
        brain.begin(plan, runs)

    @property
    def going(self) -> bool:
        return self.runs.size > 0

    def look(self, look: int, now: float, counts: Counts) -> None:
        what = silent(self._world, now)
        # Requests are answered, and users exposed, also while nobody can read the numbers.
        self._requests[self.runs] += _hushed(counts, what if what != "source" else None).n_b.sum(axis=1)
        counts = _hushed(counts, what)
        rows: dict[str, tuple[FloatArray, FloatArray]] = {}
        if self._world.cells:
            answered_a = counts.n_a.sum(axis=1) - counts.bad_a[0].sum(axis=1)
            answered_b = counts.n_b.sum(axis=1) - counts.bad_b[0].sum(axis=1)
            self._rows.add(look, self.runs, answered_a, answered_b)
            rows = self._rows.due(look, self.runs)
        steps, how = self._brain.look(self.runs, counts, rows, what != "source", now + (self._world.start_s or 0.0))
        over = how != RUNNING
        if over.any():
            ended = self.runs[over]
            self._how[ended], self._minutes[ended] = how[over], now / 60
            self.runs, steps = self.runs[~over], steps[~over]
        self.steps = steps

    def ends(self) -> Ends:
        return Ends(self._how, self._minutes, self._requests)


class _Theirs:
    """Another tool over all runs of a chunk, an interval at a time."""

    def __init__(self, peer: Peer, plan: Plan, world: World, runs: int, every: int) -> None:
        self.peer, self._world, self._every = peer, world, every
        self._unit = every * plan.look_every_s / 60
        self.places = Places.of(plan)
        self.going = True
        self._sum: Counts | None = None
        self._known = True
        self._requests = np.zeros(runs)
        gates = latency_gates(plan)[:1]
        # Rows of ``bad``: errors first, then the thresholds.
        self._over = [0, *(1 + world.latency_of[name] for name in gates)]
        self._breach = [0, *(1 + world.latency_of["objective"] for _ in gates)]

    def look(self, look: int, now: float, counts: Counts) -> None:
        what = silent(self._world, now)
        counts = _hushed(counts, what)
        self._known = self._known and what != "source"
        self._sum = counts if self._sum is None else self._sum + counts
        if look % self._every:
            return
        total, running = self._sum, self.peer.ended == RUNNING
        n_b = total.n_b.sum(axis=1)
        self._requests += np.where(running, n_b, 0.0)
        bad_a, bad_b = total.bad_a.sum(axis=2), total.bad_b.sum(axis=2)
        known = np.full(len(running), self._known)
        self.peer.watch(
            Interval(total.n_a.sum(axis=1), n_b, bad_a[self._over], bad_b[self._over], bad_b[self._breach], known)
        )
        self._sum, self._known = None, True
        self.going = bool((self.peer.ended == RUNNING).any())

    def stop(self) -> None:
        self.going = False

    def ends(self) -> Ends:
        how = np.where(self.peer.ended == RUNNING, UNDECIDED, self.peer.ended)
        minutes: FloatArray = self.peer.ended_at.astype(np.float64) * self._unit
        return Ends(how, minutes, self._requests)


def gather(done: Sequence[tuple[Job, dict[str, Ends]]]) -> dict[str, dict[Variant, Ends]]:
    """Chunks put together: gate, variant, ends; in the chunks' own order, whoever was ready first."""
    ordered = sorted(done, key=lambda pair: (pair[0].variant, pair[0].number))
    names = list(done[0][1]) if done else []
    found: dict[str, dict[Variant, Ends]] = {}
    for name in names:
        found[name] = {}
        for variant in ("harmless", "scenario"):
            parts = [ends[name] for job, ends in ordered if job.variant == variant]
            if parts:
                found[name][variant] = Ends.join(parts)
    return found


def plan_seconds(plan: Plan) -> float:
    """Length of a plan that nothing holds up."""
    return math.fsum(step.hold_s for step in plan.steps)


def shares(ends: Ends) -> dict[str, Any]:
    """Counts of the three ends, for the record."""
    return {
        "runs": len(ends.how),
        "promoted": int((ends.how == PROMOTED).sum()),
        "rolled_back": int((ends.how == ROLLED_BACK).sum()),
        "inconclusive": int((ends.how == UNDECIDED).sum()),
    }
