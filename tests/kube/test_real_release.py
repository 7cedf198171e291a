"""A release by the real DAG on a real API server with Seldon's own schema; marker ``kubernetes``.

The operator's part, status that follows the predictors, is played by the tests' own over the same API, and so are the
gateway, the versions' answers and Prometheus: no kubelet is needed.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fakeseldon
import pytest
from waiting import until

sys.path.insert(0, str(Path(__file__).parents[1] / "hands"))

from windtunnel.errors import ConflictError
from windtunnel.kube.access import Access
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import DEFINITION, SELDON_DEPLOYMENT
from windtunnel.serving.seldon import manifest, record
from windtunnel.serving.seldon.journal import last_words

pytestmark = pytest.mark.kubernetes
MODEL = "small"


class RealCluster:
    """What ``fakeseldon.Seldon`` asks of a cluster, asked of the API server."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.changed, self.services = threading.Condition(), {}  # type: ignore[var-annotated]

    def all(self, plural: str) -> list[dict[str, Any]]:
        return list(self._client.list(SELDON_DEPLOYMENT)["items"])

    def edit(self, plural: str, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        thing: dict[str, Any] = {}
        change(thing)
        self._client.patch(SELDON_DEPLOYMENT, name, thing, "status")

    def get(self, plural: str, name: str) -> dict[str, Any] | None:
        return self._client.get(SELDON_DEPLOYMENT, name)

    def put(self, plural: str, thing: dict[str, Any]) -> None: ...

    def remove(self, plural: str, name: str) -> None: ...


class Operator(fakeseldon.Seldon):
    """Versions are asked at their Services' names, past the API."""

    def direct(self, model: str, predictor: str) -> tuple[int, dict[str, Any]]:
        return super().direct(model, predictor.removeprefix(f"{model}-"))


@pytest.fixture
def sky(access: Access, client: Client, tmp_path: Path) -> Iterator[Any]:
    from seldonsky import ClusterSky

    name = f"{SELDON_DEPLOYMENT.plural}.{SELDON_DEPLOYMENT.group}"
    if client.get(DEFINITION, name) is None:
        pytest.skip(f"this cluster has no {name}: install Seldon Core 1's definitions")
    with ExitStack() as running:
        cluster = RealCluster(client)
        seldon = running.enter_context(Operator(cluster, after_s=0.0))  # type: ignore[arg-type]
        gateway = f"{seldon.url}/seldon/models/{{model}}"
        settings = {"gateway": gateway, "direct": f"{seldon.url}/direct/{MODEL}/{{service}}"}
        yield ClusterSky(tmp_path, cluster, seldon, running, access, **settings)


def test_a_first_release_a_canary_and_harm(sky: Any, client: Client) -> None:
    """DEMAND PIP-5, ROL-6, ROL-7, ROL-10"""
    from airborne import description
    from seldonsky import agree, canary, fly

    from windtunnel import Model
    from windtunnel_airflow import release_dag

    plain = description().to_dict()
    plain["target"], plain["training"]["target"] = "kubernetes", "local"
    dag = release_dag(Model.model_validate(plain))
    canary(sky, dag)
    client.patch(SELDON_DEPLOYMENT, MODEL, {"metadata": {"annotations": {"team": "risk"}}})
    assert fly(sky, dag).run.states["outcome"] == "success" and agree(sky) == []
    sky.register("3")
    flight = fly(sky, dag, errors="3")
    assert flight.run.states["rollback"] == "success" and agree(sky) == [], flight.run.why
    # What the models page shows of all releases, by one list.
    (said,) = last_words(sky.place().backend.journals().values()).values()
    assert said == sky.place().looks(MODEL).all()[-1]["decision"]["reason"]
    live = client.get(SELDON_DEPLOYMENT, MODEL)
    assert live is not None
    notes = live["metadata"]["annotations"]
    assert notes["team"] == "risk" and "roll_back" in notes[record.SAID] and notes[record.INTENT] == ""
    assert manifest.weights(live) == {"2": 100, "1": 0}
    # All of it is owned by one manager's apply, but for what others wrote and the operator's status.
    owners = {(one["manager"], one["operation"]) for one in live["metadata"]["managedFields"]}
    assert ("windtunnel", "Apply") in owners
    # A look decided on an older object is refused, whoever comes late.
    stale = manifest.deployment(record.state_of(live), sky.settings, live, client.namespace)  # type: ignore[arg-type]
    client.patch(SELDON_DEPLOYMENT, MODEL, {"metadata": {"annotations": {"team": "sea"}}})
    with pytest.raises(ConflictError):
        client.apply(SELDON_DEPLOYMENT, stale)
    client.delete(SELDON_DEPLOYMENT, MODEL)
    until(lambda: client.get(SELDON_DEPLOYMENT, MODEL) is None, 30)
