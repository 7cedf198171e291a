"""How other release tools decide, from their documents: to compare with in a rehearsal. Never used by the brain.

Each rule watches many runs at once, one interval (a minute) after the other, and walks through the same steps as
the plan it is compared with.

    argo     Argo Rollouts, background analysis (its page on analysis): every ``interval`` a metric is measured
             over the last interval and held against ``successCondition`` (and ``failureCondition``). A run fails with
             more than ``failureLimit`` failed measurements, is inconclusive with more than ``inconclusiveLimit``
             between the two conditions, and errs with more than ``consecutiveErrorLimit`` (4) measurements in a row
             that could not be made. An analysis that runs when the last step is over is stopped and counts as passed.
    flagger  Flagger (docs: "How it works", "Metrics analysis"): every ``interval`` all metrics of the last interval are
             held against their ``thresholdRange``. A check that fails adds to the counter of failed checks, which
             is never reset, and the weight stays; with ``threshold`` failed checks the canary is rolled back
             (after ``interval * threshold`` at the soonest). A metric without values fails the check.
    kayenta  Kayenta, the judge of Spinnaker (docs: "How canary judgment works", its canary config): one value per
             minute and arm; at each interval, over the time since the start (or the last interval), a Mann-Whitney U
             test with 98 % confidence; a metric is High when the interval for the shift lies above a quarter of the
             shift's Hodges-Lehmann estimate. The score is the share of metrics that pass: below ``marginal`` ends
             the canary at any interval, at the end it needs ``pass``.
    fixed    A one-sided z-test of two proportions (pooled), once, when the plan is over.
    peeking  The same test, looked at each minute.

Where a document leaves something open, the reading that rolls back fewer good versions is taken: the first Argo
measurement comes after a whole interval, and the tests share alpha over the metrics.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

RUNNING, PROMOTED, ROLLED_BACK, UNDECIDED = 0, 1, 2, 3
"""How a run stands: ``UNDECIDED`` is rolled back (or paused for a person) with no verdict."""

_SLICE = 64


@dataclass(frozen=True, slots=True)
class Interval:
    """What a minute brought, for N runs and K metrics, each a share of requests.

    Attributes:
        n_a, n_b: (N,) requests of champion and candidate.
        over_a, over_b: (K, N) how many were bad, held against each other (errors; slower than the champion's quantile).
        breach_b: (K, N) how many of the candidate's count against the objective (errors; slower than the objective).
        known: (N,) whether the numbers could be read.
    """

    n_a: Floats
    n_b: Floats
    over_a: Floats
    over_b: Floats
    breach_b: Floats
    known: Bools


class Peer(Protocol):
    """A rule that watches N runs."""

    @property
    def step(self) -> Ints:
        """(N,) index of the plan's step each run is at."""
        ...

    @property
    def ended(self) -> Ints:
        """(N,) ``RUNNING`` or how it ended."""
        ...

    @property
    def ended_at(self) -> Ints:
        """(N,) intervals until the end; of a run that is still watched, intervals so far."""
        ...

    def watch(self, interval: Interval) -> None:
        """Take in one more interval."""
        ...


class _Runs:
    """N runs on their way through the steps; ``spent`` intervals of ``lengths[step]`` each."""

    def __init__(self, n: int, lengths: tuple[int, ...]) -> None:
        self._until: Ints = np.cumsum(np.asarray(lengths, dtype=np.int64))
        self._spent: Ints = np.zeros(n, dtype=np.int64)
        self.ended: Ints = np.zeros(n, dtype=np.int64)
        self.ended_at: Ints = np.zeros(n, dtype=np.int64)
        self.time = 0

    @property
    def step(self) -> Ints:
        found: Ints = np.searchsorted(self._until, self._spent, side="right")
        return np.minimum(found, len(self._until) - 1)

    @property
    def through(self) -> Bools:
        """Whose last step is over."""
        done: Bools = self._spent >= self._until[-1]
        return done

    def tick(self, advance: Bools) -> None:
        self.time += 1
        running = self.ended == RUNNING
        self._spent = self._spent + (running & advance)
        self.ended_at = np.where(running, self.time, self.ended_at)

    def end(self, which: Bools, how: int) -> None:
        self.ended = np.where((self.ended == RUNNING) & which, how, self.ended)


def _any(of_metrics: Bools) -> Bools:
    """(N,) whether it holds for any of the K metrics."""
    found: Bools = np.asarray(of_metrics.any(axis=0))
    return found


class Argo(_Runs):
    """See the module.

    Args:
        n: runs; lengths: intervals in each step.
        allowed: (K,) largest share of bad requests that still is a success.
        interval: intervals between two measurements.
        failed_from: (K,) share above which a measurement fails where it differs from ``allowed``; in between it is
            inconclusive.
        count: measurements after which the metric has passed for good; None: until the steps are over.
    """

    def __init__(
        self,
        n: int,
        lengths: tuple[int, ...],
        allowed: Floats,
        *,
        interval: int = 5,
        failure_limit: int = 3,
        inconclusive_limit: int = 0,
        consecutive_error_limit: int = 4,
        failed_from: Floats | None = None,
        count: int | None = None,
    ) -> None:
        super().__init__(n, lengths)
        k = len(allowed)
        self._allowed = np.asarray(allowed, dtype=np.float64)[:, None]
        self._failed_from = self._allowed if failed_from is None else np.asarray(failed_from, dtype=np.float64)[:, None]
        self._interval, self._count = interval, count
        self._limits = (failure_limit, inconclusive_limit, consecutive_error_limit)
        self._failed, self._unclear, self._errors = (np.zeros((k, n), dtype=np.int64) for _ in range(3))
        self._n, self._bad, self._known = np.zeros(n), np.zeros((k, n)), np.ones(n, dtype=np.bool_)
        self._made = 0

    def watch(self, interval: Interval) -> None:
        self.tick(np.ones(len(self.ended), dtype=np.bool_))
        self._n, self._bad = self._n + interval.n_b, self._bad + interval.breach_b
        self._known = self._known & interval.known
        if self.time % self._interval == 0 and (self._count is None or self._made < self._count):
            self._measure()
        self.end(self.through, PROMOTED)

    def _measure(self) -> None:
        self._made += 1
        with np.errstate(invalid="ignore", divide="ignore"):
            share = self._bad / self._n  # 0/0 is NaN: no success, as every comparison with it is false
        known = self._known[None, :]
        good = share <= self._allowed
        unclear = ~good & (share <= self._failed_from)
        self._failed += known & ~good & ~unclear
        self._unclear += known & unclear
        self._errors = np.where(known, 0, self._errors + 1)
        failure, inconclusive, error = self._limits
        self.end(_any(self._failed > failure), ROLLED_BACK)
        self.end(_any((self._unclear > inconclusive) | (self._errors > error)), UNDECIDED)
        self._n, self._bad, self._known = self._n * 0, self._bad * 0, np.ones_like(self._known)


class Flagger(_Runs):
    """See the module.

    Args:
        n: runs; lengths: successful checks in each step (a document's ``stepWeight`` 5 up to ``maxWeight`` 50 is ten
            steps of one check).
        allowed: (K,) largest share of bad requests that passes a check.
        threshold: failed checks before rollback.
    """

    def __init__(self, n: int, lengths: tuple[int, ...], allowed: Floats, *, threshold: int = 5) -> None:
        super().__init__(n, lengths)
        self._allowed = np.asarray(allowed, dtype=np.float64)[:, None]
        self._threshold = threshold
        self.failed: Ints = np.zeros(n, dtype=np.int64)

    def watch(self, interval: Interval) -> None:
        with np.errstate(invalid="ignore", divide="ignore"):
            good = ((interval.breach_b / interval.n_b) <= self._allowed).all(axis=0) & interval.known
        self.tick(good)
        self.failed = self.failed + ((self.ended == RUNNING) & ~good)
        self.end(self.failed >= self._threshold, ROLLED_BACK)
        self.end(self.through, PROMOTED)


class Kayenta(_Runs):
    """See the module.

    Args:
        n: runs; lengths: minutes in each step; the sum is the lifetime.
        metrics: K.
        interval: minutes between two judgements; the last comes at the end of the lifetime.
        lookback: minutes looked back at; None: since the start.
        marginal, passing: scores out of 100.
        confidence, tolerance: of the Mann-Whitney classifier.
    """

    def __init__(
        self,
        n: int,
        lengths: tuple[int, ...],
        metrics: int,
        *,
        interval: int = 30,
        lookback: int | None = None,
        marginal: float = 75.0,
        passing: float = 90.0,
        confidence: float = 0.98,
        tolerance: float = 0.25,
    ) -> None:
        super().__init__(n, lengths)
        self._metrics = metrics
        self._interval, self._lookback = interval, lookback
        self._marginal, self._passing = marginal, passing
        self._confidence, self._tolerance = confidence, tolerance
        self._series_a: list[Floats] = []
        self._series_b: list[Floats] = []

    def watch(self, interval: Interval) -> None:
        self.tick(np.ones(len(self.ended), dtype=np.bool_))
        with np.errstate(invalid="ignore", divide="ignore"):
            rate_a, rate_b = interval.over_a / interval.n_a, interval.over_b / interval.n_b
        self._series_a.append(np.where(interval.known, rate_a, np.nan).astype(np.float32).astype(np.float64))
        self._series_b.append(np.where(interval.known, rate_b, np.nan).astype(np.float32).astype(np.float64))
        last = self.time >= int(self._until[-1])
        if self.time % self._interval and not last:
            return
        running = np.flatnonzero(self.ended == RUNNING)
        if running.size == 0:
            return
        since = 0 if self._lookback is None else max(0, len(self._series_a) - self._lookback)
        a, b = (np.stack(s[since:])[:, :, running] for s in (self._series_a, self._series_b))
        score = np.zeros(running.size)
        for k in range(self._metrics):
            high, judged = classify(a[:, k].T, b[:, k].T, self._confidence, self._tolerance)
            # A metric without data scores nothing.
            score += np.where(judged & ~high, 100.0 / self._metrics, 0.0)
        bad = np.zeros(len(self.ended), dtype=np.bool_)
        bad[running] = score < (self._passing if last else self._marginal)
        self.end(bad, ROLLED_BACK)
        self.end(self.through, PROMOTED)


class ZTest(_Runs):
    """See the module.

    Args:
        n: runs; lengths: intervals in each step.
        metrics: K, which share ``alpha``.
        peeking: looked at after each interval, not only at the end.
    """

    def __init__(
        self, n: int, lengths: tuple[int, ...], metrics: int, *, alpha: float = 0.05, peeking: bool = False
    ) -> None:
        super().__init__(n, lengths)
        self._bar = normal_quantile(1 - alpha / max(1, metrics))
        self._peeking = peeking
        self._n_a, self._n_b = np.zeros(n), np.zeros(n)
        self._over_a, self._over_b = np.zeros((metrics, n)), np.zeros((metrics, n))

    def watch(self, interval: Interval) -> None:
        self.tick(np.ones(len(self.ended), dtype=np.bool_))
        known = interval.known
        self._n_a, self._n_b = self._n_a + known * interval.n_a, self._n_b + known * interval.n_b
        self._over_a = self._over_a + known * interval.over_a
        self._over_b = self._over_b + known * interval.over_b
        if self._peeking or bool(self.through.any()):
            z = z_score(self._n_a, self._n_b, self._over_a, self._over_b)
            self.end(_any(z > self._bar), ROLLED_BACK)
            silent = (self._n_a == 0) | (self._n_b == 0)
            self.end(self.through & silent, UNDECIDED)
        self.end(self.through, PROMOTED)


def z_score(n_a: Floats, n_b: Floats, over_a: Floats, over_b: Floats) -> Floats:
    """Pooled two-proportion z of "the candidate's share is larger"; 0 where nothing can be said."""
    with np.errstate(invalid="ignore", divide="ignore"):
        pooled = (over_a + over_b) / (n_a + n_b)
        z = (over_b / n_b - over_a / n_a) / np.sqrt(pooled * (1 - pooled) * (1 / n_a + 1 / n_b))
    result: Floats = np.where(np.isfinite(z), z, 0.0)
    return result


def classify(control: Floats, experiment: Floats, confidence: float, tolerance: float) -> tuple[Bools, Bools]:
    """Kayenta's classifier, for the direction "increase".

    Args:
        control, experiment: (N, m), (N, n) values per minute; NaN where there was none (they are removed).

    Returns:
        (N,) metric is High; (N,) there was data on both sides.

    The confidence interval of the shift is that of the rank-sum test in its normal approximation: order statistics
    of all pairwise differences (Hollander & Wolfe, "Nonparametric Statistical Methods", section 4.3).
    """
    if len(control) > _SLICE:  # all pairs of values of many runs would not fit into memory
        parts = [
            classify(control[i : i + _SLICE], experiment[i : i + _SLICE], confidence, tolerance)
            for i in range(0, len(control), _SLICE)
        ]
        return np.concatenate([high for high, _ in parts]), np.concatenate([judged for _, judged in parts])
    m, n = np.isfinite(control).sum(axis=1), np.isfinite(experiment).sum(axis=1)
    pairs = m * n
    judged: Bools = pairs > 0
    gaps = np.sort((experiment[:, None, :] - control[:, :, None]).reshape(len(control), -1), axis=1)  # NaN come last
    half = normal_quantile(0.5 + confidence / 2) * np.sqrt(pairs * (m + n + 1) / 12)
    rank = np.floor(pairs / 2 - half).astype(np.int64)
    rows = np.arange(len(gaps))
    lowest = gaps[rows, np.maximum(rank, 1) - 1]
    middle = (gaps[rows, np.maximum((pairs - 1) // 2, 0)] + gaps[rows, np.maximum(pairs // 2, 0) % gaps.shape[1]]) / 2
    with np.errstate(invalid="ignore"):
        high: Bools = judged & (rank >= 1) & (lowest > tolerance * np.abs(middle))
    return high, judged


def normal_quantile(p: float) -> float:
    """Of the standard normal distribution."""
    from statistics import NormalDist

    return NormalDist().inv_cdf(p)


@dataclass(frozen=True, slots=True)
class Setting:
    """What all peers are told of the rehearsal: the same plan and the same objectives.

    Attributes:
        lengths: intervals in each of the plan's steps.
        allowed: (K,) objective of each metric, as largest share of bad requests.
        alpha: for the tests.
    """

    lengths: tuple[int, ...]
    allowed: tuple[float, ...]
    alpha: float

    @property
    def metrics(self) -> int:
        return len(self.allowed)


#: The tools by the names ``rehearse --compare`` knows, each with the settings of its documents' examples.
PEERS: dict[str, Callable[[int, Setting], Peer]] = {
    "argo": lambda n, s: Argo(n, s.lengths, np.asarray(s.allowed), interval=5, failure_limit=3),
    "flagger": lambda n, s: Flagger(n, s.lengths, np.asarray(s.allowed), threshold=5),
    "kayenta": lambda n, s: Kayenta(n, s.lengths, s.metrics),
    "fixed": lambda n, s: ZTest(n, s.lengths, s.metrics, alpha=s.alpha),
    "peeking": lambda n, s: ZTest(n, s.lengths, s.metrics, alpha=s.alpha, peeking=True),
}
#: Those that hold the candidate against an objective alone.
WITHOUT_CHAMPION = ("argo", "flagger")
