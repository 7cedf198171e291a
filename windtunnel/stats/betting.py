"""Betting tests: evidence that grows while one watches, and stays valid whenever one looks.

The null hypothesis compares two arms, ``a`` (champion) and ``b`` (candidate), on observations in
[0, 1]:  ``mean_b <= slope * mean_a + shift``. Errors and slow requests are observations 0 or 1;
losses are scaled to [0, 1]. An e-value is the wealth of somebody who bets against that null with
fair odds: under the null it exceeds ``1/alpha`` with probability at most ``alpha``, however often
one looks (Ville's inequality).

One block (what came between two looks: ``n_a``, ``n_b`` observations) multiplies the wealth by

    prod_b (1 + lam_b (x - m_b)) * prod_a (1 + lam_a (m_a - x)),
    m_b = slope * m_a + shift,     n_a lam_a = slope n_b lam_b,

the capital process of Waudby-Smith & Ramdas (2024, JRSS-B, "Estimating means of bounded random
variables by betting", eq. 22) for both arms at once. Since 1 + z <= exp(z), its expectation is at
most ``exp(n_b lam_b (mean_b - slope mean_a - shift)) <= 1`` where ``mean_a``, ``mean_b`` are the
averages over the block of the observations' own expectations. So the base rate may drift, inside a
block too, as long as it drifts for both arms alike, and the split may be anything and may change.
The bets must not depend on the block's own outcomes; they use earlier blocks and block sizes only.

For 0/1 observations with slope 1 and shift 0 the choice of ``m`` below is the weighted mean of the
two alternatives' rates, which makes the factor the growth-optimal e-variable of Turner, Ly &
Grunwald (2024, "Generic E-variables for exact sequential k-sample tests", eq. 2.2); with a margin
it approximates the projection of Turner & Grunwald (2023, "Exact anytime-valid confidence intervals
for contingency tables and beyond", thm. 2).

How strongly to bet is not known beforehand: the wealth is spread over a few alternatives (``alternatives.py``),
and a mean of e-processes is an e-process.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

#: Alternatives: how far the candidate's mean lies between the null's boundary (0) and the worst (1).
FRACTIONS: FloatArray = np.geomspace(0.0008, 0.9, 12)
FRACTIONS.setflags(write=False)

_EDGE = 1e-6  # means are kept this far from 0 and 1
_CAP = 0.99  # no single observation may cost more than this share of the wealth
_QUANTUM = 1e6  # wealth is kept in millionths of a nat, rounded down, so that a stored state is short

#: The two possible values of a yes/no observation.
BINARY: FloatArray = np.array([0.0, 1.0])
BINARY.setflags(write=False)


def clip(values: FloatArray, low: float, high: float) -> FloatArray:
    """``numpy.clip``, at a third of its cost for a single number."""
    inside: FloatArray = np.minimum(np.maximum(values, low), high)
    return inside


def round_down(log_wealth: FloatArray) -> FloatArray:
    """Never more than the true wealth, so rounding cannot make evidence. What is rounded already stays as it is
    (for that a millionth of the quantum is forgiven)."""
    floored: FloatArray = np.floor(log_wealth * _QUANTUM + 1e-6) / _QUANTUM
    return floored


def log_factor(
    counts_a: FloatArray,
    counts_b: FloatArray,
    *,
    points: FloatArray = BINARY,
    mean_a: FloatArray | float,
    dispersion: FloatArray | float = 1.0,
    slope: FloatArray | float = 1.0,
    shift: FloatArray | float = 0.0,
    fractions: FloatArray = FRACTIONS,
) -> FloatArray:
    """Logarithm of one block's betting factor against ``mean_b <= slope * mean_a + shift``.

    Args:
        counts_a, counts_b: shape (..., P): how many observations of each arm sit at each of ``points``.
            Fractions are fine where an observation was spread over its two neighbours (the logarithm is
            concave, so that never adds evidence).
        points: shape (P,) or (..., P), in [0, 1].
        mean_a: shape (...): what is believed of the champion's mean, from earlier blocks only. A wrong belief
            costs power, never validity.
        dispersion: shape (...): variance as a share of ``mean (1 - mean)``; 1 for yes/no observations.
        slope, shift: shape (...): the null's boundary.
        fractions: shape (K,) or (..., K): the alternatives: how far the candidate's mean lies between the null's
            boundary (0) and the worst (1).

    Returns:
        shape (..., K); 0 where either arm has no observation, since nothing can be compared then.
    """
    lam_a, lam_b, m_a, m_b, usable = _bets(
        counts_a.sum(axis=-1), counts_b.sum(axis=-1), mean_a, dispersion, slope, shift, fractions
    )
    if points is BINARY:  # the same as below, without an axis of two: most of a simulation's time is spent here
        total = np.log1p(-lam_b * m_b) * counts_b[..., None, 0]
        total += np.log1p(lam_b * (1 - m_b)) * counts_b[..., None, 1]
        total += np.log1p(lam_a * m_a) * counts_a[..., None, 0]
        total += np.log1p(lam_a * (m_a - 1)) * counts_a[..., None, 1]
    else:
        places = points[..., None, :]
        gain_b = np.log1p(lam_b[..., None] * (places - m_b[..., None]))
        gain_a = np.log1p(lam_a[..., None] * (m_a[..., None] - places))
        total = (gain_b * counts_b[..., None, :]).sum(axis=-1) + (gain_a * counts_a[..., None, :]).sum(axis=-1)
    result: FloatArray = np.where(usable, total, 0.0)
    return result


def _bets(
    n_a: FloatArray,
    n_b: FloatArray,
    mean_a: FloatArray | float,
    dispersion: FloatArray | float,
    slope: FloatArray | float,
    shift: FloatArray | float,
    fractions: FloatArray,
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, NDArray[np.bool_]]:
    """How much is bet on each arm, and around which means: (lam_a, lam_b, m_a, m_b), shapes (..., K); and (..., 1)
    whether both arms have observations."""

    def column(value: FloatArray | float) -> FloatArray:
        return np.asarray(value, dtype=np.float64)[..., None]

    size_a, size_b = column(n_a), column(n_b)
    usable = (size_a > 0) & (size_b > 0)
    size_a, size_b = np.where(usable, size_a, 1.0), np.where(usable, size_b, 1.0)
    slope_, shift_, spread = column(slope), column(shift), column(dispersion)
    boundary = clip(slope_ * column(mean_a) + shift_, _EDGE, 1 - _EDGE)

    effect = fractions * (1 - boundary) * spread
    # How much of the effect the boundary's point takes up on its way towards the alternative: the projection weighs
    # each arm by its number and variance, and the variances depend on the point. Two rounds are close enough; with
    # slope 1 and shift 0 the first one is exact.
    weight_a, weight_b = size_a, slope_ * slope_ * size_b
    share = weight_b / (weight_a + weight_b)
    plain = np.ndim(slope) == 0 and slope == 1.0 and np.ndim(shift) == 0 and shift == 0.0
    if not plain:
        for _ in range(2):
            at_b = clip(boundary + share * effect, _EDGE, 1 - _EDGE)
            at_a = clip((at_b - shift_) / slope_, _EDGE, 1 - _EDGE)
            var_a, var_b = weight_b * at_a * (1 - at_a), weight_a * at_b * (1 - at_b)
            share = var_a / (var_b + var_a)
    m_b = np.minimum(boundary + share * effect, 1 - _EDGE)
    m_a = (m_b - shift_) / slope_
    lam_b = (1 - share) * effect / (spread * m_b * (1 - m_b))
    lam_a = slope_ * size_b * lam_b / size_a
    # Both bets shrink together, which keeps n_a lam_a = slope n_b lam_b and every factor positive.
    worst = np.maximum(lam_b * m_b, lam_a * np.maximum(1 - m_a, 0.0))
    shrink = np.minimum(1.0, _CAP / np.maximum(worst, 1e-300))
    return lam_a * shrink, lam_b * shrink, m_a, m_b, usable


def log_factor_one(
    counts: FloatArray,
    *,
    limit: FloatArray | float,
    points: FloatArray = BINARY,
    fractions: FloatArray = FRACTIONS,
) -> FloatArray:
    """The same for one arm against a fixed number: the null is ``mean <= limit``.

    Args:
        counts: shape (..., P), observations at each of ``points``.
        limit: in (0, 1).
        fractions: as for ``log_factor``.

    Returns:
        shape (..., K).
    """
    bound = clip(np.asarray(limit, dtype=np.float64)[..., None], _EDGE, 1 - _EDGE)
    lam = fractions / bound
    gain = np.log1p(lam[..., None] * (points - bound[..., None]))
    result: FloatArray = (gain * counts[..., None, :]).sum(axis=-1)
    return result


def log_mean(log_wealth: FloatArray) -> FloatArray:
    """Logarithm of the mean wealth over the last axis."""
    top = log_wealth.max(axis=-1, keepdims=True)
    result: FloatArray = np.log(np.exp(log_wealth - top).sum(axis=-1) / log_wealth.shape[-1]) + top[..., 0]
    return result


def e_value(log_e: float) -> float:
    """``exp(log_e)``, at most the largest float (an infinity would not survive JSON)."""
    return math.exp(min(log_e, 700.0))


def bonferroni(alpha: float, tests: int) -> float:
    """Each test's share of ``alpha``, so that all together err with at most ``alpha``.

    Raises:
        ValueError: there is no test, or alpha is not between 0 and 1.
    """
    if tests < 1 or not 0 < alpha < 1:
        raise ValueError(f"expected at least one test and 0 < alpha < 1, found {tests} tests and alpha {alpha}")
    return alpha / tests
