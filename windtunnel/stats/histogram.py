"""A latency histogram with fixed, logarithmic buckets: counts that add, quantiles with a stated resolution."""

from __future__ import annotations

import bisect
import math
import operator
from dataclasses import dataclass
from typing import Any

#: Upper bounds in milliseconds, 24 per decade from 0.1 ms to 100 s: each is 10 % above the last.
BOUNDS: tuple[float, ...] = tuple(round(0.1 * 10 ** (i / 24), 6) for i in range(24 * 6 + 1))


@dataclass(frozen=True, slots=True)
class Histogram:
    """``counts[i]`` observations in ``(BOUNDS[i-1], BOUNDS[i]]``; the last counts everything above."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)

    def __post_init__(self) -> None:
        if len(self.counts) != len(BOUNDS) + 1:
            raise ValueError(f"a histogram has {len(BOUNDS) + 1} counts, found {len(self.counts)}")

    @property
    def total(self) -> int:
        return sum(self.counts)

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(tuple(map(operator.add, self.counts, other.counts)))

    def __sub__(self, other: Histogram) -> Histogram:
        """What came since ``other``, an earlier reading of the same counter."""
        return Histogram(tuple(map(operator.sub, self.counts, other.counts)))

    def quantile(self, q: float) -> float | None:
        """Upper bound of the bucket that holds quantile ``q`` (at most 10.1 % too high); None when empty."""
        total = self.total
        if total == 0:
            return None
        rank = max(1, math.ceil(q * total))
        seen = 0
        for i, count in enumerate(self.counts):
            seen += count
            if seen >= rank:
                return BOUNDS[i] if i < len(BOUNDS) else math.inf
        return math.inf

    def above(self, bound_ms: float) -> int:
        """How many observations lie in buckets wholly above ``bound_ms`` (rounded up to a bucket's bound)."""
        return sum(self.counts[bucket(bound_ms) + 1 :])

    def to_dict(self) -> dict[str, Any]:
        """Sparse: bucket index to count."""
        return {str(i): c for i, c in enumerate(self.counts) if c}

    @classmethod
    def from_dict(cls, sparse: dict[str, int]) -> Histogram:
        counts = [0] * (len(BOUNDS) + 1)
        for index, count in sparse.items():
            counts[int(index)] = count
        return cls(tuple(counts))


def bucket(value_ms: float) -> int:
    """Index of the bucket that counts ``value_ms``."""
    return bisect.bisect_left(BOUNDS, value_ms)
