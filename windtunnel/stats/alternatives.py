"""Which alternatives the wealth of a betting test is spread over, and in which shares.

Nobody knows beforehand how much worse a candidate is. The wealth is spread over a few answers to that, most of it on
those that a release can find in time; a mean of e-processes is an e-process, whatever the shares. The numbers were
chosen by simulation (bench/detection.py); they cost or gain power, never validity.
"""

from __future__ import annotations

import numpy as np

from windtunnel.stats.betting import FloatArray, clip, round_down

#: Harm: the candidate's odds as multiples of the odds at the boundary.
ODDS: FloatArray = np.array([1.12, 1.3, 1.7, 2.6, 5.0, 15.0, 150.0])
_HARM_SHARES: FloatArray = np.array([0.15, 0.18, 0.18, 0.17, 0.16, 0.10, 0.06])
#: Safety: three parts of the way from the boundary to the champion, and two better than the champion.
_WAYS: FloatArray = np.array([0.4, 0.7, 1.0])
_BETTER: FloatArray = np.array([0.5, 0.05])
_SAFE_SHARES: FloatArray = np.array([0.10, 0.20, 0.50, 0.15, 0.05])
#: Superiority: how far below the boundary, as a share of it.
_BELOW: FloatArray = np.array([0.13, 0.33, 0.57, 0.8, 0.97])


def _start(shares: FloatArray) -> FloatArray:
    """Log wealth to begin with, so that a plain mean over the alternatives is the weighted one."""
    start = round_down(np.log(shares * len(shares)))
    start.setflags(write=False)
    return start


HARM_START: FloatArray = _start(_HARM_SHARES)
SAFE_START: FloatArray = _start(_SAFE_SHARES)


def harm_fractions(boundary: FloatArray) -> FloatArray:
    """How far the alternatives lie between the boundary's mean and 1: shape (...) to (..., K)."""
    mean = boundary[..., None]
    worse = mean * ODDS / (1 - mean + mean * ODDS)
    found: FloatArray = (worse - mean) / (1 - mean)
    return found


def safe_fractions(boundary: FloatArray, champion: FloatArray, dispersion: FloatArray | float) -> FloatArray:
    """How far the alternatives lie between the boundary's mean and 0: shape (...) to (..., K).

    Where the boundary lies above the champion's mean, the alternative that matters is a candidate that equals the
    champion. Where it does not (superiority), it is one below the boundary.

    Args:
        boundary, champion: means, in (0, 1).
        dispersion: the observations' variance as a share of ``mean (1 - mean)``; the bet's effects are scaled by it.
    """
    top = boundary[..., None]
    ways = _WAYS * (boundary - champion)[..., None] / top
    better = (top - _BETTER * champion[..., None]) / top
    equal = np.concatenate([ways, better], axis=-1)
    chosen = np.where((boundary > champion)[..., None], equal, _BELOW)
    scaled: FloatArray = clip(chosen / np.asarray(dispersion, dtype=np.float64)[..., None], 1e-6, 0.999)
    return scaled
