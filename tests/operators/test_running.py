"""Detached runs watched by a task: attach, cancel, worker death. The runner and its processes are real; Airflow's
answers about the task's state are played.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException
from waiting import until

from windtunnel.data import steps as data_steps
from windtunnel.errors import DataError, ResourceError, TrainingError, TransientError
from windtunnel.home import Home
from windtunnel.tracking import local
from windtunnel.tracking.contract import RunStatus
from windtunnel_airflow import ExtraStepOperator
from windtunnel_airflow.operators.running import ended_by_person, failure, goes_on

CASES = Path(__file__).parent / "cases"


class Store(dict[str, Any]):
    """Airflow's task state store, as far as it is used."""

    def set(self, key: str, value: Any) -> None:
        self[key] = value


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    made = Home(tmp_path / "home")
    yield made
    local.stop_all(made, reason="the test is over")


@pytest.fixture
def operator(
    home: Home, describe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., ExtraStepOperator]:
    monkeypatch.syspath_prepend(str(CASES))

    class Step(ExtraStepOperator):
        hook = SimpleNamespace(home=home)  # type: ignore[assignment]

    return lambda run, **more: Step(task_id="mine", model=describe(), run=run, poll=0.05, **more)


def context(store: Store | None = None, *, state: str = "running", cleared: int = 0, beside: int = 0) -> dict[str, Any]:
    ti = SimpleNamespace(
        dag_id="small.train", run_id="run", task_id="mine", map_index=-1, try_number=1, stats_tags={},
        max_tries=3 + cleared,
        get_task_states=lambda **_: {"run": {"mine": state}},
    )  # fmt: skip
    run = SimpleNamespace(dag_id="small.train", run_id="run", conf={}, run_type="manual", clear_number=cleared + beside)
    return {"ti": ti, "dag_run": run, "params": {}, "task_state_store": Store() if store is None else store}


def in_background(work: Callable[[], Any]) -> tuple[threading.Thread, dict[str, Any]]:
    told: dict[str, Any] = {}

    def run() -> None:
        try:
            told["answer"] = work()
        except BaseException as error:
            told["error"] = error

    thread = threading.Thread(target=run)
    thread.start()
    return thread, told


def run_id(store: Store) -> str:
    return str(store["windtunnel_run"]["run_id"])


def test_a_step_writes_what_it_promised(operator: Any) -> None:
    """DEMAND PIP-2, PIP-9"""
    answer = operator("wt_small:part", outputs=["part"], item="x").execute_resumable(context())
    found = data_steps.verify_input(data_steps.Output.from_dict(answer["outputs"]["part"]))
    assert found.read_text() == "part x"
    assert found.parts[-7:] == ("small.train", "runs", "run", "steps", "mine", "outputs", "part")


def test_a_condition_that_says_no_skips(operator: Any) -> None:
    with pytest.raises(AirflowSkipException, match="never"):
        operator("wt_small:unwanted", when="wt_small:never").execute_resumable(context())


