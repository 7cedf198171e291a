"""Each gate's share of a look: take in what is new, say what it shows.

A gate never decides; it returns its next state and a ``Finding``. A finding that could not be made says why
(``missing``), and that is not the same as a finding of nothing.
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
from windtunnel.stats.binning import loss_points
from windtunnel.stats.compare import Boundary, TwoSample
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


def _rate_finding(gate: PlanGate, state: GateState, beta: float, what: str, missing: str | None) -> Finding:
    """Findings of the two gates that compare shares: errors and slow requests."""
    test = state.test
    assert isinstance(test, TwoSample)
    a, b = test.champion, test.candidate
    interval = test.difference(gate.alpha)
    harm, safe = _reached(test.log_harm, gate.alpha), _reached(test.log_safe, beta)
    if missing is None and test.weight <= 0:
        missing = f"{gate.name}: no requests on both arms to compare yet"
    sentence = (
        f"{what} {percent(b.mean)} of {b.n:.0f} requests against the champion's {percent(a.mean)} of {a.n:.0f}"
        f" (margin {percent(gate.margin)}; evidence of harm {_e(test.log_harm) or 0:.3g}, bar {1 / gate.alpha:.3g})"
    )
    numbers = {
        "champion": {"n": a.n, "rate": a.mean},
        "candidate": {"n": b.n, "rate": b.mean},
        "margin": gate.margin,
        "difference": interval.estimate if interval else None,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "e_harm": _e(test.log_harm),
        "e_safe": _e(test.log_safe),
        "bar": 1 / gate.alpha,
        "harm": harm,
        "non_inferior": safe,
    }
    if gate.metric == "latency":
        numbers["threshold_ms"] = state.threshold_ms
    return Finding(gate.name, harm, safe, missing, sentence, numbers)


def look_errors(gate: PlanGate, state: GateState, block: Block | None, beta: float) -> tuple[GateState, Finding]:
    """Shares of failed requests."""
    assert isinstance(state.test, TwoSample)
    if block is not None and block.both:
        test = state.test.update(
            _binary(block.champion.requests, block.champion.errors),
            _binary(block.candidate.requests, block.candidate.errors),
            Boundary(1.0, gate.margin),
            prior=0.01,
        )
        state = replace(state, test=test)
    return state, _rate_finding(gate, state, beta, "errors: candidate", None)


def slow_threshold(quantile: float, since_start: ArmCounters | None, ever: ArmCounters) -> float | None:
    """What counts as slow: the champion's quantile, from its requests in this rollout or, while these are few, from
    all its router has counted. None while that is less than 50 requests, or beyond the histogram."""
    for source in (since_start, ever):
        if source is not None and source.latency.total >= THRESHOLD_REQUESTS:
            bound = source.latency.quantile(quantile)
            return bound if bound is not None and math.isfinite(bound) else None
    return None


def look_latency(gate: PlanGate, state: GateState, block: Block | None, beta: float) -> tuple[GateState, Finding]:
    """Shares of requests slower than the champion's own quantile, both arms held against the same threshold."""
    assert isinstance(state.test, TwoSample)
    bound = state.threshold_ms
    if bound is None:
        missing = f"{gate.name}: the champion has answered fewer than {THRESHOLD_REQUESTS} requests to say what is slow"
        return state, _rate_finding(gate, state, beta, "slow: candidate", missing)
    if block is not None and block.both:
        slow, slow_b = block.champion.latency, block.candidate.latency
        test = state.test.update(
            _binary(slow.total, slow.above(bound)),
            _binary(slow_b.total, slow_b.above(bound)),
            Boundary(1.0, gate.margin),
            prior=1 - gate.quantile,
        )
        state = replace(state, test=test)
    return state, _rate_finding(gate, state, beta, f"slower than {bound:.3g} ms: candidate", None)


def _fresh(state: GateState, champion: FloatArray, candidate: FloatArray) -> tuple[FloatArray, FloatArray, bool]:
    """What came since the counts already tested, and whether a count went back (labels were corrected)."""
    if state.taken is None:
        return champion, candidate, False
    new_a, new_b = champion - np.asarray(state.taken[0]), candidate - np.asarray(state.taken[1])
    # Spread rows are rounded to a billionth; a thousandth of a row is noise, a whole row is a correction.
    back = bool((new_a < -1e-3).any() or (new_b < -1e-3).any())
    return np.maximum(new_a, 0.0), np.maximum(new_b, 0.0), back


