"""Is this window's population another one than the reference's? A calibrated answer (MON-2, MON-3).

For each feature, and for the predictions in the same way, two questions must both be answered yes:

* Would chance alone show this? A two-sample test over the reference's cells: Kolmogorov for numbers,
  chi-squared and likelihood ratio for categories (unseen ones included), and the share of missing values.
  The level of one window is ``false_alarms`` divided by the windows of a month; Benjamini-Hochberg looks
  at all features together. So one feature alone raises at most ``false_alarms`` false alarms a month,
  and so do all of them together while nothing changes.
* Is it large enough to matter? The Kolmogorov distance (numbers), the total variation (categories) or
  the difference in the share of missing values is at least ``min_effect``.

What this does not do: rows are taken as independent. Requests that come in bursts from one client, or a
season shorter than the reference (hour of day), look like drift; see docs/explanation/drift.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from windtunnel.evidence import Outcome
from windtunnel.monitoring.profile import Column, count
from windtunnel.monitoring.reference import Reference
from windtunnel.spec import Drift
from windtunnel.stats import distance

#: Numbers for the eyes (PSI, Jensen-Shannon, Kullback-Leibler) are taken over about this many bins, as is customary.
BINS = 10
#: A window in which only a change of half the population could be found is too small to be called quiet.
BLIND = 0.5
#: Never a larger level than this, however few windows a month has.
MAX_LEVEL = 0.05
PREDICTION_KEY = "prediction"


@dataclass(frozen=True, slots=True)
class Finding:
    """One column, window against reference.

    Attributes:
        outcome: FAIL if it drifted.
        effect: Kolmogorov (numeric) or total variation (categorical) distance, or the difference in the
            share of missing values where that is larger.
        p: p-value of the comparison.
        numbers: everything measured, JSON values.
    """

    outcome: Outcome
    reason: str
    effect: float | None = None
    p: float | None = None
    numbers: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"outcome": str(self.outcome), "reason": self.reason, "effect": self.effect, "p": self.p} | self.numbers


@dataclass(frozen=True, slots=True)
class DriftResult:
    """FAIL: drift found. PASS: none. INCONCLUSIVE: cannot be said.

    Attributes:
        kinds: ``covariate`` (features), ``prediction``; what was found.
        drifted: names of the columns that drifted, the largest effect first; predictions are ``prediction``.
        numbers: per column under ``columns``; rows, level, detectable effect.
    """

    outcome: Outcome
    reason: str
    kinds: tuple[str, ...] = ()
    drifted: tuple[str, ...] = ()
    numbers: dict[str, Any] = field(default_factory=dict)
    thresholds: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WindowSummary:
    """A window counted over the reference's cells; summaries of neighbouring windows add.

    Attributes:
        features: feature name to summary; a feature whose column is absent is absent here.
        prediction: the champion's predictions; None when the window has none.
    """

    rows: int
    features: dict[str, Column]
    prediction: Column | None = None

    def __add__(self, other: WindowSummary) -> WindowSummary:
        """Both windows together; a feature that one of them lacks is lacking."""
        both = self.features.keys() & other.features.keys()
        predictions = [column for column in (self.prediction, other.prediction) if column is not None]
        return WindowSummary(
            rows=self.rows + other.rows,
            features={name: self.features[name] + other.features[name] for name in self.features if name in both},
            prediction=sum(predictions[1:], predictions[0]) if predictions else None,
        )


def windows_per_month(seconds: float) -> float:
    """How many windows of this length a month of 30 days has."""
    return 30 * 86_400 / seconds


def level(drift: Drift, per_month: float) -> float:
    """Level of one feature's test in one window."""
    return min(MAX_LEVEL, drift.false_alarms / max(1.0, per_month))


def summarize_window(reference: Reference, frame: Any, *, champion: str | None = None) -> WindowSummary:
    """Count a window's rows over the reference's cells.

    Args:
        frame: rows of the prediction log: ``feature_NAME``, ``prediction``, ``version``, ``shadow``. Mirrored
            rows (shadow) are left out. Features count all other rows: they say what the world sends.
        champion: only this version's predictions count; all of them when None.
    """
    if "shadow" in frame.columns:
        frame = frame[~frame["shadow"].fillna(False).astype(bool)]
    features = {
        name: count(frame[f"feature_{name}"], cells)
        for name, cells in reference.features.items()
        if f"feature_{name}" in frame.columns
    }
    prediction = None
    if reference.prediction is not None and "prediction" in frame.columns:
        own = frame if champion is None or "version" not in frame.columns else frame[frame["version"] == champion]
        prediction = count(own["prediction"], reference.prediction)
    return WindowSummary(rows=len(frame), features=features, prediction=prediction)


