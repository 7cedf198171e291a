"""From the desired state of a model to its SeldonDeployment. Pure: plain dicts in, plain dicts out.

Field names: ``operator/apis/machinelearning.seldon.io/v1`` of Seldon Core 1. ``spec.predictors`` is one field to the
API: whoever applies it owns the whole list. So it is made from the live list, and what others put into our predictors
(explainers, annotations, containers of their own) goes back as it was found.

What Seldon's operator does with it decides the shape (decision 0016):

- weights of all predictors that are no shadow must sum to 100, unless there is only one, which has everything. So a
  model that nothing may serve has predictors without replicas;
- behind Istio it changes routes only while every predictor's pods are available. So what is taken to 0 is removed;
- behind Ambassador the first predictor has what the others leave. So the champion comes first.
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from windtunnel.errors import ServingError
from windtunnel.kube.kinds import SELDON_DEPLOYMENT
from windtunnel.serving.backend import Capability, Release
from windtunnel.serving.desired import Server, State
from windtunnel.serving.seldon import collecting, contested, record, scaling
from windtunnel.serving.seldon.settings import Seldon
from windtunnel.spec.pod import ServerPod, gpu_resource
from windtunnel.spec.serving import Serving

#: What SeldonDeployment can do beyond weights of two arms. Not by header, not by segment, not by a user's key: its
#: routes know weights and copies only.
CAPABILITIES: frozenset[Capability] = frozenset({"mirror", "several"})

HTTP, GRPC, METRICS = 9000, 9500, 6000
MODELS, KEYS = "/mnt/windtunnel", "/etc/windtunnel/keys"
_CA = "/etc/windtunnel/registry-ca"
#: Name of the pods' one component, so that names of what the operator makes stay short.
COMPONENT = "server"
VERIFY = "verify"
#: Beside ``serving.memory``, so that a server says that it went past its limit before the kernel ends it.
_ROOM = 256 * 2**20
#: How the names of our variables, volumes and mounts begin.
_PREFIXES = ("WINDTUNNEL_", "windtunnel-")
_DNS = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")


def predictor_name(version: str) -> str:
    """``v3``."""
    return f"v{version}"


def deployment_name(model: str, version: str) -> str:
    """What the operator calls the Deployment of a version: its status is told under this name."""
    name = f"{model}-{predictor_name(version)}-0-{COMPONENT}"
    return name if len(name) <= 63 else f"seldon-{hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()}"


def service_name(model: str, version: str) -> str:
    """What the operator calls the Service of a predictor."""
    name = f"{model}-{predictor_name(version)}"
    return name if len(name) <= 63 else f"seldon-{hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()}"


def check(release: Release, seldon: Seldon | None = None) -> None:
    """Refuse what a SeldonDeployment cannot do, or cannot be called; with settings, also what they cannot do.

    Raises:
        ServingError: it says which.
    """
    model = release.model
    if not _DNS.fullmatch(model):
        raise ServingError(f"{model!r} cannot name an object of Kubernetes", hint="a name may not end with '-'")
    for arm in release.arms():
        if not re.fullmatch(r"[a-z0-9]{1,20}", arm.version):
            raise ServingError(f"{model}: version {arm.version!r} cannot name a predictor", hint="expected e.g. '3'")
    able = {
        "audience": (release.audience, "send requests with a header to one version"),
        "segments": (release.segment_header, "count requests by a header's value"),
    }
    for asked, what in able.values():
        if asked:
            raise ServingError(
                f"{model}: a SeldonDeployment cannot {what}",
                hint="leave it out of the rollout, or serve this model on the local backend",
            )
    for version, found in release.settings.items():
        serving = found.get("serving") or {}
        if serving.get("sticky"):
            raise ServingError(
                f"{model} version {version}: a SeldonDeployment cannot keep users on one arm (serving.sticky)",
                hint="leave serving.sticky out",
            )
        if seldon is not None:
            seldon.image_of(serving.get("environment"))
        if seldon is not None and (refused := scaling.refusals(Serving.model_validate(serving), seldon)):
            raise ServingError(
                f"{model} version {version}: {'; '.join(refused)}", hint="see docs/reference/seldon.md, Autoscaling"
            )


def deployment(
    state: State,
    seldon: Seldon,
    live: Mapping[str, Any] | None,
    namespace: str,
    journal: Mapping[str, str] | None = None,
    *,
    keep: bool = False,
) -> dict[str, Any]:
    """The whole of what we say of the object, to be applied by server-side apply.

    Args:
        live: the object as it is; None when there is none. Predictors that others have put into it stay, without
            traffic: which version gets what is decided here alone.
        journal: its annotations of a release's looks and intent; as they are when None.
        keep: versions that are there stay as they were deployed but for their traffic, whatever ``seldon`` says.
    """
    model = state.model
    found = {one["name"]: one for one in ((live or {}).get("spec") or {}).get("predictors") or []}
    predictors = []
    for version in _order(state):
        there = found.get(predictor_name(version))
        if keep and there is not None and _stays(there, state, version):
            predictors.append({**copy.deepcopy(dict(there)), **_share(state, version)})
            continue
        ours = predictor(state, version, seldon, namespace)
        predictors.append(_merged(found.get(predictor_name(version)), ours))
        for component, mine in zip(predictors[-1]["componentSpecs"], ours["componentSpecs"], strict=False):
            scaling.only_ours(component, mine)
    if asleep(state):
        for component in (one for found in predictors for one in found["componentSpecs"]):
            component.pop("hpaSpec", None)  # an autoscaler, whoever set it, would wake what nobody may call
            component.pop("kedaSpec", None)
    scaling.bounded(predictors, () if asleep(state) else (server.serving for server in state.servers.values()))
    predictors += [_without_traffic(one) for one in found.values() if not _is_ours(one)]
    manifest: dict[str, Any] = {
        "apiVersion": SELDON_DEPLOYMENT.api_version,
        "kind": SELDON_DEPLOYMENT.name,
        "metadata": {
            "name": model,
            "namespace": namespace,
            "labels": labels(model, seldon, live if keep else None),
            "annotations": record.notes(state)
            | registry(seldon, live if keep else None)
            | (record.kept(live) if journal is None else dict(journal)),
        },
        "spec": {"protocol": "v2", "predictors": predictors},
    }
    contested.leave(manifest, live, contested.read(manifest["metadata"]["annotations"]))
    # Taken only while it is this object (an apply would make it anew where it was deleted), as it was read.
    for name in ("uid", "resourceVersion"):
        value = ((live or {}).get("metadata") or {}).get(name)
        if value is not None:
            manifest["metadata"][name] = value
    return manifest


def labels(model: str, seldon: Seldon, kept: Mapping[str, Any] | None) -> dict[str, str]:
    """Of the object. Those of ``kept`` stay: an operator may select by one that these settings do not know."""
    more = seldon.labels if kept is None else (kept["metadata"].get("labels") or {})
    return {**more, "app.kubernetes.io/managed-by": "windtunnel", record.MODEL: model}


def registry(seldon: Seldon, kept: Mapping[str, Any] | None) -> dict[str, str]:
    """Whose releases the object has; as ``kept`` says it where that is given."""
    said = seldon.registry if kept is None else record.registry_of(kept)
    return {record.REGISTRY: re.sub(r"//[^/@]*@", "//", said)} if said else {}


def asleep(state: State) -> bool:
    """Nothing may serve: then all predictors are without replicas."""
    return not state.slots and not any(state.wanted.values())


def weights(live: Mapping[str, Any]) -> dict[str, int]:
    """Percent by version as the object says; shadows and predictors without replicas have none, a lone one has all."""
    open_ = {version: one for version, one in _ours(live).items() if not one.get("shadow")}
    found = {version: int(one.get("traffic") or 0) for version, one in open_.items()}
    if len(found) == 1:
        found = dict.fromkeys(found, 100)
    return {version: weight for version, weight in found.items() if open_[version].get("replicas") != 0}


def mirrored(live: Mapping[str, Any]) -> int:
    """Percent of the requests that are copied, as the object says."""
    return max((int(one.get("traffic") or 0) for one in _ours(live).values() if one.get("shadow")), default=0)


def predictor(state: State, version: str, seldon: Seldon, namespace: str) -> dict[str, Any]:
    """One version: a graph of one model, served by MLServer from the copy that the first step has verified."""
    model, server = state.model, state.servers[version]
    serving = server.serving
    share = _share(state, version)
    spec = collecting.into(pod(state.model, version, server, seldon), seldon, shadow=share["shadow"])
    component: dict[str, Any] = {"metadata": {"name": COMPONENT}, "spec": spec}
    component |= scaling.settings(model, version, predictor_name(version), serving, seldon, namespace)
    graph: dict[str, Any] = {"name": model, "type": "MODEL", "modelUri": server.source, "children": []}
    logger = collecting.logger(seldon, shadow=share["shadow"])
    if logger is not None:
        graph["logger"] = logger
    return {
        "name": predictor_name(version),
        "labels": {**seldon.labels, record.MODEL: model, record.VERSION: version, "version": predictor_name(version)},
        "annotations": {record.DIGEST: server.digest},
        **share,
        "graph": graph,
        "componentSpecs": [component],
    }


def _share(state: State, version: str) -> dict[str, Any]:
    """What of a predictor follows from the state alone: who gets which requests."""
    shadow = _shadow(state)
    is_shadow = shadow is not None and shadow[0] == version and bool(state.slots)
    traffic = state.weights.get(version, 0)
    if is_shadow and shadow is not None:
        traffic = shadow[1]
    if not state.slots:  # one of several must have everything; where nothing may serve, it has no replicas
        traffic = 100 if version == _order(state)[0] else 0
    replicas = 0 if asleep(state) else state.servers[version].serving.replicas
    return {"replicas": replicas, "traffic": traffic, "shadow": is_shadow}


def _stays(there: Mapping[str, Any], state: State, version: str) -> bool:
    """Whether a predictor is this version's already, and need not be woken or told that it is a shadow no more."""
    digest = (there.get("annotations") or {}).get(record.DIGEST)
    share = _share(state, version)
    woken = share["replicas"] and there.get("replicas") == 0
    return digest == state.servers[version].digest and not woken and bool(there.get("shadow")) == share["shadow"]


