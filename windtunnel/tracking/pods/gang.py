"""A training of several nodes as one object (TRN-4): a JobSet with one indexed Job, whose pods are the nodes. Pure.

Each pod is the one that ``training_pod`` makes, with its number and the way to node 0 in its environment. They run, or
none does: a Kueue queue admits the set as a whole; one pod's failure ends the Job, and with it the set (no restarts:
another attempt goes on from the newest checkpoint). Node 0 has a name in DNS before it is ready, by the headless
service that JobSet makes.

    MASTER_ADDR, MASTER_PORT            node 0, for ``torch.distributed.init_process_group("gloo" or "nccl")``
    RANK, WORLD_SIZE, LOCAL_RANK, ...   one process a node: the number of the node, of how many
    PET_NNODES, PET_NODE_RANK, ...      the same for torchrun, which starts a process per GPU
    WINDTUNNEL_NODE_RANK, _NODES        ours: ``run.rank``, ``run.nodes``

Sources: jobset.x-k8s.io/v1alpha2 (``JobSetSpec``), batch/v1 ``JobSpec``; ``torch.distributed.run``, environment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from windtunnel.kube.kinds import JOB_SET
from windtunnel.spec import Pod
from windtunnel.tracking import nodes
from windtunnel.tracking.contract import FAILURE_OF_EXIT, RunSpec, RunStatus
from windtunnel.tracking.pods import naming
from windtunnel.tracking.pods.ends import CONTAINERS, PodEnd, classify
from windtunnel.tracking.pods.manifest import Place, queued, training_pod

#: Name of the Job in the set; a pod is called SET-node-0-NUMBER, and five characters more.
JOB = "node"
#: So that the longest of these is a host's name, too.
_NAME = naming.LIMIT - len(f"-{JOB}-0-999-12345")
#: torch's own default.
PORT = 29500
#: A finished set that no task came back for removes itself, as a pod is removed by the steward.
TTL_SECONDS = 24 * 3600

INDEX = "batch.kubernetes.io/job-completion-index"
#: Ends that are no other node's doing: what the cluster did to a node, or the kernel.
_FIRST = frozenset({"oom-killed", "disk-full", "evicted", "preempted", "node-lost", "deadline", "image",
                    "configuration", "unschedulable", "rejected"})  # fmt: skip


def gang_name(model: str, run_id: str, attempt: int) -> str:
    """Name of the set of one attempt at a run; short enough for what is put behind it."""
    return naming.pod_name(model, run_id, attempt, _NAME)


def host(name: str, rank: int) -> str:
    """Name of a node in its namespace's DNS."""
    return f"{name}-{JOB}-0-{rank}.{name}"


def job_set(spec: RunSpec, pod: Pod, place: Place, count: int) -> dict[str, Any]:
    """The set of one attempt at a run, as the Kubernetes API takes it.

    Args:
        count: how many nodes.

    Raises:
        DescriptionError: as ``training_pod``.
    """
    one = training_pod(spec, pod.model_copy(update={"queue": None, "queue_priority": None}), place)
    meta, body = one["metadata"], one["spec"]
    name = gang_name(spec.model, spec.run_id, place.attempt)
    container = body["containers"][0]
    container["env"] = [*container["env"], *environment(name, count, int(spec.resources.get("gpu") or 0))]
    template = {"metadata": {"labels": meta["labels"], "annotations": meta["annotations"]}, "spec": body}
    made: dict[str, Any] = {
        "apiVersion": JOB_SET.api_version,
        "kind": JOB_SET.name,
        "metadata": {
            "name": name,
            "namespace": meta["namespace"],
            "labels": {**meta["labels"], **queued(pod)},
            "annotations": meta["annotations"],
        },
        "spec": {
            # Whatever a queue admits begins suspended: no pod is there before all may be.
            "suspend": pod.queue is not None,
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True},
            "successPolicy": {"operator": "All"},
            "failurePolicy": {"maxRestarts": 0},
            "ttlSecondsAfterFinished": TTL_SECONDS,
            "replicatedJobs": [
                {
                    "name": JOB,
                    "replicas": 1,
                    "template": {
                        "spec": {
                            "completionMode": "Indexed",
                            "completions": count,
                            "parallelism": count,
                            "backoffLimit": 0,
                            "template": template,
                        }
                    },
                }
            ],
        },
    }
    return made


def environment(name: str, count: int, gpus: int = 0) -> list[dict[str, Any]]:
    """What a node's container is told of the others, beside what every training pod is told.

    Args:
        name: of the set.
        gpus: of each node; torchrun starts as many processes.
    """
    plain = {
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": host(name, 0),
        "MASTER_PORT": str(PORT),
        "PET_MASTER_ADDR": host(name, 0),
        "PET_MASTER_PORT": str(PORT),
        "PET_NNODES": str(count),
        "PET_NPROC_PER_NODE": str(max(1, gpus)),
        nodes.NODES: str(count),
        "WORLD_SIZE": str(count),
    }
    out: list[dict[str, Any]] = [{"name": key, "value": plain[key]} for key in sorted(plain)]
    number = {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX}']"}}
    out += [{"name": key, "valueFrom": number} for key in ("NODE_RANK", "PET_NODE_RANK", "RANK", nodes.RANK)]
    return out


def rank_of(pod: Mapping[str, Any]) -> int:
    """Number of a node, by its pod; -1: it has none yet."""
    meta: Mapping[str, Any] = pod.get("metadata") or {}
    found = (meta.get("annotations") or {}).get(INDEX) or (meta.get("labels") or {}).get(INDEX)
    return int(found) if found is not None and str(found).isdigit() else -1


