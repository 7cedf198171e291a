"""A run against a real ``mlflow server``: everything it says arrives, whatever the server does meanwhile.

DEMAND TRK-3, TRK-6, TRK-7, TRK-8, TRK-10
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from windtunnel.evidence import manifest
from windtunnel.home import Home
from windtunnel.loopback import any_free
from windtunnel.tracking import closing, local
from windtunnel.tracking.contract import RunSpec, RunStatus, run_dir
from windtunnel.tracking.server import connect

pytestmark = [pytest.mark.real, pytest.mark.timeout(400)]
Spec = Callable[..., RunSpec]
Go = Callable[..., RunStatus]


class Server:
    """A plain ``mlflow server`` that can go and come back on the same port."""

    def __init__(self, folder: Path) -> None:
        self.port = any_free()
        self.folder, self.url = folder, f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def up(self) -> None:
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db",
                "--artifacts-destination", str(self.folder / "artifacts"), "--serve-artifacts",
                "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1",
            ],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=(self.folder / "server.log").open("ab"), stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        end = time.monotonic() + 120
        while True:
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/health", timeout=1).status_code == 200:
                    return
            assert time.monotonic() < end, (self.folder / "server.log").read_text()[-2000:]
            time.sleep(0.2)

    def down(self) -> None:
        if self._process:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    made = Server(tmp_path_factory.mktemp("server"))
    made.up()
    yield made
    made.down()


def new_run(server: Server, key: str) -> str:
    return connect(server.url).create_run("visits", "a run", {"wt.why": "test"}, key)


def test_a_trained_model_arrives_whole_and_becomes_a_version(server: Server, spec: Spec, run: Go, home: Home) -> None:
    run_id = new_run(server, "whole")
    assert new_run(server, "whole") == run_id, "the same key makes the same run"
    task = spec(
        "train", run_id=run_id, tracking_uri=server.url, params={"trees": 4, "deep": {"a": [1, 2], "b": True}},
        correlation_id="c" * 32, cause="drift", data_digest="sha256:d", description_digest="sha256:e",
        context={"dag_id": "visits.train", "dag_run_id": "r1", "task_id": "train", "try_number": "1"},
    )  # fmt: skip
    found = run(task, timeout=120)
    assert found.state == "succeeded", found.message
    result = local.result(home, run_id)
    assert result is not None and result.model_path is not None

    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=server.url)
    seen = client.get_run(run_id)
    assert seen.info.status == "FINISHED"
    assert seen.info.end_time
    assert seen.data.params == {"trees": "4", "deep.a": "[1, 2]", "deep.b": "true"}
    tags = seen.data.tags
    assert tags["wt.correlation_id"] == "c" * 32
    assert tags["wt.airflow.dag_id"] == "visits.train"
    assert tags["wt.airflow.try_number"] == "1"
    assert tags["wt.data.digest"] == "sha256:d"
    for key in (
        "wt.git.commit", "wt.git.branch", "wt.git.dirty", "wt.python", "wt.packages", "wt.hardware.cpu",
        "wt.hardware.gpu", "wt.user", "wt.cause", "wt.seed", "wt.entry_point", "wt.description.digest",
    ):  # fmt: skip
        assert tags.get(key), key
    assert len(tags["wt.git.commit"]) == 40 or tags["wt.git.commit"] == "none"
    losses = client.get_metric_history(run_id, "loss")
    assert [(m.step, round(m.value, 3)) for m in losses] == [(0, 1.0), (1, 0.5), (2, 0.333)]
    [rmse] = client.get_metric_history(run_id, "valid/rmse")
    assert math.isnan(rmse.value)
    assert rmse.step == 7
    assert "system/peak_memory_mb" in seen.data.metrics

    # Exactly the bytes of the digest are what the registry's sealer finds.
    fetched = Path(client.download_artifacts(run_id, "model", str(run_dir(home, run_id) / "work")))
    assert manifest.build(fetched).content == result.digest
    manifest.verify(fetched, manifest.Manifest.from_dict(result.manifest or {}))
    assert client.list_artifacts(run_id, "windtunnel")[0].path == "windtunnel/environment.json"

    client.create_registered_model("visits")
    version = client.create_model_version("visits", result.model_uri, run_id)
    assert version.run_id == run_id
    assert version.status == "READY"


def test_a_server_that_goes_and_comes_back_loses_and_doubles_nothing(
    server: Server, spec: Spec, home: Home, run: Go
) -> None:
    run_id = new_run(server, "outage")
    server.down()
    try:
        task = spec("counts_trainings", run_id=run_id, tracking_uri=server.url)
        local.start(home, task)
        path = run_dir(home, run_id) / "trained.json"
        end = time.monotonic() + 60
        while not path.exists():
            assert time.monotonic() < end, "training waits for the server"
            time.sleep(0.1)
        assert local.status(home, run_id).state == "running", "it waits to deliver"
    finally:
        server.up()
    found = local.wait(home, run_id, timeout=120)
    assert found.state == "succeeded", found.message
    from mlflow.tracking import MlflowClient

    assert MlflowClient(tracking_uri=server.url).get_run(run_id).info.status == "FINISHED"


def test_failed_and_abandoned_runs_are_closed_with_their_reason(
    server: Server, spec: Spec, run: Go, home: Home
) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=server.url)
    failed = spec("raises", run_id=new_run(server, "failed"), tracking_uri=server.url)
    assert run(failed).failure == "code"
    abandoned = spec("sleeps", run_id=new_run(server, "abandoned"), tracking_uri=server.url)
    local.start(home, abandoned)
    begun = run_dir(home, abandoned.run_id) / "work" / "begun"
    end = time.monotonic() + 30
    while not begun.exists() and time.monotonic() < end:
        time.sleep(0.05)
    pid = local.status(home, abandoned.run_id).pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    while local.status(home, abandoned.run_id).state != "lost":
        time.sleep(0.05)
    done = closing.close_abandoned(home, silent_for=0)
    assert done[abandoned.run_id] == "abandoned"

    def closed() -> bool:
        return client.get_run(failed.run_id).info.status == "FAILED"

    end = time.monotonic() + 20
    while not closed() and time.monotonic() < end:
        time.sleep(0.2)
    for task, words in ((failed, "ZeroDivisionError"), (abandoned, "abandoned")):
        seen = client.get_run(task.run_id)
        assert seen.info.status == "FAILED"
        assert words in seen.data.tags["wt.reason"]


def test_a_cancelled_run_is_killed_in_mlflow_too(server: Server, spec: Spec, home: Home) -> None:
    from mlflow.tracking import MlflowClient

    task = spec("sleeps", run_id=new_run(server, "cancelled"), tracking_uri=server.url)
    local.start(home, task)
    time.sleep(1)
    assert local.cancel(home, task.run_id).state == "cancelled"
    end = time.monotonic() + 20
    while True:
        status = MlflowClient(tracking_uri=server.url).get_run(task.run_id).info.status
        if status == "KILLED":
            break
        assert time.monotonic() < end, status
        time.sleep(0.2)