def _take(
    state: GateState, champion: FloatArray, candidate: FloatArray
) -> tuple[GateState, FloatArray, FloatArray, bool]:
    """Open a block of rows. It closes when both arms have new rows; corrected rows are skipped, never counted twice."""
    new_a, new_b, back = _fresh(state, champion, candidate)
    if back:
        new_a, new_b = np.zeros_like(new_a), np.zeros_like(new_b)
    if back or (new_a.sum() > 0 and new_b.sum() > 0):
        state = replace(state, taken=(tuple(champion.tolist()), tuple(candidate.tolist())))
    return state, new_a, new_b, back


def look_quality(
    gate: PlanGate,
    state: GateState,
    numbers: QualityNumbers | None,
    error: str | None,
    bound: float | None,
    beta: float,
) -> tuple[GateState, Finding]:
    """Mean loss of labelled rows, clipped; the margin is a fraction of the champion's."""
    assert isinstance(state.test, TwoSample)
    missing: str | None = None
    trouble: tuple[str, str] | None = None
    if error is not None:
        missing = f"{gate.name}: labelled rows cannot be read: {error}"
    elif numbers is None:
        missing = f"{gate.name}: no labelled rows yet"
    elif numbers.loss != gate.loss:
        missing = f"{gate.name}: expected the loss {gate.loss!r}, found {numbers.loss!r}"
    elif bound is not None and numbers.bound != bound:
        missing = f"{gate.name}: losses were clipped at {numbers.bound:g}, earlier at {bound:g}"
    else:
        champion, candidate = np.asarray(numbers.champion.cells), np.asarray(numbers.candidate.cells)
        state, new_a, new_b, back = _take(state, champion, candidate)
        assert isinstance(state.test, TwoSample)
        boundary = Boundary(1 + gate.margin, 0.0)
        state = replace(state, test=state.test.update(new_a, new_b, boundary, points=loss_points(), prior=0.1))
        if back:
            trouble = ("labels-corrected", f"{gate.name}: labels were corrected; these rows are left out")
        if numbers.candidate.invalid:
            trouble = (
                "nan",
                f"{gate.name}: the candidate's answer is not a number in {numbers.candidate.invalid} labelled rows",
            )
    test = state.test
    assert isinstance(test, TwoSample)
    a, b = test.champion, test.candidate
    if missing is None and min(a.n, b.n) < gate.min_rows:
        missing = (
            f"{gate.name}: {b.n:.0f} labelled rows of the candidate and {a.n:.0f} of the champion,"
            f" needs {gate.min_rows} of each"
        )
    scale = numbers.bound if numbers is not None else (bound or 1.0)
    interval = test.difference(gate.alpha)
    harm, safe = _reached(test.log_harm, gate.alpha), _reached(test.log_safe, beta)
    mean_a = None if a.mean is None else a.mean * scale
    mean_b = None if b.mean is None else b.mean * scale
    words = (
        f"quality: candidate's mean {gate.loss.replace('_', ' ')} loss "
        f"{'unknown' if mean_b is None else format(mean_b, '.4g')} on {b.n:.0f} labelled rows against the champion's "
        f"{'unknown' if mean_a is None else format(mean_a, '.4g')} on {a.n:.0f} (margin {percent(gate.margin)};"
        f" evidence of harm {_e(test.log_harm) or 0:.3g}, bar {1 / gate.alpha:.3g})"
    )
    plain = {
        "champion": {"n": a.n, "mean": mean_a, "invalid": numbers.champion.invalid if numbers else None},
        "candidate": {"n": b.n, "mean": mean_b, "invalid": numbers.candidate.invalid if numbers else None},
        "margin": gate.margin,
        "loss": gate.loss,
        "bound": scale if numbers is not None else bound,
        "difference": interval.estimate * scale if interval else None,
        "low": interval.low * scale if interval else None,
        "high": interval.high * scale if interval else None,
        "e_harm": _e(test.log_harm),
        "e_safe": _e(test.log_safe),
        "bar": 1 / gate.alpha,
        "harm": harm,
        "non_inferior": safe,
    }
    return state, Finding(gate.name, harm, safe, missing, words, plain, trouble)


