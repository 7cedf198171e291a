"""The backend for Seldon keeps the contract, through a real client and real HTTP (DEMAND SRV-1, ROL-6, ROL-7)."""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fakeseldon
import httpx
import pytest

from windtunnel.kube.access import Access
from windtunnel.kube.client import Client
from windtunnel.serving.backend import Arm
from windtunnel.serving.seldon import Seldon, SeldonBackend

_path = Path(__file__).parents[1] / "conformance" / "serving_backend.py"
_spec = importlib.util.spec_from_file_location("conformance_serving_backend", _path)
assert _spec is not None and _spec.loader is not None
_suite = importlib.util.module_from_spec(_spec)
sys.modules.setdefault(_spec.name, _suite)
_spec.loader.exec_module(_suite)

ROW = {"age": 30.0, "visits": 2}
FATES = {"v8": "changed", "v9": "broken"}


@dataclass
class Kit:
    """What the conformance suite asks for; see there."""

    cluster: Any
    seldon: Any
    backend: SeldonBackend
    http: httpx.Client
    model: str = "visits"
    tokens: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def settings(self) -> dict[str, Any]:
        one = {"warmup": [ROW], "features": [{"name": "age"}], "serving": {"drain": "1s", "timeout": "2s"}}
        return dict.fromkeys(("1", "2", "3", "8", "9"), one)

    def ask(self, headers: dict[str, str]) -> str | None:
        url = f"{self.seldon.url}/seldon/models/{self.model}/v2/models/{self.model}/infer"
        answer = self.http.post(url, content=json.dumps({"inputs": []}), headers=headers)
        return str(answer.json()["model_version"]) if answer.status_code == 200 else None

    def arm(self, n: int, weight: int) -> Arm:
        return Arm(str(n), f"sha256:{n:064x}", f"models:/{self.model}/{n}", weight)

    def changed_arm(self, weight: int) -> Arm:
        return self.arm(8, weight)

    def unready_arm(self, weight: int) -> Arm:
        return self.arm(9, weight)

    def next_token(self) -> int:
        return next(self.tokens)

    def fingerprint(self) -> object:
        thing = self.cluster.get("seldondeployments", self.model) or {"metadata": {}}
        writes = sum(
            one.method in ("POST", "PATCH") and "/seldondeployments" in one.path for one in self.cluster.requests
        )
        return writes, thing.get("spec"), thing["metadata"].get("annotations")


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    with fakeseldon.cluster() as cluster, fakeseldon.Seldon(cluster, lambda name: FATES.get(name, "ready")) as seldon:
        kubeconfig = cluster.kubeconfig(tmp_path_factory.mktemp("kube") / "config")
        settings = Seldon(
            image="registry.example.org/windtunnel-server@sha256:00",
            registry="http://mlflow.models:5000",
            access=Access(kubeconfig),
            gateway=f"{seldon.url}/seldon/{{namespace}}/{{model}}",
            split_requests=40,
            prometheus=seldon.url,
            poll_s=0.02,
            route_within_s=30,
        )
        with httpx.Client() as http:
            yield Kit(cluster, seldon, SeldonBackend(settings, Client(settings.access)), http)


class TestSeldon(_suite.ServingBackendConformance):  # type: ignore[misc, name-defined]
    pass
