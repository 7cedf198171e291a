"""Buttons on a task: the MLflow run, the model version, the report.

Airflow calls ``get_link`` in the worker when the task ends and keeps the answer in XCom, so a link is whatever the
operator noted down while it worked. A task that made no run, version or report has no target and no button.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from airflow.sdk import BaseOperatorLink


def dag_run_url(dag_id: str, run_id: str) -> str | None:
    """The page of a DAG run in Airflow, where the installation says what its address is."""
    from airflow.sdk.configuration import conf

    base = conf.get("api", "base_url", fallback="").rstrip("/")
    return f"{base}/dags/{quote(dag_id, safe='')}/runs/{quote(run_id, safe='')}" if base else None


class _NotedLink(BaseOperatorLink):
    """A link whose target the operator put into ``operator.links_found`` under ``key``."""

    key = ""

    @property
    def name(self) -> str:
        raise NotImplementedError

    @property
    def xcom_key(self) -> str:
        return f"windtunnel_link_{self.key}"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        return str((getattr(operator, "links_found", None) or {}).get(self.key, ""))


class MlflowRunLink(_NotedLink):
    """The run in MLflow."""

    key = "run"

    @property
    def name(self) -> str:
        return "MLflow run"


class ModelVersionLink(_NotedLink):
    """The model version in MLflow's registry."""

    key = "version"

    @property
    def name(self) -> str:
        return "Model version"


class RegisteredModelLink(_NotedLink):
    """The registered model in MLflow."""

    key = "model"

    @property
    def name(self) -> str:
        return "Registered model"


class ExperimentLink(_NotedLink):
    """The experiment in MLflow."""

    key = "experiment"

    @property
    def name(self) -> str:
        return "MLflow experiment"


class ReportLink(_NotedLink):
    """The report for the eyes: Great Expectations, Evidently."""

    key = "report"

    @property
    def name(self) -> str:
        return "Report"
