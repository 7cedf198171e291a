"""DEMAND ROL-8: orders x states x roles, every cell said once."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

from windtunnel.registry.orders import KINDS, FreezeRecord, OrderRecord, Standing, question, standing
from windtunnel_mlflow.access import answers
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.releases.orderrules import Caller, Wish, check_freeze, check_order, check_reason

CALLERS = {
    "admin": Caller("admin", service=False, may_edit=True, admin=True),
    "editor": Caller("ada", service=False, may_edit=True),
    "reader": Caller("rob", service=False, may_edit=False),
    "service": Caller("service", service=True, may_edit=False),
    "service for ann": Caller("service", service=True, may_edit=False, on_behalf_of="ann"),
    "service with ann's answer": Caller("service", service=True, may_edit=False, answered="airflow:ann"),
}
STATES = ("running", "promoting", "promoted", "rolled_back", "withdrawn")
PLAN = {"steps": [{"weight": 5}, {"weight": 25}, {"weight": 50}]}


def rollout(state: str = "running", step: int | None = 1) -> dict[str, Any]:
    return {
        "id": "r", "model": "m", "version": "2", "state": state, "step": step, "plan": PLAN, "opened_at": 1000.0,
    }  # fmt: skip


def placed(kind: Any, seq: int = 1, step: int | None = None) -> OrderRecord:
    return OrderRecord(seq, "r", "m", "2", kind, "as said", "ann", 1001.0, step=step)


#: What stood before, by name.
BEFORE = {
    "nothing": Standing(),
    "paused": standing([placed("pause")]),
    "resumed": standing([placed("pause"), placed("resume", 2)]),
    "skipped": standing([placed("skip", step=1)]),
    "promoted": standing([placed("promote")]),
    "aborted": standing([placed("abort")]),
    "frozen": Standing(frozen=("every rollout frozen by bob: fire",)),
    "paused and frozen": standing([placed("pause")], ["every rollout frozen by bob: fire"]),
}
#: kinds that are taken, by what stood before, from somebody who may; the rest is refused with the code.
SENSE = {
    "nothing": ({"pause", "skip", "promote", "abort"}, "WT_ORDER"),
    "paused": ({"resume", "abort"}, "WT_ORDER"),
    "resumed": ({"pause", "skip", "promote", "abort"}, "WT_ORDER"),
    "skipped": ({"pause", "promote", "abort"}, "WT_ORDER"),
    "promoted": ({"pause", "abort"}, "WT_ORDER"),
    "aborted": (set(), "WT_ORDER"),
    "frozen": ({"pause", "abort"}, None),
    "paused and frozen": ({"resume", "abort"}, None),
}


def expected(kind: str, who: str, state: str, before: str) -> str | None:
    """The code that refuses this cell; None where the order is taken."""
    if who == "reader" or who == "service" or (who == "service for ann" and kind in ("skip", "promote")):
        return "WT_ROLE"
    if state not in ("running", "promoting"):
        return "WT_ENDED"
    taken, code = SENSE[before]
    if before != "aborted" and state == "promoting" and kind in ("skip", "promote"):
        return "WT_ORDER"
    if kind in taken:
        return None
    if code is None:
        return "WT_FROZEN" if kind in ("skip", "promote") else "WT_ORDER"
    return code


@pytest.mark.parametrize(
    ("kind", "who", "state", "before"), list(itertools.product(KINDS, CALLERS, STATES, BEFORE)), ids=str
)
def test_every_cell(kind: str, who: str, state: str, before: str) -> None:
    found = check_order(Wish(kind, "why"), CALLERS[who], rollout(state), BEFORE[before], 2000.0)
    assert (found.code if found else None) == expected(kind, who, state, before)
    if found is not None:
        assert found.status == (403 if found.code == "WT_ROLE" else 409)


@pytest.mark.parametrize(
    ("present", "wanted", "code"),
    [(None, 0, None), (1, None, None), (1, 1, None), (1, 2, None), (1, 0, "WT_ORDER"), (1, 3, "WT_ORDER")],
)
def test_a_step_that_is_past_or_not_there_cannot_be_skipped(
    present: int | None, wanted: int | None, code: str | None
) -> None:
    found = check_order(Wish("skip", "why", wanted), CALLERS["editor"], rollout(step=present), Standing(), 2000.0)
    assert (found.code if found else None) == code


def test_a_plan_without_steps_bounds_no_skip() -> None:
    bare = {**rollout(), "plan": {}}
    assert check_order(Wish("skip", "why", 7), CALLERS["editor"], bare, Standing(), 2000.0) is None


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        (Wish("stop", "why"), "WT_REQUEST"),
        (Wish("pause", "why", step=1), "WT_REQUEST"),
        (Wish("pause", "why", done_at=1500.0), "WT_REQUEST"),
        (Wish("abort", "why", done_at=900.0), "WT_REQUEST"),
        (Wish("abort", "why", done_at=3000.0), "WT_REQUEST"),
        (Wish("abort", "why", done_at=math.nan), "WT_REQUEST"),
        (Wish("abort", "why", done_at=1500.0), None),
    ],
)
def test_the_form(wish: Wish, code: str | None) -> None:
    found = check_order(wish, CALLERS["editor"], rollout(), Standing(), 2000.0)
    assert (found.code if found else None) == code


@pytest.mark.parametrize(("state", "code"), [("rolled_back", None), ("withdrawn", None), ("promoted", "WT_ENDED")])
def test_an_abort_that_was_done_is_told_later(state: str, code: str | None) -> None:
    """DEMAND ROL-6: the registry was down when traffic was moved; it may have been closed by others since."""
    told = Wish("abort", "complaints", done_at=1500.0)
    found = check_order(told, CALLERS["service for ann"], rollout(state), BEFORE["aborted"], 2000.0)
    assert (found.code if found else None) == code


@pytest.mark.parametrize("reason", ["", "   ", "\n", None, 7, "x" * 2001])
def test_a_reason_says_something(reason: Any) -> None:
    with pytest.raises(Refusal, match="expected a reason"):
        check_reason(reason)
    assert check_reason("  too slow ") == "too slow"


@pytest.mark.parametrize(
    ("scope", "target", "who", "lift", "code"),
    [
        ("all", "", "admin", False, None),
        ("all", "", "editor", False, "WT_ROLE"),
        ("all", "", "reader", False, "WT_ROLE"),
        ("all", "", "service", False, "WT_ROLE"),
        ("all", "", "service for ann", False, None),
        ("all", "", "service for ann", True, "WT_ROLE"),
        ("all", "", "admin", True, None),
        ("all", "", "editor", True, "WT_ROLE"),
        ("owner", "team", "admin", False, None),
        ("owner", "team", "editor", False, "WT_ROLE"),
        ("model", "m", "editor", False, None),
        ("model", "m", "editor", True, None),
        ("model", "m", "reader", False, "WT_ROLE"),
        ("model", "m", "reader", True, "WT_ROLE"),
        ("model", "m", "admin", True, None),
        ("model", "", "admin", False, "WT_REQUEST"),
        ("owner", "", "admin", False, "WT_REQUEST"),
        ("all", "m", "admin", False, "WT_REQUEST"),
        ("house", "", "admin", False, "WT_REQUEST"),
    ],
)
def test_who_freezes_what(scope: str, target: str, who: str, lift: bool, code: str | None) -> None:
    """DEMAND ROL-6: one switch freezes all rollouts."""
    found = check_freeze(scope, target, CALLERS[who], ["frozen by bob"] if lift else [], lift=lift)
    assert (found.code if found else None) == code


def test_a_freeze_is_set_once_and_lifted_once() -> None:
    again = check_freeze("all", "", CALLERS["admin"], ["frozen by bob: fire"], lift=False)
    gone = check_freeze("all", "", CALLERS["admin"], [], lift=True)
    assert again is not None and gone is not None
    assert (again.code, gone.code) == ("WT_FROZEN", "WT_FROZEN")
    assert "bob: fire" in again.plain


@pytest.mark.parametrize("kind", KINDS)
def test_a_first_release_that_is_watched_is_held_or_taken_back(kind: str) -> None:
    """DEMAND ROL-8, ROL-10: it has no steps to skip, and is champion already."""
    watched = {**rollout("promoted", None), "watching": True}
    found = check_order(Wish(kind, "why"), CALLERS["editor"], watched, Standing(), 2000.0)
    taken = kind in ("pause", "abort")
    assert (found is None) == taken
    if kind in ("skip", "promote"):
        assert found is not None and "first release" in str(found) and "abort" in str(found)


def test_a_person_who_answered_may_lift_a_freeze() -> None:
    assert check_freeze("all", "", CALLERS["service with ann's answer"], ["frozen by bob"], lift=True) is None
    found = check_freeze("all", "", CALLERS["service for ann"], ["frozen by bob"], lift=True)
    assert found is not None and found.code == "WT_ROLE"


# -- the answer that Airflow itself tells

TASK = {"dag_id": "windtunnel.control", "dag_run_id": "run", "task_id": "approve", "map_index": -1}
WANTED = question("skip", "m", "2", "r", 1)
YES = {"subject": WANTED, "chosen_options": ["Approve"], "responded_by_user": {"id": "7", "name": "ann"}}


def test_the_person_who_answered_is_named() -> None:
    """DEMAND ROL-8: the answer of a logged-in person counts, nothing a worker holds does."""
    assert answers.approved_by(lambda task: YES, TASK, WANTED) == "ann"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"responded_by_user": None}, "no person"),
        ({"responded_by_user": {"id": "7", "name": ""}}, "no person"),
        ({"chosen_options": ["Reject"]}, "Reject"),
        ({"chosen_options": None}, "None"),
        ({"chosen_options": ["Approve", "Reject"]}, "Reject"),
        ({"subject": question("promote", "m", "2", "r")}, "expected 'skip step 2"),
        ({"subject": question("skip", "m", "2", "r", 2)}, "expected 'skip step 2"),
        ({"subject": question("skip", "m", "2", "other", 1)}, "rollout r'"),
    ],
)
def test_another_answer_is_no_approval(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(Refusal, match=says) as refused:
        answers.approved_by(lambda task: {**YES, **changed}, TASK, WANTED)
    assert refused.value.code == "WT_ANSWER"


def test_only_the_control_dag_asks() -> None:
    with pytest.raises(Refusal, match=r"windtunnel\.control"):
        answers.approved_by(lambda task: YES, {**TASK, "dag_id": "mine"}, WANTED)


def test_an_airflow_that_nobody_named_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WINDTUNNEL_HOME", answers.ENV_URL):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Refusal, match="knows no Airflow"):
        answers.from_airflow(TASK)
    monkeypatch.setenv(answers.ENV_URL, "http://127.0.0.1:9")
    with pytest.raises(Refusal, match="cannot be asked"):
        answers.from_airflow(TASK)


def test_a_freeze_of_an_owner_holds_the_owners_models() -> None:
    freeze = FreezeRecord("f", "owner", "team", "holidays", "bob", 1.0, models=("a",))
    assert freeze.holds("a") and freeze.holds("b", "team")
    assert not freeze.holds("b") and not freeze.holds("b", "others")
