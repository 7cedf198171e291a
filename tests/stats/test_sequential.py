"""Group-sequential boundaries: published tables, closed forms, simulated paths."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from windtunnel.stats import sequential as seq

FIVE = [0.2, 0.4, 0.6, 0.8, 1.0]


@pytest.mark.parametrize(
    ("spending", "bounds"),
    [
        (seq.obrien_fleming, [4.8769, 3.3569, 2.6803, 2.2898, 2.0310]),
        (seq.pocock, [2.4380, 2.4268, 2.4101, 2.3966, 2.3859]),
    ],
)
def test_lan_demets_boundaries_are_those_of_the_published_programs(spending, bounds) -> None:
    """Five equally spaced looks, two-sided 5 %: output of ld98 and its successors (Reboussin et al. 2000)."""
    np.testing.assert_allclose(seq.design(FIVE, 0.025, spending).bounds, bounds, atol=1.2e-3)


@pytest.mark.parametrize(("looks", "delta", "value"), [
    (2, 0.0, 1.977), (3, 0.0, 2.004), (5, 0.0, 2.040), (10, 0.0, 2.087),
    (2, 0.5, 2.178), (3, 0.5, 2.289), (5, 0.5, 2.413), (10, 0.5, 2.555),
])  # fmt: skip
def test_constants_of_jennison_and_turnbull(looks, delta, value) -> None:
    """Tables 2.1 (Pocock) and 2.3 (O'Brien & Fleming), two-sided alpha 0.05."""
    assert seq.constant(looks, 0.025, delta) == pytest.approx(value, abs=1.5e-3)


def test_one_look_is_the_plain_test() -> None:
    only = seq.design([1.0], 0.05)
    assert only.bounds[0] == pytest.approx(-float(ndtri(0.05)), abs=1e-3)
    assert only.crossing(2.4865)[-1] == pytest.approx(0.8, abs=1e-3)


def test_many_looks_approach_the_reflection_principle() -> None:
    """A constant boundary for the score, watched all the time: P(max B > c) = 2 (1 - Phi(c)), with drift too."""
    c, n = 1.96, 1000
    times = tuple((i + 1) / n for i in range(n))
    flat = seq.Design(times, tuple(c / math.sqrt(t) for t in times))
    shift = 0.5826 / math.sqrt(n)  # Siegmund's correction for looking n times instead of always

    def drifting(theta: float) -> float:
        top = c + shift
        return float(ndtr(theta - top) + math.exp(2 * theta * top) * ndtr(-theta - top))

    assert flat.crossing(0.0)[-1] == pytest.approx(2 * ndtr(-c - shift), abs=3e-4)
    assert flat.crossing(2.4865)[-1] == pytest.approx(drifting(2.4865), abs=2e-3)


@pytest.mark.parametrize(
    "spending", [seq.obrien_fleming, seq.pocock, seq.power(2), seq.hwang_shih_decani(-2), seq.late(0.5, seq.power(1))]
)
def test_all_of_alpha_is_spent_and_no_more_on_simulated_paths(spending) -> None:
    rng = np.random.default_rng(4)
    times = np.arange(1, 21) / 20
    plan = seq.design(times.tolist(), 0.05, spending)
    assert plan.crossing(0.0)[-1] == pytest.approx(0.05, abs=2e-4)
    for theta in (0.0, 2.4865):
        paths = np.cumsum(rng.normal(theta / 20, math.sqrt(1 / 20), (20_000, 20)), axis=1) / np.sqrt(times)
        found = float((paths >= np.array(plan.bounds)).any(axis=1).mean())
        expected = plan.crossing(theta)[-1]
        assert found == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 20_000))


def test_looks_at_uneven_times_keep_alpha_and_depend_on_the_past_only() -> None:
    early = seq.design([0.1, 0.15, 0.7], 0.05, seq.power(2))
    assert early.bounds == pytest.approx(seq.design([0.1, 0.15, 0.7, 1.0], 0.05, seq.power(2)).bounds[:3], abs=5e-3)
    assert early.crossing(0.0)[-1] == pytest.approx(0.05 * 0.49, abs=2e-4)


def test_late_spending_keeps_a_share_for_the_planned_end() -> None:
    spend = seq.late(0.5, seq.power(1))
    assert spend(0.5, 0.05) == pytest.approx(0.0125)
    assert spend(0.999, 0.05) < 0.0251
    assert spend(1.0, 0.05) == 0.05


@pytest.mark.parametrize("times", [[], [0.0, 1.0], [0.5, 0.5], [0.5, 1.2], [1.0, 0.5]])
def test_times_that_make_no_sense_are_refused(times) -> None:
    with pytest.raises(ValueError, match="rising"):
        seq.design(times, 0.05)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_alpha_outside_is_refused(alpha) -> None:
    with pytest.raises(ValueError, match="alpha"):
        seq.design([1.0], alpha)
