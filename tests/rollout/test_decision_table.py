"""Every row of the decision table has a name and a test (DEMAND ROL-3). The table is in docs/explanation/gates.md."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from windtunnel.evidence import Outcome
from windtunnel.rollout import Counters, Order, QualityNumbers, RolloutState, decide
from windtunnel.rollout.evidence import ArmCounters
from windtunnel.rollout.numbers import prediction_numbers, quality_numbers
from windtunnel.rollout.table import ROWS
from windtunnel.spec.rollout import Audience, Gate, Hours, Limits, Segments, Step

from .conftest import histogram, seconds

GATES = Path(__file__).parents[2] / "docs" / "explanation" / "gates.md"


def run_to_end_of_step(w) -> None:
    """Looks until one before the step's end; all is well."""
    w.look()
    for _ in range(5):
        assert w.tick().row == "watching"


# -- passing -----------------------------------------------------------------------------------------------------


def test_row_watching_holds_until_the_time_is_over(world) -> None:
    w = world()
    first = w.look()
    assert (first.action, first.outcome, first.row) == ("hold", Outcome.INCONCLUSIVE, "watching")
    assert "step 1 of 2 at 10 %" in first.reason


def test_row_pass_advances_and_the_last_promotes(world) -> None:
    w = world()
    run_to_end_of_step(w)
    done = w.tick()
    assert (done.action, done.outcome, done.row) == ("advance", Outcome.PASS, "pass")
    assert done.state.step == 1 and done.state.entered_at is None
    run_to_end_of_step(w)
    last = w.tick()
    assert (last.action, last.outcome, last.row) == ("promote", Outcome.PASS, "pass-last")
    assert last.ends
    assert "errors: candidate" in last.reason


def test_a_decision_that_ended_it_is_repeated_whatever_comes_later(world) -> None:
    w = world()
    w.look()
    w.serve("2", 50, 50)
    end = w.tick()
    assert end.action == "roll_back"
    again = w.tick(500, traffic=None, traffic_error="gone")
    assert (again.action, again.outcome, again.row, again.reason) == (end.action, end.outcome, end.row, end.reason)


# -- harm --------------------------------------------------------------------------------------------------------


def test_row_harm_errors(world) -> None:
    w = world()
    w.look()
    w.serve("2", 40, 16)
    found = w.tick()
    assert (found.action, found.outcome, found.row) == ("roll_back", Outcome.FAIL, "harm")
    assert "errors: candidate" in found.reason and "bar 60" in found.reason
    assert found.numbers["gates"]["errors"]["harm"] is True


def test_row_harm_latency(world) -> None:
    w = world()
    w.look()
    w.serve("2", 40, 0, 30)
    found = w.tick()
    assert (found.action, found.row) == ("roll_back", "harm")
    assert "slower than" in found.reason
    assert found.numbers["gates"]["latency_p95"]["threshold_ms"] == pytest.approx(8.25404)


def test_row_harm_quality(world, rng) -> None:
    w = world(gates=[Gate(metric="quality", margin=0.1, loss="absolute")])
    w.look()
    numbers = quality_numbers(rng.gamma(0.7, 1, 900), rng.gamma(0.7, 3, 100))
    found = w.tick(quality=numbers)
    assert (found.action, found.outcome, found.row) == ("roll_back", Outcome.FAIL, "harm")
    assert "mean absolute loss" in found.reason


def test_row_harm_prediction(world, rng) -> None:
    w = world(gates=[Gate(metric="prediction", margin=0.1)])
    w.look()
    numbers = prediction_numbers(rng.gamma(2, 1, 900), rng.gamma(2, 3, 100))
    found = w.tick(prediction=numbers)
    assert (found.action, found.outcome, found.row) == ("roll_back", Outcome.FAIL, "harm")
    assert "prediction: distance" in found.reason


def test_row_limit(world) -> None:
    """A wide margin: no comparison shows harm; the absolute limit does."""
    w = world(gates=[Gate(metric="errors", margin=0.2)])
    w.look()
    found = None
    for _ in range(40):
        w.serve("1", 100, 4)
        w.serve("2", 100, 20)
        found = w.tick(1.0)
        if found.ends:
            break
    assert found is not None
    assert (found.action, found.outcome, found.row) == ("roll_back", Outcome.FAIL, "limit")
    assert "limit 5 %" in found.reason


def test_row_limit_of_latency(world) -> None:
    w = world(gates=[], limits=Limits(error_rate=None, p95_ms=50))
    w.look()
    w.serve("2", 40, 0, 30)
    found = w.tick()
    assert (found.action, found.outcome, found.row) == ("roll_back", Outcome.FAIL, "limit")
    assert "slower than 50 ms" in found.reason


AUDIENCE = Audience(header="x-tester", value="yes")


