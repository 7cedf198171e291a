"""The gate: one look, many looks, dying between them, somebody else taking over. Traffic from a fake backend."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from windtunnel.errors import FencedError, ForbiddenError, ServingError, TransientError, UnavailableError
from windtunnel.home import Home
from windtunnel.rollout import Plan, RolloutState, disagreements, entered
from windtunnel.serving.backend import ArmStatus, ArmTraffic, Observed, Traffic
from windtunnel.serving.release.looklog import LookLog
from windtunnel.spec import Rollout
from windtunnel.stats.histogram import Histogram, bucket
from windtunnel_airflow import GateSensor
from windtunnel_airflow.gatekeeping import Answer, Watch, look, settled
from windtunnel_airflow.triggers import GateTrigger

STEPS = [{"weight": 10, "hold": "2s", "min_requests": 5}, {"weight": 50, "hold": "2s", "min_requests": 5}]


@dataclass
class FakeBackend:
    """Counters that a test moves by hand; the wire of a router, not the router."""

    weight: int = 10
    token: int = 7
    aborted: str | None = None
    counts: dict[str, tuple[int, int]] = field(default_factory=lambda: {"1": (0, 0), "2": (0, 0)})
    renewed: list[float] = field(default_factory=list)
    dead: bool = False
    at: float = 0.0

    def observe(self, model: str) -> Observed:
        arms = {
            "1": ArmStatus("1", 100 - self.weight, True, "ready"),
            "2": ArmStatus("2", self.weight, True, "ready"),
        }
        return Observed(model, arms, self.token, "r1", self.aborted, None)

    def traffic(self, model: str) -> Traffic:
        if self.dead:
            raise UnavailableError("the meter is dead")
        arms = {
            version: ArmTraffic(n, bad, 0, Histogram.from_dict({str(bucket(5.0)): n} if n else {}))
            for version, (n, bad) in self.counts.items()
        }
        return Traffic(model, "epoch", self.at, arms)

    def check_target(self, model: str) -> list[str]:
        return []

    def renew(self, model: str, token: int, until: float) -> None:
        if token != self.token or self.aborted:
            raise FencedError(f"token {token} is not {self.token}")
        self.renewed.append(until)

    def flow(self, now: float, champion: int, candidate: int, bad: int = 0) -> None:
        self.at = now
        (a, x), (b, y) = self.counts["1"], self.counts["2"]
        self.counts = {"1": (a + champion, x), "2": (b + candidate, y + bad)}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path)
    copy = made.serving_model("small") / "versions" / "2"
    (copy / "model").mkdir(parents=True)
    (copy / "manifest.json").write_text(json.dumps({"content": "sha256:two", "files": {}}))
    return made


@pytest.fixture
def watch(home: Home) -> Watch:
    rollout = Rollout.model_validate(
        {"steps": STEPS, "gates": [{"metric": "errors", "margin": 0.02}], "prove": "no_harm"}
    )
    return Watch(
        home=str(home.root), model="small", version="2", champion="1", rollout_id="r1", token=7,
        plan=Plan.from_spec(rollout, False).to_dict(), step=0, lease_s=30.0, correlation_id="c", digest="sha256:two",
    )  # fmt: skip


def looks(watch: Watch, backend: FakeBackend, start: float, count: int, *, bad: int = 0) -> list[Answer]:
    """``count`` looks, one a second, with traffic in between; a new log object each time, as after a restart."""
    found = []
    for second in range(count):
        now = start + second
        backend.flow(now, 90, 10, bad)
        found.append(look(watch, backend, LookLog(Home(Path(watch.home)), "small"), now))
        if found[-1].over:
            break
    return found


def test_a_step_passes_after_its_time_and_renews_the_lease(watch: Watch) -> None:
    backend = FakeBackend()
    found = looks(watch, backend, 1000.0, 10)
    assert [answer.action for answer in found[:-1]] == ["hold"] * (len(found) - 1)
    assert found[-1].action == "advance"
    assert found[-1].outcome == "PASS"
    assert found[-1].step == 0
    assert backend.renewed == [1000.0 + second + 30.0 for second in range(len(found))]


def test_looks_replay_to_the_same_decisions(watch: Watch, home: Home) -> None:
    looks(watch, FakeBackend(), 1000.0, 10)
    log = LookLog(home, "small").read("r1")
    assert len(log) >= 3
    assert disagreements(Plan.from_dict(watch.plan), log) == []


def test_harm_ends_the_gate_and_leaves_the_lease_alone(watch: Watch) -> None:
    """DEMAND ROL-2"""
    backend = FakeBackend()
    found = looks(watch, backend, 1000.0, 20, bad=5)
    assert found[-1].action == "roll_back"
    assert found[-1].outcome == "FAIL"
    assert "errors" in found[-1].reason
    assert len(backend.renewed) == len(found) - 1


def test_a_gate_that_died_goes_on_from_the_look_log(watch: Watch, home: Home) -> None:
    """DEMAND PIP-5, ROL-4: the evidence so far is neither lost nor counted twice."""
    backend = FakeBackend()
    looks(watch, backend, 1000.0, 2)
    before = RolloutState.from_dict(LookLog(home, "small").read("r1")[-1]["decision"]["state"])
    # ... here the triggerer dies; whoever starts next has nothing but the watch and the log
    again = Watch.from_dict(json.loads(json.dumps(watch.to_dict())))
    found = looks(again, backend, 1002.0, 10)
    after = RolloutState.from_dict(LookLog(home, "small").read("r1")[-1]["decision"]["state"])
    assert before.entered_at == 1000.0
    assert found[-1].action == "advance"
    assert after.requests == before.requests + 10 * len(found)


def test_a_gate_that_died_after_its_last_look_does_not_look_again(watch: Watch, home: Home) -> None:
    backend = FakeBackend()
    ended = looks(watch, backend, 1000.0, 10)[-1]
    count = len(LookLog(home, "small").read("r1"))
    again = look(watch, backend, LookLog(home, "small"), 2000.0)
    assert again.to_dict() == ended.to_dict()
    assert len(LookLog(home, "small").read("r1")) == count
    # And the next step begins where this one ended.
    backend.weight = 50
    following = looks(replace(watch, step=1), backend, 1010.0, 10)
    assert following[-1].action == "promote"
    assert settled(watch, LookLog(home, "small").read("r1")) is not None


def test_a_rollback_is_the_answer_of_every_gate(watch: Watch, home: Home) -> None:
    looks(watch, FakeBackend(), 1000.0, 20, bad=5)
    answer = settled(replace(watch, step=1), LookLog(home, "small").read("r1"))
    assert answer is not None
    assert answer.retreat


def test_a_gate_a_person_let_pass_is_left_behind() -> None:
    """DEMAND ROL-8"""
    state = RolloutState.begin(champion="1", candidate="2", at=0.0)
    moved = entered(replace(state, entered_at=5.0, step_requests=9), 2)
    assert (moved.step, moved.entered_at, moved.step_requests) == (2, None, 0)
    assert entered(moved, 1) is moved


@pytest.mark.parametrize("what", ["dead source", "aborted", "wrong content", "no copy"])
def test_what_is_not_known_never_passes(watch: Watch, home: Home, what: str) -> None:
    """DEMAND ROL-3"""
    backend = FakeBackend()
    backend.dead = what == "dead source"
    backend.aborted = "by the guard" if what == "aborted" else None
    if what == "wrong content":
        watch = replace(watch, digest="sha256:other")
    if what == "no copy":
        (home.serving_model("small") / "versions" / "2" / "manifest.json").unlink()
    found = looks(watch, backend, 1000.0, 10)
    assert not any(answer.passed for answer in found)
    assert found[-1].action == "roll_back"
    assert found[-1].outcome == "INCONCLUSIVE"


def test_another_holder_ends_the_gate(watch: Watch, home: Home) -> None:
    """DEMAND ROL-7"""
    backend = FakeBackend(token=8)
    with pytest.raises(FencedError, match="token 8"):
        look(watch, backend, LookLog(home, "small"), 1000.0)
    assert LookLog(home, "small").read("r1") == []


# -- the trigger


class _Trigger(GateTrigger):
    fake: Any = None

    def backend(self) -> Any:
        return self.fake


def events(trigger: GateTrigger, timeout: float = 20) -> list[dict[str, Any]]:
    async def run() -> list[dict[str, Any]]:
        return [event.payload async for event in trigger.run()]

    return asyncio.run(asyncio.wait_for(run(), timeout))


class _Away(_Trigger):
    """Whose place is away for the first looks."""

    looked = 0
    refused = False

    def look(self) -> Any:
        self.looked += 1
        if self.looked <= 5 and self.refused:
            raise ServingError("cannot read it") from ForbiddenError("the API does not know these credentials")
        if self.looked <= 5:
            raise UnavailableError("the Kubernetes API does not answer")
        return Answer("roll_back", "FAIL", "harm", {}, 0, 1.0)


@pytest.mark.parametrize("refused", [False, True])
def test_a_gate_looks_on_while_the_place_is_away(watch: Watch, refused: bool) -> None:
    """Its task has four tries; more short outages than that end no rollout. Nor does a token that is renewed."""
    trigger = _Away(watch.to_dict(), 0.01)
    trigger.refused = refused
    (event,) = events(trigger)
    assert event["status"] == "answer" and event["answer"]["action"] == "roll_back"


def test_a_gate_whose_place_stays_away_says_so(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("windtunnel_airflow.triggers.AWAY_S", -1.0)
    trigger = _Away(watch.to_dict(), 0.01)
    (event,) = events(trigger)
    assert (event["status"], event["transient"], trigger.looked) == ("error", True, 1)


def test_the_trigger_survives_serialization(watch: Watch) -> None:
    trigger = GateTrigger(watch.to_dict(), 0.5)
    path, arguments = trigger.serialize()
    assert path == "windtunnel_airflow.triggers.GateTrigger"
    again = GateTrigger(**json.loads(json.dumps(arguments)))
    assert again.serialize() == trigger.serialize()
    assert Watch.from_dict(again.watch) == watch


def test_the_trigger_looks_until_there_is_an_answer_and_blocks_nobody(watch: Watch) -> None:
    backend = FakeBackend()

    class Slow(_Trigger):
        fake = backend

        def look(self) -> Answer:
            time.sleep(0.15)  # a slow disk must not stop the triggerer's loop
            backend.flow(time.time(), 90, 10)
            return super().look()

    async def both() -> tuple[list[dict[str, Any]], int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        found = [event.payload async for event in Slow(watch.to_dict(), 0.2).run()]
        ticking.cancel()
        return found, ticks

    found, ticks = asyncio.run(asyncio.wait_for(both(), 30))
    assert [event["status"] for event in found] == ["answer"]
    assert found[0]["answer"]["action"] == "advance"
    json.dumps(found, allow_nan=False)
    assert ticks > 50


def test_gates_that_begin_together_do_not_look_together(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first pause differs, and is the same for the same rollout in another triggerer; all later ones are whole."""

    def gate(rollout: str) -> Any:
        return GateTrigger({**watch.to_dict(), "rollout_id": rollout}, 10.0)

    phases = [gate(f"r{n}").phase for n in range(200)]
    assert all(0 < phase <= 1 for phase in phases) and phases == [gate(f"r{n}").phase for n in range(200)]
    for tenth in range(10):
        assert sum(tenth / 10 < phase <= (tenth + 1) / 10 for phase in phases) >= 8

    paused: list[float] = []
    goes_on = SimpleNamespace(over=False, action="hold", reason="more evidence is needed")

    async def pause(seconds: float) -> None:
        paused.append(seconds)
        if len(paused) == 3:
            raise asyncio.CancelledError

    async def run(trigger: Any) -> None:
        async for _ in trigger.run():
            raise AssertionError("a look that goes on is no event")

    trigger = gate("r7")
    monkeypatch.setattr(trigger, "look", lambda: goes_on)
    monkeypatch.setattr("windtunnel_airflow.triggers.asyncio.sleep", pause)
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(run(trigger))
    assert paused[0] <= 10 * trigger.phase and paused[1] > 9 and paused[2] > 9 > paused[0]


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (FencedError("taken over"), {"status": "fenced", "message": "taken over"}),
        (OSError(28, "disk full"), {"status": "error", "transient": True}),
    ],
)
def test_every_exception_becomes_an_event(watch: Watch, error: Exception, event: dict[str, Any]) -> None:
    class Broken(GateTrigger):
        def look(self) -> Answer:
            raise error

    (found,) = events(Broken(watch.to_dict(), 0.1))
    assert event.items() <= found.items()


