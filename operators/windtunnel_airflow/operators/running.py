"""Start a detached run, watch it, end with what it ended with: shared by training and the team's own steps.

The run is a process of its own (``windtunnel.tracking.local``), keyed by its run id. The task only watches:

* A retry finds the id in Airflow's task state store and goes on watching (``ResumableJobMixin``). The run id is made
  by key and stored *before* anything starts, and starting a started run does nothing, so there is no gap in which a
  dying worker could lose or double a run (PIP-5).
* SIGTERM reaches the task for two reasons: a person ended it, or its worker is going down. ``on_kill`` cannot tell
  them apart, so it only notes the signal; the watching loop then asks Airflow what became of the task. Ended by a
  person: the run is cancelled. Anything else, or no answer: the run goes on and the next try attaches to it (TRN-7).
* A task that has failed and is cleared goes on with a run that did not: see ``goes_on``.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import ResumableJobMixin
from airflow.sdk.exceptions import AirflowFailException

from windtunnel.errors import DataError, ResourceError, TrainingError, TransientError
from windtunnel_airflow.base import WindtunnelOperator, run_coordinates
from windtunnel_airflow.code import import_roots

if TYPE_CHECKING:
    from windtunnel.tracking.contract import RunResult, RunSpec, RunStatus

#: Task states that only a person's act can give to a task that is running here.
ENDED_BY_PERSON = frozenset({"failed", "success", "skipped", "upstream_failed", "removed", "restarting"})

ACTIVE = frozenset({"starting", "running"})
#: Ends from which the same run id goes on: never started, its runner died without a word, something outside failed.
CONTINUED = frozenset({"absent", "lost", "interrupted"})

_ERRORS: dict[str, type[TrainingError] | type[DataError]] = {
    "data": DataError,
    "resource": ResourceError,
    "transient": TransientError,
    "code": TrainingError,
}


def failure(status: RunStatus) -> Exception:
    """The exception that carries a run's kind of failure to the retry policy."""
    if status.state == "cancelled" or status.failure == "cancelled":
        return AirflowFailException(f"run {status.run_id} was cancelled: {status.message}")
    kind = _ERRORS.get(status.failure or "transient", TrainingError)
    return kind(f"run {status.run_id} failed ({status.failure or status.state}): {status.message}")


def ended_by_person(state: str | None) -> bool:
    """Whether a task in this state was ended by a person (or, with no try left, by the scheduler)."""
    return state is not None and str(state).lower() in ENDED_BY_PERSON


def goes_on(record: Mapping[str, Any], status: RunStatus, ended: bool) -> bool:
    """Whether a task that a person has cleared goes on with its run: what failed beside it trains nothing twice.

    Pure. One that lives is attached to; one that something outside stopped goes on from its last checkpoint; what was
    made and could not be returned is returned, once: it may be what cannot be. All else begins anew.

    Args:
        record: what the task keeps of its run; ``answered`` once it has returned it, ``again`` once it was tried anew.
        status: the run's, now.
        ended: a person wanted it ended.
    """
    if ended or record.get("answered"):
        return False
    if status.state == "succeeded":
        return not record.get("again")
    return status.state in ACTIVE | CONTINUED or (status.state == "failed" and status.failure == "transient")


