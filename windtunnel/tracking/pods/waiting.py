"""What a pod that does not run yet waits for, in one line for people (TRN-8). Pure.

The scheduler's and the kubelet's own words, from the pod's status; what its status does not tell apart (pulling an
image, mounting a volume), from its newest event.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from windtunnel.tracking.pods import naming
from windtunnel.tracking.pods.ends import container_of, newest_first

#: The gate that Kueue closes and opens on the pods of its queues (Kueue, "Run plain pods").
KUEUE_GATE = "kueue.x-k8s.io/admission"

#: Kueue's mark on what it manages (Kueue, "Troubleshooting Pods").
KUEUE_MANAGED = "kueue.x-k8s.io/managed"
#: Kueue's label of a Workload: the UID of what it stands for.
KUEUE_OF = "kueue.x-k8s.io/job-uid"

#: Events that say what a pod on its way waits for, or that it does no longer.
_STEPS = {
    "Pulling": "its image: {}",
    "FailedMount": "a volume: {}",
    "FailedAttachVolume": "a volume: {}",
    "FailedMapVolume": "a volume: {}",
    "FailedCreatePodSandBox": "its node: {}",
    "NetworkNotReady": "its node: {}",
    "Pulled": "its container to start: {}",
    "SuccessfulAttachVolume": "its node: {}",
}


def gated(pod: Mapping[str, Any]) -> bool:
    """Whether somebody, such as a queue, keeps the scheduler from looking at it."""
    return bool((pod.get("spec") or {}).get("schedulingGates")) and not scheduled(pod)


def scheduled(pod: Mapping[str, Any]) -> bool:
    """Whether it has a node."""
    return bool((pod.get("spec") or {}).get("nodeName"))


def unqueued(pod: Mapping[str, Any]) -> str | None:
    """Why no queue will ever hold it back though it names one, in words; None where one does, or it names none."""
    labels: Mapping[str, str] = (pod.get("metadata") or {}).get("labels") or {}
    queue = labels.get(naming.QUEUE)
    if queue is None or labels.get(KUEUE_MANAGED) == "true" or gated(pod):
        return None
    return (
        f"queue {queue} does not count it: no Kueue manages this pod. Kueue's integration 'pod' must be on, for this "
        "namespace too; it is off unless told"
    )


def admission(workloads: Sequence[Mapping[str, Any]]) -> str:
    """Why a queue does not admit what its Workloads stand for, in Kueue's words; empty where it says nothing."""
    for workload in workloads:
        for one in (workload.get("status") or {}).get("conditions") or []:
            if one.get("type") == "QuotaReserved" and one.get("status") == "False" and one.get("message"):
                return " ".join(str(one["message"]).split())
    return ""


def waits_for(
    pod: Mapping[str, Any], events: Sequence[Mapping[str, Any]] = (), workloads: Sequence[Mapping[str, Any]] = ()
) -> str | None:
    """What it waits for; None once its container has run.

    Args:
        workloads: Kueue's of this pod, where they may be read.
    """
    status: Mapping[str, Any] = pod.get("status") or {}
    state: Mapping[str, Any] = container_of(status).get("state") or {}
    if status.get("phase") in ("Succeeded", "Failed") or "running" in state or "terminated" in state:
        return None
    if gated(pod):
        return _gate(pod, events, workloads)
    condition: Mapping[str, Any] = next(
        (each for each in status.get("conditions") or [] if each.get("type") == "PodScheduled"), {}
    )
    if condition.get("status") == "False":
        said = " ".join(str(condition.get("message") or "").split()) or "no reason given"
        return f"a node ({condition.get('reason') or 'Unschedulable'}): {said}{_growing(events)}"
    if not scheduled(pod) and condition.get("status") != "True":
        return "the scheduler"
    waiting: Mapping[str, Any] = state.get("waiting") or {}
    reason, message = waiting.get("reason"), " ".join(str(waiting.get("message") or "").split())
    if reason and reason not in ("ContainerCreating", "PodInitializing"):
        return (
            f"{'its image' if 'Image' in str(reason) else 'its container'} ({reason}){': ' if message else ''}{message}"
        )
    for event in newest_first(events):
        if (form := _STEPS.get(str(event.get("reason")))) is not None:
            return form.format(" ".join(str(event.get("message") or event.get("reason")).split()))
    node = (pod.get("spec") or {}).get("nodeName")
    return f"node {node} to make its container" if node else "its container"


def _gate(pod: Mapping[str, Any], events: Sequence[Mapping[str, Any]], workloads: Sequence[Mapping[str, Any]]) -> str:
    names = [str(each.get("name")) for each in pod["spec"]["schedulingGates"]]
    queue = ((pod.get("metadata") or {}).get("labels") or {}).get(naming.QUEUE)
    if KUEUE_GATE not in names or not queue:
        return f"whoever opens its scheduling gates: {', '.join(names)}"
    said = admission(workloads) or next(
        (" ".join(str(each.get("message")).split()) for each in newest_first(events) if _of_kueue(each)), ""
    )
    return f"queue {queue} (Kueue) to admit it{': ' if said else ''}{said}"


def _of_kueue(event: Mapping[str, Any]) -> bool:
    source = (event.get("source") or {}).get("component") or event.get("reportingComponent") or ""
    return "kueue" in str(source).lower() and bool(event.get("message"))


def _growing(events: Sequence[Mapping[str, Any]]) -> str:
    for event in newest_first(events):
        if event.get("reason") in ("TriggeredScaleUp", "Nominated", "NotTriggerScaleUp"):
            return f"; {event['reason']}: {' '.join(str(event.get('message') or '').split())}"
    return ""
