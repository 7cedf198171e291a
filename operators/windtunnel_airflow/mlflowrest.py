"""The one question a link needs answered by MLflow, without importing mlflow where there is a server."""

from __future__ import annotations

import os


def experiment_of(url: str, run_id: str) -> str:
    """Experiment id of a run; credentials come from MLflow's own variables."""
    if not url.startswith("http"):
        from mlflow.tracking import MlflowClient

        return str(MlflowClient(tracking_uri=url).get_run(run_id).info.experiment_id)
    import httpx

    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    auth = (user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None
    answer = httpx.get(f"{url}/api/2.0/mlflow/runs/get", params={"run_id": run_id}, auth=auth, timeout=10)
    answer.raise_for_status()
    return str(answer.json()["run"]["info"]["experiment_id"])
