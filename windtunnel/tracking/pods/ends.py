"""How a training pod ended, from its status and events: kind, failure, what to do next. Pure.

    kind            known by                                                    failure    next
    --------------- ----------------------------------------------------------- ---------- ------
    succeeded       phase Succeeded, or exit code 0                             -          done
    exited          an exit code of the contract (65, 70, 71, 75, 130) or other by code    by code
    oom-killed      container terminated: OOMKilled                             resource   fail
    deadline        status.reason DeadlineExceeded                              resource   fail
    disk-full       Evicted for its own storage limits                          resource   fail
    evicted         Evicted for the node's pressure, or through the eviction API transient resume
    preempted       PreemptionByScheduler, Preempting, Kueue's TerminationTarget transient resume
    node-lost       DeletionByTaintManager, DeletionByPodGC, NodeLost, shutdown transient  resume
    rejected        the node refused the pod when it came (OutOfcpu, ...)       transient  resume
    killed          SIGKILL or SIGTERM from outside                             transient  resume
    deleted         gone, or being deleted, by somebody else                    transient  resume
    image           no image: ErrImagePull, ImagePullBackOff, InvalidImageName  code       fail
                    ... and the registry said: busy, later                      transient  resume
    configuration   CreateContainerConfigError and its like, or a volume        code       fail
    unschedulable   PodScheduled is False after all patience                    resource   fail
    queued          scheduling gates still closed (a queue such as Kueue)       transient  resume
    not-started     anything else that kept it from running                     transient  resume
    waiting,        has not ended
    running

Sources: reasons and messages of Kubernetes' kubelet (eviction, preemption, node shutdown), pod garbage collector, taint
eviction controller and scheduler; ``v1.PodStatus``, ``v1.ContainerState*``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from windtunnel.tracking.contract import FAILURE_OF_EXIT, Failure
from windtunnel.tracking.pods import capacity
from windtunnel.tracking.pods.manifest import CONTAINER

Kind = Literal[
    "succeeded", "exited", "oom-killed", "deadline", "disk-full", "evicted", "preempted", "node-lost", "rejected",
    "killed", "deleted", "image", "configuration", "unschedulable", "queued", "not-started", "waiting", "running",
]  # fmt: skip
Next = Literal["done", "resume", "fail", "wait"]

#: What the container is called in which a training runs: in a pod of ours, in one of Kubeflow Trainer's.
CONTAINERS = (CONTAINER, "node")

_DISRUPTIONS: dict[str, Kind] = {
    "PreemptionByScheduler": "preempted",
    "DeletionByTaintManager": "node-lost",
    "DeletionByPodGC": "node-lost",
    "EvictionByEvictionAPI": "evicted",
    "TerminationByKubelet": "evicted",
}
_REASONS: dict[str, Kind] = {
    "DeadlineExceeded": "deadline",
    "Preempting": "preempted",
    "NodeLost": "node-lost",
    "NodeShutdown": "node-lost",
    "Shutdown": "node-lost",
    "Terminated": "node-lost",  # the kubelet's word when its node is shut down
    "NodeAffinity": "rejected",
    "UnexpectedAdmissionError": "rejected",
    "AdmissionFailed": "rejected",
}
#: A pod that held more than it may of its own storage; anything else evicted by a kubelet is the node's trouble.
_OWN_STORAGE = (
    "ephemeral local storage usage exceeds",
    "exceeded its local ephemeral storage limit",
    "Usage of EmptyDir",
)
_IMAGE = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
     "RegistryUnavailable", "SignatureValidationFailed"}
)  # fmt: skip
_BUSY = (
    "too many requests", "toomanyrequests", "rate limit", "qps exceeded", "timeout", "timed out", "temporarily",
    "bad gateway", "service unavailable", "connection refused", "connection reset", "no such host", "eof",
)  # fmt: skip
_CONFIGURATION = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError", "ContainerCannotRun",
     "InvalidEnvironmentVariableNames"}
)  # fmt: skip
_VOLUME_EVENTS = frozenset({"FailedMount", "FailedAttachVolume", "FailedMapVolume"})

#: Seconds after which an autoscaler that will make a node for a pod has said so (both look every ten).
AUTOSCALER_SPEAKS = 60.0

_FAILURES: dict[Kind, tuple[Failure, Next]] = {
    "oom-killed": ("resource", "fail"),
    "deadline": ("resource", "fail"),
    "disk-full": ("resource", "fail"),
    "unschedulable": ("resource", "fail"),
    "image": ("code", "fail"),
    "configuration": ("code", "fail"),
}
_TRANSIENT: tuple[Failure, Next] = ("transient", "resume")


@dataclass(frozen=True, slots=True)
class PodEnd:
    """How a pod ended, or that it has not.

    Attributes:
        kind: what happened; see the table above.
        failure: for the retry policy; None where it succeeded or goes on.
        next: ``done``; ``resume`` from the newest checkpoint in another pod; ``fail``; ``wait``.
        message: for people: what, and with which amounts.
        exit_code: of the training container, where it ran.
    """

    kind: Kind
    failure: Failure | None
    next: Next
    message: str
    exit_code: int | None = None

    @property
    def ended(self) -> bool:
        return self.next != "wait"


def classify(
    pod: Mapping[str, Any] | None,
    events: Sequence[Mapping[str, Any]] = (),
    nodes: Sequence[Mapping[str, Any]] | None = None,
    *,
    waited: float = 0.0,
    given_up: bool = False,
) -> PodEnd:
    """Say how a pod ended.

    Args:
        pod: the pod as the API has it (plain, camelCase), None when it is gone.
        events: its events, in any order.
        nodes: the cluster's nodes, where the caller may list them; None where it may not. A pod that none of them can
            ever take is given up once an autoscaler had time to say that it makes another one.
        waited: seconds since the pod was made.
        given_up: nobody waits any longer for a pod that has not started.
    """
    if pod is None:
        return _end("deleted", _gone(events))
    status: Mapping[str, Any] = pod.get("status") or {}
    container = container_of(status)
    state: Mapping[str, Any] = container.get("state") or {}
    exited: Mapping[str, Any] | None = state.get("terminated")
    phase = status.get("phase")
    if phase == "Succeeded" or (exited is not None and int(exited.get("exitCode", -1)) == 0):
        return PodEnd("succeeded", None, "done", "done", 0)
    # What happened to the pod explains the exit code of its container, not the other way round: those come first. A
    # training that had already ended by itself is told by its own code, whatever became of its pod afterwards.
    if exited is not None and _own_word(exited):
        return _exited(pod, exited)
    if outside := _outside(pod, status, events):
        return _with_code(outside, exited)
    if exited is not None:
        return _exited(pod, exited)
    if phase == "Failed":
        reason = status.get("reason") or "Failed"
        return _end(
            "rejected" if str(reason).startswith("OutOf") else "not-started", _said(reason, status.get("message"))
        )
    if (pod.get("metadata") or {}).get("deletionTimestamp"):
        return _end("deleted", "somebody deleted the pod before it had ended")
    if state.get("running") is not None:
        return PodEnd("running", None, "wait", "running")
    settled = given_up or (waited >= AUTOSCALER_SPEAKS and not _may_grow(events))
    return _not_started(pod, status, state.get("waiting") or {}, events, nodes if settled else None, given_up)


def _end(kind: Kind, message: str, exit_code: int | None = None) -> PodEnd:
    failure, onward = _FAILURES.get(kind, _TRANSIENT)
    return PodEnd(kind, failure, onward, message, exit_code)


def _with_code(end: PodEnd, exited: Mapping[str, Any] | None) -> PodEnd:
    code = int(exited["exitCode"]) if exited and "exitCode" in exited else None
    return PodEnd(end.kind, end.failure, end.next, end.message, code)


def container_of(status: Mapping[str, Any]) -> Mapping[str, Any]:
    """Status of the training container; empty where there is none yet."""
    found: Iterable[Mapping[str, Any]] = status.get("containerStatuses") or []
    return next((each for each in found if each.get("name") in CONTAINERS), {})


def _said(reason: Any, message: Any) -> str:
    text = " ".join(str(message or "").split())
    return f"{reason}: {text}" if text else str(reason)


def _own_word(exited: Mapping[str, Any]) -> bool:
    """Did the training end by itself, with a code of the contract that is no answer to a signal?"""
    return FAILURE_OF_EXIT.get(int(exited.get("exitCode", -1))) in ("data", "code", "resource", "cancelled") and (
        exited.get("reason") not in ("OOMKilled", "ContainerStatusUnknown")
    )


def _outside(pod: Mapping[str, Any], status: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> PodEnd | None:
    """What the cluster did to the pod, if anything."""
    reason, message = str(status.get("reason") or ""), str(status.get("message") or "")
    exited: Mapping[str, Any] = (container_of(status).get("state") or {}).get("terminated") or {}
    if reason == "Evicted":
        if any(words in message for words in _OWN_STORAGE):
            return _end("disk-full", f"{_said(reason, message)} (training.resources.disk)")
        return _end("evicted", _said(reason, message))
    if exited.get("reason") == "OOMKilled":
        return _end("oom-killed", _out_of_memory(pod))
    if reason in _REASONS:
        text = _said(reason, message)
        return _end(_REASONS[reason], f"{text} (training.time_limit)" if reason == "DeadlineExceeded" else text)
    for condition in status.get("conditions") or []:
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            kind = _DISRUPTIONS.get(str(condition.get("reason")), "evicted")
            return _end(kind, _said(condition.get("reason"), condition.get("message")))
        # Kueue's word on a pod that it takes back, for somebody with a better claim; then it deletes it.
        if condition.get("type") == "TerminationTarget" and condition.get("status") == "True":
            return _end("preempted", _said(condition.get("reason"), condition.get("message")))
    if exited.get("reason") == "ContainerStatusUnknown":
        return _end("node-lost", _said("ContainerStatusUnknown", exited.get("message")))
    for event in newest_first(events):
        if event.get("reason") == "Preempted":
            return _end("preempted", _said("Preempted", event.get("message")))
        if event.get("reason") == "TaintManagerEviction":
            return _end("node-lost", _said("TaintManagerEviction", event.get("message")))
    return None


def _out_of_memory(pod: Mapping[str, Any]) -> str:
    limit = ""
    for container in (pod.get("spec") or {}).get("containers") or []:
        memory = ((container.get("resources") or {}).get("limits") or {}).get("memory")
        if container.get("name") in CONTAINERS and memory is not None:
            limit = f"; the container may hold {capacity.words('memory', capacity.quantity(memory))}"
    return f"the kernel killed it for memory (OOMKilled){limit} (training.resources.memory, shared_memory)"


def _exited(pod: Mapping[str, Any], exited: Mapping[str, Any]) -> PodEnd:
    code = int(exited.get("exitCode", -1))
    if exited.get("reason") == "OOMKilled":
        return _end("oom-killed", _out_of_memory(pod), code)
    if exited.get("reason") in _CONFIGURATION:
        return _end("configuration", _said(exited.get("reason"), exited.get("message")), code)
    if code in (137, 143) or exited.get("signal"):
        name = {137: "SIGKILL", 143: "SIGTERM"}.get(code, f"signal {exited.get('signal')}")
        return _end("killed", f"it was ended from outside ({name})", code)
    failure = FAILURE_OF_EXIT.get(code, "code")
    onward: Next = "resume" if failure == "transient" else "fail"
    return PodEnd("exited", failure, onward, _last_words(exited, code), code)


def _last_words(exited: Mapping[str, Any], code: int) -> str:
    """The message the pod's process left, as JSON or as the end of its log."""
    text = str(exited.get("message") or "").strip()
    if text.startswith("{"):
        try:
            said = json.loads(text)
        except ValueError:
            said = None
        if isinstance(said, dict) and said.get("message"):
            return str(said["message"])
    return text[-2000:] or f"it ended with exit code {code}; see the log"


