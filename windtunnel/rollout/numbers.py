"""Rows to numbers: what the gate's trigger calls with the prediction log's columns. Takes plain arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from windtunnel.rollout.evidence import LossSums, PredictionNumbers, QualityNumbers
from windtunnel.stats import binning
from windtunnel.stats.betting import FloatArray

#: Fewest champion losses (predictions) from which a bound (bins) may be made.
FIRST_ROWS = 20


def loss_bound(losses_champion: ArrayLike) -> float | None:
    """Where single losses are clipped: twice the champion's 99 % quantile.

    A mean can only be tested without a bound on single rows if the tail is assumed away; here the tail counts, but
    one row cannot count more than this. None while there are fewer than 20 losses to tell.
    """
    losses = np.asarray(losses_champion, dtype=np.float64)
    losses = losses[np.isfinite(losses)]
    if losses.size < FIRST_ROWS:
        return None
    bound = 2 * float(np.quantile(losses, 0.99))
    return bound if bound > 0 else 1.0


def _loss_sums(losses: FloatArray, bound: float) -> LossSums:
    good = losses[np.isfinite(losses)]
    clipped = np.clip(good, 0, bound)
    cells = binning.spread(clipped / bound, binning.loss_points())
    return LossSums(
        n=int(good.size),
        total=float(clipped.sum()),
        squares=float((clipped * clipped).sum()),
        # Rounded for the look log; to a billionth of a row.
        cells=tuple(np.round(cells, 9).tolist()),
        invalid=int(losses.size - good.size),
    )


def quality_numbers(
    losses_champion: ArrayLike, losses_candidate: ArrayLike, bound: float | None = None, *, loss: str = "absolute"
) -> QualityNumbers | None:
    """Sums of the per-row losses of ALL labelled rows since the rollout's start.

    Args:
        losses_champion, losses_candidate: shape (n,), not negative (``evaluation.metrics.row_loss``); NaN where the
            model's answer is not a number. Leave rows without a label out.
        bound: ``RolloutState.loss_bound``; None at the first look, when it is made from the champion's losses.
        loss: name of the loss, for the record.

    Returns:
        None while no bound can be made: too few of the champion's rows have labels.

    Raises:
        ValueError: a loss is negative or the bound is not positive.
    """
    champion = np.asarray(losses_champion, dtype=np.float64).ravel()
    candidate = np.asarray(losses_candidate, dtype=np.float64).ravel()
    if (champion < 0).any() or (candidate < 0).any():
        raise ValueError("losses cannot be negative: expected per-row losses where 0 is a perfect answer")
    limit = loss_bound(champion) if bound is None else bound
    if limit is None:
        return None
    if not limit > 0:
        raise ValueError(f"the bound of a loss must be above 0, found {limit}")
    return QualityNumbers(loss, limit, _loss_sums(champion, limit), _loss_sums(candidate, limit))


def prediction_numbers(
    predictions_champion: ArrayLike,
    predictions_candidate: ArrayLike,
    edges: Sequence[float] | Sequence[str] | None = None,
) -> PredictionNumbers | None:
    """Binned counts of ALL predictions since the rollout's start.

    Args:
        predictions_champion, predictions_candidate: shape (n,), numbers or class names.
        edges: ``RolloutState.prediction_edges``; None at the first look, when they are made from the champion's
            predictions (about ten bins of equal share, or its categories).

    Returns:
        None while there are fewer than 20 champion predictions to make bins from.
    """
    champion, candidate = np.asarray(predictions_champion).ravel(), np.asarray(predictions_candidate).ravel()
    names = isinstance(edges[0], str) if edges else any(isinstance(x, str) for x in champion.tolist()[:1])
    if names:
        return _categories([str(x) for x in champion], [str(x) for x in candidate], edges)
    numbers_a, numbers_b = champion.astype(np.float64), candidate.astype(np.float64)
    finite_a, finite_b = numbers_a[np.isfinite(numbers_a)], numbers_b[np.isfinite(numbers_b)]
    if edges:
        cuts = tuple(float(e) for e in edges)
    elif finite_a.size < FIRST_ROWS:
        return None
    else:
        cuts = binning.quantile_edges(finite_a)
    return PredictionNumbers(
        edges=cuts,
        ordered=True,
        champion=tuple(int(c) for c in binning.count_numeric(finite_a, cuts)),
        candidate=tuple(int(c) for c in binning.count_numeric(finite_b, cuts)),
        champion_invalid=int(numbers_a.size - finite_a.size),
        candidate_invalid=int(numbers_b.size - finite_b.size),
    )


def _categories(
    champion: list[str], candidate: list[str], edges: Sequence[float] | Sequence[str] | None
) -> PredictionNumbers | None:
    if not edges and len(champion) < FIRST_ROWS:
        return None
    names = tuple(str(e) for e in edges) if edges else tuple(sorted(set(champion)))
    return PredictionNumbers(
        edges=names,
        ordered=False,
        champion=tuple(int(c) for c in binning.count_categories(champion, names)),
        candidate=tuple(int(c) for c in binning.count_categories(candidate, names)),
    )
