"""The desired state, fencing token, lease and abort of one model, in annotations of the object they are about. Pure.

``windtunnel.io/desired`` is the state; the others repeat, for people and selectors, what it says. All are written at
once, with the object's ``resourceVersion``: nobody ever sees, or writes over, half of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from windtunnel.errors import ServingError
from windtunnel.serving import desired
from windtunnel.serving.desired import State

PREFIX = "windtunnel.io/"
DESIRED = f"{PREFIX}desired"
TOKEN = f"{PREFIX}token"
ROLLOUT = f"{PREFIX}rollout"
LEASE = f"{PREFIX}lease-until"
ABORTED = f"{PREFIX}aborted"
#: What a release must find again, whoever goes on with it (``journal``): the promotion that was begun, the looks.
INTENT = f"{PREFIX}intent"
LOOKS = f"{PREFIX}looks"
SAID = f"{PREFIX}last-look"
#: Address of the registry that gave the token: whose releases these are.
REGISTRY = f"{PREFIX}registry"
#: What others had written into our fields (``contested``).
OVERRULED = f"{PREFIX}overruled"
#: Label of each object that is ours, and of its pods: the model.
MODEL = f"{PREFIX}model"
#: Label of a predictor's pods, annotation of a predictor.
VERSION = f"{PREFIX}version"
DIGEST = f"{PREFIX}digest"

#: Kubernetes takes 256 KiB of annotations in all; others need some of it.
LARGEST = 200_000


def notes(state: State) -> dict[str, str]:
    """What stands on the object; every key is always there.

    Raises:
        ServingError: it is more than Kubernetes takes.
    """
    release = state.release
    # A version that has a predictor keeps its settings there; they need not stand twice.
    rest = {version: found for version, found in release.settings.items() if version not in state.servers}
    plain = desired.to_dict(replace(state, release=replace(release, settings=rest)))
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    if len(text.encode()) > LARGEST:
        raise ServingError(
            f"{release.model}: the desired state has {len(text.encode())} bytes, an annotation takes {LARGEST}",
            hint="fewer warm-up rows, or fewer categories in the description of the features",
        )
    return {
        DESIRED: text,
        TOKEN: str(release.token),
        ROLLOUT: release.rollout_id or "",
        LEASE: "" if release.lease_until is None else repr(release.lease_until),
        ABORTED: str(state.aborted["reason"]) if state.aborted else "",
    }


def kept(live: Mapping[str, Any] | None) -> dict[str, str]:
    """The journal's annotations on an object; a key nobody wrote yet is not there."""
    found = ((live or {}).get("metadata") or {}).get("annotations") or {}
    return {name: str(found[name]) for name in (INTENT, LOOKS, SAID, OVERRULED) if name in found}


def registry_of(live: Mapping[str, Any] | None) -> str | None:
    """Address of the registry whose releases an object has; None where nobody has said it yet."""
    return (((live or {}).get("metadata") or {}).get("annotations") or {}).get(REGISTRY) or None


def state_of(live: Mapping[str, Any]) -> State | None:
    """The state on an object; None when it is not ours.

    Raises:
        ServingError: it is there and cannot be read (it is never taken for an empty one).
    """
    metadata = live["metadata"]
    text = (metadata.get("annotations") or {}).get(DESIRED)
    if text is None:
        return None
    try:
        state = desired.from_dict(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise ServingError(
            f"annotation {DESIRED} of {metadata.get('name')} cannot be read: {error!r}",
            hint="restore it from a backup, or delete the object and apply the release again",
        ) from error
    whole = {version: server.settings for version, server in state.servers.items()} | state.release.settings
    return replace(state, release=replace(state.release, settings=whole))