def _not_started(
    pod: Mapping[str, Any],
    status: Mapping[str, Any],
    waiting: Mapping[str, Any],
    events: Sequence[Mapping[str, Any]],
    nodes: Sequence[Mapping[str, Any]] | None,
    given_up: bool,
) -> PodEnd:
    reason, message = str(waiting.get("reason") or ""), str(waiting.get("message") or "")
    if reason in _IMAGE:
        return _image(pod, reason, message, events, given_up)
    if reason in _CONFIGURATION:
        return _end("configuration", _said(reason, message))
    scheduled: Mapping[str, Any] = next(
        (each for each in status.get("conditions") or [] if each.get("type") == "PodScheduled"), {}
    )
    closed = scheduled.get("reason") == "SchedulingGated"
    if scheduled.get("status") == "False":
        text = _said(scheduled.get("reason") or "Unschedulable", scheduled.get("message"))
        if closed:
            return _end("queued", text) if given_up else PodEnd("waiting", None, "wait", text)
        short = capacity.compare(pod, nodes) if nodes is not None else None
        amounts = f"; it asks for {short.asked}; {short.there}" if short else ""
        if short is not None and short.reason is not None:
            return _end("unschedulable", f"{short.reason}{amounts}; the scheduler: {text}")
        if given_up:
            return _end("unschedulable", f"{text}{amounts}")
        return PodEnd("waiting", None, "wait", text)
    if given_up:
        for event in newest_first(events):
            if event.get("reason") in _VOLUME_EVENTS:
                return _end("configuration", _said(event.get("reason"), event.get("message")))
        return _end("not-started", _said(reason or "Pending", message or "it did not start in time"))
    return PodEnd("waiting", None, "wait", _said(reason or "Pending", message))


