"""Users who stay with one version, first releases, and hours in a rehearsal. DEMAND ROL-9, ROL-10."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from windtunnel.rehearsal import scenarios, users
from windtunnel.rehearsal.arrivals import BLOCK, Arrivals, Places, cuts
from windtunnel.rehearsal.flight import Flight
from windtunnel.rehearsal.peers import PROMOTED, ROLLED_BACK
from windtunnel.rehearsal.runs import OURS, Ends, jobs, run_chunk
from windtunnel.rehearsal.scenarios import Harm, Scenario
from windtunnel.rollout.plan import Plan
from windtunnel.spec import Limits, Rollout

PLAN = Plan.from_spec(Rollout(look_every="30s", lease="90s"), False)
HALF = np.array([0.5, 0.5])
ONE = np.ones(1)


def fly(plan: Plan, scenario: Scenario, runs: int = 40, rate: float = 20.0) -> Ends:
    (job,) = jobs(plan, {"scenario": scenarios.world(plan, scenario, rate)}, runs, 1)
    return run_chunk(job)[OURS]


def requests(scenario: Scenario, runs: int = 200, blocks: int = 1) -> tuple[Any, Any]:
    """Candidate's requests and errors at 50 %, each of shape (blocks, runs)."""
    arrivals = Arrivals(scenarios.world(PLAN, scenario, 20), runs, cuts(PLAN), np.random.SeedSequence(1), 0)
    n, bad = [], []
    for _ in range(blocks):
        block = arrivals.block()
        looks = [block.counts(i, np.arange(runs), np.full(runs, 2), Places.of(PLAN)) for i in range(BLOCK)]
        n.append(sum(look.n_b[:, 0] for look in looks))
        bad.append(sum(look.bad_b[0, :, 0] for look in looks))
    return np.array(n), np.array(bad)


# --- the crowd
@pytest.mark.parametrize(("differ", "mean"), [(0.0, 0.01), (1.0, 0.01), (3.0, 0.05), (100.0, 0.05)])
def test_a_crowd_is_right_on_average_and_as_different_as_asked(differ: float, mean: float) -> None:
    rng = np.random.default_rng(1)
    own = users._propensity(rng, 200_000, mean, differ) * mean
    most = ((1 - mean) / mean) ** 0.5  # each always or never
    assert own.mean() == pytest.approx(mean, rel=0.05) and own.min() >= 0 and own.max() <= 1
    assert own.std() / own.mean() == pytest.approx(min(differ, most), rel=0.05, abs=1e-9)


def test_few_users_are_unevenly_split_and_many_as_by_lot() -> None:
    rng = np.random.default_rng(1)
    few, many = (users.gather(rng, 300, HALF, ONE, count, 1.0, 0.01) for count in (20, 20_000))
    assert few.traffic.mean() == pytest.approx(1, rel=0.03) and many.traffic.mean() == pytest.approx(1, rel=0.01)
    # Of n users with exponential traffic a place gets a compound of binomial number: variance 3 / n of its half.
    assert few.traffic[0].std() == pytest.approx((3 / 20) ** 0.5, rel=0.2)
    assert many.errors.std() < 0.05 < 0.2 < few.errors.std()
    assert (users.gather(rng, 5, HALF, ONE, 50, 0.0, 0.01).errors == 1).all()


def test_a_place_without_a_user_has_no_requests() -> None:
    crowd = users.gather(np.random.default_rng(1), 50, np.array([0.01, 0.99]), ONE, 2, 1.0, 0.01)
    assert (crowd.traffic[0] == 0).any() and np.isfinite(crowd.errors).all()


def test_the_same_users_come_again_until_others_have_taken_their_places() -> None:
    """Two blocks of half an hour: who stays brings the same traffic to the same version again."""
    (stay, _), (leave, _) = (requests(Scenario(users=50, users_stay=minutes), blocks=2) for minutes in (None, "10m"))
    assert np.corrcoef(stay)[0, 1] > 0.95
    assert abs(np.corrcoef(leave)[0, 1]) < 0.25


def test_errors_of_a_few_users_vary_more_than_chance() -> None:
    """By the design effect (Kish 1965): 1 + (requests of the user behind a request) x (their correlation)."""
    spread = {}
    for count in (None, 100):
        n, bad = requests(Scenario(errors=0.02, users=count), runs=400)
        spread[count] = float((bad[0] / n[0]).var() * n[0].mean() / (0.02 * 0.98))
    wanted = 1 + 2 * (20 * 30 * BLOCK / 100) * users.intraclass(0.02, 1.0)
    assert spread[None] == pytest.approx(1, rel=0.3)
    assert spread[100] == pytest.approx(wanted, rel=0.3)


