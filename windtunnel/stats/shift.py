"""Has the distribution of predictions moved by more than a margin?

The Kolmogorov distance (categories: the largest difference of a category's share) is a maximum over events such as
"the prediction is at most 2.5". For each event two betting tests run, one for each direction; "the distance is at
most the margin" is the null of all of them, so their mean is an e-value against it. The reverse, "the distance is
within the margin", needs every one of them, so the smallest e-value speaks for it (intersection-union; no
correction). Both hold under drift of both arms and changing splits, as the tests they are made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
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
        counts: shape (..., B), observations per bin.
        ordered: bins are numeric intervals: events are "at most the bin's upper edge", without the last, which is
            always true. Otherwise each bin is an event of its own.
    """
    result: FloatArray = np.cumsum(counts, axis=-1)[..., :-1] if ordered else np.asarray(counts, dtype=np.float64)
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
        size = len(counts_a) - 1 if ordered else len(counts_a)
        if counts_a.sum() <= 0 or counts_b.sum() <= 0 or size == 0:
            return self
        if self.champion and len(self.champion) != size:
            raise ValueError(f"expected {len(self.champion)} events as before, found {size}: the bins changed")
        batch = ShiftTests.of([self], size)
        return batch.update(counts_a[None], counts_b[None], margin, ordered=ordered).at(0)

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


@dataclass(frozen=True, slots=True)
class ShiftTests:
    """Many comparisons of distributions at once, over the same number E of events.

    Attributes:
        harm, safe: shape (..., E, 2, K), log wealth by event, direction and alternative.
        champion: shape (..., E), events seen, with limited memory.
        n: shape (..., 3): observations behind ``champion``, of the champion, of the candidate.
    """

    harm: FloatArray
    safe: FloatArray
    champion: FloatArray
    n: FloatArray

    @classmethod
    def begin(cls, size: int, *shape: int) -> ShiftTests:
        """``shape`` comparisons over ``size`` events that have seen nothing."""
        wealth = np.zeros((*shape, size, 2, len(FRACTIONS)))
        return cls(wealth, wealth, np.zeros((*shape, size)), np.zeros((*shape, 3)))

    @classmethod
    def of(cls, tests: Sequence[ShiftTest], size: int) -> ShiftTests:
        """Shape (len(tests),)."""
        shape, zero = (size, 2, len(FRACTIONS)), np.zeros(size)
        nothing = np.zeros(shape)
        return cls(
            np.array([np.reshape(test.harm, shape) if test.harm else nothing for test in tests]),
            np.array([np.reshape(test.safe, shape) if test.safe else nothing for test in tests]),
            np.array([test.champion if test.champion else zero for test in tests]),
            np.array([(test.n_belief, test.n_a, test.n_b) for test in tests]),
        )

    def at(self, index: int) -> ShiftTest:
        """One of them, where the shape is (n,)."""
        return ShiftTest(
            tuple(self.harm[index].ravel().tolist()),
            tuple(self.safe[index].ravel().tolist()),
            tuple(self.champion[index].tolist()),
            *self.n[index].tolist(),
        )

    def map(self, change: Callable[[FloatArray], FloatArray]) -> ShiftTests:
        """``change`` applied to every array."""
        return ShiftTests(change(self.harm), change(self.safe), change(self.champion), change(self.n))

    def update(self, counts_a: FloatArray, counts_b: FloatArray, margin: float, *, ordered: bool) -> ShiftTests:
        """Take in one block of each, shape (..., B), finite and not negative; nothing changes where an arm has none."""
        n_a, n_b = counts_a.sum(axis=-1), counts_b.sum(axis=-1)
        usable = (n_a > 0) & (n_b > 0)
        size = self.champion.shape[-1]
        if size == 0 or not usable.any():
            return self
        yes_a, yes_b = events(counts_a, ordered=ordered), events(counts_b, ordered=ordered)
        # A flat guess worth two observations: cumulative shares rise evenly, categories are equally likely.
        flat = np.arange(1, size + 1) / (size + 1) if ordered else np.full(size, 1 / size)
        mean = (self.champion + 2 * flat) / (self.n[..., :1] + 2)

        # Both directions at once: the event became more likely, or less likely (its complement more likely).
        block_a, block_b = _directions(yes_a, n_a), _directions(yes_b, n_b)
        means = np.stack([mean, 1 - mean], axis=-1)
        gain = log_factor(block_a, block_b, mean_a=means, shift=margin, fractions=FRACTIONS)
        lost = log_factor(block_a[..., ::-1], block_b[..., ::-1], mean_a=1 - means, shift=-margin, fractions=FRACTIONS)
        fresh = np.where(usable, n_a, 0.0)
        keep = np.minimum(1.0, _MEMORY / np.maximum(self.n[..., 0] + fresh, 1.0))
        champion = (self.champion + np.where(usable[..., None], yes_a, 0.0)) * keep[..., None]
        n = self.n + np.stack([fresh, fresh, np.where(usable, n_b, 0.0)], axis=-1)
        n[..., 0] *= keep
        return ShiftTests(round_down(self.harm + gain), round_down(self.safe + lost), champion, n)

    @property
    def log_harm(self) -> FloatArray:
        """Shape (...); NaN before the first block."""
        flat = self.harm.reshape(*self.harm.shape[:-3], -1)
        return np.where(self.n[..., 1] > 0, log_mean(flat), np.nan)

    @property
    def log_safe(self) -> FloatArray:
        """Shape (...); NaN before the first block."""
        least = log_mean(self.safe).min(axis=(-2, -1))
        return np.where(self.n[..., 1] > 0, least, np.nan)


def _directions(yes: FloatArray, n: FloatArray) -> FloatArray:
    """Shape (..., E, 2, 2): event not happened and happened; then its complement."""
    no = n[..., None] - yes
    return np.stack([np.stack([no, yes], -1), np.stack([yes, no], -1)], axis=-2)