def test_an_input_whose_step_was_skipped_skips(operator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = operator("wt_small:gather", inputs={"part": None})
    with pytest.raises(AirflowSkipException, match="part"):
        made.execute(context())


@pytest.mark.parametrize(
    ("function", "kind"), [("wt_small:broken", TrainingError), ("wt_small:poor_data", DataError),
                           ("wt_small:nowhere", TrainingError)],
)  # fmt: skip
def test_kinds_of_failure_reach_the_retry_policy(operator: Any, function: str, kind: type[Exception]) -> None:
    """DEMAND PIP-3"""
    with pytest.raises(kind) as error:
        operator(function).execute_resumable(context())
    assert type(error.value) is kind


def test_every_end_has_its_exception() -> None:
    kinds = {"data": DataError, "resource": ResourceError, "transient": TransientError, "code": TrainingError}
    for kind, error in kinds.items():
        assert type(failure(RunStatus("r", "failed", failure=kind, message="m"))) is error  # type: ignore[arg-type]
    assert isinstance(failure(RunStatus("r", "lost", failure="transient")), TransientError)
    assert isinstance(failure(RunStatus("r", "cancelled", failure="cancelled")), AirflowFailException)


@pytest.mark.parametrize(
    ("state", "person"),
    [("failed", True), ("success", True), ("restarting", True), ("removed", True), ("running", False),
     ("up_for_retry", False), ("queued", False), ("scheduled", False), (None, False)],
)  # fmt: skip
def test_who_ended_the_task(state: str | None, person: bool) -> None:
    assert ended_by_person(state) is person


def test_a_persons_cancel_ends_the_run(operator: Any, home: Home) -> None:
    """DEMAND TRN-7"""
    made, store = operator("wt_small:slow"), Store()
    thread, told = in_background(lambda: made.execute_resumable(context(store, state="failed")))
    until(lambda: "windtunnel_run" in store and local.status(home, run_id(store)).state == "running")
    began = time.monotonic()
    made.on_kill()
    thread.join(30)
    assert not thread.is_alive()
    assert time.monotonic() - began < 30
    assert isinstance(told["error"], AirflowFailException)
    assert local.status(home, run_id(store)).state == "cancelled"
    until(lambda: not list(local.running(home)))  # the runner itself goes a moment after its last word


def test_a_dying_worker_leaves_the_run_and_the_next_try_attaches(operator: Any, home: Home) -> None:
    """DEMAND PIP-5, TRN-7: one run, whatever happens to the task that watches it."""
    store = Store()
    first = operator("wt_small:slow")
    thread, told = in_background(lambda: first.execute_resumable(context(store)))
    until(lambda: "windtunnel_run" in store and local.status(home, run_id(store)).state == "running")
    first.on_kill()  # SIGTERM, and Airflow says the task is still wanted
    thread.join(90)
    assert isinstance(told["error"], TransientError)
    assert local.status(home, run_id(store)).state == "running"
    pid = local.status(home, run_id(store)).pid

    second = operator("wt_small:slow")
    thread, told = in_background(lambda: second.execute_resumable(context(store, state="failed")))
    time.sleep(1)
    assert thread.is_alive()
    assert local.status(home, run_id(store)).pid == pid
    assert len(list(home.runs.iterdir())) == 1
    second.on_kill()  # now a person ends it
    thread.join(30)
    assert local.status(home, run_id(store)).state == "cancelled"


def test_no_answer_from_airflow_is_no_order_to_end(operator: Any, home: Home) -> None:
    made, store = operator("wt_small:slow"), Store()
    given = context(store)

    def silent(**_: Any) -> Any:
        raise ConnectionError("the API server is down")

    given["ti"].get_task_states = silent
    thread, told = in_background(lambda: made.execute_resumable(given))
    until(lambda: "windtunnel_run" in store and local.status(home, run_id(store)).state == "running")
    made.on_kill()
    thread.join(90)
    assert isinstance(told["error"], TransientError)
    assert local.status(home, run_id(store)).state == "running"


def test_a_killed_runner_goes_on_under_the_same_id(operator: Any, home: Home) -> None:
    """DEMAND PIP-5"""
    made, store = operator("wt_small:slow"), Store()
    thread, told = in_background(lambda: made.execute_resumable(context(store)))
    until(lambda: "windtunnel_run" in store and local.status(home, run_id(store)).state == "running")
    before = run_id(store)
    pid = local.status(home, before).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    thread.join(90)
    assert isinstance(told["error"], TransientError)
    again = operator("wt_small:slow")
    thread, told = in_background(lambda: again.execute_resumable(context(store, state="failed")))
    until(lambda: local.status(home, before).attempt == 2 and local.status(home, before).state == "running")
    assert run_id(store) == before
    again.on_kill()
    thread.join(30)


def test_a_finished_run_is_not_repeated_unless_it_was_cleared(operator: Any, home: Home) -> None:
    """DEMAND PIP-5"""
    store = Store()
    step: dict[str, Any] = {"outputs": ["part"], "item": "x"}
    first = operator("wt_small:part", **step).execute_resumable(context(store))
    assert operator("wt_small:part", **step).execute_resumable(context(store)) == first
    # Airflow counts clearings for the DAG run: another task of it was cleared.
    assert operator("wt_small:part", **step).execute_resumable(context(store, beside=1)) == first
    assert len(list(home.runs.iterdir())) == 1
    operator("wt_small:part", **step).execute_resumable(context(store, cleared=1))
    assert len(list(home.runs.iterdir())) == 2
    # Other inputs are another run, too.
    operator("wt_small:part", outputs=["part"], item="y").execute_resumable(context(store, cleared=1))
    assert len(list(home.runs.iterdir())) == 3


@pytest.mark.parametrize(
    ("record", "state", "kind", "ended", "expected"),
    [
        ({}, "running", None, False, True),
        ({}, "starting", None, False, True),
        ({}, "running", None, True, False),
        ({}, "absent", None, False, True),
        ({}, "lost", "transient", False, True),
        ({}, "lost", "transient", True, False),
        ({}, "failed", "transient", False, True),
        ({"again": False}, "failed", "transient", False, True),
        ({}, "failed", "code", False, False),
        ({}, "failed", "data", False, False),
        ({}, "failed", "resource", False, False),
        ({}, "cancelled", "cancelled", False, False),
        ({}, "succeeded", None, False, True),
        ({"again": True}, "succeeded", None, False, False),
        ({"answered": True}, "succeeded", None, False, False),
    ],
)  # fmt: skip
def test_what_a_cleared_task_goes_on_with(record: Any, state: Any, kind: Any, ended: bool, expected: bool) -> None:
    """DEMAND PIP-5"""
    assert goes_on(record, RunStatus("r", state, failure=kind), ended) is expected


def test_a_cleared_task_attaches_to_its_run_and_brings_home_what_it_made(
    operator: Any, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEMAND PIP-5, TRN-7: the task failed, and its run did not: nothing begins anew."""
    store = Store()
    first = operator("wt_small:slow")
    thread, _ = in_background(lambda: first.execute_resumable(context(store)))
    until(lambda: "windtunnel_run" in store and local.status(home, run_id(store)).state == "running")
    first.on_kill()  # its worker goes, and no try is left
    thread.join(90)
    before = run_id(store)
    pid = local.status(home, before).pid
    again = operator("wt_small:slow")
    thread, _ = in_background(lambda: again.execute_resumable(context(store, cleared=1, state="restarting")))
    until(lambda: store["windtunnel_run"]["cleared"] == 4)
    assert (run_id(store), local.status(home, before).pid) == (before, pid) and thread.is_alive()
    again.on_kill()  # cleared while it runs: the person wants another
    thread.join(30)
    assert local.status(home, before).state == "cancelled"
    made = operator("wt_small:part", outputs=["part"], item="x")

    def unable(*_: Any) -> Any:
        raise TransientError("MLflow is away")

    with monkeypatch.context() as patch:
        patch.setattr(made, "finish", unable)
        with pytest.raises(TransientError, match="away"):
            made.execute_resumable(context(store, cleared=2))
    assert run_id(store) != before, "what a person ended is not gone on with"
    before = run_id(store)
    assert operator("wt_small:part", outputs=["part"], item="x").execute_resumable(context(store, cleared=3))
    assert run_id(store) == before and local.status(home, before).attempt == 1
    operator("wt_small:part", outputs=["part"], item="x").execute_resumable(context(store, cleared=4))
    assert run_id(store) != before, "it had its answer"


def test_the_run_id_is_the_same_until_the_run_has_ended(operator: Any) -> None:
    """A worker that dies between making the id and storing it makes the same one again."""
    made, given = operator("wt_small:part"), context()
    assert made.submit_job(given) == made.submit_job(given)
    given["task_state_store"].set("windtunnel_run", made.submit_job(given))
    assert made.submit_job(given)["run_id"] != given["task_state_store"]["windtunnel_run"]["run_id"]
