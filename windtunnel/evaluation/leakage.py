"""Does the holdout know too much? Rows seen in training, and features that give the target away (EVL-1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from windtunnel.evaluation.metrics import FloatArray, compute

if TYPE_CHECKING:
    from pandas import DataFrame, Series

#: A feature that explains this much of the target gives it away.
GIVEN_AWAY = 0.999


def shared_rows(holdout: DataFrame, train: DataFrame) -> tuple[int, int]:
    """Rows of the holdout that are in the training rows too, and how many of those chance would explain.

    Rows are compared on all columns the two have in common. Data of few distinct values has twins by nature: as many
    training rows as have a twin among themselves, so many holdout rows are expected to have one there.
    """
    from pandas.util import hash_pandas_object

    columns = [column for column in holdout.columns if column in train.columns]
    if not columns or len(holdout) == 0 or len(train) == 0:
        return 0, 0
    ours = hash_pandas_object(holdout[columns], index=False).to_numpy()
    theirs = hash_pandas_object(train[columns], index=False).to_numpy()
    _, inverse, counts = np.unique(theirs, return_inverse=True, return_counts=True)
    twins = float((counts[inverse] > 1).mean())
    return int(np.isin(ours, theirs).sum()), math.ceil(twins * len(ours))


def too_many(shared: int, expected: int) -> bool:
    """More shared rows than twins by nature explain."""
    return shared > 2 * expected + 3 * math.sqrt(expected)


def explained(feature: Series[Any], target: Series[Any]) -> float | None:
    """How well one feature alone tells the target, 0 to 1; None where that cannot be said.

    The largest of: squared rank correlation (numbers); separation of two classes (2 AUC - 1); share of the target's
    variance between groups of equal feature values, where most values occur at least twice.
    """
    rows = feature.notna() & target.notna()
    feature, target = feature[rows], target[rows]
    if len(target) < 30 or target.nunique() < 2 or feature.nunique() < 2:
        return None
    codes: FloatArray = (
        target.to_numpy(dtype=np.float64) if target.dtype.kind in "biuf" else target.factorize()[0].astype(np.float64)
    )
    found: list[float] = []
    if feature.dtype.kind in "biuf":
        values = feature.to_numpy(dtype=np.float64)
        if target.nunique() == 2:
            auc = compute("roc_auc", (codes == codes.max()).astype(int), values)
            found.append(abs(2 * (auc if auc is not None else 0.5) - 1))
        elif target.dtype.kind in "iuf":
            found.append(_rank_correlation(values, codes) ** 2)
    groups = feature.factorize()[0]
    counts = np.bincount(groups)
    if (counts[groups] > 1).mean() > 0.5:
        repeated = counts[groups] > 1
        if target.dtype.kind in "iuf":
            means = np.bincount(groups, codes) / counts
            total = float(np.square(codes[repeated] - codes[repeated].mean()).sum())
            within = float(np.square(codes - means[groups])[repeated].sum())
            if total > 0:
                found.append(1 - within / total)
        else:
            table = np.zeros((len(counts), int(codes.max()) + 1))
            np.add.at(table, (groups[repeated], codes[repeated].astype(int)), 1)
            commonest = float(table.sum(axis=0).max())
            n = float(repeated.sum())
            if n > commonest:
                found.append((float(table.max(axis=1).sum()) - commonest) / (n - commonest))
    return max(found) if found else None


def _rank_correlation(x: FloatArray, y: FloatArray) -> float:
    a, b = _ranks(x), _ranks(y)
    a, b = a - a.mean(), b - b.mean()
    norm = math.sqrt(float((a * a).sum()) * float((b * b).sum()))
    return float((a * b).sum()) / norm if norm > 0 else 0.0


def _ranks(x: FloatArray) -> FloatArray:
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    middle: FloatArray = np.cumsum(counts) - (counts - 1) / 2
    return middle[inverse]


def giveaways(frame: DataFrame, features: Sequence[str], target: str) -> dict[str, float]:
    """Features that alone tell at least 99.9 % of the target."""
    found: dict[str, float] = {}
    for name in features:
        share = explained(frame[name], frame[target])
        if share is not None and share >= GIVEN_AWAY:
            found[name] = round(share, 6)
    return found
