"""The pod a model trains in: what a cluster must know beyond ``training.resources``.

Secrets stand here by reference only: a variable names a Secret and a key, never a value.
"""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from windtunnel.spec.base import Duration, Part

#: Rules of Kubernetes for names of objects, labels and variables (RFC 1123; API conventions "Labels and Selectors").
_OBJECT = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*")
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_WORD = re.compile(r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,255}")
_SECRET_KEY = re.compile(r"[A-Za-z0-9._-]{1,253}")
#: Profiles of MIG's slices, as NVIDIA's device plugin names them.
MIG = r"^[1-9][0-9]?g\.[1-9][0-9]{0,2}gb(\.me)?$"

#: Labels and annotations below these are ours, or the platform's: a description cannot set them.
RESERVED = ("windtunnel.dev", "app.kubernetes.io", "kubernetes.io", "k8s.io")
#: Where the run keeps its own things; nothing else is mounted there.
TAKEN = ("/windtunnel", "/tmp", "/dev/shm", "/proc", "/sys", "/dev")
_AFFINITIES = ("nodeAffinity", "podAffinity", "podAntiAffinity")


def _object(value: str, what: str) -> str:
    if len(value) > 253 or not _OBJECT.fullmatch(value):
        raise ValueError(f"expected the name of a {what}: a-z, 0-9, '-' and '.', found {value!r}")
    return value


def _key(key: str) -> str:
    prefix, slash, name = key.rpartition("/")
    if not name or not _WORD.fullmatch(name) or (slash and not _OBJECT.fullmatch(prefix)):
        raise ValueError(f"expected a label's key such as 'team' or 'example.com/team', found {key!r}")
    return key


def _labels(values: dict[str, str], *, own: bool) -> dict[str, str]:
    for key, value in values.items():
        _key(key)
        if own and _reserved(key):
            raise ValueError(
                f"{key!r} is not for descriptions: keys below {', '.join(RESERVED)} are set by the platform"
            )
        if not _WORD.fullmatch(value):
            raise ValueError(
                f"label {key!r}: expected at most 63 of letters, digits, '-', '_' and '.', with a letter or digit at "
                f"both ends, found {value!r}"
            )
    return values


def _reserved(key: str) -> bool:
    prefix = key.rpartition("/")[0]
    return any(prefix == word or prefix.endswith(f".{word}") for word in RESERVED)


#: The key of a label, and labels that a node must have.
Key = Annotated[str, AfterValidator(_key)]
Selector = Annotated[dict[str, str], AfterValidator(lambda value: _labels(value, own=False))]


class Toleration(Part):
    """A taint the pod may stand, as Kubernetes has it.

    Attributes:
        key: the taint's key; null with operator ``Exists`` is every taint.
        operator: ``Equal`` compares ``value``, ``Exists`` does not.
        value: the taint's value.
        effect: ``NoSchedule``, ``PreferNoSchedule`` or ``NoExecute``; null is all of them.
        within: with ``NoExecute``, for how long the pod stays; null is for ever.
    """

    key: str | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    within: Duration | None = None

    @model_validator(mode="after")
    def _fits(self) -> Toleration:
        if self.key is not None:
            _key(self.key)
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("operator Exists compares no value: leave value out, or write operator: Equal")
        if self.operator == "Equal" and self.key is None:
            raise ValueError("operator Equal needs key; operator: Exists without a key stands every taint")
        if self.within is not None and self.effect != "NoExecute":
            raise ValueError(f"within counts for effect NoExecute only, found {self.effect}")
        return self

    def to_kubernetes(self) -> dict[str, Any]:
        """As a pod's manifest has it."""
        out: dict[str, Any] = {"key": self.key, "operator": self.operator, "value": self.value, "effect": self.effect}
        if self.within is not None:
            out["tolerationSeconds"] = int(self.within.total_seconds())
        return {key: value for key, value in out.items() if value is not None}


def gpu_resource(usual: str, mig: str | None) -> str:
    """What a cluster calls the GPU asked for: ``usual`` (``nvidia.com/gpu``), or ``nvidia.com/mig-1g.10gb`` for a
    slice."""
    return f"{usual.rpartition('/')[0]}/mig-{mig}" if mig else usual