class RunnerOperator(ResumableJobMixin, WindtunnelOperator):
    """Base of the operators that run the team's code in a detached process.

    Args:
        poll: seconds between two looks at the run.
    """

    external_id_key = "windtunnel_run"

    def __init__(self, *, poll: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.poll = poll
        self.stop_asked = False

    # -- what the subclass says
    @abstractmethod
    def run_spec(self, run_id: str, context: Any) -> RunSpec:
        """Everything the run needs."""

    @abstractmethod
    def make_run_id(self, key: str, context: Any) -> str:
        """The run id for ``key``: the same for the same key, made if need be."""

    @abstractmethod
    def inputs_digest(self) -> str:
        """Changes when the run would work on other inputs or parameters."""

    @abstractmethod
    def finish(self, result: RunResult, context: Any) -> Any:
        """What the task returns."""

    # -- ResumableJobMixin
    def submit_job(self, context: Any) -> Any:
        where = run_coordinates(context)
        store = context.get("task_state_store")
        before = store.get(self.external_id_key) if store is not None else None
        # The key names the run before, so that a worker that dies between making and storing finds it again.
        previous = before["run_id"] if isinstance(before, dict) else "first"
        key = "{dag_id}/{dag_run_id}/{task_id}/{map_index}".format(**where) + f"/after:{previous}"
        return {
            "run_id": self.make_run_id(key, context),
            "inputs": self.inputs_digest(),
            "cleared": cleared(context),
        }

    def get_job_status(self, external_id: Any, context: Any) -> str:
        from windtunnel.tracking import local

        run_id, now = str(external_id["run_id"]), cleared(context)
        found, again = local.status(self.home, run_id), external_id.get("cleared") != now
        ended = local.unwanted(self.home, run_id)
        if external_id.get("inputs") != self.inputs_digest() or (again and not goes_on(external_id, found, ended)):
            # Its inputs are others now, or somebody cleared a task that has its answer: the old run is none.
            if found.state in ACTIVE:
                local.cancel(self.home, run_id)
            return "stale"
        if again:
            self.log.info("The task was cleared; run %s is %s and goes on", run_id, found.state)
            self._keep_run(context, {**external_id, "cleared": now, "again": found.state == "succeeded"})
        if found.state == "failed" and found.failure == "transient":
            return "interrupted"
        return str(found.state)

    def is_job_active(self, status: str) -> bool:
        # What was never started, lost or interrupted goes on under the same run id, from its last checkpoint.
        return status in ACTIVE or status in CONTINUED

    def is_job_succeeded(self, status: str) -> bool:
        return status == "succeeded"

    def poll_until_complete(self, external_id: Any, context: Any) -> Any:
        from windtunnel.tracking import local

        run_id, home = str(external_id["run_id"]), self.home
        before = local.status(home, run_id)
        handle = local.start(home, self.run_spec(run_id, context), restart=before.failure == "transient")
        self.log.info("%s run %s", "Attached to" if handle.attached else "Started", run_id)
        offset = 0
        while True:
            offset = self._stream(run_id, offset)
            if self.stop_asked:
                self._stopped(run_id, context)
            status = local.status(home, run_id)
            if status.state not in ACTIVE:
                break
            time.sleep(self.poll)
        self._stream(run_id, offset)
        if status.state != "succeeded":
            raise failure(status)
        return self.get_job_result(external_id, context)

    def get_job_result(self, external_id: Any, context: Any) -> Any:
        from windtunnel.tracking import local

        run_id = str(external_id["run_id"])
        result = local.result(self.home, run_id)
        if result is None:
            raise TransientError(f"run {run_id} ended, but its result is not there", hint="the next try looks again")
        answer = self.finish(result, context)
        store = context.get("task_state_store")
        kept = store.get(self.external_id_key) if store is not None else None
        if isinstance(kept, dict) and kept.get("run_id") == run_id:
            self._keep_run(context, {**kept, "answered": True})
        return answer

    # -- Airflow
    def execute(self, context: Any) -> Any:
        self.begin(context)
        self.stop_asked = False
        return self.execute_resumable(context)

    def on_kill(self) -> None:
        # A signal handler: it may interrupt a message to the supervisor, so nothing is asked or sent from here.
        self.stop_asked = True

    # -- inside
    def _keep_run(self, context: Any, record: Mapping[str, Any]) -> None:
        store = context.get("task_state_store")
        if store is not None:
            store.set(self.external_id_key, dict(record))

    def _stream(self, run_id: str, offset: int) -> int:
        """Copy what the run wrote since ``offset`` into the task log."""
        from windtunnel.tracking import local

        text, end = local.tail(self.home, run_id, offset)
        for line in text.splitlines():
            self.log.info("%s", line)
        return end

    def _stopped(self, run_id: str, context: Any) -> None:
        """The task got SIGTERM: find out why, and act."""
        from windtunnel.tracking import local

        state = self._state_in_airflow(context)
        if not ended_by_person(state):
            raise TransientError(
                f"this worker is going down (task is {state or 'unknown'} in Airflow); run {run_id} goes on by itself",
                hint="the next try attaches to it",
            )
        self.log.warning("Task is %s in Airflow: cancelling run %s", state, run_id)
        # The order is on the disk at once: Airflow kills this process 5 s after SIGTERM, the run ends anyway.
        local.cancel(self.home, run_id, reason=f"the task was set to {state} in Airflow")
        raise AirflowFailException(f"run {run_id} was cancelled because the task was set to {state}")

    def _state_in_airflow(self, context: Any) -> str | None:
        """State of this very task instance as Airflow has it; None when Airflow gives no answer."""
        ti = context["ti"]
        index = getattr(ti, "map_index", -1)
        try:
            found = ti.get_task_states(
                dag_id=ti.dag_id, task_ids=[ti.task_id], run_ids=[ti.run_id], map_index=index if index >= 0 else None
            )
        except Exception as error:  # whatever it is, it is no person's order
            self.log.warning("Airflow does not say what became of this task: %s", error)
            return None
        name = ti.task_id if index < 0 else f"{ti.task_id}_{index}"
        state = found.get(ti.run_id, {}).get(name)
        return str(getattr(state, "value", state)) if state is not None else None

    def _common(self, context: Any) -> dict[str, Any]:
        """Fields of a RunSpec that are the same for training and steps."""
        from windtunnel_airflow.story import story_of

        model, story, where = self.description, story_of(context), run_coordinates(context)
        return {
            "model": model.name,
            "features": [feature.model_dump(mode="json") for feature in model.data.features],
            "target": model.data.target,
            "time": model.data.time,
            "resources": model.training.resources.model_dump(mode="json"),
            "environment": dict(model.training.environment),
            "description_digest": model.digest,
            "correlation_id": story.correlation_id,
            "cause": story.cause,
            "context": {key: str(value) for key, value in where.items()},
        }

    @staticmethod
    def _python_path(*codes: str | None) -> list[str]:
        return import_roots([code for code in codes if code])


def cleared(context: Any) -> int:
    """A number that changes when a person clears this very task, and stays when any other of its DAG run is cleared.

    Airflow counts clearings (``clear_number``) for a DAG run as a whole. Of a task that is cleared it sets the last try
    anew (``max_tries``: the tries so far, and as many retries as the task has); a retry leaves that as it is.
    """
    return int(getattr(context["ti"], "max_tries", 0) or 0)
