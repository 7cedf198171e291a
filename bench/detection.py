"""How many requests until harm is found: ours beside threshold gates tuned on the same champion, and a fixed test."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import binom

from bench.shares import share
from bench.table import Table
from windtunnel.stats import exact
from windtunnel.stats.betting import log_mean

ALPHA, POWER = 0.05, 0.8
#: Candidate requests in the default canary at 20 requests/s: 5 % for 10 min, 25 % for 30, 50 % for 60, 75 % for 30.
ROLLOUT = 72_600
#: p95 half as long again, log-normal with sigma 0.5: share of requests slower than the champion's p95.
SLOW = float(1 - ndtr(ndtri(0.95) - math.log(1.5) / 0.5))
#: (champion's rate, candidate's rate).
EFFECTS = {"errors 0.8 % x2": (0.008, 0.016), "errors 0.8 % x5": (0.008, 0.04), "latency p95 +50 %": (0.05, SLOW)}
#: Split: requests of (champion, candidate) between two looks, by effect.
LOOKS = {
    "5:95": ((152, 8), (19, 1), (19, 1)),
    "25:75": ((30, 10), (6, 2), (3, 1)),
    "50:50": ((15, 15), (3, 3), (1, 1)),
}


@dataclass(frozen=True)
class Gate:
    """Windows of ``window`` candidate requests; one fails at ``fails`` failures or more; ``limit`` failed ones of at
    most ``checks`` roll back. ``power`` within these checks; ``median`` requests at the check that reaches one half."""

    window: int
    fails: int
    limit: int
    checks: int
    false: float
    power: float
    median: int

    def words(self) -> str:
        return f"{self.median:,} ({self.checks} checks of {self.window:,}, {self.fails} failures)"


def _gate(window: int, fails: int, limit: int, checks: int, p0: float, p1: float) -> Gate:
    chance = float(binom.sf(fails - 1, window, p1))
    steps = binom.sf(limit - 1, np.arange(1, checks + 1), chance)
    half = int(np.argmax(steps >= 0.5)) + 1 if steps[-1] >= 0.5 else 10**9
    return Gate(
        window, fails, limit, checks,
        float(binom.sf(limit - 1, checks, binom.sf(fails - 1, window, p0))), float(steps[-1]), half * window,
    )  # fmt: skip


def tuned(p0: float, p1: float, *, horizon: int | None, checks: int | None = None) -> Gate:
    """The gate with the least median among those with false alarms up to 5 % and power 0.8, who knows both rates.

    Args:
        horizon: candidate requests of the whole rollout, all of which it checks; None: it chooses how many checks
            (then stops looking), up to ``checks``.
    """
    top = 40 / p1 if horizon is None else min(float(horizon), 400 / p1)
    found: list[Gate] = []
    for window in np.unique(np.round(np.geomspace(2, top, 250)).astype(int)).tolist():
        counts = [horizon // window] if horizon is not None else range(1, (checks or 12) + 1)
        for n in counts:
            for limit in range(1, min(4, n) + 1):
                # The smallest number of failures that keeps the false alarms.
                low, high = 1, window + 1
                while low < high:
                    middle = (low + high) // 2
                    if binom.sf(limit - 1, n, binom.sf(middle - 1, window, p0)) <= ALPHA:
                        high = middle
                    else:
                        low = middle + 1
                if low > window:
                    continue
                gate = _gate(window, low, limit, n, p0, p1)
                if gate.power >= POWER:
                    found.append(gate)
    return min(found, key=lambda g: (g.median, -g.power))


def fixed(p0: float, p1: float, w: float) -> int:
    """Candidate requests of a fixed-horizon two-sample z-test of the same level and power."""
    z = float(ndtri(1 - ALPHA) + ndtri(POWER))
    return math.ceil(z * z * (p1 * (1 - p1) + p0 * (1 - p0) * w / (1 - w)) / (p1 - p0) ** 2)


def ours(rng: np.random.Generator, runs: int, p0: float, p1: float, look: tuple[int, int]) -> np.ndarray:
    """Candidate requests until the exact bet reaches 1 / alpha, shape (runs,); infinite where it does not."""
    n_a, n_b = look
    bar = math.log(1 / ALPHA)
    wealth = np.broadcast_to(exact.START, (runs, len(exact.START))).copy()
    at, alive = np.full(runs, np.inf), np.arange(runs)
    for i in range(1, 3000):
        k_a, k_b = rng.binomial(n_a, p0, len(alive)), rng.binomial(n_b, p1, len(alive))
        blocks = [np.stack([n - k, k], -1).astype(float) for n, k in ((n_a, k_a), (n_b, k_b))]
        wealth = wealth + exact.log_gain(blocks[0], blocks[1], wealth, log_bar=bar)
        hit = log_mean(wealth) >= bar
        at[alive[hit]] = i * n_b
        alive, wealth = alive[~hit], wealth[~hit]
        if not len(alive):
            break
    return at


def run(quick: bool = False) -> Table:
    runs = 300 if quick else 10_000
    rng = np.random.default_rng(20_261_121)
    table = Table(
        "Detection: median requests to the candidate until harm is found, 5 % false alarms",
        ("effect", "split", "ours", "ours, both arms", "found", "gate, whole rollout", "gate, one check",
         "gate, its best", "fixed test"),
    )  # fmt: skip
    lost = []
    for i, (effect, (p0, p1)) in enumerate(EFFECTS.items()):
        gates = [tuned(p0, p1, horizon=ROLLOUT), tuned(p0, p1, horizon=None, checks=1), tuned(p0, p1, horizon=None)]
        for split, looks in LOOKS.items():
            n_a, n_b = looks[i]
            w = n_b / (n_a + n_b)
            spent = ours(rng, runs, p0, p1, looks[i])
            median = int(np.median(spent))
            table.add(
                effect, split, f"{median:,}", f"{round(median / w):,}", share(int(np.isfinite(spent).sum()), runs),
                *(f"{gate.median:,}" for gate in gates), f"{fixed(p0, p1, w):,}",
            )  # fmt: skip
            if split != "50:50":
                table.demand(
                    f"{effect} at {split}: no more than the gate that checks the whole rollout",
                    f"{median:,} against {gates[0].words()}",
                    median <= gates[0].median,
                )
            for name, gate in zip(("whole rollout", "one check", "its best"), gates, strict=True):
                if median > gate.median:
                    lost.append(f"{effect} at {split} to {name}: {median:,} against {gate.words()}")
    table.note = (
        f"Ours: exact bet, margin 0, {runs:,} runs, watched all the time, at any power. It compares with the "
        "champion at the same time, so it holds when the base rate drifts. The gates compare with the champion's "
        "history, which they know exactly, and err when the base rate moves; each is tuned for the one effect it is "
        "measured on (window, failures, failed windows), by exact binomials. 'Whole rollout' keeps 5 % over all "
        f"{ROLLOUT:,} candidate requests of the default canary at 20 requests/s; 'one check' looks once; 'its best' "
        "looks as often as suits it, up to twelve times, and is blind afterwards. At 50:50 a comparison with a "
        "champion of the same hour has about twice the noise of one with a rate that is known. "
        "Where we lose: " + ("; ".join(lost) or "nowhere") + "."
    )
    return table
