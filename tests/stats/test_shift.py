"""Shift of predictions, and the binning below it."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from windtunnel.stats.betting import FRACTIONS, log_factor
from windtunnel.stats.binning import count_categories, count_numeric, loss_points, quantile_edges, spread
from windtunnel.stats.shift import ShiftTest, distance, dkw_radius, events


def test_the_dkw_radius_of_howard_and_ramdas() -> None:
    """0.85 sqrt((log log(100 e) + 0.8 log(1612 / 0.05)) / 100), by hand."""
    assert dkw_radius(100, 0.05) == pytest.approx(0.2692, abs=2e-4)
    assert dkw_radius(0, 0.05) is None
    assert dkw_radius(1, 0.05) == 1.0


def test_dkw_covers_at_every_look() -> None:
    rng = np.random.default_rng(2)
    missed = 0
    for _ in range(100):
        x = rng.random(3000)
        for n in (10, 30, 100, 300, 1000, 3000):
            ranks = np.sort(x[:n])
            gap = max(np.max(np.arange(1, n + 1) / n - ranks), np.max(ranks - np.arange(n) / n))
            missed += gap > (dkw_radius(n, 0.05) or 0)
    assert missed <= 5


@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_a_shift_of_the_margin_is_rarely_called_harm(margin) -> None:
    """The worst case of the null: the distance is exactly the margin. Looked at 60 times."""
    rng = np.random.default_rng(6)
    edges, alarms, runs = np.arange(1, 10) / 10, 0, 200
    for _ in range(runs):
        test = ShiftTest()
        for _ in range(60):
            a, b = rng.random(60), rng.random(20)
            b = np.where((b > 0.5 - margin) & (b <= 0.5), 0.5 + 1e-9, b)  # F_b(0.5-) lower by the margin
            test = test.update(count_numeric(a, edges), count_numeric(b, edges), margin, ordered=True)
            if (test.log_harm or 0) >= math.log(20):
                alarms += 1
                break
    assert alarms / runs <= 0.05


@pytest.mark.parametrize(("factor", "rows"), [(3.0, 60), (1 / 3, 60), (1.5, 900)])
def test_predictions_multiplied_are_found(factor, rows) -> None:
    rng = np.random.default_rng(7)
    edges = quantile_edges(rng.gamma(2, 1.5, 2000))
    found = 0
    for _ in range(40):
        test = ShiftTest()
        for _ in range(rows // 10):
            test = test.update(
                count_numeric(rng.gamma(2, 1.5, 90), edges), count_numeric(rng.gamma(2, 1.5, 10) * factor, edges),
                0.1, ordered=True,
            )  # fmt: skip
        found += (test.log_harm or 0) >= math.log(80)
    assert found >= 38


def test_a_constant_champion_is_no_blind_spot() -> None:
    edges = quantile_edges(np.full(50, 2.0))
    for other in (1.0, 3.0):
        test = ShiftTest()
        for _ in range(5):
            test = test.update(
                count_numeric(np.full(50, 2.0), edges), count_numeric(np.full(10, other), edges), 0.1, ordered=True
            )
        assert (test.log_harm or 0) > math.log(1000)


def test_categories_and_a_new_one() -> None:
    names = ("no", "yes")
    champion = count_categories(["no"] * 70 + ["yes"] * 30, names)
    candidate = count_categories(["no"] * 10 + ["perhaps"] * 10, names)
    assert candidate.tolist() == [10, 0, 10]
    assert distance(champion, candidate, ordered=False) == pytest.approx(0.5)
    test = ShiftTest()
    for _ in range(4):
        test = test.update(champion, candidate, 0.1, ordered=False)
    assert (test.log_harm or 0) > math.log(1000)
    with pytest.raises(ValueError, match="bins changed"):
        test.update(champion[:2], candidate[:2], 0.1, ordered=False)


def test_equal_predictions_are_shown_to_be_within_the_margin() -> None:
    rng = np.random.default_rng(1)
    edges, test = np.arange(1, 10) / 10, ShiftTest()
    for _ in range(60):
        a, b = count_numeric(rng.random(100), edges), count_numeric(rng.random(50), edges)
        test = test.update(a, b, 0.1, ordered=True)
    assert (test.log_safe or 0) >= math.log(5)
    assert (test.log_harm or 0) < 0
    assert ShiftTest.from_dict(json.loads(json.dumps(test.to_dict()))) == test


def test_what_cannot_be_computed_is_none() -> None:
    test = ShiftTest()
    assert (test.log_harm, test.log_safe) == (None, None)
    assert distance(np.zeros(3), np.ones(3), ordered=True) is None
    assert test.update(np.zeros(3), np.ones(3), 0.1, ordered=True) is test
    with pytest.raises(ValueError, match="negative"):
        test.update(np.array([-1.0, 2, 3]), np.ones(3), 0.1, ordered=True)


def test_events_of_numbers_and_of_categories() -> None:
    assert events(np.array([1.0, 2, 3]), ordered=True).tolist() == [1, 3]
    assert events(np.array([1.0, 2, 3]), ordered=False).tolist() == [1, 2, 3]


values = hnp.arrays(float, st.integers(0, 60), elements=st.floats(0, 1))


@given(values)
def test_spreading_keeps_number_and_mean(x) -> None:
    points = loss_points()
    cells = spread(x, points)
    assert cells.sum() == pytest.approx(len(x))
    assert cells @ points == pytest.approx(x.sum(), abs=1e-9)
    assert (cells >= 0).all()


@given(values.filter(len), values.filter(len), st.floats(0.01, 0.9))
def test_spreading_never_adds_evidence(a, b, belief) -> None:
    points = loss_points()
    spreaded = log_factor(spread(a, points), spread(b, points), points=points, mean_a=belief, dispersion=0.3, slope=1.1)
    both = np.concatenate([a, b])
    where_a = np.concatenate([np.ones(len(a)), np.zeros(len(b))])
    exact = log_factor(where_a, 1 - where_a, points=both, mean_a=belief, dispersion=0.3, slope=1.1)
    assert (spreaded <= exact + 1e-7).all()
    assert spreaded.shape == FRACTIONS.shape


@given(hnp.arrays(float, st.integers(0, 80), elements=st.floats(allow_nan=True, allow_infinity=True, width=32)))
def test_edges_rise_and_every_number_has_a_bin(x) -> None:
    edges = quantile_edges(x)
    finite = x[np.isfinite(x)]
    assert bool(edges) == bool(len(finite))
    assert all(p < q for p, q in itertools.pairwise(edges))
    if edges:
        assert count_numeric(x, edges).sum() == len(finite)
