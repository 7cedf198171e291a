"""The backend for Seldon Core 2 keeps the contract, over real HTTP (DEMAND SRV-1, ROL-6, ROL-7)."""

from __future__ import annotations

import importlib.util
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fakecore2
import httpx
import pytest

from windtunnel.kube.access import Access
from windtunnel.kube.client import Client
from windtunnel.serving.backend import Arm
from windtunnel.serving.core2 import Core2, Core2Backend

_path = Path(__file__).parents[1] / "conformance" / "serving_backend.py"
_spec = importlib.util.spec_from_file_location("conformance_serving_backend", _path)
assert _spec is not None and _spec.loader is not None
_suite = importlib.util.module_from_spec(_spec)
sys.modules.setdefault(_spec.name, _suite)
_spec.loader.exec_module(_suite)

ROW = {"age": 30.0, "visits": 2}
FATES = {"visits-v8": "changed", "visits-v9": "broken"}


@dataclass
class Kit:
    """What the conformance suite asks for; see there."""

    cluster: Any
    core: Any
    backend: Core2Backend
    http: httpx.Client
    model: str = "visits"
    tokens: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def settings(self) -> dict[str, Any]:
        one = {"warmup": [ROW], "features": [{"name": "age"}], "serving": {"drain": "1s", "timeout": "2s"}}
        return dict.fromkeys(("1", "2", "3", "8", "9"), one)

    def ask(self, headers: dict[str, str]) -> str | None:
        url = f"{self.core.url}/v2/models/{self.model}/infer"
        route = {"seldon-model": f"{self.model}.experiment"}
        answer = self.http.post(url, content=json.dumps({"inputs": []}), headers=headers | route)
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
        thing = self.cluster.get("experiments", self.model) or {"metadata": {}}
        writes = sum(
            one.method in ("POST", "PATCH", "DELETE") and "/mlops.seldon.io/" in one.path
            for one in self.cluster.requests
        )
        return writes, thing.get("spec"), thing["metadata"].get("annotations")


@pytest.fixture(scope="module")
def kit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    with fakecore2.cluster() as cluster, fakecore2.Core2(cluster, lambda name: FATES.get(name, "ready")) as core:
        settings = Core2(
            image="registry.example.org/windtunnel-server@sha256:00",
            registry="http://mlflow.models:5000",
            access=Access(cluster.kubeconfig(tmp_path_factory.mktemp("kube") / "config")),
            gateway=core.url,
            split_requests=40,
            prometheus=core.url,
            poll_s=0.02,
            route_within_s=30,
        )
        with httpx.Client() as http:
            yield Kit(cluster, core, Core2Backend(settings, Client(settings.access)), http)


class TestCore2(_suite.ServingBackendConformance):  # type: ignore[misc, name-defined]
    pass
