"""Confidence sequences for a quantile, and for how far two arms' quantiles are apart, from counted buckets.

Howard & Ramdas (2022, Bernoulli 28, "Sequential estimation of quantiles with applications to A/B testing and best-arm
identification"). The number of observations at or below the true quantile ``Q(q)`` is a sum of coin flips with chance
``q``; a nonnegative martingale that starts at 1 and grows when the share strays from ``q`` holds it, at all times at
once. Two such bounds are here: the beta-binomial mixture (their theorem 1, the tighter one; the mixture itself is
Robbins 1970 and Howard, Ramdas, McAuliffe & Sekhon 2021, proposition 7) and the stitched closed form (the same
theorem).

Buckets lose nothing but resolution: the count at the true quantile lies between the counts at the edges of its
bucket, so a bucket is left out only where the bound for the unseen count would have left it out too. Limits are edges
of buckets: the true quantile lies in ``(low, high]``.

Assumes that an arm's observations come one by one from one unchanging distribution. Under a drift the numbers
describe the mixture of what came, and guarantee nothing: shown, not used to decide (the gate's own test compares like
with like).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from windtunnel.stats.betting import FloatArray

#: Observations at which the interval is about as narrow as it can be made.
BEST_AT = 2000.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits on a quantile, or on a difference of quantiles.

    Attributes:
        estimate: the middle estimate; NaN without observations, infinite in the last, open bucket.
        low, high: the limits; NaN where the data set none (too few observations, or the open bucket).

    All of shape (...), in the unit of the edges. Nothing known is NaN, never a number.
    """

    estimate: FloatArray
    low: FloatArray
    high: FloatArray


def log_mixture(k: FloatArray, n: FloatArray, q: float, *, alpha: float = 0.05, best_at: float = BEST_AT) -> FloatArray:
    """Log wealth of betting that a coin's chance is not ``q``, after ``k`` of ``n`` heads.

    The bets are spread over chances by a beta distribution with mean ``q``:
    ``B(a + k, b + n - k) / (B(a, b) q^k (1 - q)^(n - k))`` with ``a = r / (1 - q)``, ``b = r / q`` (Howard et al. 2021,
    proposition 7, in their notation ``g = q``, ``h = 1 - q``, ``v = q (1 - q) n``).

    Args:
        k, n: shape (...).
        alpha, best_at: the level and the number of observations the spread is made for.

    Returns:
        shape (...); reaches ``log(1 / alpha)`` with chance at most ``alpha`` where the chance is ``q``, whenever one
        looks.
    """
    from scipy.special import betaln

    spread = q * (1 - q)
    # The normal mixture's best precision at this variance, closely (Howard et al. 2021, section 3.5).
    need = 2 * math.log(1 / alpha)
    rho = best_at * spread / (need + math.log1p(need))
    r = max(rho - spread, 1e-3 * spread)
    a, b = r / (1 - q), r / q
    found: FloatArray = betaln(a + k, b + n - k) - betaln(a, b) - k * math.log(q) - (n - k) * math.log1p(-q)
    return found


def stitched(n: float, q: float, alpha: float) -> float | None:
    """Largest distance of the share at or below quantile ``q`` from ``q``, at any time, with confidence 1 - alpha.

    Howard & Ramdas (2022), theorem 1: ``1.5 sqrt(q (1 - q) l) + 0.8 l``, ``l = (1.4 log log(2.1 n) + log(10 / alpha))
    / n``. None without observations.
    """
    if n < 1:
        return None
    level = (1.4 * math.log(math.log(2.1 * n)) + math.log(10 / alpha)) / n
    return 1.5 * math.sqrt(q * (1 - q) * level) + 0.8 * level


def _check(counts: FloatArray, q: float, alpha: float, edges: FloatArray) -> None:
    if not 0 < q < 1 or not 0 < alpha < 1:
        raise ValueError(f"expected a quantile and alpha between 0 and 1, found {q} and {alpha}")
    if counts.shape[-1] != len(edges) + 1:
        raise ValueError(f"expected {len(edges) + 1} buckets for {len(edges)} edges, found {counts.shape[-1]}")
    if not np.isfinite(counts).all() or (counts < 0).any():
        raise ValueError("counts must be numbers of at least 0")


