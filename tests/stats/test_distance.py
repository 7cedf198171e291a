"""Distances and tests: golden values, identities, and tails at the levels a month of windows needs (MON-2, MON-3)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.stats import distance

counts = st.lists(st.integers(0, 500), min_size=2, max_size=12)


def test_golden_values() -> None:
    a, b = [50, 30, 20], [20, 30, 50]
    assert distance.kolmogorov(a, b) == pytest.approx(0.3)
    assert distance.total_variation(a, b) == pytest.approx(0.3)
    assert distance.psi([500] * 2, [250, 750]) == pytest.approx(0.25 * math.log(0.75 / 0.25), rel=0.01)
    # scipy.spatial.distance.jensenshannon([.5,.3,.2], [.2,.3,.5], base=2) = 0.2573...
    from scipy.spatial.distance import jensenshannon

    assert distance.jensen_shannon(a, b) == pytest.approx(jensenshannon([0.5, 0.3, 0.2], [0.2, 0.3, 0.5], base=2))
    assert distance.jensen_shannon([1, 0], [0, 1]) == 1.0


def test_wasserstein_of_atoms_is_scipys() -> None:
    from scipy.stats import wasserstein_distance

    edges = [0.0, 1.0, 5.0]
    a, b = [0, 3, 0, 2, 0, 1, 0], [0, 1, 0, 1, 0, 4, 0]
    expected = wasserstein_distance(edges, edges, [3, 2, 1], [1, 1, 4])
    assert distance.wasserstein(edges, a, b) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("found", "total", "n", "m"), [(0, 5, 200, 4000), (3, 5, 200, 4000), (80, 80, 200, 4000), (7, 9, 30, 10)]
)
def test_hypergeometric_is_twice_scipys_smaller_tail(found: int, total: int, n: int, m: int) -> None:
    from scipy.stats import hypergeom

    law = hypergeom(n + m, total, n)
    expected = min(1.0, 2 * min(law.cdf(found), law.sf(found - 1)))
    assert distance.hypergeometric_p(found, total, n, m) == pytest.approx(expected, rel=1e-6)


def test_counts_p_agrees_with_scipy_where_all_is_dense() -> None:
    from scipy.stats import chi2_contingency

    a, b = [120, 60, 20], [1900, 1300, 800]
    pearson = chi2_contingency([a, b], correction=False).pvalue
    ratio = chi2_contingency([a, b], correction=False, lambda_="log-likelihood").pvalue
    assert distance.counts_p(a, b) == pytest.approx(max(pearson, ratio))


def test_an_unseen_category_is_found_however_rare_it_was() -> None:
    """DEMAND MON-2: unseen categories. 80 of 200 rows are new: their pooled count is too small for chi-squared."""
    assert distance.counts_p([120, 80], [4000, 0]) < 1e-20
    assert distance.counts_p([199, 1], [4000, 0]) > 0.05


def test_singletons_are_not_a_finding() -> None:
    """An id-like column has new values in every window; their pooled count is not unusual."""
    generator = np.random.default_rng(3)
    smallest = []
    for _ in range(50):
        values = generator.permutation(np.arange(2_100) % 1_400)
        a = np.bincount(values[:100], minlength=1_400)
        b = np.bincount(values[100:], minlength=1_400)
        smallest.append(distance.counts_p(a, b))
    assert min(smallest) > 1e-4


@given(counts, counts)
def test_every_distance_is_symmetric_or_zero_at_home(a: list[int], b: list[int]) -> None:
    size = min(len(a), len(b))
    a, b = a[:size], b[:size]
    if not sum(a) or not sum(b):
        with pytest.raises(ValueError, match="at least one"):
            distance.kolmogorov(a, b)
        return
    for measure in (distance.kolmogorov, distance.total_variation, distance.jensen_shannon):
        assert 0 <= measure(a, b) <= 1
        assert measure(a, b) == pytest.approx(measure(b, a))
        assert measure(a, a) == pytest.approx(0, abs=1e-7)
    assert distance.kolmogorov(a, b) <= distance.total_variation(a, b) + 1e-12
    assert distance.psi(a, b) >= -1e-12
    assert 0 <= distance.counts_p(a, b) <= 1
    assert distance.counts_p(a, b) == pytest.approx(distance.counts_p(b, a))


def test_detectable_is_the_distance_that_reaches_the_level() -> None:
    seen = distance.detectable(1e-5, 500, 4000)
    assert distance.kolmogorov_p(seen, 500, 4000) == pytest.approx(1e-5)
    assert distance.detectable(1e-5, 0, 4000) == math.inf


def test_benjamini_hochberg() -> None:
    # The example of Benjamini and Hochberg (1995), section 3.3: four of fifteen at 0.05.
    p = [
        0.0001,
        0.0004,
        0.0019,
        0.0095,
        0.0201,
        0.0278,
        0.0298,
        0.0344,
        0.0459,
        0.3240,
        0.4262,
        0.5719,
        0.6528,
        0.7590,
        1,
    ]
    assert sum(distance.benjamini_hochberg(p, 0.05)) == 4
    assert distance.benjamini_hochberg([], 0.05) == []


def _kolmogorov_rate(n: int, m: int, cells: int, level: float, windows: int, seed: int) -> float:
    generator = np.random.default_rng(seed)
    hits = 0
    for _ in range(windows // 10_000):
        a = generator.multinomial(n, np.full(cells, 1 / cells), 10_000).cumsum(1) / n
        b = generator.multinomial(m, np.full(cells, 1 / cells), 10_000).cumsum(1) / m
        hits += int((np.abs(a - b).max(1) >= distance.detectable(level, n, m)).sum())
    return hits / windows


def _counts_p_values(n: int, m: int, shares: list[float], windows: int, seed: int) -> np.ndarray:
    """P-values of windows in which nothing has changed; 1.0 for those whose Pearson statistic is far from any level."""
    generator = np.random.default_rng(seed)
    a, b = generator.multinomial(n, shares, windows), generator.multinomial(m, shares, windows)
    pooled = (a + b) / (n + m)
    with np.errstate(divide="ignore", invalid="ignore"):
        pearson = np.nansum((a - n * pooled) ** 2 / (n * pooled) + (b - m * pooled) ** 2 / (m * pooled), axis=1)
    found = np.ones(windows)
    near = np.flatnonzero(pearson > 5.0)  # one degree of freedom: p < 0.025
    found[near] = [distance.counts_p(a[i], b[i]) for i in near]
    return found


def _bound(level: float, windows: int) -> float:
    """What a rate of ``level`` stays below but for one time in 10,000."""
    from scipy.stats import binom

    return float(binom.ppf(0.9999, windows, level)) / windows


SIZES = [(100, 100), (200, 4_000), (2_000, 4_000)]
SHARES = [[0.5, 0.5], [0.975, 0.025], [0.9, 0.05, 0.05], [0.7, 0.2, 0.05, 0.025, 0.0125, 0.0125], [0.994] + [0.001] * 6]


@pytest.mark.parametrize(("n", "m"), SIZES)
def test_kolmogorov_keeps_its_level(n: int, m: int) -> None:
    """DEMAND MON-3."""
    for level in (1e-2, 1e-3):
        assert _kolmogorov_rate(n, m, 32, level, 20_000, seed=n) <= _bound(level, 20_000)


@pytest.mark.parametrize("shares", SHARES)
def test_counts_keep_their_level(shares: list[float]) -> None:
    """DEMAND MON-3."""
    for n, m in SIZES:
        found = _counts_p_values(n, m, shares, 10_000, seed=n)
        for level in (1e-2, 1e-3):
            assert (found <= level).mean() <= _bound(level, 10_000)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("n", "m"), SIZES)
def test_kolmogorov_keeps_tiny_levels(n: int, m: int) -> None:
    """DEMAND MON-3: a month of 15 s windows leaves a level of 3e-7 each; 1e-4 and 2e-5 can be counted."""
    for level in (1e-4, 2e-5):
        assert _kolmogorov_rate(n, m, 64, level, 500_000, seed=n) <= _bound(level, 500_000)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shares", SHARES)
def test_counts_keep_tiny_levels(shares: list[float]) -> None:
    """DEMAND MON-3: where Pearson's statistic alone gives up to ten times the stated rate."""
    for n, m in SIZES:
        found = _counts_p_values(n, m, shares, 500_000, seed=n)
        print({level: round((found <= level).mean() / level, 2) for level in (1e-3, 1e-4, 2e-5)}, n, m, shares)
        for level in (1e-3, 1e-4, 2e-5):
            assert (found <= level).mean() <= _bound(level, 500_000)
