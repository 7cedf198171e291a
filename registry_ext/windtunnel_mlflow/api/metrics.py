"""``/metrics`` below ``/api/windtunnel/v1``: how the registry is, in Prometheus's text format 0.0.4.

Only what nobody else can tell: processors, memory and restarts are in the cluster's own metrics, requests and their
times in the router's. Asking needs a credential like everything else here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from flask import Blueprint, Response
from sqlalchemy import func, select

from windtunnel import __version__
from windtunnel.evidence import checkpoint
from windtunnel_mlflow import rows, tables
from windtunnel_mlflow.ledger.checkpoints import Publisher
from windtunnel_mlflow.store import GovernedStore

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: (name, type, what it is). Alert rules, dashboard and reference name these and no others.
METRICS: tuple[tuple[str, str, str], ...] = (
    ("windtunnel_registry_info", "gauge", "1, with the server's version as a label"),
    ("windtunnel_registry_models", "gauge", "Models with a governed version that is not deleted"),
    ("windtunnel_registry_versions", "gauge", "Versions that are not deleted, by status"),
    ("windtunnel_registry_pending_seconds", "gauge", "Age of the oldest version that waits for its seal; 0 with none"),
    ("windtunnel_registry_champions", "gauge", "Models that have a champion"),
    ("windtunnel_registry_rollouts_open", "gauge", "Rollouts that have not ended"),
    ("windtunnel_registry_rollout_quiet_seconds", "gauge",
     "Time since the open rollout that is quiet for longest was last changed; 0 with none"),
    ("windtunnel_registry_audit_entries", "counter", "Number of the newest entry of the audit"),
    ("windtunnel_registry_audit_checkpoint_seconds", "gauge", "Age of the newest signed checkpoint of the audit"),
    ("windtunnel_registry_audit_signed_entries", "gauge", "Entries under the newest signed checkpoint"),
    ("windtunnel_registry_audit_problem", "gauge", "1 when no checkpoint can be signed or published"),
)  # fmt: skip

#: (name, labels, value)
Sample = tuple[str, dict[str, str], float]


def blueprint(store: GovernedStore, publisher: Publisher | None, clock: Callable[[], float] = time.time) -> Blueprint:
    """The endpoint as a blueprint of the registry's app."""
    api = Blueprint("windtunnel-metrics", __name__)

    @api.get("/metrics")
    def metrics() -> Any:
        # One snapshot of the primary: a replica that lags would show a seal as late that is not.
        with store.ManagedSessionMaker(read_only=False) as session:
            found = list(_counted(session, clock()))
        found += _signed(publisher, clock())
        return Response(text(found), content_type=CONTENT_TYPE)

    return api


def text(samples: Iterable[Sample]) -> str:
    """Prometheus's text format, in the order of ``METRICS``. Pure.

    Raises:
        KeyError: a sample has a name that is not in ``METRICS``.
    """
    by_name: dict[str, list[str]] = {name: [] for name, _, _ in METRICS}
    for name, labels, value in samples:
        told = ",".join(f'{key}="{_escaped(one)}"' for key, one in sorted(labels.items()))
        by_name[name].append(f"{name}{{{told}}} {value:.17g}" if told else f"{name} {value:.17g}")
    lines = []
    for name, kind, about in METRICS:
        if by_name[name]:
            lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}", *by_name[name]]
    return "\n".join(lines) + "\n"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _counted(session: Any, now: float) -> Iterable[Sample]:
    v, r = tables.versions.c, tables.rollouts.c
    there = v.deleted_at.is_(None)
    yield "windtunnel_registry_info", {"version": __version__}, 1
    models = session.execute(select(func.count(func.distinct(v.model))).where(there)).scalar()
    yield "windtunnel_registry_models", {}, models
    counted = dict(session.execute(select(v.status, func.count()).where(there).group_by(v.status)).tuples().all())
    for status in (rows.PENDING, rows.READY, rows.FAILED):
        yield "windtunnel_registry_versions", {"status": status}, counted.get(status, 0)
    oldest = session.execute(select(func.min(v.created_at)).where(there, v.status == rows.PENDING)).scalar()
    yield "windtunnel_registry_pending_seconds", {}, 0 if oldest is None else max(0.0, now - oldest)
    champions = select(func.count()).select_from(tables.champions).where(tables.champions.c.until.is_(None))
    yield "windtunnel_registry_champions", {}, session.execute(champions).scalar()
    number, quiet = session.execute(select(func.count(), func.min(r.updated_at)).where(r.ended_at.is_(None))).one()
    yield "windtunnel_registry_rollouts_open", {}, number
    yield "windtunnel_registry_rollout_quiet_seconds", {}, 0 if quiet is None else max(0.0, now - quiet)
    newest = session.execute(select(func.max(tables.audit.c.seq))).scalar()
    yield "windtunnel_registry_audit_entries", {}, newest or 0


def _signed(publisher: Publisher | None, now: float) -> list[Sample]:
    if publisher is None:
        return [("windtunnel_registry_audit_problem", {}, 1)]
    state = publisher.state()
    found: list[Sample] = [("windtunnel_registry_audit_problem", {}, 1 if state["problem"] else 0)]
    if state["checkpoint"]:
        point = checkpoint.read(state["checkpoint"])
        found.append(("windtunnel_registry_audit_signed_entries", {}, point.size))
        if point.at is not None:
            found.append(("windtunnel_registry_audit_checkpoint_seconds", {}, max(0.0, now - point.at)))
    return found
