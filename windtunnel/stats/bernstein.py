"""A confidence sequence for the difference of two arms' means: an interval that may be read at any time.

Howard, Ramdas, McAuliffe & Sekhon (2021, Annals of Statistics, "Time-uniform, nonparametric, nonasymptotic
confidence sequences", theorem 4): for observations in [0, 1], predictions ``guess`` made before each, and any
``0 <= lam < 1``,

    exp(lam * sum (x - mean) - psi(lam) * sum (x - guess)^2),      psi(lam) = -log(1 - lam) - lam,

starts at 1 and does not grow on average. The means may change with time. Each block enters with weight
``n_a n_b / (n_a + n_b)``, so that within a block like is compared with like and a drift of both arms, or a change
of the split, does not look like a difference (Simpson's paradox).
"""

from __future__ import annotations

import math

import numpy as np

from windtunnel.stats.betting import FloatArray

_LAMBDAS: FloatArray = np.geomspace(0.001, 0.9, 16)
_PSI: FloatArray = -np.log1p(-_LAMBDAS) - _LAMBDAS


def radius(variance: FloatArray | float, alpha: float) -> FloatArray:
    """How far the weighted sum may be from its mean, on both sides, at any time, with confidence 1 - alpha.

    Args:
        variance: sum of squared prediction errors (intrinsic time), any shape.
        alpha: in (0, 1), for both sides together.

    The union over a grid of ``lam`` (each with an equal share of alpha) has the closed form
    ``min_k (log(2 K / alpha) + psi(lam_k) V) / lam_k``.
    """
    v = np.asarray(variance, dtype=np.float64)[..., None]
    lines = (math.log(2 * len(_LAMBDAS) / alpha) + _PSI * v) / _LAMBDAS
    result: FloatArray = lines.min(axis=-1)
    return result
