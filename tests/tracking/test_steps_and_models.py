"""What runs make: models that load where they are served, and a team's own steps.

DEMAND PIP-9, PIP-2
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from windtunnel.data import steps
from windtunnel.evidence import manifest
from windtunnel.home import Home
from windtunnel.tracking import lifelock, local
from windtunnel.tracking.contract import RunSpec, RunStatus, run_dir

Spec = Callable[..., RunSpec]
Go = Callable[..., RunStatus]
SERVING = Path(__file__).parents[2] / ".venv-serving" / "bin" / "python"

LOAD = """
import json, sys
import mlflow.pyfunc, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
given = model.predict(pd.DataFrame({"a": [0.5, -1.0], "b": [0.0, 2.0]}))
print(json.dumps([float(x) for x in given]))
"""


def served(path: str) -> list[float]:
    """Load in the model servers' environment, from another folder, as they do."""
    if not SERVING.exists():
        pytest.skip("no serving environment")
    done = subprocess.run(
        [str(SERVING), "-P", "-c", LOAD, path], capture_output=True, text=True, timeout=100, cwd="/", check=False,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return list(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("function", ["linear", "own_class"])
def test_a_model_loads_where_it_is_served(function: str, spec: Spec, run: Go, home: Home) -> None:
    task = spec(function)
    found = run(task)
    assert found.state == "succeeded", found.message
    result = local.result(home, task.run_id)
    assert result is not None and result.model_path is not None
    assert manifest.build(Path(result.model_path)).content == result.digest
    mlmodel = yaml.safe_load((Path(result.model_path) / "MLmodel").read_text())
    assert mlmodel["flavors"]["sklearn"]["serialization_format"] == "skops"
    assert '"name": "a"' in mlmodel["signature"]["inputs"] and "double" in mlmodel["signature"]["inputs"]
    assert mlmodel["saved_input_example_info"]
    lines = (Path(result.model_path) / "requirements.txt").read_text().split()
    assert all("==" in line for line in lines) and any(line.startswith("skops==") for line in lines)
    if function == "own_class":
        assert served(result.model_path) == [1.5, 1.5], "the team's own class travels with the model"


def test_pickle_is_possible_where_it_is_asked_for(spec: Spec, run: Go, home: Home) -> None:
    task = spec("python_model", pickle=True)
    found = run(task)
    assert found.state == "succeeded", found.message
    result = local.result(home, task.run_id)
    assert result is not None and result.model_path is not None
    assert served(result.model_path) == [1.0, -2.0]


def test_a_model_folder_of_any_flavor_is_taken_as_it_is(spec: Spec, run: Go, home: Home) -> None:
    task = spec("model_folder")
    found = run(task)
    assert found.state == "succeeded", found.message
    assert local.result(home, task.run_id).digest.startswith("sha256:")  # type: ignore[union-attr]


def test_metrics_cost_the_training_next_to_nothing(spec: Spec, run: Go, home: Home) -> None:
    """DEMAND TRK-1: below 10 ms; here with a wide margin."""
    task = spec("many_metrics", kind="step")
    assert run(task).state == "succeeded"
    log, _ = local.tail(home, task.run_id)
    cost = float(log.split("each took ")[1].split(" us")[0])
    assert cost < 2000, f"{cost} us"


def test_a_step_of_the_team_s_own(spec: Spec, run: Go, home: Home) -> None:
    task = spec(
        "describe_rows", kind="step", outputs=["report"], item={"plan": 3},
        publish={"dag": "visits.train", "run": "manual__2026-01-01T00:00:00+00:00", "task": "describe"},
    )  # fmt: skip
    found = run(task)
    assert found.state == "succeeded", found.message
    result = local.result(home, task.run_id)
    assert result is not None
    made = steps.Output.from_dict(result.outputs["report"])
    assert made.path.is_relative_to(home.pipelines / "visits.train" / "runs")
    assert made.path.parts[-4:] == ("steps", "describe", "outputs", "report")
    assert steps.verify_input(made).read_text() == ("300 rows, ['WINDTUNNEL_INPUT_ROWS_PATH'], item {'plan': 3}")
    again = steps.read_output(home, "visits.train", "manual__2026-01-01T00:00:00+00:00", "describe", "report")
    assert again == made


def test_a_step_that_forgets_its_output_fails(spec: Spec, run: Go) -> None:
    found = run(spec("forgets_output", kind="step", outputs=["report"]))
    assert (found.state, found.failure) == ("failed", "code")
    assert "did not write report" in found.message


def test_a_step_whose_condition_says_no_is_skipped(spec: Spec, run: Go, home: Home) -> None:
    task = spec("forgets_output", kind="step", outputs=["report"], when="wt_cases:never")
    assert run(task).state == "succeeded"
    assert local.result(home, task.run_id).skipped  # type: ignore[union-attr]


def test_a_restart_delivers_a_trained_model_instead_of_training_it_again(
    spec: Spec, run: Go, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is down at the end of the training: nothing is lost and nothing done twice. DEMAND TRK-7, PIP-5"""
    monkeypatch.setenv("WINDTUNNEL_DELIVER_WITHIN", "1")
    monkeypatch.setenv("WINDTUNNEL_CLOSE_WITHIN", "1")
    task = spec("counts_trainings", tracking_uri="http://127.0.0.1:9")
    found = run(task)
    assert (found.state, found.failure) == ("failed", "transient"), found.message
    assert "trained, but not delivered" in found.message
    found = run(replace(task, tracking_uri=None), restart=True)
    assert found.state == "succeeded", found.message
    assert (run_dir(home, task.run_id) / "work" / "trainings").read_text() == "x"
    # A model whose bytes have changed meanwhile is not delivered but made anew.
    (run_dir(home, task.run_id) / "model" / "requirements.txt").write_text("tampered")
    while lifelock.held(run_dir(home, task.run_id)):
        time.sleep(0.05)
    (run_dir(home, task.run_id) / "exit.json").unlink()
    found = run(replace(task, tracking_uri=None))
    assert found.state == "succeeded", found.message
    assert (run_dir(home, task.run_id) / "work" / "trainings").read_text() == "xx"
