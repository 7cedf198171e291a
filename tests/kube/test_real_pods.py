"""Training pods on a real API server: accepted where Pod Security is "restricted", watched, ended.

No kubelet is needed: what one would say of a pod is written to its status here. Without controllers there is no default
service account; then it is made.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import until

from windtunnel.errors import ClusterError, ConflictError, ForbiddenError
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import NAMESPACE, POD, QUOTA, Kind
from windtunnel.tracking.pods import naming
from windtunnel.tracking.pods.capacity import quantity

pytestmark = pytest.mark.kubernetes
CASES = Path(__file__).parent / "cases"
ACCOUNT = Kind("", "v1", "serviceaccounts", "ServiceAccount")
PRIORITY = Kind("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False)
RUNTIME = Kind("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", namespaced=False)
CONTAINER = {"name": "training", "image": "x", "imageID": "x", "restartCount": 0}


@pytest.fixture(scope="module")
def restricted(client: Client) -> Iterator[Client]:
    """The namespace refuses what does not meet Pod Security "restricted"."""
    labels = {
        "pod-security.kubernetes.io/enforce": "restricted",
        "pod-security.kubernetes.io/enforce-version": "latest",
    }
    client.patch(NAMESPACE, client.namespace, {"metadata": {"labels": labels}})
    for name in ("default", "sea-trainer"):
        try:
            client.create(ACCOUNT, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}})
        except ConflictError:
            pass  # a cluster with controllers makes the default one by itself
    made = {
        PRIORITY: {"value": 1000},
        RUNTIME: {"handler": "nvidia"},
    }
    for kind, body in made.items():
        whole = {"apiVersion": kind.api_version, "kind": kind.name, "metadata": {"name": client.namespace}, **body}
        client.create(kind, whole)
    try:
        yield client
    finally:
        for kind in made:
            client.delete(kind, client.namespace)


def manifest(case: str, client: Client, name: str) -> dict[str, Any]:
    """A golden manifest, in this namespace, with the classes that are there."""
    out: dict[str, Any] = json.loads((CASES / f"{case}.json").read_text())
    out["metadata"] |= {"name": name, "namespace": client.namespace}
    for field in ("priorityClassName", "runtimeClassName"):
        if field in out["spec"]:
            out["spec"][field] = client.namespace
    return out


def lost(sent: Any, kept: Any, where: str = "") -> list[str]:
    """What was sent and is not kept as it was; the API adds its defaults, and writes amounts its own way."""
    if isinstance(sent, dict):
        if not isinstance(kept, dict):
            return [f"{where}: {kept!r}"]
        return [word for key, value in sent.items() for word in lost(value, kept.get(key), f"{where}.{key}")]
    if isinstance(sent, list):
        if not isinstance(kept, list) or len(kept) < len(sent):
            return [f"{where}: {kept!r}"]
        return [word for at, value in enumerate(sent) for word in lost(value, kept[at], f"{where}[{at}]")]
    if sent == kept or (sent in ("", False, 0) and kept is None):
        return []
    if any(part in where for part in (".limits.", ".requests.", "sizeLimit")) and quantity(sent) == quantity(kept):
        return []
    return [f"{where}: sent {sent!r}, kept {kept!r}"]


@pytest.mark.parametrize("case", ["pod-small", "pod-large", "pod-slices"])
def test_restricted_takes_every_field_and_gives_it_back(case: str, restricted: Client) -> None:
    """DEMAND TRN-1, TRN-2: strict, so a field that this Kubernetes does not know is an error."""
    sent = manifest(case, restricted, f"wt-{case}")
    kept = restricted.create(POD, sent)
    assert lost(sent, kept) == []
    assert kept["status"]["qosClass"] == "Guaranteed"
    with pytest.raises(ConflictError):
        restricted.create(POD, sent)
    restricted.delete(POD, f"wt-{case}")


def test_restricted_refuses_what_is_not_ours(restricted: Client) -> None:
    """That the tests above say something."""
    sent = manifest("pod-small", restricted, "wt-root")
    del sent["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"]
    with pytest.raises((ForbiddenError, ClusterError), match="restricted"):
        restricted.create(POD, sent)


@pytest.fixture
def connection(restricted: Client, monkeypatch: pytest.MonkeyPatch) -> str:
    path = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
    extra = {"kube_config_path": path, "namespace": restricted.namespace}
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps({"conn_type": "kubernetes", "extra": extra}))
    return "kubernetes_default"


def flight(client: Client, name: str, connection: str) -> Any:
    pytest.importorskip("airflow.providers.cncf.kubernetes")
    from windtunnel_airflow.pods.flight import PodFlight

    made = manifest("pod-small", client, name)
    made["metadata"]["labels"][naming.RUN] = name
    return PodFlight("train", connection, made, 600)


def deferred(flight: Any, found: Any = None) -> Any:
    """The trigger that the task goes to sleep with."""
    from airflow.sdk.exceptions import TaskDeferred

    from windtunnel_airflow.pods.trigger import TrainingPodTrigger

    ti = SimpleNamespace(
        dag_id="sea.train", run_id="run", task_id="train", map_index=-1, try_number=1, start_date=None,
        xcom_push=lambda key, value: None,
    )  # fmt: skip
    context = {"ti": ti, "dag": SimpleNamespace(), "run_id": "run", "dag_run": SimpleNamespace(run_id="run")}
    with pytest.raises(TaskDeferred) as waits:
        flight.watch(context, found)
    ours = TrainingPodTrigger.instead_of(waits.value.trigger, grace=20, run={})
    return TrainingPodTrigger(**json.loads(json.dumps(ours.serialize()[1])))


def status(client: Client, name: str, **parts: Any) -> None:
    """What a kubelet would say of the pod."""
    client.patch(POD, name, {"status": parts}, sub="status")


def test_a_pod_is_made_once_watched_and_its_end_is_heard(
    restricted: Client, connection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEMAND PIP-5, TRN-2: the provider's operator makes it; our trigger sees each status."""
    made = flight(restricted, "wt-sea-1", connection)
    deferred(made)
    found = made.find("wt-sea-1", int(made.manifest["metadata"]["labels"][naming.ATTEMPT]))
    assert found.metadata.name == "wt-sea-1"
    trigger = deferred(flight(restricted, "wt-sea-1", connection), found)  # another worker attaches
    heard: list[str] = []

    async def follow() -> dict[str, Any]:
        async def first() -> dict[str, Any]:
            async for event in trigger.run():
                return dict(event.payload)
            raise AssertionError("the trigger said nothing")

        from windtunnel_airflow.pods import trigger as pod_trigger

        say = pod_trigger._Wait._say
        monkeypatch.setattr(pod_trigger._Wait, "_say", lambda self, text: (heard.append(text), say(self, text)))
        waiting = asyncio.create_task(first())

        async def changes(count: int, **parts: Any) -> None:
            await asyncio.to_thread(status, restricted, "wt-sea-1", **parts)
            await asyncio.to_thread(until, lambda: len(set(heard)) >= count or waiting.done(), 60)

        await asyncio.to_thread(until, lambda: heard, 60)
        told = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/9 nodes"}
        await changes(2, phase="Pending", conditions=[told])
        running = {**CONTAINER, "ready": True, "state": {"running": {"startedAt": "2026-11-21T10:00:00Z"}}}
        await changes(3, phase="Running", conditions=[{**told, "status": "True"}], containerStatuses=[running])
        over = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
        await changes(9, phase="Failed", containerStatuses=[{**CONTAINER, "ready": False, "state": over}])
        return await waiting

    event = asyncio.run(asyncio.wait_for(follow(), 240))
    assert event["status"] == "failed" and event["name"] == "wt-sea-1"
    assert any("0/9 nodes" in text for text in heard) and any(text.startswith("runs on node") for text in heard)
    end, evidence = made.end()
    assert end.kind == "oom-killed" and evidence["pod"]["metadata"]["uid"] == found.metadata.uid
    made.remove()
    until(lambda: restricted.get(POD, "wt-sea-1") is None, 60)


