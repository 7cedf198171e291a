"""The DAG file that ``windtunnel cluster demo`` installs, parsed by this Airflow as a cluster's would."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.sdk import DAG

from windtunnel_airflow import SeldonHook, WindtunnelHook

ROOT = Path(__file__).parents[2]


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Those of the demo's values and secrets, as variables of Airflow's pods."""
    from windtunnel.stack.laptop import secrets

    values = yaml.safe_load((ROOT / "helm/windtunnel/values-airflow-demo.yaml").read_text(encoding="utf-8"))
    made = {
        (one["metadata"]["name"], key): value
        for one in json.loads(secrets.demo("windtunnel", "word"))["items"]
        for key, value in one["stringData"].items()
    }
    found = {one["name"]: one["value"] for one in values["env"]}
    found |= {one["envName"]: made[one["secretName"], one["secretKey"]] for one in values["secret"]}
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    return found


def test_it_makes_the_dags_of_a_life_on_kubernetes(connections: dict[str, str]) -> None:
    """DEMAND PIP-5"""
    made: dict[str, Any] = {
        one.dag_id: one for one in _dags(runpy.run_path(str(ROOT / "examples/visits/cluster_dags.py")))
    }
    assert {"windtunnel.control", "windtunnel.steward", "visits.train", "visits.release", "visits.watch"} <= set(made)
    gates = [task for task in made["visits.release"].task_ids if task.endswith(".gate")]
    assert [task for task in gates if task.startswith("step_")] == [f"step_{n:02d}.gate" for n in (5, 25, 50, 75)]
    assert made["visits.train"].task_ids == ["data", "check", "train", "evaluate", "register"]


def _dags(found: dict[str, Any]) -> list[Any]:
    from windtunnel_airflow import lifecycle
    from windtunnel_examples.visits.cluster import model

    return [*(one for one in found.values() if isinstance(one, DAG)), *lifecycle(model).values()]


def test_its_connections_are_understood(connections: dict[str, str]) -> None:
    """What workers, pods and model servers are told, as each hook reads it."""
    settings = SeldonHook().settings
    assert settings.image == "windtunnel/model-server:0.1.0" and settings.collector_rows == "server"
    hook = WindtunnelHook(target="kubernetes")
    assert hook.url == "http://windtunnel-registry:5000"
    assert hook.store_environment == {
        "WINDTUNNEL_STORE": "s3://windtunnel/training",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": "http://windtunnel-demo-objects.windtunnel.svc:7070",
    }
    assert hook.cluster_url == "http://windtunnel-registry.windtunnel.svc:5000"
    assert hook.address.login == "service" and hook.address.password == "word"
