"""Other tools' rules on small cases: the examples of their documents. DEMAND ROL-9."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from windtunnel.rehearsal import peers
from windtunnel.rehearsal.peers import PROMOTED, ROLLED_BACK, RUNNING, UNDECIDED, Interval


def minute(bad: Any, n: Any = 1000.0, *, bad_a: Any = 0.0, n_a: Any = 1000.0, known: Any = True) -> Interval:
    """One metric; a value per run, or one for a single run."""
    b, size_b, a, size_a = (np.atleast_1d(np.asarray(x, dtype=np.float64)) for x in (bad, n, bad_a, n_a))
    size = max(len(x) for x in (b, size_b, a, size_a))
    b, size_b, a, size_a = (np.broadcast_to(x, size) for x in (b, size_b, a, size_a))
    return Interval(size_a, size_b, a[None], b[None], b[None], np.broadcast_to(np.asarray(known), size))


def run(peer: Any, minutes: list[Interval]) -> tuple[int, int]:
    for interval in minutes:
        peer.watch(interval)
    return int(peer.ended[0]), int(peer.ended_at[0])


# --- Argo: interval 5m, successCondition result >= 0.95, failureLimit 3; weights 20, 40, 60, 80 for 10 minutes each
def argo(**settings: Any) -> peers.Argo:
    return peers.Argo(1, (10, 10, 10, 10), np.array([0.05]), **settings)


def test_argo_passes_when_the_steps_are_over() -> None:
    peer = argo()
    assert run(peer, [minute(50)] * 39) == (RUNNING, 39)  # 95 % exactly is a success
    assert run(peer, [minute(50)]) == (PROMOTED, 40)


def test_argo_fails_with_more_failures_than_the_limit_wherever_they_are() -> None:
    good, bad = [minute(0)] * 5, [minute(60)] * 5
    assert run(argo(), bad + good + bad + good + bad + good * 3) == (PROMOTED, 40)  # three failures are allowed
    assert run(argo(), bad + good + bad + good + bad + good + bad) == (ROLLED_BACK, 35)
    assert run(argo(failure_limit=0), good + bad) == (ROLLED_BACK, 10)


def test_argo_measures_the_whole_interval_at_its_end() -> None:
    assert run(argo(failure_limit=0), [minute(200)] + [minute(0)] * 4) == (RUNNING, 5)  # 4 % over five minutes
    assert run(argo(failure_limit=0), [minute(1000)] * 4) == (RUNNING, 4)


def test_argo_between_two_conditions_is_inconclusive_and_pauses() -> None:
    """The document's example: success from 0.90 on, failure below 0.50."""
    between = {"failed_from": np.array([0.5])}
    assert run(peers.Argo(1, (10,), np.array([0.1]), **between), [minute(300)] * 5)[0] == UNDECIDED
    assert run(peers.Argo(1, (10,), np.array([0.1]), inconclusive_limit=1, **between), [minute(300)] * 5)[0] == RUNNING
    assert run(peers.Argo(1, (10,), np.array([0.1]), failure_limit=0, **between), [minute(600)] * 5)[0] == ROLLED_BACK


def test_argo_errs_after_more_than_four_errors_in_a_row() -> None:
    down, up = [minute(0, known=False)] * 5, [minute(0)] * 5
    assert run(argo(), down * 4 + up + down * 3) == (PROMOTED, 40)
    assert run(argo(), down * 5) == (UNDECIDED, 25)


def test_argo_no_requests_are_no_success() -> None:
    assert run(argo(failure_limit=0), [minute(0, 0)] * 5)[0] == ROLLED_BACK


def test_argo_count_reached_is_success_though_a_later_measurement_would_fail() -> None:
    peer = peers.Argo(1, (40,), np.array([0.05]), interval=1, count=5, failure_limit=0)
    assert run(peer, [minute(0)] * 5 + [minute(900)] * 35) == (PROMOTED, 40)


# --- Flagger: interval 1m, threshold 10, maxWeight 50, stepWeight 5, success rate of at least 99 %
def flagger(threshold: int = 10) -> peers.Flagger:
    return peers.Flagger(1, (1,) * 10, np.array([0.01]), threshold=threshold)


def test_flagger_promotes_after_max_weight_over_step_weight_checks() -> None:
    peer = flagger()
    assert run(peer, [minute(10)] * 9) == (RUNNING, 9)
    assert run(peer, [minute(10)]) == (PROMOTED, 10)


def test_flagger_rolls_back_after_interval_times_threshold() -> None:
    assert run(flagger(), [minute(11)] * 10) == (ROLLED_BACK, 10)
    assert run(flagger(5), [minute(11)] * 5) == (ROLLED_BACK, 5)


def test_flagger_keeps_its_weight_at_a_failed_check_and_never_forgets_one() -> None:
    peer = flagger(3)
    run(peer, [minute(0), minute(0), minute(50)])
    assert (int(peer.step[0]), int(peer.failed[0])) == (2, 1)
    run(peer, [minute(0)] * 5)
    assert int(peer.failed[0]) == 1
    assert run(peer, [minute(50), minute(50)])[0] == ROLLED_BACK


@pytest.mark.parametrize("interval", [minute(0, 0), minute(0, known=False)], ids=["no values", "query failed"])
def test_flagger_fails_a_check_without_values(interval: Interval) -> None:
    assert run(flagger(2), [interval] * 2) == (ROLLED_BACK, 2)


# --- Kayenta: 30 values on each side, as its own tests have them
def test_the_classifier_tells_high_from_low_and_equal() -> None:
    rng = np.random.default_rng(1)
    control = rng.normal(10, 2, (3, 30))
    experiment = np.stack([rng.normal(10, 2, 30), rng.normal(20, 2, 30), rng.normal(5, 2, 30)])
    high, judged = peers.classify(control, experiment, 0.98, 0.25)
    assert high.tolist() == [False, True, False] and judged.all()


