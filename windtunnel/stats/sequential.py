"""Tests with a planned end: looks at any time until then, the error spent as information comes in.

The score of a comparison, as a function of the information collected, moves like a Brownian motion: ``Z_i sqrt(t_i)``
at information fraction ``t_i`` has mean ``theta t_i`` and independent increments (Jennison & Turnbull 2000, "Group
Sequential Methods with Applications to Clinical Trials", chapter 3; Scharfstein, Tsiatis & Robins 1997). A boundary
``z_i`` is chosen such that the chance, without an effect, to have crossed by ``t_i`` is a spending function's value
(Lan & DeMets 1983, Biometrika 70, "Discrete sequential boundaries for clinical trials"). Looks need not be planned: a
boundary depends on the times of earlier looks only. Crossing chances by recursive numerical integration (Armitage,
McPherson & Rowe 1969; Jennison & Turnbull, chapter 19).

What it cannot do: it is an approximation for large counts (a betting test is exact for all), it is over when all of the
error is spent (a betting test never is), and the information at the end must be foreseen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from windtunnel.stats.betting import FloatArray

#: From an information fraction in [0, 1] and a total error to the error spent until then.
Spending = Callable[[float, float], float]

_REACH = 9.0  # standard deviations kept of the score's distribution
_FINE = 30.0  # grid cells to the smallest standard deviation of a step, where that can be afforded
_CELLS = 16000


def obrien_fleming(t: float, alpha: float) -> float:
    """``2 - 2 Phi(z_{alpha/2} / sqrt(t))``: next to nothing early (Lan & DeMets 1983, equation 4)."""
    from scipy.special import ndtr, ndtri

    return 0.0 if t <= 0 else float(2 * ndtr(ndtri(alpha / 2) / math.sqrt(min(t, 1.0))))


def pocock(t: float, alpha: float) -> float:
    """``alpha log(1 + (e - 1) t)``: about the same boundary at each look (Lan & DeMets 1983)."""
    return alpha * math.log(1 + (math.e - 1) * min(max(t, 0.0), 1.0))


def power(rho: float) -> Spending:
    """``alpha t^rho`` (Kim & DeMets 1987, Biometrika 74)."""
    return lambda t, alpha: alpha * min(max(t, 0.0), 1.0) ** rho


def hwang_shih_decani(gamma: float) -> Spending:
    """``alpha (1 - exp(-gamma t)) / (1 - exp(-gamma))`` (Hwang, Shih & DeCani 1990, Statistics in Medicine 9)."""
    if gamma == 0:
        return power(1.0)
    return lambda t, alpha: alpha * math.expm1(-gamma * min(max(t, 0.0), 1.0)) / math.expm1(-gamma)


def late(early: float, spending: Spending) -> Spending:
    """``spending`` of the share ``early`` of the error before the planned end, all the rest at it.

    Half before, evenly (``late(0.5, power(1))``), is within one point of the best power that a test can have which
    finds a double effect as early (bench/truth.py, by dynamic programming).
    """
    return lambda t, alpha: alpha if t >= 1 - 1e-9 else early * spending(t, alpha)


@dataclass(frozen=True, slots=True)
class Design:
    """A one-sided test with looks at ``times``.

    Attributes:
        times: information fractions of the looks, rising, the last at most 1.
        bounds: the z-value that rejects at each look; infinite where nothing is spent.
    """

    times: tuple[float, ...]
    bounds: tuple[float, ...]

    def crossing(self, theta: float) -> FloatArray:
        """Chance of having rejected by each look, shape (looks,), where the z-value at the end has mean ``theta``."""
        walk = _Walk(self.times)
        done = []
        for i, bound in enumerate(self.bounds):
            walk.step(i, theta)
            walk.stop(bound * math.sqrt(self.times[i]))
            done.append(walk.gone)
        return np.asarray(done)


class _Walk:
    """The score's distribution among those who have not stopped, on a grid."""

    def __init__(self, times: Sequence[float]) -> None:
        self.times = np.asarray(times, dtype=np.float64)
        if self.times.size == 0 or self.times[0] <= 0 or (np.diff(self.times) <= 0).any() or self.times[-1] > 1 + 1e-9:
            raise ValueError(f"expected rising information fractions in (0, 1], found {list(times)}")
        steps = np.diff(self.times, prepend=0.0)
        self.sd = np.sqrt(steps)
        high = _REACH * math.sqrt(self.times[-1])
        self.width = max(2 * high / _CELLS, float(self.sd.min()) / _FINE)
        self.reach = high
        self.gone = 0.0
        self.grid: FloatArray = np.zeros(0)
        self.density: FloatArray = np.zeros(0)

    def step(self, i: int, theta: float) -> None:
        """Move on to look ``i``."""
        from scipy.signal import fftconvolve
        from scipy.special import ndtr

        mean = theta * float(self.times[i] - (self.times[i - 1] if i else 0.0))
        sd, dx = float(self.sd[i]), self.width
        if i == 0:
            low, high = min(0.0, theta) - self.reach, max(0.0, theta) + self.reach
            self.grid = np.arange(math.floor(low / dx), math.ceil(high / dx) + 1, dtype=np.float64) * dx
            edges = (np.append(self.grid, self.grid[-1] + dx) - dx / 2 - mean) / sd
            self.density = np.asarray(np.diff(ndtr(edges)), dtype=np.float64)
            return
        half = math.ceil((_REACH * sd + abs(mean)) / dx)
        edges = ((np.arange(-half, half + 2, dtype=np.float64) - 0.5) * dx - mean) / sd
        # Clipped: the transform leaves tiny negative chances, of the order of the machine's precision.
        moved = np.asarray(fftconvolve(self.density, np.diff(ndtr(edges)), mode="same"), dtype=np.float64)
        self.density = np.maximum(moved, 0.0)

    def stop(self, bound: float) -> None:
        """Take out what lies above ``bound``; the cell it lies in is split."""
        if math.isinf(bound):
            return
        kept = np.clip((bound - self.grid) / self.width + 0.5, 0.0, 1.0)
        self.gone += float((self.density * (1 - kept)).sum())
        self.density = self.density * kept

    def bound(self, chance: float) -> float:
        """Where ``chance`` lies above."""
        if chance <= 1e-14:
            return math.inf
        above = np.cumsum(self.density[::-1])
        at = int(np.searchsorted(above, chance))
        if at >= len(above):
            return -math.inf
        before = float(above[at - 1]) if at else 0.0
        cell = float(self.density[::-1][at])
        share = (chance - before) / cell if cell > 0 else 0.0
        return float(self.grid[::-1][at] + (0.5 - share) * self.width)


