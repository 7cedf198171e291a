"""Operators on experiments and runs: create, log, end, search."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from windtunnel.errors import DescriptionError, RegistryError
from windtunnel_airflow.links import ExperimentLink, MlflowRunLink
from windtunnel_airflow.tracking_server import calls, shapes
from windtunnel_airflow.tracking_server.base import REQUEST_TAG, MlflowOperator, needed, request_key, tag_list
from windtunnel_airflow.tracking_server.rest import EXISTS, now_ms

#: What MLflow takes in one request.
_METRICS, _PARAMETERS, _TAGS = 900, 100, 100
ENDS = ("FINISHED", "FAILED", "KILLED")


class CreateExperimentOperator(MlflowOperator):
    """Make an experiment; one of that name is taken as it is. Returns ``{"experiment_id", "name", "new"}``.

    Args:
        name: its name.
        artifact_location: where its runs keep their files; the server's own place unless told.
        tags: a mapping, or MLflow's list of ``{"key", "value"}``.
    """

    operator_extra_links: Any = (ExperimentLink(),)
    template_fields: Sequence[str] = (*MlflowOperator.template_fields, "name", "artifact_location", "tags")

    def __init__(self, *, name: str, artifact_location: str | None = None, tags: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.name = name
        self.artifact_location = artifact_location
        self.tags = tags

    def execute(self, context: Any) -> dict[str, Any]:
        name, new = needed(self.name, "name", self.task_id), True
        tags, place = tag_list(self.tags) or None, self.artifact_location or None
        try:
            made = self.rest.send("POST", "/experiments/create", name=name, artifact_location=place, tags=tags)
            found = str(made["experiment_id"])
        except RegistryError as error:
            if error.code != EXISTS:
                raise
            there = self.rest.get("/experiments/get-by-name", experiment_name=name)["experiment"]
            if there.get("lifecycle_stage") == "deleted":
                raise RegistryError(
                    f"experiment {name!r} was deleted", hint="restore it, or take another name", code=EXISTS
                ) from error
            found, new = str(there["experiment_id"]), False
        self.note_experiment(found)
        return {"experiment_id": found, "name": name, "new": new}


class CreateRunOperator(MlflowOperator):
    """Begin a run. The same task of the same DAG run gets the same run however often it is tried; so does the same key.

    Returns ``{"run_id", "experiment_id", "name", "status", "metrics", "new"}``.

    Args:
        experiment: name or id.
        run_name: its name; MLflow makes one up unless told.
        tags: a mapping, or MLflow's list of ``{"key", "value"}``.
        key: the caller's own key instead of the task's.
    """

    operator_extra_links: Any = (ExperimentLink(), MlflowRunLink())
    template_fields: Sequence[str] = (*MlflowOperator.template_fields, "experiment", "run_name", "tags", "key")

    def __init__(
        self, *, experiment: str, run_name: str | None = None, tags: Any = None, key: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.experiment = experiment
        self.run_name = run_name
        self.tags = tags
        self.key = key

    def execute(self, context: Any) -> dict[str, Any]:
        experiment_id = calls.experiment_id(self.rest, needed(self.experiment, "experiment", self.task_id))
        key, ti = request_key(context, self.key), context["ti"]
        query = {"experiment_ids": [experiment_id], "filter": f"tags.{REQUEST_TAG} = {calls.quoted(key)}"}
        found = next(self.rest.pages("/runs/search", "runs", 1, post=True, **query), None)
        new = found is None
        if found is None:
            where = {"airflow_dag_id": ti.dag_id, "airflow_run_id": ti.run_id, "airflow_task_id": ti.task_id}
            found = self.rest.send(
                "POST",
                "/runs/create",
                repeat=False,
                experiment_id=experiment_id,
                run_name=self.run_name or None,
                start_time=now_ms(),
                tags=[*tag_list(self.tags), *tag_list(where), {"key": REQUEST_TAG, "value": key}],
            )["run"]
        made = shapes.run(found)
        self.note_run(made["run_id"], made["experiment_id"])
        return {**made, "new": new}


class LogToRunOperator(MlflowOperator):
    """Log to a run, and end it if told. Logging the same again changes nothing. Returns ``{"run_id", "status", ...}``.

    Args:
        run_id: the run.
        metrics: ``{name: number}``; at ``step``, and at the time the DAG run began, so that a retry logs no new points.
        parameters: ``{name: value}``; MLflow refuses to change one.
        tags: a mapping, or MLflow's list of ``{"key", "value"}``.
        step: of the metrics.
        end: FINISHED, FAILED or KILLED ends the run.
    """

    operator_extra_links: Any = (ExperimentLink(), MlflowRunLink())
    template_fields: Sequence[str] = (
        *MlflowOperator.template_fields, "run_id", "metrics", "parameters", "tags", "step", "end",
    )  # fmt: skip

    def __init__(
        self,
        *,
        run_id: str,
        metrics: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
        tags: Any = None,
        step: int = 0,
        end: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.run_id = run_id
        self.metrics = metrics
        self.parameters = parameters
        self.tags = tags
        self.step = step
        self.end = end

    def execute(self, context: Any) -> dict[str, Any]:
        run_id, end = needed(self.run_id, "run_id", self.task_id), self.end or None
        if end is not None and end not in ENDS:
            raise DescriptionError(f"task {self.task_id!r}: end is {end!r}; expected one of {', '.join(ENDS)}")
        at = _time(context)
        metrics = [
            {"key": key, "value": number(key, value), "timestamp": at, "step": int(self.step)}
            for key, value in (self.metrics or {}).items()
        ]
        parameters = [{"key": key, "value": str(value)} for key, value in (self.parameters or {}).items()]
        tags = tag_list(self.tags)
        while metrics or parameters or tags:
            self.rest.send(
                "POST",
                "/runs/log-batch",
                run_id=run_id,
                metrics=metrics[:_METRICS],
                params=parameters[:_PARAMETERS],
                tags=tags[:_TAGS],
            )
            metrics, parameters, tags = metrics[_METRICS:], parameters[_PARAMETERS:], tags[_TAGS:]
        found = calls.get_run(self.rest, run_id)
        if end is not None and found["status"] != end:
            self.rest.send("POST", "/runs/update", run_id=run_id, status=end, end_time=now_ms())
            found["status"] = end
        self.note_run(run_id, found["experiment_id"])
        return found


class SearchRunsOperator(MlflowOperator):
    """Returns a list of ``{"run_id", "experiment_id", "name", "status", "metrics"}``.

    Args:
        experiments: names or ids.
        filter: MLflow's search language, ``metrics.rmse < 1``; templated.
        order_by: ``["metrics.rmse ASC"]``.
        max_results: at most so many, over all pages.
    """

    operator_extra_links: Any = (ExperimentLink(),)
    template_fields: Sequence[str] = (*MlflowOperator.template_fields, "experiments", "filter", "order_by")

    def __init__(
        self,
        *,
        experiments: Sequence[str],
        filter: str | None = None,
        order_by: Sequence[str] = (),
        max_results: int = 100,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.experiments = experiments
        self.filter = filter
        self.order_by = order_by
        self.max_results = max_results

    def execute(self, context: Any) -> list[dict[str, Any]]:
        names = [self.experiments] if isinstance(self.experiments, str) else list(self.experiments)
        ids = [calls.experiment_id(self.rest, str(name)) for name in names]
        if not ids:
            raise DescriptionError(f"task {self.task_id!r}: experiments is empty", hint="name at least one")
        self.note_experiment(ids[0])
        found = self.rest.pages(
            "/runs/search",
            "runs",
            self.max_results,
            post=True,
            experiment_ids=ids,
            filter=self.filter or None,
            order_by=list(self.order_by) or None,
        )
        return [shapes.run(plain) for plain in found]


def number(key: str, value: Any) -> float | str:
    """A metric's value as MLflow's API takes it; NaN and infinities by their names.

    Raises:
        DescriptionError: it is no number.
    """
    try:
        found = float(value)
    except (TypeError, ValueError) as error:
        raise DescriptionError(f"metric {key!r} is {value!r}; expected a number") from error
    if math.isfinite(found):
        return found
    return "NaN" if math.isnan(found) else "Infinity" if found > 0 else "-Infinity"


def _time(context: Mapping[str, Any]) -> int:
    """When the DAG run began, milliseconds: the same for each try."""
    dag_run = context.get("dag_run")
    for name in ("start_date", "run_after", "logical_date"):
        found = getattr(dag_run, name, None)
        if hasattr(found, "timestamp"):
            return int(found.timestamp() * 1000)
    return now_ms()