def _against(counts: FloatArray, q: float, alpha: float) -> FloatArray:
    """Log evidence against the quantile lying in each bucket: the least there can be, since how many of the bucket's
    observations lie at or below the quantile is not known. Shape (..., B).
    """
    upto = np.cumsum(counts, axis=-1)
    n = upto[..., -1:]
    # The mixture is convex in k, with its minimum near q n + 1/2 - q; counts are whole.
    least = np.floor(q * n + 0.5 - q)
    at = [log_mixture(np.clip(least + more, upto - counts, upto), n, q, alpha=alpha) for more in (0.0, 1.0)]
    found: FloatArray = np.minimum(*at)
    return found


def _estimate(counts: FloatArray, q: float, edges: FloatArray) -> FloatArray:
    upto = np.cumsum(counts, axis=-1)
    at = (upto < np.maximum(1.0, np.ceil(q * upto[..., -1:] - 1e-9))).sum(axis=-1)
    uppers = np.append(edges, np.inf)
    found: FloatArray = np.where(upto[..., -1] > 0, uppers[np.minimum(at, len(edges))], np.nan)
    return found


def quantile(counts: FloatArray, q: float, alpha: float, edges: FloatArray) -> Bounds:
    """Confidence sequence of one arm's quantile.

    Args:
        counts: shape (..., B): observations per bucket, all that came so far. Bucket i is ``(edges[i-1], edges[i]]``,
            the
            first has no lower edge, the last no upper one.
        q: in (0, 1).
        alpha: both sides together, for all times together.
        edges: shape (B - 1,), rising.

    Raises:
        ValueError: shapes, ``q``, ``alpha`` or counts make no sense.
    """
    _check(counts, q, alpha, edges)
    possible = _against(counts, q, alpha) < math.log(1 / alpha)
    first = possible.argmax(axis=-1)
    last = possible.shape[-1] - 1 - possible[..., ::-1].argmax(axis=-1)
    return Bounds(_estimate(counts, q, edges), np.insert(edges, 0, np.nan)[first], np.append(edges, np.nan)[last])


def difference(counts_a: FloatArray, counts_b: FloatArray, q: float, alpha: float, edges: FloatArray) -> Bounds:
    """Confidence sequence of ``Q_b(q) - Q_a(q)``.

    The two arms' wealths are multiplied: at the true pair of quantiles the product is a martingale too, so all pairs
    of buckets whose product stays below ``1 / alpha`` are possible, and the limits are the least and the largest
    difference among them. Narrower than the difference of two intervals with half of alpha each.

    Args and errors as in ``quantile``; shapes of the counts must agree.
    """
    _check(counts_a, q, alpha, edges)
    _check(counts_b, q, alpha, edges)
    against_a, against_b = _against(counts_a, q, alpha), _against(counts_b, q, alpha)
    possible = against_a[..., :, None] + against_b[..., None, :] < math.log(1 / alpha)
    lower, upper = np.insert(edges, 0, np.nan), np.append(edges, np.nan)
    gap_low = lower[None, :] - upper[:, None]
    gap_high = upper[None, :] - lower[:, None]
    unknown_low = (possible & np.isnan(gap_low)).any(axis=(-1, -2))
    unknown_high = (possible & np.isnan(gap_high)).any(axis=(-1, -2))
    low = np.where(possible, np.nan_to_num(gap_low, nan=np.inf), np.inf).min(axis=(-1, -2))
    high = np.where(possible, np.nan_to_num(gap_high, nan=-np.inf), -np.inf).max(axis=(-1, -2))
    with np.errstate(invalid="ignore"):
        estimate = _estimate(counts_b, q, edges) - _estimate(counts_a, q, edges)
    return Bounds(estimate, np.where(unknown_low, np.nan, low), np.where(unknown_high, np.nan, high))
