"""What we rely on, asked of a real API server; ``make test-kubernetes``, with the cluster that KUBECONFIG names.

Everything lies in a namespace of its own, removed at the end. Seldon's CRD is taken as it is installed; where there is
none, a small one of our own is, with the field names of ``fakeseldon.SCHEMA``. No kubelet and no operator are needed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import fakeseldon
import pytest
from waiting import until

from windtunnel.errors import AbsentError, ClusterError, ConflictError
from windtunnel.kube.access import Access
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import CONFIG_MAP, DEFINITION, SELDON_DEPLOYMENT, Kind
from windtunnel.kube.watching import Watch
from windtunnel.serving import desired
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.desired import Server, State
from windtunnel.serving.seldon import Seldon, SeldonBackend, contested, manifest, record

pytestmark = pytest.mark.kubernetes


@pytest.fixture(scope="module")
def seldon(client: Client) -> Iterator[None]:
    """The CRD, installed or our own."""
    name, made = f"{SELDON_DEPLOYMENT.plural}.{SELDON_DEPLOYMENT.group}", False
    if client.get(DEFINITION, name) is None:
        client.create(DEFINITION, definition())
        made = True
    try:
        until(lambda: served(client), 60)
        yield
    finally:
        if made:
            client.delete(DEFINITION, name)


def served(client: Client) -> bool:
    try:
        client.list(SELDON_DEPLOYMENT)
        return True
    except AbsentError:
        return False


def definition() -> dict[str, Any]:
    """A CRD with the field names that the tests' own API knows."""

    def schema(of: Any) -> dict[str, Any]:
        if of is fakeseldon.ANY:
            return {"x-kubernetes-preserve-unknown-fields": True}
        if isinstance(of, list):
            return {"type": "array", "items": schema(of[0])}
        return {"type": "object", "properties": {name: schema(part) for name, part in of.items()}}

    whole = schema({name: part for name, part in fakeseldon.SCHEMA.items() if name in ("spec", "status")})
    kind = SELDON_DEPLOYMENT
    return {
        "apiVersion": DEFINITION.api_version,
        "kind": DEFINITION.name,
        "metadata": {"name": f"{kind.plural}.{kind.group}"},
        "spec": {
            "group": kind.group,
            "scope": "Namespaced",
            "names": {"plural": kind.plural, "singular": "seldondeployment", "kind": kind.name},
            "versions": [
                {
                    "name": kind.version,
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": whole},
                    "subresources": {"status": {}},
                }
            ],
        },
    }


