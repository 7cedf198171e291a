"""From the desired state of a model to its Experiment, and a Model and a Server per version. Pure: plain dicts.

Field names: ``operator/apis/mlops/v1alpha1`` of Seldon Core 2. What its operator, scheduler and agent do with them
decides the shape (decision 0019):

- an Experiment's route is made anew from its candidates in their order, and stops at the first one that no replica
  serves: what is before it has everything. So the champion comes first, and what has no traffic is not in it;
- weights that sum to nothing would be refused by Envoy, with all routes of everybody. So a model that nothing may
  serve has a candidate that does not exist, and no Models;
- the agent copies what ``storageUri`` names and verifies nothing. So that is a folder of the pod's own, with the
  settings that lead to the copy which the pod's first step has verified;
- a Server's containers are merged with its ServerConfig's by their names, lists appended.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from windtunnel.errors import ServingError
from windtunnel.serving.backend import Capability, Release
from windtunnel.serving.core2.kinds import EXPERIMENT, MODEL, SERVER
from windtunnel.serving.core2.settings import Core2
from windtunnel.serving.desired import Server, State
from windtunnel.serving.seldon import collecting, record
from windtunnel.serving.seldon import manifest as core1

#: What an Experiment can do beyond weights of two arms. Header ``seldon-model`` names a Model, but no header of the
#: caller's own does, and nothing is counted by one; its sticky route is by a header that answers carry, not by a key.
CAPABILITIES: frozenset[Capability] = frozenset({"mirror", "several"})

#: Where a pod's own copy lies, and in it what the agent takes for a model repository.
REPOSITORY = f"{core1.MODELS}/mlserver"
#: Tells the mesh what a request is for.
HEADER = "seldon-model"
#: Fields of a pod that a Server's has as they are: its operator lays them over the ServerConfig's (``MergePodSpecs``),
#: tolerations after those that stand there.
_WHOLE = ("serviceAccountName", "imagePullSecrets", "nodeSelector", "tolerations", "runtimeClassName")
#: Names of pods, services and revisions of a Server are longer than its own, and end at 63 characters.
_LONGEST = 50


def capabilities(seldon: Core2) -> frozenset[Capability]:
    """What releases by these settings may ask for. Rows of copies would look like users' own: the mesh sends both under
    the Experiment's name, and a Server's pods would have to start anew to be told which they get."""
    return CAPABILITIES - {"mirror"} if seldon.collector is not None else CAPABILITIES


def name_of(model: str, version: str) -> str:
    """What a version's Model and Server are called: ``visits-v3``."""
    return f"{model}-v{version}"


def route(model: str) -> dict[str, str]:
    """Headers that lead a request to the model's Experiment. Its path is that of any model of this name: the agent
    cannot rewrite a path with ``.experiment`` in it."""
    return {HEADER: f"{model}.experiment"}


