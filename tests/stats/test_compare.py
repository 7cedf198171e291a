"""Two arms block by block: coverage studies with seeds, power, the interval, and what cannot be said."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.stats import bernstein
from windtunnel.stats.alternatives import HARM_START, ODDS
from windtunnel.stats.betting import BINARY, log_factor, log_mean
from windtunnel.stats.binning import loss_points, spread
from windtunnel.stats.compare import Boundary, Moments, OneSample, TwoSample, TwoSamples


def binary(n: int, k: int) -> np.ndarray:
    return np.array([n - k, k], dtype=float)


def ever_crossed(
    rng: np.random.Generator,
    runs: int,
    sizes: list[tuple[int, int]],
    rate_a,
    rate_b,
    *,
    alpha: float,
    margin: float = 0.0,
) -> tuple[float, np.ndarray]:
    """Share of runs whose wealth ever reached 1/alpha, and how many candidate requests that took."""
    test = TwoSamples.begin(runs, no_margin=margin == 0)
    crossed = np.full(runs, np.inf)
    log_bar = math.log(1 / alpha)
    spent = 0
    for look, (n_a, n_b) in enumerate(sizes):
        k_a, k_b = rng.binomial(n_a, rate_a(look), runs), rng.binomial(n_b, rate_b(look), runs)
        test = test.update(
            np.stack([n_a - k_a, k_a], -1).astype(float),
            np.stack([n_b - k_b, k_b], -1).astype(float),
            Boundary(1.0, margin),
            log_bar=log_bar if margin == 0 else None,
        )
        spent += n_b
        crossed = np.where((test.log_harm >= log_bar) & (crossed == np.inf), spent, crossed)
    return float(np.isfinite(crossed).mean()), crossed


def canary(rate: float, every: float = 10.0) -> list[tuple[int, int]]:
    """Block sizes of the default plan's 130 minutes."""
    sizes: list[tuple[int, int]] = []
    for weight, minutes in ((5, 10), (25, 30), (50, 60), (75, 30)):
        total = round(rate * every)
        n_b = max(1, round(total * weight / 100))
        sizes += [(max(1, total - n_b), n_b)] * int(minutes * 60 / every)
    return sizes


def season(level: float, swing: float = 0.6):
    return lambda look: level * (1 + swing * math.sin(look / 40))


ALPHA = 0.05


def most(runs: int) -> float:
    """Largest share of alarms that chance allows where the truth is alpha: without a margin nothing of it is wasted."""
    return ALPHA + 2.6 * math.sqrt(ALPHA * (1 - ALPHA) / runs)


@pytest.mark.parametrize("rate", [2, 20])
@pytest.mark.parametrize("drift", [0.0, 0.6])
@pytest.mark.parametrize("margin", [0.0, 0.005])
def test_false_alarms_stay_below_alpha(rate, drift, margin, record_property) -> None:
    """DEMAND ROL-4: watched at every look over the whole plan, splits changing, base rate swinging by 60 %."""
    rng = np.random.default_rng(20_260_801)
    base = season(0.008, drift)
    share, _ = ever_crossed(rng, 1000, canary(rate, 30.0), base, lambda i: base(i) + margin, alpha=ALPHA, margin=margin)
    record_property("false_alarms", share)
    print(f"\n{rate} req/s, drift {drift}, margin {margin}: false alarms {share:.4f} of 1000 runs")
    assert share <= most(1000)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("rate", [2, 20, 200])
@pytest.mark.parametrize("drift", [0.0, 0.6])
@pytest.mark.parametrize("margin", [0.0, 0.005])
def test_false_alarms_stay_below_alpha_in_ten_thousand_runs(rate, drift, margin) -> None:
    """DEMAND ROL-4, a look every 10 s."""
    rng = np.random.default_rng(7)
    base = season(0.008, drift)
    share, _ = ever_crossed(rng, 10_000, canary(rate), base, lambda i: base(i) + margin, alpha=ALPHA, margin=margin)
    print(f"\n{rate} req/s, drift {drift}, margin {margin}: false alarms {share:.4f} of 10000 runs")
    assert share <= most(10_000)


@pytest.mark.parametrize(("worse", "few"), [(0.016, 1400), (0.05, 120), (0.3, 20), (1.0, 10)])
def test_harm_is_found_in_few_requests(worse, few) -> None:
    """0.8 % against ``worse`` at 20 requests/s from 5 % of the traffic on: always found, median at most ``few``."""
    rng = np.random.default_rng(5)
    share, spent = ever_crossed(rng, 300, canary(20), season(0.008, 0.0), lambda _: worse, alpha=ALPHA)
    print(f"\n0.8 % -> {100 * worse:g} %: found {share:.3f}, median {np.median(spent):.0f} candidate requests")
    assert share >= 0.99
    assert np.median(spent) <= few


