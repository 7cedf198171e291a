"""The registry of the production preset, given to a real API server; ``make test-kubernetes``.

What its controllers make of it is looked at where there are any. Nobody schedules its pods, so that no kubelet is in
the way and the test says which of them is ready.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from waiting import until

from windtunnel.kube.client import Client
from windtunnel.kube.kinds import CONFIG_MAP, NAMESPACE, POD, SERVICE, Kind

pytestmark = pytest.mark.kubernetes
CHART = Path(__file__).parents[1] / "chart" / "golden" / "production.yaml"
NAME = "wt-registry"
SELECTED = "app.kubernetes.io/component=registry,app.kubernetes.io/instance=wt,app.kubernetes.io/name=windtunnel"
ACCOUNT = Kind("", "v1", "serviceaccounts", "ServiceAccount")
BUDGET = Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
DEPLOYMENT = Kind("apps", "v1", "deployments", "Deployment")
REPLICA_SET = Kind("apps", "v1", "replicasets", "ReplicaSet")
KINDS = {
    one.name: one
    for one in (
        ACCOUNT, CONFIG_MAP, SERVICE, BUDGET, DEPLOYMENT, Kind("batch", "v1", "jobs", "Job"),
        Kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy"),
        Kind("networking.k8s.io", "v1", "ingresses", "Ingress"),
    )
}  # fmt: skip


@pytest.fixture(scope="module")
def installed(client: Client) -> dict[str, Any]:
    """The Deployment as the API server has it. Everything is applied twice, as an upgrade does it."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    client.patch(NAMESPACE, str(client.namespace), {"metadata": {"labels": labels}})
    objects = [
        one
        for one in yaml.safe_load_all(CHART.read_text(encoding="utf-8"))
        if one["kind"] in KINDS and one["metadata"].get("namespace") is None
    ]
    assert {one["kind"] for one in objects} == set(KINDS)
    objects.sort(key=lambda one: list(KINDS).index(one["kind"]))
    found: dict[str, Any] = {}
    for one in (*objects, *objects):
        if "template" in one.get("spec", {}):
            one["spec"]["template"]["spec"]["schedulerName"] = "nobody"
        live = client.apply(KINDS[one["kind"]], one)
        if one["kind"] == "Deployment":
            assert {**live["spec"], "template": None} == {
                **one["spec"],
                "template": None,
                "progressDeadlineSeconds": 600,
            }
            found = live
    return found


@pytest.fixture(scope="module")
def pods(client: Client, installed: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that the Deployment's controller makes, each ready."""

    def seen() -> Any:
        return (client.get(DEPLOYMENT, NAME) or {}).get("status", {}).get("observedGeneration")

    try:
        until(seen, 20)
    except AssertionError:
        pytest.skip("no controller looks at Deployments here: an API server alone")
    return [ready(client, one, number) for number, one in enumerate(until(lambda: made(client, 2), 60))]


def made(client: Client, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.list(POD, labels=SELECTED)["items"]
    return found if len(found) == count else []


def ready(client: Client, pod: dict[str, Any], number: int) -> dict[str, Any]:
    """As its kubelet would say."""
    now = "2026-01-01T00:00:00Z"
    kinds = ("Initialized", "ContainersReady", "Ready")
    status = {
        "phase": "Running",
        "podIP": f"10.9.0.{number + 1}",
        "podIPs": [{"ip": f"10.9.0.{number + 1}"}],
        "conditions": [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in kinds],
    }
    return client.patch(POD, pod["metadata"]["name"], {"status": status}, "status")


def test_the_api_takes_the_registry_of_the_production_preset(installed: dict[str, Any]) -> None:
    """DEMAND OPS-2, OPS-9: strict, in a namespace that lets only restricted pods in; nothing pruned."""
    (container,) = installed["spec"]["template"]["spec"]["containers"]
    assert container["args"][0] == "serve"
    assert container["lifecycle"] == {"preStop": {"sleep": {"seconds": 3}}}


def test_two_pods_are_made_and_everything_that_selects_them_does(client: Client, pods: list[dict[str, Any]]) -> None:
    """DEMAND OPS-9: the service means both, and one may be drained while the other is there."""
    (owner,) = {one["metadata"]["ownerReferences"][0]["name"] for one in pods}
    replicas = client.get(REPLICA_SET, owner)
    assert replicas is not None and replicas["spec"]["replicas"] == 2
    assert {one["spec"]["serviceAccountName"] for one in pods} == {NAME}

    # No endpoints are made of pods without a node: the API is asked for what the service selects, and by which port.
    service = client.get(SERVICE, NAME)
    assert service is not None
    wanted = ",".join(f"{key}={value}" for key, value in sorted(service["spec"]["selector"].items()))
    names = {one["metadata"]["name"] for one in client.list(POD, labels=wanted)["items"]}
    assert names == {one["metadata"]["name"] for one in pods}
    (port,) = service["spec"]["ports"]
    for one in pods:
        (container,) = one["spec"]["containers"]
        assert [each["containerPort"] for each in container["ports"] if each["name"] == port["targetPort"]] == [5000]
    told = {"expectedPods": 2, "currentHealthy": 2, "desiredHealthy": 1, "disruptionsAllowed": 1}

    def budget() -> dict[str, Any]:
        status = (client.get(BUDGET, NAME) or {}).get("status", {})
        return {name: status.get(name) for name in told}

    until(lambda: budget() == told, 60)


def test_an_upgrade_takes_no_pod_away_before_a_new_one_is_ready(client: Client, pods: list[dict[str, Any]]) -> None:
    """DEMAND OPS-9"""
    before = {one["metadata"]["name"] for one in pods}
    changed = {"spec": {"template": {"metadata": {"annotations": {"checksum/config": "another"}}}}}
    client.patch(DEPLOYMENT, NAME, changed)
    three = until(lambda: made(client, 3), 60)
    assert before < {one["metadata"]["name"] for one in three}
    (fresh,) = [one for one in three if one["metadata"]["name"] not in before]
    ready(client, fresh, 2)

    def one_gone() -> bool:
        left = [
            one for one in client.list(POD, labels=SELECTED)["items"] if not one["metadata"].get("deletionTimestamp")
        ]
        return len(before & {one["metadata"]["name"] for one in left}) == 1

    until(one_gone, 60)
