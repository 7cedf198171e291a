"""Has the distribution of predictions moved by more than a margin?

The Kolmogorov distance (categories: the largest difference of a category's share) is a maximum over events such as
"the prediction is at most 2.5". For each event two betting tests run, one for each direction; "the distance is at
most the margin" is the null of all of them, so their mean is an e-value against it. The reverse, "the distance is
within the margin", needs every one of them, so the smallest e-value speaks for it (intersection-union; no
correction). Both hold under drift of both arms and changing splits, as the tests they are made of.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.stats.betting import FloatArray, log_factor, log_mean, round_down

#: Fewer alternatives than for a single test: there are many events, and the state is stored at each look.
FRACTIONS: FloatArray = np.geomspace(0.02, 0.9, 6)
FRACTIONS.setflags(write=False)
_MEMORY = 5000.0


def events(counts: FloatArray, *, ordered: bool) -> FloatArray:
    """How many observations lie in each event.

    Args:
        counts: shape (B,), observations per bin.
        ordered: bins are numeric intervals: events are "at most the bin's upper edge", without the last, which is
            always true. Otherwise each bin is an event of its own.
    """
    result: FloatArray = np.cumsum(counts)[:-1] if ordered else np.asarray(counts, dtype=np.float64)
    return result


def distance(counts_a: FloatArray, counts_b: FloatArray, *, ordered: bool) -> float | None:
    """Largest difference of any event's share; None when an arm has no observation."""
    n_a, n_b = float(counts_a.sum()), float(counts_b.sum())
    if n_a <= 0 or n_b <= 0:
        return None
    gaps = np.abs(events(counts_a, ordered=ordered) / n_a - events(counts_b, ordered=ordered) / n_b)
    return float(gaps.max()) if gaps.size else 0.0


def dkw_radius(n: float, alpha: float) -> float | None:
    """Time-uniform radius around an empirical distribution function.

    Howard & Ramdas (2022, Bernoulli, "Sequential estimation of quantiles with applications to A/B testing and
    best-arm identification", corollary 2): ``0.85 sqrt((log log(e n) + 0.8 log(1612 / alpha)) / n)``.
    None without observations. Assumes one unchanging distribution, so it is shown, not used to decide.
    """
    if n < 1:
        return None
    return min(1.0, 0.85 * math.sqrt((math.log(math.log(math.e * n)) + 0.8 * math.log(1612 / alpha)) / n))


@dataclass(frozen=True, slots=True)
class ShiftTest:
    """State of one comparison of distributions.

    Attributes:
        harm: log wealth, events x directions x alternatives, flat.
        safe: the same for "within the margin".
        champion: events seen so far with limited memory, for the bets.
        n_belief: observations behind ``champion``.
        n_a, n_b: observations tested so far.
    """

    harm: tuple[float, ...] = ()
    safe: tuple[float, ...] = ()
    champion: tuple[float, ...] = ()
    n_belief: float = 0.0
    n_a: float = 0.0
    n_b: float = 0.0

    def update(self, counts_a: FloatArray, counts_b: FloatArray, margin: float, *, ordered: bool) -> ShiftTest:
        """Take in one block of binned predictions, shape (B,) for each arm.

        Raises:
            ValueError: counts are negative, or the bins changed.
        """
        if (counts_a < 0).any() or (counts_b < 0).any():
            raise ValueError("counts cannot be negative: the baseline is from another counter")
        n_a, n_b = float(counts_a.sum()), float(counts_b.sum())
        yes_a, yes_b = events(counts_a, ordered=ordered), events(counts_b, ordered=ordered)
        size = len(yes_a)
        if n_a <= 0 or n_b <= 0 or size == 0:
            return self
        if self.champion and len(self.champion) != size:
            raise ValueError(f"expected {len(self.champion)} events as before, found {size}: the bins changed")
        before = np.asarray(self.champion) if self.champion else np.zeros(size)
        # A flat guess worth two observations: cumulative shares rise evenly, categories are equally likely.
        flat = np.arange(1, size + 1) / (size + 1) if ordered else np.full(size, 1 / size)
        mean = (before + 2 * flat) / (self.n_belief + 2)

        # Both directions at once: the event became more likely, or less likely (its complement more likely).
        block_a = np.stack([np.stack([n_a - yes_a, yes_a], -1), np.stack([yes_a, n_a - yes_a], -1)], axis=1)
        block_b = np.stack([np.stack([n_b - yes_b, yes_b], -1), np.stack([yes_b, n_b - yes_b], -1)], axis=1)
        means = np.stack([mean, 1 - mean], axis=1)
        gain = log_factor(block_a, block_b, mean_a=means, shift=margin, fractions=FRACTIONS)
        lost = log_factor(block_a[..., ::-1], block_b[..., ::-1], mean_a=1 - means, shift=-margin, fractions=FRACTIONS)
        keep = min(1.0, _MEMORY / (self.n_belief + n_a))
        old_harm = np.asarray(self.harm) if self.harm else np.zeros(gain.size)
        old_safe = np.asarray(self.safe) if self.safe else np.zeros(lost.size)
        return ShiftTest(
            harm=tuple(round_down(old_harm + gain.ravel()).tolist()),
            safe=tuple(round_down(old_safe + lost.ravel()).tolist()),
            champion=tuple(((before + yes_a) * keep).tolist()),
            n_belief=(self.n_belief + n_a) * keep,
            n_a=self.n_a + n_a,
            n_b=self.n_b + n_b,
        )

    @property
    def log_harm(self) -> float | None:
        """Log e-value against "the distance is at most the margin"; None before the first block."""
        return float(log_mean(np.asarray(self.harm))) if self.harm else None

    @property
    def log_safe(self) -> float | None:
        """Log e-value against "the distance is more than the margin"; None before the first block."""
        if not self.safe:
            return None
        return float(log_mean(np.asarray(self.safe).reshape(-1, len(FRACTIONS))).min())

    def to_dict(self) -> dict[str, Any]:
        return {
            "harm": list(self.harm),
            "safe": list(self.safe),
            "champion": list(self.champion),
            "n": [self.n_belief, self.n_a, self.n_b],
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> ShiftTest:
        return cls(tuple(plain["harm"]), tuple(plain["safe"]), tuple(plain["champion"]), *plain["n"])