def test_one_comparison_and_its_bets_written_out_agree() -> None:
    rng = np.random.default_rng(1)
    test, wealth, seen, hits = TwoSample(), HARM_START.copy(), 0.0, 0.0
    for _ in range(50):
        k_a, k_b = int(rng.binomial(190, 0.02)), int(rng.binomial(10, 0.05))
        belief = (hits + 0.02) / (seen + 2)
        odds = (belief + 0.005) / (1 - belief - 0.005) * ODDS
        fractions = (odds / (1 + odds) - belief - 0.005) / (1 - belief - 0.005)
        wealth = wealth + log_factor(binary(190, k_a), binary(10, k_b), mean_a=belief, shift=0.005, fractions=fractions)
        test = test.update(binary(190, k_a), binary(10, k_b), Boundary(1, 0.005))
        seen, hits = seen + 190, hits + k_a
        keep = min(1.0, 5000 / seen)
        seen, hits = seen * keep, hits * keep
    assert test.log_harm == pytest.approx(float(log_mean(wealth)), abs=1e-3)


@pytest.mark.parametrize(("rate_b", "margin"), [(0.013, 0.005), (0.03, 0.005)])
def test_a_version_at_or_beyond_the_margin_is_rarely_called_safe(rate_b, margin) -> None:
    """Non-inferiority errs at most with beta (ROL-4), at the boundary and beyond."""
    rng = np.random.default_rng(11)
    beta, wrong, runs = 0.2, 0, 200
    for _ in range(runs):
        test = TwoSample()
        for n_a, n_b in canary(10, 120.0):
            k_a, k_b = int(rng.binomial(n_a, 0.008)), int(rng.binomial(n_b, rate_b))
            test = test.update(binary(n_a, k_a), binary(n_b, k_b), Boundary(1, margin))
            if test.log_safe is not None and test.log_safe >= math.log(1 / beta):
                wrong += 1
                break
    assert wrong / runs <= beta


def test_an_equal_version_is_shown_to_be_safe() -> None:
    rng = np.random.default_rng(12)
    safe = 0
    for _ in range(50):
        test = TwoSample()
        for n_a, n_b in canary(20, 120.0):
            test = test.update(
                binary(n_a, int(rng.binomial(n_a, 0.008))),
                binary(n_b, int(rng.binomial(n_b, 0.008))),
                Boundary(1, 0.005),
            )
        safe += (test.log_safe or 0) >= math.log(1 / 0.2)
    assert safe >= 48


def test_a_split_that_changes_while_the_base_rate_drifts_is_no_harm() -> None:
    """Simpson's paradox: the candidate gets most traffic just when everything fails more often."""
    rng = np.random.default_rng(3)
    alarms, excluded, runs = 0, 0, 100
    for _ in range(runs):
        test, crossed, out = TwoSample(), False, False
        for level, n_b in [(0.01, 50)] * 20 + [(0.05, 800)] * 20:
            n_a = 1000 - n_b
            test = test.update(
                binary(n_a, int(rng.binomial(n_a, level))), binary(n_b, int(rng.binomial(n_b, level))), Boundary(1, 0.0)
            )
            crossed |= (test.log_harm or 0) >= math.log(20)
            interval = test.difference(0.05)
            assert interval is not None
            out |= not interval.low <= 0 <= interval.high
        pooled_a, pooled_b = test.champion.mean, test.candidate.mean
        assert pooled_a is not None and pooled_b is not None
        assert pooled_b > 1.5 * pooled_a  # what a naive comparison would call harm
        alarms += crossed
        excluded += out
    assert alarms / runs <= 0.05
    assert excluded / runs <= 0.05


@pytest.mark.parametrize(("rate_a", "rate_b"), [(0.008, 0.008), (0.01, 0.05), (0.3, 0.25)])
def test_the_interval_covers_the_difference_at_every_look(rate_a, rate_b) -> None:
    rng = np.random.default_rng(9)
    missed, runs = 0, 200
    for _ in range(runs):
        test = TwoSample()
        for n_a, n_b in canary(5, 120.0):
            test = test.update(
                binary(n_a, int(rng.binomial(n_a, rate_a))), binary(n_b, int(rng.binomial(n_b, rate_b))), Boundary()
            )
            interval = test.difference(0.05)
            assert interval is not None
            if not interval.low <= rate_b - rate_a <= interval.high:
                missed += 1
                break
    assert missed / runs <= 0.05