class ServerPod(Part):
    """Where the pods of a model's servers run; used where the model is served on Kubernetes.

    Attributes:
        node_selector: labels a node must have.
        tolerations: taints the pods may stand.
        runtime_class: name of a RuntimeClass, e.g. ``nvidia``.
        gpu_label: label of a node that names its GPU; ``serving.gpu_type`` is its value.
        gpu_resource: what a cluster calls a GPU; a MIG profile replaces the part after '/'.
    """

    node_selector: Selector = Field(default_factory=dict)
    tolerations: list[Toleration] = Field(default_factory=list)
    runtime_class: str | None = None
    gpu_label: Key = "nvidia.com/gpu.product"
    gpu_resource: Key = "nvidia.com/gpu"

    @field_validator("runtime_class")
    @classmethod
    def _runtime(cls, value: str | None) -> str | None:
        return value if value is None else _object(value, "Kubernetes object")


class Volume(Part):
    """Something of the cluster's, mounted into the pod.

    Attributes:
        path: where it is seen in the pod, an absolute path.
        claim: name of a PersistentVolumeClaim.
        secret: name of a Secret; one file per key.
        config_map: name of a ConfigMap; one file per key.
        read_only: nothing is written to it; secrets and config maps are always read-only.
        below: folder of it that is mounted instead of all of it.
    """

    path: str
    claim: str | None = None
    secret: str | None = None
    config_map: str | None = None
    read_only: bool = True
    below: str | None = None

    @model_validator(mode="after")
    def _fits(self) -> Volume:
        given = {"claim": self.claim, "secret": self.secret, "config_map": self.config_map}
        named = [key for key, value in given.items() if value is not None]
        if len(named) != 1:
            raise ValueError(f"expected one of claim, secret and config_map, found {', '.join(named) or 'none'}")
        _object(str(given[named[0]]), named[0])
        parts = self.path.split("/")
        if not self.path.startswith("/") or ".." in parts or ":" in self.path or self.path.rstrip("/") == "":
            raise ValueError(f"expected an absolute path below '/', found {self.path!r}")
        if any(self.path == taken or self.path.startswith(f"{taken}/") for taken in TAKEN):
            raise ValueError(f"{self.path!r} is taken: {', '.join(TAKEN)} belong to the run and the system")
        if self.below is not None and (self.below.startswith("/") or ".." in self.below.split("/")):
            raise ValueError(f"below: expected a path relative to the volume, found {self.below!r}")
        if self.claim is None and not self.read_only:
            raise ValueError("secrets and config maps are mounted read-only: leave read_only out")
        return self


class TrainJob(Part):
    """Kubeflow Trainer makes the nodes of a training, by a runtime that somebody keeps in the cluster.

    Attributes:
        runtime: name of the runtime; its policy is ``torch``.
        scope: ``cluster``, a ClusterTrainingRuntime; ``namespace``, a TrainingRuntime beside the pods.
    """

    runtime: str
    scope: Literal["cluster", "namespace"] = "cluster"

    @field_validator("runtime")
    @classmethod
    def _runtime(cls, value: str) -> str:
        return _object(value, "training runtime")


