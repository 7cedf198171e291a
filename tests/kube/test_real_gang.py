"""Sets of pods, asked of a real API server with the CRDs of JobSet; ``make test-kubernetes``. DEMAND TRN-4"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from waiting import until

from windtunnel.errors import AbsentError, ConflictError
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import DEFINITION, JOB_SET, POD, Kind
from windtunnel.spec import Pod, Toleration, Volume
from windtunnel.tracking.contract import RunSpec
from windtunnel.tracking.pods import gang
from windtunnel.tracking.pods.manifest import Place

pytestmark = pytest.mark.kubernetes
JOB = Kind("batch", "v1", "jobs", "Job")
ACCOUNT = Kind("", "v1", "serviceaccounts", "ServiceAccount")


def made(client: Client, **pod: Any) -> dict[str, Any]:
    resources = {
        "cpu": 1.5,
        "memory": 2**31,
        "disk": 2**30,
        "gpu": 2,
        "gpu_type": "NVIDIA-H200",
        "shared_memory": 2**28,
    }
    spec = RunSpec("0f" * 16, "sea", "a:b", resources=resources, correlation_id="sea-7", tracking_uri="http://mlflow")
    place = Place(["python"], namespace=client.namespace, variables={"WINDTUNNEL_STORE": "s3://b"})
    whole = Pod(
        image="registry.example.com/sea@sha256:" + "ab" * 32, pull_secrets=["a"], spot="gke", user=1000, group=1000,
        secrets={"TOKEN": "mlflow/token"}, volumes=[Volume(path="/data", claim="c")], cost_centre="tides",
        tolerations=[Toleration(key="x", operator="Exists")], queue="team-a", queue_priority="high", **pod,
    )  # fmt: skip
    return gang.job_set(spec, whole, place, 3)


def lost(asked: Any, there: Any, at: str = "") -> list[str]:
    """Paths to what was asked and is not there, or is another value; quantities may be written otherwise."""
    if isinstance(asked, dict):
        found = []
        for name, part in asked.items():
            gone = not isinstance(there, dict) or name not in there
            found += ([] if part == "" else [f"{at}/{name}"]) if gone else lost(part, there[name], f"{at}/{name}")
        return found
    if isinstance(asked, list):
        if not isinstance(there, list) or len(asked) != len(there):
            return [at]
        return [path for n, (a, b) in enumerate(zip(asked, there, strict=True)) for path in lost(a, b, f"{at}[{n}]")]
    return [] if asked == there or (at.endswith("/cpu") and asked == "1500m") else [at]


def test_the_real_schema_takes_a_set_and_gives_it_back(client: Client) -> None:
    """Strict: a field that the installed CRD does not know is an error; one that it drops is found here."""
    if client.get(DEFINITION, f"{JOB_SET.plural}.{JOB_SET.group}") is None:
        pytest.skip(f"needs the CRD {JOB_SET.plural}.{JOB_SET.group} (JobSet)")
    manifest = made(client)
    answer = client.create(JOB_SET, manifest)
    try:
        assert lost(manifest, answer) == []
        assert gang.size(answer) == 3 and gang.suspended(answer)
        with pytest.raises(ConflictError):
            client.create(JOB_SET, manifest)
        found = client.list(JOB_SET, labels=f"windtunnel.dev/run={'0f' * 16},windtunnel.dev/attempt=1")["items"]
        assert [one["metadata"]["name"] for one in found] == [manifest["metadata"]["name"]]
    finally:
        assert client.delete(JOB_SET, manifest["metadata"]["name"])
    until(lambda: client.get(JOB_SET, manifest["metadata"]["name"]) is None, 60)


def test_the_job_in_the_set_is_one_that_kubernetes_takes(client: Client) -> None:
    """What a CRD holds is checked by its controller only; here by Kubernetes itself, the numbers of nodes included."""
    manifest = made(client)
    spec = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]
    name = f"{manifest['metadata']['name']}-{gang.JOB}-0"
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {**spec, "suspend": True}}
    answer = client.create(JOB, job)
    try:
        assert lost(job, answer) == []
    finally:
        client.delete(JOB, name)


def test_without_jobset_the_api_says_that_it_knows_no_such_kind(client: Client) -> None:
    with pytest.raises(AbsentError, match="no such kind"):
        client.get(Kind("nobody.x-k8s.io", "v1", "jobsets", "JobSet"), "x")


def test_the_life_of_a_set(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made once, found, watched, judged, removed; what JobSet's controller and the kubelets would do is done here."""
    os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="wt-airflow-"))
    exceptions = pytest.importorskip("airflow.sdk.exceptions")
    from windtunnel_airflow.gangflight import GangFlight
    from windtunnel_airflow.gangtrigger import GangTrigger

    if client.get(DEFINITION, f"{JOB_SET.plural}.{JOB_SET.group}") is None:
        pytest.skip(f"needs the CRD {JOB_SET.plural}.{JOB_SET.group} (JobSet)")
    try:  # without controllers nobody makes the default one
        client.create(ACCOUNT, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})
    except ConflictError:
        pass
    path = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
    extra = {"kube_config_path": path, "namespace": client.namespace}
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps({"conn_type": "kubernetes", "extra": extra}))
    spec = RunSpec("1e" * 16, "sea", "a:b", resources={"cpu": 1, "memory": 2**30, "disk": 2**30})
    manifest = gang.job_set(spec, Pod(image="here"), Place(["python"], namespace=client.namespace), 2)

    def flight() -> GangFlight:
        return GangFlight("kubernetes_default", manifest, 600.0, dict)

    def begin() -> GangTrigger:
        with pytest.raises(exceptions.TaskDeferred) as found:
            flight().watch({})
        _, arguments = found.value.trigger.serialize()
        return GangTrigger(**{**arguments, "look_every": 0.1})

    begin()
    trigger = begin()  # a second worker, at once
    name, found = flight().name, flight().find("", 0)
    assert found is not None and flight().end()[0].kind == "waiting"
    template = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    pods = []
    for rank in range(2):
        meta = {**template["metadata"], "name": f"{name}-node-0-{rank}-x"}
        meta["annotations"] = {**meta["annotations"], gang.INDEX: str(rank)}
        client.create(POD, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]})
        pods.append(meta["name"])

    def kubelet(rank: int, phase: str, state: dict[str, Any]) -> None:
        one = {"name": "training", "image": "x", "imageID": "x", "restartCount": 0, "ready": False, "state": state}
        client.patch(POD, pods[rank], {"status": {"phase": phase, "containerStatuses": [one]}}, "status")

    async def first() -> dict[str, Any]:
        async for event in trigger.run():
            return dict(event.payload)
        raise AssertionError("the trigger said nothing")

    for rank in range(2):
        kubelet(rank, "Running", {"running": {"startedAt": "2026-11-21T10:00:00Z"}})
    assert flight().end()[0].kind == "running"
    over = {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-11-21T10:30:00Z"}
    kubelet(1, "Failed", {"terminated": over})
    at = "2026-11-21T10:30:01Z"
    failed = {"type": "Failed", "status": "True", "reason": "FailedJobs", "message": "x", "lastTransitionTime": at}
    client.patch(JOB_SET, name, {"status": {"conditions": [failed], "restarts": 0}}, "status")
    event = asyncio.run(asyncio.wait_for(first(), 60))
    assert event["status"] == "failed"
    end, evidence = flight().end()
    assert (end.kind, end.failure) == ("oom-killed", "resource") and end.message.startswith("node 1: ")
    assert [gang.rank_of(pod) for pod in evidence["pods"]] == [0, 1] and evidence["gang"] is not None
    flight().remove(1)
    until(lambda: client.get(JOB_SET, name) is None, 60)
    left = client.list(POD, labels=flight().labels)["items"]
    assert all(pod["metadata"].get("deletionTimestamp") for pod in left), "told to end; a kubelet would let go of them"
    for pod in left:
        client.delete(POD, str(pod["metadata"]["name"]), grace_s=0)
