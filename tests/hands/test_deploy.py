"""Deploying in a cluster: begun by the task, waited for in the triggerer, ended by the task (DEMAND SRV-2)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from airborne import description
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from windtunnel import Model
from windtunnel.errors import FencedError, NotReadyError, TransientError, UnavailableError
from windtunnel_airflow import DeployOperator
from windtunnel_airflow.base import Windtunnel
from windtunnel_airflow.triggers import DeployTrigger

CLAIM: dict[str, Any] = {
    "model": "small", "version": "2", "digest": "sha256:2", "champion": {"version": "1", "digest": "sha256:1"},
    "first": False, "rollout_id": "r1", "token": 7, "holder": "h", "lease_s": 60.0, "keep_warm_s": 60.0, "beside": [],
    "correlation_id": "c", "cause": "a test", "audience": None, "segment_header": None, "segments": [],
    "plan": {}, "weights": [10],
}  # fmt: skip


class Backend:
    """Says what a test wants, and notes what it was asked."""

    def __init__(self, waits: list[str], looks: list[Any] | None = None) -> None:
        self.waits, self.looks = waits, looks or []
        self.asked: list[tuple[str, Any]] = []

    def begin(self, release: Any) -> list[str]:
        self.asked.append(("begin", release.token))
        return self.waits

    def unready(self, model: str, token: int) -> str | None:
        self.asked.append(("unready", (model, token)))
        found = self.looks.pop(0)
        if isinstance(found, Exception):
            raise found
        return found  # type: ignore[no-any-return]

    def apply(self, release: Any, **waited: float) -> Any:
        self.asked.append(("apply", waited))
        return SimpleNamespace(arms={"2": SimpleNamespace(ready=True, weight=0)}, model=release.model)

    def check_target(self, model: str) -> list[str]:
        return []


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    made = SimpleNamespace(
        backend=lambda: made.serving, now=time.time, seldon_conn_id="cluster", home=None, object_store=None,
        registry=SimpleNamespace(update_rollout=lambda *_, **__: None), version_url=lambda *_: "",
    )  # fmt: skip
    monkeypatch.setattr(Windtunnel, "hook", property(lambda self: made))
    monkeypatch.setattr("windtunnel_airflow.operators.traffic.settings_for", lambda *_, **__: {})
    yield made


def task(*, target: str = "kubernetes", deferrable: bool = True) -> Any:
    plain = description().to_dict()
    plain["target"], plain["training"]["target"] = target, "local"
    model = Model.model_validate(plain)
    return DeployOperator(task_id="deploy", model=model, claim=CLAIM | {"model": model.name}, deferrable=deferrable)


def context() -> dict[str, Any]:
    return {"ti": SimpleNamespace(dag_id="d", run_id="r", task_id="deploy", try_number=1)}


def execute(made: Any) -> Any:
    return type(made).execute.__wrapped__(made, context())


def test_what_comes_up_is_waited_for_in_the_triggerer(hook: SimpleNamespace) -> None:
    hook.serving = Backend(["2"])
    made = task()
    with pytest.raises(TaskDeferred) as left:
        execute(made)
    trigger = left.value.trigger
    assert isinstance(trigger, DeployTrigger)
    where, given = trigger.serialize()
    assert where == "windtunnel_airflow.triggers.DeployTrigger"
    assert (given["token"], given["seldon_conn_id"]) == (7, "cluster")
    limit = made.description.serving.ready_within.total_seconds()
    assert given["within_s"] == limit
    began = given["began"]
    assert DeployTrigger(**given).serialize() == (where, given)
    found = made.deployed(context(), {"status": "over", "began": began})
    assert found == {"ready": {"2": True}}
    assert hook.serving.asked == [("begin", 7), ("apply", {"since": began})]


@pytest.mark.parametrize(
    ("target", "deferrable", "waits"),
    [("kubernetes", True, []), ("kubernetes", False, ["2"]), ("local", True, ["2"])],
    ids=["all are up", "told to wait itself", "this machine"],
)
def test_else_the_task_itself_does_all(hook: SimpleNamespace, target: str, deferrable: bool, waits: list[str]) -> None:
    hook.serving = Backend(waits)
    assert execute(task(target=target, deferrable=deferrable)) == {"ready": {"2": True}}
    assert hook.serving.asked[-1] == ("apply", {})


def test_another_try_that_has_gone_further_is_told_by_apply(hook: SimpleNamespace) -> None:
    hook.serving = Backend([])

    def fenced(release: Any) -> Any:
        raise FencedError("come further")

    hook.serving.begin = fenced
    assert execute(task()) == {"ready": {"2": True}}


@pytest.mark.parametrize(
    ("looks", "left"),
    [
        (["its pods are not available", None], 0),
        ([UnavailableError("the API is away"), None], 0),
        ([NotReadyError("it cannot be loaded"), None], 1),
        ([FencedError("taken over"), None], 1),
    ],
    ids=["ready later", "API away", "never", "taken over"],
)
def test_the_trigger_ends_when_there_is_nothing_to_wait_for(
    looks: list[Any], left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = Backend([], looks)
    monkeypatch.setattr(DeployTrigger, "backend", lambda self: serving)
    trigger = DeployTrigger("small", 7, 5e9, 60.0, "windtunnel_default", "cluster", poll=0.01)
    assert event_of(trigger) == {"status": "over", "began": 5e9}
    assert len(serving.looks) == left
    assert serving.asked[0] == ("unready", ("small", 7))


def test_the_trigger_ends_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeployTrigger, "backend", lambda self: Backend([], ["not yet"]))
    assert event_of(DeployTrigger("small", 7, 100.0, 60.0, "w", "c", poll=3600)) == {"status": "over", "began": 100.0}


@pytest.mark.parametrize(("error", "kind"), [(ValueError("odd"), TransientError)])
def test_what_nobody_thought_of_is_an_event(
    error: Exception, kind: type[Exception], hook: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DeployTrigger, "backend", lambda self: Backend([], [error]))
    event = event_of(DeployTrigger("small", 7, 5e9, 60.0, "w", "c"))
    assert event == {"status": "error", "message": "ValueError: odd", "transient": True}
    with pytest.raises(kind):
        task().deployed(context(), event)
    with pytest.raises(AirflowFailException):
        task().deployed(context(), event | {"transient": False})


def event_of(trigger: DeployTrigger) -> dict[str, Any]:
    async def first() -> Any:
        return await anext(trigger.run())

    return asyncio.run(first()).payload  # type: ignore[no-any-return]