def test_row_limit_of_testers_alone(world) -> None:
    """DEMAND ROL-10, ROL-14: a candidate that fails every tester is out, however well everybody else's requests go."""
    w = world(audience=AUDIENCE)
    w.look(testers=ArmCounters(3, 3))  # from before this rollout's first look
    asked, found = 3, w.tick(testers=ArmCounters(3, 3))
    assert found.row == "watching"
    while not found.ends and asked < 40:
        asked += 1
        found = w.tick(1.0, testers=ArmCounters(asked, asked, 0, histogram(asked, 0)))
    assert (found.action, found.outcome, found.row) == ("roll_back", Outcome.FAIL, "limit")
    assert "testers' requests" in found.reason and found.numbers["limits"]["limit_error_rate@testers"]["n"] < 10
    whole = found.numbers["limits"]["limit_error_rate"]
    assert whole["n"] == 20 * len(w.looks[1:]) and not whole["harm"], "theirs are not everybody's"
    assert found.numbers["step"]["requests"] == whole["n"], "nor are they the step's"


def test_testers_never_count_in_a_comparison(world) -> None:
    """The same release with and without testers: the same gates, decision for decision."""
    alone, tested = world(audience=AUDIENCE), world(audience=AUDIENCE)
    for n in range(1, 8):
        one, other = alone.tick(), tested.tick(testers=ArmCounters(50 * n, n, 0, histogram(50 * n, 0)))
        assert one.numbers["gates"] == other.numbers["gates"]
        assert (one.row, one.action) == (other.row, other.action)


def test_slow_answers_to_testers_are_a_breach(world) -> None:
    w = world(gates=[], limits=Limits(error_rate=None, p95_ms=50), audience=AUDIENCE)
    w.look()
    found = w.tick(testers=ArmCounters(30, 0, 0, histogram(0, 30)))
    assert (found.action, found.row) == ("roll_back", "limit")
    assert "slower than 50 ms" in found.reason and "testers'" in found.reason


def test_nobody_has_to_test(world) -> None:
    """No tester came, or their counters are not there: the release passes on everybody's requests."""
    w = world(audience=AUDIENCE)
    run_to_end_of_step(w)
    assert w.tick().row == "pass"


def test_testers_in_an_outage_are_no_evidence(world) -> None:
    """ROL-3: the champion fails as well, and no user reaches the candidate: nothing is learnt about it."""
    w = world(audience=AUDIENCE)
    w.look()
    w.now += 10
    w.serve("1", 100, 100)
    found = w.look(testers=ArmCounters(30, 30, 0, histogram(30, 0)))
    assert (found.action, found.outcome, found.row) == ("hold", Outcome.INCONCLUSIVE, "both-failing")


def test_testers_counters_that_start_again_are_not_counted_twice(world) -> None:
    w = world(audience=AUDIENCE)
    w.look(testers=ArmCounters(100, 0))
    w.tick(testers=ArmCounters(110, 0, 0))
    w.epoch, w.totals = "b", {}
    assert w.tick(testers=ArmCounters(40, 2)).row == "counter-reset"
    found = w.tick(testers=ArmCounters(45, 2))
    assert found.numbers["limits"]["limit_error_rate@testers"]["n"] == 15


def test_a_crashed_candidate_is_out_after_a_dozen_requests(world) -> None:
    """100 % errors: no threshold of a minimum sample in the way."""
    w = world()
    w.look()
    total = 0
    while total < 20:
        total += 1
        w.now += 1
        w.serve("1", 10)
        w.serve("2", 1, 1)
        found = w.look()
        if found.ends:
            break
    assert found.row in ("harm", "limit") and total <= 12


def test_harm_beats_every_trouble(world) -> None:
    """No trouble may keep a harmful version in traffic."""
    w = world()
    w.look()
    w.serve("2", 40, 30)
    found = w.tick(observed_weight=None, ready=False, digest_ok=False)
    assert (found.outcome, found.row) == (Outcome.FAIL, "harm")


# -- trouble: never a pass -----------------------------------------------------------------------------------------

NAN_TRAFFIC = Counters("a", 1_000_070.0, {"1": ArmCounters(6000, 40), "2": ArmCounters(math.nan, 0)})  # type: ignore[arg-type]
TROUBLES = [
    ("source-down", {"traffic": None, "traffic_error": "connection refused"}),
    ("source-down", {"traffic": None}),
    ("nan", {"traffic": NAN_TRAFFIC}),
    ("nan", {"traffic": Counters("a", math.nan, {})}),
    ("nan", {"traffic": Counters("a", 1_000_060.0, {"1": ArmCounters(6000, 40), "2": ArmCounters(10, 11)})}),
    ("weights-differ", {"observed_weight": 0}),
    ("weights-differ", {"observed_weight": None}),
    ("not-ready", {"ready": False}),
    ("not-ready", {"ready": None}),
    ("version-changed", {"digest_ok": False}),
    ("version-changed", {"digest_ok": None}),
]


