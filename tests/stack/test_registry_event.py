"""A DAG that starts when anybody changes the registry, in the real Airflow: MLflow's REST, outbox, triggerer, asset."""

from __future__ import annotations

import time
import uuid
from typing import Any

import httpx
import pytest
from waiting import until

from windtunnel.stack.stack import Stack
from windtunnel.stackfile import StackFile, read_secret

pytestmark = [pytest.mark.stack, pytest.mark.timeout(400)]

DAG = '''
"""A dag that an asset wakes."""
from airflow.sdk import DAG, task
from windtunnel_airflow import registry_changes

with DAG("registrytest", schedule=registry_changes(None, "model", poll=1), catchup=False):

    @task
    def tell(triggering_asset_events=None):
        (events,) = triggering_asset_events.values()
        return events[-1].extra["payload"]

    tell()
'''


def test_a_change_by_rest_starts_a_dag(stack: Stack) -> None:
    """DEMAND PIP-6: a registry event from any MLflow client."""
    urls, login = StackFile.read(stack.home).urls, ("admin", read_secret(stack.home, "mlflow-admin"))
    file = stack.home.dags / "registrytest.py"
    file.write_text(DAG, encoding="utf-8")
    person = {"username": "admin", "password": read_secret(stack.home, "airflow-admin")}
    token = httpx.post(f"{urls['airflow']}/auth/token", json=person, timeout=30).raise_for_status().json()
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    made: list[str] = []
    with httpx.Client(base_url=f"{urls['airflow']}/api/v2", headers=headers, timeout=30) as airflow:

        def get(path: str) -> Any:
            return airflow.get(path).raise_for_status().json()

        def ran() -> Any:
            return [run for run in get("/dags/registrytest/dagRuns")["dag_runs"] if run["state"] == "success"]

        def change() -> Any:
            # The watcher tells of what comes after it began to watch, so there are changes until it has heard of one.
            made.append(f"news-{uuid.uuid4().hex[:10]}")
            with httpx.Client(base_url=urls["mlflow"], auth=login, timeout=30) as mlflow:
                create = "/api/2.0/mlflow/registered-models/create"
                mlflow.post(create, json={"name": made[-1]}).raise_for_status()
            time.sleep(1)
            return ran()

        try:
            until(lambda: get("/dags/registrytest"))
            run_id = until(change)[0]["dag_run_id"]
            path = f"/dags/registrytest/dagRuns/{run_id}/taskInstances/tell/xcomEntries/return_value?deserialize=true"
            said = get(path)["value"]
            assert said["model"] in made
            assert (said["kind"], said["cause"], said["v"]) == ("model", "create-model by admin", 1)
            assert len(said["correlation_id"]) == 32
        finally:
            file.unlink()
            airflow.patch("/dags/registrytest", json={"is_paused": True})
