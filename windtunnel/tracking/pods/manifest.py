"""The manifest of a training pod, from a run and a description. Pure.

The pod meets Pod Security "restricted", has no service-account token, and asks for exactly what it may use (requests
equal limits: quality of service Guaranteed, the last to be evicted). Secrets are references. The same arguments give
the same manifest.

    /windtunnel   the run's home: inputs, run folder, model      emptyDir on disk
    /tmp          scratch                                         emptyDir on disk
    /dev/shm      shared memory, where the description asks       emptyDir in memory
    /etc/windtunnel/authorities/NAME/ca.crt    whose certificates are believed, where the place says so
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from windtunnel.errors import DescriptionError
from windtunnel.spec import Pod, Toleration
from windtunnel.tracking.contract import RunSpec
from windtunnel.tracking.pods import naming

CONTAINER = "training"
HOME = "/windtunnel"

#: Beside the training's own memory: the runner, and what fetches and publishes. The runner ends a training that holds
#: more than it may before the kernel ends the whole pod, and can say so.
WATCH_MEMORY = 256 * 2**20
#: Beside the run folder and the inputs: logs and /tmp.
WATCH_DISK = 2**30
#: Beside the time limit, which the runner keeps, and ``start_within``, for a pod's clock runs from when it has a node,
#: before its image is there: fetching inputs, delivering the model (300 s by default).
WATCH_SECONDS = 900
#: From TERM to KILL: the training's own 10 s, and its last checkpoint.
GRACE_SECONDS = 60

#: Where files of authorities lie, a folder for each Secret.
_AUTHORITIES = "/etc/windtunnel/authorities"

#: How each platform names its interruptible nodes: (label, value, whether it is also a taint).
_SPOT: dict[str, tuple[str, str, bool]] = {
    "eks": ("eks.amazonaws.com/capacityType", "SPOT", False),
    "karpenter": ("karpenter.sh/capacity-type", "spot", False),
    "gke": ("cloud.google.com/gke-spot", "true", True),
    "aks": ("kubernetes.azure.com/scalesetpriority", "spot", True),
}


@dataclass(frozen=True, slots=True)
class Place:
    """What the description does not know: where this very pod runs, and what it finds there.

    Attributes:
        namespace: where the pod is made, unless the description says.
        attempt: which attempt at the run, from 1.
        airflow: which installation of Airflow has its task; empty where none has.
        command: what the container runs.
        variables: further plain variables, e.g. the object store's address; no secrets.
        secrets: variable -> ``SECRET/KEY``; the description's own come on top.
        authorities: variable -> Secret with ``ca.crt``: that is mounted, and the variable names the file.
    """

    command: Sequence[str]
    namespace: str = "default"
    attempt: int = 1
    airflow: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, str] = field(default_factory=dict)
    authorities: Mapping[str, str] = field(default_factory=dict)


def training_pod(spec: RunSpec, pod: Pod, place: Place) -> dict[str, Any]:
    """The pod of one attempt at a run, as the Kubernetes API takes it.

    Raises:
        DescriptionError: the description names no image, or asks for a type of GPU without a GPU.
    """
    if pod.image is None:
        raise DescriptionError(
            f"model {spec.model}: training in a pod needs training.pod.image, found none",
            hint="name a container image that holds the training code, best by digest: name@sha256:...",
        )
    asked = spec.resources
    if asked.get("gpu_type") and not int(asked.get("gpu") or 0):
        raise DescriptionError(
            f"model {spec.model}: training.resources.gpu_type is {asked['gpu_type']}, but gpu is 0",
            hint="set training.resources.gpu to the number of GPUs",
        )
    body: dict[str, Any] = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": math.ceil(spec.time_limit + pod.start_within.total_seconds()) + WATCH_SECONDS,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": _pod_security(pod),
        "containers": [_container(spec, pod, place)],
        "volumes": _volumes(spec, pod, place),
        **_where(spec, pod),
    }
    named = {
        "serviceAccountName": pod.service_account,
        "priorityClassName": pod.priority_class,
        "runtimeClassName": pod.runtime_class,
    }
    body |= {key: value for key, value in named.items() if value is not None}
    if pod.pull_secrets:
        body["imagePullSecrets"] = [{"name": name} for name in pod.pull_secrets]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": naming.pod_name(spec.model, spec.run_id, place.attempt),
            "namespace": pod.namespace or place.namespace,
            "labels": _labels(spec, pod, place),
            "annotations": _annotations(spec, pod, place),
        },
        "spec": body,
    }


def resources(spec: RunSpec, pod: Pod) -> dict[str, str]:
    """What the container asks for and is held to, by Kubernetes' names; memory and disk in bytes."""
    asked = spec.resources
    shared = int(asked.get("shared_memory") or 0)  # a memory volume counts as the container's own memory
    inputs = sum(given.size for given in spec.inputs.values())
    out = {
        "cpu": f"{max(1, math.ceil(float(asked.get('cpu') or 1) * 1000))}m",
        "memory": str(int(asked.get("memory") or 2 * 2**30) + shared + WATCH_MEMORY),
        "ephemeral-storage": str(int(asked.get("disk") or 10 * 2**30) + inputs + WATCH_DISK),
    }
    if gpus := int(asked.get("gpu") or 0):
        out[gpu_resource(asked, pod)] = str(gpus)
    return out


