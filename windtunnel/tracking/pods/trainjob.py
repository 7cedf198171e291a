"""A training of several nodes as a TrainJob of Kubeflow Trainer, where the description names a runtime (TRN-4). Pure.

What a TrainJob can say of its pods is said: image, command, environment, resources, labels, security, volumes, places.
The rest is the runtime's, which somebody keeps in the cluster for all who train by it; ``look`` holds it against what a
training of ours needs. Trainer makes a JobSet of both, and that a Job named ``node``, so names, numbers and the way to
node 0 are those of ``gang``; the ``PET_*`` variables are set by the runtime's policy ``torch``, to the same values.

Sources: trainer.kubeflow.org/v1alpha1 (``TrainJobSpec``, ``TrainingRuntimeSpec``) as of Trainer 2.2 and 2.3, its
plug-ins ``torch`` and ``jobset``; defaults of JobSet's webhook (``restartPolicy: OnFailure``) and of batch/v1
(``backoffLimit: 6``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from windtunnel.errors import DescriptionError
from windtunnel.kube.kinds import CLUSTER_RUNTIME, RUNTIME, TRAIN_JOB, Kind
from windtunnel.spec import Pod, TrainJob
from windtunnel.tracking.contract import RunSpec
from windtunnel.tracking.pods import gang
from windtunnel.tracking.pods.manifest import GRACE_SECONDS, Place, queued, training_pod

#: Of the Job, and of the container in its pods: Trainer knows the training by these names.
NODE = "node"
#: Whose patch of the runtime this is.
MANAGER = "windtunnel.dev/training"
#: Trainer refuses a TrainJob that sets these: the policy ``torch`` does.
_THEIRS = ("PET_MASTER_ADDR", "PET_MASTER_PORT", "PET_NNODES", "PET_NODE_RANK", "PET_NPROC_PER_NODE")
_STEP = "trainer.kubeflow.org/trainjob-ancestor-step"
#: Most variables that a TrainJob may set.
_VARIABLES = 128
#: What of a pod a TrainJob may patch.
_PATCHED = (
    "affinity", "imagePullSecrets", "nodeSelector", "securityContext", "serviceAccountName", "tolerations", "volumes",
)  # fmt: skip
#: A set that removes itself sooner may be gone before somebody has read why its nodes ended.
_READ_WITHIN = 600


def runtime_kind(of: TrainJob) -> Kind:
    """The kind of the runtime."""
    return CLUSTER_RUNTIME if of.scope == "cluster" else RUNTIME


def train_job(spec: RunSpec, pod: Pod, place: Place, count: int) -> dict[str, Any]:
    """The TrainJob of one attempt at a run, as the Kubernetes API takes it.

    Args:
        pod: with ``trainjob``.
        count: how many nodes.

    Raises:
        DescriptionError: as ``training_pod``, or it has more variables than a TrainJob takes.
    """
    assert pod.trainjob is not None
    one = training_pod(spec, pod.model_copy(update={"queue": None, "queue_priority": None}), place)
    meta, body = one["metadata"], one["spec"]
    name, container = gang.gang_name(spec.model, spec.run_id, place.attempt), body["containers"][0]
    gpus = int(spec.resources.get("gpu") or 0)
    variables = [*container["env"], *gang.environment(name, count, gpus)]
    variables = [one for one in variables if one["name"] not in _THEIRS]
    if len(variables) > _VARIABLES:
        raise DescriptionError(
            f"model {spec.model}: a TrainJob takes {_VARIABLES} variables, found {len(variables)}",
            hint="fewer training.pod.secrets, or leave training.pod.trainjob out",
        )
    annotations = {**meta["annotations"], "kubectl.kubernetes.io/default-container": NODE}
    inside = {key: body[key] for key in _PATCHED if body.get(key)}
    inside["containers"] = [
        {"name": NODE, "securityContext": container["securityContext"], "volumeMounts": container["volumeMounts"]}
    ]
    template = {"metadata": {"labels": meta["labels"], "annotations": annotations}, "spec": inside}
    patch = {
        "metadata": {"labels": meta["labels"]},
        "spec": {"replicatedJobs": [{"name": NODE, "template": {"spec": {"template": template}}}]},
    }
    kind = runtime_kind(pod.trainjob)
    return {
        "apiVersion": TRAIN_JOB.api_version,
        "kind": TRAIN_JOB.name,
        "metadata": {
            "name": name,
            "namespace": meta["namespace"],
            "labels": {**meta["labels"], **queued(pod)},
            "annotations": annotations,
        },
        "spec": {
            "runtimeRef": {"apiGroup": kind.group, "kind": kind.name, "name": pod.trainjob.runtime},
            "suspend": pod.queue is not None,
            "activeDeadlineSeconds": body["activeDeadlineSeconds"],
            "trainer": {
                "image": container["image"],
                "command": container["command"],
                "env": variables,
                "numNodes": count,
                "numProcPerNode": max(1, gpus),
                "resourcesPerNode": container["resources"],
            },
            "runtimePatches": [{"manager": MANAGER, "trainingRuntimeSpec": {"template": patch}}],
        },
    }


@dataclass(frozen=True, slots=True)
class Look:
    """What a runtime means for a training.

    Attributes:
        refused: why a training of ours cannot be made by it; each with the field.
        told: what is less than a JobSet of ours would give.
    """

    refused: tuple[str, ...] = ()
    told: tuple[str, ...] = ()


def look(runtime: Mapping[str, Any], manifest: Mapping[str, Any]) -> Look:
    """Hold a (Cluster)TrainingRuntime against what a training needs of it.

    Args:
        runtime: as the API has it.
        manifest: as ``train_job`` makes it.
    """
    spec: Mapping[str, Any] = runtime.get("spec") or {}
    set_of: Mapping[str, Any] = (spec.get("template") or {}).get("spec") or {}
    jobs = {str(job.get("name")): job.get("template") or {} for job in set_of.get("replicatedJobs") or []}
    refused = [*_policy(spec), *_shape(jobs), *_whole(set_of)]
    if NODE not in jobs:
        return Look(tuple(refused))
    job: Mapping[str, Any] = jobs[NODE].get("spec") or {}
    pod: Mapping[str, Any] = (job.get("template") or {}).get("spec") or {}
    refused += [*_tried_again(job, pod)]
    return Look(tuple(refused), tuple(_less(set_of, pod, manifest)))


def _policy(spec: Mapping[str, Any]) -> Iterator[str]:
    policy = spec.get("mlPolicy") or {}
    if policy.get("torch") is None:
        found = sorted(set(policy) - {"numNodes"})
        yield f"mlPolicy is {', '.join(found) or 'none'}: torch is what numbers the nodes"


def _shape(jobs: Mapping[str, Any]) -> Iterator[str]:
    if NODE not in jobs:
        yield f"it has no job {NODE!r} (replicatedJobs)"
        return
    if strange := sorted(set(jobs) - {NODE}):
        yield f"it has jobs {', '.join(strange)}, too: a run fetches its data and delivers its model by itself"
    labels = (jobs[NODE].get("metadata") or {}).get("labels") or {}
    if labels.get(_STEP) != "trainer":
        yield f"job {NODE} lacks the label {_STEP}: trainer, by which a TrainJob's image and command reach it"
    pod = ((jobs[NODE].get("spec") or {}).get("template") or {}).get("spec") or {}
    names = sorted(str(one.get("name")) for one in pod.get("containers") or [])
    if names != [NODE]:
        found = ", ".join(names) or "none"
        yield f"its pods have containers {found}: expected {NODE} alone, which ends with the training"


def _whole(set_of: Mapping[str, Any]) -> Iterator[str]:
    network = set_of.get("network") or {}
    if network.get("subdomain") or network.get("enableDNSHostnames") is False:
        yield "network: node 0 is found by JobSet's usual names: no subdomain, enableDNSHostnames not false"
    policy = set_of.get("failurePolicy") or {}
    ignoring = any("IgnoreMaxRestarts" in str(rule.get("action")) for rule in policy.get("rules") or [])
    if int(policy.get("maxRestarts") or 0) or ignoring:
        yield "failurePolicy starts the set again: maxRestarts: 0; another try is Airflow's to begin"


def _tried_again(job: Mapping[str, Any], pod: Mapping[str, Any]) -> Iterator[str]:
    if job.get("completionMode") not in (None, "Indexed"):
        yield "completionMode: Indexed, or nodes have no number"
    if (limit := job.get("backoffLimit")) != 0 or job.get("backoffLimitPerIndex"):
        found = "6 where it is not said" if limit is None else limit
        yield f"backoffLimit is {found}: 0, so that one node's failure is everybody's"
    rules = (job.get("podFailurePolicy") or {}).get("rules") or []
    if any(rule.get("action") in ("Ignore", "FailIndex") for rule in rules):
        yield "podFailurePolicy makes another pod for one that was lost: another try is Airflow's to begin"
    if (policy := pod.get("restartPolicy")) != "Never":
        found = policy or "OnFailure where it is not said"
        yield f"restartPolicy is {found}: Never, or a failed node begins again and nobody hears of it"


def _less(set_of: Mapping[str, Any], pod: Mapping[str, Any], manifest: Mapping[str, Any]) -> Iterator[str]:
    if pod.get("automountServiceAccountToken") is not False:
        yield "pods hold a token of the cluster (automountServiceAccountToken: false)"
    if (grace := int(pod.get("terminationGracePeriodSeconds", 30))) < GRACE_SECONDS:
        enough = f"terminationGracePeriodSeconds: {GRACE_SECONDS}"
        yield f"a node that is taken away has {grace} s for its last checkpoint ({enough})"
    if (ttl := set_of.get("ttlSecondsAfterFinished")) is not None and int(ttl) < _READ_WITHIN:
        yield f"pods may be gone before it is read why they ended (ttlSecondsAfterFinished {ttl})"
    host = [key for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    host += [f"volume {one.get('name')} of the host" for one in pod.get("volumes") or [] if "hostPath" in one]
    if host:
        yield f'{", ".join(host)}: Pod Security "restricted" lets no such pod in'
    ours = manifest["spec"]["trainer"]["resourcesPerNode"]
    named: Mapping[str, Any] = next((one for one in pod.get("containers") or [] if one.get("name") == NODE), {})
    theirs: Mapping[str, Any] = named.get("resources") or {}
    more = sorted({what for side in ("limits", "requests") for what in set(theirs.get(side) or {}) - set(ours[side])})
    if more:
        yield f"the runtime asks for {', '.join(more)} as well (training.resources does not)"


def sized(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """One of its pods, as far as it is asked whether a node can take it."""
    spec = manifest["spec"]
    inside = spec["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]
    patch = inside["template"]["spec"]["template"]["spec"]
    container = {"name": NODE, "resources": spec["trainer"]["resourcesPerNode"]}
    return {"spec": {"containers": [container], "nodeSelector": patch.get("nodeSelector") or {}}}