def condition(thing: Mapping[str, Any], kind: str) -> Mapping[str, Any] | None:
    """A condition of an object that is true now."""
    found = (thing.get("status") or {}).get("conditions") or []
    return next((one for one in found if one.get("type") == kind and one.get("status") == "True"), None)


def completed(gang: Mapping[str, Any]) -> bool:
    """Whether every node has done its part, as a JobSet says it, or a TrainJob."""
    return any(condition(gang, kind) is not None for kind in ("Completed", "Complete"))


def ended_at(gang: Mapping[str, Any]) -> float | None:
    """When a set ended, in seconds since the epoch; None where it has not."""
    found = next((one for kind in ("Completed", "Complete", "Failed") if (one := condition(gang, kind))), None)
    at = (found or {}).get("lastTransitionTime")
    return datetime.fromisoformat(str(at)).timestamp() if at else None


def suspended(gang: Mapping[str, Any]) -> bool:
    """Whether a queue, or somebody, holds it back."""
    return bool((gang.get("spec") or {}).get("suspend"))


def container_name(pod: Mapping[str, Any]) -> str:
    """What the training's container is called in one of its pods."""
    names = [str(one.get("name")) for one in (pod.get("spec") or {}).get("containers") or []]
    return next((name for name in names if name in CONTAINERS), CONTAINERS[0])


def newest(pods: Sequence[Mapping[str, Any]]) -> dict[int, Mapping[str, Any]]:
    """Rank -> its pod; the newest, where one was replaced."""
    made = sorted(pods, key=lambda pod: str((pod.get("metadata") or {}).get("creationTimestamp") or ""))
    return {rank_of(pod): pod for pod in made}


def judge(
    gang: Mapping[str, Any] | None,
    pods: Sequence[Mapping[str, Any]],
    said: Mapping[int, RunStatus],
    events: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    cluster: Sequence[Mapping[str, Any]] | None = None,
    *,
    waited: float = 0.0,
    given_up: bool = False,
) -> PodEnd:
    """How a set ended, or that it has not: by the node that began it.

    Args:
        gang: the JobSet or TrainJob as the API has it; None when it is gone.
        pods: its pods, those that are left.
        said: rank -> how the run there ended by its own word in the object store.
        events: name of a pod -> its events.
        cluster: every node of the cluster, where they may be listed.
        waited: seconds since it may run.
        given_up: nobody waits any longer for it to start.
    """
    if gang is not None and completed(gang):
        return PodEnd("succeeded", None, "done", "done", 0)
    over = condition(gang, "Failed") if gang is not None else None
    if over is not None and over.get("reason") == "DeadlineExceeded":  # a TrainJob's; its pods are gone by then
        return PodEnd("deadline", "resource", "fail", f"{over.get('message')} (training.time_limit)")
    if gang is not None and suspended(gang):
        text = "no queue has admitted it"
        return PodEnd("queued", "transient", "resume", text) if given_up else PodEnd("waiting", None, "wait", text)
    ends: dict[int, PodEnd] = {}
    for rank, pod in newest(pods).items():
        name = str((pod.get("metadata") or {}).get("name"))
        found = (events or {}).get(name, ())
        ends[rank] = classify(pod, found, cluster, waited=waited, given_up=given_up)
    for rank, word in said.items():
        if rank not in ends and word.failure is not None:  # its pod is gone; its word is not
            ends[rank] = PodEnd(
                "exited",
                word.failure,
                "resume" if word.failure == "transient" else "fail",
                word.message,
                word.exit_code,
            )
    failed = {rank: end for rank, end in ends.items() if end.ended and end.next != "done"}
    if failed:
        rank = min(failed, key=lambda one: (*_order(failed[one]), _ended(newest(pods).get(one), said.get(one)), one))
        end, where = failed[rank], f"node {rank}" if rank >= 0 else "a node"
        return PodEnd(end.kind, end.failure, end.next, f"{where}: {end.message}", end.exit_code)
    if gang is None:
        return PodEnd("deleted", "transient", "resume", "the set of pods is gone")
    if over is not None:
        return PodEnd("deleted", "transient", "resume", f"{over.get('reason')}: {over.get('message')}")
    running = sum(end.kind in ("running", "succeeded") for end in ends.values())
    count = size(gang)
    if running >= count:
        return PodEnd("running", None, "wait", "running")
    if given_up:
        return PodEnd("not-started", "transient", "resume", f"{running} of {count} nodes run; all must")
    return PodEnd("waiting", None, "wait", f"{running} of {count} nodes run")


def size(gang: Mapping[str, Any]) -> int:
    """How many nodes a set has: a JobSet of ours, or a TrainJob."""
    if (trainer := (gang.get("spec") or {}).get("trainer")) is not None:
        return int(trainer.get("numNodes") or 1)
    jobs = (gang.get("spec") or {}).get("replicatedJobs") or []
    return sum(int(one.get("replicas") or 1) * int(one["template"]["spec"].get("parallelism") or 1) for one in jobs)


def _order(end: PodEnd) -> tuple[int]:
    """What may be the cause before what may be another node's failure seen from here (a connection that was cut)."""
    if end.kind in _FIRST:
        return (0,)
    own = end.kind == "exited" and FAILURE_OF_EXIT.get(end.exit_code or -1, "code") != "transient"
    return (1,) if own else (2,)


def _ended(pod: Mapping[str, Any] | None, said: RunStatus | None) -> float:
    """When: by the run's own word, for what comes after it (sending its log) takes its time; else its container's."""
    if said is not None and said.ended_at is not None:
        return said.ended_at
    states = ((pod or {}).get("status") or {}).get("containerStatuses") or []
    ends = [((one.get("state") or {}).get("terminated") or {}).get("finishedAt") for one in states]
    return min((datetime.fromisoformat(str(end)).timestamp() for end in ends if end), default=float("inf"))