def gpu_resource(asked: Mapping[str, Any], pod: Pod) -> str:
    """What a cluster calls the GPU asked for: ``nvidia.com/gpu``, or ``nvidia.com/mig-1g.10gb`` for a slice."""
    vendor = pod.gpu_resource.rpartition("/")[0]
    return f"{vendor}/mig-{asked['mig']}" if asked.get("mig") else pod.gpu_resource


def _labels(spec: RunSpec, pod: Pod, place: Place) -> dict[str, str]:
    out = {
        **pod.labels,
        **naming.COMMON,
        naming.MODEL: naming.label_value(spec.model),
        naming.RUN: naming.label_value(spec.run_id),
        naming.ATTEMPT: str(place.attempt),
    }
    if spec.correlation_id:
        out[naming.CORRELATION_ID] = naming.label_value(spec.correlation_id)
    if pod.cost_centre:
        out[naming.COST_CENTRE] = pod.cost_centre
    return out | queued(pod)


def queued(pod: Pod) -> dict[str, str]:
    """Labels by which Kueue holds back what has them until there is room; none without a queue."""
    found = {naming.QUEUE: pod.queue, naming.QUEUE_PRIORITY: pod.queue_priority}
    return {key: value for key, value in found.items() if value is not None}


def _annotations(spec: RunSpec, pod: Pod, place: Place) -> dict[str, str]:
    """What a label may have cut short stands here whole. No autoscaler moves a pod that is training."""
    out = {
        naming.TASK: _task(spec, place),
        naming.START_WITHIN: f"{pod.start_within.total_seconds():.0f}",
        "windtunnel.dev/run-id": spec.run_id,
        "windtunnel.dev/correlation-id": spec.correlation_id or "",
        "windtunnel.dev/cause": spec.cause or "",
        "windtunnel.dev/description": spec.description_digest or "",
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
        "kubectl.kubernetes.io/default-container": CONTAINER,
    }
    return {**pod.annotations, **{key: value for key, value in out.items() if value}}


def _task(spec: RunSpec, place: Place) -> str:
    """Whose it is, as ``orphans.task_of`` reads it; empty where the run does not say."""
    if not place.airflow or "task_id" not in spec.context:
        return ""
    names = {"dag": "dag_id", "run": "dag_run_id", "task": "task_id", "index": "map_index"}
    said = {short: str(spec.context.get(name, "-1")) for short, name in names.items()}
    return json.dumps({"airflow": place.airflow, **said}, sort_keys=True)


def _pod_security(pod: Pod) -> dict[str, Any]:
    out: dict[str, Any] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    if pod.user is not None:
        out["runAsUser"] = pod.user
    if pod.group is not None:
        # OnRootMismatch: changing the owner of every file of a large claim can take longer than the training.
        out |= {"runAsGroup": pod.group, "fsGroup": pod.group, "fsGroupChangePolicy": "OnRootMismatch"}
    return out


def _container(spec: RunSpec, pod: Pod, place: Place) -> dict[str, Any]:
    limits = resources(spec, pod)
    out: dict[str, Any] = {
        "name": CONTAINER,
        "image": pod.image,
        "command": list(place.command),
        "env": _variables(spec, pod, place),
        "resources": {"requests": dict(limits), "limits": limits},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": _mounts(spec, pod, place),
        "workingDir": HOME,
    }
    if pod.pull is not None:
        out["imagePullPolicy"] = pod.pull
    if pod.secrets_from:
        out["envFrom"] = [{"secretRef": {"name": name}} for name in pod.secrets_from]
    return out


