"""DEMAND OPS-1: the whole life of a model, checked through each system's own interface."""

from __future__ import annotations

import time
from typing import Any

import httpx
import pyarrow.dataset as ds
import pytest

from windtunnel import names
from windtunnel_examples.visits.demo.airflow_api import AirflowApi

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def airflow(flight: Any) -> AirflowApi:
    return AirflowApi(flight.urls["airflow"], "admin", flight.secret("airflow-admin"))


@pytest.fixture(scope="module")
def mlflow(flight: Any) -> httpx.Client:
    return httpx.Client(
        base_url=f"{flight.urls['mlflow']}/api/2.0/mlflow",
        auth=("admin", flight.secret("mlflow-admin")),
        timeout=30,
    )


def test_the_demo_says_every_step_is_proven(flight: Any) -> None:
    assert flight.exit_code == 0, flight.stderr[-6000:]
    assert flight.told["ok"]
    assert [step["ok"] for step in flight.told["steps"]] == [True] * 4
    assert flight.told["harmful"]["requests"] > 0


def test_airflow_has_the_runs(flight: Any, airflow: AirflowApi) -> None:
    """DEMAND PIP-6: by hand, by data (the version's event) and by drift."""
    trains = airflow.runs("visits.train")
    assert sorted(run.run_type for run in trains) == ["asset_triggered", "manual", "manual", "manual"]
    assert {run.state for run in trains} == {"success"}
    releases = airflow.runs("visits.release")
    assert sorted(run.state for run in releases if run.state != "running") == [
        "failed",
        "success",
        "success",
        "success",
    ]
    assert {run.run_type for run in releases} == {"asset_triggered"}
    # One that was behind has called for the next (docs/decisions/0028).
    assert "scheduled" in {run.run_type for run in airflow.runs("visits.watch")} <= {"scheduled", "asset_triggered"}


def test_every_step_of_a_release_is_visible(airflow: AirflowApi) -> None:
    """DEMAND ROL-1."""
    release = next(run for run in airflow.runs("visits.release") if run.state == "success")
    tasks = {task["task_id"] for task in airflow.tasks(release.dag_id, release.run_id)}
    for weight in ("05", "25", "50", "75"):
        assert {f"step_{weight}.set_weight", f"step_{weight}.gate"} <= tasks


def test_mlflow_has_the_versions(mlflow: httpx.Client) -> None:
    """DEMAND REG-4: four versions, one champion, the former ones archived."""
    found = mlflow.get("/model-versions/search", params={"filter": "name='visits'"}).json()["model_versions"]
    stages = {version["version"]: version["current_stage"] for version in found}
    champion = mlflow.get("/registered-models/alias", params={"name": "visits", "alias": "champion"}).json()
    newest = max(stages, key=int)
    assert champion["model_version"]["version"] == newest
    assert [version for version, stage in stages.items() if stage == "Production"] == [newest]
    assert len(stages) == 4


def test_nobody_can_make_the_harmful_version_champion(flight: Any, mlflow: httpx.Client) -> None:
    """DEMAND REG-5: not even the administrator, by MLflow's own API."""
    harmful = next(v for v in flight.told["versions"] if v["state"] == "rolled_back")
    answer = mlflow.post(
        "/registered-models/alias", json={"name": "visits", "alias": "champion", "version": harmful["version"]}
    )
    assert answer.status_code == 403
    assert "rollout" in answer.text


def test_envoy_and_the_prediction_log_agree(flight: Any) -> None:
    """DEMAND SRV-6: every answer is in the log, once."""
    socket = flight.home.serving / "envoy" / "admin.sock"
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(socket.resolve()))) as client:
        stats = client.get("http://envoy/stats", params={"format": "json", "filter": "upstream_rq_2xx$"}).json()[
            "stats"
        ]
    by_envoy = {
        version["version"]: next(
            (s["value"] for s in stats if f"{names.arm_id('visits', version['version'])}." in s.get("name", "")), None
        )
        for version in flight.told["versions"]
    }
    time.sleep(5)
    table = ds.dataset(flight.home.predictions / "visits", partitioning="hive", exclude_invalid_files=True).to_table(
        columns=["prediction_id", "version", "status"]
    )
    ids = table["prediction_id"].to_pylist()
    assert len(ids) == len(set(ids))
    champion = next(v["version"] for v in flight.told["versions"] if v["state"] == "champion")
    logged = sum(
        1
        for v, s in zip(table["version"].to_pylist(), table["status"].to_pylist(), strict=True)
        if v == champion and s == 200
    )
    # Envoy counts the warm-up of nobody: only requests that came through it.
    assert by_envoy[champion] is not None
    assert abs(logged - by_envoy[champion]) <= 0.02 * by_envoy[champion] + 5


def test_one_correlation_id_follows_the_story(flight: Any) -> None:
    """DEMAND PIP-7: from the drift verdict to the retrained version's release."""
    from windtunnel.registry.connect import from_home

    registry = from_home(flight.home)
    champion = registry.champion("visits")
    assert champion is not None
    story = champion.correlation_id
    verdicts = [posted.verdict for posted in registry.verdicts("visits", limit=500)]
    kinds = {str(v.kind) for v in verdicts if v.correlation_id == story}
    assert {"drift", "data-check", "evaluation", "rollout"} <= kinds
