"""The outbox: what changed in the registry, written in the change's own transaction, read in order by whoever asks.

A reader keeps the number (``seq``) of the last event it has dealt with and asks for those after it. Numbers grow in
the order of commits as far as a reader can tell: on SQLite there is one writer at a time, and on PostgreSQL a reader
that meets a hole in the numbers waits for the writers that may still fill it before it goes past.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Insert, delete, func, insert, select, text
from sqlalchemy.orm import Session

from windtunnel_mlflow import tables

#: Seconds an event is kept.
KEPT = 30 * 86_400.0
#: One write in so many removes at most ``_PRUNED`` old events: cheap, and faster than they come.
_PRUNE_EVERY, _PRUNED = 100, 1_000
#: Writers hold this lock shared until they commit, a reader at a hole takes it alone for a moment.
LOCK = 7752

CHAMPION = "champion"
_KINDS = {
    "register": "registered",
    "seal": "version",
    "seal-failed": "version-failed",
    "delete-version": "deleted",
    "set-alias": "alias",
    "delete-alias": "alias",
    "transition-stage": "stage",
    "create-model": "model",
    "rename-model": "model",
    "delete-model": "model",
    "create-prompt-version": "prompt",
    "describe-model": "tags",
    "describe-version": "tags",
    "tag-model": "tags",
    "tag-version": "tags",
    "untag-model": "tags",
    "untag-version": "tags",
    "set-card": "tags",
    "verdict": "verdict",
    "set-policy": "policy",
    "open-rollout": "rollout",
    "update-rollout": "rollout",
    "promote": "rollout",
    "withdraw": "withdrawn",
}
#: Kinds a reader may ask for; ``other`` holds every change that has no name of its own.
KINDS = tuple(sorted({*_KINDS.values(), CHAMPION, "other"}))

_O = tables.outbox


def kinds(action: str, detail: Mapping[str, Any]) -> list[str]:
    """What a change is news of. Who became or ceased to be champion is three things: champion, alias and stage."""
    found = [_KINDS.get(action, "other")]
    if "champion" in detail or detail.get("was_champion"):
        found += [kind for kind in (CHAMPION, "alias", "stage") if kind not in found]
    return found


def write(
    session: Session,
    *,
    actor: str,
    action: str,
    model: str,
    version: str | None,
    detail: Mapping[str, Any],
    correlation_id: str | None,
    noting: Insert | None = None,
    fresh: bool = False,
) -> None:
    """Add the events of one change, in its transaction.

    Args:
        noting: the change's audit entry, written with the first event: on PostgreSQL in one round trip. Its caller
            holds ``LOCK`` already.
        fresh: the version has neither seal nor story yet.
    """
    sqlite = session.get_bind().dialect.name == "sqlite"
    if noting is None and not sqlite:
        session.execute(text("SELECT pg_advisory_xact_lock_shared(:lock)"), {"lock": LOCK})
    told: Any = correlation_id or uuid.uuid4().hex
    digest: Any = None
    if not fresh and version is not None and version.isdecimal():
        table = tables.versions
        known = (table.c.model == model, table.c.version == int(version))
        digest = select(table.c.digest).where(*known).scalar_subquery()
        if correlation_id is None:
            told = func.coalesce(select(table.c.correlation_id).where(*known).scalar_subquery(), told)
    now = time.time()
    reason = detail.get("reason")
    common = {
        "at": now,
        "action": action,
        "model": model,
        "version": version,
        "digest": digest,
        "correlation_id": told,
        "actor": actor,
        "cause": f"{action} by {actor}" + (f": {reason}" if reason else ""),
    }
    last = 0
    for kind in kinds(action, detail):
        own = {"alias": _alias(kind, detail), "stage": _stage(kind, detail)}
        event = insert(_O).values(**common, **own, kind=kind, id=uuid.uuid4().hex)
        if sqlite:
            if noting is not None:
                session.execute(noting)
            # An SQLite may be too old for RETURNING.
            last = int(session.execute(event).inserted_primary_key[0])  # type: ignore[attr-defined]
        else:
            together = event if noting is None else event.add_cte(noting.cte("noting"))
            last = int(session.execute(together.returning(_O.c.seq)).scalar_one())
        noting = None
    if last % _PRUNE_EVERY == 0:
        prune(session, now)


def _alias(kind: str, detail: Mapping[str, Any]) -> str | None:
    if kind == "alias":
        return str(detail.get("alias") or CHAMPION)[:256]
    return CHAMPION if kind == CHAMPION else None


def _stage(kind: str, detail: Mapping[str, Any]) -> str | None:
    if kind != "stage":
        return None
    return str(detail.get("stage") or ("Archived" if detail.get("was_champion") else "Production"))[:32]


def prune(session: Session, now: float, kept: float = KEPT) -> int:
    """Remove the oldest events, at most a thousand, that are older than ``kept`` seconds; the newest always stays."""
    first, last = session.execute(select(func.min(_O.c.seq), func.max(_O.c.seq))).one()
    if first is None:
        return 0
    # Oldest first and without holes, so that what is left has no hole that was none before.
    young = session.execute(
        select(func.min(_O.c.seq)).where(_O.c.seq < first + _PRUNED, _O.c.at >= now - kept)
    ).scalar()
    end = min(last, first + _PRUNED if young is None else young)
    done = session.execute(delete(_O).where(_O.c.seq < end))
    return int(done.rowcount)  # type: ignore[attr-defined]


def read(session: Session, after: int | None, limit: int) -> dict[str, Any]:
    """Events after a number, oldest first.

    Args:
        after: number of the last event the reader has dealt with; 0 for all that are kept; None for "from now on".
        limit: at most so many.

    Returns:
        ``{"events": [...], "next", "lost"}``: ``next`` is what to ask for next time; ``lost`` is True where events
        between ``after`` and the first one are not kept any more, or ``after`` is of another database.
    """
    sqlite = session.get_bind().dialect.name == "sqlite"
    if after is None and not sqlite:
        _settle(session)
    first, last = session.execute(select(func.min(_O.c.seq), func.max(_O.c.seq))).one()
    if after is None or last is None:
        return {"events": [], "next": last or 0, "lost": bool(after)}
    if after > last:
        return {"events": [], "next": last, "lost": True}
    query = select(_O).where(_O.c.seq > after).order_by(_O.c.seq)
    rows = session.execute(query.limit(limit)).mappings().all()
    if rows and not sqlite and rows[-1]["seq"] - after != len(rows):
        _settle(session)
        rows = session.execute(query.where(_O.c.seq <= rows[-1]["seq"])).mappings().all()
        first = session.execute(select(func.min(_O.c.seq))).scalar()
    events = [dict(row) for row in rows]
    return {"events": events, "next": events[-1]["seq"] if events else after, "lost": 0 < after < (first or 0) - 1}


def _settle(session: Session) -> None:
    """Wait until no change that has a number already is still uncommitted; it takes what one commit takes."""
    session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
