"""DEMAND ROL-14: several candidates against one champion: each judged as ever, and one rule that puts them together."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel import canonical
from windtunnel.errors import DescriptionError
from windtunnel.evidence import Outcome
from windtunnel.rollout import (
    Counters,
    Decision,
    Evidence,
    Plan,
    RolloutState,
    Several,
    decide,
    decide_several,
    disagreements,
    several,
)
from windtunnel.rollout.batch import PROMOTED, ROLLED_BACK, Lanes, Look, decide_batch
from windtunnel.rollout.comparisons import signs
from windtunnel.rollout.evidence import ArmCounters
from windtunnel.spec.rollout import Gate, Limits, Rollout, Step
from windtunnel.stats.histogram import Histogram

MINUTE = timedelta(minutes=1)


def make_plan(**changes: Any) -> Plan:
    given: dict[str, Any] = {
        "strategy": "ab",
        "steps": [Step(weight=60, hold=10 * MINUTE, at_most=40 * MINUTE, min_requests=50)],
        "gates": [Gate(metric="errors", margin=0.02, superior=0.0)],
        "limits": Limits(error_rate=0.5),
        "look_every": MINUTE,
        "lease": 10 * MINUTE,
        **changes,
    }
    return Plan.from_spec(Rollout(**given), first=False)


PLAN = make_plan()


@dataclass
class Flight:
    """Champion "1" and candidates with the error rates given; requests arrive by the router's weights."""

    plan: Plan
    rates: dict[str, float]
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))
    now: float = 1_000_000.0
    per_look: int = 600
    log: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counts = {version: [0, 0] for version in ("1", *self.rates)}
        self.counts["1"] = [5000, 500]
        self.states = several.begin("1", tuple(self.rates), self.now)

    def weight(self, version: str) -> int:
        state = self.states[version]
        return 0 if state.ended else several.share(self.plan, len(self.rates)).steps[state.step].weight

    def evidence(self, **changes: Any) -> dict[str, Evidence]:
        arms = {v: ArmCounters(n, e, 0, Histogram()) for v, (n, e) in self.counts.items()}
        traffic = Counters("a", self.now, arms)
        return {
            v: replace(Evidence(traffic, observed_weight=self.weight(v), ready=True, digest_ok=True), **changes)
            for v, state in self.states.items()
            if not state.ended
        }

    def look(self, **changes: Any) -> Several:
        evidence = self.evidence(**changes)
        before = {v: s.step for v, s in self.states.items() if not s.ended}
        found = decide_several(self.plan, self.states, evidence, self.now)
        assert found.arms.keys() == self.states.keys() and before is not None
        # through the log's own form, as another process would go on from it
        record = json.loads(canonical.dumps(several.several_record("r", self.now, evidence, found)))
        self.log.append(canonical.loads(canonical.dumps(record)))
        self.states = several.resumed(self.log[-1])
        return found

    def tick(self, **changes: Any) -> Several:
        self.now += 60.0
        weights = {version: self.weight(version) for version in self.rates}
        weights["1"] = 100 - sum(weights.values())
        for version, weight in weights.items():
            n = self.per_look * weight // 100
            self.counts[version][0] += n
            self.counts[version][1] += int(self.rng.binomial(n, {"1": 0.1, **self.rates}[version]))
        return self.look(**changes)

    def fly(self, looks: int = 200) -> Several:
        found = self.look()
        for _ in range(looks):
            if found.decision.ends:
                return found
            found = self.tick()
        raise AssertionError(f"no end: {found.decision.reason}")


