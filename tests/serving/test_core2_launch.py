"""The model server of a Core 2 pod, driven as Seldon's agent drives it (DEMAND SRV-1, SRV-2).

``scheduler/pkg/agent/repository/mlserver/mlserver.go`` copies the folder of ``storageUri`` into the server's repository
under ``MODEL_GENERATION/GENERATION``, keeps of its settings what it knows, gives them its own name and version, and has
the server load them by gRPC; callers' requests come by that name.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from waiting import until

from windtunnel.home import Home
from windtunnel.serving import artifacts
from windtunnel.serving.artifacts import Folder
from windtunnel.serving.core2 import launch
from windtunnel.serving.local.servers import tensors
from windtunnel.serving.modelserver import serverfiles
from windtunnel.spec.serving import Serving

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("WINDTUNNEL_SERVING_PYTHON") or str(ROOT / ".venv-serving/bin/python")
ROW: dict[str, Any] = {"age": 30.0, "income": 50.0, "visits": 2, "plan": "free"}
_LOAD = """
import sys, grpc
from mlserver.grpc import dataplane_pb2 as messages, dataplane_pb2_grpc as services
stub = services.GRPCInferenceServiceStub(grpc.insecure_channel(f"127.0.0.1:{sys.argv[1]}"))
try:
    stub.RepositoryModelLoad(messages.RepositoryModelLoadRequest(model_name=sys.argv[2]), timeout=120)
except grpc.RpcError as error:
    sys.exit(error.details())
"""


def test_only_our_runtime_on_the_verified_copy_is_loaded() -> None:
    folder = Path("/mnt/windtunnel")
    assert launch.ours(launch.RUNTIME, "/mnt/windtunnel", folder)
    assert not launch.ours("mlserver_sklearn.SKLearnModel", "/mnt/windtunnel", folder)
    assert not launch.ours(launch.RUNTIME, "/mnt/agent/models/visits-v3_1/1", folder)
    assert not launch.ours(launch.RUNTIME, None, folder)


@dataclass
class Pod:
    folder: Folder
    repository: Path
    http: int
    grpc: int

    def copy(self, name: str, **settings: Any) -> None:
        """What the agent does with a Model: a copy, with settings of its own making."""
        target = self.repository / name / "1"
        shutil.copytree(self.folder.mlserver, target)
        found = json.loads((target / "model-settings.json").read_bytes()) | settings
        known = {key: found[key] for key in ("name", "implementation", "parameters", "platform") if key in found}
        known |= {"name": name, "parameters": {**known["parameters"], "version": "1", "extra": {}}}
        (target / "model-settings.json").write_text(json.dumps(known))

    def load(self, name: str) -> subprocess.CompletedProcess[str]:
        command = [PYTHON, "-c", _LOAD, str(self.grpc), name]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def _port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def pod(models: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pod]:
    if not Path(PYTHON).exists():
        pytest.skip(f"the model servers' environment is not there ({PYTHON}): make setup")
    root = tmp_path_factory.mktemp("pod")
    folder = artifacts.ensure(Home(root / "home"), "visits", models.good.arm("3"), Folder(root / "mnt"))
    serverfiles.write(
        folder,
        model="visits",
        version="3",
        digest=models.good.digest,
        port=9000,
        serving=Serving(),
        predictions=root / "predictions",
        warmup=[ROW],
        metrics_port=_port(),
    )
    made = Pod(folder, root / "agent", _port(), _port())
    made.repository.mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(root),
        "PYTHONPATH": str(ROOT),
        "MLSERVER_MODELS_DIR": str(made.repository),
        "MLSERVER_HTTP_PORT": str(made.http),
        "MLSERVER_GRPC_PORT": str(made.grpc),
        "MLSERVER_PARALLEL_WORKERS": "1",
    }
    command = [PYTHON, "-m", "windtunnel.serving.core2.launch", str(folder.path)]
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=root)
    try:
        until(lambda: process.poll() is not None or _live(made.http), 120)
        assert process.poll() is None, (root / "log").read_text()
        yield made
    finally:
        process.terminate()
        process.wait(60)


def _live(port: int) -> bool:
    return httpx.get(f"http://127.0.0.1:{port}/v2/health/live", timeout=5).status_code == 200


@pytest.mark.real
def test_the_agent_loads_it_and_answers_name_the_registrys_version(pod: Pod) -> None:
    pod.copy("visits-v3_1")
    loaded = pod.load("visits-v3_1")
    assert loaded.returncode == 0, loaded.stderr
    asked = {"inputs": tensors([ROW])}
    answer = httpx.post(f"http://127.0.0.1:{pod.http}/v2/models/visits-v3_1/infer", json=asked, timeout=30)
    assert answer.status_code == 200, answer.text
    assert (answer.json()["model_name"], answer.json()["model_version"]) == ("visits", "3")
    port = pod.folder.read_server()["limits"]["metrics_port"]
    told = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text
    assert "windtunnel_server_running" in told, "it keeps the limits of the description"


@pytest.mark.real
def test_what_the_agent_brings_from_elsewhere_is_not_found(pod: Pod) -> None:
    pod.copy("another_1", parameters={"uri": "/somewhere/else"})
    refused = pod.load("another_1")
    assert refused.returncode != 0 and "another_1" in refused.stderr
