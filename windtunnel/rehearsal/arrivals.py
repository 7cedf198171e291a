"""Drawing the traffic of many rehearsed rollouts at once.

Every gate of a rehearsal meets the same traffic: a request is drawn once, with the place in the split that the router
would give it and with what either version would answer. Places are told apart by the plan's weights only (with
weights 5 and 25: below 5, 5 to 25, above), so that under any weight of the plan the candidate's requests
are a sum over the lowest places and the champion's over the rest. What is drawn does not depend on who watches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from windtunnel.rehearsal.scenarios import World
from windtunnel.rehearsal.users import Crowd, gather
from windtunnel.rollout.plan import Plan
from windtunnel.stats.betting import FloatArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_DAY = 86_400.0
#: Looks drawn at a time.
BLOCK = 60
#: Rows with predictions and labels come in batches of this many seconds.
ROWS_EVERY_S = 60.0


class Seeds(Protocol):
    """What is needed of ``numpy.random.SeedSequence``."""

    def spawn(self, n_children: int) -> list[np.random.SeedSequence]: ...


def cuts(plan: Plan) -> tuple[int, ...]:
    """Percents at which any step of the plan splits the traffic, ending with 100."""
    return tuple(sorted({(step.mirror or step.weight) for step in plan.steps} | {100}))


@dataclass(frozen=True, slots=True)
class Places:
    """Which places of the split belong to the candidate, by step.

    Attributes:
        upto: (steps,) number of lowest places the candidate answers.
        mirrored: (steps,) the champion answers them too.
    """

    upto: Ints
    mirrored: Bools

    @classmethod
    def of(cls, plan: Plan) -> Places:
        where = cuts(plan)
        upto = [where.index(step.mirror or step.weight) + 1 for step in plan.steps]
        return cls(np.asarray(upto, dtype=np.int64), np.asarray([bool(step.mirror) for step in plan.steps]))


@dataclass(frozen=True, slots=True)
class Counts:
    """What one look (or minute) brought to both arms of some runs.

    Attributes:
        n_a, n_b: (runs, S) requests of champion and candidate, by segment.
        bad_a, bad_b: (K, runs, S) failed ones, then those slower than each threshold.
    """

    n_a: FloatArray
    n_b: FloatArray
    bad_a: FloatArray
    bad_b: FloatArray

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.n_a + other.n_a, self.n_b + other.n_b, self.bad_a + other.bad_a, self.bad_b + other.bad_b)


class Block:
    """The traffic of ``BLOCK`` looks of N runs.

    Sums over places: ``below[..., p]`` is what lies in the lowest ``p`` places.
    """

    def __init__(self, n: Ints, bad_a: list[Ints], bad_b: list[Ints]) -> None:
        self._n = _below(n)
        self._bad_a = np.stack([_below(x) for x in bad_a])
        self._bad_b = np.stack([_below(x) for x in bad_b])

    def counts(self, look: int, runs: Ints, steps: Ints, places: Places) -> Counts:
        """Of look ``look`` of this block, for ``runs`` at their ``steps``."""
        upto, mirrored = places.upto[steps], places.mirrored[steps][:, None]
        n, bad_a, bad_b = self._n[look], self._bad_a[:, look], self._bad_b[:, look]
        n_b, hit_b, hit_a = n[runs, upto], bad_b[:, runs, upto], bad_a[:, runs, upto]
        n_a = n[runs, -1] - np.where(mirrored, 0, n_b)
        all_a = bad_a[:, runs, -1] - np.where(mirrored[None], 0, hit_a)
        return Counts(
            n_a.astype(np.float64), n_b.astype(np.float64), all_a.astype(np.float64), hit_b.astype(np.float64)
        )


def _below(by_place: Ints) -> Ints:
    """(T, places, N, S) to sums below each place, (T, N, places + 1, S)."""
    looks, places, runs, parts = by_place.shape
    out = np.zeros((looks, runs, places + 1, parts), dtype=np.int32)
    np.cumsum(by_place.transpose(0, 2, 1, 3), axis=2, out=out[:, :, 1:])
    return out


class Arrivals:
    """The traffic of N runs, block by block.

    Args:
        world: the probabilities.
        runs: N.
        split: percents from ``cuts``.
        seeds: chance; the same seeds draw the same traffic.
        thresholds: how many of the world's latency thresholds are drawn, from the lowest on.
    """

    def __init__(self, world: World, runs: int, split: tuple[int, ...], seeds: Seeds, thresholds: int) -> None:
        self._world, self._runs, self._thresholds = world, runs, thresholds
        self._widths = np.diff([0, *split]) / 100
        levels, sizes, errors, *slow = (np.random.default_rng(s) for s in seeds.spawn(3 + len(world.tails_a)))
        self._levels, self._sizes, self._errors, self._slow = levels, sizes, errors, slow
        self._people = np.random.default_rng(seeds.spawn(1)[0])
        self._crowd: Crowd | None = None
        self._leave = 0.0
        self._phase = levels.uniform(0, _DAY, runs)
        if world.start_s is not None:
            self._phase[:] = world.start_s % _DAY
        self._walk = np.zeros(runs)
        self._time = 0.0
        self._place = np.zeros(runs, dtype=np.int64)  # block of a recording
        self._left = np.zeros(runs)

    def block(self) -> Block:
        """The next ``BLOCK`` looks."""
        world = self._world
        moments = self._time + world.look_s * np.arange(1, BLOCK + 1, dtype=np.float64)
        self._time = float(moments[-1])
        rate, error, tails_a, tails_b = self._level(moments)
        lam = rate[:, None, :, None] * self._widths[None, :, None, None] * world.shares * world.look_s
        crowd = self._people_at(moments)
        if crowd is not None:
            lam = lam * crowd.traffic
        n = self._sizes.poisson(lam).astype(np.int64)
        harm = world.scenario.harm
        harmed = np.asarray(world.harmed)
        worse = np.clip(error * harm.errors + harm.errors_plus, 0, 1)
        outage = world.scenario.outage
        if outage is not None:
            start = outage.after.total_seconds()
            on = (moments > start) & (moments <= start + outage.lasts.total_seconds())
            error, worse = (np.where(on[:, None], np.maximum(x, outage.errors), x) for x in (error, worse))
        share_a = error[:, None, :, None]
        share_b = np.where(harmed, worse[:, None, :, None], share_a)
        if crowd is not None:
            share_a, share_b = (np.minimum(x * crowd.errors, 1.0) for x in (share_a, share_b))
        bad_a, bad_b = [self._errors.binomial(n, share_a)], [self._errors.binomial(n, share_b)]
        last_a, last_b = n, n
        before_a = before_b = np.ones(())
        for k in range(self._thresholds):
            # Nested: whoever is slower than the next threshold is slower than this one.
            tail_a = tails_a[k]
            tail_b = np.where(harmed, tails_b[k], tail_a)
            if crowd is not None:
                tail_a, tail_b = (np.minimum(x * crowd.slow, 1.0) for x in (tail_a, tail_b))
            last_a = self._slow[k].binomial(last_a, _ratio(tail_a, before_a))
            last_b = self._slow[k].binomial(last_b, _ratio(tail_b, before_b))
            before_a, before_b = tail_a, tail_b
            bad_a.append(last_a)
            bad_b.append(last_b)
        return Block(n, bad_a, bad_b)

    def _people_at(self, moments: FloatArray) -> Crowd | None:
        """Who is there in this block; None where requests go by lot. Those who leave do so between two blocks."""
        scenario = self._world.scenario
        if scenario.users is None:
            return None
        if self._crowd is None or float(moments[0]) > self._leave:
            self._crowd = gather(
                self._people, self._runs, self._widths, np.asarray(self._world.shares), scenario.users,
                scenario.users_differ, self._world.errors,
            )  # fmt: skip
            stay = scenario.users_stay
            self._leave = np.inf if stay is None else float(moments[0]) + stay.total_seconds()
        return self._crowd

    def _level(self, moments: FloatArray) -> tuple[FloatArray, FloatArray, list[FloatArray], list[FloatArray]]:
        """(T, N) requests per second and error rates; tails per threshold, ready to go with (T, places, N, S)."""
        world, scenario = self._world, self._world.scenario
        if world.recorded is not None:
            return self._replay(moments)
        sun = np.sin(2 * np.pi * (moments[:, None] + self._phase) / _DAY)
        rate = (world.rate or 0.0) * (1 + scenario.day_traffic * sun)
        error = world.errors * (1 + scenario.day_errors * sun)
        if scenario.drift > 0:
            steps = self._levels.normal(0, scenario.drift * np.sqrt(world.look_s / 3600), (len(moments), self._runs))
            walk = self._walk + np.cumsum(steps, axis=0)
            self._walk = walk[-1]
            error = np.minimum(error * np.exp(walk), 0.5)
        return (
            rate, error, [np.asarray(x) for x in world.tails_a], [np.asarray(x) for x in world.tails_b]
        )  # fmt: skip

    def _replay(self, moments: FloatArray) -> tuple[FloatArray, FloatArray, list[FloatArray], list[FloatArray]]:
        """Blocks of the recording, each from about the time of day the run has come to (a block bootstrap)."""
        world, recorded = self._world, self._world.recorded
        assert recorded is not None
        where = np.empty((len(moments), self._runs), dtype=np.int64)
        for i in range(len(moments)):
            due = self._left <= 0
            if due.any():
                clock = (self._phase[due] + moments[i]) % _DAY
                self._place[due] = _pick(recorded.clock, clock, self._levels.random(int(due.sum())))
                self._left[due] = recorded.block_s
            where[i] = self._place
            self._left -= world.look_s
        scale = 1.0 if world.rate is None else world.rate / float(recorded.rate.mean())
        tails_a = [recorded.tails_a[where, k][:, None, :, None] for k in range(recorded.tails_a.shape[1])]
        tails_b = [recorded.tails_b[where, k][:, None, :, None] for k in range(recorded.tails_b.shape[1])]
        return recorded.rate[where] * scale, recorded.errors[where], tails_a, tails_b


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    found: FloatArray = np.clip(np.asarray(part) / np.maximum(whole, 1e-300), 0, 1)
    return found


def _pick(clocks: FloatArray, wanted: FloatArray, chance: FloatArray) -> Ints:
    """For each wanted time of day one of the blocks within an hour of it; of the nearest when there are none."""
    gap = np.abs(clocks[None, :] - wanted[:, None])
    gap = np.minimum(gap, _DAY - gap)
    near = gap <= np.maximum(3600.0, gap.min(axis=1, keepdims=True))
    rank = np.floor(chance * near.sum(axis=1)).astype(np.int64)
    found: Ints = np.argmax(np.cumsum(near, axis=1) > rank[:, None], axis=1)
    return found


class Rows:
    """Cells of rows (losses of labelled rows, predictions) of N runs: they come in batches, labels late.

    Args:
        world: ``world.cells`` holds each gate's probabilities.
        late: gates whose rows wait for labels.
    """

    def __init__(self, world: World, runs: int, late: frozenset[str], seeds: Seeds) -> None:
        self._world, self._late = world, late
        self._rng = [np.random.default_rng(s) for s in seeds.spawn(len(world.cells))]
        self._every = max(1, round(ROWS_EVERY_S / world.look_s))
        self._delay = max(0, round(world.scenario.label_delay.total_seconds() / world.look_s))
        self._open = np.zeros((2, runs), dtype=np.int64)
        self._waiting: dict[int, list[tuple[str, FloatArray, FloatArray]]] = {}

    def add(self, look: int, runs: Ints, answered_a: FloatArray, answered_b: FloatArray) -> None:
        """Requests that were answered without an error, by run; look counts from 1."""
        self._open[0, runs] += answered_a.astype(np.int64)
        self._open[1, runs] += answered_b.astype(np.int64)
        if look % self._every:
            return
        for rng, (gate, (cells_a, cells_b)) in zip(self._rng, self._world.cells.items(), strict=True):
            late = gate in self._late
            share = self._world.scenario.label_share if late else 1.0
            arms = [
                rng.multinomial(rng.binomial(n, share), cells).astype(np.float64)
                for n, cells in zip(self._open, (cells_a, cells_b), strict=True)
            ]
            self._waiting.setdefault(look + (self._delay if late else 0), []).append((gate, arms[0], arms[1]))
        self._open[:] = 0

    def due(self, look: int, runs: Ints) -> dict[str, tuple[FloatArray, FloatArray]]:
        """What has come by this look, of gates that got anything."""
        found: dict[str, tuple[FloatArray, FloatArray]] = {}
        for gate, a, b in self._waiting.pop(look, []):
            found[gate] = (a[runs], b[runs])
        return found
