"""Models of several makers through their whole life: DEMAND SRV-8. Minutes: only in ``make test-long``.

Airflow (``dag.test``), MLflow with the governed store, the training runner, Envoy, meter, guard and the model servers
are real, and callers ask through Envoy all the time.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from windtunnel.home import Home
from windtunnel.stack import airflow
from windtunnel.stack.stack import Stack

pytestmark = [pytest.mark.real, pytest.mark.long, pytest.mark.timeout(1200)]
MAKERS = Path(__file__).parent / "cases" / "makers.py"
SERVERS = ("mlflow", "envoy", "meter", "guard")
#: Server environments by name, made by ``windtunnel setup-serving NAME FILE``: for makers the common one lacks.
ENVIRONMENTS = "WINDTUNNEL_TEST_SERVING_ENVS"
#: The library that must be installed, and what a caller gets.
LIBRARIES = {
    "sklearn": ("sklearn", ["predictions BYTES"]),
    "xgboost": ("xgboost", ["predictions FP64"]),
    "lightgbm": ("lightgbm", ["predictions INT64"]),
    "onnx": ("onnxruntime", ["predictions FP64"]),
    "torch": ("torch", ["predictions FP64"]),
    "plain": ("mlflow", ["predictions FP64", "confidence FP64"]),
}


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    """A home whose servers run; those of Airflow do not, its tables are there."""
    folder = Path(tempfile.mkdtemp(prefix="wt-mk-"))
    found = Home(folder / "home")
    found.root.mkdir()
    if own := os.environ.get(ENVIRONMENTS):
        (found.root / "serving-envs").symlink_to(own, target_is_directory=True)
    stack = Stack(found, only=SERVERS)
    try:
        stack.up()
        yield found
    finally:
        from windtunnel.tracking import local

        local.stop_all(found, reason="the test is over")
        left = stack.down()
        shutil.rmtree(folder, ignore_errors=True)
        assert left == []


def serves(home: Home, maker: str, library: str) -> bool:
    own = home.serving_environment(maker) / "bin" / "python"
    python = str(own) if own.exists() else json.loads(home.stack_file.read_text())["python"]["serving"]
    return subprocess.run([python, "-c", f"import {library}"], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("maker", LIBRARIES)
def test_a_model_of_each_maker_flies_the_whole_way(maker: str, home: Home) -> None:
    library, outputs = LIBRARIES[maker]
    pytest.importorskip(library, reason=f"{library} is not installed here")
    if not serves(home, maker, library):
        pytest.skip(f"the model servers have no {library}: name a folder with an environment {maker} in {ENVIRONMENTS}")
    story = fly(home, maker)
    took = {name: part["seconds"] for name, part in story.items() if isinstance(part, dict) and "seconds" in part}
    print(
        maker, json.dumps({"took": took, **{key: story[key] for key in ("answers", "outputs", "verdicts")}})
    )  # with -rP
    said = json.dumps({key: story[key] for key in ("verdicts", "problems", "answers")}, indent=1) + story["log"][-4000:]
    for name in ("train", "release", "train again", "release again", "watch"):
        assert story.get(name, {}).get("state") == "success", f"{name}: {story.get(name)}\n{said}"
    first, again = story["release"]["tasks"], story["release again"]["tasks"]
    assert first["first.watch"] == first["outcome"] == "success"
    assert again["step_25.gate"] == again["step_50.gate"] == again["promote"] == "success"
    assert story["versions"] == {"1": "archived", "2": "champion"}
    # Nobody's request failed, and both versions answered, as their model does.
    assert not story["problems"], said
    assert {key for key in story["answers"] if key.endswith(" 200")} == {"1 200", "2 200"}, said
    assert story["outputs"] == {"1": outputs, "2": outputs}
    # Gates read their rows, and what is watched is as it was at evaluation: what is served is what was judged.
    outcomes = {(one["kind"], one["outcome"]) for one in story["verdicts"]}
    assert {("benchmark", "PASS"), ("rollout", "PASS"), ("drift", "PASS"), ("performance", "PASS")} <= outcomes, said
    assert not {outcome for _, outcome in outcomes} & {"FAIL"}, said


def fly(home: Home, maker: str) -> dict[str, Any]:
    env = {**os.environ, **airflow.environment(home, [home.dags])}
    done = subprocess.run(
        [sys.executable, str(MAKERS), str(home.root), maker],
        env=env,
        capture_output=True,
        text=True,
        timeout=1000,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("STORY ")]
    assert lines, (done.stdout + done.stderr)[-6000:]
    story: dict[str, Any] = json.loads(lines[-1].removeprefix("STORY "))
    story["log"] = done.stdout + done.stderr
    return story
