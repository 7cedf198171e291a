"""Seeded samples of the studies in bench/: each test at its boundary, and whole rollouts (ROL-4, ROL-5)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench import best, detection, gates, plans, truth
from bench.shares import wilson
from windtunnel.rehearsal.peers import PROMOTED, ROLLED_BACK


def below(hits: int, n: int, bound: float) -> bool:
    """Not beyond ``bound`` by more than chance allows."""
    return wilson(hits, n, 2.6)[0] <= bound


@pytest.mark.parametrize("test", list(gates.TESTS))
@pytest.mark.parametrize(("rate", "drifts"), [(2, True), (20, True), (20, False)])
def test_each_test_keeps_its_error_at_the_boundary(test, rate, drifts) -> None:
    """DEMAND ROL-4: watched over the whole default canary; both directions."""
    _, n, harm, safe = gates.chunk(gates.Study(test, rate, drifts), 0, 150)
    print(f"\n{test}: {harm} harmful, {safe} safe of {n}")
    assert below(harm, n, gates.ALPHA)
    if test not in gates.ONE_WAY:
        assert below(safe, n, gates.BETA)


def test_a_test_that_cheats_is_found_out() -> None:
    """The study can fail: with the bar of a coin flip each test errs too often."""
    study = gates.Study("errors 0.8 %, margin 0", 20, False)
    loose = gates.rates(0.008, 0.0)
    before = gates.ALPHA
    try:
        gates.ALPHA = 0.5
        harm, _ = loose(study, np.random.default_rng(1), 200)
    finally:
        gates.ALPHA = before
    assert not below(harm, 200, before)


@pytest.mark.parametrize("rate", [2, 20])
def test_whole_rollouts_keep_alpha_and_beta(rate) -> None:
    """DEMAND ROL-4: an equal candidate is rarely called harmful; one at the margin is rarely promoted."""
    cases = [plans.Case(who, rate, True) for who in ("equal", "errors beyond the margin (+0.5 points)")]
    equal, worse = plans.fly(cases, 100, 1).values()
    assert below(int((equal.how == ROLLED_BACK).sum()), 100, 0.05)
    assert below(int((worse.how == PROMOTED).sum()), 100, 0.2)


@pytest.mark.parametrize("effect", list(detection.EFFECTS))
def test_harm_is_found_no_later_than_by_a_gate_tuned_for_it(effect) -> None:
    """DEMAND ROL-5: at 5:95 and 25:75, against the gate that keeps 5 % over the whole rollout."""
    i = list(detection.EFFECTS).index(effect)
    p0, p1 = detection.EFFECTS[effect]
    gate = detection.tuned(p0, p1, horizon=detection.ROLLOUT)
    assert gate.false <= detection.ALPHA and gate.power >= detection.POWER
    for split in ("5:95", "25:75"):
        spent = detection.ours(np.random.default_rng(4), 200, p0, p1, detection.LOOKS[split][i])
        assert np.isfinite(spent).mean() >= detection.POWER
        assert np.median(spent) <= gate.median


def test_a_gate_that_checks_once_by_hand() -> None:
    """1,131 requests, rolled back at 15 failures: P(X >= 15 | 0.8 %) <= 5 %, P(X >= 15 | 1.6 %) >= 80 %."""
    gate = detection.tuned(0.008, 0.016, horizon=None, checks=1)
    assert (gate.limit, gate.checks, gate.fails) == (1, 1, 15)
    assert 1131 <= gate.window == gate.median <= 1200
    assert detection.fixed(0.008, 0.016, 0.5) == 2288


def test_the_truth_table_is_what_is_known() -> None:
    """Fixed tests looked at once, twenty times and always, mSPRT, O'Brien & Fleming: on 1,000 paths."""
    rng = np.random.default_rng(8)
    n = truth.N
    once = truth.at_looks({n: 1.645})
    twenty = truth.at_looks({n * (i + 1) // 20: 1.96 for i in range(20)}, two_sided=True)
    always = truth.at_looks(dict.fromkeys(range(1, n + 1), 1.96), two_sided=True)
    expected = {once: (0.05, 0.02), twenty: (0.25, 0.04), always: (0.53, 0.05)}
    for rule, (share, room) in expected.items():
        false, _, _ = truth.measured(rule, 0.05, rng, 1000)
        assert false / 1000 == pytest.approx(share, abs=room)
    false, found, median = truth.measured(truth.msprt(1.2 * truth.needed(0.05) / math.sqrt(n)), 0.05, rng, 1000)
    assert (
        false / 1000 <= 0.04
        and found / 1000 == pytest.approx(0.53, abs=0.05)
        and median == pytest.approx(0.28, abs=0.03)
    )


def test_ours_keeps_alpha_over_ten_metrics_however_one_stops() -> None:
    plan = truth.seq.design([(i + 1) / truth.N for i in range(truth.N)], 0.005, truth.OURS)
    hits = truth.cheated(truth.every(plan), np.random.default_rng(9), 1000, 0.0)
    assert below(hits, 1000, 0.05)
    assert plan.crossing(truth.needed(0.005))[-1] >= 0.78
    assert best.speed(plan, 2 * truth.needed(0.005))[0] <= 0.28


def test_no_test_is_beyond_the_frontier() -> None:
    """Ours is within a point of the best power at the same speed, and never above it."""
    theta = truth.needed(0.05)
    ours = truth.seq.design([(i + 1) / 100 for i in range(100)], 0.05, truth.OURS)
    median, _ = best.speed(ours, 2 * theta)
    points = sorted((p.median, p.power) for p in best.frontier(theta, 0.05, (0.1, 0.2, 0.3)))
    reachable = float(np.interp(median, [m for m, _ in points], [p for _, p in points]))
    power = float(ours.crossing(theta)[-1])
    assert reachable - 0.01 <= power <= reachable + 0.002


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["truth", "detection", "gates", "plans"])
def test_the_full_studies_meet_their_demands(name) -> None:
    """DEMAND ROL-4 and ROL-5: 10,000 runs (20,000 paths) each."""
    import importlib

    table = importlib.import_module(f"bench.{name}").run()
    print(table.markdown())
    assert table.met