def _shadow(state: State) -> tuple[str, int] | None:
    """The version that copies go to, and the percent, as last routed."""
    found = state.route.get("mirror")
    return (str(found[0]), int(found[1])) if found and found[0] in state.servers else None


def _order(state: State) -> list[str]:
    """Champion first, then candidates, then those that stay warm."""
    named = [arm.version for arm in state.release.arms()]
    first = max(state.weights, key=lambda version: state.weights[version], default=None)
    champion = [state.release.champion.version] if state.release.champion else []
    order = dict.fromkeys([*champion, *([first] if first else []), *named, *sorted(state.servers)])
    return [version for version in order if version in state.servers]


def pod(model: str, version: str, server: Server, seldon: Seldon) -> dict[str, Any]:
    """A version's pod: the first step that fetches and verifies, and the server of that copy."""
    serving = server.serving
    cpu, memory = f"{math.ceil(serving.cpu * 1000)}m", str(serving.memory + _ROOM)
    limits = {"memory": memory, "ephemeral-storage": _disk(serving)}
    where = serving.pod or ServerPod()
    if serving.gpu:
        limits[gpu_resource(where.gpu_resource, serving.mig)] = str(serving.gpu)
    threads = str(max(1, math.ceil(serving.cpu)))
    grace = math.ceil(serving.drain.total_seconds() + serving.timeout.total_seconds()) + 10
    ready = math.ceil(serving.ready_within.total_seconds())
    closed = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    mounts = [
        {"name": "windtunnel-model", "mountPath": MODELS},
        {"name": "windtunnel-keys", "mountPath": KEYS, "readOnly": True},
        {"name": "windtunnel-tmp", "mountPath": "/tmp"},
    ]
    credentials = [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": seldon.registry_secret, "key": key}}}
        for name, key in (("WINDTUNNEL_USERNAME", "username"), ("WINDTUNNEL_PASSWORD", "password"))
    ]
    asked = {
        "model": model,
        "version": version,
        "digest": server.digest,
        "source": server.source,
        "settings": {
            name: server.settings[name] for name in ("serving", "features", "warmup") if name in server.settings
        },
    }
    image = seldon.image_of(server.serving.environment)
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": grace,
        "initContainers": [
            {
                "name": VERIFY,
                "image": image,
                "command": ["python", "-m", "windtunnel.serving.seldon.initstep", MODELS],
                "env": [
                    {"name": "WINDTUNNEL_VERSION", "value": json.dumps(asked, sort_keys=True, separators=(",", ":"))},
                    {"name": "WINDTUNNEL_REGISTRY_URL", "value": seldon.registry},
                    {"name": "WINDTUNNEL_KEYS", "value": KEYS},
                    *credentials,
                ],
                "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "256Mi"}},
                "securityContext": closed,
                "volumeMounts": mounts,
            }
        ],
        "containers": [
            {
                "name": model,
                "image": image,
                "command": ["python", "-m", "windtunnel.serving.modelserver.launch", MODELS],
                "env": [
                    {"name": "WINDTUNNEL_KEYS", "value": KEYS},
                    {"name": "HOME", "value": "/tmp"},
                    {"name": "MLFLOW_TRACKING_URI", "value": "file:///nonexistent"},
                    {"name": "MLFLOW_DISABLE_TELEMETRY", "value": "true"},
                    {"name": "OMP_NUM_THREADS", "value": threads},
                    {"name": "OPENBLAS_NUM_THREADS", "value": threads},
                    {"name": "MALLOC_ARENA_MAX", "value": "2"},
                    {"name": "PYTHONUNBUFFERED", "value": "1"},
                ],
                "ports": [
                    {"name": "http", "containerPort": HTTP, "protocol": "TCP"},
                    {"name": "grpc", "containerPort": GRPC, "protocol": "TCP"},
                    {"name": "metrics", "containerPort": METRICS, "protocol": "TCP"},
                ],
                "resources": {"requests": {"cpu": cpu, "memory": memory}, "limits": limits},
                "readinessProbe": {
                    "httpGet": {"path": f"/v2/models/{model}/ready", "port": "http"},
                    "periodSeconds": 2,
                    "timeoutSeconds": 2,
                    "failureThreshold": 3,
                },
                "livenessProbe": {
                    "httpGet": {"path": "/v2/health/live", "port": "http"},
                    "initialDelaySeconds": ready,
                    "periodSeconds": 10,
                    "timeoutSeconds": 5,
                    "failureThreshold": 6,
                },
                # The router lets go of the pod before the pod lets go of its requests.
                "lifecycle": {"preStop": {"exec": {"command": ["python", "-c", "import time; time.sleep(5)"]}}},
                "securityContext": closed,
                "volumeMounts": mounts,
            }
        ],
        "volumes": [
            {"name": "windtunnel-model", "emptyDir": {}},
            {"name": "windtunnel-tmp", "emptyDir": {}},
            {"name": "windtunnel-keys", "configMap": {"name": seldon.keys}},
        ],
    }
    pod |= _placed(serving, where)
    if seldon.registry_ca:
        first = pod["initContainers"][0]
        first["env"].append({"name": "SSL_CERT_FILE", "value": f"{_CA}/ca.crt"})
        first["volumeMounts"] = [*mounts, {"name": "windtunnel-ca", "mountPath": _CA, "readOnly": True}]
        authority = {"secretName": seldon.registry_ca, "items": [{"key": "ca.crt", "path": "ca.crt"}]}
        pod["volumes"].append({"name": "windtunnel-ca", "secret": authority})
    if seldon.service_account:
        pod["serviceAccountName"] = seldon.service_account
    if seldon.pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in seldon.pull_secrets]
    return pod