def test_requests_by_lot_are_drawn_as_ever() -> None:
    """Users have a chance of their own: without them every seed means what it meant."""
    n, _ = requests(Scenario())
    assert (n == requests(Scenario(users_differ=3.0))[0]).all()


def test_alpha_is_not_kept_where_few_users_stay_and_a_margin_helps() -> None:
    """What docs/explanation/statistics.md says; ``python -m bench users`` has it in full."""
    crowd = Scenario(users=100, users_differ=2.0)
    wide = Plan.from_spec(
        Rollout(
            look_every="30s", lease="90s", gates=[{"metric": "errors", "margin": 0.02, "within": 0.02}]
        ), False,
    )  # fmt: skip
    back = {name: int((fly(p, crowd, 100).how == ROLLED_BACK).sum()) for name, p in (("any", PLAN), ("wide", wide))}
    assert back["any"] > 15 and back["wide"] <= 5
    assert int((fly(PLAN, Scenario(), 100).how == ROLLED_BACK).sum()) <= 5


# --- hours
def test_a_release_waits_for_the_hours_of_its_plan() -> None:
    """From Thursday 15:00 the step of 50 % is over too late; on Friday at 9 the last begins. A look every ten minutes,
    and a step begins with the look after the last one's end: 160 minutes where nothing waits."""
    hours = [{"days": ["thu", "fri"], "start": "09:00", "end": "16:00", "timezone": "Europe/Berlin"}]
    plan = replace(Plan.from_spec(Rollout(look_every="30s", lease="90s", hours=hours), False), look_every_s=600.0)
    wanted = {"thu 15:00": 18 * 60 + 40, "thu 09:00": 160, "sat 09:00": 5 * 24 * 60 + 150}
    for start, minutes in wanted.items():
        ends = fly(plan, Scenario(start=start), 10)
        assert (ends.how == PROMOTED).any()
        assert ends.minutes[ends.how == PROMOTED].min() == minutes, start
    assert fly(plan, Scenario(), 10).minutes.max() == 160  # without a start there is no calendar


def test_the_day_of_the_traffic_is_the_clocks() -> None:
    world = scenarios.world(PLAN, Scenario(start="mon 06:00", day_traffic=0.5), 20)
    arrivals = Arrivals(world, 5, cuts(PLAN), np.random.SeedSequence(1), 0)
    assert (arrivals._phase == 6 * 3600).all()


# --- first releases
FIRST = Plan.from_spec(Rollout(limits=Limits(error_rate=0.05, p95_ms=40.0)), True)


@pytest.mark.parametrize(
    ("harm", "how"), [(Harm(), PROMOTED), (Harm(errors=10.0), ROLLED_BACK), (Harm(latency=3.0), ROLLED_BACK)]
)
def test_a_first_release_is_withdrawn_on_a_breach_of_its_limits(harm: Harm, how: int) -> None:
    """DEMAND ROL-10."""
    ends = fly(FIRST, Scenario(harm=harm), 30)
    assert (ends.how == how).mean() > 0.9
    if how == PROMOTED:
        assert (ends.minutes[ends.how == PROMOTED] == 5).all()


@pytest.mark.parametrize(
    ("plan", "scenario", "says"),
    [
        (FIRST, Scenario(harm=Harm(errors=2.0)), "the limit allows 5.00%: nothing stops it"),
        (FIRST, Scenario(errors=0.06), "6.00% of a good version's requests fail too"),
        (FIRST, Scenario(harm=Harm(loss=2.0)), "no champion to compare"),
        (FIRST, Scenario(latency_ms=40.0), "take longer than 40 ms too"),
        (PLAN, Scenario(errors=0.06), "6.00% of a good version's requests fail too"),
        (FIRST, Scenario(), None),
        (PLAN, Scenario(), None),
    ],
)
def test_what_the_limits_cannot_tell_is_said(plan: Plan, scenario: Scenario, says: str | None) -> None:
    doubts = Flight(plan, scenario, None, None, 10, 1, (), None).doubts()
    assert doubts == [] if says is None else says in doubts[0]


def test_that_users_stay_is_asked_for() -> None:
    flight = Flight(PLAN, Scenario(), None, None, 10, 1, (), None, sticky=True)
    assert "--users" in flight.doubts()[0]
    assert replace(flight, scenario=Scenario(users=1000)).doubts() == []