def design(times: Sequence[float], alpha: float, spending: Spending = obrien_fleming) -> Design:
    """Boundaries of a one-sided test of level ``alpha`` with looks at these information fractions.

    Raises:
        ValueError: the fractions do not rise within (0, 1], or alpha is not between 0 and 1.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"expected 0 < alpha < 1, found {alpha}")
    walk = _Walk(times)
    bounds = []
    for i, t in enumerate(times):
        walk.step(i, 0.0)
        bound = walk.bound(spending(t, alpha) - walk.gone)
        walk.stop(bound)
        bounds.append(bound / math.sqrt(t))
    return Design(tuple(float(t) for t in times), tuple(bounds))


def constant(looks: int, alpha: float, delta: float) -> float:
    """Wang & Tsiatis' constant: ``looks`` equally spaced, reject where ``Z_i >= C (i / looks)^(delta - 1/2)``.

    ``delta`` 0 is O'Brien & Fleming's boundary, 1/2 Pocock's (Wang & Tsiatis 1987, Biometrics 43). One-sided.
    """
    times = tuple((i + 1) / looks for i in range(looks))
    low, high = 0.0, 10.0
    for _ in range(50):
        middle = (low + high) / 2
        bounds = tuple(middle * t ** (delta - 0.5) for t in times)
        low, high = (low, middle) if Design(times, bounds).crossing(0.0)[-1] <= alpha else (middle, high)
    return high
