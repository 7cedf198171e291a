"""All of a plan's tests as arrays: what they have seen, and what that shows.

Gates on rates (yes or no), on losses (a value in [0, 1]) and on distributions are each kept as one array with an axis
of gates first; behind it may come an axis of rollouts. So the work of a look hardly grows with the number of gates,
and ten thousand rollouts are one call.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from windtunnel.rollout.plan import Plan, PlanGate
from windtunnel.rollout.state import GateState
from windtunnel.stats.betting import FloatArray
from windtunnel.stats.binning import loss_points
from windtunnel.stats.compare import Boundary, OneSample, OneSamples, TwoSample, TwoSamples
from windtunnel.stats.shift import ShiftTest, ShiftTests

#: One look's increments of both arms (champion, candidate) by gate name, each of shape (..., P).
Blocks = Mapping[str, tuple[FloatArray, FloatArray]]


def rate_gates(plan: Plan, *, no_margin: bool) -> list[PlanGate]:
    """Gates on shares of requests, in the order of the arrays. Those without a margin are tested exactly."""
    return [gate for gate in plan.gates if gate.rates and (gate.margin == 0) == no_margin]


def loss_gates(plan: Plan) -> list[PlanGate]:
    """Gates on quality and values, in the order of the arrays."""
    return [gate for gate in plan.gates if gate.metric in ("quality", "value")]


def shift_gates(plan: Plan) -> list[PlanGate]:
    """Gates on predictions, in the order of the arrays."""
    return [gate for gate in plan.gates if gate.metric == "prediction"]


#: Ends the name of a limit that the testers' own requests are held against.
TESTERS = "@testers"


def limits(plan: Plan) -> list[tuple[str, float]]:
    """(name, largest share) of each absolute limit: of failed requests; of requests slower than the p95 may be.

    With an audience each stands there twice: testers are few, and among everybody's requests theirs would drown.
    """
    found = []
    if plan.error_rate is not None:
        found.append(("limit_error_rate", plan.error_rate))
    if plan.p95_ms is not None:
        found.append(("limit_p95_ms", 0.05))
    return found + [(f"{name}{TESTERS}", share) for name, share in found if plan.audience]


@dataclass(frozen=True, slots=True)
class Comparisons:
    """State of all tests; the first axis is that of the gates (limits), the last of arrays within is their own.

    Attributes:
        rates, equals: gates on shares with, and without a margin.
    """

    rates: TwoSamples
    equals: TwoSamples
    losses: TwoSamples
    shifts: tuple[ShiftTests, ...]
    limits: OneSamples

    @classmethod
    def begin(
        cls, plan: Plan, n: int, events: int = 0, history: Mapping[str, tuple[float, float]] | None = None
    ) -> Comparisons:
        """``n`` rollouts that have seen nothing.

        Args:
            events: how many events predictions are counted in.
            history: by gate on shares, how many observations of the champion are known from before, and how many of
                them were a yes.
        """

        def rates(*, no_margin: bool) -> TwoSamples:
            chosen = rate_gates(plan, no_margin=no_margin)
            known = np.array([(history or {}).get(gate.name, (0.0, 0.0)) for gate in chosen]).reshape(-1, 1, 2)
            return TwoSamples.begin(len(chosen), n, no_margin=no_margin).believing(known[..., 0], known[..., 1])

        return cls(
            rates(no_margin=False),
            rates(no_margin=True),
            TwoSamples.begin(len(loss_gates(plan)), n),
            tuple(ShiftTests.begin(events, n) for _ in shift_gates(plan)),
            OneSamples.begin(len(limits(plan)), n),
        )

    @classmethod
    def of(
        cls, plan: Plan, gates: Mapping[str, GateState], limited: Mapping[str, OneSample], events: int
    ) -> Comparisons:
        """Of one rollout; ``events`` is how many events its predictions are counted in (1 while nobody knows)."""

        def pairs(chosen: Sequence[PlanGate]) -> TwoSamples:
            tests = [test for gate in chosen if isinstance(test := gates[gate.name].test, TwoSample)]
            return TwoSamples.of(tests).map(_one) if tests else _NO_PAIRS

        shifts = [test for gate in shift_gates(plan) if isinstance(test := gates[gate.name].test, ShiftTest)]
        known = [limited[name] for name, _ in limits(plan)]
        return cls(
            pairs(rate_gates(plan, no_margin=False)),
            pairs(rate_gates(plan, no_margin=True)),
            pairs(loss_gates(plan)),
            tuple(ShiftTests.of([test], events) for test in shifts),
            OneSamples.of(known).map(_one) if known else _NO_LIMITS,
        )

    def one(self, plan: Plan) -> tuple[dict[str, TwoSample | ShiftTest], dict[str, OneSample]]:
        """The tests of one rollout, by gate and by limit."""
        tests: dict[str, TwoSample | ShiftTest] = {}
        for gates, found in (
            (rate_gates(plan, no_margin=False), self.rates),
            (rate_gates(plan, no_margin=True), self.equals),
            (loss_gates(plan), self.losses),
        ):
            tests |= {gate.name: found.at((i, 0)) for i, gate in enumerate(gates)}
        for gate, test in zip(shift_gates(plan), self.shifts, strict=True):
            tests[gate.name] = test.at(0)
        return tests, {name: self.limits.at((i, 0)) for i, (name, _) in enumerate(limits(plan))}

    def take(self, chosen: NDArray[Any]) -> Comparisons:
        """The rollouts of a mask or of indices."""

        def of_gates(array: FloatArray) -> FloatArray:
            picked: FloatArray = array[:, chosen]
            return picked

        def of_one(array: FloatArray) -> FloatArray:
            picked: FloatArray = array[chosen]
            return picked

        return Comparisons(
            self.rates.map(of_gates),
            self.equals.map(of_gates),
            self.losses.map(of_gates),
            tuple(test.map(of_one) for test in self.shifts),
            self.limits.map(of_gates),
        )


def _one(array: FloatArray) -> FloatArray:
    """With an axis of one rollout behind that of the gates."""
    return array[:, None]


#: Of one rollout without such gates; nothing writes into a test's arrays.
_NO_PAIRS, _NO_LIMITS = TwoSamples.begin(0, 1), OneSamples.begin(0, 1)


@dataclass(frozen=True, slots=True)
class Signs:
    """What the tests show: by gate or limit, log evidence of shape (...), NaN where there is none."""

    harm: dict[str, FloatArray]
    safe: dict[str, FloatArray]
    breach: dict[str, FloatArray]


def update(
    plan: Plan, tests: Comparisons, blocks: Blocks, limited: Mapping[str, FloatArray], *, ordered: bool
) -> Comparisons:
    """Take in a look.

    Args:
        blocks: by gate; a gate without a block has nothing new.
        limited: by limit, the candidate's increments, shape (..., 2).
        ordered: predictions are numbers, not categories.
    """
    losses = tests.losses
    rates = _rates(rate_gates(plan, no_margin=False), tests.rates, blocks)
    equals = _rates(rate_gates(plan, no_margin=True), tests.equals, blocks)
    gates = loss_gates(plan)
    if any(gate.name in blocks for gate in gates):
        counts_a, counts_b = _stacked([gate.name for gate in gates], blocks)
        spare = counts_a.ndim - 2
        quality = np.array([gate.metric == "quality" for gate in gates])
        margin, safe = np.array([gate.margin for gate in gates]), np.array([gate.safe_margin for gate in gates])
        losses = losses.update(
            counts_a,
            counts_b,
            _boundary(np.where(quality, 1 + margin, 1.0), np.where(quality, 0.0, margin), spare),
            safe=_boundary(np.where(quality, 1 + safe, 1.0), np.where(quality, 0.0, safe), spare),
            points=loss_points(),
            prior=_column(np.where(quality, 0.1, 0.5), spare),
        )
    shifts = tuple(
        test.update(*blocks[gate.name], gate.margin, ordered=ordered) if gate.name in blocks else test
        for gate, test in zip(shift_gates(plan), tests.shifts, strict=True)
    )
    known = limits(plan)
    watched = tests.limits
    if known and limited:
        counts = np.stack([limited[name] for name, _ in known])
        watched = watched.update(counts, _column(np.array([share for _, share in known]), counts.ndim - 2))
    return Comparisons(rates, equals, losses, shifts, watched)


def _rates(gates: Sequence[PlanGate], tests: TwoSamples, blocks: Blocks) -> TwoSamples:
    if not any(gate.name in blocks for gate in gates):
        return tests
    counts_a, counts_b = _stacked([gate.name for gate in gates], blocks)
    spare = counts_a.ndim - 2
    margin, safe = np.array([gate.margin for gate in gates]), np.array([gate.safe_margin for gate in gates])
    prior = np.array([0.01 if gate.metric == "errors" else 1 - gate.quantile for gate in gates])
    return tests.update(
        counts_a,
        counts_b,
        Boundary(1.0, _column(margin, spare)),
        safe=Boundary(1.0, _column(safe, spare)),
        prior=_column(prior, spare),
        log_bar=math.log(1 / gates[0].alpha),  # all gates of a plan have the same share
    )


def _stacked(names: Sequence[str], blocks: Blocks) -> tuple[FloatArray, FloatArray]:
    """Both arms' counts, shape (gates, ..., P); zeros for a gate without a block."""
    like = next(blocks[name] for name in names if name in blocks)
    nothing = (np.zeros_like(like[0]), np.zeros_like(like[1]))
    pairs = [blocks.get(name, nothing) for name in names]
    return np.stack([pair[0] for pair in pairs]), np.stack([pair[1] for pair in pairs])


