"""Quantiles from buckets: published values, coverage at every look, and what cannot be said."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import beta, lognorm, norm

from windtunnel.stats.histogram import BOUNDS
from windtunnel.stats.quantile import difference, log_mixture, quantile, stitched

EDGES = np.array(BOUNDS)


def buckets(values: np.ndarray) -> np.ndarray:
    return np.bincount(np.searchsorted(EDGES, values), minlength=len(EDGES) + 1).astype(float)


def test_the_mixture_is_the_published_one() -> None:
    """Reference values of Howard's own R implementation for g 0.2, h 0.8, v_opt 100: log wealth at (s, v) = (10, 100),
    and the boundary at v = 100 for alpha 5 %."""
    assert float(log_mixture(np.array(135.0), np.array(625.0), 0.2, best_at=625)) == pytest.approx(-0.6941012, abs=1e-6)
    edge = float(log_mixture(np.array(125 + 31.4308), np.array(625.0), 0.2, best_at=625))
    assert edge == pytest.approx(math.log(20), abs=1e-5)


@pytest.mark.parametrize(("k", "n", "q"), [(3, 10, 0.5), (99, 100, 0.95), (0, 5, 0.99)])
def test_the_mixture_is_the_integral_over_chances(k, n, q) -> None:
    """The same by numerical integration of the likelihood ratio."""
    need = 2 * math.log(20)
    r = 500 * q * (1 - q) / (need + math.log1p(need)) - q * (1 - q)
    spread = beta(r / (1 - q), r / q)
    value, _ = quad(lambda p: spread.pdf(p) * (p / q) ** k * ((1 - p) / (1 - q)) ** (n - k), 0, 1, limit=200)
    assert float(log_mixture(np.array(float(k)), np.array(float(n)), q, best_at=500)) == pytest.approx(
        math.log(value), abs=1e-6
    )


def test_the_stitched_bound_by_hand_and_beside_the_mixture() -> None:
    level = (1.4 * math.log(math.log(2.1 * 1000)) + math.log(200)) / 1000
    assert stitched(1000, 0.95, 0.05) == pytest.approx(1.5 * math.sqrt(0.0475 * level) + 0.8 * level)
    assert stitched(1000, 0.95, 0.05) == pytest.approx(0.036025, abs=1e-6)
    assert stitched(0, 0.5, 0.05) is None
    for n in (500, 2000, 20_000):
        for q in (0.5, 0.95):
            wide = stitched(n, q, 0.05)
            assert wide is not None
            assert float(log_mixture(np.array((q - wide) * n), np.array(float(n)), q)) > math.log(20)  # the tighter one


@pytest.mark.parametrize("q", [0.5, 0.9, 0.95, 0.99])
def test_the_true_quantile_is_inside_at_every_look(q) -> None:
    """Coverage: 300 arms watched at 60 looks; at most alpha ever lose the truth."""
    rng = np.random.default_rng(17)
    truth = float(lognorm.ppf(q, 0.5, scale=8))
    counts = np.zeros((300, len(EDGES) + 1))
    lost = np.zeros(300, dtype=bool)
    chances = np.diff(norm.cdf(np.log(EDGES / 8) / 0.5), prepend=0.0, append=1.0)
    for _ in range(60):
        counts += rng.multinomial(60, chances, size=300)
        found = quantile(counts, q, 0.05, EDGES)
        lost |= (found.low >= truth) | (found.high < truth)
    print(f"\np{100 * q:g}: {lost.mean():.4f} of 300 lost the truth")
    assert lost.mean() <= 0.05


@pytest.mark.parametrize("q", [0.5, 0.95])
@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_the_true_difference_is_inside_at_every_look(q, factor) -> None:
    rng = np.random.default_rng(18)
    runs = 100
    truth = float(lognorm.ppf(q, 0.5, scale=8)) * (factor - 1)
    a, b = np.zeros((runs, len(EDGES) + 1)), np.zeros((runs, len(EDGES) + 1))
    lost = np.zeros(runs, dtype=bool)
    cells = [np.diff(norm.cdf(np.log(EDGES / m) / 0.5), prepend=0.0, append=1.0) for m in (8, 8 * factor)]
    for _ in range(12):
        a += rng.multinomial(300, cells[0], size=runs)
        b += rng.multinomial(100, cells[1], size=runs)
        found = difference(a, b, q, 0.05, EDGES)
        lost |= (found.low >= truth) | (found.high < truth)
    assert lost.mean() <= 0.05
    if factor > 1:
        assert (found.low > 0).mean() >= 0.9  # and it is found


def test_p99_from_few_observations_has_no_upper_limit() -> None:
    rng = np.random.default_rng(1)
    found = quantile(buckets(rng.lognormal(2, 0.5, 50)), 0.99, 0.05, EDGES)
    assert math.isnan(float(found.high))
    assert float(found.estimate) > 0


def test_nothing_observed_is_not_a_number() -> None:
    nothing = np.zeros(len(EDGES) + 1)
    for found in (quantile(nothing, 0.95, 0.05, EDGES), difference(nothing, nothing, 0.95, 0.05, EDGES)):
        assert all(math.isnan(float(v)) for v in (found.estimate, found.low, found.high))


def test_all_in_the_open_bucket_has_a_lower_limit_only() -> None:
    slow = np.zeros(len(EDGES) + 1)
    slow[-1] = 500
    found = quantile(slow, 0.5, 0.05, EDGES)
    assert math.isinf(float(found.estimate)) and float(found.low) == EDGES[-1] and math.isnan(float(found.high))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.2, 9e4), min_size=1, max_size=400), st.floats(0.05, 0.99))
def test_limits_are_around_the_estimate_and_a_batch_is_its_members(values, q) -> None:
    counts = buckets(np.array(values))
    both = quantile(np.stack([counts, 3 * counts]), q, 0.05, EDGES)
    one = quantile(counts, q, 0.05, EDGES)
    np.testing.assert_equal([both.estimate[0], both.low[0], both.high[0]], [one.estimate, one.low, one.high])
    assert not float(one.low) >= float(one.estimate)
    assert not float(one.high) < float(one.estimate)


@pytest.mark.parametrize(("counts", "q", "alpha"), [
    (np.zeros(3), 0.5, 0.05), (np.full(146, -1.0), 0.5, 0.05), (np.zeros(146), 1.0, 0.05), (np.zeros(146), 0.5, 0.0),
    (np.full(146, np.nan), 0.5, 0.05),
])  # fmt: skip
def test_what_makes_no_sense_is_refused(counts, q, alpha) -> None:
    with pytest.raises(ValueError, match=r"expected|counts"):
        quantile(counts, q, alpha, EDGES)
