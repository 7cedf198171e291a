"""Pods and sets of ours whose task will not come back for them. Pure.

A pod's own deadline counts from its node: one that a queue holds back, or that no node takes, has none. It is removed
when Airflow says that its task is over or gone, or, where Airflow is not heard of that task, when it waited for a node
longer than any task waits (``start_within`` and a margin). What has a node goes only by Airflow's word, said twice with
a pause between: whoever ended the task may be about to remove it; where Airflow is not heard it ends by its deadline.
Times are those of the cluster's API.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from windtunnel.tracking.pods import gang, naming
from windtunnel.tracking.pods.manifest import WATCH_SECONDS
from windtunnel.tracking.pods.waiting import gated, scheduled

#: ``living``: it may come back. ``over``: it ended. ``gone``: Airflow has no such task. None: Airflow was not heard.
Word = Literal["living", "over", "gone"] | None
#: Ends of a task instance, as Airflow has them; everything else goes on, or may.
_ENDS = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


@dataclass(frozen=True, slots=True)
class Task:
    """Whose a pod is.

    Attributes:
        airflow: which installation, as it names itself.
        map_index: -1 where the task is not mapped.
    """

    airflow: str
    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1

    @property
    def words(self) -> str:
        """For people."""
        index = "" if self.map_index < 0 else f"[{self.map_index}]"
        return f"task {self.dag_id}/{self.run_id}/{self.task_id}{index}"


def task_of(thing: Mapping[str, Any]) -> Task | None:
    """Whose a pod or a set is; None where it does not say, or says something strange."""
    said = ((thing.get("metadata") or {}).get("annotations") or {}).get(naming.TASK)
    try:
        found = json.loads(said) if said else None
        if not isinstance(found, dict):
            return None
        names = {"airflow": "airflow", "dag_id": "dag", "run_id": "run", "task_id": "task"}
        return Task(**{name: str(found[key]) for name, key in names.items()}, map_index=int(found.get("index", -1)))
    except (ValueError, KeyError, TypeError):
        return None


def word_of(states: Mapping[str, Mapping[str, Any]], task: Task) -> Word:
    """What Airflow's answer says of a task.

    Args:
        states: run id -> task id (with ``_INDEX`` where it is mapped) -> state, of which None is one.
    """
    name = task.task_id if task.map_index < 0 else f"{task.task_id}_{task.map_index}"
    found = states.get(task.run_id) or {}
    if name not in found:
        return "gone"
    state = str(getattr(found[name], "value", found[name])).lower()
    return "over" if state in _ENDS else "living"


def waits(thing: Mapping[str, Any], pods: Sequence[Mapping[str, Any]] = ()) -> bool:
    """Whether a pod, or a set with these pods, has never had a node, and is not being deleted.

    Args:
        thing: a pod, where ``pods`` is empty and it has a ``nodeName`` or none; or a set.
    """
    if (thing.get("metadata") or {}).get("deletionTimestamp"):
        return False
    if thing.get("kind") in ("JobSet", "TrainJob"):
        over = gang.completed(thing) or gang.condition(thing, "Failed") is not None
        return not over and not any(scheduled(pod) or _ended(pod) for pod in pods)
    return not scheduled(thing) and not _ended(thing)


def runs(thing: Mapping[str, Any], pods: Sequence[Mapping[str, Any]] = ()) -> bool:
    """Whether a pod, or a set with these pods, has a node and goes on.

    Args:
        thing: as for ``waits``.
    """
    if (thing.get("metadata") or {}).get("deletionTimestamp") or waits(thing, pods):
        return False
    if thing.get("kind") in ("JobSet", "TrainJob"):
        return not gang.completed(thing) and gang.condition(thing, "Failed") is None
    return not _ended(thing)


def why(thing: Mapping[str, Any], word: Word, now: float) -> str | None:
    """Why a pod or set that waits, or goes on, is to be removed, in words; None: it is left.

    Args:
        word: of its task.
        now: by the API, in seconds since the epoch.
    """
    whose = task_of(thing)
    name = whose.words if whose is not None else "its task"
    if word == "over":
        return f"{name} is over"
    if word == "gone":
        return f"{name} is not in Airflow any more"
    if word == "living" or _held(thing) or scheduled(thing):
        return None  # a queue may hold it back for as long as it likes; what has a node has a deadline
    meta = thing.get("metadata") or {}
    try:
        within = float((meta.get("annotations") or {})[naming.START_WITHIN])
        waited = now - datetime.fromisoformat(str(meta["creationTimestamp"])).timestamp()
    except (KeyError, ValueError):
        return None
    if waited < within + WATCH_SECONDS:
        return None
    return f"it has waited {waited:.0f} s for a node; no task waits longer than start_within ({within:.0f} s)"


def _held(thing: Mapping[str, Any]) -> bool:
    queued = naming.QUEUE in ((thing.get("metadata") or {}).get("labels") or {})
    return queued or gated(thing) or gang.suspended(thing)


def _ended(pod: Mapping[str, Any]) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def ended_at(pod: Mapping[str, Any]) -> float | None:
    """When the last container of a pod that is over ended; where none ever ran, when the pod was made. None: it goes
    on, or says no time."""
    if not _ended(pod):
        return None
    states = [
        (one.get("state") or {}).get("terminated") or {} for one in (pod["status"].get("containerStatuses") or [])
    ]
    ends = [str(one["finishedAt"]) for one in states if one.get("finishedAt")]
    made = (pod.get("metadata") or {}).get("creationTimestamp")
    moments = ends or ([str(made)] if made else [])
    return max((datetime.fromisoformat(one).timestamp() for one in moments), default=None)
