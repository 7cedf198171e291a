"""A whole life through ``dag.test``: Airflow, MLflow with the governed store, training runner are real.

The scheduler's own behaviour (asset events starting runs, killed workers) is shown by the demo and the kill tests.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from windtunnel.home import Home
from windtunnel.loopback import any_free
from windtunnel.registry import launch

FLIGHT = Path(__file__).parent / "cases" / "flight.py"
pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]


@pytest.fixture
def home() -> Iterator[Home]:
    """A home with a running MLflow server; short path, ended and gone afterwards."""
    root = Path(tempfile.mkdtemp(prefix="wt-op-"))
    made = Home(root)
    port = any_free()
    started = launch.prepare(made, port)
    for folder in (made.secrets, *started.folders):
        folder.mkdir(parents=True, mode=0o700)
    for name in launch.SECRETS:
        (made.secrets / name).write_text(secrets.token_urlsafe(18) + "\n")
        (made.secrets / name).chmod(0o600)
    for file in started.files:
        file.path.write_text(file.content)
        file.path.chmod(file.mode)
    made.stack_file.write_text(
        json.dumps(
            {"home": str(root), "ports": {"mlflow": port}, "urls": {"mlflow": f"http://127.0.0.1:{port}"}, "python": {}}
        )
    )
    with (root / "mlflow.log").open("wb") as log:
        server = subprocess.Popen(started.argv, env={**os.environ, **started.env}, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 120
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}{started.health}", timeout=2).is_success:
                    break
            except httpx.HTTPError:
                pass
            assert server.poll() is None and time.monotonic() < end, (root / "mlflow.log").read_text()[-3000:]
            time.sleep(0.3)
        yield made
    finally:
        from windtunnel.tracking import local

        local.stop_all(made, reason="the test is over")
        server.terminate()
        server.wait(90)
        shutil.rmtree(root, ignore_errors=True)


def fly(home: Home, mode: str, limit_s: float = 500) -> dict[str, Any]:
    url = json.loads(home.stack_file.read_text())["urls"]["mlflow"]
    connection = {
        "conn_type": "windtunnel",
        "host": url,
        "login": "service",
        "password": (home.secrets / "mlflow-service").read_text().strip(),
    }
    env = {
        **os.environ,
        "WINDTUNNEL_HOME": str(home.root),
        "AIRFLOW_HOME": str(home.airflow),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW_CONN_WINDTUNNEL_DEFAULT": json.dumps(connection),
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
            {"type": "file", "log_file_path": str(home.root / "openlineage.jsonl"), "append": True}
        ),
    }
    home.airflow.mkdir(exist_ok=True)
    migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
    subprocess.run(migrate, env=env, check=True, capture_output=True, timeout=200)
    command = [sys.executable, str(FLIGHT), str(home.root), mode]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=limit_s, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("STORY ")]
    assert lines, (done.stdout + done.stderr)[-6000:]
    story: dict[str, Any] = json.loads(lines[-1].removeprefix("STORY "))
    story["log"] = done.stdout + done.stderr
    told = home.root / "openlineage.jsonl"
    story["openlineage"] = [json.loads(line) for line in told.read_text().splitlines()] if told.exists() else []
    return story


def test_a_whole_life(home: Home) -> None:
    """DEMAND PIP-1, PIP-2, PIP-7, PIP-9, REG-4, ROL-7, ROL-10 (all but the real traffic)."""
    story = fly(home, "life")
    # 1. trained, judged, registered, with the team's own steps between
    tasks = story["train"]["tasks"]
    assert story["train"]["state"] == "success"
    assert tasks["split[0]"] == tasks["split[1]"] == tasks["collect"] == tasks["register"] == "success"
    assert tasks["maybe"] == "skipped"  # its condition said no, and nothing after it minded
    assert tasks["note"] == "failed"  # visible, and not critical
    assert tasks["note_done"] == tasks["evaluate"] == "success"
    assert "a line of the training's own" in story["log"]
    # its lineage is in the registry, and was told to Airflow's OpenLineage provider under the assets' names
    assert {"data", "source", "code", "dag_run", "environment", "run", "version"} <= set(story["origin kinds"])
    edges = {
        (into["name"], out["name"])
        for event in story["openlineage"]
        if event["eventType"] == "COMPLETE"
        for into in event["inputs"]
        for out in event["outputs"]
    }
    assert {("small/data", "small/version"), ("small/version", "small/champion")} <= edges, story["openlineage"][:2]
    assert any(into.endswith("rows.csv") and out == "small/data" for into, out in edges)
    # 2. first release: 100 % at once, watched, champion
    first = story["release"]["tasks"]
    assert story["release"]["state"] == first["first.watch"] == first["outcome"] == "success"
    assert first["step_10.gate"] == first["rollback"] == first["first.withdraw"] == "skipped"
    # 3. a better recipe goes step by step
    better = story["release better"]["tasks"]
    assert story["release better"]["state"] == "success"
    assert [better[f"step_{w}.gate"] for w in (10, 50)] == ["success", "success"]
    assert better["promote"] == "success"
    assert better["first.promote"] == better["rollback"] == "skipped"
    # 4. a harmful one is stopped: the gate is red, the net is green, the release is red
    harmful = story["release harmful"]["tasks"]
    assert story["release harmful"]["state"] == harmful["outcome"] == "failed"
    assert harmful["step_10.gate"] == "failed"
    assert harmful["rollback"] == "success"
    assert harmful["promote"] == "upstream_failed"
    # 5. nothing due: all skipped, no failure
    assert set(story["release nothing"]["tasks"].values()) == {"skipped"}
    assert story["release nothing"]["state"] == "success"
    # 6. other rows come: drift, a report, and the event that wakes training
    assert set(story["watch nothing"]["tasks"].values()) == {"skipped"}
    watched = story["watch"]["tasks"]
    assert watched == {
        "window": "success", "drift": "success", "performance": "skipped", "report": "success", "react": "success"
    }  # fmt: skip
    (drift,) = [verdict for verdict in story["verdicts"] if verdict["kind"] == "drift"]
    assert (drift["outcome"], drift["version"], drift["dag_id"]) == ("FAIL", "2", "small.watch")
    assert story["events"][-1]["uri"] == "windtunnel://small/drift"
    assert story["events"][-1]["extra"]["correlation_id"] == drift["correlation_id"]
    assert [event["uri"].rsplit("/", 1)[-1] for event in story["events"]] == [
        "version", "champion", "version", "champion", "version", "rollback", "window", "behind", "drift"
    ]  # fmt: skip
    # what the registry says
    versions = story["versions"]
    assert {number: found["state"] for number, found in versions.items()} == {
        "1": "archived",
        "2": "champion",
        "3": "rolled_back",
    }
    assert [versions[n]["semver"] for n in "123"] == ["1.0.0", "1.1.0", "1.2.0"]
    assert [one["state"] for one in story["rollouts"]] == ["rolled_back", "promoted", "promoted"]
    # traffic: 0 while deploying, then up, and the harmful one back to 0 before anything else
    assert story["applied"] == [
        {"1": 0}, {"1": 100}, {"1": 100},
        {"1": 100, "2": 0}, {"1": 90, "2": 10}, {"1": 50, "2": 50}, {"1": 0, "2": 100}, {"2": 100},
        {"2": 100, "3": 0}, {"2": 90, "3": 10}, {"2": 90, "3": 0},
    ]  # fmt: skip
    assert story["renewed"] >= 4
    # verdicts: all counted, each story with its own id from data check to rollback
    assert not any(verdict["claimed"] for verdict in story["verdicts"])
    of_third = [v for v in story["verdicts"] if v["correlation_id"] == versions["3"]["correlation_id"]]
    found = {(verdict["kind"], verdict["outcome"]) for verdict in of_third}
    assert {
        ("data-check", "PASS"),
        ("evaluation", "PASS"),
        ("scan", "PASS"),
        ("gate", "FAIL"),
        ("rollout", "FAIL"),
    } == found
    assert versions["1"]["correlation_id"] == "c" * 32
    assert versions["1"]["cause"] == "the first"
    assert len({found["correlation_id"] for found in versions.values()}) == 3


@pytest.mark.long
def test_the_same_dags_release_on_seldon(home: Home) -> None:
    """DEMAND PIP-5, ROL-6, ROL-7, ROL-10: no worker has the files of another; only the API and the store are shared."""
    story = fly(home, "seldon")
    said = story["log"][-6000:]
    first, better, harmful = (story[f"release{word}"] for word in ("", " better", " harmful"))
    assert first["state"] == first["tasks"]["first.watch"] == "success", said
    assert better["state"] == better["tasks"]["step_50.gate"] == better["tasks"]["promote"] == "success", said
    assert harmful["state"] == harmful["tasks"]["step_10.gate"] == "failed", said
    assert harmful["tasks"]["rollback"] == "success", said
    assert story["versions"] == {"1": "archived", "2": "champion", "3": "rolled_back"}
    assert [one["state"] for one in story["rollouts"]] == ["rolled_back", "promoted", "promoted"]
    # The candidate is gone, the former champion is warm, no lease and no intent are left.
    assert story["predictors"] == {"v2": 100, "v1": 0}
    notes = {name.removeprefix("windtunnel.io/"): text for name, text in story["annotations"].items()}
    assert notes["intent"] == notes["lease-until"] == "" and notes["aborted"].startswith("errors: candidate")
    assert "roll_back: errors: candidate" in notes["last-look"]
    # Weights as the plan says, and the last write is the look that decided: nothing else moved traffic after it.
    steps = [one for n, one in enumerate(story["wrote"]) if n == 0 or story["wrote"][n - 1] != one]
    assert [one for one in steps if len(one) == 2 and "v3" not in one] == [
        {"v1": 100, "v2": 0}, {"v1": 90, "v2": 10}, {"v1": 50, "v2": 50}, {"v1": 0, "v2": 100},
        {"v2": 100, "v1": 0},
    ]  # fmt: skip
    assert steps[-2:] == [{"v2": 90, "v3": 10, "v1": 0}, {"v2": 100, "v1": 0}]
    verdicts = [tuple(one[:3]) for one in story["verdicts"]]
    assert verdicts[:2] == [("rollout", "FAIL", "3"), ("gate", "FAIL", "3")] and ("rollout", "PASS", "2") in verdicts
    assert {"000001.json", "000002.json"} <= set(story["archived"])
    assert all("/samples/" in path or path.endswith("models/small") for path in story["left"])


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_same_dags_release_on_core_2(home: Home) -> None:
    """DEMAND PIP-5, SRV-1, ROL-6, ROL-10: as above, by Experiment, Model and Server; a person aborts the last."""
    story = fly(home, "core2", limit_s=1000)
    said = story["log"][-6000:]
    first, better, harmful, aborted = (story[f"release{word}"] for word in ("", " better", " harmful", " aborted"))
    assert first["state"] == first["tasks"]["first.watch"] == "success", said
    assert better["state"] == better["tasks"]["step_50.gate"] == better["tasks"]["promote"] == "success", said
    assert harmful["state"] == harmful["tasks"]["step_10.gate"] == "failed", said
    assert harmful["tasks"]["rollback"] == "success", said
    # The command took the traffic away; the DAG met that and ended, with nothing left to undo.
    assert story["aborted"]["code"] == 0 and "every candidate is at 0 %" in story["aborted"]["said"], story["aborted"]
    assert aborted["state"] == "failed" and aborted["tasks"]["rollback"] == "success", said
    assert aborted["tasks"]["promote"] == "upstream_failed"
    assert story["versions"] == {"1": "archived", "2": "champion", "3": "rolled_back", "4": "rolled_back"}
    assert [one["state"] for one in story["rollouts"]] == ["rolled_back", "rolled_back", "promoted", "promoted"]
    assert "members complain" in story["rollouts"][0]["reason"]
    # The champion has everything, the former one is warm, the candidates' Models are gone.
    assert story["candidates"] == {"small-v2": 100}
    assert story["models"] == ["small-v1", "small-v2"]


@pytest.mark.long
def test_a_first_release_is_withdrawn_on_breach(home: Home) -> None:
    """DEMAND ROL-10"""
    story = fly(home, "first-errors")
    tasks = story["release"]["tasks"]
    assert story["release"]["state"] == tasks["outcome"] == tasks["first.watch"] == "failed"
    assert tasks["first.withdraw"] == "success"
    assert tasks["rollback"] == "skipped"
    assert story["champion"] is None
    assert story["versions"]["1"]["state"] == "withdrawn"
    assert story["applied"][-1] == {}


@pytest.mark.long
def test_a_training_in_a_pod_ends_in_a_registered_version(home: Home) -> None:
    """DEMAND TRN-1, TRN-2, TRN-6: the DAG flies with its training in a pod; all but the kubelet is real."""
    story = fly(home, "pods")
    assert story["train"]["state"] == "success", story["log"][-6000:]
    for name in ("data", "check", "collect", "train", "evaluate", "register"):
        assert story["train"]["tasks"][name] == "success", name
    assert story["versions"] == [{"state": "candidate", "correlation_id": "c" * 32}]
    assert story["made"] == ["/api/v1/namespaces/training/pods"] and story["left"] == []
    assert "a line of the training's own" in story["logs"][0]
    assert "a line of the training's own" in story["log"], "the pod's log is the task's"
    checked = sorted((home.root / "store" / "pipelines").glob("small.train/runs/*/steps/check/outputs/data-check/*"))
    assert [page.name for page in checked] == ["data-check.html", "data-check.json"]