@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_losses_within_the_margin_are_rarely_called_harm(factor) -> None:
    """Skewed losses, margin a tenth of the champion's mean, at and inside the boundary; the bound clips 1 in 1000."""
    rng = np.random.default_rng(4)
    points, alarms, runs = loss_points(), 0, 150
    for _ in range(runs):
        test = TwoSample()
        for _ in range(30):
            a = np.minimum(rng.gamma(0.7, 1 / 0.7, 90) / 8, 1)
            b = np.minimum(rng.gamma(0.7, 1 / 0.7, 30) * factor / 8, 1)
            test = test.update(spread(a, points), spread(b, points), Boundary(1.1, 0.0), points=points, prior=0.1)
            if (test.log_harm or 0) >= math.log(20):
                alarms += 1
                break
    assert alarms / runs <= 0.05


def test_losses_half_as_high_again_are_found() -> None:
    rng = np.random.default_rng(4)
    points, found = loss_points(), 0
    for _ in range(50):
        test = TwoSample()
        for _ in range(30):
            a = np.minimum(rng.gamma(0.7, 1 / 0.7, 90) / 8, 1)
            b = np.minimum(rng.gamma(0.7, 1.5 / 0.7, 30) / 8, 1)
            test = test.update(spread(a, points), spread(b, points), Boundary(1.1, 0.0), points=points, prior=0.1)
        found += (test.log_harm or 0) >= math.log(20)
    assert found >= 48


def test_what_cannot_be_computed_is_none_not_zero() -> None:
    test = TwoSample()
    assert (test.log_harm, test.log_safe, test.difference(0.05)) == (None, None, None)
    assert Moments().mean is None
    assert OneSample().log_above is None
    one_sided = test.update(binary(100, 1), binary(0, 0), Boundary())
    assert one_sided == test  # an arm without traffic: nothing learnt, and nothing lost


@pytest.mark.parametrize(
    ("a", "b"), [(binary(10, -1), binary(5, 1)), (binary(10, 1), np.array([np.nan, 1.0])), (binary(3, 5), binary(5, 1))]
)
def test_counts_that_make_no_sense_are_refused(a, b) -> None:
    with pytest.raises(ValueError, match="counts"):
        TwoSample().update(a, b, Boundary())


def test_hits_beyond_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="hits"):
        OneSample().update(3, 4, 0.05)


def test_an_absolute_limit_false_alarms_and_a_crash() -> None:
    """At the limit at most alpha; a version that only fails is out after a handful of requests."""
    rng = np.random.default_rng(8)
    alarms = 0
    for _ in range(300):
        test = OneSample()
        for _ in range(60):
            test = test.update(20, int(rng.binomial(20, 0.05)), 0.05)
            if (test.log_above or 0) >= math.log(20):
                alarms += 1
                break
    assert alarms / 300 <= 0.05
    crash = OneSample().update(4, 4, 0.05)
    assert crash.log_above is not None and crash.log_above >= math.log(1 / 0.0125)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400), st.floats(0, 1), st.floats(0, 1)), max_size=8))
def test_state_survives_json_exactly(blocks) -> None:
    test, one = TwoSample(), OneSample()
    for n_a, n_b, share_a, share_b in blocks:
        test = test.update(binary(n_a, int(n_a * share_a)), binary(n_b, int(n_b * share_b)), Boundary(1.1, 0.01))
        one = one.update(n_b, int(n_b * share_b), 0.1)
    assert TwoSample.from_dict(json.loads(json.dumps(test.to_dict()))) == test
    assert OneSample.from_dict(json.loads(json.dumps(one.to_dict()))) == one
    interval = test.difference(0.05)
    if interval is not None:
        assert -1 <= interval.low <= interval.estimate <= interval.high <= 1


def test_the_radius_is_a_confidence_bound_by_hand() -> None:
    """min over the grid of (log(2K/alpha) + psi V)/lam: at V = 0 only the largest lam matters."""
    assert float(bernstein.radius(0.0, 0.05)) == pytest.approx(math.log(2 * 16 / 0.05) / 0.9)
    wide = bernstein.radius(np.array([10.0, 1000.0, 100_000.0]), 0.05)
    assert (np.diff(wide) > 0).all()
    # never narrower than a single normal interval looked at once, and not hopelessly wider
    assert (wide >= 1.96 * np.sqrt([10, 1000, 100_000])).all()
    assert (wide[1:] <= 3 * 1.96 * np.sqrt([1000, 100_000])).all()


def test_points_default_is_yes_or_no() -> None:
    assert BINARY.tolist() == [0.0, 1.0]