def test_a_cancel_deletes_with_grace(restricted: Client, connection: str) -> None:
    """DEMAND TRN-7: a pod with a node gets its seconds; one that is gone already is no error."""
    sent = manifest("pod-small", restricted, "wt-sea-2")
    sent["spec"]["nodeName"] = "nowhere"
    restricted.create(POD, sent)
    made = flight(restricted, "wt-sea-2", connection)
    trigger = deferred(made, made.client.read_namespaced_pod("wt-sea-2", restricted.namespace))
    began = time.monotonic()
    asyncio.run(trigger.on_kill())
    assert time.monotonic() - began < 30
    left = restricted.get(POD, "wt-sea-2")
    # A cluster's controllers may have taken it away in the meantime: there is no such node.
    assert left is None or left["metadata"]["deletionGracePeriodSeconds"] <= 20
    made.remove(0)
    until(lambda: restricted.get(POD, "wt-sea-2") is None, 60)
    made.remove()
    asyncio.run(trigger.on_kill())


def test_the_list_that_all_share_holds_our_pods_and_no_others(restricted: Client, connection: str) -> None:
    from windtunnel_airflow.pods.watch import SELECTOR

    restricted.create(POD, manifest("pod-small", restricted, "wt-sea-3"))
    other = manifest("pod-small", restricted, "other")
    other["metadata"]["labels"] = {"app.kubernetes.io/name": "other"}
    restricted.create(POD, other)
    try:
        assert [one["metadata"]["name"] for one in restricted.list(POD, labels=SELECTOR)["items"]] == ["wt-sea-3"]
    finally:
        for name in ("other", "wt-sea-3"):
            restricted.delete(POD, name)


def test_a_quota_that_is_used_up_is_told_in_its_own_words(restricted: Client, connection: str) -> None:
    """DEMAND TRN-8"""
    from kubernetes.client.exceptions import ApiException

    from windtunnel_airflow.pods.refusals import problem

    body = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    restricted.create(QUOTA, body)
    # What a cluster's quota controller writes.
    restricted.patch(QUOTA, "none", {"status": {"hard": {"pods": "0"}, "used": {"pods": "0"}}}, sub="status")
    made = flight(restricted, "wt-sea-4", connection)

    def refused() -> bool:
        """The quota plugin may need a moment to see a new quota."""
        try:
            made.client.create_namespaced_pod(restricted.namespace, made.manifest)
        except ApiException as error:
            assert "exceeded quota" in str(problem(error, "wt-sea-4")) or "status unknown" in str(error.body)
            return True
        made.remove()
        return False

    try:
        until(refused, 60)
    finally:
        restricted.delete(QUOTA, "none")
