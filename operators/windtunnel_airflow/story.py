"""The story a run belongs to: one correlation id from the event that woke it to the alert it ends in (PIP-7).

It is computed, not stored: every task of a run, and every try of a task, comes to the same id.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from windtunnel.events import Event

_NAMESPACE = uuid.UUID("5b6a5b1e-7c0e-5a63-9a53-6f2f6c1a9d10")


@dataclass(frozen=True, slots=True)
class Story:
    """``correlation_id`` and why this run exists (``cause``: drift, performance, data, schedule, manual ...)."""

    correlation_id: str
    cause: str


def story_of(context: Mapping[str, Any]) -> Story:
    """The story of the DAG run in ``context``.

    The newest triggering asset event that carries a Windtunnel payload decides; else ``correlation_id`` and
    ``cause`` in the run's conf; else a fresh id that is a function of DAG id and run id.
    """
    dag_run = context.get("dag_run")
    conf = dict(getattr(dag_run, "conf", None) or {})
    params = dict(context.get("params") or {})
    fresh = uuid.uuid5(_NAMESPACE, f"{getattr(dag_run, 'dag_id', '')}/{getattr(dag_run, 'run_id', '')}").hex
    event, foreign = _newest(context.get("triggering_asset_events"))
    if event is not None:
        return Story(event.correlation_id, event.cause or "event")
    cause = str(conf.get("cause") or params.get("reason") or "")
    if not cause and foreign is not None:
        cause = f"event of {foreign}"
    if not cause:
        kind = getattr(dag_run, "run_type", None)
        cause = str(getattr(kind, "value", kind) or "manual")
    return Story(str(conf.get("correlation_id") or fresh), cause)


def _newest(events: Any) -> tuple[Event | None, str | None]:
    """The newest event with our payload, and the URI of the newest without."""
    ours: list[tuple[Any, Event]] = []
    foreign: list[tuple[Any, str]] = []
    for found in (events or {}).values():
        for one in found:
            payload = Event.from_extra(dict(one.extra or {}))
            if payload is not None:
                ours.append((one.timestamp, payload))
            else:
                foreign.append((one.timestamp, str(one.asset.uri)))
    first = max(ours, key=lambda pair: pair[0])[1] if ours else None
    other = max(foreign, key=lambda pair: pair[0])[1] if foreign else None
    return first, other
