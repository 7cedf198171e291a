"""The exact conditional bet: its null distribution, fairness by enumeration, the bar, and what it finds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom, nchypergeom_fisher

from windtunnel.stats.betting import log_mean, round_down
from windtunnel.stats.exact import ODDS, SHARES, START, log_gain, log_hypergeometric


def pair(n_a: int, n_b: int, k: int, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a = np.stack([n_a - (k - x), k - x], -1).astype(float)
    b = np.stack([n_b - x, x], -1).astype(float)
    return a, b


def outcomes(n_a: int, n_b: int, k: int) -> np.ndarray:
    return np.arange(max(0, k - n_a), min(k, n_b) + 1)


def test_shares_are_a_distribution_and_the_start_is_one() -> None:
    assert SHARES.sum() == pytest.approx(1)
    assert float(log_mean(START)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("n_a", "n_b", "k"), [(95, 5, 7), (5, 95, 50), (3, 2, 4), (1000, 1000, 3), (1, 1, 2), (5000, 5000, 300)]
)
def test_the_null_distribution_is_scipys(n_a, n_b, k) -> None:
    got = np.exp(log_hypergeometric(np.array(float(n_a)), np.array(float(n_b)), np.array(float(k))))
    np.testing.assert_allclose(got, hypergeom.pmf(np.arange(k + 1), n_a + n_b, k, n_b), atol=1e-12)


@pytest.mark.parametrize(("n_a", "n_b", "k"), [(95, 5, 7), (20, 20, 6), (3, 30, 12)])
def test_without_a_bar_it_is_the_likelihood_ratio_of_fishers_noncentral_distribution(n_a, n_b, k) -> None:
    x = outcomes(n_a, n_b, k)
    got = log_gain(*pair(n_a, n_b, k, x), np.broadcast_to(START, (len(x), len(ODDS))))
    for i, odds in enumerate(ODDS):
        fisher = nchypergeom_fisher.logpmf(x, n_a + n_b, k, n_b, odds) - hypergeom.logpmf(x, n_a + n_b, k, n_b)
        keep = fisher > -15  # scipy's noncentral distribution is exact to about 1e-8
        np.testing.assert_allclose(got[keep, i], fisher[keep], atol=1e-4)


def test_one_failure_by_hand() -> None:
    """One failure, at the candidate, which has a tenth of the requests: w / (0.9 + 0.1 w)."""
    got = log_gain(*pair(90, 10, 1, np.array([1])), START[None])
    np.testing.assert_allclose(got[0], np.log(ODDS / (0.9 + 0.1 * ODDS)), atol=1e-12)


@settings(max_examples=150, deadline=None)
@given(
    n_a=st.integers(1, 60), n_b=st.integers(1, 60), share=st.floats(0, 1), shape=st.lists(st.floats(-3, 3), min_size=6,
    max_size=6), bar=st.sampled_from([3.0, 5.0, 10.0, 20.0, 500.0]),
)  # fmt: skip
def test_the_bet_is_exactly_fair_and_never_passes_the_bar(n_a, n_b, share, shape, bar) -> None:
    k = max(1, round(share * (n_a + n_b)))
    x = outcomes(n_a, n_b, k)
    wealth = START + np.array(shape)
    gain = log_gain(*pair(n_a, n_b, k, x), np.broadcast_to(wealth, (len(x), 6)), log_bar=math.log(bar))
    before = float(log_mean(wealth))
    after = log_mean(wealth + gain)
    if before >= math.log(bar):
        assert (gain == 0).all()  # over
        return
    expected = float((hypergeom.pmf(x, n_a + n_b, k, n_b) * np.exp(after - before)).sum())
    assert expected <= 1 + 1e-9
    assert expected >= 1 - 1e-5  # nothing is wasted
    assert (after <= math.log(bar) + 1e-5).all()
    assert (np.diff(after) >= -1e-9).all()  # more failures of the candidate are more evidence


@pytest.mark.parametrize(("rates_a", "rates_b"), [
    ((0.5, 0.01, 0.3, 0.9), (0.5, 0.0, 0.3, 0.2)), ((0.2, 0.9, 0.9, 0.1), (0.0, 0.9, 0.9, 0.0)),
])  # fmt: skip
def test_a_better_candidate_cannot_win_though_rates_drift_inside_the_block(rates_a, rates_b) -> None:
    """Four requests, each with its own rates, dealt to the arms by chance: every deal and outcome enumerated."""
    total = 0.0
    wealth = START + np.array([0.0, 0.0, 0.5, 1.0, 0.0, 0.0])
    for size_b in (1, 2, 3):
        deals = list(itertools.combinations(range(4), size_b))
        total = 0.0
        for chosen, bits in itertools.product(deals, itertools.product((0, 1), repeat=4)):
            rates = [rates_b[i] if i in chosen else rates_a[i] for i in range(4)]
            chance = math.prod(r if x else 1 - r for r, x in zip(rates, bits, strict=True)) / len(deals)
            k_b = sum(bits[i] for i in chosen)
            a, b = pair(4 - size_b, size_b, sum(bits), np.array([k_b]))
            total += chance * math.exp(float(log_mean(wealth + log_gain(a, b, wealth[None], log_bar=math.log(5))[0])))
        assert total <= math.exp(float(log_mean(wealth))) + 1e-9


def test_at_the_bar_rounding_down_still_rejects() -> None:
    a, b = pair(50, 50, 30, np.array([28]))
    log_bar = math.log(20)
    wealth = round_down(START + log_gain(a, b, START[None], log_bar=log_bar)[0])
    assert log_bar <= float(log_mean(wealth)) < log_bar + 1e-5


def test_nothing_to_compare_is_no_evidence() -> None:
    empty = np.array([[10.0, 0.0], [0.0, 0.0], [10.0, 1.0]])
    other = np.array([[5.0, 0.0], [3.0, 2.0], [0.0, 0.0]])
    assert (log_gain(empty, other, np.broadcast_to(START, (3, 6)), log_bar=3.0) == 0).all()


def test_a_batch_is_its_members_and_large_blocks_are_fine() -> None:
    rng = np.random.default_rng(2)
    a = np.stack([rng.integers(1, 300, 50), rng.integers(0, 20, 50)], -1).astype(float)
    b = np.stack([rng.integers(1, 300, 50), rng.integers(0, 20, 50)], -1).astype(float)
    wealth = START + rng.normal(0, 1, (50, 6))
    together = log_gain(a, b, wealth, log_bar=4.0)
    alone = np.concatenate([log_gain(a[i : i + 1], b[i : i + 1], wealth[i : i + 1], log_bar=4.0) for i in range(50)])
    np.testing.assert_allclose(together, alone, atol=1e-9)
    crash = log_gain(np.array([[90_000.0, 900.0]]), np.array([[1.0, 9000.0]]), START[None], log_bar=math.log(20))
    assert float(log_mean(START + crash[0])) == pytest.approx(math.log(20), abs=1e-5)


def watched(rng, runs: int, looks, rate_a, rate_b, log_bar: float) -> tuple[float, np.ndarray]:
    """Share of runs that ever reached the bar, and candidate requests until then."""
    wealth = np.broadcast_to(START, (runs, len(START))).copy()
    crossed = np.full(runs, np.inf)
    spent = 0
    for i, (n_a, n_b) in enumerate(looks):
        k_a, k_b = rng.binomial(n_a, rate_a(i), runs), rng.binomial(n_b, rate_b(i), runs)
        wealth += log_gain(
            np.stack([n_a - k_a, k_a], -1).astype(float), np.stack([n_b - k_b, k_b], -1).astype(float), wealth,
            log_bar=log_bar,
        )  # fmt: skip
        spent += n_b
        crossed = np.where((log_mean(wealth) >= log_bar) & np.isinf(crossed), spent, crossed)
    return float(np.isfinite(crossed).mean()), crossed


@pytest.mark.parametrize(("n_a", "n_b"), [(190, 10), (150, 50), (100, 100), (20, 180)])
def test_false_alarms_stay_below_alpha_while_the_base_rate_swings(n_a, n_b) -> None:
    """DEMAND ROL-4: at most alpha, and close to it: nothing is wasted."""
    rng = np.random.default_rng(20_260_801)

    def base(i: int) -> float:
        return 0.008 * (1 + 0.6 * math.sin(i / 40))

    share, _ = watched(rng, 2000, [(n_a, n_b)] * 500, base, base, math.log(20))
    print(f"\nsplit {n_b}/{n_a + n_b}: false alarms {share:.4f} of 2000")
    assert 0.01 <= share <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / 2000)


@pytest.mark.parametrize(
    ("n_a", "n_b", "worse", "most"), [(152, 8, 0.016, 1131), (30, 10, 0.016, 1269), (19, 1, 0.04, 137)]
)
def test_harm_is_found_before_a_tuned_gate_that_checks_once(n_a, n_b, worse, most) -> None:
    """DEMAND ROL-5: 1,131 to 1,269 and 137 requests are what one check needs at power 0.8 (bench/detection.py)."""
    share, spent = watched(
        np.random.default_rng(3), 400, [(n_a, n_b)] * (12 * most // n_b), lambda _: 0.008, lambda _: worse, math.log(20)
    )
    print(f"\nmedian {np.median(spent):.0f} candidate requests")
    assert share >= 0.99
    assert np.median(spent) <= most