def _image(
    pod: Mapping[str, Any], reason: str, message: str, events: Sequence[Mapping[str, Any]], given_up: bool
) -> PodEnd:
    # "Back-off pulling image" says nothing of the cause; the kubelet's Failed event before it does.
    cause = next(
        (str(e.get("message")) for e in newest_first(events)
         if e.get("reason") == "Failed" and "Failed to pull image" in str(e.get("message"))), ""
    )  # fmt: skip
    text = _said(reason, " ".join(part for part in (message, cause if cause not in message else "") if part))
    if any(word in text.lower() for word in _BUSY):
        if given_up:
            return PodEnd("image", *_TRANSIENT, text)
        return PodEnd("waiting", None, "wait", text)
    return _end("image", f"{text} (training.pod.image, pull_secrets)")


def _may_grow(events: Sequence[Mapping[str, Any]]) -> bool:
    """Has an autoscaler said that it makes a node for this pod? Then today's nodes are not all there is."""
    return any(event.get("reason") in ("TriggeredScaleUp", "Nominated") for event in events)


def newest_first(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Events by their time, the newest first."""

    def at(event: Mapping[str, Any]) -> str:
        return str(event.get("lastTimestamp") or event.get("eventTime") or event.get("firstTimestamp") or "")

    return sorted(events, key=at, reverse=True)


def _gone(events: Sequence[Mapping[str, Any]]) -> str:
    last = next(iter(newest_first(events)), None)
    return (
        f"the pod is gone; its last event was {_said(last.get('reason'), last.get('message'))}"
        if last
        else "the pod is gone"
    )
