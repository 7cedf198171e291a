"""Each gate's share of a look: first what is new for its test (``take``), then what its test shows (``say``).

A gate never decides; between the two, all tests of a look are brought up to date together (``comparisons.py``). A
finding that could not be made says why (``missing``), and that is not the same as a finding of nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from windtunnel.rollout.evidence import ArmCounters, Evidence, PredictionNumbers, QualityNumbers
from windtunnel.rollout.plan import PlanGate
from windtunnel.rollout.state import GateState
from windtunnel.stats import shift
from windtunnel.stats.betting import FloatArray, e_value
from windtunnel.stats.compare import TwoSample
from windtunnel.stats.shift import ShiftTest

#: Champion requests needed before its latency quantile is taken as the threshold of "slow".
THRESHOLD_REQUESTS = 50


@dataclass(frozen=True, slots=True)
class Finding:
    """What one gate (or limit) shows at this look.

    Attributes:
        harm: evidence of harm has reached its bar.
        safe: evidence that the candidate is within the margin has reached its bar.
        missing: why nothing can be said; None when something can.
        trouble: (row, sentence) of something wrong with the numbers themselves.
        sentence: the numbers in words.
        numbers: the numbers.
    """

    name: str
    harm: bool
    safe: bool
    missing: str | None
    sentence: str
    numbers: dict[str, Any] = field(default_factory=dict)
    trouble: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """What a gate has to look at.

    Attributes:
        state: its state, with what has been taken noted; its test is not brought up to date yet.
        block: new observations of champion and candidate, each of shape (P,); None when nothing can be compared.
        missing, trouble: as in ``Finding``.
        numbers: what the rows are summed up in, for the words.
    """

    state: GateState
    block: tuple[FloatArray, FloatArray] | None = None
    missing: str | None = None
    trouble: tuple[str, str] | None = None
    numbers: QualityNumbers | PredictionNumbers | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """What both arms did since the open block began; None of it when nothing new can be compared."""

    champion: ArmCounters
    candidate: ArmCounters

    @property
    def both(self) -> bool:
        return self.champion.requests > 0 and self.candidate.requests > 0


def percent(share: float | None) -> str:
    """``1.25 %``; three digits are enough to read."""
    return "unknown" if share is None else f"{100 * share:.3g} %"


def _reached(log_e: float | None, level: float) -> bool:
    return log_e is not None and log_e >= math.log(1 / level)


def _e(log_e: float | None) -> float | None:
    return None if log_e is None else float(f"{e_value(log_e):.6g}")


def _binary(n: int, hits: int) -> FloatArray:
    return np.array([n - hits, hits], dtype=np.float64)


def begin(gate: PlanGate, champion: ArmCounters | None) -> GateState:
    """A gate that has seen nothing.

    Args:
        champion: what the router had counted of the champion before the rollout: good for better bets.
    """
    if gate.metric == "prediction":
        return GateState(ShiftTest())
    test = TwoSample.exact() if gate.rates and gate.margin == 0 else TwoSample()
    if gate.metric == "errors" and champion is not None and champion.requests:
        test = test.believing(champion.requests, champion.errors, champion.errors)
    return GateState(test)


def slow_threshold(quantile: float, since_start: ArmCounters | None, ever: ArmCounters) -> float | None:
    """What counts as slow: the champion's quantile, from its requests in this rollout or, while these are few, from
    all its router has counted. None while that is less than 50 requests, or beyond the histogram."""
    for source in (since_start, ever):
        if source is not None and source.latency.total >= THRESHOLD_REQUESTS:
            bound = source.latency.quantile(quantile)
            return bound if bound is not None and math.isfinite(bound) else None
    return None


# -- taking


def take(gate: PlanGate, state: GateState, block: Block | None, evidence: Evidence, held: Held) -> Taken:
    """What is new for one gate, whichever metric it is on.

    Args:
        block: the router's counts of its segment (or of all requests) since its open block began.
        held: what the rollout holds fixed.
    """
    match gate.metric:
        case "errors":
            return _take_errors(state, block)
        case "latency":
            return _take_latency(gate, state, block)
        case "quality":
            return _take_losses(gate, state, evidence.quality, evidence.quality_error, held.loss_bound)
        case "value":
            error = evidence.values_error.get(gate.name)
            return _take_losses(gate, state, evidence.values.get(gate.name), error, 1.0)
        case "prediction":
            edges = held.prediction_edges
            return _take_predictions(gate, state, evidence.prediction, evidence.prediction_error, edges)


@dataclass(frozen=True, slots=True)
class Held:
    """What must stay the same through a rollout."""

    loss_bound: float | None
    prediction_edges: tuple[float, ...] | tuple[str, ...] | None


def _take_errors(state: GateState, block: Block | None) -> Taken:
    if block is None or not block.both:
        return Taken(state)
    a, b = block.champion, block.candidate
    return Taken(state, (_binary(a.requests, a.errors), _binary(b.requests, b.errors)))


def _take_latency(gate: PlanGate, state: GateState, block: Block | None) -> Taken:
    bound = state.threshold_ms
    if bound is None:
        missing = f"{gate.name}: the champion has answered fewer than {THRESHOLD_REQUESTS} requests to say what is slow"
        return Taken(state, missing=missing)
    if block is None or not block.both:
        return Taken(state)
    a, b = block.champion.latency, block.candidate.latency
    if not a.total or not b.total:
        return Taken(state)
    return Taken(state, (_binary(a.total, a.above(bound)), _binary(b.total, b.above(bound))))


def _take_losses(
    gate: PlanGate, state: GateState, numbers: QualityNumbers | None, error: str | None, bound: float | None
) -> Taken:
    """Losses of labelled rows, or values turned into losses: clipped, scaled to [0, 1]."""
    what = "labelled rows" if gate.metric == "quality" else "values"
    if error is not None:
        return Taken(state, missing=f"{gate.name}: {what} cannot be read: {error}")
    if numbers is None:
        return Taken(state, missing=f"{gate.name}: no {what} yet")
    if gate.metric == "quality" and numbers.loss != gate.loss:
        return Taken(
            state, missing=f"{gate.name}: expected the loss {gate.loss!r}, found {numbers.loss!r}", numbers=numbers
        )
    if bound is not None and numbers.bound != bound:
        missing = f"{gate.name}: losses were clipped at {numbers.bound:g}, earlier at {bound:g}"
        return Taken(state, missing=missing, numbers=numbers)
    state, new_a, new_b, back = _open(state, np.asarray(numbers.champion.cells), np.asarray(numbers.candidate.cells))
    trouble: tuple[str, str] | None = None
    if back:
        trouble = ("labels-corrected", f"{gate.name}: {what} were corrected; these rows are left out")
    if numbers.candidate.invalid:
        trouble = (
            "nan",
            f"{gate.name}: the candidate's answer is not a number in {numbers.candidate.invalid} {what}",
        )
    return Taken(state, _both(new_a, new_b), None, trouble, numbers)


def _take_predictions(
    gate: PlanGate,
    state: GateState,
    numbers: PredictionNumbers | None,
    error: str | None,
    edges: tuple[float, ...] | tuple[str, ...] | None,
) -> Taken:
    if error is not None:
        return Taken(state, missing=f"{gate.name}: predictions cannot be read: {error}")
    if numbers is None:
        return Taken(state, missing=f"{gate.name}: too few predictions of the champion yet")
    if edges is not None and tuple(numbers.edges) != tuple(edges):
        return Taken(state, missing=f"{gate.name}: predictions were counted in other bins than before", numbers=numbers)
    champion = np.asarray(numbers.champion, dtype=np.float64)
    state, new_a, new_b, back = _open(state, champion, np.asarray(numbers.candidate, dtype=np.float64))
    trouble: tuple[str, str] | None = None
    if back:
        trouble = ("predictions-changed", f"{gate.name}: counted predictions became fewer; left out")
    if numbers.candidate_invalid:
        trouble = ("nan", f"{gate.name}: the candidate answered {numbers.candidate_invalid} times with no number")
    return Taken(state, _both(new_a, new_b), None, trouble, numbers)


def _both(a: FloatArray, b: FloatArray) -> tuple[FloatArray, FloatArray] | None:
    return (a, b) if a.sum() > 0 and b.sum() > 0 else None


def _open(
    state: GateState, champion: FloatArray, candidate: FloatArray
) -> tuple[GateState, FloatArray, FloatArray, bool]:
    """Open a block of rows: what came since the counts already tested, and whether a count went back.

    It closes when both arms have new rows; corrected rows are skipped, never counted twice.
    """
    new_a, new_b = champion, candidate
    if state.taken is not None:
        new_a, new_b = champion - np.asarray(state.taken[0]), candidate - np.asarray(state.taken[1])
    # Spread rows are rounded to a billionth; a thousandth of a row is noise, a whole row is a correction.
    back = bool((new_a < -1e-3).any() or (new_b < -1e-3).any())
    new_a, new_b = np.maximum(new_a, 0.0), np.maximum(new_b, 0.0)
    if back:
        new_a, new_b = np.zeros_like(new_a), np.zeros_like(new_b)
    if back or (new_a.sum() > 0 and new_b.sum() > 0):
        state = replace(state, taken=(tuple(champion.tolist()), tuple(candidate.tolist())))
    return state, new_a, new_b, back


# -- saying


def say(gate: PlanGate, taken: Taken, beta: float, held: Held) -> Finding:
    """What one gate's test shows; ``taken.state`` holds the test after this look."""
    if gate.rates:
        return _say_rates(gate, taken, beta)
    if gate.metric == "prediction":
        return _say_predictions(gate, taken, beta)
    return _say_losses(gate, taken, beta, held)


