"""Two arms compared block by block: harm, non-inferiority and an interval from one small state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from windtunnel.stats import bernstein
from windtunnel.stats.betting import BINARY, FRACTIONS, FloatArray, log_factor, log_factor_one, log_mean, round_down

_ZERO = (0.0,) * len(FRACTIONS)
_MEMORY = 5000.0  # beliefs about the champion rest on about this many observations, so that they follow a drift


@dataclass(frozen=True, slots=True)
class Moments:
    """Number, sum and sum of squares of observations; they add."""

    n: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.n + other.n, self.total + other.total, self.squares + other.squares)

    @property
    def mean(self) -> float | None:
        """None without observations."""
        return self.total / self.n if self.n > 0 else None

    def squares_about(self, centre: float) -> float:
        return max(0.0, self.squares - 2 * centre * self.total + self.n * centre * centre)

    def capped(self, n: float) -> Moments:
        """The same mean and spread, remembered as at most ``n`` observations."""
        if self.n <= n:
            return self
        keep = n / self.n
        return Moments(n, self.total * keep, self.squares * keep)

    @classmethod
    def of(cls, counts: FloatArray, points: FloatArray) -> Moments:
        """Of ``counts`` observations at ``points``."""
        return cls(float(counts.sum()), float(counts @ points), float(counts @ (points * points)))

    @classmethod
    def binary(cls, n: float, hits: float) -> Moments:
        return cls(float(n), float(hits), float(hits))

    def to_list(self) -> list[float]:
        return [self.n, self.total, self.squares]


@dataclass(frozen=True, slots=True)
class Boundary:
    """The candidate is harmful beyond ``mean_b = slope * mean_a + shift``.

    An absolute margin ``d`` is ``Boundary(1, d)``; a margin as a fraction ``r`` of the champion's mean is
    ``Boundary(1 + r, 0)``.
    """

    slope: float = 1.0
    shift: float = 0.0


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence sequence."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class TwoSample:
    """State of one comparison; ``update`` gives the next.

    Attributes:
        harm: log wealth, per alternative, of betting that the candidate is beyond the boundary.
        safe: log wealth of betting that it is within.
        champion, candidate: everything seen so far.
        belief: what is known of the champion, with a limited memory.
        weighted: sum over blocks of ``n_a n_b / (n_a + n_b) * (mean_b - mean_a)``.
        variance: its intrinsic time (see ``bernstein``).
        weight: sum of the blocks' weights.
    """

    harm: tuple[float, ...] = _ZERO
    safe: tuple[float, ...] = _ZERO
    champion: Moments = Moments()
    candidate: Moments = Moments()
    belief: Moments = Moments()
    weighted: float = 0.0
    variance: float = 0.0
    weight: float = 0.0

    def update(
        self,
        counts_a: FloatArray,
        counts_b: FloatArray,
        boundary: Boundary,
        *,
        points: FloatArray = BINARY,
        prior: float = 0.01,
    ) -> TwoSample:
        """Take in one block.

        Args:
            counts_a, counts_b: shape (P,), observations of champion and candidate at ``points``.
            points: shape (P,), in [0, 1].
            prior: the champion's mean as believed before anything is seen (worth two observations).

        Returns:
            the next state; the same one when an arm has no observation in the block (nothing to compare).

        Raises:
            ValueError: counts are negative or not numbers.
        """
        if not (np.isfinite(counts_a).all() and np.isfinite(counts_b).all()):
            raise ValueError("counts must be numbers, found NaN or infinity")
        if (counts_a < 0).any() or (counts_b < 0).any():
            raise ValueError("counts cannot be negative: the baseline is from another counter")
        block_a, block_b = Moments.of(counts_a, points), Moments.of(counts_b, points)
        if block_a.n <= 0 or block_b.n <= 0:
            return self
        binary = points is BINARY
        known = self.belief + Moments(2.0, 2 * prior, 2 * prior if binary else 4 * prior * prior)
        mean_a = known.total / known.n
        spread = mean_a * (1 - mean_a)
        dispersion = (
            1.0 if binary or spread <= 0 else min(1.0, max(0.01, known.squares_about(mean_a) / known.n / spread))
        )

        harm = log_factor(
            counts_a, counts_b, points=points, mean_a=mean_a, dispersion=dispersion,
            slope=boundary.slope, shift=boundary.shift,
        )  # fmt: skip
        # Within the boundary means the mirrored observations 1 - x are beyond the mirrored boundary.
        safe = log_factor(
            counts_a, counts_b, points=1 - points, mean_a=1 - mean_a, dispersion=dispersion,
            slope=boundary.slope, shift=1 - boundary.slope - boundary.shift,
        )  # fmt: skip

        size = block_a.n + block_b.n
        u_a, u_b = block_b.n / size, block_a.n / size
        guess_b = (self.candidate.total + 2 * mean_a) / (self.candidate.n + 2)
        return TwoSample(
            harm=tuple(round_down(np.asarray(self.harm) + harm).tolist()),
            safe=tuple(round_down(np.asarray(self.safe) + safe).tolist()),
            champion=self.champion + block_a,
            candidate=self.candidate + block_b,
            belief=(self.belief + block_a).capped(_MEMORY),
            weighted=self.weighted + u_b * block_b.total - u_a * block_a.total,
            variance=self.variance
            + u_b * u_b * block_b.squares_about(guess_b)
            + u_a * u_a * block_a.squares_about(mean_a),
            weight=self.weight + block_a.n * block_b.n / size,
        )

    @property
    def log_harm(self) -> float | None:
        """Log e-value against "no worse than the boundary"; None before the first block."""
        return float(log_mean(np.asarray(self.harm))) if self.weight > 0 else None

    @property
    def log_safe(self) -> float | None:
        """Log e-value against "at or beyond the boundary"; None before the first block."""
        return float(log_mean(np.asarray(self.safe))) if self.weight > 0 else None

    def difference(self, alpha: float) -> Interval | None:
        """Confidence sequence for the (weighted) mean of ``mean_b - mean_a``; None before the first block."""
        if self.weight <= 0:
            return None
        middle = self.weighted / self.weight
        wide = float(bernstein.radius(self.variance, alpha)) / self.weight
        return Interval(middle, max(-1.0, middle - wide), min(1.0, middle + wide))

    def to_dict(self) -> dict[str, Any]:
        return {
            "harm": list(self.harm),
            "safe": list(self.safe),
            "champion": self.champion.to_list(),
            "candidate": self.candidate.to_list(),
            "belief": self.belief.to_list(),
            "sums": [self.weighted, self.variance, self.weight],
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> TwoSample:
        return cls(
            tuple(plain["harm"]),
            tuple(plain["safe"]),
            Moments(*plain["champion"]),
            Moments(*plain["candidate"]),
            Moments(*plain["belief"]),
            *plain["sums"],
        )


@dataclass(frozen=True, slots=True)
class OneSample:
    """One arm against a fixed limit: is its rate above it?"""

    above: tuple[float, ...] = _ZERO
    n: float = 0.0
    hits: float = 0.0

    def update(self, n: int, hits: int, limit: float) -> OneSample:
        """Take in ``n`` more yes/no observations of which ``hits`` are yes.

        Raises:
            ValueError: counts are negative or do not fit each other.
        """
        if not 0 <= hits <= n:
            raise ValueError(f"expected 0 <= hits <= n, found {hits} of {n}")
        if n == 0:
            return self
        gain = log_factor_one(np.array([n - hits, hits], dtype=np.float64), limit=limit)
        return OneSample(tuple(round_down(np.asarray(self.above) + gain).tolist()), self.n + n, self.hits + hits)

    @property
    def log_above(self) -> float | None:
        """Log e-value against "the rate is at most the limit"; None without observations."""
        return float(log_mean(np.asarray(self.above))) if self.n > 0 else None

    def to_dict(self) -> dict[str, Any]:
        return {"above": list(self.above), "n": self.n, "hits": self.hits}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> OneSample:
        return cls(tuple(plain["above"]), plain["n"], plain["hits"])
