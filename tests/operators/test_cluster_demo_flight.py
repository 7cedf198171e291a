"""What ``windtunnel cluster demo`` flies, flown without a cluster: Airflow, MLflow and training are real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from test_flight import home  # noqa: F401

from windtunnel.home import Home

SCRIPT = Path(__file__).parent / "cases" / "clusterdemo.py"
pytestmark = [pytest.mark.long, pytest.mark.real, pytest.mark.timeout(900)]


def test_three_chapters_on_kubernetes(home: Home) -> None:  # noqa: F811
    """DEMAND PIP-5, SRV-1: a first version, a better one through four gates, a harmful one taken back."""
    connection = {
        "conn_type": "windtunnel",
        "host": json.loads(home.stack_file.read_text())["urls"]["mlflow"],
        "login": "service",
        "password": (home.secrets / "mlflow-service").read_text().strip(),
    }
    env = {
        **os.environ,
        "WINDTUNNEL_HOME": str(home.root),
        "AIRFLOW_HOME": str(home.airflow),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_CONN_WINDTUNNEL_DEFAULT": json.dumps(connection),
    }
    home.airflow.mkdir(exist_ok=True)
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=env, check=True, capture_output=True)
    command = [sys.executable, str(SCRIPT), str(home.root)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=800, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("STORY ")]
    assert lines, (done.stdout + done.stderr)[-6000:]
    story: dict[str, Any] = json.loads(lines[-1].removeprefix("STORY "))
    log = (done.stdout + done.stderr)[-6000:]
    for word in ("first", "better", "harmful"):
        assert story[f"train {word}"]["state"] == "success", log
    assert story["release first"]["state"] == story["release better"]["state"] == "success", log
    gates = [task for task, state in story["release better"]["tasks"].items() if task.endswith(".gate")]
    assert len([task for task in gates if task.startswith("step_")]) == 4
    harmful = story["release harmful"]
    assert harmful["state"] == "failed" and harmful["tasks"]["rollback"] == "success", log
    assert story["versions"] == {
        "1": ["1.0.0", "archived"], "2": ["1.1.0", "champion"], "3": ["1.2.0", "rolled_back"],
    }  # fmt: skip
    assert story["weights"] == {"2": 100, "1": 0} and story["pods left"] == []