def _column(values: FloatArray, spare: int) -> FloatArray:
    """One value a gate, for arrays with ``spare`` more axes before their own."""
    return values.reshape(-1, *([1] * spare))


def _boundary(slope: FloatArray, shift: FloatArray, spare: int) -> Boundary:
    return Boundary(_column(slope, spare), _column(shift, spare))


def signs(plan: Plan, tests: Comparisons) -> Signs:
    """Log evidence of every test."""
    harm: dict[str, FloatArray] = {}
    safe: dict[str, FloatArray] = {}
    for gates, found in (
        (rate_gates(plan, no_margin=False), tests.rates),
        (rate_gates(plan, no_margin=True), tests.equals),
        (loss_gates(plan), tests.losses),
    ):
        if gates:
            more, less = found.log_harm, found.log_safe
            for i, gate in enumerate(gates):
                harm[gate.name], safe[gate.name] = more[i], less[i]
    for gate, test in zip(shift_gates(plan), tests.shifts, strict=True):
        harm[gate.name], safe[gate.name] = test.log_harm, test.log_safe
    above = tests.limits.log_above if limits(plan) else np.zeros(0)
    return Signs(harm, safe, {name: above[i] for i, (name, _) in enumerate(limits(plan))})


def reached(log_e: FloatArray, level: float) -> NDArray[np.bool_]:
    """Whether evidence has reached ``1 / level``; what is not known has not."""
    with np.errstate(invalid="ignore"):
        found: NDArray[np.bool_] = log_e >= math.log(1 / level)
    return found
