"""The betting factor: golden values from the papers, fairness by enumeration, properties."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from windtunnel.stats.betting import (
    FRACTIONS,
    bonferroni,
    e_value,
    log_factor,
    log_factor_one,
    log_mean,
    round_down,
)


def binary(n: int, k: int) -> np.ndarray:
    return np.array([n - k, k], dtype=float)


@pytest.mark.parametrize(("n_a", "k_a", "n_b", "k_b"), [(1, 0, 1, 1), (10, 1, 10, 4), (95, 1, 5, 2), (30, 0, 70, 9)])
@pytest.mark.parametrize("theta_a", [0.01, 0.2])
def test_without_margin_it_is_the_safe_test_of_turner_ly_grunwald(n_a, k_a, n_b, k_b, theta_a) -> None:
    """Turner, Ly & Grunwald, eq. 2.2: likelihood under (theta_a, theta_b) over likelihood under their weighted mean."""
    fractions = np.array([0.05, 0.3])
    got = log_factor(binary(n_a, k_a), binary(n_b, k_b), mean_a=theta_a, fractions=fractions)
    for f, value in zip(fractions, got, strict=True):
        theta_b = theta_a + f * (1 - theta_a)
        pooled = (n_a * theta_a + n_b * theta_b) / (n_a + n_b)

        def likelihood(p: float, n: int, k: int) -> float:
            return k * math.log(p) + (n - k) * math.log(1 - p)

        expected = (
            likelihood(theta_a, n_a, k_a)
            + likelihood(theta_b, n_b, k_b)
            - likelihood(pooled, n_a, k_a)
            - likelihood(pooled, n_b, k_b)
        )
        assert value == pytest.approx(expected, abs=1e-9)


def test_one_arm_is_the_capital_process_of_waudby_smith_ramdas() -> None:
    """Capital with bet lam against m after wins and losses, by hand: (1 + lam (1 - m))^k (1 - lam m)^(n - k)."""
    got = log_factor_one(binary(7, 3), limit=0.05, fractions=np.array([0.4]))
    lam = 0.4 / 0.05
    assert got[0] == pytest.approx(3 * math.log(1 + lam * 0.95) + 4 * math.log(1 - lam * 0.05))
    assert got[0] == pytest.approx(4.411984, abs=1e-6)


def _chance(p: float, n: int, k: int) -> float:
    return math.comb(n, k) * p**k * (1 - p) ** (n - k)


@pytest.mark.parametrize(("n_a", "n_b"), [(1, 1), (6, 2), (2, 6), (9, 1), (4, 4)])
@pytest.mark.parametrize(("slope", "shift"), [(1.0, 0.0), (1.0, 0.05), (1.2, 0.0), (1.0, -0.05), (1.1, -0.15)])
@pytest.mark.parametrize("belief", [0.01, 0.3, 0.9])
def test_no_bet_wins_on_average_under_the_null(n_a, n_b, slope, shift, belief) -> None:
    """Every outcome enumerated: the expectation is at most 1 wherever the candidate is within the boundary."""
    for mean_a in (0.0, 0.02, 0.1, 0.5, 0.95, 1.0):
        edge = slope * mean_a + shift
        if edge < 0:
            continue
        for mean_b in {min(1.0, edge), min(1.0, edge) / 2, 0.0}:
            total = np.zeros(len(FRACTIONS))
            for k_a, k_b in itertools.product(range(n_a + 1), range(n_b + 1)):
                factor = np.exp(log_factor(binary(n_a, k_a), binary(n_b, k_b), mean_a=belief, slope=slope, shift=shift))
                total += _chance(mean_a, n_a, k_a) * _chance(mean_b, n_b, k_b) * factor
            assert (total <= 1 + 1e-9).all()


def test_no_bet_wins_when_the_base_rate_drifts_inside_the_block() -> None:
    """Four requests each, every one with its own rate; only the averages of the block obey the null."""
    rates_a, rates_b = (0.0, 0.1, 0.9, 0.4), (0.9, 0.5, 0.0, 0.0)  # both 0.35 on average
    total = np.zeros(len(FRACTIONS))
    for bits in itertools.product((0, 1), repeat=8):
        a, b = bits[:4], bits[4:]
        chance = math.prod(r if x else 1 - r for r, x in zip(rates_a + rates_b, a + b, strict=True))
        total += chance * np.exp(log_factor(binary(4, sum(a)), binary(4, sum(b)), mean_a=0.2))
    assert (total <= 1 + 1e-9).all()


@pytest.mark.parametrize("limit", [0.01, 0.05, 0.5])
def test_one_arm_no_bet_wins_at_the_limit(limit) -> None:
    total = sum(_chance(limit, 12, k) * np.exp(log_factor_one(binary(12, k), limit=limit)) for k in range(13))
    assert total == pytest.approx(np.ones(len(FRACTIONS)), abs=1e-9)


counts = st.integers(0, 300)


@given(n_a=counts, n_b=counts, data=st.data(), belief=st.floats(0, 1), margin=st.floats(0, 0.5))
def test_more_failures_of_the_candidate_are_more_evidence(n_a, n_b, data, belief, margin) -> None:
    k_a = data.draw(st.integers(0, n_a))
    k_b = data.draw(st.integers(0, max(0, n_b - 1)))
    less = log_factor(binary(n_a, k_a), binary(n_b, min(k_b, n_b)), mean_a=belief, shift=margin)
    more = log_factor(binary(n_a, k_a), binary(n_b, min(k_b + 1, n_b)), mean_a=belief, shift=margin)
    assert np.isfinite(less).all()
    assert (more >= less - 1e-12).all()
    if n_a == 0 or n_b == 0:
        assert (less == 0).all()  # nothing to compare is no evidence


@given(
    hnp.arrays(float, (3, 2), elements=st.floats(0, 1000)),
    hnp.arrays(float, (3, 2), elements=st.floats(0, 1000)),
    st.floats(0.001, 0.999),
)
def test_a_batch_is_its_members(a, b, belief) -> None:
    together = log_factor(a, b, mean_a=np.full(3, belief))
    alone = np.stack([log_factor(a[i], b[i], mean_a=belief) for i in range(3)])
    np.testing.assert_allclose(together, alone, rtol=1e-12, atol=1e-12)


@given(hnp.arrays(float, 12, elements=st.floats(-1e4, 600)))
def test_rounding_never_makes_evidence(wealth) -> None:
    rounded = round_down(wealth)
    assert (rounded <= wealth + 2e-12).all()  # what is rounded already stays as it is
    assert (wealth - rounded < 2e-6).all()
    assert log_mean(rounded) <= log_mean(wealth) + 1e-9
    assert rounded.min() - 1e-9 <= log_mean(rounded) <= rounded.max() + 1e-9


def test_an_e_value_is_always_a_number_that_json_can_hold() -> None:
    assert e_value(0.0) == 1.0
    assert math.isfinite(e_value(1e9))


@pytest.mark.parametrize(("alpha", "tests"), [(0.05, 0), (0.0, 2), (1.0, 2)])
def test_alpha_that_cannot_be_shared_is_refused(alpha, tests) -> None:
    with pytest.raises(ValueError, match="alpha"):
        bonferroni(alpha, tests)


@settings(max_examples=20)
@given(st.floats(0.001, 0.5), st.integers(1, 50))
def test_shares_of_alpha_sum_to_alpha(alpha, tests) -> None:
    assert bonferroni(alpha, tests) * tests == pytest.approx(alpha)