def check(release: Release, seldon: Core2, *, deploys: bool = True) -> None:
    """Refuse what Core 2 cannot do, by these settings, or cannot be called.

    Args:
        deploys: servers may be made by these settings, so that they must name their images.

    Raises:
        ServingError: it says which.
    """
    model = release.model
    if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", model):
        raise ServingError(f"{model!r} cannot name an object of Kubernetes", hint="begin with a letter, end without -")
    for arm in release.arms():
        if not re.fullmatch(r"[a-z0-9]{1,20}", arm.version):
            raise ServingError(f"{model}: version {arm.version!r} cannot name a Model", hint="expected e.g. '3'")
        if len(name_of(model, arm.version)) > _LONGEST:
            raise ServingError(
                f"{model}: the Server of version {arm.version} would be called {name_of(model, arm.version)}",
                hint=f"names of Servers may have {_LONGEST} characters: give the model a shorter name",
            )
    if release.audience:
        raise ServingError(
            f"{model}: an Experiment cannot send requests with header {release.audience[0]} to one version",
            hint=f"leave it out of the rollout: testers may send {HEADER}: {name_of(model, 'VERSION')}",
        )
    if release.mirror and "mirror" not in capabilities(seldon):
        raise ServingError(
            f"{model}: on Core 2 a collector cannot tell rows of copied requests from users' own",
            hint="leave copies (mirror) out of the rollout, or collector out of the settings",
        )
    if release.segment_header:
        raise ServingError(
            f"{model}: Core 2 cannot count requests by a header's value",
            hint="leave it out of the rollout, or serve this model on the local backend",
        )
    for version, found in release.settings.items():
        serving = found.get("serving") or {}
        if serving.get("sticky"):
            raise ServingError(
                f"{model} version {version}: an Experiment cannot keep users on one arm by a key (serving.sticky)",
                hint="leave serving.sticky out",
            )
        if serving.get("scale"):
            raise ServingError(
                f"{model} version {version}: Core 2 scales by requests that wait, and by nothing else (serving.scale)",
                hint="leave serving.scale out; serving.minimum and serving.maximum are the bounds",
            )
        if deploys:
            seldon.image_of(serving.get("environment"))


def experiment(
    state: State,
    seldon: Core2,
    live: Mapping[str, Any] | None,
    namespace: str,
    journal: Mapping[str, str] | None = None,
    *,
    keep: bool = False,
) -> dict[str, Any]:
    """The whole of what we say of the Experiment, to be applied by server-side apply.

    Args:
        live: the object as it is; None when there is none.
        journal: its annotations of a release's looks and intent; as they are when None.
        keep: its labels stay, whatever ``seldon`` says.
    """
    model = state.model
    spec: dict[str, Any] = {"candidates": _candidates(state), "resourceType": "model"}
    copies = _copies(state)
    # What made an object owns its fields apart from what applies it later, and would keep them: so never at first.
    if copies is not None and live is not None:
        spec["mirror"] = copies
    made: dict[str, Any] = {
        "apiVersion": EXPERIMENT.api_version,
        "kind": EXPERIMENT.name,
        "metadata": {
            "name": model,
            "namespace": namespace,
            "labels": core1.labels(model, seldon, live if keep else None),
            "annotations": record.notes(state)
            | core1.registry(seldon, live if keep else None)
            | (record.kept(live) if journal is None else dict(journal)),
        },
        "spec": spec,
    }
    # Taken only while it is this object (an apply would make it anew where it was deleted), as it was read.
    for name in ("uid", "resourceVersion"):
        value = ((live or {}).get("metadata") or {}).get(name)
        if value is not None:
            made["metadata"][name] = value
    return made


def nothing(model: str) -> str:
    """The candidate of a model that nothing may serve; there is no Model of that name."""
    return f"{model}-nothing"


def weights(live: Mapping[str, Any]) -> dict[str, int]:
    """Percent by version as the Experiment says."""
    model, found = str(live["metadata"]["name"]), {}
    for one in (live.get("spec") or {}).get("candidates") or []:
        version = _version(model, str(one["name"]))
        if version is not None:
            found[version] = int(one["weight"])
    return found


def mirrored(live: Mapping[str, Any]) -> int:
    """Percent of the requests that are copied, as the Experiment says."""
    return int(((live.get("spec") or {}).get("mirror") or {}).get("percent") or 0)


def parts(state: State) -> dict[str, Server]:
    """By version, those that have a Model and a Server: none where nothing may serve."""
    return {} if core1.asleep(state) else dict(state.servers)


def model_of(state: State, version: str, seldon: Core2, owner: Mapping[str, Any]) -> dict[str, Any]:
    """The Model of one version: what its own Server has verified."""
    name, server = name_of(state.model, version), state.servers[version]
    spec: dict[str, Any] = {
        "storageUri": REPOSITORY,
        "requirements": [name],
        "server": name,
        "memory": str(server.serving.memory),
        **_scale(server),
    }
    return _object(MODEL.api_version, MODEL.name, state, version, seldon, owner, spec)


