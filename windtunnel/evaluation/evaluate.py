"""Is a version good enough to be registered? Every rule of the description, on rows it was not trained on (EVL-1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from windtunnel.errors import DataError
from windtunnel.evaluation import code, leakage, metrics
from windtunnel.evidence import Outcome
from windtunnel.spec.evaluation import KNOWN_METRICS, Evaluation, Metric, Slice
from windtunnel.tracking.answers import prediction

if TYPE_CHECKING:
    from pandas import DataFrame

Predict = Callable[["DataFrame"], ArrayLike]
MetricFunction = Callable[[Any, Any], float]
Array = NDArray[Any]

#: A numeric column with more distinct values than this is sliced by its quartiles.
MOST_GROUPS = 20
_RESAMPLES = 200
_SEED = 20_190  # resampling is part of the verdict, so it must come out the same each time


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """A judgement with its numbers.

    Attributes:
        outcome: FAIL when any rule is broken, INCONCLUSIVE when any cannot be judged (or there is none), else PASS.
        reason: one sentence with the numbers that decided.
        numbers: rows, metrics, slices, tests, leakage; JSON values, None where something cannot be computed.
        thresholds: the rules it was held against; JSON values.
    """

    outcome: Outcome
    reason: str
    numbers: dict[str, Any] = field(default_factory=dict)
    thresholds: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Judged:
    outcome: Outcome
    sentence: str


def evaluate(
    spec: Evaluation,
    features: Sequence[str],
    target: str,
    predict: Predict,
    champion_predict: Predict | None,
    holdout: DataFrame,
    train: DataFrame | None = None,
    extra_metrics: Mapping[str, MetricFunction] | None = None,
) -> EvaluationResult:
    """Judge one version on the holdout.

    Args:
        spec: the rules.
        features: columns the model takes, in order.
        target: column with the truth.
        predict: takes a frame with the features, returns one prediction per row (``tracking.answers``).
        champion_predict: the same for the champion, on the same rows; None when there is none.
        holdout: rows the version was not trained on, with all columns that slices and tests name.
        train: the training rows, for the leakage check; None leaves out the search for shared rows.
        extra_metrics: functions ``(y_true, y_pred) -> float`` by the name they have in ``spec``; names not in it are
            imported.

    Raises:
        DataError: the holdout lacks the target or a feature, or the target has missing values.
        EntryPointError: a metric or test of the user's own cannot be imported.
    """
    thresholds = spec.model_dump(mode="json")
    lacking = [name for name in (*features, target) if name not in holdout.columns]
    if lacking:
        raise DataError(
            f"the holdout has no column {', '.join(lacking)}", hint=f"found: {', '.join(map(str, holdout.columns))}"
        )
    rows = len(holdout)
    numbers: dict[str, Any] = {"rows": rows}
    missing = int(holdout[target].isna().sum())
    if missing:
        raise DataError(f"target {target} is missing in {missing} of {rows} holdout rows", hint="drop or fill them")
    if rows < spec.min_rows:
        reason = f"{rows} holdout rows, needs {spec.min_rows}"
        return EvaluationResult(Outcome.INCONCLUSIVE, reason, numbers, thresholds)

    y = holdout[target].to_numpy()
    p = _predictions(predict, holdout, features, "the version")
    if isinstance(p, str):
        return EvaluationResult(Outcome.FAIL, p, numbers, thresholds)
    champion: Array | str | None = None
    if champion_predict is not None:
        champion = _predictions(champion_predict, holdout, features, "the champion")

    functions = _functions(spec, extra_metrics or {})
    judged = _judge_metrics(spec.metrics, functions, y, p, champion, numbers)
    judged += _judge_slices(spec.slices, functions, holdout, y, p, numbers)
    judged += _run_tests(spec.tests, predict, holdout, numbers)
    rules = len(judged)
    if spec.leakage:
        judged += _judge_leakage(holdout, train, features, target, numbers)
    if rules == 0:
        ask = "give evaluation.metrics a maximum or minimum" + (
            "" if champion_predict is not None else " (there is no champion to compare with)"
        )
        judged.append(_Judged(Outcome.INCONCLUSIVE, f"no rule to judge by: {ask}"))

    outcome = Outcome.worst([item.outcome for item in judged])
    deciding = [item.sentence for item in judged if item.outcome == outcome]
    reason = "; ".join(deciding[:3]) + (f"; and {len(deciding) - 3} more" if len(deciding) > 3 else "")
    return EvaluationResult(outcome, reason, numbers, thresholds)


def _predictions(predict: Predict, frame: DataFrame, features: Sequence[str], who: str) -> Array | str:
    """Predictions of every row, or what is wrong with them."""
    try:
        p: Array = prediction(predict(frame[list(features)]))
    except Exception as error:
        return f"{who} cannot predict the holdout: {type(error).__name__}: {error}"
    if p.ndim not in (1, 2) or len(p) != len(frame):
        return f"{who} returned predictions of shape {p.shape} for {len(frame)} rows"
    if p.dtype.kind == "O" and all(isinstance(v, (int, float)) for v in p.ravel().tolist()):
        p = p.astype(np.float64)
    if p.dtype.kind == "f":
        bad = ~np.isfinite(p) if p.ndim == 1 else ~np.isfinite(p).all(axis=1)
    else:
        bad = np.array([v is None for v in p.ravel().tolist()]).reshape(p.shape)
    if bad.any():
        first = frame.index[int(np.flatnonzero(bad)[0])]
        return f"{who} predicts NaN or infinity on {int(bad.sum())} of {len(frame)} rows, first on row {first}"
    return p


def _functions(spec: Evaluation, extra: Mapping[str, MetricFunction]) -> dict[str, MetricFunction]:
    names = {rule.name for rule in spec.metrics} | {rule.metric for rule in spec.slices}
    return {name: extra.get(name) or code.load(name) for name in names if name not in KNOWN_METRICS}


def _value(name: str, functions: Mapping[str, MetricFunction], y: Array, p: Array) -> float | None:
    """None where it cannot be computed."""
    if name not in functions:
        return metrics.compute(name, y, p)
    value = functions[name](y, p)
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _try_value(
    name: str, functions: Mapping[str, MetricFunction], y: Array, p: Array
) -> tuple[float | None, str | None]:
    """The value, and why there is none."""
    try:
        value = _value(name, functions, y, p)
    except Exception as error:
        return None, f"{name} cannot be computed: {type(error).__name__}: {error}"
    return value, None if value is not None else f"{name} is not defined on these rows"


def _judge_metrics(
    rules: Sequence[Metric],
    functions: Mapping[str, MetricFunction],
    y: Array,
    p: Array,
    champion: Array | str | None,
    numbers: dict[str, Any],
) -> list[_Judged]:
    judged: list[_Judged] = []
    numbers["metrics"] = {}
    for rule in rules:
        entry: dict[str, Any] = {}
        numbers["metrics"][rule.name] = entry
        value, why = _try_value(rule.name, functions, y, p)
        entry["value"] = value
        if value is None:
            judged.append(_Judged(Outcome.INCONCLUSIVE, why or rule.name))
            continue
        judged += _bounds(rule.name, value, rule.minimum, rule.maximum)
        if rule.margin is None or champion is None:
            continue
        if isinstance(champion, str):
            entry["champion"] = None
            judged.append(_Judged(Outcome.INCONCLUSIVE, f"{rule.name}: no comparison, {champion}"))
            continue
        judged.append(_compare(rule, functions, y, p, champion, entry))
    return judged


def _bounds(what: str, value: float, minimum: float | None, maximum: float | None) -> list[_Judged]:
    judged: list[_Judged] = []
    if maximum is not None:
        good = value <= maximum
        words = "within" if good else "above"
        judged.append(
            _Judged(Outcome.PASS if good else Outcome.FAIL, f"{what} {value:.4g} {words} maximum {maximum:g}")
        )
    if minimum is not None:
        good = value >= minimum
        words = "at least" if good else "below"
        judged.append(
            _Judged(Outcome.PASS if good else Outcome.FAIL, f"{what} {value:.4g} {words} minimum {minimum:g}")
        )
    return judged


def _compare(
    rule: Metric,
    functions: Mapping[str, MetricFunction],
    y: Array,
    p: Array,
    champion: Array,
    entry: dict[str, Any],
) -> _Judged:
    """Against the champion on the same rows. The point estimate decides; the interval says how sure it is."""
    theirs, why = _try_value(rule.name, functions, y, champion)
    entry["champion"] = theirs
    if theirs is None:
        return _Judged(Outcome.INCONCLUSIVE, f"the champion's {why}")
    sign = 1.0 if rule.better == "lower" else -1.0
    margin = rule.margin or 0.0

    def beyond(ours: float, other: float) -> float:
        """How much worse than the margin allows; above 0 is too much."""
        return sign * (ours - other) - margin * abs(other)

    value = float(entry["value"])
    too_much = beyond(value, theirs)
    draws: list[float] = []
    rng = np.random.default_rng(_SEED)
    repeats = int(min(_RESAMPLES, max(40, 2e7 // max(1, len(y)))))
    for _ in range(repeats):
        picked = rng.integers(0, len(y), len(y))
        ours, other = (_try_value(rule.name, functions, y[picked], arm[picked])[0] for arm in (p, champion))
        if ours is not None and other is not None:
            draws.append(beyond(ours, other))
    low, high = (float(np.quantile(draws, q)) for q in (0.025, 0.975)) if len(draws) >= 20 else (None, None)
    entry |= {"worse_than_allowed": too_much, "low": low, "high": high, "margin": margin}
    side = f"{rule.name} {value:.4g} against the champion's {theirs:.4g} on the same {len(y)} rows"
    if too_much > 0:
        sure = "surely" if low is not None and low > 0 else "by the estimate, though chance could explain it"
        return _Judged(Outcome.FAIL, f"{side}: {sure} worse than the margin of {100 * margin:g} % allows")
    return _Judged(Outcome.PASS, f"{side}: within the margin of {100 * margin:g} %")


def _groups(frame: DataFrame, by: str) -> dict[str, Array]:
    """Row numbers of each group of a column; numbers of many values by quartile; missing values are a group."""
    import pandas as pd

    column = frame[by]
    if column.dtype.kind in "iuf" and column.nunique() > MOST_GROUPS:
        column = pd.qcut(column, 4, duplicates="drop")
    names = column.astype(object).where(column.notna(), "missing").map(str)
    return {str(name): np.flatnonzero((names == name).to_numpy()) for name in sorted(names.unique())}


def _judge_slices(
    rules: Sequence[Slice],
    functions: Mapping[str, MetricFunction],
    holdout: DataFrame,
    y: Array,
    p: Array,
    numbers: dict[str, Any],
) -> list[_Judged]:
    judged: list[_Judged] = []
    numbers["slices"] = []
    for rule in rules:
        if rule.by not in holdout.columns:
            judged.append(_Judged(Outcome.INCONCLUSIVE, f"slice by {rule.by}: the holdout has no such column"))
            continue
        values: dict[str, float] = {}
        entry: dict[str, Any] = {"by": rule.by, "metric": rule.metric, "groups": {}}
        numbers["slices"].append(entry)
        for name, rows in _groups(holdout, rule.by).items():
            what = f"{rule.metric} where {rule.by} = {name}"
            entry["groups"][name] = {"rows": len(rows), "value": None}
            if len(rows) < rule.min_rows:
                judged.append(_Judged(Outcome.INCONCLUSIVE, f"{what}: {len(rows)} rows, needs {rule.min_rows}"))
                continue
            value, why = _try_value(rule.metric, functions, y[rows], p[rows])
            if value is None:
                judged.append(_Judged(Outcome.INCONCLUSIVE, f"{what}: {why}"))
                continue
            values[name] = entry["groups"][name]["value"] = value
            judged += _bounds(what, value, rule.minimum, rule.maximum)
        if rule.maximum_gap is not None:
            judged.append(_judge_gap(rule, rule.maximum_gap, values, entry))
    return judged


def _judge_gap(rule: Slice, maximum: float, values: dict[str, float], entry: dict[str, Any]) -> _Judged:
    what = f"gap of {rule.metric} between groups of {rule.by}"
    entry["gap"] = None
    if len(values) < 2:
        return _Judged(Outcome.INCONCLUSIVE, f"{what}: fewer than two groups with enough rows")
    worst, best = max(values, key=lambda k: values[k]), min(values, key=lambda k: values[k])
    gap = entry["gap"] = values[worst] - values[best]
    words = f"{what} {gap:.4g} ({worst} {values[worst]:.4g}, {best} {values[best]:.4g}), maximum {maximum:g}"
    return _Judged(Outcome.PASS if gap <= maximum else Outcome.FAIL, words)


def _run_tests(names: Sequence[str], predict: Predict, holdout: DataFrame, numbers: dict[str, Any]) -> list[_Judged]:
    """The user's own tests: ``(predict, frame)`` that raise or return False to fail."""
    judged: list[_Judged] = []
    numbers["tests"] = {}
    for name in names:
        test = code.load(name)
        try:
            answer = test(predict, holdout.copy())
        except Exception as error:
            message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            numbers["tests"][name] = message
            judged.append(_Judged(Outcome.FAIL, f"test {name} failed: {message}"))
            continue
        failed = answer is not None and not bool(answer)
        numbers["tests"][name] = "returned False" if failed else "passed"
        judged.append(_Judged(Outcome.FAIL if failed else Outcome.PASS, f"test {name} {numbers['tests'][name]}"))
    return judged


def _judge_leakage(
    holdout: DataFrame, train: DataFrame | None, features: Sequence[str], target: str, numbers: dict[str, Any]
) -> list[_Judged]:
    judged: list[_Judged] = []
    entry: dict[str, Any] = {"shared_rows": None, "expected_twins": None}
    numbers["leakage"] = entry
    if train is not None:
        shared, expected = leakage.shared_rows(holdout, train)
        entry |= {"shared_rows": shared, "expected_twins": expected}
        if leakage.too_many(shared, expected):
            sentence = (
                f"leakage: {shared} of {len(holdout)} holdout rows are in the training rows (expected {expected})"
            )
            judged.append(_Judged(Outcome.FAIL, sentence))
    entry["giveaways"] = leakage.giveaways(holdout, features, target)
    for name, share in entry["giveaways"].items():
        sentence = f"leakage: feature {name} alone tells {100 * share:.4g} % of {target}"
        judged.append(_Judged(Outcome.FAIL, sentence))
    return judged
