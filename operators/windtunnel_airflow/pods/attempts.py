"""What an attempt at a run in pods left behind, and what follows from it for the next: by its papers in the store.

A record is what a task keeps of its run: ``{"run_id", "attempt", "made", "inputs", "cleared", "answered", "again"}``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from windtunnel.tracking.contract import RunStatus
    from windtunnel.tracking.pods.depot import Depot
    from windtunnel.tracking.pods.ends import PodEnd

#: What a cluster does to a pod that is no fault of it: another has all chances.
TAKEN = frozenset({"evicted", "preempted", "node-lost"})


def unwanted(depot: Depot, record: Mapping[str, Any]) -> bool:
    """Whether a person ended this attempt."""
    return depot.wish(int(record["attempt"])) is not None


def unanswered(depot: Depot, record: Mapping[str, Any]) -> bool:
    """Whether the run made what its task could not return, or was stopped by something outside, so that a task that is
    cleared goes on with it: what was trained is not trained again. What could not be returned after that (``again``) is
    not tried for ever: it may be what cannot be returned."""
    from windtunnel import canonical

    if record.get("answered"):
        return False
    attempt = int(record["attempt"])
    if (said := depot.outcome(attempt)) is not None and said.failure != "transient":
        return said.state == "succeeded" and not record.get("again")
    raw = depot.objects.get_bytes(f"{depot.key}/attempts/{attempt}/evidence.json")
    # A run that was told to stop says transient; why, the cluster knows.
    return raw is not None and canonical.loads(raw).get("failure") in (None, "transient")


def taken_away(depot: Depot, record: Mapping[str, Any], status: RunStatus, end: PodEnd) -> bool:
    """Whether the cluster took the pod and the attempt had come further: then the next costs no try of the task's.

    An attempt that stored no checkpoint does: or a node that throws it out each time would do so for ever.
    """
    if status.failure != "transient" or end.kind not in TAKEN:
        return False
    return any(key.rpartition("/")[2].startswith(f"{int(record['attempt']):04d}-") for key in depot.checkpoints())