def test_the_classifier_has_the_interval_of_the_rank_sum_test() -> None:
    """Of two samples of 30 at a time, shifted by nothing: 1 % above, as 98 % confidence promises; 250 values agree."""
    rng = np.random.default_rng(2)
    high, _ = peers.classify(rng.normal(0, 1, (4000, 30)), rng.normal(0, 1, (4000, 30)), 0.98, 0.0)
    assert 0.006 < high.mean() < 0.014


def test_the_classifier_agrees_with_scipy() -> None:
    """High without tolerance is the test's own verdict: one-sided p below 1 %."""
    from scipy.stats import mannwhitneyu

    rng = np.random.default_rng(3)
    control, experiment = rng.normal(0, 1, (200, 40)), rng.normal(0.5, 1, (200, 25))
    high, _ = peers.classify(control, experiment, 0.98, 0.0)
    p = [
        mannwhitneyu(b, a, alternative="greater", method="asymptotic", use_continuity=False).pvalue
        for a, b in zip(control, experiment, strict=True)
    ]
    assert (high == (np.asarray(p) < 0.01)).mean() > 0.98


def test_the_classifier_leaves_gaps_out() -> None:
    control, experiment = np.full((2, 40), np.nan), np.full((2, 40), np.nan)
    control[0, :20], experiment[0, :20] = np.arange(20), np.arange(20) + 100
    high, judged = peers.classify(control, experiment, 0.98, 0.25)
    assert high.tolist() == [True, False] and judged.tolist() == [True, False]


def kayenta(**settings: Any) -> peers.Kayenta:
    return peers.Kayenta(1, (60,), 1, **settings)


def test_kayenta_judges_at_each_interval_and_at_the_end() -> None:
    rng = np.random.default_rng(4)
    same = [minute(rng.binomial(1000, 0.05), bad_a=rng.binomial(1000, 0.05)) for _ in range(60)]
    bad = [minute(rng.binomial(1000, 0.2), bad_a=rng.binomial(1000, 0.05)) for _ in range(60)]
    assert run(kayenta(), same) == (PROMOTED, 60)
    assert run(kayenta(), bad) == (ROLLED_BACK, 30)
    assert run(kayenta(interval=60), bad) == (ROLLED_BACK, 60)


def test_kayenta_looking_back_sees_only_the_last_interval() -> None:
    rng = np.random.default_rng(5)
    early = [minute(rng.binomial(1000, 0.08), bad_a=rng.binomial(1000, 0.05)) for _ in range(20)]
    late = [minute(rng.binomial(1000, 0.05), bad_a=rng.binomial(1000, 0.05)) for _ in range(40)]
    assert run(kayenta(interval=20), early + late) == (ROLLED_BACK, 20)
    assert run(kayenta(interval=20, marginal=0.0), early + late) == (ROLLED_BACK, 60)
    assert run(kayenta(interval=20, lookback=20, marginal=0.0), early + late)[0] == PROMOTED


def test_kayenta_without_data_scores_nothing() -> None:
    assert run(kayenta(), [minute(0, 0)] * 30) == (ROLLED_BACK, 30)


# --- the z-test
def test_z_of_a_textbook_case() -> None:
    """Pooled two-proportion z of 60/1000 against 40/1000: 2.05."""
    z = peers.z_score(np.array([1000.0]), np.array([1000.0]), np.array([[40.0]]), np.array([[60.0]]))
    assert z[0, 0] == pytest.approx(2.0520, abs=1e-4)


def test_fixed_looks_once_and_peeking_always() -> None:
    harmful, harmless = [minute(100, bad_a=10)], [minute(0, bad_a=10)] * 59
    assert run(peers.ZTest(1, (60,), 1, peeking=True), harmful + harmless) == (ROLLED_BACK, 1)
    assert run(peers.ZTest(1, (60,), 1), harmful + harmless) == (PROMOTED, 60)
    assert run(peers.ZTest(1, (60,), 1), harmful * 60) == (ROLLED_BACK, 60)
    assert run(peers.ZTest(1, (60,), 1), [minute(0, 0)] * 60) == (UNDECIDED, 60)


def test_peeking_at_a_z_test_errs_far_more_often_than_it_says() -> None:
    """The fault this project exists for; the issue measured 41 % for its plan."""
    rng = np.random.default_rng(6)
    n = 2000
    once, often = peers.ZTest(n, (130,), 1), peers.ZTest(n, (130,), 1, peeking=True)
    for _ in range(130):
        a, b = rng.binomial(600, 0.008, n), rng.binomial(600, 0.008, n)
        interval = minute(b, np.full(n, 600.0), bad_a=a, n_a=np.full(n, 600.0))
        once.watch(interval)
        often.watch(interval)
    assert 0.03 < (once.ended == ROLLED_BACK).mean() < 0.07
    assert 0.25 < (often.ended == ROLLED_BACK).mean() < 0.50


def test_runs_do_not_touch_each_other() -> None:
    rng = np.random.default_rng(7)
    bad = rng.binomial(200, 0.012, (60, 50)).astype(float)
    setting = peers.Setting((20, 40), (0.01,), 0.05)
    for make in peers.PEERS.values():
        together = make(50, setting)
        alone = [make(1, setting) for _ in range(3)]
        for row in bad:
            together.watch(minute(row, np.full(50, 200.0), bad_a=np.full(50, 2.0)))
            for i, peer in enumerate(alone):
                peer.watch(minute(row[i], 200.0, bad_a=2.0))
        for i, peer in enumerate(alone):
            assert (peer.ended[0], peer.ended_at[0]) == (together.ended[i], together.ended_at[i])
