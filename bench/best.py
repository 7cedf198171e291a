"""The best a test with a planned end can do, by dynamic programming on Brownian motion.

Among all tests that may stop at any of ``looks`` times, the one that maximises

    P_theta(reject) - price * E_2theta[time] - fine * P_0(reject)

is found backwards from the end (Wald & Wolfowitz 1948; Barber & Jennison 2002 for this kind of criterion): reject where
that is worth more than going on. For each ``price`` the ``fine`` is set so that the false alarms are ``alpha``; varying
the price gives the frontier between power at the end and speed at a double effect. No test is better at both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from windtunnel.stats.sequential import Design


@dataclass(frozen=True)
class Point:
    """A place on the frontier; ``median`` and ``mean`` are shares of the planned end at twice the planned effect."""

    power: float
    median: float
    mean: float


def speed(design: Design, theta: float) -> tuple[float, float]:
    """(median, mean) time of rejecting, as shares of the planned end; paths that never reject count as 1."""
    gone = design.crossing(theta)
    times = np.asarray(design.times)
    if gone[-1] < 0.5:
        return math.inf, float((np.diff(gone, prepend=0.0) * times).sum() + 1 - gone[-1])
    at = int(np.argmax(gone >= 0.5))
    before, since = (gone[at - 1], times[at - 1]) if at else (0.0, 0.0)
    median = since + (times[at] - since) * (0.5 - before) / (gone[at] - before)
    return float(median), float((np.diff(gone, prepend=0.0) * times).sum() + 1 - gone[-1])


def _boundary(theta: float, price: float, fine: float, looks: int) -> Design:
    step = 1 / looks
    sd = math.sqrt(step)
    x = np.arange(-6.0, 12.0, sd / 8)
    cells = math.ceil(6 * sd / (sd / 8))
    kernel = np.exp(-0.5 * ((np.arange(-cells, cells + 1) * sd / 8) / sd) ** 2)
    kernel /= kernel.sum()

    def ratio(mu: float, t: float) -> np.ndarray:
        return np.exp(mu * x - mu * mu * t / 2)

    value = np.maximum(ratio(theta, 1.0) - fine, 0.0)
    bounds = [math.log(fine) / theta + theta / 2]
    for i in range(looks - 1, 0, -1):
        t = i * step
        on = np.convolve(np.pad(value, cells, mode="edge"), kernel, "valid") - price * step * ratio(2 * theta, t)
        stop = ratio(theta, t) - fine
        better = stop - on
        value = np.maximum(on, stop)
        # From the top down: the place where stopping begins to pay, between two cells.
        inside = x < 6 * math.sqrt(t) + 2 * theta * t
        places = np.flatnonzero((better[:-1] < 0) & (better[1:] >= 0) & inside[1:])
        if len(places):
            j = int(places[0])
            bounds.append(float(x[j] + (x[j + 1] - x[j]) * -better[j] / (better[j + 1] - better[j])))
        else:
            bounds.append(math.inf)
    times = tuple((i + 1) * step for i in range(looks))
    return Design(times, tuple(b / math.sqrt(t) for b, t in zip(bounds[::-1], times, strict=True)))


def best(theta: float, alpha: float, price: float, looks: int = 100) -> tuple[Point, Design]:
    """The best test at this price of time, with false alarms ``alpha``."""
    low, high = 0.01, 5000.0
    for _ in range(40):
        middle = math.sqrt(low * high)
        high, low = (
            (middle, low) if _boundary(theta, price, middle, looks).crossing(0.0)[-1] <= alpha else (high, middle)
        )
    found = _boundary(theta, price, high, looks)
    median, mean = speed(found, 2 * theta)
    return Point(float(found.crossing(theta)[-1]), median, mean), found


def frontier(theta: float, alpha: float, prices: tuple[float, ...] = (0.05, 0.1, 0.2, 0.3, 0.4, 0.6)) -> list[Point]:
    """Points from the most powerful to the fastest."""
    return [best(theta, alpha, price)[0] for price in prices]