@pytest.mark.parametrize(("row", "changes"), TROUBLES, ids=[f"{r}-{i}" for i, (r, _) in enumerate(TROUBLES)])
@pytest.mark.parametrize("policy", ["hold", "extend", "roll_back"])
def test_trouble_at_the_moment_of_passing_never_passes(world, row, changes, policy) -> None:
    """DEMAND ROL-3: the step would pass at this look but for the trouble."""
    w = world(on_inconclusive=policy)
    run_to_end_of_step(w)
    found = w.tick(**changes)
    assert (found.outcome, found.row) == (Outcome.INCONCLUSIVE, row)
    assert found.action == ("roll_back" if policy == "roll_back" else "hold")
    if policy == "hold":
        assert w.tick().action == "advance"  # the trouble is over, nothing was lost


@pytest.mark.parametrize(("row", "changes"), TROUBLES[:2] + TROUBLES[5:], ids=lambda v: str(v)[:20])
@pytest.mark.parametrize("policy", ["hold", "extend"])
def test_trouble_that_stays_ends_in_rollback_after_patience(world, row, changes, policy) -> None:
    """Default patience: one step's length."""
    w = world(on_inconclusive=policy)
    run_to_end_of_step(w)
    started = w.now + 10
    for _ in range(6):
        assert w.tick(**changes).action == "hold"
    end = w.tick(**changes)
    assert (end.action, end.outcome, end.row) == ("roll_back", Outcome.INCONCLUSIVE, row)
    assert w.now - started == 60
    assert "patience is 60 s" in end.reason


@pytest.mark.parametrize(("row", "off"), [("stale", -60.0), ("clock-skew", 400.0)])
def test_numbers_from_another_time_pass_nothing_but_show_harm(world, row, off) -> None:
    w = world()
    run_to_end_of_step(w)
    w.now += 10
    w.serve("1", 100)
    w.serve("2", 20)
    late = w.look(traffic=replace(w.traffic(), at=w.now + off))
    assert (late.action, late.outcome, late.row) == ("hold", Outcome.INCONCLUSIVE, row)
    w.serve("1", 100)
    w.serve("2", 40, 30)
    assert w.look(traffic=replace(w.traffic(), at=w.now + off)).row == "harm"


def test_a_counter_whose_clock_was_set_back_goes_on_counting(world) -> None:
    w = world()
    run_to_end_of_step(w)
    w.now += 10
    w.serve("1", 100)
    w.serve("2", 20)
    assert w.look(traffic=replace(w.traffic(), at=w.state.last.at - 8)).row == "clock-skew"
    assert w.tick().action == "advance"
    assert w.state.requests == 140


def test_patience_of_the_plan_is_kept(world) -> None:
    w = world(patience="20s")
    w.look()
    assert [w.tick(traffic=None).action for _ in range(3)] == ["hold", "hold", "roll_back"]


def test_patience_counts_anew_after_a_clean_look(world) -> None:
    w = world(patience="20s")
    w.look()
    for _ in range(2):
        assert w.tick(traffic=None).row == "source-down"
    assert w.tick().row == "watching"
    assert w.tick(traffic=None).action == "hold"


def test_a_candidate_without_any_server_goes_back_after_a_minute(world) -> None:
    """A canary that crashes behind a gateway: nobody counts what fails, and a step's length would be an hour of it."""
    gone = {"ready": False, "down": True, "candidate": 0}
    w = world(steps=[Step(weight=weight, hold=seconds(3600), min_requests=50) for weight in (10, 50)])
    w.look()
    for _ in range(6):  # a pod that is put on another node: 50 s
        assert (w.tick(**gone).row, w.state.ended) == ("not-ready", None)
    assert w.tick().row == "watching"
    for _ in range(5):
        assert w.tick(**gone).action == "hold"
    w.state = RolloutState.from_dict(json.loads(json.dumps(w.state.to_dict())))
    assert w.tick(ready=None, traffic=None, traffic_error="the API is away").action == "hold"
    found = w.tick(**gone, paused="by a person")
    assert (found.action, found.outcome, found.row) == ("roll_back", Outcome.INCONCLUSIVE, "down")
    assert found.reason == "version 2 has had no server for 60 s or more, and users' requests go to it"
    alone = world(first=True)
    alone.look()
    for _ in range(6):
        alone.tick(**gone, champion=0)
    assert alone.tick(**gone, champion=0).action == "withdraw"


def test_extend_gives_the_lost_time_back_and_hold_does_not(world) -> None:
    ends = {}
    for policy in ("hold", "extend"):
        w = world(on_inconclusive=policy)
        w.look()
        for _ in range(3):
            w.tick()
        for _ in range(2):
            w.tick(ready=False)
        looks = 0
        while w.tick().row == "watching":
            looks += 1
        ends[policy] = looks
    assert ends["extend"] == ends["hold"] + 2


