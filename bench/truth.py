"""The truth table: what looking does to tests, on 20,000 paths of N = 1,000 observations, and what ours do."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from scipy.special import log_ndtr, ndtri
from scipy.stats import hypergeom

from bench.best import frontier, speed
from bench.shares import share, wilson
from bench.table import Table
from windtunnel.stats import exact
from windtunnel.stats import sequential as seq
from windtunnel.stats.betting import log_mean

N = 1000
METRICS = 10
OURS = seq.late(0.4, seq.power(1))
Rule = Callable[[np.ndarray], np.ndarray]  # z-values (paths, N) to the observation that rejects, 0 for never


def first(reject: np.ndarray) -> np.ndarray:
    found = reject.any(axis=1)
    return np.where(found, reject.argmax(axis=1) + 1, 0)


def at_looks(bounds: dict[int, float], *, two_sided: bool = False) -> Rule:
    """Reject where z reaches the bound of an observation that is looked at."""
    line = np.full(N, np.inf)
    for look, bound in bounds.items():
        line[look - 1] = bound
    return lambda z: first((np.abs(z) if two_sided else z) >= line)


def every(design: seq.Design) -> Rule:
    """Look at every observation."""
    return at_looks(dict(zip(range(1, N + 1), design.bounds, strict=True)))


def msprt(tau: float) -> Rule:
    """Mixture likelihood ratio over a half-normal prior of scale ``tau`` (Robbins 1970; Johari et al. 2022)."""
    n = np.arange(1, N + 1)
    v = n * tau * tau

    def rule(z: np.ndarray) -> np.ndarray:
        pull = z * np.sqrt(v / (1 + v))
        return first(math.log(2) - 0.5 * np.log1p(v) + pull**2 / 2 + log_ndtr(pull) >= math.log(20))

    return rule


def needed(alpha: float) -> float:
    """Mean of the z-value at the end at which a fixed one-sided test of level alpha has power 0.8."""
    return float(-ndtri(alpha) + ndtri(0.8))


def measured(rule: Rule, alpha: float, rng: np.random.Generator, paths: int) -> tuple[int, int, float]:
    """(false alarms, planned effect found, median share of N until a double effect is found)."""
    n = np.arange(1, N + 1)
    counts, times = [0, 0, 0], []
    for start in range(0, paths, 2000):
        size = min(2000, paths - start)
        walk = np.cumsum(rng.standard_normal((size, N)), axis=1)
        for i, theta in enumerate((0.0, needed(alpha), 2 * needed(alpha))):
            found = rule((walk + theta / math.sqrt(N) * n) / np.sqrt(n))
            counts[i] += int((found > 0).sum())
            if i == 2:
                times.append(np.where(found > 0, found, np.inf))
    return counts[0], counts[1], float(np.median(np.concatenate(times)) / N)


def cheated(rule: Rule, rng: np.random.Generator, paths: int, correlation: float) -> int:
    """Paths on which any of ten metrics without an effect ever rejects: the most any stopping rule can make of it."""
    n = np.arange(1, N + 1)
    hits = 0
    for start in range(0, paths, 1000):
        size = min(1000, paths - start)
        common = rng.standard_normal((size, N))
        any_metric = np.zeros(size, dtype=bool)
        for _ in range(METRICS):
            x = math.sqrt(correlation) * common + math.sqrt(1 - correlation) * rng.standard_normal((size, N))
            any_metric |= rule(np.cumsum(x, axis=1) / np.sqrt(n)) > 0
        hits += int(any_metric.sum())
    return hits


def counted(rng: np.random.Generator, runs: int, worse: float, alpha: float, early: float) -> tuple[int, float]:
    """Error counts, 0.8 % against ``worse``, 50:50, up to the 2,287 requests per arm a fixed test needs at power 0.8.

    The exact bet has ``early`` of alpha; the rest is for one exact test at the planned end (hypergeometric).

    Returns:
        runs that rejected, and the median share of the requests until then.
    """
    size, looks = 17, 135
    wealth = np.broadcast_to(exact.START, (runs, len(exact.START))).copy()
    bar = math.log(1 / (alpha * early))
    at = np.full(runs, np.inf)
    failed_a, failed_b = np.zeros(runs), np.zeros(runs)
    for look in range(1, looks + 1):
        k_a, k_b = rng.binomial(size, 0.008, runs), rng.binomial(size, worse, runs)
        failed_a, failed_b = failed_a + k_a, failed_b + k_b
        blocks = [np.stack([size - k, k], -1).astype(float) for k in (k_a, k_b)]
        wealth += exact.log_gain(*blocks, wealth, log_bar=bar)
        at = np.where((log_mean(wealth) >= bar) & np.isinf(at), look / looks, at)
    if early < 1:
        n = size * looks
        p = hypergeom.sf(failed_b - 1, 2 * n, failed_a + failed_b, n)
        at = np.where(np.isinf(at) & (p <= alpha * (1 - early)), 1.0, at)
    return int(np.isfinite(at).sum()), float(np.median(at))


def run(quick: bool = False) -> Table:
    paths = 1000 if quick else 20_000
    rng = np.random.default_rng(20_261_121)
    table = Table(
        f"Truth table: {paths:,} paths of N = 1,000 observations, alpha 5 %, an effect for power 0.8",
        ("test", "false alarms", "planned effect found by N", "double effect found after (median, of N)"),
    )
    each = [(i + 1) / N for i in range(N)]
    fourteen = [round(N * (i + 1) / 14) for i in range(14)]
    flat = seq.constant(14, 0.05, 0.0)
    ours = seq.design(each, 0.05, OURS)
    ours_ten = seq.design(each, 0.05 / METRICS, OURS)
    z = float(-ndtri(0.05))
    rows: list[tuple[str, Rule, float]] = [
        ("fixed z-test, looked at once", at_looks({N: z}), 0.05),
        ("the same, 20 looks", at_looks({N * (i + 1) // 20: z for i in range(20)}), 0.05),
        ("the same, every observation", at_looks(dict.fromkeys(range(1, N + 1), z)), 0.05),
        ("two-sided z-test, 20 looks", at_looks({N * (i + 1) // 20: 1.96 for i in range(20)}, two_sided=True), 0.05),
        ("two-sided z-test, every observation", at_looks(dict.fromkeys(range(1, N + 1), 1.96), two_sided=True), 0.05),
        ("mSPRT, every observation", msprt(1.2 * needed(0.05) / math.sqrt(N)), 0.05),
        ("O'Brien-Fleming, 14 looks", at_looks({n: flat * math.sqrt(N / n) for n in fourteen}), 0.05),
        ("ours with a planned end, every observation", every(ours), 0.05),
    ]  # fmt: skip
    for name, rule, alpha in rows:
        false, found, median = measured(rule, alpha, rng, paths)
        table.add(name, share(false, paths), share(found, paths), f"{100 * median:.0f} %")

    rule = every(ours_ten)
    _, found, median = measured(rule, 0.05 / METRICS, rng, paths)
    cheats = {c: cheated(rule, rng, paths, c) for c in (0.0, 0.5)}
    table.add(
        "ours, ten metrics at 0.5 % each, every observation of each, stopped at the first rejection of any",
        f"{share(cheats[0.0], paths)}; correlated by half: {share(cheats[0.5], paths)}",
        share(found, paths),
        f"{100 * median:.0f} %",
    )
    runs = 500 if quick else 20_000
    for name, early in (
        ("error counts: exact bet, no planned end", 1.0),
        ("error counts: exact bet with 3 %, exact test at the planned end with 2 %", 0.6),
    ):
        false, found, double = (counted(rng, runs, rate, 0.05, early) for rate in (0.008, 0.016, 0.024))
        table.add(name, share(false[0], runs), share(found[0], runs), f"{100 * double[1]:.0f} %")

    exact_power = float(ours_ten.crossing(needed(0.005))[-1])
    exact_speed = speed(ours_ten, 2 * needed(0.005))[0]
    table.demand(
        "at most 5 % under any stopping rule over ten metrics",
        ", ".join(share(hits, paths) for hits in cheats.values()),
        all(wilson(hits, paths)[0] <= 0.05 for hits in cheats.values()),
    )
    table.demand(
        "power at least 0.78 at the planned end, ten metrics", f"{exact_power:.3f} (computed)", exact_power >= 0.78
    )
    table.demand(
        "a double effect found within 28 % of N, ten metrics",
        f"{100 * exact_speed:.1f} % (median, computed)",
        exact_speed <= 0.28,
    )
    lines = []
    for alpha, what in ((0.05, "one metric"), (0.005, "ten metrics")):
        points = frontier(needed(alpha), alpha, (0.05, 0.2, 0.4, 0.6) if not quick else (0.4,))
        lines.append(
            f"{what}: "
            + ", ".join(f"{p.power:.3f} and {100 * p.median:.0f} % (mean {100 * p.mean:.0f} %)" for p in points)
        )
    one = seq.design(each, 0.05, OURS)
    table.note = (
        "N is planned for the level of each test (ten metrics: 0.5 % each), as it is for a fixed test. With N "
        "planned for one metric at 5 %, ten metrics at 0.5 % each have power "
        f"{float(ours_ten.crossing(needed(0.05))[-1]):.2f} (a fixed test at 0.5 %: 0.46); one metric alone "
        f"{float(one.crossing(needed(0.05))[-1]):.3f} and {100 * speed(one, 2 * needed(0.05))[0]:.0f} %. The "
        "frontier, power at N and median time of a double effect, that no test with these false alarms passes "
        f"(dynamic programming, 100 looks): {'; '.join(lines)}. Error counts: 0.8 % against 1.6 % (double: 2.4 %), "
        "50:50, N = 2,295 per arm, looked at every 17 requests. The fixed tests that err 25 % and 53 % are "
        "two-sided at 5 %; one-sided they err 21 % and 42 %."
    )
    return table