def look_prediction(
    gate: PlanGate,
    state: GateState,
    numbers: PredictionNumbers | None,
    error: str | None,
    edges: tuple[float, ...] | tuple[str, ...] | None,
    beta: float,
) -> tuple[GateState, Finding]:
    """Distance between the two arms' distributions of predictions."""
    assert isinstance(state.test, ShiftTest)
    missing: str | None = None
    trouble: tuple[str, str] | None = None
    gap: float | None = None
    n_a = n_b = 0.0
    if error is not None:
        missing = f"{gate.name}: predictions cannot be read: {error}"
    elif numbers is None:
        missing = f"{gate.name}: too few predictions of the champion yet"
    elif edges is not None and tuple(numbers.edges) != tuple(edges):
        missing = f"{gate.name}: predictions were counted in other bins than before"
    else:
        champion = np.asarray(numbers.champion, dtype=np.float64)
        candidate = np.asarray(numbers.candidate, dtype=np.float64)
        n_a, n_b = float(champion.sum()), float(candidate.sum())
        gap = shift.distance(champion, candidate, ordered=numbers.ordered)
        state, new_a, new_b, back = _take(state, champion, candidate)
        assert isinstance(state.test, ShiftTest)
        state = replace(state, test=state.test.update(new_a, new_b, gate.margin, ordered=numbers.ordered))
        if back:
            trouble = ("predictions-changed", f"{gate.name}: counted predictions became fewer; left out")
        if numbers.candidate_invalid:
            trouble = ("nan", f"{gate.name}: the candidate answered {numbers.candidate_invalid} times with no number")
    test = state.test
    assert isinstance(test, ShiftTest)
    if missing is None and min(test.n_a, test.n_b) < gate.min_rows:
        missing = (
            f"{gate.name}: {test.n_b:.0f} predictions of the candidate and {test.n_a:.0f} of the champion compared,"
            f" needs {gate.min_rows} of each"
        )
    harm, safe = _reached(test.log_harm, gate.alpha), _reached(test.log_safe, beta)
    wide_a, wide_b = shift.dkw_radius(n_a, gate.alpha / 2), shift.dkw_radius(n_b, gate.alpha / 2)
    wide = None if wide_a is None or wide_b is None else wide_a + wide_b
    words = (
        f"prediction: distance {'unknown' if gap is None else format(gap, '.3g')} between {n_b:.0f} predictions of the "
        f"candidate and {n_a:.0f} of the champion (margin {gate.margin:.3g}; evidence of harm "
        f"{_e(test.log_harm) or 0:.3g}, bar {1 / gate.alpha:.3g})"
    )
    plain = {
        "champion": {"n": n_a},
        "candidate": {"n": n_b},
        "margin": gate.margin,
        "difference": gap,
        "low": None if gap is None or wide is None else max(0.0, gap - wide),
        "high": None if gap is None or wide is None else min(1.0, gap + wide),
        "e_harm": _e(test.log_harm),
        "e_safe": _e(test.log_safe),
        "bar": 1 / gate.alpha,
        "harm": harm,
        "non_inferior": safe,
    }
    return state, Finding(gate.name, harm, safe, missing, words, plain, trouble)


def look(
    gate: PlanGate,
    state: GateState | None,
    block: Block | None,
    evidence: Evidence,
    beta: float,
    *,
    loss_bound: float | None,
    prediction_edges: tuple[float, ...] | tuple[str, ...] | None,
) -> tuple[GateState, Finding]:
    """One gate's look, whichever metric it is on."""
    if state is None:
        state = GateState(ShiftTest() if gate.metric == "prediction" else TwoSample())
    match gate.metric:
        case "errors":
            return look_errors(gate, state, block, beta)
        case "latency":
            return look_latency(gate, state, block, beta)
        case "quality":
            return look_quality(gate, state, evidence.quality, evidence.quality_error, loss_bound, beta)
        case "prediction":
            return look_prediction(gate, state, evidence.prediction, evidence.prediction_error, prediction_edges, beta)