def test_the_best_of_those_that_have_proven_it_wins() -> None:
    flight = Flight(PLAN, {"2": 0.09, "3": 0.03, "4": 0.05})
    found = flight.fly()
    assert found.winner == "3" and found.decision.action == "promote" and found.decision.outcome is Outcome.PASS
    assert {v: d.action for v, d in found.arms.items()} == {"2": "roll_back", "3": "promote", "4": "roll_back"}
    assert found.arms["4"].row == several.PASSED_OVER
    assert found.arms["4"].outcome is Outcome.INCONCLUSIVE, "nothing bad was shown of it"
    assert "version 3" in found.arms["4"].reason
    assert found.decision.numbers["winner"] == "3"
    assert found.out == ("2", "4")
    assert disagreements(PLAN, flight.log) == []


def test_a_harmful_candidate_goes_and_the_others_fly_on() -> None:
    flight = Flight(PLAN, {"2": 0.3, "3": 0.03})
    found = flight.look()
    while not found.out:
        found = flight.tick()
    assert found.decision.action == "hold", found.decision.reason
    assert found.out == ("2",) and found.arms["2"].outcome is Outcome.FAIL
    assert flight.weight("2") == 0 and flight.weight("3") == 30, "its share is the champion's, not the others'"
    assert "version 2 is out (harm)" in found.decision.reason
    found = flight.fly()
    assert found.winner == "3"
    assert found.arms["2"].outcome is Outcome.FAIL and found.arms["2"].row == "harm", "its own verdict stays"
    assert disagreements(PLAN, flight.log) == []


def test_all_harmful_is_a_failed_rollout() -> None:
    found = Flight(PLAN, {"2": 0.3, "3": 0.4}).fly()
    assert (found.decision.action, found.decision.outcome, found.winner) == ("roll_back", Outcome.FAIL, None)
    assert "version 2" in found.decision.reason and "version 3" in found.decision.reason


def test_nobody_better_goes_back_to_the_champion() -> None:
    found = Flight(PLAN, {"2": 0.1, "3": 0.1}).fly()
    assert (found.decision.action, found.decision.outcome) == ("roll_back", Outcome.INCONCLUSIVE)
    assert {d.row for d in found.arms.values()} == {"not-yet-safe"}


def test_harmful_and_unproven_is_not_called_a_failure_of_all() -> None:
    found = Flight(PLAN, {"2": 0.3, "3": 0.1}).fly()
    assert found.decision.action == "roll_back" and found.decision.outcome is Outcome.INCONCLUSIVE
    assert found.arms["2"].outcome is Outcome.FAIL


def test_the_winner_bakes_alone() -> None:
    plan = make_plan(bake=5 * MINUTE)
    flight = Flight(plan, {"2": 0.05, "3": 0.02})
    found = flight.look()
    while found.decision.action == "hold":
        found = flight.tick()
    assert (found.decision.action, found.winner) == ("advance", "3")
    assert flight.weight("3") == 100 and flight.weight("2") == 0
    found = flight.fly()
    assert (found.decision.action, found.winner) == ("promote", "3")
    assert disagreements(plan, flight.log) == []


def test_a_winner_that_fails_its_bake_leaves_nobody() -> None:
    flight = Flight(make_plan(bake=5 * MINUTE), {"2": 0.05, "3": 0.02})
    found = flight.look()
    while found.decision.action == "hold":
        found = flight.tick()
    flight.rates["3"] = 0.9
    found = flight.fly()
    assert (found.decision.action, found.winner) == ("roll_back", None)


def test_aborted_takes_all_of_them() -> None:
    flight = Flight(PLAN, {"2": 0.05, "3": 0.02})
    flight.look()
    found = flight.tick(aborted="by hand")
    assert found.decision.action == "roll_back" and found.out == ("2", "3")


def test_trouble_passes_nobody() -> None:
    flight = Flight(PLAN, {"2": 0.05, "3": 0.02})
    flight.look()
    for _ in range(12):
        found = flight.tick()
        if found.decision.ends:
            break
        found = flight.tick(traffic=None, traffic_error="the meter is down")
        assert found.decision.action in ("hold", "roll_back") and found.winner is None