def _evidence(gate: PlanGate, log_harm: float | None, log_safe: float | None, beta: float) -> dict[str, Any]:
    found = {
        "e_harm": _e(log_harm),
        "e_safe": _e(log_safe),
        "bar": 1 / gate.alpha,
        "harm": _reached(log_harm, gate.alpha),
        "non_inferior": _reached(log_safe, beta),
    }
    if gate.bound_safe is not None:
        found["superior_by" if gate.superior is not None else "within"] = abs(gate.bound_safe) * gate.scale
    return found


def _bars(shown: dict[str, Any]) -> str:
    return f"evidence of harm {shown['e_harm'] or 0:.3g}, bar {shown['bar']:.3g}"


def _say_rates(gate: PlanGate, taken: Taken, beta: float) -> Finding:
    """Findings of the two gates that compare shares: errors and slow requests."""
    test, bound = taken.state.test, taken.state.threshold_ms
    assert isinstance(test, TwoSample)
    a, b = test.champion, test.candidate
    interval = test.difference(gate.alpha)
    what = "errors" if gate.metric == "errors" else "slow" if bound is None else f"slower than {bound:.3g} ms"
    if gate.segment is not None:
        what = f"{what} in segment {gate.segment}"
    shown = _evidence(gate, test.log_harm, test.log_safe, beta)
    bars = _bars(shown)
    missing = taken.missing
    if missing is None and test.weight <= 0:
        missing = f"{gate.name}: no requests on both arms to compare yet"
    sentence = (
        f"{what}: candidate {percent(b.mean)} of {b.n:.0f} requests against the champion's {percent(a.mean)} of"
        f" {a.n:.0f} (margin {percent(gate.margin)}; {bars})"
    )
    numbers = {
        "champion": {"n": a.n, "rate": a.mean},
        "candidate": {"n": b.n, "rate": b.mean},
        "margin": gate.margin,
        "difference": interval.estimate if interval else None,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        **shown,
    }
    if gate.metric == "latency":
        numbers["threshold_ms"] = bound
    return Finding(gate.name, shown["harm"], shown["non_inferior"], missing, sentence, numbers)


