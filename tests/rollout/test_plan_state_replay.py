"""Plans from descriptions, states and looks through JSON, replay of recorded histories."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from windtunnel import canonical
from windtunnel.errors import DescriptionError
from windtunnel.rollout import (
    Counters,
    Decision,
    Evidence,
    Plan,
    RolloutState,
    decide,
    disagreements,
    prediction_numbers,
    quality_numbers,
    replay,
    resume,
)
from windtunnel.rollout.evidence import ArmCounters, PredictionNumbers, QualityNumbers
from windtunnel.rollout.replay import same
from windtunnel.rollout.simulate import Behaviour, Scenario, simulate
from windtunnel.spec.rollout import Gate, Limits, Rollout, Step

HISTORIES = sorted((Path(__file__).parent / "histories").glob("*.json"))


def test_the_default_plan_is_the_canary_of_the_demands() -> None:
    """DEMAND ROL-1: 5 % 10 min, 25 % 30, 50 % 60, 75 % 30."""
    plan = Plan.from_spec(Rollout(), first=False)
    assert [(s.weight, s.hold_s) for s in plan.steps] == [(5, 600), (25, 1800), (50, 3600), (75, 1800)]
    assert [g.name for g in plan.gates] == ["errors", "latency_p95"]
    assert plan.limit_alpha * 3 == pytest.approx(plan.alpha)  # two gates and one limit share alpha
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_gates_of_one_metric_get_names_of_their_own() -> None:
    gates = [Gate(metric="latency", margin=0.05, quantile=q) for q in (0.5, 0.99, 0.99)]
    assert [g.name for g in Plan.from_spec(Rollout(gates=gates), False).gates] == [
        "latency_p50",
        "latency_p99",
        "latency_p99_2",
    ]


def test_a_first_release_has_one_step_and_only_limits() -> None:
    """DEMAND ROL-10."""
    plan = Plan.from_spec(Rollout(first_watch="90s", limits=Limits(error_rate=0.1, p95_ms=50)), first=True)
    assert plan.gates == () and plan.retreat == "withdraw"
    assert [(s.weight, s.hold_s) for s in plan.steps] == [(100, 90.0)]
    assert plan.limit_alpha == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("settings", "first", "words"),
    [
        ({"limits": Limits(error_rate=None)}, True, "limits"),
        ({"limits": Limits(error_rate=None), "gates": []}, False, "gates and limits"),
        ({"gates": [Gate(metric="quality", margin=0.1, loss=x) for x in ("log", "squared")]}, False, "one loss"),
    ],
)
def test_a_plan_with_nothing_to_judge_by_is_refused(settings, first, words) -> None:
    with pytest.raises(DescriptionError, match=words):
        Plan.from_spec(Rollout(**settings), first)


def test_releasing_the_champion_again_is_refused() -> None:
    with pytest.raises(ValueError, match="already champion"):
        RolloutState.begin(champion="3", candidate="3", at=0.0)


def test_everything_survives_json_and_canonical_json(world, rng) -> None:
    w = world(gates=[Gate(metric=m, margin=0.1) for m in ("errors", "latency", "quality", "prediction")])
    w.look()
    for _ in range(3):
        w.tick(
            quality=quality_numbers(rng.random(90), rng.random(30), w.state.loss_bound),
            prediction=prediction_numbers(rng.random(90), rng.random(30), w.state.prediction_edges),
        )
    last = w.looks[-1]
    for back in (json.loads(json.dumps(last)), canonical.loads(canonical.dumps(last))):
        assert Evidence.from_dict(back["evidence"]).to_dict() == last["evidence"]
        decision = Decision.from_dict(back["decision"])
        assert decision.state == w.state
        assert decision.to_dict() == last["decision"]
    assert resume(w.looks) == w.state
    assert resume([]) is None


def test_a_restart_at_every_look_changes_nothing(world) -> None:
    """The state comes from the look log each time, through JSON (contract Gate state)."""
    one, two = world(), world()
    for w in (one, two):
        w.look()
        for i in range(14):
            if w is two:
                restored = resume(json.loads(json.dumps(w.looks)))
                assert restored is not None
                w.state = restored
            w.tick(ready=i != 3)
    assert one.looks == two.looks
    assert one.state.ended == "promote"


def test_a_look_made_twice_counts_nothing_twice(world) -> None:
    w = world()
    w.look()
    w.tick()
    before = w.state
    w.look()
    assert w.state == before


@pytest.mark.parametrize("path", HISTORIES, ids=lambda p: p.stem)
def test_recorded_histories_are_decided_as_they_were(path) -> None:
    """Recorded with the brain of an earlier day; they stay for ever."""
    history = json.loads(path.read_text())
    plan = Plan.from_dict(history["plan"])
    decisions = replay(plan, history["looks"])
    assert [d.row for d in decisions] == [look["decision"]["row"] for look in history["looks"]]
    assert [d.action for d in decisions] == [look["decision"]["action"] for look in history["looks"]]
    assert disagreements(plan, history["looks"]) == []


def test_another_processors_last_digit_is_no_disagreement_and_anything_else_is() -> None:
    """Histories are recorded on one kind of processor and replayed on others, whose libraries sum in another order."""
    recorded = {"n": 3, "mean": 0.1, "log": [-1.5, 2.0], "row": "watching", "harm": False, "low": None}
    for found, alike in (
        ({**recorded, "mean": 0.1 + 2e-17, "log": [-1.500001, 2.0]}, True),
        ({**recorded, "mean": 0.1001}, False),
        ({**recorded, "n": 4}, False),
        ({**recorded, "log": [-1.5]}, False),
        ({**recorded, "row": "harm"}, False),
        ({**recorded, "harm": True}, False),
        ({**recorded, "low": 0.0}, False),
        ({k: v for k, v in recorded.items() if k != "low"}, False),
        ({**recorded, "mean": float("nan")}, False),
    ):
        assert same(found, recorded) is alike, found


def test_there_are_histories() -> None:
    assert {p.stem for p in HISTORIES} >= {"promoted", "rolled-back-errors"}


def test_replay_finds_a_decision_that_was_changed(world) -> None:
    w = world()
    w.look()
    for _ in range(4):
        w.tick()
    looks = json.loads(json.dumps(w.looks))
    assert disagreements(w.plan, looks) == []
    looks[2]["decision"]["action"] = "promote"
    assert disagreements(w.plan, looks) == [2]
    assert replay(w.plan, []) == []


@given(data=st.data())
def test_whatever_happens_the_rules_hold(data) -> None:
    """Faults in any order: a rollout never passes on a look with trouble, FAIL always ends, and steps only rise."""
    plan = Plan.from_spec(
        Rollout(
            steps=[Step(weight=w, hold="30s", min_requests=5) for w in (10, 60)],
            gates=[Gate(metric="errors", margin=0.01)],
            on_inconclusive=data.draw(st.sampled_from(["hold", "extend", "roll_back"])),
            look_every="10s",
        ),
        False,
    )
    state = RolloutState.begin(champion="1", candidate="2", at=0.0)
    now, epoch, totals = 0.0, 0, {"1": [500, 2], "2": [0, 0]}
    steps_seen = [0]
    faults = ["none"] * 4 + ["down", "reset", "weight", "ready", "digest", "back", "crash"]
    for _ in range(data.draw(st.integers(1, 25))):
        fault = data.draw(st.sampled_from(faults))
        now += -30.0 if fault == "back" else 10.0
        if fault == "reset":
            epoch, totals = epoch + 1, {"1": [0, 0], "2": [0, 0]}
        for version, n in (("1", 80), ("2", 20)):
            totals[version][0] += n
            totals[version][1] += n if fault == "crash" and version == "2" else 0
        evidence = Evidence(
            traffic=None
            if fault == "down"
            else Counters(str(epoch), now, {v: ArmCounters(n, e) for v, (n, e) in totals.items()}),
            observed_weight=0 if fault == "weight" else plan.steps[state.step].weight,
            ready=fault != "ready",
            digest_ok=fault != "digest",
        )
        decision = decide(plan, state, evidence, now)
        assert RolloutState.from_dict(json.loads(json.dumps(decision.state.to_dict()))) == decision.state
        if decision.action in ("advance", "promote"):
            assert fault in ("none", "crash") and decision.outcome == "PASS"
            assert decision.numbers["trouble"] == []
        if decision.outcome == "FAIL":
            assert decision.action == "roll_back"
        assert (decision.outcome == "PASS") == (decision.action in ("advance", "promote"))
        state = decision.state
        steps_seen.append(state.step)
        if decision.ends:
            again = decide(plan, state, replace(evidence, traffic=None), now + 1)
            assert (again.action, again.reason) == (decision.action, decision.reason)
            break
    assert steps_seen == sorted(steps_seen)


rows = hnp.arrays(float, st.integers(0, 80), elements=st.floats(0, 50))


@given(rows, rows, rows, rows)
def test_numbers_of_batches_add_up_to_numbers_of_all_rows(a1, b1, a2, b2) -> None:
    bound, edges = 10.0, (1.0, 5.0)
    together = quality_numbers(np.concatenate([a1, a2]), np.concatenate([b1, b2]), bound)
    first, second = quality_numbers(a1, b1, bound), quality_numbers(a2, b2, bound)
    assert together is not None and first is not None and second is not None
    added = first + second
    assert (added.champion.n, added.candidate.n) == (together.champion.n, together.candidate.n)
    assert added.candidate.total == pytest.approx(together.candidate.total)
    np.testing.assert_allclose(added.candidate.cells, together.candidate.cells, atol=1e-6)
    p = prediction_numbers(np.concatenate([a1, a2]), np.concatenate([b1, b2]), edges)
    p1, p2 = prediction_numbers(a1, b1, edges), prediction_numbers(a2, b2, edges)
    assert p1 is not None and p2 is not None and p1 + p2 == p
    assert QualityNumbers.from_dict(json.loads(json.dumps(together.to_dict()))) == together
    assert p is not None and PredictionNumbers.from_dict(json.loads(json.dumps(p.to_dict()))) == p


def test_numbers_made_differently_do_not_add() -> None:
    a = quality_numbers([1.0], [2.0], 10.0)
    b = quality_numbers([1.0], [2.0], 20.0)
    assert a is not None and b is not None
    with pytest.raises(ValueError, match="cannot add"):
        _ = a + b
    p, q = prediction_numbers([1.0], [2.0], [1.0]), prediction_numbers([1.0], [2.0], [3.0])
    assert p is not None and q is not None
    with pytest.raises(ValueError, match="other bins"):
        _ = p + q


def test_too_few_champion_rows_make_no_numbers() -> None:
    assert quality_numbers(np.ones(19), np.ones(50)) is None
    assert prediction_numbers(np.ones(19), np.ones(50)) is None
    assert prediction_numbers(["a"] * 19, ["b"]) is None
    names = prediction_numbers(["a", "b"] * 20, ["b", "c"])
    assert names is not None and names.edges == ("a", "b") and names.candidate == (0, 1, 1)


def test_losses_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        quality_numbers([-1.0], [1.0], 1.0)
    with pytest.raises(ValueError, match="bound"):
        quality_numbers([1.0], [1.0], 0.0)
    bad = quality_numbers(np.ones(30), [np.nan, np.inf, 2.0], 1.5)
    assert bad is not None
    assert (bad.candidate.invalid, bad.candidate.n, bad.candidate.total) == (2, 1, 1.5)


def test_a_simulated_release_is_the_same_for_the_same_seed() -> None:
    plan = Plan.from_spec(Rollout(steps=[Step(weight=20, hold="60s", min_requests=20)]), False)
    scenario = Scenario(10.0, candidate=Behaviour(errors=0.02), label_delay_s=5.0)
    ends = [simulate(plan, scenario, np.random.default_rng(3)) for _ in range(2)]
    assert ends[0] == ends[1]