def test_row_counter_reset_rebases_and_is_never_negative(world) -> None:
    w = world()
    w.look()
    w.tick()
    before = w.state.step_requests
    w.totals, w.epoch = {"1": [3, 0, 0], "2": [1, 0, 0]}, "b"
    reset = w.tick()
    assert reset.row == "counter-reset" and reset.outcome == Outcome.INCONCLUSIVE
    assert w.state.step_requests == before
    assert w.tick().row == "watching"
    assert w.state.step_requests == before + 20


def test_a_reset_without_a_new_epoch_is_seen_too(world) -> None:
    w = world()
    w.look()
    w.tick()
    w.totals = {"1": [3, 0, 0]}
    assert w.tick(candidate=0).row == "counter-reset"


def test_row_old_reading_is_ignored_and_not_counted_twice(world) -> None:
    w = world()
    w.look()
    w.tick()
    old = w.traffic()
    w.tick()
    seen = w.state.step_requests
    assert w.tick(candidate=0, traffic=old).row == "old-reading"
    assert w.state.step_requests == seen
    w.tick()
    assert w.state.step_requests == seen + 20


def test_row_clock_back_keeps_the_watch_going(world) -> None:
    w = world()
    w.look()
    for _ in range(3):
        w.tick()
    w.now -= 3600
    back = w.tick(traffic=replace(w.traffic(), at=w.now))
    assert (back.outcome, back.row) == (Outcome.INCONCLUSIVE, "clock-back")
    # Time spent before is kept: 30 s were over, so 30 s later the step ends.
    rows = [w.tick().row for _ in range(3)]
    assert rows == ["watching", "watching", "pass"]


def test_harm_is_seen_while_the_clock_goes_back(world) -> None:
    w = world()
    w.look()
    w.tick()
    w.serve("1", 50)
    w.serve("2", 50, 40)
    w.now -= 15
    assert w.look().row == "harm"


def test_row_both_failing_is_no_verdict_on_the_candidate(world) -> None:
    w = world()
    run_to_end_of_step(w)
    w.serve("1", 200, 150)
    w.serve("2", 40, 30)
    found = w.tick()
    assert (found.action, found.outcome, found.row) == ("hold", Outcome.INCONCLUSIVE, "both-failing")
    assert "both arms fail" in found.reason
    assert w.tick().action == "advance"  # the outage is over


def test_an_outage_that_stays_is_rolled_back_but_never_called_harm(world) -> None:
    w = world()
    w.look()
    rows = []
    for _ in range(12):
        w.serve("1", 200, 150)
        w.serve("2", 40, 30)
        found = w.tick()
        rows.append(found.row)
        if found.ends:
            break
    assert set(rows) == {"both-failing"}
    assert (found.action, found.outcome) == ("roll_back", Outcome.INCONCLUSIVE)


def test_a_candidate_that_works_while_the_champion_fails_may_pass(world) -> None:
    """The release that mends an outage must not be held up by it."""
    w = world()
    w.look()
    for _ in range(6):
        w.serve("1", 100, 80)
        found = w.tick()
    assert found.action == "advance"


def test_row_entering_until_the_router_has_the_weight(world) -> None:
    w = world(on_inconclusive="roll_back")
    first = w.look(observed_weight=0)
    assert (first.action, first.row) == ("hold", "entering")
    assert w.state.entered_at is None
    assert w.tick().row == "watching"
    assert w.state.entered_at == w.now


def test_row_aborted(world) -> None:
    w = world()
    w.look()
    found = w.tick(aborted="lease ended at 12:00, taken to 0 by the guard")
    assert (found.action, found.outcome, found.row) == ("roll_back", Outcome.INCONCLUSIVE, "aborted")
    assert "guard" in found.reason


# -- too little to tell ----------------------------------------------------------------------------------------------


def test_row_no_traffic_candidate(world) -> None:
    w = world()
    w.look()
    for _ in range(5):
        assert w.tick(candidate=0).row == "watching"
    found = w.tick(candidate=0)
    assert (found.action, found.outcome, found.row) == ("hold", Outcome.INCONCLUSIVE, "no-traffic-candidate")
    for _ in range(6):
        found = w.tick(candidate=0)
    assert (found.action, found.outcome, found.row) == ("roll_back", Outcome.INCONCLUSIVE, "no-traffic-candidate")


def test_row_no_traffic_champion(world) -> None:
    w = world()
    w.look()
    for _ in range(6):
        found = w.tick(champion=0)
    assert (found.action, found.row) == ("hold", "no-traffic-champion")


def test_row_too_few_requests_holds_and_then_passes(world) -> None:
    w = world()
    w.look()
    for _ in range(6):
        found = w.tick(candidate=5)
    assert (found.action, found.row) == ("hold", "too-few-requests")
    assert "30 requests to the candidate in this step, needs 50" in found.reason
    assert w.tick(candidate=20).action == "advance"


