"""Published values, and two independent ways to the same number, for what the gates bet and show."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from windtunnel.stats import bernstein, exact
from windtunnel.stats.betting import log_factor, log_factor_one
from windtunnel.stats.shift import dkw_radius


def test_the_band_around_a_distribution_follows_from_its_theorem() -> None:
    """Howard & Ramdas (2022): corollary 2 is theorem 2 with C = 0.8 log(1612 / alpha); the theorem's error, minimised
    over eta by brute force, must not be above alpha. Howard's own program has 0.08204769 at t = 1000, t_min = 100,
    alpha 5 %, A = 0.85, with the smallest C: the closed form's C is a little larger."""
    factor = 0.85

    def error(c: float) -> float:
        eta = np.linspace(1.0001, 2 * factor * factor, 20_000)
        root = factor - np.sqrt(2 * (eta - 1) / c)
        gamma2 = np.where(root > 0, 2 / eta * root**2, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = 4 * np.exp(-gamma2 * c) * (1 + 1 / ((gamma2 - 1) * np.log(eta)))
        return float(found[gamma2 > 1].min())

    for alpha in (0.2, 0.05, 0.01, 0.001):
        assert error(0.8 * math.log(1612 / alpha)) <= alpha
    low, high = 5.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if error(middle) > 0.05 else (low, middle)
    assert factor * math.sqrt((math.log(1 + math.log(10)) + high) / 1000) == pytest.approx(0.08204769, abs=1e-6)
    assert high <= 0.8 * math.log(1612 / 0.05) <= high + 0.3
    ours = dkw_radius(1000, 0.05)
    assert ours == pytest.approx(
        factor * math.sqrt((math.log(math.log(math.e * 1000)) + 0.8 * math.log(32_240)) / 1000)
    )
    assert ours == pytest.approx(0.086, abs=1e-3)


@pytest.mark.parametrize("lam", [0.001, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("guess", [0.0, 0.3, 1.0])
def test_the_bernstein_process_does_not_grow(lam, guess) -> None:
    """Howard et al. (2021), theorem 4, enumerated for one observation at 0, 1/2 or 1: the expectation is at most 1
    on both sides, whatever is guessed before it."""
    psi = -math.log(1 - lam) - lam
    for a, b in itertools.product(np.linspace(0, 1, 11), repeat=2):
        if a + b > 1:
            continue
        chances, values = np.array([1 - a - b, a, b]), np.array([0.0, 0.5, 1.0])
        mean = float(chances @ values)
        for side in (1, -1):
            grown = np.exp(lam * side * (values - mean) - psi * (values - guess) ** 2)
            assert float(chances @ grown) <= 1 + 1e-12


def test_the_bernstein_radius_by_brute_force() -> None:
    """The least over the grid is the least of its sixteen lines, computed one by one."""
    grid = np.geomspace(0.001, 0.9, 16)
    for v, alpha in ((0.0, 0.05), (12.5, 0.05), (400.0, 0.01), (1e5, 0.2)):
        lines = [(math.log(2 * 16 / alpha) + (-math.log(1 - x) - x) * v) / x for x in grid]
        assert float(bernstein.radius(v, alpha)) == pytest.approx(min(lines))


@pytest.mark.parametrize(("n_a", "n_b"), [(950, 50), (750, 250), (500, 500)])
@pytest.mark.parametrize(("k_a", "k_b"), [(0, 1), (3, 0), (2, 2), (1, 4)])
def test_conditional_and_unconditional_bet_agree_where_failures_are_rare(n_a, n_b, k_a, k_b) -> None:
    """Two derivations, two pieces of code: Fisher's conditional likelihood ratio, and the growth-optimal bet of Turner,
    Ly & Grunwald with the rate that the pooled counts show; both are w^x (n / (n_a + w n_b))^k for rare failures."""
    scale = 20  # as many failures among twenty times the requests
    a = np.array([n_a * scale - k_a, k_a], dtype=float)
    b = np.array([n_b * scale - k_b, k_b], dtype=float)
    share = n_b / (n_a + n_b)
    conditional = exact.log_gain(a[None], b[None], exact.START[None])[0]
    expected = k_b * np.log(exact.ODDS) - (k_a + k_b) * np.log(1 - share + share * exact.ODDS)
    np.testing.assert_allclose(conditional, expected, atol=2e-2)
    for i, odds in enumerate(exact.ODDS):
        rate = (k_a + k_b) / ((n_a + n_b) * scale) / (1 - share + share * odds)  # the champion's, where all is as bet
        fraction = rate * (odds - 1) / (1 - rate)
        free = log_factor(a, b, mean_a=rate, fractions=np.array([fraction]))
        assert float(free[0]) == pytest.approx(conditional[i], abs=2e-2)


def test_one_arm_is_walds_likelihood_ratio() -> None:
    """Against a limit the bet is Wald's (1945) probability ratio of ``limit + f (1 - limit)`` to the limit."""
    limit, n, k = 0.05, 200, 17
    for f in (0.01, 0.1, 0.6):
        worse = limit + f * (1 - limit)
        wald = k * math.log(worse / limit) + (n - k) * math.log((1 - worse) / (1 - limit))
        got = log_factor_one(np.array([n - k, k], dtype=float), limit=limit, fractions=np.array([f]))
        assert float(got[0]) == pytest.approx(wald)
