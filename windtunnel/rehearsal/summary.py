"""A rehearsal in eight numbers, each with the interval that its number of runs allows. No number is null, never 0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from windtunnel.rehearsal.peers import PROMOTED, ROLLED_BACK, UNDECIDED
from windtunnel.rehearsal.runs import Ends, Variant
from windtunnel.stats.betting import FloatArray

KEYS = (
    "false_rollback", "missed", "inconclusive", "median_detection_minutes", "median_detection_requests",
    "users_exposed_p50", "users_exposed_p95", "time_to_promote_p50",
)  # fmt: skip
_Z = 1.959963984540054  # 95 %


@dataclass(frozen=True, slots=True)
class Number:
    """A value and its 95 % confidence interval; None where there is none."""

    value: float | None = None
    low: float | None = None
    high: float | None = None

    def to_dict(self) -> dict[str, float | None]:
        """Plain JSON values, to six digits."""
        return {name: _short(getattr(self, name)) for name in ("value", "low", "high")}


def share(hits: int, runs: int) -> Number:
    """A share of runs. Wilson's score interval (1927, JASA 22, p. 209), which is never empty at 0 or 1."""
    if runs == 0:
        return Number()
    p = hits / runs
    centre = (p + _Z * _Z / (2 * runs)) / (1 + _Z * _Z / runs)
    half = _Z * math.sqrt(p * (1 - p) / runs + _Z * _Z / (4 * runs * runs)) / (1 + _Z * _Z / runs)
    return Number(p, max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half)))


def quantile(values: FloatArray, q: float) -> Number:
    """A quantile of runs, by order statistics (David & Nagaraja, "Order Statistics", section 7.1).

    Runs in which it never happened are infinite; None where that reaches the quantile (or the end of its interval).
    """
    n = len(values)
    if n == 0:
        return Number()
    ordered = np.sort(values)
    half = _Z * math.sqrt(n * q * (1 - q))
    ranks = (n * q, n * q - half, n * q + half + 1)
    found = [_finite(float(ordered[min(n, max(1, math.ceil(r))) - 1])) for r in ranks]
    # Too few runs for an end of the interval: it is not known, the extreme run is no bound.
    low = found[1] if ranks[1] >= 1 else None
    high = found[2] if ranks[2] <= n else None
    return Number(found[0], low, high)


def summarise(ends: Mapping[Variant, Ends], harmful: bool) -> dict[str, Number]:
    """The eight numbers of one gate.

    Args:
        ends: of a candidate as good as the champion (``harmless``), and of the ``scenario``.
        harmful: the scenario's candidate should be rolled back. If not, the scenario's own runs are innocent.

    Returns:
        ``false_rollback``: share of innocent runs that were rolled back for harm. ``missed``: share of harmful runs
        that were promoted. ``inconclusive``: share of the scenario's runs that were rolled back (or paused) without a
        verdict. ``median_detection_*``: until harm was shown, counting the harmful runs where it never was.
        ``users_exposed_*``: requests the harmful candidate answered until the rollout ended, one way or another.
        ``time_to_promote_p50``: minutes, of innocent runs, counting those never promoted.
    """
    scenario = ends["scenario"]
    innocent = ends["harmless"] if harmful else scenario
    runs = len(scenario.how)
    found = dict.fromkeys(KEYS, Number())
    found["false_rollback"] = share(int((innocent.how == ROLLED_BACK).sum()), len(innocent.how))
    found["inconclusive"] = share(int((scenario.how == UNDECIDED).sum()), runs)
    found["time_to_promote_p50"] = quantile(np.where(innocent.how == PROMOTED, innocent.minutes, np.inf), 0.5)
    if harmful:
        caught = scenario.how == ROLLED_BACK
        found["missed"] = share(int((scenario.how == PROMOTED).sum()), runs)
        found["median_detection_minutes"] = quantile(np.where(caught, scenario.minutes, np.inf), 0.5)
        found["median_detection_requests"] = quantile(np.where(caught, scenario.requests, np.inf), 0.5)
        found["users_exposed_p50"] = quantile(scenario.requests, 0.5)
        found["users_exposed_p95"] = quantile(scenario.requests, 0.95)
    return found


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
