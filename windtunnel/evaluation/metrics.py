"""Metrics by name, on arrays. What cannot be computed is None, never 0 or 1."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
Array = NDArray[Any]

_TINY = float(np.finfo(np.float64).eps)  # probabilities are kept this far from 0: a wrong answer is costly but finite
_LEAST_MEAN = 1e-9  # the same for the mean of a Poisson model

#: The per-row loss behind a metric, where it has one.
ROW_LOSSES = {
    "rmse": "squared",
    "mae": "absolute",
    "poisson_deviance": "poisson_deviance",
    "log_loss": "log",
    "brier": "squared",
    "accuracy": "zero_one",
}


def compute(name: str, y: ArrayLike, p: ArrayLike) -> float | None:
    """One known metric (``windtunnel.spec.evaluation.KNOWN_METRICS``).

    Args:
        name: the metric.
        y: truth, shape (n,).
        p: predictions, shape (n,): a number; the probability of class 1 (``log_loss``, ``brier``, ``roc_auc``,
            ``average_precision``); a class or the probability of class 1 (``accuracy``, ``f1``). With several classes
            ``log_loss``, ``accuracy`` and ``f1`` take shape (n, classes) too, classes being 0, 1, ...

    Returns:
        None where the metric is not defined on these rows: none at all, a constant target for ``r2``, a single class
        for ``roc_auc``, a prediction that is not a number or not a probability.

    Raises:
        KeyError: the metric is not known.
        ValueError: truth and predictions do not belong together.
    """
    rule = _METRICS[name]
    truth, guess = np.asarray(y), np.asarray(p)
    if truth.ndim != 1 or len(truth) != len(guess):
        raise ValueError(f"{name}: expected one prediction per row, found {len(guess)} for shape {truth.shape}")
    if len(truth) == 0 or not (_finite(truth) and _finite(guess)):
        return None
    value = rule(truth, guess)
    return value if value is not None and math.isfinite(value) else None


def row_loss(name: str, y: ArrayLike, p: ArrayLike) -> FloatArray:
    """Loss of each row; 0 is a perfect answer.

    Args:
        name: ``squared``, ``absolute``, ``poisson_deviance``, ``log``, ``zero_one``, or a metric that is a mean of
            one of them (``rmse`` means ``squared``).
        y, p: shape (n,), as for ``compute``.

    Returns:
        shape (n,); NaN where the prediction is not a number or cannot be one of its kind (a negative mean, a
        probability above 1).

    Raises:
        KeyError: the loss is not known.
        ValueError: truth and predictions do not belong together.
    """
    rule = _LOSSES[ROW_LOSSES.get(name, name)]
    truth, guess = np.asarray(y), np.asarray(p)
    if truth.ndim != 1 or len(truth) != len(guess):
        raise ValueError(f"{name}: expected one prediction per row, found {len(guess)} for shape {truth.shape}")
    return rule(truth, guess)


def _finite(values: Array) -> bool:
    if values.dtype.kind in "fc":
        return bool(np.isfinite(values).all())
    if values.dtype.kind == "O":
        return not any(v is None or (isinstance(v, float) and not math.isfinite(v)) for v in values.ravel().tolist())
    return True


def _floats(values: Array) -> FloatArray:
    return values.astype(np.float64)


def _squared(y: Array, p: Array) -> FloatArray:
    result: FloatArray = np.square(_floats(y) - _floats(p))
    return result


def _absolute(y: Array, p: Array) -> FloatArray:
    result: FloatArray = np.abs(_floats(y) - _floats(p))
    return result


def _poisson(y: Array, p: Array) -> FloatArray:
    truth, mean = _floats(y), _floats(p)
    known = np.where(mean >= 0, np.maximum(mean, _LEAST_MEAN), np.nan)
    ratio = np.where(truth > 0, truth, 1.0) / known
    result: FloatArray = np.maximum(2 * (np.where(truth > 0, truth * np.log(ratio), 0.0) - truth + known), 0.0)
    return result


def _log(y: Array, p: Array) -> FloatArray:
    chance = _floats(p)
    if chance.ndim == 2:
        column = _floats(y).astype(np.int64)
        good = (column >= 0) & (column < chance.shape[1])
        chance = np.where(good, chance[np.arange(len(chance)), np.where(good, column, 0)], np.nan)
    else:
        truth = _floats(y)
        chance = np.where(truth == 1, chance, np.where(truth == 0, 1 - chance, np.nan))
    result: FloatArray = -np.log(np.where((chance >= 0) & (chance <= 1), np.maximum(chance, _TINY), np.nan))
    return np.where(result == 0, 0.0, result)


def _classes(y: Array, p: Array) -> Array:
    """Predicted classes: given as such, or the likelier one."""
    if p.ndim == 2:
        likeliest: Array = p.argmax(axis=1)
        return likeliest
    if p.dtype.kind == "f" and y.dtype.kind in "biuf":
        whole = np.isnan(p) | (p == np.round(p))
        if not whole.all():
            return np.where(np.isnan(p), np.nan, (p >= 0.5).astype(np.float64))
    return p


def _zero_one(y: Array, p: Array) -> FloatArray:
    guess = _classes(y, p)
    wrong = (y != guess).astype(np.float64)
    if guess.dtype.kind == "f":
        wrong = np.where(np.isnan(guess), np.nan, wrong)
    result: FloatArray = wrong
    return result


_LOSSES: dict[str, Callable[[Array, Array], FloatArray]] = {
    "squared": _squared,
    "absolute": _absolute,
    "poisson_deviance": _poisson,
    "log": _log,
    "zero_one": _zero_one,
}


def _mean(loss: Callable[[Array, Array], FloatArray]) -> Callable[[Array, Array], float | None]:
    return lambda y, p: float(loss(y, p).mean())


def _rmse(y: Array, p: Array) -> float | None:
    return math.sqrt(float(_squared(y, p).mean()))


def _r2(y: Array, p: Array) -> float | None:
    truth = _floats(y)
    total = float(np.square(truth - truth.mean()).sum())
    return None if total == 0 else 1 - float(_squared(y, p).sum()) / total


def _brier(y: Array, p: Array) -> float | None:
    chance = _floats(p)
    return None if ((chance < 0) | (chance > 1)).any() else float(_squared(y, p).mean())


def _f1(y: Array, p: Array) -> float | None:
    """Of class 1 with two classes 0 and 1; otherwise the plain mean over classes."""
    guess = _classes(y, p)
    both = sorted(set(y.tolist()) | set(guess.tolist()))
    two = all(c in (0, 1) for c in both) and len(both) > 0
    scores: list[float] = []
    for label in [1] if two else both:
        hit = int(((y == label) & (guess == label)).sum())
        asked = int((y == label).sum()) + int((guess == label).sum())
        if asked == 0:
            return None  # class 1 neither exists nor was predicted: nothing to score
        scores.append(2 * hit / asked)
    return float(np.mean(scores)) if scores else None


def _two_classes(y: Array) -> tuple[NDArray[np.bool_], int, int] | None:
    values = _floats(y)
    if not ((values == 0) | (values == 1)).all():
        return None
    truth = values == 1
    positives = int(truth.sum())
    return None if positives in (0, len(truth)) else (truth, positives, len(truth) - positives)


def _roc_auc(y: Array, p: Array) -> float | None:
    """Chance that a positive is ranked above a negative; ties count half (Mann-Whitney)."""
    found = _two_classes(y)
    if found is None:
        return None
    truth, positives, negatives = found
    _, inverse, counts = np.unique(_floats(p), return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts - 1) / 2
    ranks = middle[inverse]
    return float((ranks[truth].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def _average_precision(y: Array, p: Array) -> float | None:
    """Sum over thresholds of (recall step) x precision, without interpolation."""
    found = _two_classes(y)
    if found is None:
        return None
    truth, positives, _ = found
    scores = _floats(p)
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(truth[order])
    last = np.concatenate([np.diff(scores[order]) != 0, [True]])  # ties stand or fall together
    hits, seen = hits[last], (np.arange(len(scores)) + 1)[last]
    return float((np.diff(hits, prepend=0) / positives * hits / seen).sum())


_METRICS: dict[str, Callable[[Array, Array], float | None]] = {
    "rmse": _rmse,
    "mae": _mean(_absolute),
    "poisson_deviance": _mean(_poisson),
    "log_loss": _mean(_log),
    "brier": _brier,
    "r2": _r2,
    "accuracy": lambda y, p: 1 - float(_zero_one(y, p).mean()),
    "f1": _f1,
    "roc_auc": _roc_auc,
    "average_precision": _average_precision,
}
