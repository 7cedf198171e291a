"""How a pod ended: every kind told apart by what a cluster really says."""

from __future__ import annotations

import json
from typing import Any

import pytest

from windtunnel.tracking.contract import EXIT
from windtunnel.tracking.pods import capacity
from windtunnel.tracking.pods.ends import AUTOSCALER_SPEAKS, classify

GIB = 2**30


def pod(phase: str = "Running", *, state: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "metadata": {"name": "wt-sea-1", "labels": {}},
        "spec": {
            "nodeSelector": {},
            "containers": [
                {
                    "name": "training",
                    "resources": {
                        "requests": {"cpu": "4", "memory": str(16 * GIB), "nvidia.com/gpu": "2"},
                        "limits": {"memory": str(16 * GIB)},
                    },
                }
            ],
        },
        "status": {"phase": phase, **status},
    }
    if state is not None:
        found["status"]["containerStatuses"] = [{"name": "training", "state": state}]
    return found


def over(code: int, reason: str = "Error", message: str = "") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "message": message}}


def disrupted(reason: str, message: str = "") -> list[dict[str, Any]]:
    return [{"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}]


def unscheduled(message: str, reason: str = "Unschedulable") -> list[dict[str, Any]]:
    return [{"type": "PodScheduled", "status": "False", "reason": reason, "message": message}]


def node(name: str = "n", *, cpu: str = "8", memory: str = "32Gi", gpus: int = 0, **labels: str) -> dict[str, Any]:
    allocatable = {"cpu": cpu, "memory": memory, **({"nvidia.com/gpu": str(gpus)} if gpus else {})}
    return {"metadata": {"name": name, "labels": labels}, "spec": {}, "status": {"allocatable": allocatable}}


def event(reason: str, message: str = "", at: str = "2026-11-21T10:00:00Z") -> dict[str, Any]:
    return {"reason": reason, "message": message, "lastTimestamp": at}


ENDS: list[tuple[str, dict[str, Any] | None, list[dict[str, Any]], tuple[str, str | None, str]]] = [
    ("done", pod("Succeeded", state=over(0, "Completed")), [], ("succeeded", None, "done")),
    ("done, phase behind", pod(state=over(0, "Completed")), [], ("succeeded", None, "done")),
    ("bad data", pod("Failed", state=over(65)), [], ("exited", "data", "fail")),
    ("bug", pod("Failed", state=over(70)), [], ("exited", "code", "fail")),
    ("any other code", pod("Failed", state=over(3)), [], ("exited", "code", "fail")),
    ("its own memory limit", pod("Failed", state=over(71)), [], ("exited", "resource", "fail")),
    ("a server was down", pod("Failed", state=over(75)), [], ("exited", "transient", "resume")),
    ("a person", pod("Failed", state=over(130)), [], ("exited", "cancelled", "fail")),
    ("out of memory", pod("Failed", state=over(137, "OOMKilled")), [], ("oom-killed", "resource", "fail")),
    ("killed", pod("Failed", state=over(137)), [], ("killed", "transient", "resume")),
    ("terminated", pod("Failed", state=over(143)), [], ("killed", "transient", "resume")),
    ("past its deadline",
     pod("Failed", state=over(137), reason="DeadlineExceeded", message="Pod was active on the node longer"), [],
     ("deadline", "resource", "fail")),
    ("node pressure",
     pod("Failed", state=over(137), reason="Evicted", message="The node was low on resource: memory. "), [],
     ("evicted", "transient", "resume")),
    ("its own disk",
     pod("Failed", reason="Evicted", message="Pod ephemeral local storage usage exceeds the total limit of 1Gi."),
     [], ("disk-full", "resource", "fail")),
    ("its own volume",
     pod("Failed", reason="Evicted", message='Usage of EmptyDir volume "tmp" exceeds the limit "1Gi". '), [],
     ("disk-full", "resource", "fail")),
    ("drained",
     pod(state=over(143), conditions=disrupted("EvictionByEvictionAPI", "Eviction API: evicting")), [],
     ("evicted", "transient", "resume")),
    ("preempted",
     pod("Failed", state=over(75), conditions=disrupted("PreemptionByScheduler", "a higher priority pod")),
     [], ("preempted", "transient", "resume")),
    ("preempted by the kubelet", pod("Failed", reason="Preempting", message="Preempted by a critical pod"), [],
     ("preempted", "transient", "resume")),
    ("preempted and gone from status", pod(state=over(143)), [event("Preempted", "by team-b/other")],
     ("preempted", "transient", "resume")),
    ("taken back by its queue",
     pod(state=over(143), conditions=[{"type": "TerminationTarget", "status": "True", "reason": "WorkloadEvicted",
         "message": "Preempted to accommodate a workload"}]), [], ("preempted", "transient", "resume")),
    ("node lost", pod("Failed", conditions=disrupted("DeletionByPodGC", "PodGC: node no longer exists")), [],
     ("node-lost", "transient", "resume")),
    ("node unreachable", pod(conditions=disrupted("DeletionByTaintManager", "deleting due to NoExecute taint")),
     [], ("node-lost", "transient", "resume")),
    ("node silent", pod("Failed", state=over(137, "ContainerStatusUnknown", "The container could not be located")), [],
     ("node-lost", "transient", "resume")),
    ("node shut down",
     pod("Failed", state=over(137), reason="Terminated", message="terminated: imminent node shutdown.",
         conditions=disrupted("TerminationByKubelet")), [], ("node-lost", "transient", "resume")),
    ("refused by the node", pod("Failed", reason="OutOfnvidia.com/gpu", message="Node didn't have enough resource"), [],
     ("rejected", "transient", "resume")),
    ("refused by a device", pod("Failed", reason="UnexpectedAdmissionError", message="Allocate failed"), [],
     ("rejected", "transient", "resume")),
    ("gone", None, [event("Killing", "Stopping container training")], ("deleted", "transient", "resume")),
    ("no such image",
     pod("Pending", state={"waiting": {"reason": "ErrImagePull", "message": "not found: manifest unknown"}}), [],
     ("image", "code", "fail")),
    ("no such image, backing off",
     pod("Pending", state={"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "x"'}}),
     [event("Failed", 'Failed to pull image "x": not found')], ("image", "code", "fail")),
    ("the registry is busy",
     pod("Pending", state={"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "x"'}}),
     [event("Failed", 'Failed to pull image "x": 429 Too Many Requests')], ("waiting", None, "wait")),
    ("a bad image name", pod("Pending", state={"waiting": {"reason": "InvalidImageName"}}), [],
     ("image", "code", "fail")),
    ("no such secret",
     pod("Pending", state={"waiting": {"reason": "CreateContainerConfigError", "message": 'no secret "mlflow"'}}), [],
     ("configuration", "code", "fail")),
    ("no such program", pod("Failed", state=over(128, "StartError", "exec: python: not found")), [],
     ("configuration", "code", "fail")),
    ("waits for a node", pod("Pending", conditions=unscheduled("0/3 nodes")), [], ("waiting", None, "wait")),
    ("waits for its queue", pod("Pending", conditions=unscheduled("gated", "SchedulingGated")), [],
     ("waiting", None, "wait")),
    ("starting", pod("Pending", state={"waiting": {"reason": "ContainerCreating"}}), [], ("waiting", None, "wait")),
    ("running", pod(state={"running": {"startedAt": "2026-11-21T10:00:00Z"}}), [], ("running", None, "wait")),
]  # fmt: skip


@pytest.mark.parametrize(("found", "events", "wanted"), [each[1:] for each in ENDS], ids=[each[0] for each in ENDS])
def test_each_end_is_told_apart(
    found: dict[str, Any] | None, events: list[dict[str, Any]], wanted: tuple[str, str | None, str]
) -> None:
    """DEMAND PIP-3, TRN-2, TRN-5"""
    end = classify(found, events)
    assert (end.kind, end.failure, end.next) == wanted
    assert end.message


@pytest.mark.parametrize("code", sorted(EXIT.values()))
def test_a_training_that_ended_by_itself_is_told_by_its_own_code(code: int) -> None:
    """A drain that comes after the end does not turn bad data into another try; but TERM is what made 75."""
    end = classify(pod("Failed", state=over(code), conditions=disrupted("EvictionByEvictionAPI")))
    assert end.kind == ("evicted" if code == EXIT["transient"] else "exited")


def test_the_pods_own_last_words() -> None:
    words = json.dumps({"failure": "data", "message": "input 'rows' is corrupt"})
    assert classify(pod("Failed", state=over(65, message=words))).message == "input 'rows' is corrupt"
    assert "exit code 70" in classify(pod("Failed", state=over(70))).message
    assert classify(pod("Failed", state=over(70, message="{no json"))).message == "{no json"


def test_out_of_memory_says_how_much_there_was() -> None:
    """DEMAND TRN-5"""
    assert "16.0 GiB memory" in classify(pod("Failed", state=over(137, "OOMKilled"))).message


def test_an_impossible_pod_fails_early_with_both_amounts() -> None:
    """DEMAND TRN-5: 16 GiB on 8 GiB nodes; but an autoscaler first gets the time to speak."""
    waiting = pod("Pending", conditions=unscheduled("0/2 nodes are available: 2 Insufficient memory."))
    nodes = [node("a", memory="8Gi", gpus=2), node("b", memory="7Gi", gpus=4)]
    assert classify(waiting, [], nodes, waited=1).next == "wait"
    end = classify(waiting, [], nodes, waited=AUTOSCALER_SPEAKS)
    assert (end.kind, end.failure, end.next) == ("unschedulable", "resource", "fail")
    for words in ("no node has 16.0 GiB memory: the most is 8.0 GiB", "2 nvidia.com/gpu", "of 2 nodes", "Insufficient"):
        assert words in end.message, end.message
    for said in ("TriggeredScaleUp", "Nominated"):
        assert classify(waiting, [event(said)], nodes, waited=1000).next == "wait"


def test_a_type_of_gpu_nobody_has() -> None:
    """DEMAND TRN-5"""
    waiting = pod("Pending", conditions=unscheduled("0/1 nodes are available"))
    waiting["spec"]["nodeSelector"] = {"nvidia.com/gpu.product": "NVIDIA-H200"}
    nodes = [node(gpus=8, **{"nvidia.com/gpu.product": "NVIDIA-A10"})]
    end = classify(waiting, [], nodes, waited=1000)
    assert end.next == "fail"
    assert "no node has nvidia.com/gpu.product=NVIDIA-H200" in end.message and "NVIDIA-A10" in end.message


def test_an_affinity_nobody_meets() -> None:
    """DEMAND TRN-5"""
    waiting = pod("Pending", conditions=unscheduled("0/1 nodes are available: 1 node(s) didn't match node affinity."))
    term = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]}
    needed = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    waiting["spec"]["affinity"] = {"nodeAffinity": needed}
    end = classify(waiting, [], [node(gpus=8, zone="a")], waited=1000)
    assert end.next == "fail" and "no node meets the affinity (zone in (b))" in end.message
    assert classify(waiting, [], [node(gpus=8, zone="b")], waited=1000).next == "wait"


def test_a_full_cluster_is_waited_for_and_then_given_up_with_the_amounts() -> None:
    """DEMAND TRN-8: a waiting run says what it waits for."""
    waiting = pod("Pending", conditions=unscheduled("0/1 nodes are available: 1 Insufficient nvidia.com/gpu."))
    nodes = [node(gpus=2)]
    patient = classify(waiting, [], nodes, waited=1000)
    assert patient.next == "wait" and "Insufficient nvidia.com/gpu" in patient.message
    end = classify(waiting, [], nodes, waited=1000, given_up=True)
    assert (end.kind, end.next) == ("unschedulable", "fail")
    assert "it asks for 4 cpu, 16.0 GiB memory, 2 nvidia.com/gpu" in end.message
    blind = classify(waiting, [], None, waited=1000, given_up=True)
    assert "Insufficient nvidia.com/gpu" in blind.message, "who may not list nodes still hears the scheduler"


def test_what_kept_it_from_starting() -> None:
    creating = pod("Pending", state={"waiting": {"reason": "ContainerCreating"}})
    mount = event("FailedMount", 'MountVolume.SetUp failed: configmap "sea" not found')
    assert classify(creating, [mount]).next == "wait"
    assert classify(creating, [mount], given_up=True).kind == "configuration"
    assert classify(creating, given_up=True).kind == "not-started"
    queued = pod("Pending", conditions=unscheduled("quota", "SchedulingGated"))
    assert classify(queued, given_up=True).failure == "transient"


def test_a_node_that_takes_no_pods_does_not_count() -> None:
    closed = node(gpus=8)
    closed["spec"]["unschedulable"] = True
    assert capacity.compare(pod(), [closed]).reason is not None
    assert capacity.compare(pod(), [closed]).there.startswith("no node takes pods")
    split = [node("a", cpu="64", gpus=0), node("b", cpu="2", gpus=8)]
    assert capacity.compare(pod(), split).reason == "no single node has all of it together"
    assert capacity.compare(pod(), [node(gpus=2)]).reason is None


@pytest.mark.parametrize(
    ("text", "number"),
    [("500m", 0.5), ("2", 2), ("16Gi", 2**34), ("1e3", 1000), ("1.5G", 1.5e9), ("100k", 1e5), (3, 3), ("0.1", 0.1),
     ("3920m", 3.92), ("12E", 12e18)],
)  # fmt: skip
def test_quantities(text: Any, number: float) -> None:
    assert capacity.quantity(text) == pytest.approx(number)


@pytest.mark.parametrize("bad", ["", "x", "1 Gi", "Gi", "1gi", "--1"])
def test_no_quantities(bad: str) -> None:
    with pytest.raises(ValueError, match="expected a quantity"):
        capacity.quantity(bad)
