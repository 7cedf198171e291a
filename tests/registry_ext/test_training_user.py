"""The user of training pods: what docs/how-to/train-in-a-pod.md has an administrator give it, and that it is needed."""

from __future__ import annotations

import secrets
import uuid
from typing import Any

import httpx
import pytest

from windtunnel.errors import TrainingError
from windtunnel.tracking.server import MetricPoint, connect


def test_a_training_writes_into_a_run_that_airflow_made(registry_server: Any) -> None:
    """DEMAND TRN-1, TRK-8: as itself, not as the service, who may promote."""
    name, password = f"trainer-{uuid.uuid4().hex[:8]}", secrets.token_urlsafe(16)
    env = {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": password}
    with registry_server.rest("admin") as admin, registry_server.rest() as service:
        added = admin.post("/api/2.0/mlflow/users/create", json={"username": name, "password": password})
        assert added.status_code == 200, added.text
        experiment = service.post("/api/2.0/mlflow/experiments/create", json={"name": f"sea-{uuid.uuid4().hex}"}).json()
        made = service.post("/api/2.0/mlflow/runs/create", json={"experiment_id": experiment["experiment_id"]}).json()
        run = made["run"]["info"]["run_id"]
        pod = connect(registry_server.url, env=env)
        with pytest.raises(TrainingError, match="403"):
            pod.log_batch(run, [MetricPoint("loss", 1.0, 0, 0)], {}, {})
        given = {"username": name, "resource_type": "experiment", "resource_id": "*", "permission": "EDIT"}
        answer = admin.post("/api/3.0/mlflow/users/permissions/grant", json=given)
        assert answer.status_code == 200, answer.text
    pod.log_batch(run, [MetricPoint("loss", 1.0, 0, 0)], {}, {})
    pod.set_state(run, "RUNNING", None)
    where = f"/api/2.0/mlflow-artifacts/artifacts/{experiment['experiment_id']}/{run}/artifacts/model/weights"
    sent = httpx.put(registry_server.url + where, content=b"x", auth=(name, password), trust_env=False)
    assert sent.status_code == 200, sent.text
    assert pod.artifacts(run, "model") == {"weights": 1}