def _say_losses(gate: PlanGate, taken: Taken, beta: float, held: Held) -> Finding:
    test, found = taken.state.test, taken.numbers
    assert isinstance(test, TwoSample)
    assert not isinstance(found, PredictionNumbers)
    a, b = test.champion, test.candidate
    quality = gate.metric == "quality"
    what = "labelled rows" if quality else "rows"
    shown = _evidence(gate, test.log_harm, test.log_safe, beta)
    bars = _bars(shown)
    missing = taken.missing
    if missing is None and min(a.n, b.n) < gate.min_rows:
        missing = (
            f"{gate.name}: {b.n:.0f} {what} of the candidate and {a.n:.0f} of the champion,"
            f" needs {gate.min_rows} of each"
        )
    scale = (found.bound if found is not None else held.loss_bound or 1.0) if quality else gate.scale
    interval = test.difference(gate.alpha)
    mean_a, mean_b = _mean(gate, a.mean, scale), _mean(gate, b.mean, scale)
    subject = f"mean {gate.loss.replace('_', ' ')} loss" if quality else "mean"
    margin = percent(gate.margin) if quality else f"{gate.margin * scale:.4g}"
    words = (
        f"{gate.name}: candidate's {subject} {mean_b} on {b.n:.0f} {what} against the champion's "
        f"{mean_a} on {a.n:.0f} (margin {margin}; {bars})"
    )
    # A loss grows as things get worse; a value where higher is better does not.
    sign = -1.0 if gate.better == "higher" else 1.0
    ends = sorted(sign * x * scale for x in (interval.low, interval.high)) if interval else [None, None]
    plain = {
        "champion": {"n": a.n, "mean": mean_a.number, "invalid": found.champion.invalid if found else None},
        "candidate": {"n": b.n, "mean": mean_b.number, "invalid": found.candidate.invalid if found else None},
        "margin": gate.margin if quality else gate.margin * scale,
        "loss": gate.loss if quality else None,
        "bound": scale if found is not None or not quality else held.loss_bound,
        "difference": sign * interval.estimate * scale if interval else None,
        "low": ends[0],
        "high": ends[1],
        **shown,
    }
    return Finding(gate.name, shown["harm"], shown["non_inferior"], missing, words, plain, taken.trouble)


