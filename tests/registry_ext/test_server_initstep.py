"""The first step of a pod, as a process, against a real registry: what it leaves is what was sealed (DEMAND SRV-2)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from waiting import until

from windtunnel.evidence import manifest
from windtunnel.loopback import any_free
from windtunnel.registry.client import RegistryClient
from windtunnel.serving.artifacts import Folder
from windtunnel.serving.predictions import PredictionLog
from windtunnel.stackfile import read_secret

pytestmark = pytest.mark.real
#: The environment of the model servers' image, where there is one: it has neither MLflow's nor Airflow's packages.
_SERVING = Path(os.environ.get("WINDTUNNEL_SERVING_PYTHON") or Path(__file__).parents[2] / ".venv-serving/bin/python")
PYTHON = str(_SERVING) if _SERVING.is_file() else sys.executable
SETTINGS = {"serving": {"cpu": 2, "timeout": "3s"}, "features": [{"name": "age"}], "warmup": [{"age": 30.0}]}


class Step:
    """One run of the first step, in a process with a pod's environment."""

    def __init__(self, server: Any, record: Any, folder: Path, **more: str) -> None:
        asked = {
            "model": record.model,
            "version": record.version,
            "digest": record.digest,
            "source": f"models:/{record.model}/{record.version}",
            "settings": SETTINGS,
        }
        self.folder, self.note = folder, folder.parent / "termination-log"
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder.parent),
            "WINDTUNNEL_VERSION": json.dumps(asked),
            "WINDTUNNEL_REGISTRY_URL": server.url,
            "WINDTUNNEL_USERNAME": "service",
            "WINDTUNNEL_PASSWORD": read_secret(server.home, "mlflow-service"),
            "WINDTUNNEL_KEYS": str(server.home.root / "keys"),
            "WINDTUNNEL_TERMINATION_LOG": str(self.note),
        } | more
        self.ended = subprocess.run(
            [PYTHON, "-m", "windtunnel.serving.seldon.initstep", str(folder)],
            env=environment, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip

    @property
    def told(self) -> dict[str, Any]:
        return dict(json.loads(self.note.read_text()))


@pytest.fixture
def record(service: RegistryClient, hands: Any, helpers: Any) -> Any:
    return helpers.enter(service, hands, hands.model())


def test_it_leaves_the_verified_copy_and_what_the_server_needs(
    registry_server: Any, record: Any, tmp_path: Path
) -> None:
    step = Step(registry_server, record, tmp_path / "mnt")
    assert step.ended.returncode == 0, step.ended.stderr
    folder = Folder(step.folder)
    assert manifest.build(folder.model).content == record.digest == folder.digest()
    settings = folder.read_server()
    assert (settings["digest"], settings["cpu"], settings["timeout_s"]) == (record.digest, 2, 3.0)
    assert settings["sample"] == 0, "nobody collects this pod's rows"
    listening = json.loads((folder.mlserver / "settings.json").read_text())
    assert (listening["host"], listening["http_port"]) == ("0.0.0.0", 9000)
    said = json.loads(step.ended.stdout)
    assert said["signed_by"] and not step.note.exists()
    # A container that starts again needs no registry: the copy is there, and is verified again.
    again = Step(registry_server, record, step.folder, WINDTUNNEL_REGISTRY_URL="http://127.0.0.1:1")
    assert again.ended.returncode == 0, again.ended.stderr
    collected = Step(registry_server, record, step.folder, WINDTUNNEL_COLLECTOR="http://collector:8080")
    assert collected.ended.returncode == 0, collected.ended.stderr
    settings = folder.read_server()
    assert (settings["sample"], settings["predictions"]) == (1.0, "/var/lib/windtunnel/predictions")


def test_a_user_who_may_read_is_enough(registry_server: Any, record: Any, person: Any, tmp_path: Path) -> None:
    step = Step(registry_server, record, tmp_path / "mnt", WINDTUNNEL_USERNAME=person[0], WINDTUNNEL_PASSWORD=person[1])
    assert step.ended.returncode == 0, step.ended.stderr


@pytest.mark.parametrize("which", ["digest", "source", "keys", "signer"])
def test_what_is_not_sealed_and_signed_is_not_served(
    registry_server: Any, record: Any, tmp_path: Path, which: str
) -> None:
    asked = {
        "model": record.model,
        "version": record.version,
        "digest": "sha256:" + "0" * 64 if which == "digest" else record.digest,
        "source": "/etc" if which == "source" else f"models:/{record.model}/{record.version}",
    }
    keys = registry_server.home.root / "keys"
    if which == "keys":
        keys = tmp_path / "none"
    if which == "signer":  # keys of another installation
        shutil.copytree(keys, tmp_path / "keys")
        keys = tmp_path / "keys"
        (keys / "keys.json").write_text(json.dumps({"keys": []}))
    step = Step(
        registry_server, record, tmp_path / "mnt", WINDTUNNEL_VERSION=json.dumps(asked), WINDTUNNEL_KEYS=str(keys)
    )
    assert step.ended.returncode == 3, step.ended.stderr
    assert step.told["error"] == "IntegrityError"
    assert not (step.folder / "model").exists()


def test_other_ends_are_told_apart(registry_server: Any, record: Any, tmp_path: Path) -> None:
    away = Step(registry_server, record, tmp_path / "mnt", WINDTUNNEL_REGISTRY_URL="http://127.0.0.1:1")
    assert (away.ended.returncode, away.told["error"]) == (75, "UnavailableError")
    nobody = Step(registry_server, record, tmp_path / "mnt", WINDTUNNEL_PASSWORD="wrong")
    assert (nobody.ended.returncode, "message" in nobody.told) == (1, True)
    unsaid = Step(registry_server, record, tmp_path / "mnt", WINDTUNNEL_VERSION="{}")
    assert (unsaid.ended.returncode, unsaid.told["error"]) == (1, "DescriptionError")


@pytest.mark.long
def test_the_server_of_a_pod_serves_that_copy_and_no_other(
    registry_server: Any, service: RegistryClient, hands: Any, helpers: Any, tmp_path: Path
) -> None:
    """DEMAND SRV-2, SRV-10: the commands of both containers, one after the other; the second knows no MLflow."""
    if sys.executable == PYTHON:
        pytest.skip("needs the model servers' environment (.venv-serving)")
    saved = tmp_path / "saved"
    _save(saved)
    files = {f"model/{path.relative_to(saved)}": path.read_bytes() for path in saved.rglob("*") if path.is_file()}
    model, run_id = hands.model(), hands.run(files, mlmodel=False)
    record = service.register(
        model, source=f"runs:/{run_id}/model", run_id=run_id, recipe=helpers.RECIPE, correlation_id="c", cause="test"
    )
    collector, log_root = f"http://127.0.0.1:{any_free()}", tmp_path / "log"
    step = Step(registry_server, record, tmp_path / "mnt", WINDTUNNEL_COLLECTOR=collector)
    assert step.ended.returncode == 0, step.ended.stderr
    folder, port = Folder(step.folder), any_free()
    told = json.loads(folder.server_file.read_text())  # a pod has this folder to itself, too
    folder.server_file.write_text(json.dumps(told | {"predictions": str(tmp_path / "own"), "flush_s": 0.5}))
    path = folder.mlserver / "settings.json"
    listening = json.loads(path.read_text())
    path.write_text(json.dumps(listening | {"http_port": port}))  # a pod has port 9000 to itself, this machine not
    bounds = json.loads(folder.server_file.read_text())
    assert bounds["limits"] == {"max_concurrency": 64, "queue": 256, "metrics_port": 6000}
    bounds["limits"]["metrics_port"] = any_free()
    folder.server_file.write_text(json.dumps(bounds))
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "WINDTUNNEL_KEYS": str(registry_server.home.root / "keys"),
        "MLFLOW_TRACKING_URI": "file:///nonexistent",
        "MLSERVER_MODEL_NAME": model,  # what Seldon's operator adds
        "MLSERVER_MODEL_URI": "/mnt/models",
        "MLSERVER_HTTP_PORT": str(port),
        "WINDTUNNEL_COLLECTOR": collector,
        "WINDTUNNEL_COLLECTOR_TOKEN": str(tmp_path / "token"),
        "WINDTUNNEL_SHADOW": "1",
    }
    (tmp_path / "token").write_text("secret")
    collects = [
        str(Path(sys.executable).with_name("windtunnel")), "collector", "--spool", str(tmp_path / "spool"), "--to",
        log_root.as_uri(), "--port", collector.rpartition(":")[2], "--token-file", str(tmp_path / "token"),
    ]  # fmt: skip
    command = [PYTHON, "-m", "windtunnel.serving.modelserver.launch", str(step.folder)]
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            until(lambda: httpx.get(f"http://127.0.0.1:{port}/v2/models/{model}/ready").status_code == 200)
            body = {"inputs": [{"name": "age", "shape": [1], "datatype": "FP64", "data": [30.0]}]}
            answer = httpx.post(f"http://127.0.0.1:{port}/v2/models/{model}/infer", json=body).json()
            assert (answer["model_name"], answer["model_version"]) == (model, record.version)
            assert answer["outputs"][0]["data"] == [pytest.approx(60.0)]
            # Its row waits on its disk until somebody collects; then it comes, marked as the copy that it is.
            collecting = subprocess.Popen(collects, stdout=log, stderr=log)
            try:
                kept = PredictionLog(log_root)
                (frame,) = until(lambda: [one for one in [kept.read(model, 0, time.time() + 60)] if len(one)])
                assert list(frame["prediction_id"]) == answer["parameters"]["prediction_ids"]
                assert (frame["feature_age"][0], frame["status"][0], frame["shadow"][0]) == (30.0, 200, True)
                assert until(lambda: kept.watermark(model).rows == 1)
                server.terminate()
                server.wait(60)
                assert until(lambda: kept.watermark(model).writers == 0), "what ends says so"
            finally:
                collecting.terminate()
                collecting.wait(60)
        finally:
            server.terminate()
            server.wait(60)
        changed = folder.model / "MLmodel"
        changed.chmod(0o600)
        changed.write_bytes(changed.read_bytes() + b"# changed\n")
        assert (
            subprocess.run(command, env=environment, stdout=log, stderr=log, timeout=240, check=False).returncode == 3
        )


def _save(path: Path) -> None:
    """A model that doubles an age."""
    import mlflow
    import pandas as pd
    from mlflow.models import infer_signature
    from sklearn.linear_model import LinearRegression

    frame = pd.DataFrame({"age": [1.0, 2.0, 3.0]})
    fitted = LinearRegression().fit(frame, [2.0, 4.0, 6.0])
    signature = infer_signature(frame, fitted.predict(frame))
    mlflow.sklearn.save_model(fitted, str(path), signature=signature, pip_requirements=["scikit-learn"])