def config_map(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def test_an_apply_owns_its_fields_and_a_stale_one_is_refused(client: Client) -> None:
    first = client.apply(CONFIG_MAP, config_map("a", ours="1", both="1"))
    client.patch(CONFIG_MAP, "a", {"metadata": {"labels": {"theirs": "yes"}}})
    late = config_map("a", ours="2")
    late["metadata"]["resourceVersion"] = first["metadata"]["resourceVersion"]
    with pytest.raises(ConflictError):
        client.apply(CONFIG_MAP, late)
    now = client.apply(CONFIG_MAP, config_map("a", ours="2"))
    assert now["data"] == {"ours": "2"}
    assert now["metadata"]["labels"] == {"theirs": "yes"}
    assert client.get(CONFIG_MAP, "a") == now


def test_what_is_made_twice_deleted_stale_or_unknown_is_told(client: Client) -> None:
    made = client.create(CONFIG_MAP, config_map("b"))
    with pytest.raises(ConflictError):
        client.create(CONFIG_MAP, config_map("b"))
    client.apply(CONFIG_MAP, config_map("b", x="1"))
    with pytest.raises(ConflictError):
        client.delete(CONFIG_MAP, "b", resource_version=made["metadata"]["resourceVersion"])
    assert client.delete(CONFIG_MAP, "b") and client.get(CONFIG_MAP, "b") is None
    with pytest.raises(AbsentError, match="no such kind"):
        client.get(Kind("windtunnel.example", "v1", "gliders", "Glider"), "x")
    strange = config_map("c") | {"dat": {}}
    with pytest.raises(ClusterError, match="dat"):
        client.create(CONFIG_MAP, strange)


def test_a_watch_goes_on_after_it_ended(client: Client) -> None:
    watch = Watch(client, CONFIG_MAP, fields="metadata.name=w", for_s=2)
    told: list[str] = []

    def follow() -> None:
        for event in watch.events():
            told.append(event.what)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    until(lambda: told, 30)
    client.create(CONFIG_MAP, config_map("w"))
    time.sleep(3)  # the first watch has ended by then
    client.apply(CONFIG_MAP, config_map("w", x="1"))
    until(lambda: "MODIFIED" in told, 30)
    watch.stop.set()
    client.delete(CONFIG_MAP, "w")
    assert told.count("ADDED") == 1


def arm(n: int, weight: int = 0) -> Arm:
    return Arm(str(n), f"sha256:{n:064x}", f"models:/visits/{n}", weight)


PLACED = {
    "node_selector": {"team": "sea"},
    "tolerations": [{"key": "team", "value": "sea", "effect": "NoExecute", "within": "1m"}],
    "runtime_class": "nvidia",
}


def state(champion: int, *candidates: Arm, **more: Any) -> State:
    server = {
        "serving": {"replicas": 2, "minimum": 2, "maximum": 4, "gpu": 1, "gpu_type": "NVIDIA-L4", "pod": PLACED},
        "features": [{"name": "age"}],
        "warmup": [{"age": 30.5}],
    }
    release = Release("visits", arm(1, champion), candidates, token=3, rollout_id="r", lease_until=99.5, **more)
    servers = {one.version: Server(one.digest, one.source, 0, True, True, server) for one in release.arms()}
    return desired.routed(State(release, servers=servers), now=1000.0)


SETTINGS = Seldon(
    image="registry.example.org/model-server:1",
    registry="http://registry",
    service_account="models",
    pull_secrets=("pull",),
    logger="http://collector",
)


@pytest.mark.usefixtures("seldon")
def test_the_real_schema_takes_every_field_and_gives_it_back(client: Client) -> None:
    """Strict: a field that the installed CRD does not know is an error, not silence."""
    live = None
    for wanted in (
        state(100),
        state(100, arm(2), mirror=30),
        state(60, arm(2, 30), arm(3, 10)),
        state(0, arm(2)),
        state(0, arm(2, 100)),
    ):
        made = manifest.deployment(wanted, SETTINGS, live, client.namespace)
        live = client.apply(SELDON_DEPLOYMENT, made) if live else client.create(SELDON_DEPLOYMENT, made)
        assert live["spec"]["predictors"] == made["spec"]["predictors"]
        assert record.state_of(live) == replace(
            wanted, release=replace(wanted.release, settings={v: s.settings for v, s in wanted.servers.items()})
        )


@pytest.mark.usefixtures("seldon")
def test_an_abort_is_one_write_and_others_fields_stay(access: Access, client: Client) -> None:
    client.delete(SELDON_DEPLOYMENT, "visits")
    until(lambda: client.get(SELDON_DEPLOYMENT, "visits") is None, 60)
    client.create(SELDON_DEPLOYMENT, manifest.deployment(state(75, arm(2, 25)), SETTINGS, None, client.namespace))
    client.patch(SELDON_DEPLOYMENT, "visits", {"metadata": {"annotations": {"team": "risk"}}})
    backend = SeldonBackend(replace(SETTINGS, access=access), client)
    seen = backend.abort("visits", "no", "guard")
    assert {version: one.weight for version, one in seen.arms.items() if one.weight} == {"1": 100}
    live = client.get(SELDON_DEPLOYMENT, "visits")
    assert live is not None and live["metadata"]["annotations"]["team"] == "risk"
    assert [one["name"] for one in live["spec"]["predictors"]] == ["v1"]
    assert live["metadata"]["annotations"][record.ABORTED] == "no"


@pytest.mark.usefixtures("seldon")
def test_what_another_manager_wrote_is_told_by_the_apis_own_word(
    access: Access, client: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """``managedFields`` of a real API server: a list without merge keys is one field, and the last writer's."""
    client.delete(SELDON_DEPLOYMENT, "visits")
    until(lambda: client.get(SELDON_DEPLOYMENT, "visits") is None, 60)
    client.create(SELDON_DEPLOYMENT, manifest.deployment(state(75, arm(2, 25)), SETTINGS, None, client.namespace))
    backend = SeldonBackend(replace(SETTINGS, access=access), client)
    backend.renew("visits", 3, time.time() + 60)
    live = client.get(SELDON_DEPLOYMENT, "visits")
    assert live is not None
    theirs = live["spec"]["predictors"]
    theirs[0]["traffic"], theirs[1]["traffic"], theirs[1]["replicas"] = 100, 0, 7
    theirs[1]["explainer"] = {"type": "AnchorTabular"}
    for times in (1, 2, 3):
        with monkeypatch.context() as argo:
            argo.setattr("windtunnel.kube.client.FIELD_MANAGER", "argocd-controller")
            client.patch(SELDON_DEPLOYMENT, "visits", {"spec": {"predictors": theirs}})
        caplog.clear()
        backend.renew("visits", 3, time.time() + 60 + times)
        (said,) = (one.getMessage() for one in caplog.records if "argocd-controller" in one.getMessage())
        assert "predictors[v2].traffic: 0 instead of 25" in said and "replicas: 7 instead of 2" in said
        live = client.get(SELDON_DEPLOYMENT, "visits")
        assert live is not None and manifest.weights(live) == {"1": 75, "2": 25}
        second = live["spec"]["predictors"][1]
        assert second["explainer"] == {"type": "AnchorTabular"}
        assert second["replicas"] == (7 if times == 3 else 2)
    (told,) = contested.read(record.kept(live))
    assert (told.manager, told.times, told.rollout_id, told.left) == ("argocd-controller", 3, "r", ("v2",))
    caplog.clear()
    backend.abort("visits", "no", "guard")
    assert not [one for one in caplog.records if "argocd-controller" in one.getMessage()]


@pytest.mark.usefixtures("seldon")
def test_the_real_schema_takes_every_autoscaler_as_it_is_said(client: Client) -> None:
    """DEMAND SRV-7, SRV-9: nothing of hpaSpec, kedaSpec and pdbSpec is pruned or refused."""
    scale = {"cpu": 60, "queue": 8, "rate": 50, "latency": "200ms"}
    keda = replace(SETTINGS, autoscaler="keda", prometheus="http://prometheus:9090")
    for seldon, asked in ((SETTINGS, {"cpu": 60}), (keda, scale)):
        serving = {"replicas": 2, "minimum": 2, "maximum": 9, "scale": asked}
        one = Server("sha256:1", "models:/scaled/1", 0, True, True, {"serving": serving})
        release = Release("scaled", Arm("1", "sha256:1", "models:/scaled/1", 100), token=1, rollout_id="r")
        wanted = desired.routed(State(release, servers={"1": one}), now=1000.0)
        live = client.get(SELDON_DEPLOYMENT, "scaled")
        made = manifest.deployment(wanted, seldon, live, client.namespace)
        live = client.apply(SELDON_DEPLOYMENT, made) if live else client.create(SELDON_DEPLOYMENT, made)
        (component,) = live["spec"]["predictors"][0]["componentSpecs"]
        assert live["spec"]["predictors"] == made["spec"]["predictors"]
        assert ("kedaSpec" in component) == (seldon is keda) != ("hpaSpec" in component)
        assert component["pdbSpec"] == {"maxUnavailable": 1}
    client.delete(SELDON_DEPLOYMENT, "scaled")