def _placed(serving: Serving, where: ServerPod) -> dict[str, Any]:
    """Which nodes the pod may run on; what nothing is said of is left out."""
    selector, tolerations = dict(where.node_selector), [one.to_kubernetes() for one in where.tolerations]
    if serving.gpu_type:
        selector[where.gpu_label] = serving.gpu_type
    if serving.gpu:
        # Nodes with GPUs are mostly kept for whoever asks for one, by the resource's name, slices included.
        tolerations.append({"key": where.gpu_resource, "operator": "Exists", "effect": "NoSchedule"})
    found = {"nodeSelector": selector, "tolerations": tolerations, "runtimeClassName": where.runtime_class}
    return {key: value for key, value in found.items() if value}


def _disk(serving: Serving) -> str:
    """Whole GiB are written as such: another way to write the same would start pods anew."""
    whole, rest = divmod(serving.disk, 2**30)
    return str(serving.disk) if rest else f"{whole}Gi"


def _is_ours(one: Mapping[str, Any]) -> bool:
    return record.VERSION in (one.get("labels") or {})


def _ours(live: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    predictors = (live.get("spec") or {}).get("predictors") or []
    return {one["labels"][record.VERSION]: one for one in predictors if _is_ours(one)}


def _without_traffic(one: Mapping[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(dict(one)) if one.get("shadow") else {**copy.deepcopy(dict(one)), "traffic": 0}


def _merged(live: Any, ours: Any) -> Any:
    """``ours``, and beside it what others have put there: keys we do not name, items of lists by their ``name``."""
    if isinstance(live, Mapping) and isinstance(ours, Mapping):
        both = {name: copy.deepcopy(value) for name, value in live.items() if name not in ours}
        return both | {name: _merged(live.get(name), value) for name, value in ours.items()}
    if _tolerations(live) and _tolerations(ours):
        return copy.deepcopy([*ours, *(one for one in live if one not in ours)])
    if _named(live) and _named(ours):
        theirs = {item["name"]: item for item in live}
        merged = [_merged(theirs.get(item["name"]), item) for item in ours]
        names = {item["name"] for item in ours}
        # A variable, volume or mount of ours that we name no longer is no one else's: a version that was a shadow
        # would go on telling the collector that all its requests are copies.
        rest = [one for one in live if one["name"] not in names and not one["name"].startswith(_PREFIXES)]
        return merged + [copy.deepcopy(item) for item in rest]
    if isinstance(live, list) and isinstance(ours, list) and len(live) == len(ours) == 1:
        return [_merged(live[0], ours[0])]
    return copy.deepcopy(ours)


def _tolerations(items: Any) -> bool:
    """Of the lists in our predictors only tolerations have an effect and no name."""
    return isinstance(items, list) and any(isinstance(item, Mapping) and "effect" in item for item in items)


def _named(items: Any) -> bool:
    return (
        isinstance(items, list) and bool(items) and all(isinstance(item, Mapping) and "name" in item for item in items)
    )
