"""What a DAG file pays (PIP-8): in processes of their own, where nothing is imported yet."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = ("mlflow", "pandas", "evidently", "great_expectations", "kubernetes", "sklearn")
LIFECYCLE = """
import json, sys
import windtunnel_airflow
from windtunnel import Model
dags = windtunnel_airflow.lifecycle(Model.model_validate({
    "name": "small", "owner": "tests",
    "data": {"source": "x.csv", "time": "t", "target": "y", "features": ["a"]},
    "training": {"entry_point": "m:f"},
}))
assert len(dags) == 3
for name in windtunnel_airflow.__all__:
    getattr(windtunnel_airflow, name)
print(json.dumps(sorted(sys.modules)))
"""


def run(code: str, folder: Path) -> str:
    env = {**os.environ, "AIRFLOW_HOME": str(folder), "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.strip().splitlines()[-1]


def test_nothing_heavy_is_loaded(tmp_path: Path) -> None:
    """DEMAND PIP-8: not by the factory, not by any public name."""
    loaded = set(json.loads(run(LIFECYCLE, tmp_path)))
    assert "airflow.sdk" in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_a_name_costs_nothing_until_it_is_used(tmp_path: Path) -> None:
    loaded = json.loads(run("import json, sys, windtunnel_airflow; print(json.dumps(sorted(sys.modules)))", tmp_path))
    assert "airflow" not in loaded
    with pytest.raises(AttributeError, match="nothing_like_this"):
        import windtunnel_airflow

        windtunnel_airflow.nothing_like_this  # noqa: B018


def test_importing_costs_little_more_than_airflow(tmp_path: Path) -> None:
    """DEMAND PIP-8: at most 1.2 x ``import airflow.sdk`` with the names a DAG file uses; measured in pairs."""
    code = "import time; a = time.process_time(); {}; print(time.process_time() - a)"
    sdk = code.format("from airflow.sdk import DAG, Asset, BaseOperator, BaseSensorOperator, TaskGroup")
    ours = code.format("from windtunnel_airflow import lifecycle")
    run(ours, tmp_path)  # byte code is there from here on
    ratios = [float(run(ours, tmp_path)) / float(run(sdk, tmp_path)) for _ in range(3)]
    assert statistics.median(ratios) <= 1.2, ratios
