"""Is the model as good on labelled traffic as it was at evaluation? (MON-5)

Labels come late, partly, corrected: nothing is remembered, each judgement joins predictions and the newest
revision of their labels anew, over the last window and over the last eight, both ending ``label_delay`` before
the window's end. The short span sees a sudden loss, the long one a gradual loss or one with few labels.

For each span the metric gets a confidence interval (bootstrap over rows for its spread, normal quantile,
Bonferroni over the spans). The limit is the metric at evaluation, made worse by ``tolerance``.

* FAIL: some span's whole interval lies beyond the limit: the loss is proven, one-sided, with ``confidence``.
* INCONCLUSIVE: too few labelled rows, too little coverage, no evaluation to compare with, or the newest
  span's value lies beyond the limit without proof.
* PASS: the value lies within the limit, and nothing proves otherwise. ``numbers["certain"]`` says whether the
  whole interval does.

The value at evaluation is taken as the promise the version was released on. It is itself measured on a holdout:
where losses have heavy tails, leave room in ``tolerance`` (docs/explanation/drift.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

from windtunnel.evidence import Outcome
from windtunnel.spec import Performance
from windtunnel.spec.evaluation import KNOWN_METRICS

#: Trailing spans, in windows.
SPANS = (1, 8)
RESAMPLES = 200
#: Rows a bootstrap looks at; more would only cost time.
MAX_ROWS = 50_000

Compute = Callable[[str, Any, Any], float | None]


@dataclass(frozen=True, slots=True)
class PerformanceResult:
    """What ``judge`` found; ``numbers["spans"]`` has one entry per span, shortest first."""

    outcome: Outcome
    reason: str
    numbers: dict[str, Any] = field(default_factory=dict)
    thresholds: dict[str, Any] = field(default_factory=dict)


def limit(metric: str, reference: float, tolerance: float) -> float:
    """The worst value that is still fine."""
    worse = 1.0 if KNOWN_METRICS[metric] == "lower" else -1.0
    return reference + worse * tolerance * abs(reference)


def judge(
    reference_value: float | None,
    frames: Sequence[Any],
    performance: Performance,
    min_rows: int,
    *,
    seed: int = 0,
    compute: Compute | None = None,
) -> PerformanceResult:
    """Judge trailing spans of predictions with their labels.

    Args:
        reference_value: the metric at evaluation; None when it was not measured.
        frames: one DataFrame per span, the newest and shortest first: the champion's rows old enough to have
            labels, columns ``prediction`` and ``label`` (missing where none came).
        min_rows: fewer labelled rows than this, and a span is not judged.
        seed: of the bootstrap; the same rows give the same verdict.
        compute: ``windtunnel.evaluation.metrics.compute`` unless told: ``(name, y, p) -> float``, None if undefined.
    """
    if compute is None:
        from windtunnel.evaluation.metrics import compute as known

        compute = known
    thresholds: dict[str, Any] = {
        "metric": performance.metric,
        "tolerance": performance.tolerance,
        "min_coverage": performance.min_coverage,
        "min_rows": min_rows,
        "confidence": performance.confidence,
    }
    if reference_value is None:
        return PerformanceResult(
            Outcome.INCONCLUSIVE,
            f"{performance.metric} was not measured at evaluation, so there is nothing to compare with",
            thresholds=thresholds,
        )
    bound = limit(performance.metric, reference_value, performance.tolerance)
    thresholds |= {"reference": reference_value, "limit": bound}
    z = NormalDist().inv_cdf(1 - (1 - performance.confidence) / max(1, len(frames)))
    spans = [_span(frame, performance, min_rows, z, bound, seed, compute) for frame in frames]
    numbers: dict[str, Any] = {"spans": spans}
    judged = [span for span in spans if span["outcome"] != str(Outcome.INCONCLUSIVE) or "value" in span]
    for span in judged:
        if span["outcome"] == str(Outcome.FAIL):
            return PerformanceResult(Outcome.FAIL, _reason(span, performance.metric, bound), numbers, thresholds)
    if not judged:
        why = spans[-1]["reason"] if spans else "no rows"
        return PerformanceResult(Outcome.INCONCLUSIVE, why, numbers, thresholds)
    newest = judged[0]
    numbers["certain"] = newest["certain"]
    return PerformanceResult(
        Outcome(newest["outcome"]), _reason(newest, performance.metric, bound), numbers, thresholds
    )


def _span(
    frame: Any, performance: Performance, min_rows: int, z: float, bound: float, seed: int, compute: Compute
) -> dict[str, Any]:
    """One span as JSON values; ``value`` is there only if it was measured."""
    import numpy as np

    rows = len(frame)
    known = frame[frame["label"].notna() & frame["prediction"].notna()] if rows else frame
    labelled = len(known)
    coverage = labelled / rows if rows else 0.0
    span: dict[str, Any] = {"rows": rows, "labelled": labelled, "coverage": coverage}
    unknown = str(Outcome.INCONCLUSIVE)
    if labelled < min_rows:
        return span | {
            "outcome": unknown,
            "reason": f"{labelled} of {rows} rows have a label, at least {min_rows} are needed",
        }
    if coverage < performance.min_coverage:
        return span | {
            "outcome": unknown,
            "reason": f"{coverage:.0%} of {rows} rows have a label, at least {performance.min_coverage:.0%} are needed",
        }
    y, p = known["label"].to_numpy(), known["prediction"].to_numpy()
    generator = np.random.default_rng(seed)
    try:
        value = compute(performance.metric, y, p)
        if value is None:
            return span | {"outcome": unknown, "reason": f"{performance.metric} is not defined on these rows"}
        spread = _spread(compute, performance.metric, y, p, generator)
    except (ValueError, TypeError, ArithmeticError) as error:
        return span | {"outcome": unknown, "reason": f"{performance.metric} cannot be computed: {error}"}
    if not np.isfinite(value) or not np.isfinite(spread):
        return span | {"outcome": unknown, "reason": f"{performance.metric} is not finite over {labelled} rows"}
    low, high = value - z * spread, value + z * spread
    lower_is_better = KNOWN_METRICS[performance.metric] == "lower"
    proven = low > bound if lower_is_better else high < bound
    beyond = value > bound if lower_is_better else value < bound
    certain = high <= bound if lower_is_better else low >= bound
    outcome = Outcome.FAIL if proven else Outcome.INCONCLUSIVE if beyond else Outcome.PASS
    return span | {
        "outcome": str(outcome),
        "value": value,
        "low": low,
        "high": high,
        "standard_error": spread,
        "certain": certain,
    }


def _spread(compute: Compute, metric: str, y: Any, p: Any, generator: Any) -> float:
    """Standard error of the metric by the bootstrap over rows (Efron 1979); NaN when too few resamples have a value."""
    import numpy as np

    n = len(y)
    size = min(n, MAX_ROWS)
    values = []
    for _ in range(RESAMPLES):
        chosen = generator.integers(0, n, size)
        try:
            values.append(compute(metric, y[chosen], p[chosen]))
        except (ValueError, ArithmeticError):
            continue
    # A resample may hold one class only, where a metric has no value.
    finite = np.array([value for value in values if value is not None and np.isfinite(value)])
    if finite.size < RESAMPLES // 2:
        return float("nan")
    return float(finite.std(ddof=1) * np.sqrt(size / n))


def _reason(span: dict[str, Any], metric: str, bound: float) -> str:
    shown = (
        f"{metric} {span['value']:.4g} ({span['low']:.4g} to {span['high']:.4g}) over {span['labelled']} labelled rows"
    )
    if span["outcome"] == str(Outcome.FAIL):
        return f"{shown} is worse than the limit {bound:.4g}"
    if span["outcome"] == str(Outcome.INCONCLUSIVE):
        return f"{shown} lies beyond the limit {bound:.4g}, but not for sure"
    return f"{shown} is within the limit {bound:.4g}"
