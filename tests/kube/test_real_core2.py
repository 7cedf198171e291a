"""What a release on Seldon Core 2 asks of a real API server; ``make test-kubernetes``, with the cluster of KUBECONFIG.

The CRDs are taken as they are installed; where there are none, small ones of our own are, with the field names of
``fakecore2``. Scheduler and mesh are the tests' own (``fakecore2``): they read the objects from the real API and write
their status there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import fakecore2
import pytest
from waiting import until

from windtunnel.errors import AbsentError, ConflictError
from windtunnel.kube.access import Access
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import DEFINITION, Kind
from windtunnel.serving import desired
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.core2 import Core2, Core2Backend, manifest
from windtunnel.serving.core2.kinds import EXPERIMENT, MODEL, SERVER
from windtunnel.serving.desired import Server, State
from windtunnel.serving.seldon import record

pytestmark = [pytest.mark.kubernetes, pytest.mark.usefixtures("core2")]
KINDS = {kind.plural: kind for kind in (EXPERIMENT, MODEL, SERVER)}
SETTINGS = Core2(
    image="registry.example.org/model-server:1",
    registry="http://registry",
    registry_ca="authority",
    service_account="models",
    pull_secrets=("pull",),
    labels={"team": "risk"},
    poll_s=0.1,
    route_within_s=60,
    split_requests=40,
)
SERVER_SETTINGS = {
    "serving": {
        "replicas": 2,
        "minimum": 2,
        "maximum": 4,
        "gpu": 1,
        "gpu_type": "NVIDIA-L4",
        "pod": {
            "node_selector": {"team": "sea"},
            "tolerations": [{"key": "team", "value": "sea", "effect": "NoExecute", "within": "1m"}],
            "runtime_class": "nvidia",
        },
    },
    "features": [{"name": "age"}],
    "warmup": [{"age": 30.5}],
}


class Real:
    """The real API, as the tests' own scheduler asks for it (``kubeapi.Cluster``)."""

    def __init__(self, client: Client) -> None:
        self.client, self.changed = client, threading.Condition()
        self.services: dict[str, Any] = {}

    def all(self, plural: str) -> list[dict[str, Any]]:
        return list(self.client.list(KINDS[plural]).get("items") or [])

    def edit(self, plural: str, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
        thing = self.client.get(KINDS[plural], name)
        if thing is None:
            raise KeyError(name)
        change(thing)
        try:
            self.client.patch(KINDS[plural], name, {"status": thing.get("status")}, "status")
        except AbsentError:
            raise KeyError(name) from None

    def put(self, plural: str, thing: dict[str, Any]) -> None:
        """No kubelet: there are no pods."""

    def remove(self, plural: str, name: str) -> None:
        """See ``put``."""


@pytest.fixture(scope="module")
def core2(client: Client) -> Iterator[None]:
    """The CRDs, installed or our own."""
    made = []
    for kind in KINDS.values():
        if client.get(DEFINITION, f"{kind.plural}.{kind.group}") is None:
            client.create(DEFINITION, definition(kind))
            made.append(kind)
    try:
        until(lambda: all(served(client, kind) for kind in KINDS.values()), 60)
        yield
    finally:
        for kind in made:
            client.delete(DEFINITION, f"{kind.plural}.{kind.group}")


def served(client: Client, kind: Kind) -> bool:
    try:
        client.list(kind)
        return True
    except AbsentError:
        return False


_SCALE = {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}


def definition(kind: Kind) -> dict[str, Any]:
    anything = {"x-kubernetes-preserve-unknown-fields": True}

    def schema(of: Any) -> dict[str, Any]:
        if of is fakecore2.ANY:
            return anything
        if isinstance(of, list):
            return {"type": "array", "items": schema(of[0])}
        return {"type": "object", "properties": {name: schema(part) for name, part in of.items()}}

    whole = {"spec": schema(fakecore2.SPECS[kind.name]), "status": {"type": "object"} | anything}
    version = {
        "name": kind.version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": whole}},
        "subresources": {"status": {}, **({} if kind is EXPERIMENT else {"scale": _SCALE})},
    }
    names = {"plural": kind.plural, "singular": kind.name.lower(), "kind": kind.name}
    return {
        "apiVersion": DEFINITION.api_version,
        "kind": DEFINITION.name,
        "metadata": {"name": f"{kind.plural}.{kind.group}"},
        "spec": {"group": kind.group, "scope": "Namespaced", "names": names, "versions": [version]},
    }


def arm(n: int, weight: int = 0) -> Arm:
    return Arm(str(n), f"sha256:{n:064x}", f"models:/visits/{n}", weight)


def state(model: str, champion: int, *candidates: Arm, **more: Any) -> State:
    release = Release(model, arm(1, champion), candidates, token=3, rollout_id="r", lease_until=99.5, **more)
    servers = {one.version: Server(one.digest, one.source, 0, True, True, SERVER_SETTINGS) for one in release.arms()}
    return desired.routed(State(release, servers=servers), now=1000.0)


@contextmanager
def watched(client: Any, sent: list[str]) -> Iterator[None]:
    """Meanwhile ``sent`` takes each request, as ``METHOD NAME``."""
    real = client._once

    def once(method: str, path: str, *rest: Any) -> Any:
        sent.append(f"{method} {path.rpartition('/')[2]}")
        return real(method, path, *rest)

    client._once = once
    try:
        yield
    finally:
        client._once = real


def test_the_real_schemas_take_every_field_and_give_it_back(client: Client) -> None:
    """Strict: a field that the installed CRD does not know is an error, not silence."""
    live = None
    for wanted in (
        state("taken", 100),
        state("taken", 100, arm(2), mirror=30),
        state("taken", 60, arm(2, 30), arm(3, 10)),
        state("taken", 0, arm(2)),
        state("taken", 0, arm(2, 100)),
    ):
        made = manifest.experiment(wanted, SETTINGS, live, client.namespace)
        live = client.apply(EXPERIMENT, made) if live else client.create(EXPERIMENT, made)
        assert live["spec"] == made["spec"], "also: copies that ended leave nothing behind"
        assert record.state_of(live) == replace(
            wanted, release=replace(wanted.release, settings={v: s.settings for v, s in wanted.servers.items()})
        )
    assert live is not None
    for kind, make in ((MODEL, manifest.model_of), (SERVER, manifest.server_of)):
        for version in "12":
            ours = make(state("taken", 90, arm(2, 10)), version, SETTINGS, live)
            made = client.apply(kind, ours)
            assert manifest.says(made["spec"], ours["spec"])
            assert manifest.says(made["metadata"], ours["metadata"])
            again = client.apply(kind, ours)
            assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


def test_a_stale_write_is_refused(client: Client) -> None:
    first = client.create(EXPERIMENT, manifest.experiment(state("stale", 100), SETTINGS, None, client.namespace))
    client.patch(EXPERIMENT, "stale", {"metadata": {"annotations": {"team": "risk"}}})
    late = manifest.experiment(state("stale", 90, arm(2, 10)), SETTINGS, first, client.namespace)
    with pytest.raises(ConflictError):
        client.apply(EXPERIMENT, late)
    client.delete(EXPERIMENT, "stale")
    with pytest.raises(ConflictError):
        client.apply(EXPERIMENT, late)
    assert client.get(EXPERIMENT, "stale") is None


def test_a_release_from_its_first_version_to_its_rollback(access: Access, client: Client) -> None:
    """DEMAND ROL-6, SRV-1: deployed, proven, weighed, copied, taken back by one write; others' fields stay."""
    with fakecore2.Core2(Real(Client(access))) as core:  # type: ignore[arg-type]
        settings = replace(SETTINGS, access=access, gateway=core.url, direct=core.url)
        backend = Core2Backend(settings, client)
        one = {"warmup": [{"age": 30.0}], "serving": {"timeout": "5s", "drain": "1s"}}

        def release(champion: int | None, *candidates: Arm, **more: Any) -> Release:
            first = arm(1, champion) if champion is not None else None
            return Release("visits", first, candidates, rollout_id="r", settings=dict.fromkeys("12", one), **more)

        backend.apply(release(None, arm(1, 100), token=1))
        client.patch(EXPERIMENT, "visits", {"metadata": {"annotations": {"team": "risk"}}})
        client.patch(SERVER, "visits-v1", {"metadata": {"annotations": {"team": "risk"}}})
        seen = backend.apply(release(100, arm(2), token=2, mirror=50))
        assert seen.mirror == 50
        seen = backend.apply(release(70, arm(2, 30), token=2, stage=1))
        assert {version: (found.weight, found.state) for version, found in seen.arms.items()} == {
            "1": (70, "ready"),
            "2": (30, "ready"),
        }
        sent: list[str] = []
        with watched(client, sent):
            seen = backend.abort("visits", "no", "guard")
        assert sent[0] == "PATCH visits" or sent[:2] == ["GET visits", "PATCH visits"], sent
        assert sum(line == "PATCH visits" for line in sent) == 1
        assert {version: found.weight for version, found in seen.arms.items() if found.weight} == {"1": 100}
        until(lambda: [one["metadata"]["name"] for one in Real(client).all("models")].count("visits-v2") == 0, 60)
        until(lambda: not backend.sweep() and client.get(SERVER, "visits-v2") is None, 60)
        live, server = client.get(EXPERIMENT, "visits"), client.get(SERVER, "visits-v1")
        assert live is not None and live["metadata"]["annotations"]["team"] == "risk"
        assert server is not None and server["metadata"]["annotations"]["team"] == "risk"
        assert live["spec"] == {"candidates": [{"name": "visits-v1", "weight": 100}], "resourceType": "model"}
        assert live["metadata"]["annotations"][record.ABORTED] == "no"


def test_who_scales_a_server_keeps_its_number(
    access: Access, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An HorizontalPodAutoscaler writes by the subresource ``scale``, which the API's ``managedFields`` say."""
    with fakecore2.Core2(Real(Client(access))) as core:  # type: ignore[arg-type]
        backend = Core2Backend(replace(SETTINGS, access=access, gateway=None, direct=core.url), client)
        one = {"warmup": [{"age": 30.0}], "serving": {"timeout": "5s", "drain": "1s"}}

        def release(champion: int, candidate: int, **more: Any) -> Release:
            arms = arm(1, champion), (arm(2, candidate),)
            return Release("scaled", *arms, token=1, rollout_id="r", settings=dict.fromkeys("12", one), **more)

        backend.apply(release(100, 0))
        with monkeypatch.context() as others:
            others.setattr("windtunnel.kube.client.FIELD_MANAGER", "kube-controller-manager")
            client.patch(SERVER, "scaled-v2", {"spec": {"replicas": 3}}, "scale")
            client.patch(MODEL, "scaled-v2", {"spec": {"replicas": 3}}, "scale")
            others.setattr("windtunnel.kube.client.FIELD_MANAGER", "kubectl-edit")
            client.patch(MODEL, "scaled-v2", {"spec": {"memory": "1"}})
        backend.apply(release(70, 30, stage=1))
        for kind in (SERVER, MODEL):
            live = client.get(kind, "scaled-v2")
            assert live is not None and live["spec"]["replicas"] == 3
        live = client.get(MODEL, "scaled-v2")
        assert live is not None and live["spec"]["memory"] == str(2**30)
        assert any("Model scaled-v2: kubectl-edit had written" in one.getMessage() for one in caplog.records)
        client.delete(EXPERIMENT, "scaled")