def _variables(spec: RunSpec, pod: Pod, place: Place) -> list[dict[str, Any]]:
    """The contract of the environment; ours win over the place's.

    The description's own variables are not here: the runner gives them to the user's process, as it does locally.
    """
    plain = {
        **place.variables,
        **{variable: f"{_AUTHORITIES}/{name}/ca.crt" for variable, name in place.authorities.items()},
        "HOME": "/tmp",
        "TMPDIR": "/tmp",
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",  # the root is read-only
        "WINDTUNNEL_ATTEMPT": str(place.attempt),
        "WINDTUNNEL_CAUSE": spec.cause or "",
        "WINDTUNNEL_CORRELATION_ID": spec.correlation_id or "",
        "WINDTUNNEL_HOME": HOME,
        "WINDTUNNEL_IMAGE": str(pod.image),
        "WINDTUNNEL_MODEL": spec.model,
        "WINDTUNNEL_RUN_ID": spec.run_id,
        "WINDTUNNEL_SEED": str(spec.seed),
    }
    if spec.tracking_uri:
        plain |= {"MLFLOW_TRACKING_URI": spec.tracking_uri, "MLFLOW_RUN_ID": spec.run_id}
    out: list[dict[str, Any]] = [{"name": name, "value": plain[name]} for name in sorted(plain)]
    fields = {
        "WINDTUNNEL_NODE": "spec.nodeName",
        "WINDTUNNEL_POD": "metadata.name",
        "WINDTUNNEL_POD_NAMESPACE": "metadata.namespace",
        "WINDTUNNEL_POD_UID": "metadata.uid",
    }
    out += [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()]
    secrets = {**place.secrets, **pod.secrets}
    for name in sorted(secrets):
        secret, _, key = secrets[name].partition("/")
        out.append({"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}})
    clash = sorted(secrets.keys() & (plain.keys() | fields.keys()))
    if clash:
        raise DescriptionError(
            f"model {spec.model}: training.pod.secrets sets {', '.join(clash)}, which the run sets itself",
            hint="leave these variables out",
        )
    return out


def _volumes(spec: RunSpec, pod: Pod, place: Place) -> list[dict[str, Any]]:
    limits = resources(spec, pod)
    out: list[dict[str, Any]] = [
        {"name": "windtunnel", "emptyDir": {"sizeLimit": limits["ephemeral-storage"]}},
        {"name": "tmp", "emptyDir": {"sizeLimit": limits["ephemeral-storage"]}},
    ]
    if shared := spec.resources.get("shared_memory"):
        out.append({"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(shared)}})
    for at, volume in enumerate(pod.volumes):
        name = f"volume-{at}"
        if volume.claim is not None:
            source: dict[str, Any] = {
                "persistentVolumeClaim": {"claimName": volume.claim, "readOnly": volume.read_only}
            }
        elif volume.secret is not None:
            source = {"secret": {"secretName": volume.secret}}
        else:
            source = {"configMap": {"name": volume.config_map}}
        out.append({"name": name, **source})
    only = [{"key": "ca.crt", "path": "ca.crt"}]  # the Secret may be a server's own, with its key
    for at, name in enumerate(sorted(set(place.authorities.values()))):
        out.append({"name": f"authority-{at}", "secret": {"secretName": name, "items": only}})
    return out


def _mounts(spec: RunSpec, pod: Pod, place: Place) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = [
        {"name": "windtunnel", "mountPath": HOME},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    if spec.resources.get("shared_memory"):
        out.append({"name": "shm", "mountPath": "/dev/shm"})
    for at, volume in enumerate(pod.volumes):
        mount: dict[str, Any] = {"name": f"volume-{at}", "mountPath": volume.path, "readOnly": volume.read_only}
        if volume.below is not None:
            mount["subPath"] = volume.below
        out.append(mount)
    for at, name in enumerate(sorted(set(place.authorities.values()))):
        out.append({"name": f"authority-{at}", "mountPath": f"{_AUTHORITIES}/{name}", "readOnly": True})
    return out


def _where(spec: RunSpec, pod: Pod) -> dict[str, Any]:
    """Node selector, affinity and tolerations, with those that GPU type and spot stand for."""
    selector = dict(pod.node_selector)
    tolerations = [_toleration(given) for given in pod.tolerations]
    if spec.resources.get("gpu_type"):
        selector[pod.gpu_label] = str(spec.resources["gpu_type"])
    if int(spec.resources.get("gpu") or 0):
        # Platforms taint GPU nodes by the resource's name, also where the pod asks for a slice of one.
        tolerations.append({"key": pod.gpu_resource, "operator": "Exists", "effect": "NoSchedule"})
    if pod.spot is not None:
        label, value, tainted = _SPOT[pod.spot]
        selector[label] = value
        if tainted:
            tolerations.append({"key": label, "operator": "Equal", "value": value, "effect": "NoSchedule"})
    out: dict[str, Any] = {"nodeSelector": selector, "affinity": dict(pod.affinity), "tolerations": tolerations}
    return {key: value for key, value in out.items() if value}


def _toleration(given: Toleration) -> dict[str, Any]:
    out: dict[str, Any] = {"key": given.key, "operator": given.operator, "value": given.value, "effect": given.effect}
    if given.within is not None:
        out["tolerationSeconds"] = int(given.within.total_seconds())
    return {key: value for key, value in out.items() if value is not None}