def judge(
    reference: Reference,
    frame: Any,
    drift: Drift,
    min_rows: int,
    windows_per_month: float,
    *,
    champion: str | None = None,
) -> DriftResult:
    """Judge the rows of one window (see ``summarize_window`` for ``frame`` and ``judge_summary`` for the rest)."""
    return judge_summary(
        reference, summarize_window(reference, frame, champion=champion), drift, min_rows, windows_per_month
    )


def judge_summary(
    reference: Reference, window: WindowSummary, drift: Drift, min_rows: int, windows_per_month: float
) -> DriftResult:
    """Judge a window that was already counted.

    Args:
        min_rows: fewer values than this in a column, and it is INCONCLUSIVE.
        windows_per_month: how many windows share the month's false alarms.
    """
    alpha = level(drift, windows_per_month)
    pairs: dict[str, tuple[Column, Column | None]] = {
        name: (column, window.features.get(name))
        for name, column in reference.features.items()
        if drift.features is None or name in drift.features
    }
    if drift.predictions and reference.prediction is not None:
        pairs[PREDICTION_KEY] = (reference.prediction, window.prediction)
    thresholds = {
        "false_alarms": drift.false_alarms,
        "level": alpha,
        "min_effect": drift.min_effect,
        "min_rows": min_rows,
    }
    numbers: dict[str, Any] = {"rows": window.rows, "reference_rows": reference.rows}
    if window.rows < min_rows:
        return DriftResult(
            Outcome.INCONCLUSIVE,
            f"{window.rows} rows in the window, at least {min_rows} are needed",
            numbers=numbers,
            thresholds=thresholds,
        )
    family = max(1, len(pairs))
    findings = {name: _compare(own, other, min_rows, alpha / family) for name, (own, other) in pairs.items()}
    # What could not be judged stays in the family (p = 1), so that the others' level does not hang on it.
    p_values = [1.0 if finding.p is None else finding.p for finding in findings.values()]
    for name, stands_out in zip(findings, distance.benjamini_hochberg(p_values, alpha), strict=True):
        findings[name] = _settle(findings[name], stands_out, drift.min_effect)
    numbers["detectable"] = distance.detectable(alpha / family, window.rows, reference.rows)
    numbers["columns"] = {name: finding.to_dict() for name, finding in findings.items()}
    return _sum_up(findings, numbers, thresholds)


def _compare(own: Column, other: Column | None, min_rows: int, alpha: float) -> Finding:
    """Measure one column; its ``p`` is None where it cannot be judged."""
    if other is None:
        return Finding(Outcome.INCONCLUSIVE, "the window has no such column")
    if other.rows < min_rows:
        return Finding(
            Outcome.INCONCLUSIVE, f"{other.rows} rows, at least {min_rows} are needed", numbers={"n": other.n}
        )
    numbers: dict[str, Any] = {"n": other.n, "missing": other.missing, "invalid": other.invalid}
    missing_gap = abs(other.missing / other.rows - own.missing / own.rows)
    p_missing = 1.0
    if own.missing + other.missing:
        p_missing = distance.counts_p((other.n, other.missing), (own.n, own.missing))
    if other.n < min_rows:  # too few values left to compare, but their absence may itself be the finding
        numbers |= {"missing_share": other.missing / other.rows}
        finding = f"only {other.n} of {other.rows} rows have a value, at least {min_rows} are needed"
        return Finding(Outcome.INCONCLUSIVE, finding, missing_gap, p_missing, numbers)
    if distance.detectable(alpha, other.n, own.n) > BLIND:
        return Finding(
            Outcome.INCONCLUSIVE, f"{other.n} rows: only a change of half of them could be seen", numbers=numbers
        )
    effect, p, more = _numeric(own, other) if own.kind == "numeric" else _categorical(own, other)
    numbers |= more
    if own.missing + other.missing:
        # Two questions in one column share its level.
        numbers |= {"missing_share": other.missing / other.rows, "missing_share_reference": own.missing / own.rows}
        p = min(1.0, 2 * min(p, p_missing))
        effect = max(effect, missing_gap)
    return Finding(Outcome.PASS, "", effect, p, numbers)


