"""Sets of pods, asked of a real API server; ``make test-kubernetes``. With the CRDs of JobSet and Kubeflow Trainer.

DEMAND TRN-4
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from waiting import until

from windtunnel.errors import AbsentError, ConflictError
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import CLUSTER_RUNTIME, DEFINITION, JOB_SET, POD, RUNTIME, TRAIN_JOB, Kind
from windtunnel.spec import Pod, Toleration, TrainJob, Volume
from windtunnel.tracking.contract import RunSpec
from windtunnel.tracking.pods import gang, trainjob
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
    return (trainjob.train_job if whole.trainjob else gang.job_set)(spec, whole, place, 3)


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


@pytest.mark.parametrize("runtime", [CLUSTER_RUNTIME, RUNTIME], ids=["cluster", "namespace"])
def test_the_real_schema_takes_a_trainjob_and_gives_it_back(client: Client, runtime: Kind) -> None:
    """DEMAND TRN-4: strict, as above; and the runtime of the how-to is one that the API takes, and keeps as it is."""
    for kind in (TRAIN_JOB, runtime):
        if client.get(DEFINITION, f"{kind.plural}.{kind.group}") is None:
            pytest.skip(f"needs the CRD {kind.plural}.{kind.group} (Kubeflow Trainer 2.2 or newer)")
    scope: Any = "cluster" if runtime is CLUSTER_RUNTIME else "namespace"
    name = f"{client.namespace}-torch"
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "train-on-several-nodes.md").read_text("utf-8")
    [text] = [text for text in re.findall(r"```yaml\n(.*?)```", page, re.S) if "kind: TrainingRuntime" in text]
    shown = {**yaml.safe_load(text), "kind": runtime.name, "metadata": {"name": name}}
    kept = client.create(runtime, shown)
    manifest = made(client, trainjob=TrainJob(runtime=name, scope=scope))
    try:
        assert lost(shown, kept) == []
        assert trainjob.look(client.get(runtime, name) or {}, manifest) == trainjob.Look()
        answer = client.create(TRAIN_JOB, manifest)
        assert lost(manifest, answer) == []
        assert gang.size(answer) == 3 and gang.suspended(answer)
        with pytest.raises(ConflictError):
            client.create(TRAIN_JOB, manifest)
    finally:
        client.delete(TRAIN_JOB, manifest["metadata"]["name"])
        client.delete(runtime, name)
    until(lambda: client.get(TRAIN_JOB, manifest["metadata"]["name"]) is None, 60)


def test_without_jobset_the_api_says_that_it_knows_no_such_kind(client: Client) -> None:
    with pytest.raises(AbsentError, match="no such kind"):
        client.get(Kind("nobody.x-k8s.io", "v1", "jobsets", "JobSet"), "x")


def pod_of(manifest: dict[str, Any]) -> dict[str, Any]:
    """What JobSet's controller makes pods of; of a TrainJob, what Trainer's makes of it and the runtime, in short."""
    if manifest["kind"] == JOB_SET.name:
        found: dict[str, Any] = manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
        return found
    patch = manifest["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]
    template, trainer = patch["template"]["spec"]["template"], manifest["spec"]["trainer"]
    said = {"image": trainer["image"], "env": trainer["env"], "resources": trainer["resourcesPerNode"]}
    containers = [{**template["spec"]["containers"][0], **said}]
    return {**template, "spec": {**template["spec"], "restartPolicy": "Never", "containers": containers}}


@pytest.mark.parametrize("kind", [JOB_SET, TRAIN_JOB], ids=["JobSet", "TrainJob"])
def test_the_life_of_a_set(client: Client, monkeypatch: pytest.MonkeyPatch, kind: Kind) -> None:
    """Made once, found, watched, judged, removed; what JobSet's controller and the kubelets would do is done here."""
    os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="wt-airflow-"))
    exceptions = pytest.importorskip("airflow.sdk.exceptions")
    from windtunnel_airflow.pods.gangflight import GangFlight
    from windtunnel_airflow.pods.gangtrigger import GangTrigger

    if client.get(DEFINITION, f"{kind.plural}.{kind.group}") is None:
        pytest.skip(f"needs the CRD {kind.plural}.{kind.group}")
    try:  # without controllers nobody makes the default one
        client.create(ACCOUNT, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})
    except ConflictError:
        pass
    path = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
    extra = {"kube_config_path": path, "namespace": client.namespace}
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps({"conn_type": "kubernetes", "extra": extra}))
    spec = RunSpec("1e" * 16, "sea", "a:b", resources={"cpu": 1, "memory": 2**30, "disk": 2**30})
    pod = Pod(image="here", trainjob=TrainJob(runtime="torch") if kind is TRAIN_JOB else None)
    make = trainjob.train_job if kind is TRAIN_JOB else gang.job_set
    manifest = make(spec, pod, Place(["python"], namespace=client.namespace), 2)

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
    template, pods = pod_of(manifest), []
    for rank in range(2):
        meta = {**template["metadata"], "name": f"{name}-node-0-{rank}-x"}
        meta["annotations"] = {**meta["annotations"], gang.INDEX: str(rank)}
        client.create(POD, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": template["spec"]})
        pods.append(meta["name"])

    def kubelet(rank: int, phase: str, state: dict[str, Any]) -> None:
        called = gang.container_name(template)
        one = {"name": called, "image": "x", "imageID": "x", "restartCount": 0, "ready": False, "state": state}
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
    more = {"restarts": 0} if kind is JOB_SET else {}
    client.patch(kind, name, {"status": {"conditions": [failed], **more}}, "status")
    event = asyncio.run(asyncio.wait_for(first(), 60))
    assert event["status"] == "failed"
    end, evidence = flight().end()
    assert (end.kind, end.failure) == ("oom-killed", "resource") and end.message.startswith("node 1: ")
    assert [gang.rank_of(pod) for pod in evidence["pods"]] == [0, 1] and evidence["gang"] is not None
    flight().remove(1)
    until(lambda: client.get(kind, name) is None, 60)
    left = client.list(POD, labels=flight().labels)["items"]
    assert all(pod["metadata"].get("deletionTimestamp") for pod in left), "told to end; a kubelet would let go of them"
    for pod in left:
        client.delete(POD, str(pod["metadata"]["name"]), grace_s=0)