def test_a_person_ending_the_gate_shortens_the_lease(watch: Watch) -> None:
    """DEMAND ROL-6"""
    backend = FakeBackend()
    trigger = _Trigger(watch.to_dict(), 1.0)
    trigger.fake = backend
    asyncio.run(trigger.on_kill())
    assert len(backend.renewed) == 1
    assert 10 < backend.renewed[0] - time.time() < 20


# -- the sensor


@pytest.fixture
def sensor(describe: Callable[..., Any], home: Home, watch: Watch) -> tuple[GateSensor, dict[str, Any], list[Any]]:
    """A gate sensor over a registry that only takes down what it is told, and a context."""
    claim = {
        "model": "small", "version": "2", "digest": "sha256:two", "champion": {"version": "1", "digest": "sha256:one"},
        "first": False, "rollout_id": "r1", "token": 7, "plan": watch.plan, "weights": [10, 50], "look_every_s": 0.05,
        "lease_s": 30.0, "claimed_at": 1000.0, "correlation_id": "c" * 32, "cause": "test",
    }  # fmt: skip
    posted: list[Any] = []

    class Sensor(GateSensor):
        hook = SimpleNamespace(  # type: ignore[assignment]
            registry=SimpleNamespace(post_verdict=posted.append), version_url=lambda *_: "url", home=home
        )

    made = Sensor(task_id="gate", model=describe(), claim=json.dumps(claim), step=0)
    context = {"ti": SimpleNamespace(dag_id="small.release", run_id="run", task_id="gate", map_index=-1, try_number=1)}
    return made, context, posted


