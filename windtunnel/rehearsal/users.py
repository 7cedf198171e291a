"""Users who stay with one version: what that does to the two arms of a rehearsal.

Where a header names the user (``serving.sticky``), chance decides once per user and not once per request. Users
differ, also where the versions do not: some ask more, some ask what fails. All requests of one user lie in one
place of the split, so a place differs from another by who fell into it. Given the users of a place, its requests
and its failures are sums over independent users: one draw with their mean, as for requests by lot. So a crowd is a
factor on the traffic, the errors and the slow requests of each place, drawn once for as long as the users stay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from windtunnel.stats.betting import FloatArray

#: Share of slow requests of the average user; it only shapes how much users can differ.
SLOW = 0.05


@dataclass(frozen=True, slots=True)
class Crowd:
    """Factors by place, shape (places, runs, S) each: on the requests, the error rate, the share of slow requests."""

    traffic: FloatArray
    errors: FloatArray
    slow: FloatArray


def intraclass(share: float, differ: float) -> float:
    """Correlation of two requests of one user, where users' shares around ``share`` have the coefficient ``differ``."""
    return min(1.0, share * differ**2 / (1 - share)) if 0 < share < 1 else 0.0


def gather(
    rng: np.random.Generator,
    runs: int,
    widths: FloatArray,
    shares: FloatArray,
    users: int,
    differ: float,
    errors: float,
) -> Crowd:
    """Who fell where.

    Args:
        widths: (places,) share of the users of each place. shares: (S,) of each segment.
        users: how many; at least one in each segment.
        differ: coefficient of variation of the users' own error rates (and shares of slow requests): beta distributed
            around the mean. Their traffic is exponentially distributed.
        errors: mean error rate.
    """
    places, parts = len(widths), len(shares)
    factors = np.ones((3, places, runs, parts))
    ends = np.cumsum(widths)[:-1]
    for part, share in enumerate(shares):
        count = max(1, round(users * float(share)))
        for run in range(runs):
            asks = rng.exponential(size=count)
            where = np.searchsorted(ends, rng.random(count), side="right")
            traffic = np.bincount(where, weights=asks, minlength=places)
            factors[0, :, run, part] = traffic / (count * widths)
            there = traffic > 0
            for row, mean in ((1, errors), (2, SLOW)):
                own = np.bincount(where, weights=asks * _propensity(rng, count, mean, differ), minlength=places)
                factors[row, there, run, part] = own[there] / traffic[there]
    return Crowd(*factors)


def _propensity(rng: np.random.Generator, count: int, mean: float, differ: float) -> FloatArray:
    """Each user's own share as a factor on ``mean``."""
    tie = intraclass(mean, differ)
    if tie == 0:
        return np.ones(count)
    if tie == 1:  # it fails always or never
        found: FloatArray = (rng.random(count) < mean) / mean
        return found
    size = 1 / tie - 1
    return np.asarray(rng.beta(mean * size, (1 - mean) * size, count) / mean, dtype=np.float64)
