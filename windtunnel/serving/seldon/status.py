"""What a SeldonDeployment and its pods say of one version. Pure.

"Available" of the object says nothing of a version: it is of all predictors together, and of the time before the last
write (Seldon keeps no ``observedGeneration``). So a version is judged by the replicas its own Deployment has, then by
an answer of its own (``backend``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from windtunnel.serving.desired import Server
from windtunnel.serving.modelserver.launch import GAVE_UP, OUT_OF_MEMORY
from windtunnel.serving.seldon import manifest

#: Why an image cannot be had; tried again by Kubernetes, but not by waiting.
_IMAGE = frozenset({"ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"})
#: The kubelet's words for a pod that kept more than it may; anything else it evicts for is the node's trouble.
_OWN_DISK = ("storage usage exceeds", "exceeded its local ephemeral storage limit", "Usage of EmptyDir")
_CONFIGURED = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a version is not ready.

    Attributes:
        integrity: its bytes are not the sealed ones.
        final: waiting longer cannot help.
    """

    message: str
    integrity: bool = False
    final: bool = True


def available(live: Mapping[str, Any], model: str, version: str, server: Server) -> bool:
    """As many replicas as it shall have at least are available."""
    return replicas(live, model, version) >= server.serving.least


def replicas(live: Mapping[str, Any], model: str, version: str) -> int:
    """How many of a version's replicas are available."""
    told = (live.get("status") or {}).get("deploymentStatus") or {}
    return int((told.get(manifest.deployment_name(model, version)) or {}).get("availableReplicas") or 0)


def told(live: Mapping[str, Any]) -> str:
    """What the operator says of the object, for a message; empty where it says nothing."""
    status = live.get("status") or {}
    bad = [
        f"{one.get('type')}: {one.get('message') or one.get('reason') or 'False'}"
        for one in status.get("conditions") or []
        if one.get("status") == "False"
    ]
    parts = [str(status.get("description") or ""), *bad]
    return "; ".join(part for part in parts if part)


def trouble(pods: Iterable[Mapping[str, Any]]) -> Trouble | None:
    """The worst that a version's pods say; None when they say nothing bad."""
    found = [one for pod in pods if not pod["metadata"].get("deletionTimestamp") for one in _of_pod(pod)]
    return max(found, key=lambda one: (one.integrity, one.final), default=None)


def _of_pod(pod: Mapping[str, Any]) -> Iterable[Trouble]:
    status, name = pod.get("status") or {}, pod["metadata"]["name"]
    if status.get("reason") == "Evicted":
        # A pod that was evicted stays as it ended, beside the one made in its place: told, and no end of the waiting.
        own = " (serving.disk)" if any(words in str(status.get("message")) for words in _OWN_DISK) else ""
        yield Trouble(f"pod {name} was evicted: {status.get('message')}{own}", final=False)
    for one in status.get("conditions") or []:
        if one.get("type") == "PodScheduled" and one.get("status") == "False":
            yield Trouble(f"pod {name} waits for a node: {one.get('message') or one.get('reason')}", final=False)
    for one in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        waiting = (one.get("state") or {}).get("waiting") or {}
        reason = str(waiting.get("reason") or "")
        if reason in _IMAGE | _CONFIGURED:
            yield Trouble(f"pod {name}, container {one['name']}: {reason}: {waiting.get('message') or ''}".rstrip(": "))
        ended = (one.get("state") or {}).get("terminated") or (one.get("lastState") or {}).get("terminated") or {}
        code = ended.get("exitCode")
        if code in (None, 0):
            continue
        message = _message(str(ended.get("message") or ""))
        if code == GAVE_UP:
            yield Trouble(message or f"pod {name}, container {one['name']}: not the sealed files", integrity=True)
        elif ended.get("reason") == "OOMKilled" or code == OUT_OF_MEMORY:
            yield Trouble(
                f"pod {name}, container {one['name']}: out of memory (serving.memory); {message}".rstrip("; ")
            )
        else:
            # A model that cannot be loaded is tried again and again; the registry that could not be asked, too.
            again = int(one.get("restartCount") or 0)
            why = message or ended.get("reason") or "no reason given"
            yield Trouble(
                f"pod {name}, container {one['name']}: exit code {code}: {why}",
                final=again >= 2 and one["name"] != manifest.VERIFY,
            )


def _message(text: str) -> str:
    """What the first step has left behind: JSON with ``message``, else as it is."""
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text.strip()[:1000]
