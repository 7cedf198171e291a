"""What the operators of any MLflow server share: the connection, the links, the key of a task's own request."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import BaseOperator

from windtunnel.errors import DescriptionError
from windtunnel_airflow.links import RegisteredModelLink
from windtunnel_airflow.tracking_server.hook import MlflowHook
from windtunnel_airflow.tracking_server.rest import MlflowRest

#: Tag by which a task that is tried again finds what it has made. Not ``windtunnel.*``: those are the registry's own.
REQUEST_TAG = "airflow_request"


class OnMlflow:
    """Mixed into operators and sensors of an MLflow server."""

    mlflow_conn_id: str
    links_found: dict[str, str]
    _hook: MlflowHook | None = None

    @property
    def hook(self) -> MlflowHook:
        if self._hook is None:
            self._hook = MlflowHook(self.mlflow_conn_id)
        return self._hook

    @property
    def rest(self) -> MlflowRest:
        return self.hook.rest

    def note_model(self, model: str) -> None:
        self.links_found = {**self.links_found, "model": self.hook.model_url(model)}

    def note_version(self, model: str, version: str) -> None:
        self.note_model(model)
        self.links_found = {**self.links_found, "version": self.hook.version_url(model, version)}

    def note_run(self, run_id: str, experiment_id: str) -> None:
        self.note_experiment(experiment_id)
        self.links_found = {**self.links_found, "run": self.hook.run_url(run_id, experiment_id)}

    def note_experiment(self, experiment_id: str) -> None:
        self.links_found = {**self.links_found, "experiment": self.hook.experiment_url(experiment_id)}


class MlflowOperator(OnMlflow, BaseOperator):
    """Base of the operators.

    Args:
        mlflow_conn_id: connection of type ``mlflow``, or ``windtunnel``.
    """

    operator_extra_links: Any = (RegisteredModelLink(),)
    template_fields: Sequence[str] = ("mlflow_conn_id",)
    ui_color = "#d9f0fa"

    def __init__(self, *, mlflow_conn_id: str = MlflowHook.default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mlflow_conn_id = mlflow_conn_id
        self.links_found = {}


def request_key(context: Mapping[str, Any], given: str | None = None) -> str:
    """The key of one request: what the caller gave, or the task of this DAG run, whichever try it is."""
    if given:
        return given
    ti = context["ti"]
    said = "\n".join(str(part) for part in (ti.dag_id, ti.run_id, ti.task_id, getattr(ti, "map_index", -1)))
    return hashlib.sha256(said.encode()).hexdigest()[:32]


def needed(value: Any, name: str, task_id: str) -> str:
    """A value that must say something after templating.

    Raises:
        DescriptionError: it does not.
    """
    text = "" if value is None else str(value).strip()
    if not text or text == "None":
        raise DescriptionError(
            f"task {task_id!r}: {name} is {value!r}", hint=f"give {name}; a template may have come out empty"
        )
    return text


def tag_list(tags: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None) -> list[dict[str, str]]:
    """Tags as MLflow's API wants them, from a mapping or from its own list of ``{"key", "value"}``.

    Raises:
        DescriptionError: they are neither.
    """
    if not tags:
        return []
    if isinstance(tags, Mapping):
        return [{"key": str(key), "value": str(value)} for key, value in tags.items()]
    try:
        return [{"key": str(tag["key"]), "value": str(tag["value"])} for tag in tags]
    except (KeyError, TypeError) as error:
        raise DescriptionError(
            f"tags are {tags!r}; expected a mapping, or a list of {{'key': ..., 'value': ...}}"
        ) from error