def _numeric(own: Column, other: Column) -> tuple[float, float, dict[str, Any]]:
    found = distance.kolmogorov(own.counts, other.counts)
    p = distance.kolmogorov_p(found, other.n, own.n)
    groups = distance.merge_cells(own.counts, BINS)
    a, b = distance.group(own.counts, groups), distance.group(other.counts, groups)
    edge_distance = distance.wasserstein(own.edges, own.counts, other.counts) if len(own.edges) > 1 else None
    return (
        found,
        p,
        {
            "kolmogorov": found,
            "psi": distance.psi(a, b),
            "jensen_shannon": distance.jensen_shannon(a, b),
            "kullback_leibler": distance.kullback_leibler(a, b),
            "wasserstein": edge_distance,
            "mean": other.mean,
            "mean_reference": own.mean,
            "out_of_range": (other.counts[0] + other.counts[-1]) / other.n,
        },
    )


def _categorical(own: Column, other: Column) -> tuple[float, float, dict[str, Any]]:
    names = sorted(own.categories.keys() | other.categories.keys())
    a = [own.categories.get(name, 0) for name in names]
    b = [other.categories.get(name, 0) for name in names]
    if not own.n:
        return 1.0, distance.counts_p((other.n, other.missing), (own.n, own.missing)), {"unseen": len(names)}
    found = distance.total_variation(a, b)
    unseen = {name: other.categories[name] for name in other.categories if not own.categories.get(name)}
    unseen = {name: number for name, number in unseen.items() if number}
    return (
        found,
        distance.counts_p(b, a),
        {
            "total_variation": found,
            "psi": distance.psi(a, b),
            "jensen_shannon": distance.jensen_shannon(a, b),
            "kullback_leibler": distance.kullback_leibler(a, b),
            "unseen": len(unseen),
            "unseen_share": sum(unseen.values()) / other.n,
        },
    )


def _settle(finding: Finding, stands_out: bool, min_effect: float) -> Finding:
    """The outcome of a column whose p-value was compared with the others'."""
    effect, p = finding.effect or 0.0, finding.p if finding.p is not None else 1.0
    if stands_out and effect >= min_effect:
        outcome, reason = Outcome.FAIL, f"distance {effect:.3f} (p {_p(p)})"
    elif finding.outcome is Outcome.INCONCLUSIVE:
        outcome, reason = finding.outcome, finding.reason
    elif stands_out:
        outcome, reason = Outcome.PASS, f"distance {effect:.3f} is real (p {_p(p)}) but below {min_effect:g}"
    else:
        outcome, reason = Outcome.PASS, f"distance {effect:.3f} is within chance (p {_p(p)})"
    return Finding(outcome, reason, finding.effect, finding.p, finding.numbers)


def _p(p: float) -> str:
    return "< 1e-300" if p < 1e-300 else f"{p:.2g}"


def _sum_up(findings: Mapping[str, Finding], numbers: dict[str, Any], thresholds: dict[str, Any]) -> DriftResult:
    drifted = sorted(
        (name for name, finding in findings.items() if finding.outcome is Outcome.FAIL),
        key=lambda name: (-(findings[name].effect or 0.0), name),
    )
    kinds = tuple(
        kind
        for kind, there in (
            ("covariate", any(name != PREDICTION_KEY for name in drifted)),
            ("prediction", PREDICTION_KEY in drifted),
        )
        if there
    )
    numbers |= {"drifted": list(drifted), "kinds": list(kinds)}
    rows = numbers["rows"]
    if drifted:
        shown = ", ".join(f"{name} {findings[name].effect:.2f}" for name in drifted[:5])
        more = f" and {len(drifted) - 5} more" if len(drifted) > 5 else ""
        reason = f"{' and '.join(kinds)} drift over {rows} rows: {shown}{more}"
        return DriftResult(Outcome.FAIL, reason, kinds, tuple(drifted), numbers, thresholds)
    unknown = [name for name, finding in findings.items() if finding.outcome is Outcome.INCONCLUSIVE]
    if unknown or not findings:
        reason = (
            "; ".join(f"{name}: {findings[name].reason}" for name in unknown[:5])
            or "nothing to compare: no features and no predictions"
        )
        return DriftResult(Outcome.INCONCLUSIVE, reason, numbers=numbers, thresholds=thresholds)
    top = max(findings, key=lambda name: findings[name].effect or 0.0)
    seen = numbers["detectable"]
    reason = (
        f"no drift in {len(findings)} columns over {rows} rows; "
        f"largest distance {findings[top].effect or 0.0:.3f} in {top}"
        + (f"; anything above {seen:.2f} would have been seen" if math.isfinite(seen) else "")
    )
    return DriftResult(Outcome.PASS, reason, numbers=numbers, thresholds=thresholds)