@pytest.mark.parametrize("metric", ["quality", "prediction"])
def test_row_gate_silent_without_rows_or_with_a_dead_source(world, metric, rng) -> None:
    """Labels late, or the prediction log cannot be read: a required gate that cannot speak is no pass."""
    w = world(gates=[Gate(metric="errors", margin=0.01), Gate(metric=metric, margin=0.1)])
    run_to_end_of_step(w)
    silent = w.tick()
    assert (silent.action, silent.outcome, silent.row) == ("hold", Outcome.INCONCLUSIVE, "gate-silent")
    dead = w.tick(**{f"{metric}_error": "the log is gone"})
    assert dead.row == "gate-silent" and "the log is gone" in dead.reason
    few = w.tick(**{metric: _numbers(metric, rng, 12)})
    assert few.row == "gate-silent" and "needs 20" in few.reason
    assert w.tick(**{metric: _numbers(metric, rng, 40, like=few.state)}).action == "advance"


def _numbers(metric: str, rng: np.random.Generator, n: int, like=None):
    if metric == "quality":
        grown = np.concatenate([np.full(100, 1.0), np.full(n, 2.0)])
        return quality_numbers(grown, np.full(n, 1.3), like.loss_bound if like else None)
    edges = like.prediction_edges if like else None
    return prediction_numbers(np.tile(np.arange(10.0), 10 + n), np.tile(np.arange(10.0), 9)[:n], edges)


def test_a_gate_that_is_not_required_may_be_silent(world) -> None:
    w = world(gates=[Gate(metric="errors", margin=0.01), Gate(metric="quality", margin=0.1, required=False)])
    run_to_end_of_step(w)
    assert w.tick().action == "advance"


def test_row_nan_predictions_of_the_candidate_never_pass(world, rng) -> None:
    w = world(gates=[Gate(metric="prediction", margin=0.1)])
    run_to_end_of_step(w)
    bad = np.concatenate([rng.random(60), [np.nan]])
    found = w.tick(prediction=prediction_numbers(rng.random(500), bad))
    assert (found.outcome, found.row) == (Outcome.INCONCLUSIVE, "nan")
    assert "1 times with no number" in found.reason


def test_row_nan_losses_of_the_candidate_never_pass(world, rng) -> None:
    w = world(gates=[Gate(metric="quality", margin=0.1)])
    run_to_end_of_step(w)
    bad = np.concatenate([rng.random(60), [np.nan]])
    assert w.tick(quality=quality_numbers(rng.random(500), bad)).row == "nan"


def test_row_labels_corrected_are_left_out_not_counted_twice(world, rng) -> None:
    w = world(gates=[Gate(metric="quality", margin=0.1)])
    w.look()
    champion, candidate = rng.random(300), rng.random(60)
    w.tick(quality=quality_numbers(champion, candidate))
    tested = w.state.gates["quality"].test
    moved = candidate.copy()
    moved[:10] += 1.0
    found = w.tick(quality=quality_numbers(champion, moved, w.state.loss_bound))
    assert found.row == "labels-corrected"
    assert w.state.gates["quality"].test == tested
    more = w.tick(quality=quality_numbers(champion, np.append(moved, 0.5), w.state.loss_bound))
    assert more.row == "watching"


@pytest.mark.parametrize("change", ["loss", "bound", "edges"])
def test_numbers_made_otherwise_than_before_are_not_compared(world, rng, change) -> None:
    metric = "prediction" if change == "edges" else "quality"
    w = world(gates=[Gate(metric=metric, margin=0.1)])
    run_to_end_of_step(w)
    if change == "edges":
        w.tick(candidate=1, prediction=prediction_numbers(rng.random(90), rng.random(10)))
        found = w.tick(prediction=prediction_numbers(rng.random(90), rng.random(30), [0.2, 0.4]))
    elif change == "bound":
        w.tick(candidate=1, quality=quality_numbers(rng.random(90), rng.random(10)))
        found = w.tick(quality=quality_numbers(rng.random(90), rng.random(30), 7.0))
    else:
        found = w.tick(quality=quality_numbers(rng.random(90), rng.random(30), loss="squared"))
    assert found.row == "gate-silent"


def test_row_not_yet_safe_holds_the_last_step_and_then_gives_up(world) -> None:
    """DEMAND ROL-4: what is not shown to be within its margin is not promoted."""
    w = world(gates=[Gate(metric="errors", margin=0.0005)])
    run_to_end_of_step(w)
    assert w.tick().row == "pass"  # no harm is enough to go on
    run_to_end_of_step(w)
    held = w.tick()
    assert (held.action, held.outcome, held.row) == ("hold", Outcome.INCONCLUSIVE, "not-yet-safe")
    assert "not shown to be within 0.0005" in held.reason and "bar 5" in held.reason
    for _ in range(6):
        found = w.tick()
    assert (found.action, found.outcome, found.row) == ("roll_back", Outcome.INCONCLUSIVE, "not-yet-safe")
    assert "has waited 120 s, at most 120 s" in found.reason