def server_of(state: State, version: str, seldon: Core2, owner: Mapping[str, Any]) -> dict[str, Any]:
    """The Server of one version: a first step that fetches and verifies, and a model server that loads that alone."""
    name, server = name_of(state.model, version), state.servers[version]
    pod = collecting.into(core1.pod(state.model, version, server, seldon), seldon, shadow=False)
    main = pod["containers"][0]
    ours: dict[str, Any] = {
        "name": seldon.server_container,
        "image": main["image"],
        "command": ["python", "-m", "windtunnel.serving.core2.launch", core1.MODELS],
        **{key: main[key] for key in ("env", "resources", "securityContext", "volumeMounts")},
    }
    copies = {"name": "windtunnel-model", "mountPath": core1.MODELS, "readOnly": True}
    spec: dict[str, Any] = {
        "serverConfig": seldon.server_config,
        "capabilities": [name],
        "statefulSetPersistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete", "whenScaled": "Delete"},
        "podSpec": {
            "initContainers": pod["initContainers"],
            "containers": [{"name": seldon.rclone_container, "volumeMounts": [copies]}, ours],
            "volumes": pod["volumes"],
            **{key: pod[key] for key in _WHOLE if key in pod},
        },
        **_scale(server),
    }
    return _object(SERVER.api_version, SERVER.name, state, version, seldon, owner, spec)


def says(live: Any, ours: Any) -> bool:
    """Whether ``live`` says all that ``ours`` does; what the API or others have added does not matter."""
    if isinstance(ours, Mapping):
        return isinstance(live, Mapping) and all(name in live and says(live[name], ours[name]) for name in ours)
    if isinstance(ours, list):
        return isinstance(live, list) and len(live) == len(ours) and all(map(says, live, ours))
    return bool(live == ours)


def _candidates(state: State) -> list[dict[str, Any]]:
    champion = state.release.champion.version if state.release.champion else None
    found = [version for version in state.weights if version in state.servers]
    order = sorted(found, key=lambda version: (version != champion, -state.weights[version], version))
    made = [{"name": name_of(state.model, version), "weight": state.weights[version]} for version in order]
    return made or [{"name": nothing(state.model), "weight": 100}]


def _copies(state: State) -> dict[str, Any] | None:
    """Where copies go and of how many percent of the requests, as last routed."""
    found = state.route.get("mirror")
    if not found or found[0] not in state.servers or not state.slots or found[0] in state.weights:
        return None
    return {"name": name_of(state.model, str(found[0])), "percent": int(found[1])}


def _scale(server: Server) -> dict[str, Any]:
    """Core 2's own scaler keeps ``replicas`` where there is a range."""
    serving = server.serving
    if serving.maximum is not None:
        return {"minReplicas": serving.least, "maxReplicas": serving.maximum}
    return {"replicas": serving.replicas}


def _object(
    api_version: str,
    kind: str,
    state: State,
    version: str,
    seldon: Core2,
    owner: Mapping[str, Any],
    spec: dict[str, Any],
) -> dict[str, Any]:
    model = state.model
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name_of(model, version),
            "labels": {
                **seldon.labels,
                "app.kubernetes.io/managed-by": "windtunnel",
                record.MODEL: model,
                record.VERSION: version,
            },
            "annotations": {record.DIGEST: state.servers[version].digest},
            # Who deletes the Experiment deletes them, too.
            "ownerReferences": [
                {
                    "apiVersion": EXPERIMENT.api_version,
                    "kind": EXPERIMENT.name,
                    "name": model,
                    "uid": str(owner["metadata"]["uid"]),
                }
            ],
        },
        "spec": spec,
    }


def _version(model: str, name: str) -> str | None:
    found = re.fullmatch(rf"{re.escape(model)}-v([a-z0-9]+)", name)
    return found[1] if found else None
