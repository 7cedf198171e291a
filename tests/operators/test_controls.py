"""DEMAND ROL-8: orders through Airflow: what is passed on, what waits for a person, whose name it bears."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from windtunnel.errors import FencedError, NotFoundError, RefusedError, UnavailableError
from windtunnel.home import Home
from windtunnel.registry.orders import KINDS, FreezeRecord, OrderRecord, thaw_question
from windtunnel.registry.records import RolloutRecord
from windtunnel.serving import desired
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.place import at_home
from windtunnel.serving.release import outbox
from windtunnel_airflow import ChooseControlOperator, EvidenceOperator, OrderOperator, control_dag

ROLLOUT = RolloutRecord("r1", "small", "2", "1", 7, "h", "running", 1000.0, 1000.0, step=1, weight=50)


class Registry:
    """The wire to the registry: one rollout, and what was ordered of it."""

    def __init__(self, *rollouts: RolloutRecord, error: Exception | None = None) -> None:
        self.found, self.error = list(rollouts), error
        self.given: list[dict[str, Any]] = []
        self.frozen: list[FreezeRecord] = []

    def rollouts(self, model: str, limit: int = 100) -> list[RolloutRecord]:
        if not self.found:
            raise NotFoundError(f"no model {model!r}")
        return self.found

    def rollout(self, identifier: str) -> RolloutRecord:
        return self.found[0]

    def freezes(self, *, lifted: bool = False) -> list[FreezeRecord]:
        return [one for one in self.frozen if lifted or one.lifted_at is None]

    def freeze(self, reason: str, *, scope: Any, target: str | None, on_behalf_of: str) -> FreezeRecord:
        made = FreezeRecord(f"f{len(self.frozen)}", scope, target or "", reason, on_behalf_of, 1.0, claimed=True)
        self.frozen.append(made)
        return made

    def thaw(self, freeze_id: str, reason: str, *, answer: Any) -> FreezeRecord:
        self.given.append({"thaw": freeze_id, "reason": reason, "answer": answer})
        (at,) = [n for n, one in enumerate(self.frozen) if one.id == freeze_id]
        self.frozen[at] = replace(self.frozen[at], lifted_at=2.0, lifted_by="airflow:ann", lifted_reason=reason)
        return self.frozen[at]

    def order(self, rollout_id: str, kind: Any, reason: str, **more: Any) -> OrderRecord:
        if self.error is not None:
            raise self.error
        self.given.append({"rollout": rollout_id, "kind": kind, "reason": reason, **more})
        return OrderRecord(1, rollout_id, "small", "2", kind, reason, str(more.get("on_behalf_of")), 1.0)


@pytest.fixture
def flown(tmp_path: Path) -> Callable[..., tuple[Any, Registry]]:
    """Make one of the operators with its templates rendered, over this registry."""

    def make(
        kind: type, order: str = "pause", *, registry: Registry | None = None, **more: Any
    ) -> tuple[Any, Registry]:
        wire = registry or Registry(ROLLOUT)
        home = Home(tmp_path)
        place = at_home(home)
        hook = SimpleNamespace(registry=wire, home=home, place=place, looks=place.looks)
        typed = type(kind.__name__, (kind,), {"hook": hook})
        return typed(task_id="t", model="small", order=order, reason="because", **more), wire

    return make


def context(person: str | None = "ann") -> dict[str, Any]:
    return {
        "ti": SimpleNamespace(dag_id="windtunnel.control", run_id="manual__1", task_id="order", map_index=-1),
        "dag_run": SimpleNamespace(triggering_user_name=person),
    }


@pytest.mark.parametrize("order", [*KINDS, "freeze", "thaw"])
def test_bold_orders_go_through_a_person(flown: Any, order: str) -> None:
    choose, _ = flown(ChooseControlOperator, order, direct="order", asked="evidence")
    assert choose.choose_branch(context()) == ("evidence" if order in ("skip", "promote", "thaw") else "order")


@pytest.mark.parametrize(
    ("order", "given", "says"),
    [
        ("pause", {"model": " "}, "pause needs the model"),
        ("freeze", {"model": ""}, "needs the model: fill it in"),
        ("thaw", {"scope": "owner"}, "needs the owner: fill it in"),
        ("freeze", {"scope": "house"}, "expected one of all, owner, model"),
    ],
)
def test_what_is_missing_is_named(flown: Any, order: str, given: dict[str, str], says: str) -> None:
    choose, _ = flown(ChooseControlOperator, order, direct="order", asked="evidence")
    for name, value in given.items():
        setattr(choose, name, value)
    with pytest.raises(AirflowFailException, match=says):
        choose.choose_branch(context())


@pytest.mark.parametrize(
    ("scope", "owner", "target"), [("all", "", ""), ("owner", "team-blue", "team-blue"), ("model", "", "small")]
)
def test_a_freeze_bears_the_name_of_who_triggered_it_and_is_lifted_by_an_answer(
    flown: Any, scope: str, owner: str, target: str
) -> None:
    """DEMAND ROL-6, ROL-8: set by whoever triggered it, as claimed; lifted only by what a person answered."""
    freeze, registry = flown(OrderOperator, "freeze", scope=scope, whose=owner)
    frozen = freeze.execute(context())
    assert (frozen["scope"], frozen["target"], frozen["by"], frozen["claimed"]) == (scope, target, "airflow:ann", True)
    assert freeze.execute(context())["id"] == frozen["id"], "tried again: the same freeze"
    with pytest.raises(AirflowFailException, match="nobody"):
        freeze.execute(context(None))

    asked = flown(EvidenceOperator, "thaw", registry=registry, scope=scope, whose=owner)[0].execute(context())
    assert asked["subject"] == thaw_question(registry.frozen[0]) and frozen["id"] in asked["subject"]
    assert "because" in asked["body"] and registry.frozen[0].sentence in asked["body"]
    with pytest.raises(AirflowFailException, match="only after a person's answer"):
        flown(OrderOperator, "thaw", registry=registry, scope=scope, whose=owner)[0].execute(context())
    thaw, _ = flown(OrderOperator, "thaw", registry=registry, scope=scope, whose=owner, asked=asked)
    assert thaw.execute(context())["lifted_by"] == "airflow:ann"
    thaw.execute(context())  # tried again: it is lifted already
    (given,) = registry.given
    assert given["answer"]["task_id"] == "approve" and given["thaw"] == frozen["id"]
    with pytest.raises(AirflowFailException, match="no such freeze stands"):
        flown(EvidenceOperator, "thaw", registry=registry, scope=scope, whose=owner)[0].execute(context())


def test_a_first_release_that_is_watched_takes_orders(flown: Any) -> None:
    """DEMAND ROL-8, ROL-10."""
    watched = replace(ROLLOUT, state="promoted", champion=None, watching=True)
    task, registry = flown(OrderOperator, "pause", registry=Registry(watched))
    task.execute(context())
    assert registry.given[0]["kind"] == "pause"


@pytest.mark.parametrize(("order", "reason"), [("stop", "x"), ("pause", "  ")])
def test_what_is_no_order_goes_nowhere(flown: Any, order: str, reason: str) -> None:
    choose, _ = flown(ChooseControlOperator, order, direct="order", asked="evidence")
    choose.reason = reason
    with pytest.raises(AirflowFailException):
        choose.choose_branch(context())


@pytest.mark.parametrize("order", ["pause", "resume"])
def test_an_order_bears_the_name_of_who_triggered_it(flown: Any, order: str) -> None:
    task, registry = flown(OrderOperator, order)
    task.execute(context())
    again = flown(OrderOperator, order, registry=registry)[0]
    again.execute(context())  # tried again: the same order
    assert [given["on_behalf_of"] for given in registry.given] == ["airflow:ann"] * 2
    assert registry.given[0] == registry.given[1] and len(registry.given[0]["key"]) < 128
    assert "answer" not in registry.given[0]


@pytest.mark.parametrize("order", ["pause", "resume", "abort"])
def test_nobodys_order_is_not_passed_on(flown: Any, order: str) -> None:
    task, registry = flown(OrderOperator, order)
    with pytest.raises(AirflowFailException, match="nobody"):
        task.execute(context(None))
    assert registry.given == []


@pytest.mark.parametrize(("order", "step"), [("skip", 1), ("promote", None)])
def test_the_question_shows_the_evidence_and_names_exactly_what_is_ordered(
    flown: Any, order: str, step: int | None
) -> None:
    task, _ = flown(EvidenceOperator, order)
    asked = task.execute(context())
    assert asked["step"] == step and asked["rollout_id"] == "r1"
    word = "skip step 2" if order == "skip" else "promote"
    assert asked["subject"] == f"{word}: small version 2, rollout r1"
    for text in ("ann", "because", "version 2 against champion 1", "2: 50 %"):
        assert text in asked["body"]
    json.dumps(asked)


def test_the_look_log_knows_the_step_better_than_the_registry(flown: Any, tmp_path: Path) -> None:
    from windtunnel.rollout import Evidence, Plan, RolloutState, decide, look_record
    from windtunnel.serving.release.looklog import LookLog
    from windtunnel.spec import Rollout

    plan = Plan.from_spec(Rollout(), False)
    state = replace(RolloutState.begin(champion="1", candidate="2", at=1000.0), step=2)
    evidence = Evidence(traffic_error="down", digest_ok=True)
    LookLog(Home(tmp_path), "small").append(look_record("r1", 1000.0, evidence, decide(plan, state, evidence, 1000.0)))
    asked = flown(EvidenceOperator, "skip")[0].execute(context())
    assert asked["step"] == 2 and asked["subject"].startswith("skip step 3")
    assert "traffic numbers cannot be read" in asked["body"]


@pytest.mark.parametrize(("order", "step"), [("skip", 1), ("promote", None)])
def test_the_answer_is_named_and_not_told(flown: Any, order: str, step: int | None) -> None:
    """The registry reads it from Airflow itself: the task only says where."""
    task, registry = flown(OrderOperator, order, asked={"rollout_id": "r1", "step": step})
    task.execute(context())
    (given,) = registry.given
    assert given["answer"] == {
        "dag_id": "windtunnel.control", "dag_run_id": "manual__1", "task_id": "approve", "map_index": -1,
    }  # fmt: skip
    assert given["step"] == step and "on_behalf_of" not in given


@pytest.mark.parametrize("error", [RefusedError("it makes no sense", code="WT_ORDER"), FencedError("x")])
def test_a_refusal_is_final(flown: Any, error: Exception) -> None:
    task, _ = flown(OrderOperator, "pause", registry=Registry(ROLLOUT, error=error))
    expected = AirflowFailException if isinstance(error, RefusedError) else FencedError
    with pytest.raises(expected):
        task.execute(context())


def test_a_registry_that_is_down_is_tried_again(flown: Any) -> None:
    task, _ = flown(OrderOperator, "pause", registry=Registry(ROLLOUT, error=UnavailableError("down")))
    with pytest.raises(UnavailableError):
        task.execute(context())


@pytest.mark.parametrize("registry", [Registry(), Registry(replace(ROLLOUT, state="promoted"))])
@pytest.mark.parametrize("order", ["pause", "abort"])
def test_no_running_release_is_said(flown: Any, registry: Registry, order: str) -> None:
    task, _ = flown(OrderOperator, order, registry=registry)
    with pytest.raises(AirflowFailException, match=r"no release of small is running|no model"):
        task.execute(context())


def expose(home: Home) -> desired.StateFile:
    file = desired.StateFile(home, "small")
    release = Release(
        "small", Arm("1", "sha256:1", "models:/m/1", 90), (Arm("2", "sha256:2", "models:/m/2", 10),),
        token=7, rollout_id="r1", lease_until=2e9,
    )  # fmt: skip
    with file.locked() as state:
        file.write(replace(state, release=release))
    return file


def test_abort_moves_traffic_first(flown: Any, tmp_path: Path) -> None:
    """DEMAND ROL-6: also with the registry down; it is told later, once."""
    file = expose(Home(tmp_path))
    task, registry = flown(OrderOperator, "abort", registry=Registry(ROLLOUT, error=UnavailableError("down")))
    assert task.execute(context()) == {"kind": "abort", "aborted": "because", "told": False}
    assert file.read().release.candidates[0].weight == 0
    (note,) = outbox.pending(Home(tmp_path))
    assert (note.by, note.reason, note.rollout_id) == ("airflow:ann", "because", "r1")
    registry.error = None
    assert task.execute(context())["told"] is True  # tried again
    assert outbox.pending(Home(tmp_path)) == []
    (given,) = registry.given
    assert (given["kind"], given["on_behalf_of"], given["done_at"]) == ("abort", "airflow:ann", note.at)


def test_abort_of_a_release_that_waits_is_an_order(flown: Any) -> None:
    task, registry = flown(OrderOperator, "abort")
    assert task.execute(context())["told"] is True
    assert registry.given == [{"rollout": "r1", "kind": "abort", "reason": "because", "on_behalf_of": "airflow:ann"}]


def test_the_dag_asks_before_bold_orders() -> None:
    dag = control_dag()
    assert dag.dag_id == "windtunnel.control"
    edges = {task.task_id: sorted(task.downstream_task_ids) for task in dag.tasks}
    assert edges == {
        "choose": ["evidence", "order"], "order": [], "evidence": ["approve", "order_approved"],
        "approve": ["order_approved"], "order_approved": [],
    }  # fmt: skip
    assert list(dag.params.get_param("order").schema["enum"]) == [*KINDS, "freeze", "thaw"]
    assert dag.params.get_param("reason").schema["minLength"] == 1
    for name in ("model", "owner"):  # the form must not ask for what an order does not need
        assert "null" in dag.params.get_param(name).schema["type"]