def test_a_plan_that_asks_for_no_proof_promotes_on_no_harm(world) -> None:
    w = world(gates=[Gate(metric="errors", margin=0.0005)], prove="no_harm")
    run_to_end_of_step(w)
    assert w.tick().row == "pass"
    run_to_end_of_step(w)
    assert w.tick().row == "pass-last"


# -- people, proof and the time of the week ------------------------------------------------------------------------


def test_row_paused_holds_without_end_and_its_time_does_not_count(world) -> None:
    """DEMAND ROL-8."""
    w = world(patience="20s")
    w.look()
    w.tick()
    for _ in range(30):
        held = w.tick(paused="by Ada: lunch", candidate=0)
    assert (held.action, held.outcome, held.row) == ("hold", Outcome.INCONCLUSIVE, "paused")
    assert "paused by Ada: lunch" in held.reason
    rows = [w.tick().row for _ in range(5)]
    assert rows == ["watching"] * 4 + ["pass"]


def test_harm_ends_a_paused_rollout(world) -> None:
    w = world()
    w.look()
    w.serve("2", 40, 30)
    assert w.tick(paused="by Ada: lunch").row == "harm"


def test_row_frozen_stops_new_steps_and_allows_rollback(world) -> None:
    """DEMAND ROL-6: one switch freezes all rollouts."""
    w = world(patience="20s")
    run_to_end_of_step(w)
    for _ in range(9):
        held = w.tick(frozen="by Bob: year's end")
        assert (held.action, held.outcome, held.row) == ("hold", Outcome.INCONCLUSIVE, "frozen")
    assert "would pass, but rollouts are frozen: by Bob: year's end" in held.reason
    ordered = w.tick(frozen="by Bob", order=Order("promote", 0, "Ada", "now"))
    assert ordered.row == "frozen"
    w.serve("2", 60, 50)
    assert w.tick(frozen="by Bob").action == "roll_back"


def test_row_outside_hours_waits_for_the_window(world) -> None:
    """1970-01-12 13:46:40 UTC is a Monday; the step's time is over at 13:47:40, the window begins at 13:48."""
    w = world(hours=[Hours(days=["mon"], start="13:48", end="18:00")])
    run_to_end_of_step(w)
    held = w.tick()
    assert (held.action, held.row) == ("hold", "outside-hours")
    assert "mon 13:48 to 18:00" in held.reason
    assert [w.tick().row for _ in range(2)] == ["outside-hours", "pass"]


def test_row_early_needs_proof_and_not_just_time(world) -> None:
    step = Step(weight=10, hold="10m", min_requests=50, at_least="30s")
    w = world(steps=[step, Step(weight=50, hold="60s", min_requests=50)])
    w.look()
    rows = [w.tick(candidate=100).row for _ in range(12)]
    assert rows[:2] == ["watching"] * 2
    assert rows.count("early") == 1 and rows.index("early") >= 2
    thin = world(steps=[step, Step(weight=50, hold="60s", min_requests=50)])
    thin.look()
    assert {thin.tick(candidate=7).row for _ in range(12)} == {"watching"}


def test_rows_of_orders(world) -> None:
    """DEMAND ROL-8: skip a step, promote now; by whom and why is in the sentence."""
    w = world()
    w.look()
    skipped = w.tick(order=Order("skip", 0, "Ada", "known from staging"))
    assert (skipped.action, skipped.outcome, skipped.row) == ("advance", Outcome.INCONCLUSIVE, "skipped")
    assert "by order of Ada: known from staging" in skipped.reason
    assert w.tick(order=Order("skip", 0, "Ada", "known from staging")).row == "watching"  # that was for step 1
    done = w.tick(order=Order("promote", 1, "Ada", "hot fix"))
    assert (done.action, done.outcome, done.row) == ("promote", Outcome.INCONCLUSIVE, "promoted-by-order")
    assert "promoted now by order of Ada: hot fix" in done.reason


@pytest.mark.parametrize("changes", [{"digest_ok": False}, {"digest_ok": None}, {"ready": False}])
@pytest.mark.parametrize("kind", ["skip", "promote"])
def test_nobody_can_order_traffic_to_a_version_that_is_not_sound(world, changes, kind) -> None:
    w = world()
    w.look()
    assert w.tick(order=Order(kind, 0, "Ada", "now"), **changes).action == "hold"