def test_deferring_carries_the_watch(sensor: Any, watch: Watch) -> None:
    made, context, _ = sensor
    made.deferrable = True
    with pytest.raises(TaskDeferred) as deferred:
        made.execute(context)
    assert Watch.from_dict(deferred.value.trigger.watch) == replace(watch, correlation_id="c" * 32)
    assert deferred.value.trigger.look_every == 0.05


def test_a_pass_is_recorded_and_a_fail_is_final(sensor: Any) -> None:
    made, context, posted = sensor
    good = Answer("advance", "PASS", "no harm", {}, 0, 1010.0)
    assert made.execute_complete(context, {"status": "answer", "answer": good.to_dict()})["passed"]
    assert (posted[-1].outcome, posted[-1].subject, posted[-1].dag_run_id) == ("PASS", "sha256:two", "run")
    bad = Answer("roll_back", "FAIL", "errors: 40 %", {}, 0, 1010.0)
    with pytest.raises(AirflowFailException, match="gate at 10 % FAIL: errors: 40 %"):
        made.execute_complete(context, {"status": "answer", "answer": bad.to_dict()})
    assert posted[-1].outcome == "FAIL"
    with pytest.raises(AirflowFailException, match="taken over"):
        made.execute_complete(context, {"status": "fenced", "message": "by another"})
    with pytest.raises(TransientError):
        made.execute_complete(context, {"status": "error", "message": "OSError", "transient": True})


def test_a_registry_that_is_down_does_not_decide(sensor: Any) -> None:
    """DEMAND ROL-6"""
    made, context, _ = sensor

    def down(verdict: Any) -> None:
        raise UnavailableError("MLflow is down")

    type(made).hook.registry.post_verdict = down
    good = Answer("advance", "PASS", "no harm", {}, 0, 1010.0)
    assert made.execute_complete(context, {"status": "answer", "answer": good.to_dict()})["passed"]
