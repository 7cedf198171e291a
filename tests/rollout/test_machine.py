"""Any order of traffic, faults and people's orders: what must hold at every look (DEMAND ROL-3, ROL-6, ROL-8)."""

from __future__ import annotations

import json
import math
from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from windtunnel.evidence import Outcome
from windtunnel.rollout import Counters, Decision, Order, RolloutState, disagreements, resume
from windtunnel.rollout.evidence import ArmCounters
from windtunnel.rollout.table import LACKS, ROWS, TROUBLES
from windtunnel.spec.rollout import Gate, Hours, Limits, Step

from .conftest import World, make_plan, seconds

#: 1970-01-12 13:46:40 UTC, a Monday afternoon.
START = 1_000_000.0
EARLY = Step(weight=20, hold=seconds(60), min_requests=30, at_least=seconds(20), max_requests=5000)
PLANS = {
    "canary": {},
    "early": {"steps": [EARLY, Step(weight=50, hold=seconds(40), min_requests=30, at_most=seconds(80))]},
    "bake": {"bake": seconds(30)},
    "shadow": {"strategy": "shadow", "steps": [Step(weight=0, mirror=50, hold=seconds(40), min_requests=20)]},
    "blue-green": {"strategy": "blue_green", "steps": [Step(weight=100, hold=seconds(40), min_requests=20)]},
    "ab": {
        "strategy": "ab", "steps": [Step(weight=50, hold=seconds(60), min_requests=50)],
        "gates": [Gate(metric="errors", margin=0.01, superior=0.0)],
    },
    "hours": {"hours": [Hours(days=["mon"], start="13:00", end="13:48")]},
    "no proof": {"prove": "no_harm", "gates": [Gate(metric="errors", margin=0.0)]},
}  # fmt: skip