def test_an_order_overrides_numbers_that_say_nothing_but_never_harm(world) -> None:
    w = world()
    w.look()
    assert w.tick(order=Order("skip", 0, "Ada", "go"), traffic=None, traffic_error="gone").action == "advance"
    w.serve("2", 60, 50)
    assert w.tick(order=Order("promote", 1, "Ada", "go")).row == "harm"


# -- strategies, segments, values ------------------------------------------------------------------------------------


def test_a_mirrored_step_is_entered_when_the_router_copies(world) -> None:
    w = world(strategy="shadow", steps=[Step(weight=0, mirror=50, hold="60s", min_requests=50)])
    assert w.look(observed_mirror=0).row == "entering"
    assert w.tick(observed_mirror=50).row == "watching"
    rows = [w.tick(champion=300, candidate=150, observed_mirror=50).row for _ in range(6)]
    assert rows[-1] == "pass-last"
    w.serve("2", 1)
    assert "50 % mirrored" in w.looks[1]["decision"]["reason"]


def test_with_all_the_traffic_only_the_limits_judge(world) -> None:
    """Blue-green, and the bake of a canary: there is no champion to compare with."""
    w = world(strategy="blue_green", steps=[Step(weight=100, hold="60s", min_requests=50)])
    w.look()
    assert [w.tick(champion=0).row for _ in range(6)] == ["watching"] * 5 + ["pass-last"]
    bad = world(strategy="blue_green", steps=[Step(weight=100, hold="60s", min_requests=50)])
    bad.look()
    bad.serve("2", 60, 40)
    assert bad.tick(champion=0).row == "limit"


def test_a_bake_follows_the_canary_and_can_still_end_it(world) -> None:
    w = world(bake="30s")
    for _ in range(2):
        run_to_end_of_step(w)
        assert w.tick().action == "advance"
    w.look()
    assert w.tick(champion=0).row == "watching"
    w.serve("2", 60, 50)
    assert w.tick(champion=0).row == "limit"


