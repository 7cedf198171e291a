"""What a pod waits for, in one line (TRN-8); pure."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.tracking.pods import naming
from windtunnel.tracking.pods.waiting import KUEUE_MANAGED, gated, unqueued, waits_for


def pod(status: dict[str, Any], labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "a", "labels": labels or {}}, "spec": spec, "status": {"phase": "Pending", **status}}


def container(**state: Any) -> dict[str, Any]:
    return {"containerStatuses": [{"name": "training", "state": state}]}


def event(reason: str, message: str, at: str = "2026-11-21T10:00:00Z", source: str = "kubelet") -> dict[str, Any]:
    return {"reason": reason, "message": message, "lastTimestamp": at, "source": {"component": source}}


CREATING = container(waiting={"reason": "ContainerCreating"})
GATES = [{"name": "kueue.x-k8s.io/admission"}]


@pytest.mark.parametrize(
    ("given", "events", "said"),
    [
        (pod({}), [], "the scheduler"),
        (pod({}, {naming.QUEUE: "q"}, schedulingGates=GATES), [], "queue q (Kueue) to admit it"),
        (pod({}, {naming.QUEUE: "q"}, schedulingGates=GATES),
         [event("Pending", "insufficient quota for cpu", source="kueue-admission"), event("X", "y")],
         "queue q (Kueue) to admit it: insufficient quota for cpu"),
        (pod({}, schedulingGates=[{"name": "house/gate"}]), [], "whoever opens its scheduling gates: house/gate"),
        (pod(CREATING, nodeName="n"), [], "node n to make its container"),
        (pod(CREATING, nodeName="n"), [event("Pulling", "Pulling image x")], "its image: Pulling image x"),
        (pod(CREATING, nodeName="n"),
         [event("Pulling", "Pulling image x"), event("Pulled", "in 40 s", "2026-11-21T10:01:00Z")],
         "its container to start: in 40 s"),
        (pod(CREATING, nodeName="n"), [event("FailedMount", "secret  a not\nfound")], "a volume: secret a not found"),
        (pod(container(waiting={"reason": "ImagePullBackOff", "message": "busy"}), nodeName="n"), [],
         "its image (ImagePullBackOff): busy"),
        (pod(container(waiting={"reason": "CreateContainerConfigError"}), nodeName="n"), [],
         "its container (CreateContainerConfigError)"),
        (pod({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/1"}]}),
         [event("TriggeredScaleUp", "group a 1->2", source="cluster-autoscaler")],
         "a node (Unschedulable): 0/1; TriggeredScaleUp: group a 1->2"),
        (pod(container(running={}), nodeName="n"), [], None),
        (pod({"phase": "Failed"}), [], None),
    ],
)  # fmt: skip
def test_words(given: dict[str, Any], events: list[dict[str, Any]], said: str | None) -> None:
    """DEMAND TRN-8"""
    assert waits_for(given, events) == said


def test_a_pod_with_a_node_is_not_held_back() -> None:
    assert gated(pod({}, schedulingGates=GATES)) and not gated(pod({}, schedulingGates=GATES, nodeName="n"))
    assert not gated(pod({}))


def test_kueue_says_why_it_does_not_admit_a_pod_on_its_workload() -> None:
    """DEMAND TRN-8: on the pod itself is only the event that there is a Workload."""
    held = pod({}, {naming.QUEUE: "q"}, schedulingGates=GATES)
    words = {"type": "QuotaReserved", "status": "False", "message": "couldn't assign flavors:\n insufficient quota"}
    created = event("CreatedWorkload", "Created Workload: t/pod-a", source="kueue")
    said = waits_for(held, [created], [{"status": {"conditions": [words]}}])
    assert said == "queue q (Kueue) to admit it: couldn't assign flavors: insufficient quota"
    assert waits_for(held, [], [{"status": {"conditions": [{**words, "status": "True"}]}}, {}]) == (
        "queue q (Kueue) to admit it"
    )


def test_a_pod_whose_queue_nobody_minds_is_told() -> None:
    """DEMAND TRN-8: Kueue leaves plain pods alone unless it is told otherwise; then no share is kept."""
    assert "integration 'pod'" in str(unqueued(pod({}, {naming.QUEUE: "q"})))
    assert unqueued(pod({}, {naming.QUEUE: "q", KUEUE_MANAGED: "true"})) is None
    assert unqueued(pod({}, {naming.QUEUE: "q"}, schedulingGates=GATES)) is None
    assert unqueued(pod({})) is None
