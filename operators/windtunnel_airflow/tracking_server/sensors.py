"""Sensors of an MLflow server: a version, a stage, an alias, a run. Deferrable, both ways work."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseSensorOperator, PokeReturnValue
from airflow.sdk.exceptions import AirflowFailException, AirflowSensorTimeout, AirflowSkipException

from windtunnel.errors import DescriptionError, UnavailableError
from windtunnel_airflow.links import ExperimentLink, MlflowRunLink, ModelVersionLink, RegisteredModelLink
from windtunnel_airflow.tracking_server import conditions
from windtunnel_airflow.tracking_server.base import OnMlflow, needed
from windtunnel_airflow.tracking_server.hook import MlflowHook


class MlflowSensor(OnMlflow, BaseSensorOperator):
    """Base of the sensors. A condition that can never be met any more fails the task for good, without retries.

    Args:
        mlflow_conn_id: connection of type ``mlflow``, or ``windtunnel``.
        deferrable: wait in the triggerer, where all sensors of a connection share one poller.
        poke_interval: seconds between two looks.
        timeout: seconds after which the task fails.
    """

    operator_extra_links: Any = (RegisteredModelLink(),)
    template_fields: Sequence[str] = ("mlflow_conn_id",)
    ui_color = "#e3f2e8"

    def __init__(
        self,
        *,
        mlflow_conn_id: str = MlflowHook.default_conn_name,
        deferrable: bool = True,
        poke_interval: float = 30.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poke_interval, **kwargs)
        self.mlflow_conn_id = mlflow_conn_id
        self.deferrable = deferrable
        self.links_found = {}

    def condition(self) -> dict[str, Any]:
        """What is waited for, after templating."""
        raise NotImplementedError

    def poke(self, context: Any) -> PokeReturnValue:
        condition = self.condition()
        try:
            found = conditions.judge(condition, conditions.ask(self.rest, conditions.question(condition)))
        except UnavailableError as error:
            self.log.warning("%s", error)
            return PokeReturnValue(False)
        self.log.info("%s", found.words)
        if found.state == "failed":
            raise AirflowFailException(found.words)
        return PokeReturnValue(found.state == "met", found.found)

    def execute(self, context: Any) -> Any:
        self._note(self.condition())
        if not self.deferrable:
            return self._end(super().execute(context))
        first = self.poke(context)
        if first.is_done:
            return self._end(first.xcom_value)
        from windtunnel_airflow.tracking_server.triggers import MlflowConditionTrigger

        end = time.time() + float(self.timeout)
        trigger = MlflowConditionTrigger(self.mlflow_conn_id, self.condition(), float(self.poke_interval), end)
        return self.defer(trigger=trigger, method_name="execute_complete")

    def execute_complete(self, context: Any, event: dict[str, Any]) -> Any:
        self._note(self.condition())
        if event["status"] == "timeout":
            words = f"waited {float(self.timeout):g} s: {event['message']}"
            raise AirflowSkipException(words) if self.soft_fail else AirflowSensorTimeout(words)
        if event["status"] != "met":
            raise AirflowFailException(str(event["message"]))
        return self._end(event["found"])

    def _note(self, condition: dict[str, Any]) -> None:
        if "name" in condition:
            self.note_model(condition["name"])
            if condition.get("version"):
                self.note_version(condition["name"], condition["version"])

    def _end(self, found: dict[str, Any]) -> dict[str, Any]:
        if "run_id" in found and "experiment_id" in found:
            self.note_run(found["run_id"], found["experiment_id"])
        elif found.get("version"):
            self.note_version(found["name"], found["version"])
        return found


class ModelVersionSensor(MlflowSensor):
    """Wait until a version is there and READY; returns it. One that could not be registered fails the task.

    Args:
        name: the registered model; it may come later, too.
        version: the version's number.
    """

    operator_extra_links: Any = (RegisteredModelLink(), ModelVersionLink())
    template_fields: Sequence[str] = (*MlflowSensor.template_fields, "name", "version")

    def __init__(self, *, name: str, version: str | int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.name = name
        self.version = version

    def condition(self) -> dict[str, Any]:
        name, version = needed(self.name, "name", self.task_id), needed(self.version, "version", self.task_id)
        return {"kind": "version", "name": name, "version": version}


class ModelStageSensor(MlflowSensor):
    """Wait until a version, or any version, has a stage. Returns the version, or ``{"name", "stage", "version"}``.

    Args:
        name: the registered model.
        stage: Staging, Production or Archived.
        version: the version's number; any unless told.
    """

    operator_extra_links: Any = (RegisteredModelLink(), ModelVersionLink())
    template_fields: Sequence[str] = (*MlflowSensor.template_fields, "name", "stage", "version")

    def __init__(self, *, name: str, stage: str, version: str | int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.name = name
        self.stage = stage
        self.version = version

    def condition(self) -> dict[str, Any]:
        name, stage = needed(self.name, "name", self.task_id), needed(self.stage, "stage", self.task_id)
        return {"kind": "stage", "name": name, "stage": stage, "version": _text(self.version)}


class ModelAliasSensor(MlflowSensor):
    """Wait until an alias points to a version. Returns ``{"name", "alias", "version"}``.

    Args:
        name: the registered model.
        alias: the alias.
        version: wait until it points to this one, or
        changed_from: until it points to another than this one; to any when neither is given.
    """

    operator_extra_links: Any = (RegisteredModelLink(), ModelVersionLink())
    template_fields: Sequence[str] = (*MlflowSensor.template_fields, "name", "alias", "version", "changed_from")

    def __init__(
        self,
        *,
        name: str,
        alias: str,
        version: str | int | None = None,
        changed_from: str | int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.name = name
        self.alias = alias
        self.version = version
        self.changed_from = changed_from

    def condition(self) -> dict[str, Any]:
        name, alias = needed(self.name, "name", self.task_id), needed(self.alias, "alias", self.task_id)
        version, former = _text(self.version), _text(self.changed_from)
        return {"kind": "alias", "name": name, "alias": alias, "version": version, "changed_from": former}


class RunSensor(MlflowSensor):
    """Wait until a run has ended as wanted; returns it. A run that ends in another way fails the task at once.

    Args:
        run_id: the run.
        statuses: ends that are wanted, of FINISHED, FAILED, KILLED; or RUNNING.
    """

    operator_extra_links: Any = (ExperimentLink(), MlflowRunLink())
    template_fields: Sequence[str] = (*MlflowSensor.template_fields, "run_id", "statuses")

    def __init__(self, *, run_id: str, statuses: Sequence[str] = ("FINISHED",), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.run_id = run_id
        self.statuses = statuses

    def condition(self) -> dict[str, Any]:
        statuses = [self.statuses] if isinstance(self.statuses, str) else list(self.statuses)
        unknown = sorted({*statuses} - {*conditions.ENDED, "RUNNING", "SCHEDULED"})
        if unknown or not statuses:
            raise DescriptionError(
                f"task {self.task_id!r}: statuses are {statuses}; expected some of RUNNING, FINISHED, FAILED, KILLED"
            )
        return {"kind": "run", "run_id": needed(self.run_id, "run_id", self.task_id), "statuses": statuses}


def _text(value: Any) -> str | None:
    """A number that may have been left out, or come out of a template as ``None``."""
    text = "" if value is None else str(value).strip()
    return None if text in ("", "None") else text