def segment(w, name: str, requests: int, errors: int) -> None:
    known = w.__dict__.setdefault("by_segment", {}).setdefault(name, {"1": [0, 0], "2": [0, 0]})
    for version, hits in (("1", requests // 100), ("2", errors)):
        known[version][0] += requests
        known[version][1] += hits


def segments(w) -> dict[str, Counters]:
    return {
        name: Counters(w.epoch, w.now, {v: ArmCounters(n, e, 0, histogram(n, 0)) for v, (n, e) in arms.items()})
        for name, arms in getattr(w, "by_segment", {}).items()
    }


def test_each_segment_must_be_safe(world) -> None:
    """Harm in one segment of many is seen, though the whole hides it."""
    w = world(segments=Segments(values=["eu", "us"]))
    assert {g.name for g in w.plan.gates} == {
        "errors", "latency_p95", "errors@eu", "errors@us", "latency_p95@eu", "latency_p95@us",
    }  # fmt: skip
    assert all(g.alpha == pytest.approx(0.05 / 7) for g in w.plan.gates)
    for name in ("eu", "us"):
        segment(w, name, 0, 0)
    w.look(segments=segments(w))
    for _ in range(3):
        segment(w, "eu", 40, 16)
        segment(w, "us", 40, 0)
        found = w.tick(champion=4000, candidate=400, segments=segments(w))
        if found.ends:
            break
    assert (found.action, found.row) == ("roll_back", "harm")
    assert "errors in segment eu" in found.reason


def test_a_segment_nobody_comes_from_is_no_trouble(world) -> None:
    w = world(segments=Segments(values=["eu"]))
    run_to_end_of_step(w)
    assert w.tick().row == "pass"


REVENUE = Gate(metric="value", figure="revenue", low=0, high=200, better="higher", margin=10)


def revenue(rng: np.random.Generator, n: int, mean: float):
    losses = 1 - np.clip(rng.normal(mean, 30, n), 0, 200) / 200
    return quality_numbers(losses, losses, 1.0, loss="value").champion


def test_a_business_figure_gates(world, rng) -> None:
    """DEMAND MON-12: 100 a request against 60, margin 10, in the figure's own unit."""
    w = world(gates=[REVENUE])
    w.look()
    numbers = QualityNumbers("value", 1.0, revenue(rng, 900, 100), revenue(rng, 200, 60))
    found = w.tick(values={"revenue": numbers})
    assert (found.action, found.row) == ("roll_back", "harm")
    shown = found.numbers["gates"]["revenue"]
    assert shown["champion"]["mean"] == pytest.approx(100, abs=4)
    assert shown["candidate"]["mean"] == pytest.approx(60, abs=7)
    assert shown["difference"] == pytest.approx(-40, abs=8) and shown["low"] < shown["difference"] < shown["high"]
    assert "(margin 10;" in found.reason


def test_a_value_that_cannot_be_read_is_no_pass(world, rng) -> None:
    w = world(gates=[REVENUE])
    run_to_end_of_step(w)
    found = w.tick(values_error={"revenue": "ZeroDivisionError: x"})
    assert found.row == "gate-silent" and "ZeroDivisionError" in found.reason


@pytest.mark.parametrize(("candidate", "row"), [(0.002, "pass-last"), (0.02, "not-yet-safe")])
def test_a_test_of_two_versions_promotes_only_what_is_better(world, candidate, row) -> None:
    """A/B: 2 % errors against 0.2 %, or against the same."""
    w = world(
        strategy="ab", steps=[Step(weight=50, hold="60s", min_requests=50)],
        gates=[Gate(metric="errors", margin=0.01, superior=0.001)],
    )  # fmt: skip
    w.look()
    for _ in range(6):
        w.serve("1", 1000, 20)
        w.serve("2", 1000, int(1000 * candidate))
        found = w.tick(champion=0, candidate=0)
    assert found.row == row
    if row == "not-yet-safe":
        assert "not shown to be better by 0.001" in found.reason


# -- first release -----------------------------------------------------------------------------------------------


def test_a_first_release_is_watched_and_passes(world) -> None:
    """DEMAND ROL-10."""
    w = world(first=True)
    w.look()
    for _ in range(5):
        assert w.tick(champion=0).row == "watching"
    done = w.tick(champion=0)
    assert (done.action, done.outcome, done.row) == ("promote", Outcome.PASS, "pass-last")
    assert "first watch" in done.reason


def test_a_first_release_that_breaches_is_withdrawn(world) -> None:
    """DEMAND ROL-10."""
    w = world(first=True)
    w.look()
    w.serve("2", 30, 20)
    done = w.tick(champion=0)
    assert (done.action, done.outcome, done.row) == ("withdraw", Outcome.FAIL, "limit")


def test_a_first_release_nobody_calls_never_passes(world) -> None:
    w = world(first=True)
    w.look()
    for _ in range(6):
        found = w.tick(champion=0, candidate=0)
    assert (found.action, found.row) == ("hold", "no-traffic-candidate")
    for _ in range(6):
        found = w.tick(champion=0, candidate=0)
    assert (found.action, found.outcome) == ("withdraw", Outcome.INCONCLUSIVE)


# -- the edges of the function -------------------------------------------------------------------------------------


def test_time_that_is_no_number_is_refused(world) -> None:
    w = world()
    with pytest.raises(ValueError, match="now"):
        decide(w.plan, w.state, w.evidence(), math.nan)


def test_plan_and_state_must_belong_together(world) -> None:
    w, first = world(), world(first=True)
    with pytest.raises(ValueError, match="first release"):
        decide(w.plan, first.state, w.evidence(), 0.0)


def test_numbers_and_state_are_plain_json(world) -> None:
    w = world()
    w.look()
    for _ in range(4):
        w.tick()
    json.dumps(w.looks, allow_nan=False)


# -- the way back -------------------------------------------------------------------------------------------------

BROKEN = "visits version 1: its server is not ready"


def test_row_no_way_back_holds_what_would_pass(world) -> None:
    """DEMAND ROL-12: no step begins while the champion could not take over; it goes on when it could again."""
    w = world()
    run_to_end_of_step(w)
    held = w.tick(no_way_back=BROKEN)
    assert (held.action, held.outcome, held.row) == ("hold", Outcome.INCONCLUSIVE, "no-way-back")
    assert BROKEN in held.reason
    for _ in range(200):  # far beyond any patience
        assert w.tick(no_way_back=BROKEN).action == "hold"
    assert w.tick().row == "pass"


@pytest.mark.parametrize("policy", ["hold", "extend", "roll_back"])
def test_nobody_is_sent_back_to_a_broken_champion_for_want_of_numbers(world, policy) -> None:
    w = world(on_inconclusive=policy)
    w.look()
    for _ in range(30):
        found = w.tick(champion=0, candidate=0, no_way_back=BROKEN, traffic=None, traffic_error="gone")
        assert (found.action, found.row) == ("hold", "source-down")


def test_harm_goes_back_whatever_the_way_back_is_like(world) -> None:
    """Harm that is shown is of the candidate; and a candidate that is not what was registered serves nobody."""
    w = world()
    w.look()
    w.serve("2", 40, 16)
    assert w.tick(no_way_back=BROKEN).action == "roll_back"
    w = world(on_inconclusive="roll_back")
    w.look()
    assert w.tick(no_way_back=BROKEN, digest_ok=False).action == "roll_back"


def test_a_person_may_go_on_without_a_way_back(world) -> None:
    w = world()
    run_to_end_of_step(w)
    order = Order("promote", 0, "ann", "the old one is broken")
    assert w.tick(no_way_back=BROKEN, order=order).action == "promote"


def test_the_document_names_every_row() -> None:
    text = GATES.read_text()
    assert [row for row in ROWS if f"`{row}`" not in text] == []