def test_shares_are_equal_whole_percents_and_alpha_and_beta_are_divided() -> None:
    mine = several.share(PLAN, 3)
    assert [step.weight for step in mine.steps] == [20]
    assert (mine.alpha, mine.beta, mine.limit_alpha) == (PLAN.alpha / 3, PLAN.beta / 3, PLAN.limit_alpha / 3)
    assert mine.gates[0].alpha == PLAN.gates[0].alpha / 3
    assert several.share(make_plan(bake=MINUTE), 2).steps[-1].weight == 100
    assert several.share(PLAN, 1) is PLAN


@pytest.mark.parametrize(
    ("plan", "candidates", "words"),
    [
        (Plan.from_spec(Rollout(), first=False), 2, "one candidate at a time"),
        (make_plan(steps=[Step(weight=2, hold=MINUTE)]), 3, "cannot be divided among 3"),
    ],
)
def test_what_cannot_be_flown_with_several_is_refused(plan: Plan, candidates: int, words: str) -> None:
    with pytest.raises(DescriptionError, match=words):
        several.share(plan, candidates)


def test_the_same_candidate_twice_or_the_champion_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        several.begin("1", ("2", "2"), 0.0)
    with pytest.raises(ValueError, match="champion"):
        several.begin("1", ("2", "1"), 0.0)


def test_one_candidate_is_judged_as_ever() -> None:
    """k = 1 gives exactly the decisions of ``decide``."""
    flight = Flight(PLAN, {"2": 0.05})
    state: RolloutState = flight.states["2"]
    found = flight.look()
    for _ in range(100):
        if found.decision.ends:
            break
        flight.now += 0.0
        found = flight.tick()
    for look in flight.log:
        decision = decide(PLAN, state, Evidence.from_dict(look["arms"]["2"]["evidence"]), look["at"])
        assert decision.to_dict() == look["arms"]["2"]["decision"]
        assert (decision.action, str(decision.outcome), decision.row) == tuple(
            look["decision"][name] for name in ("action", "outcome", "row")
        )
        state = decision.state
    assert found.winner == "2"


def test_a_changed_record_is_noticed() -> None:
    flight = Flight(PLAN, {"2": 0.09, "3": 0.03})
    flight.fly()
    flight.log[-1]["winner"] = "2"
    assert disagreements(PLAN, flight.log) == [len(flight.log) - 1]
    flight.log[3]["arms"]["2"]["decision"]["row"] = "pass"
    assert disagreements(PLAN, flight.log) == [3, len(flight.log) - 1]


# -- the rule alone


def arm(version: str, action: str, outcome: str = "INCONCLUSIVE", e_safe: float | None = 1.0) -> Decision:
    state = RolloutState.begin(champion="1", candidate=version, at=0.0)
    if action in ("promote", "roll_back"):
        state = replace(state, ended=action, ended_outcome=outcome, ended_row="x", ended_reason="said")  # type: ignore[arg-type]
    numbers = {"gates": {"errors": {"e_safe": e_safe}}}
    return Decision(action, Outcome(outcome), "row", f"what {version} did", state, numbers)  # type: ignore[arg-type]


LANE = st.sampled_from(
    [("hold", "INCONCLUSIVE"), ("promote", "PASS"), ("roll_back", "FAIL"), ("roll_back", "INCONCLUSIVE")]
)


