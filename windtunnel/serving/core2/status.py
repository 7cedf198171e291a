"""What a Model of Core 2 says of its version. Pure.

Its conditions are of the last generation that the scheduler has told of, without saying which: so they are only where
to begin. A version is ready when it has answered for itself (``readiness``). ``modelgwReady`` is of the way by Kafka,
which no request of an Experiment takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from windtunnel.serving.desired import Server
from windtunnel.serving.seldon import record
from windtunnel.serving.seldon.status import Trouble

#: The scheduler's word for a load that failed: the agent has tried, and does not try again by itself.
_FAILED = "ModelFailed"


def available(live: Mapping[str, Any] | None, server: Server) -> bool:
    """The Model is of this content, ready, and has as many replicas as it shall have at least."""
    if live is None or live["metadata"].get("deletionTimestamp"):
        return False
    if (live["metadata"].get("annotations") or {}).get(record.DIGEST) != server.digest:
        return False
    return _ready(live) and replicas(live) >= server.serving.least


def replicas(live: Mapping[str, Any]) -> int:
    """How many replicas of a Model serve. Before 2.9 Seldon tells only how many there shall be, and whether all do."""
    status = live.get("status") or {}
    return int(status.get("availableReplicas", status.get("replicas") if _ready(live) else 0) or 0)


def told(live: Mapping[str, Any] | None) -> str:
    """What the operator says against an object, for a message; empty where it says nothing."""
    metadata = (live or {}).get("metadata") or {}
    if metadata.get("deletionTimestamp"):
        held = ", ".join(metadata.get("finalizers") or []) or "nobody"
        gone = f"a former {metadata.get('name')} is still being deleted, and waits for {held}"
        return f"{gone}: is Seldon's scheduler there?"
    found = [one for one in _conditions(live) if one.get("status") == "False" and one.get("type") != "Ready"]
    texts = [": ".join(filter(None, (one.get("reason"), one.get("message")))) or str(one.get("type")) for one in found]
    return "; ".join(dict.fromkeys(text.strip() for text in texts))


def trouble(live: Mapping[str, Any] | None) -> Trouble | None:
    """What the Model says against itself that waiting does not mend; None when it says nothing such."""
    for one in _conditions(live):
        if one.get("type") == "ModelReady" and one.get("status") == "False" and one.get("reason") == _FAILED:
            return Trouble(str(one.get("message") or "the model server could not load it"))
    return None


def _ready(live: Mapping[str, Any]) -> bool:
    return any(one.get("type") == "ModelReady" and one.get("status") == "True" for one in _conditions(live))


def _conditions(live: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    return list(((live or {}).get("status") or {}).get("conditions") or [])
