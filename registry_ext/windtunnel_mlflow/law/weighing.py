"""The rows behind a policy decision, read as ``policy.Facts``."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from windtunnel.registry.orders import BOLD
from windtunnel.safety.keys import KeyRing
from windtunnel_mlflow import records, tables
from windtunnel_mlflow.access import identity, people
from windtunnel_mlflow.cards import book
from windtunnel_mlflow.law.approving import Approval, Past
from windtunnel_mlflow.law.policy import Facts, Judged, Moved
from windtunnel_mlflow.lineage import recording
from windtunnel_mlflow.releases import candidates

_A = tables.approvals
_C = tables.champions
_DAY = 86_400.0


def facts(
    session: Session,
    model: str,
    number: int,
    *,
    in_rollout: bool,
    to: str = "production",
    asker: identity.Actor | None = None,
) -> Facts:
    """Everything policy looks at for one version.

    Args:
        to: where it is to come; approvals are for one place.
        asker: who wants it by hand; None where nobody in particular does.
    """
    found = records.version(session, model, number) or {}
    recipe = found.get("recipe", {})
    return Facts(
        status=found.get("status", "DELETED"),
        digest=found.get("digest"),
        data=recipe.get("data"),
        champion=records.champion(session, model),
        in_rollout=in_rollout,
        verdicts=_verdicts(session, model, [s for s in (found.get("digest"), recipe.get("data")) if s]),
        ordered=bool(orderers := _orderers(session, model, number)),
        approvals=_approvals(session, model, number, to),
        past=_past(found, orderers, asker),
        lineage=_lineage(found) | recording.demanded(session, model, number),
        card=frozenset(book.in_force(session, model, number)),
        moved=_moved(found),
        parentless=number == _first(session, model),
        roles=None if asker is None else people.roles_of(asker),
        done=0 if asker is None else _done(session, model, asker.name),
    )


def _verdicts(session: Session, model: str, subjects: Sequence[str]) -> tuple[Judged, ...]:
    table = tables.verdicts
    rows = session.execute(
        select(table).where(table.c.model == model, table.c.subject.in_(subjects), table.c.claimed.is_(False))
    )
    return tuple(
        Judged(
            seq=row.seq,
            id=row.id,
            kind=row.kind,
            outcome=row.outcome,
            subject=row.subject,
            claimed=row.claimed,
            reason=json.loads(row.body).get("reason", ""),
            at=row.created_at,
        )
        for row in rows
    )


def _approvals(session: Session, model: str, number: int, to: str) -> tuple[Approval, ...]:
    rows = session.execute(
        select(_A).where(_A.c.model == model, _A.c.version == number, _A.c.target == to).order_by(_A.c.seq)
    )
    return tuple(approval(row) for row in rows)


def approval(row: Any) -> Approval:
    """A row as what the decision looks at."""
    return Approval(
        seq=row.seq,
        decision=row.decision,
        digest=row.digest,
        evidence=row.evidence,
        seen=row.seen,
        needs=row.needs,
        by=row.by,
        roles=frozenset(row.roles.split(",")),
        reason=row.reason,
        at=row.at,
        withdrawn_at=row.withdrawn_at,
    )


def _past(found: dict[str, Any], orderers: list[str], asker: identity.Actor | None) -> Past:
    # The stack's own user is nobody's person: it registers and asks for everyone.
    people = {*orderers, *([] if asker is None else [asker.name])} - {identity.SERVICE_USER}
    author = found.get("actor")
    return Past(None if author == identity.SERVICE_USER else author, found.get("trainer"), frozenset(people))


def _lineage(found: dict[str, Any]) -> frozenset[str]:
    """What is known beside the origins, which are kept by themselves."""
    recipe, described = found.get("recipe", {}), found.get("facts", {})
    known = {
        "params": recipe.get("params") is not None,
        "features": recipe.get("features"),
        "signature": described.get("signature"),
        "parent": found.get("parent"),
    }
    return frozenset(name for name, there in known.items() if there)


def _moved(found: dict[str, Any]) -> Moved | None:
    """Where it was moved from, as the server itself wrote down; whether that counts is asked of the key ring now."""
    origin = found.get("facts", {}).get("moved")
    if not isinstance(origin, dict):
        return None
    ring = KeyRing.configured()
    trusted = ring is not None and ring.installation(origin["key"]) == origin["installation"]
    return Moved(origin["installation"], trusted, origin["rollout"])


def _first(session: Session, model: str) -> int | None:
    table = tables.versions
    return session.execute(select(func.min(table.c.version)).where(table.c.model == model)).scalar()


def _done(session: Session, model: str, name: str) -> int:
    rows = select(func.count()).where(_C.c.model == model, _C.c.actor == name, _C.c.since > time.time() - _DAY)
    return int(session.execute(rows).scalar() or 0)


def _orderers(session: Session, model: str, number: int) -> list[str]:
    """Who ordered the open rollout of this version to go on without the numbers."""
    running, orders = records.open_rollout(session, model), tables.orders
    if running is None or number not in candidates.named(running):
        return []
    rows = session.execute(
        select(orders.c.by).where(
            orders.c.rollout_id == running["id"], orders.c.kind.in_(sorted(BOLD)), orders.c.claimed.is_(False)
        )
    )
    return [row.by.removeprefix("airflow:") for row in rows]