class Release(RuleBasedStateMachine):
    """One release; ``World`` is what the router, the clock and people do."""

    @initialize(
        plan=st.sampled_from(sorted(PLANS)),
        policy=st.sampled_from(["hold", "extend", "roll_back"]),
        first=st.booleans(),
        patience=st.sampled_from(["20s", "60s"]),
    )
    def begin(self, plan: str, policy: str, first: bool, patience: str) -> None:
        made = make_plan(first=first, on_inconclusive=policy, patience=patience, **PLANS[plan])
        self.w = World(made, RolloutState.begin(champion=None if first else "1", candidate="2", at=START), START)
        self.w.serve("1", 3000, 20, 100)
        self.sent = 0
        self.paused = self.frozen = None
        self.before: RolloutState | None = None
        self.last: Decision | None = None
        self.faults: dict[str, object] = {}
        self.look()

    def look(self, **changes: object) -> None:
        given = {"paused": self.paused, "frozen": self.frozen} | changes
        step = self.w.plan.steps[self.w.state.step]
        given.setdefault("observed_mirror", step.mirror)
        self.before, self.faults = self.w.state, changes
        self.last = self.w.look(**given)

    # -- traffic

    @rule(seconds=st.sampled_from([1.0, 10.0, 30.0]), n=st.integers(0, 400), rate=st.sampled_from([0.0, 0.01, 0.3, 1]))
    def traffic(self, seconds: float, n: int, rate: float) -> None:
        self.w.now += seconds
        self.w.serve("1", n, n // 100, n // 25)
        share = self.w.plan.steps[self.w.state.step]
        candidate = n * (share.mirror or share.weight) // 100
        self.sent += candidate
        self.w.serve("2", candidate, int(candidate * rate), candidate // 25)
        self.look()

    @rule(n=st.integers(50, 300))
    def an_outage_of_both(self, n: int) -> None:
        self.w.now += 10
        self.w.serve("1", n, int(n * 0.9), 0)
        self.w.serve("2", n, int(n * 0.9), 0)
        self.sent += n
        self.look()

    # -- faults

    @rule(
        fault=st.sampled_from(
            [
                {"traffic": None, "traffic_error": "gone"}, {"ready": False}, {"ready": None}, {"digest_ok": False},
                {"digest_ok": None}, {"observed_weight": 1}, {"observed_weight": None},
                {"traffic": Counters("a", math.nan, {"2": ArmCounters(5, 9)})},
            ]
        )
    )  # fmt: skip
    def a_fault(self, fault: dict[str, object]) -> None:
        self.w.now += 10
        self.look(**fault)

    @rule()
    def the_counters_start_again(self) -> None:
        self.w.now += 10
        self.w.epoch += "x"
        self.w.totals = {"1": [2, 0, 0], "2": [1, 0, 0]}
        self.look()

    @rule(by=st.sampled_from([-3600.0, -5.0, -0.5, 3600.0]))
    def the_clock_jumps(self, by: float) -> None:
        self.w.now += by
        self.look()

    @rule()
    def the_watcher_dies_and_another_goes_on(self) -> None:
        self.w.looks = json.loads(json.dumps(self.w.looks))
        again = resume(self.w.looks)
        assert again == self.w.state
        self.w.state = again

    # -- people

    @rule(what=st.sampled_from(["pause", "resume", "freeze", "thaw"]))
    def somebody_says(self, what: str) -> None:
        if what in ("pause", "resume"):
            self.paused = "by Ada: lunch" if what == "pause" else None
        else:
            self.frozen = "by Bob: year's end" if what == "freeze" else None
        self.w.now += 1
        self.look()

    @rule(kind=st.sampled_from(["skip", "promote"]), ready=st.booleans())
    def somebody_orders(self, kind: str, ready: bool) -> None:
        self.w.now += 1
        self.look(order=Order(kind, self.w.state.step, "Ada", "I know better"), ready=ready)

    @rule()
    def an_order_for_another_step_is_no_order(self) -> None:
        self.w.now += 1
        self.look(order=Order("promote", self.w.state.step + 1, "Ada", "too late"))
        assert self.last.row not in ("promoted-by-order", "skipped") or self.before.ended

    @rule()
    def taken_to_zero(self) -> None:
        self.w.now += 1
        self.look(aborted="lease ended")

    # -- what must hold

    @invariant()
    def one_of_the_rows(self) -> None:
        if self.last is None:
            return
        d, plan = self.last, self.w.plan
        assert d.row in ROWS and d.reason
        if self.before.ended is not None:
            assert (d.action, d.row, d.reason) == (self.before.ended, self.before.ended_row, self.before.ended_reason)
            return
        assert (d.outcome == Outcome.FAIL) == (d.row in ("harm", "limit"))
        assert (d.outcome == Outcome.PASS) == (d.row in ("early", "pass", "pass-last"))
        if d.outcome == Outcome.FAIL or d.row == "aborted":
            assert d.action == plan.retreat and d.state.ended == plan.retreat
        if d.outcome == Outcome.PASS:
            assert not self.faults and self.paused is None and self.frozen is None
            assert self.before.step_requests <= self.sent
        if d.row in (*TROUBLES, *LACKS):
            assert d.action in ("hold", plan.retreat)
        if d.action in ("advance", "promote"):
            assert d.outcome == Outcome.PASS or d.row in ("skipped", "promoted-by-order")
            assert self.frozen is None
            assert self.faults.get("ready", True) is True and self.faults.get("digest_ok", True) is True
        if d.action == "promote" and d.row != "promoted-by-order":
            assert self.before.step == len(plan.steps) - 1

    @invariant()
    def exposure_never_goes_back(self) -> None:
        if self.last is None:
            return
        assert self.last.state.step in (self.before.step, self.before.step + 1)
        assert (self.last.state.step == self.before.step + 1) == (self.last.action == "advance")
        assert self.w.state.requests <= self.sent
        assert self.w.state.step_requests <= self.w.state.requests

    @invariant()
    def a_state_is_plain_json(self) -> None:
        if self.last is None:
            return
        state = self.w.state
        assert RolloutState.from_dict(json.loads(json.dumps(state.to_dict(), allow_nan=False))) == state

    def teardown(self) -> None:
        if self.last is not None:
            looks = json.loads(json.dumps([x for x in self.w.looks if _finite(x)]))
            if len(looks) == len(self.w.looks):
                assert disagreements(self.w.plan, looks) == []


def _finite(look: dict[str, object]) -> bool:
    try:
        json.dumps(look, allow_nan=False)
    except ValueError:
        return False
    return True


Release.TestCase.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestRelease = Release.TestCase


def test_plans_of_the_machine_are_of_every_strategy() -> None:
    made = {name: make_plan(**PLANS[name]) for name in PLANS}
    assert [s.name for s in made["bake"].steps] == ["step_10", "step_50", "step_100"]
    assert [s.name for s in made["shadow"].steps] == ["mirror_50"]
    assert made["blue-green"].gates == () and made["blue-green"].proof_at == -1
    assert made["ab"].gates[0].superior == 0.0
    assert replace(made["hours"], windows=()) == replace(made["canary"], windows=())
    assert Limits().error_rate == 0.05
