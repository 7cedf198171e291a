"""Two arms compared block by block: harm, non-inferiority and an interval from one small state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from windtunnel.stats import bernstein, exact
from windtunnel.stats.alternatives import HARM_START, SAFE_START, harm_fractions, safe_fractions
from windtunnel.stats.betting import BINARY, FloatArray, clip, log_factor, log_factor_one, log_mean, round_down

_EDGE = 1e-6
_EXACT_START = round_down(exact.START)
_MEMORY = 5000.0  # beliefs about the champion rest on about this many observations, so that they follow a drift


@dataclass(frozen=True, slots=True)
class Moments:
    """Number, sum and sum of squares of observations; they add."""

    n: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    @property
    def mean(self) -> float | None:
        """None without observations."""
        return self.total / self.n if self.n > 0 else None

    def to_list(self) -> list[float]:
        return [self.n, self.total, self.squares]


@dataclass(frozen=True, slots=True)
class Boundary:
    """The candidate is harmful beyond ``mean_b = slope * mean_a + shift``.

    An absolute margin ``d`` is ``Boundary(1, d)``; a margin as a fraction ``r`` of the champion's mean is
    ``Boundary(1 + r, 0)``. Arrays hold one boundary for each of many comparisons.
    """

    slope: FloatArray | float = 1.0
    shift: FloatArray | float = 0.0


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

    harm: tuple[float, ...] = tuple(HARM_START.tolist())
    safe: tuple[float, ...] = tuple(SAFE_START.tolist())
    champion: Moments = Moments()
    candidate: Moments = Moments()
    belief: Moments = Moments()
    weighted: float = 0.0
    variance: float = 0.0
    weight: float = 0.0

    @classmethod
    def exact(cls) -> TwoSample:
        """For yes/no observations without a margin: harm by the exact conditional test (``stats/exact.py``)."""
        return cls(harm=tuple(_EXACT_START.tolist()))

    def believing(self, n: float, total: float, squares: float) -> TwoSample:
        """With what is known of the champion from before; it makes for better bets and is not evidence."""
        keep = min(1.0, _MEMORY / max(n, 1.0))
        return replace(self, belief=Moments(n * keep, total * keep, squares * keep))

    def update(
        self,
        counts_a: FloatArray,
        counts_b: FloatArray,
        boundary: Boundary,
        *,
        safe: Boundary | None = None,
        points: FloatArray = BINARY,
        prior: float = 0.01,
        log_bar: float | None = None,
    ) -> TwoSample:
        """Take in one block.

        Args:
            counts_a, counts_b: shape (P,), observations of champion and candidate at ``points``.
            boundary: harm lies beyond it.
            safe: what ``log_safe`` must show; the same boundary unless told.
            points: shape (P,), in [0, 1].
            prior: the champion's mean as believed before anything is seen (worth two observations).
            log_bar: for the exact test: where it ends, ``log(1 / alpha)``, the same at each block.

        Returns:
            the next state; the same one when an arm has no observation in the block (nothing to compare).

        Raises:
            ValueError: counts are negative or not numbers.
        """
        if not (np.isfinite(counts_a).all() and np.isfinite(counts_b).all()):
            raise ValueError("counts must be numbers, found NaN or infinity")
        if (counts_a < 0).any() or (counts_b < 0).any():
            raise ValueError("counts cannot be negative: the baseline is from another counter")
        if counts_a.sum() <= 0 or counts_b.sum() <= 0:
            return self
        batch = TwoSamples.of([self])
        return batch.update(
            counts_a[None], counts_b[None], boundary, safe=safe, points=points, prior=prior, log_bar=log_bar
        ).at(0)

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
class TwoSamples:
    """Many comparisons at once, as arrays; ``TwoSample`` is one of them.

    Attributes:
        harm, safe: shape (..., K), log wealth per alternative.
        champion, candidate, belief: shape (..., 3): number, sum and sum of squares.
        sums: shape (..., 3): weighted difference, its intrinsic time, its weight.
    """

    harm: FloatArray
    safe: FloatArray
    champion: FloatArray
    candidate: FloatArray
    belief: FloatArray
    sums: FloatArray

    @classmethod
    def begin(cls, *shape: int, no_margin: bool = False) -> TwoSamples:
        """``shape`` comparisons that have seen nothing; ``no_margin``: see ``TwoSample.exact``."""
        three = np.zeros((*shape, 3))
        start = _EXACT_START if no_margin else HARM_START
        harm, safe = (
            np.broadcast_to(start, (*shape, len(start))),
            np.broadcast_to(SAFE_START, (*shape, len(SAFE_START))),
        )
        return cls(harm, safe, three, three, three, three)

    @classmethod
    def of(cls, tests: Sequence[TwoSample]) -> TwoSamples:
        """Shape (len(tests),)."""
        return cls(
            np.array([test.harm for test in tests]),
            np.array([test.safe for test in tests]),
            np.array([test.champion.to_list() for test in tests]),
            np.array([test.candidate.to_list() for test in tests]),
            np.array([test.belief.to_list() for test in tests]),
            np.array([(test.weighted, test.variance, test.weight) for test in tests]),
        )

    def at(self, index: int | tuple[int, ...]) -> TwoSample:
        """One of them: an index for each axis of the shape."""
        return TwoSample(
            tuple(self.harm[index].tolist()),
            tuple(self.safe[index].tolist()),
            Moments(*self.champion[index].tolist()),
            Moments(*self.candidate[index].tolist()),
            Moments(*self.belief[index].tolist()),
            *self.sums[index].tolist(),
        )

    def believing(self, n: FloatArray, total: FloatArray) -> TwoSamples:
        """Yes/no comparisons with what is known of each champion from before; see ``TwoSample.believing``.

        Args:
            n, total: of shape (...) or one that fits it.
        """
        keep = np.minimum(1.0, _MEMORY / np.maximum(n, 1.0))
        known = np.stack([n * keep, total * keep, total * keep], axis=-1)
        return replace(self, belief=np.broadcast_to(known, self.belief.shape))

    def map(self, change: Callable[[FloatArray], FloatArray]) -> TwoSamples:
        """``change`` applied to every array."""
        return TwoSamples(
            change(self.harm), change(self.safe), change(self.champion), change(self.candidate), change(self.belief),
            change(self.sums),
        )  # fmt: skip

    def update(
        self,
        counts_a: FloatArray,
        counts_b: FloatArray,
        boundary: Boundary,
        *,
        safe: Boundary | None = None,
        points: FloatArray = BINARY,
        prior: FloatArray | float = 0.01,
        log_bar: float | None = None,
    ) -> TwoSamples:
        """Take in one block of each; see ``TwoSample.update``.

        Args:
            counts_a, counts_b: shape (..., P), finite and not negative. Where an arm has none, nothing changes.
            boundary, safe, prior: of shape (...) or plain numbers.

        Raises:
            ValueError: exact tests with a margin.
        """
        n_a, n_b = counts_a.sum(axis=-1), counts_b.sum(axis=-1)
        usable = (n_a > 0) & (n_b > 0)
        if not usable.any():
            return self
        whole = bool(usable.all())
        safe = boundary if safe is None else safe
        binary = points is BINARY
        prior = np.asarray(prior, dtype=np.float64)
        known_n = self.belief[..., 0] + 2.0
        known_total = self.belief[..., 1] + 2 * prior
        mean_a = known_total / known_n
        spread = mean_a * (1 - mean_a)
        dispersion: FloatArray | float = 1.0
        if not binary:
            squares = self.belief[..., 2] + 4 * prior * prior
            about = np.maximum(0.0, squares - 2 * mean_a * known_total + known_n * mean_a * mean_a)
            with np.errstate(divide="ignore", invalid="ignore"):
                dispersion = np.where(spread > 0, clip(about / known_n / spread, 0.01, 1.0), 1.0)

        if self.harm.shape[-1] == len(exact.START):
            if not binary or not _plain(boundary):
                raise ValueError("the exact test is for yes/no observations without a margin")
            gain = exact.log_gain(counts_a, counts_b, self.harm, log_bar=log_bar)
        else:
            beyond = clip(boundary.slope * mean_a + boundary.shift, _EDGE, 1 - _EDGE)
            gain = log_factor(
                counts_a, counts_b, points=points, mean_a=mean_a, dispersion=dispersion,
                slope=boundary.slope, shift=boundary.shift, fractions=harm_fractions(beyond),
            )  # fmt: skip
        # Within the boundary means the mirrored observations 1 - x are beyond the mirrored boundary.
        mirrored_a, mirrored_b = (counts_a[..., ::-1], counts_b[..., ::-1]) if binary else (counts_a, counts_b)
        within = clip(safe.slope * mean_a + safe.shift, _EDGE, 1 - _EDGE)
        lost = log_factor(
            mirrored_a, mirrored_b, points=points if binary else 1 - points, mean_a=1 - mean_a, dispersion=dispersion,
            slope=safe.slope, shift=1 - safe.slope - safe.shift,
            fractions=safe_fractions(within, mean_a, dispersion),
        )  # fmt: skip

        block_a, block_b = _moments(counts_a, points), _moments(counts_b, points)
        size = np.maximum(n_a + n_b, 1.0)
        u_a, u_b = n_b / size, n_a / size
        guess_b = (self.candidate[..., 1] + 2 * mean_a) / (self.candidate[..., 0] + 2)
        belief = self.belief + block_a
        belief = belief * np.minimum(1.0, _MEMORY / np.maximum(belief[..., :1], 1.0))
        more = np.stack(
            [
                u_b * block_b[..., 1] - u_a * block_a[..., 1],
                u_b * u_b * _about(block_b, guess_b) + u_a * u_a * _about(block_a, mean_a),
                n_a * n_b / size,
            ],
            axis=-1,
        )
        champion, candidate = self.champion + block_a, self.candidate + block_b
        if not whole:
            kept = usable[..., None]
            champion = np.where(kept, champion, self.champion)
            candidate = np.where(kept, candidate, self.candidate)
            belief = np.where(kept, belief, self.belief)
            more = np.where(kept, more, 0.0)
        return TwoSamples(
            round_down(self.harm + gain), round_down(self.safe + lost), champion, candidate, belief, self.sums + more
        )

    @property
    def log_harm(self) -> FloatArray:
        """Shape (...); NaN before the first block."""
        return np.where(self.sums[..., 2] > 0, log_mean(self.harm), np.nan)

    @property
    def log_safe(self) -> FloatArray:
        """Shape (...); NaN before the first block."""
        return np.where(self.sums[..., 2] > 0, log_mean(self.safe), np.nan)


def _plain(boundary: Boundary) -> bool:
    return bool(np.all(np.asarray(boundary.slope) == 1.0) and np.all(np.asarray(boundary.shift) == 0.0))


def _moments(counts: FloatArray, points: FloatArray) -> FloatArray:
    """Number, sum and sum of squares, shape (..., 3)."""
    if points is BINARY:
        n = counts.sum(axis=-1)
        return np.stack([n, counts[..., 1], counts[..., 1]], axis=-1)
    return np.stack([counts.sum(axis=-1), counts @ points, counts @ (points * points)], axis=-1)


def _about(moments: FloatArray, centre: FloatArray) -> FloatArray:
    """Sum of squares about ``centre``."""
    found: FloatArray = np.maximum(
        0.0, moments[..., 2] - 2 * centre * moments[..., 1] + moments[..., 0] * centre * centre
    )
    return found


@dataclass(frozen=True, slots=True)
class OneSample:
    """One arm against a fixed limit: is its rate above it?"""

    above: tuple[float, ...] = tuple(HARM_START.tolist())
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
        return OneSamples.of([self]).update(np.array([[n - hits, hits]], dtype=np.float64), limit).at(0)

    @property
    def log_above(self) -> float | None:
        """Log e-value against "the rate is at most the limit"; None without observations."""
        return float(log_mean(np.asarray(self.above))) if self.n > 0 else None

    def to_dict(self) -> dict[str, Any]:
        return {"above": list(self.above), "n": self.n, "hits": self.hits}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> OneSample:
        return cls(tuple(plain["above"]), plain["n"], plain["hits"])


@dataclass(frozen=True, slots=True)
class OneSamples:
    """Many arms against a limit at once.

    Attributes:
        above: shape (..., K), log wealth per alternative.
        seen: shape (..., 2): number, hits.
    """

    above: FloatArray
    seen: FloatArray

    @classmethod
    def begin(cls, *shape: int) -> OneSamples:
        """``shape`` tests that have seen nothing."""
        return cls(np.broadcast_to(HARM_START, (*shape, len(HARM_START))), np.zeros((*shape, 2)))

    @classmethod
    def of(cls, tests: Sequence[OneSample]) -> OneSamples:
        """Shape (len(tests),)."""
        return cls(np.array([test.above for test in tests]), np.array([(test.n, test.hits) for test in tests]))

    def at(self, index: int | tuple[int, ...]) -> OneSample:
        """One of them: an index for each axis of the shape."""
        return OneSample(tuple(self.above[index].tolist()), *self.seen[index].tolist())

    def map(self, change: Callable[[FloatArray], FloatArray]) -> OneSamples:
        """``change`` applied to every array."""
        return OneSamples(change(self.above), change(self.seen))

    def update(self, counts: FloatArray, limit: FloatArray | float) -> OneSamples:
        """Take in more observations.

        Args:
            counts: shape (..., 2): no, yes.
            limit: shape (...) or a number.
        """
        more = np.stack([counts.sum(axis=-1), counts[..., 1]], axis=-1)
        gain = log_factor_one(counts, limit=limit, fractions=harm_fractions(np.asarray(limit, dtype=np.float64)))
        return OneSamples(round_down(self.above + gain), self.seen + more)

    @property
    def log_above(self) -> FloatArray:
        """Shape (...); NaN without observations."""
        return np.where(self.seen[..., 0] > 0, log_mean(self.above), np.nan)