class Pod(Part):
    """The training pod; used where the model trains on Kubernetes.

    Attributes:
        image: the container image with the training code and its packages, best with a digest (``name@sha256:...``).
        pull: when the image is pulled; null is the cluster's own rule.
        pull_secrets: names of Secrets for a private registry.
        namespace: where the pod runs; the Airflow connection's unless told.
        service_account: for what the cluster grants, such as a cloud role for the object store; no token is mounted.
        priority_class: name of a PriorityClass.
        runtime_class: name of a RuntimeClass, e.g. ``nvidia``.
        node_selector: labels a node must have.
        affinity: nodeAffinity, podAffinity and podAntiAffinity, as Kubernetes has them.
        tolerations: taints the pod may stand.
        spot: run on nodes that may be taken away, by the labels of ``eks``, ``karpenter``, ``gke`` or ``aks``; others
            by node_selector and tolerations.
        gpu_label: label of a node that names its GPU; ``resources.gpu_type`` is its value.
        gpu_resource: what a cluster calls a GPU; a MIG profile replaces the part after '/'.
        volumes: claims, secrets and config maps to mount.
        secrets: variable -> ``SECRET/KEY``, e.g. ``MLFLOW_TRACKING_TOKEN: mlflow/token``.
        secrets_from: Secrets whose keys all become variables.
        queue: name of a Kueue LocalQueue that admits the training; ``start_within`` counts from then.
        queue_priority: name of a Kueue WorkloadPriorityClass, where there is a queue.
        trainjob: several nodes are a TrainJob of Kubeflow Trainer; a JobSet of our own unless told.
        labels, annotations: on the pod, beside ours.
        cost_centre: label ``windtunnel.dev/cost-centre``, for whoever adds up the bill.
        user, group: numeric ids; the image's own user unless told, never root; group also owns claims.
        start_within: a pod that does not run by then (no node, no image) is given up.
        checkpoint_every: how often what lies in ``run.checkpoint`` goes to the object store; a pod that is taken away
            loses at most this much.
    """

    image: str | None = None
    pull: Literal["Always", "IfNotPresent", "Never"] | None = None
    pull_secrets: list[str] = Field(default_factory=list)
    namespace: str | None = None
    service_account: str | None = None
    priority_class: str | None = None
    runtime_class: str | None = None
    node_selector: Selector = Field(default_factory=dict)
    affinity: dict[str, Any] = Field(default_factory=dict)
    tolerations: list[Toleration] = Field(default_factory=list)
    spot: Literal["eks", "karpenter", "gke", "aks"] | None = None
    gpu_label: Key = "nvidia.com/gpu.product"
    gpu_resource: Key = "nvidia.com/gpu"
    volumes: list[Volume] = Field(default_factory=list)
    secrets: dict[str, str] = Field(default_factory=dict)
    secrets_from: list[str] = Field(default_factory=list)
    queue: str | None = None
    queue_priority: str | None = None
    trainjob: TrainJob | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    cost_centre: str | None = None
    user: int | None = Field(None, ge=1)
    group: int | None = Field(None, ge=1)
    start_within: Duration = timedelta(minutes=10)
    checkpoint_every: Duration = timedelta(minutes=10)

    @field_validator("image")
    @classmethod
    def _image(cls, value: str | None) -> str | None:
        if value is not None and (not value or re.search(r"\s", value) or "://" in value):
            raise ValueError(
                f"expected an image such as 'registry.example.com/team/trainer@sha256:...', found {value!r}"
            )
        return value

    @field_validator("namespace")
    @classmethod
    def _namespace(cls, value: str | None) -> str | None:
        if value is not None and not _NAMESPACE.fullmatch(value):
            raise ValueError(f"expected a namespace: at most 63 of a-z, 0-9 and '-', found {value!r}")
        return value

    @field_validator("service_account", "priority_class", "runtime_class", "queue", "queue_priority")
    @classmethod
    def _objects(cls, value: str | None) -> str | None:
        return value if value is None else _object(value, "Kubernetes object")

    @field_validator("pull_secrets", "secrets_from")
    @classmethod
    def _secret_names(cls, value: list[str]) -> list[str]:
        return [_object(name, "Secret") for name in value]

    @field_validator("labels")
    @classmethod
    def _own_labels(cls, value: dict[str, str]) -> dict[str, str]:
        return _labels(value, own=True)

    @field_validator("annotations")
    @classmethod
    def _annotations(cls, value: dict[str, str]) -> dict[str, str]:
        for key in value:
            if _reserved(_key(key)):
                raise ValueError(
                    f"{key!r} is not for descriptions: keys below {', '.join(RESERVED)} are set by the platform"
                )
        return value

    @field_validator("cost_centre")
    @classmethod
    def _cost_centre(cls, value: str | None) -> str | None:
        if value is not None:
            _labels({"cost-centre": value}, own=False)
        return value

    @field_validator("affinity")
    @classmethod
    def _affinity(cls, value: dict[str, Any]) -> dict[str, Any]:
        for key, inner in value.items():
            if key not in _AFFINITIES:
                raise ValueError(f"unknown key {key!r}; expected {', '.join(_AFFINITIES)}")
            if not isinstance(inner, dict):
                raise ValueError(f"{key}: expected keys with values, found {type(inner).__name__}")
        return value

    @field_validator("secrets")
    @classmethod
    def _secrets(cls, value: dict[str, str]) -> dict[str, str]:
        for variable, reference in value.items():
            if not _VARIABLE.fullmatch(variable) or variable.startswith("WINDTUNNEL_"):
                raise ValueError(f"expected a variable other than WINDTUNNEL_*, found {variable!r}")
            secret, slash, key = reference.partition("/")
            if not slash or not _OBJECT.fullmatch(secret) or not _SECRET_KEY.fullmatch(key):
                # The value is not repeated: it may be the secret itself.
                raise ValueError(f"{variable}: expected 'SECRET/KEY', the name of a Secret and one of its keys")
        return value

    @model_validator(mode="after")
    def _queued(self) -> Pod:
        if self.queue_priority is not None and self.queue is None:
            raise ValueError("queue_priority counts in a queue: name one in queue, or leave it out")
        return self

    @model_validator(mode="after")
    def _paths(self) -> Pod:
        seen: set[str] = set()
        for volume in self.volumes:
            path = volume.path.rstrip("/")
            if path in seen:
                raise ValueError(f"two volumes are mounted at {path!r}")
            seen.add(path)
        return self