@settings(max_examples=300)
@given(st.lists(st.tuples(LANE, st.floats(0.0, 1e300)), min_size=1, max_size=5))
def test_the_rule_over_all_that_candidates_can_do(lanes: list[tuple[tuple[str, str], float]]) -> None:
    arms = {str(i + 2): arm(str(i + 2), action, outcome, e) for i, ((action, outcome), e) in enumerate(lanes)}
    found = several.combine(PLAN, arms)
    passed = {v: e for (v, d), (_, e) in zip(arms.items(), lanes, strict=True) if d.action == "promote"}
    if passed:
        assert found.winner in passed and passed[found.winner] == max(passed.values())
        assert found.decision.action == "promote" and found.decision.outcome is Outcome.PASS
        assert set(found.out) == set(arms) - {found.winner}, "nobody else keeps traffic"
        assert all(d.state.ended for d in found.arms.values())
    elif any(d.action == "hold" for d in arms.values()):
        assert found.decision.action == "hold" and not found.decision.state.ended
        assert found.decision.outcome is Outcome.INCONCLUSIVE
    else:
        assert found.decision.action == "roll_back" and found.winner is None
        assert (found.decision.outcome is Outcome.FAIL) == all(d.outcome is Outcome.FAIL for d in arms.values())
    for version, decision in arms.items():
        if decision.action == "roll_back":
            assert found.arms[version] is decision, "what one was told stays"


def test_without_any_number_the_first_named_wins() -> None:
    arms = {v: arm(v, "promote", "PASS", None) for v in ("3", "2")}
    assert several.combine(PLAN, arms).winner == "3"


# -- alpha and beta of the whole rollout


def study(k: int, kind: str, runs: int, seed: int) -> tuple[int, int]:
    """(rollouts in which some candidate was called harmful, in which one was promoted) of ``runs``, on the very same
    batch brain, all candidates over one champion.

    Args:
        kind: ``equal``: no candidate is worse; ``edge``: all are exactly as good as what must be beaten.
    """
    rng = np.random.default_rng(seed)
    plan = make_plan(gates=[Gate(metric="errors", margin=0.0 if kind == "equal" else 0.02, superior=0.0)])
    mine = several.share(plan, k)
    lanes = [Lanes.begin(mine, runs, history={"errors": (5000.0, 500.0)}) for _ in range(k)]
    champion = 1 - k * mine.steps[0].weight / 100
    harmed, won = np.zeros(runs, dtype=bool), np.zeros(runs, dtype=bool)
    now = 0.0
    for _ in range(45):
        total = 600
        a = np.full(runs, total * champion)
        hits = rng.binomial(a.astype(int), 0.1).astype(float)
        for i in range(k):
            n = np.full(runs, float(total * mine.steps[0].weight // 100))
            bad = rng.binomial(n.astype(int), 0.1).astype(float)
            look = Look(
                gates={"errors": (np.stack([a - hits, hits], -1), np.stack([n - bad, bad], -1))},
                limits={"limit_error_rate": np.stack([n - bad, bad], -1)},
                requests_champion=a,
                requests_candidate=n,
            )
            lanes[i] = decide_batch(mine, lanes[i], look, now)
            harmed |= (lanes[i].ended == ROLLED_BACK) & (lanes[i].outcome == 2) & ~won
        won |= np.any([lane.ended == PROMOTED for lane in lanes], axis=0)
        now += 60.0
    assert np.isfinite(signs(mine, lanes[0].tests).harm["errors"]).all()
    return int(harmed.sum()), int(won.sum())


def _holds(k: int, runs: int, seed: int) -> tuple[int, int]:
    from bench.shares import wilson

    harmed, _ = study(k, "equal", runs, seed)
    _, promoted = study(k, "edge", runs, seed + 1)
    print(f"\nk={k}: harmful {harmed}, promoted {promoted} of {runs}")
    assert wilson(harmed, runs, 2.6)[0] <= PLAN.alpha
    assert wilson(promoted, runs, 2.6)[0] <= PLAN.beta
    return harmed, promoted


@pytest.mark.parametrize("k", [2, 3])
def test_alpha_and_beta_hold_for_the_whole_rollout(k: int) -> None:
    """DEMAND ROL-4, ROL-14: a seeded sample."""
    _holds(k, 400, 11)


@pytest.mark.long
@pytest.mark.parametrize("k", [1, 2, 3])
def test_alpha_and_beta_hold_for_the_whole_rollout_ten_thousand_times(k: int) -> None:
    """DEMAND ROL-4, ROL-14."""
    _holds(k, 10_000, 12)