@dataclass(frozen=True, slots=True)
class _Mean:
    number: float | None

    def __str__(self) -> str:
        return "unknown" if self.number is None else format(self.number, ".4g")


def _mean(gate: PlanGate, scaled: float | None, scale: float) -> _Mean:
    """A mean of losses in [0, 1] in the unit people know."""
    if scaled is None:
        return _Mean(None)
    if gate.metric == "quality":
        return _Mean(scaled * scale)
    return _Mean(gate.low + scale * (1 - scaled if gate.better == "higher" else scaled))


def _say_predictions(gate: PlanGate, taken: Taken, beta: float) -> Finding:
    """Distance between the two arms' distributions of predictions."""
    test, found = taken.state.test, taken.numbers
    assert isinstance(test, ShiftTest)
    assert not isinstance(found, QualityNumbers)
    shown = _evidence(gate, test.log_harm, test.log_safe, beta)
    bars = _bars(shown)
    missing = taken.missing
    gap: float | None = None
    n_a = n_b = 0.0
    if missing is None and found is not None:
        champion = np.asarray(found.champion, dtype=np.float64)
        candidate = np.asarray(found.candidate, dtype=np.float64)
        n_a, n_b = float(champion.sum()), float(candidate.sum())
        gap = shift.distance(champion, candidate, ordered=found.ordered)
    if missing is None and min(test.n_a, test.n_b) < gate.min_rows:
        missing = (
            f"{gate.name}: {test.n_b:.0f} predictions of the candidate and {test.n_a:.0f} of the champion compared,"
            f" needs {gate.min_rows} of each"
        )
    wide_a, wide_b = shift.dkw_radius(n_a, gate.alpha / 2), shift.dkw_radius(n_b, gate.alpha / 2)
    wide = None if wide_a is None or wide_b is None else wide_a + wide_b
    words = (
        f"prediction: distance {'unknown' if gap is None else format(gap, '.3g')} between {n_b:.0f} predictions of the "
        f"candidate and {n_a:.0f} of the champion (margin {gate.margin:.3g}; {bars})"
    )
    plain = {
        "champion": {"n": n_a},
        "candidate": {"n": n_b},
        "margin": gate.margin,
        "difference": gap,
        "low": None if gap is None or wide is None else max(0.0, gap - wide),
        "high": None if gap is None or wide is None else min(1.0, gap + wide),
        **shown,
    }
    return Finding(gate.name, shown["harm"], shown["non_inferior"], missing, words, plain, taken.trouble)
