"""The audit: one row per change and per refusal, chained by hash per model, written in the change's transaction."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Insert, func, insert, select, text
from sqlalchemy.orm import Session

from windtunnel import canonical
from windtunnel.evidence.entry import CHAINED, FIELDS, GENESIS, chain_hash
from windtunnel_mlflow import tables

__all__ = ["CHAINED", "GENESIS", "append", "append_all", "broken", "chain_hash", "find", "page", "read", "settled"]

_A = tables.audit
#: PostgreSQL: whoever appends holds this lock shared from before it takes a number until the commit.
_LOCK = 7753
_FILTERS = ("model", "actor", "action", "outcome", "correlation_id")


def broken(rows: Iterable[Mapping[str, Any]]) -> int | None:
    """``seq`` of the first row of one model's chain that was edited or lost its predecessor; None when whole.

    Args:
        rows: all rows of one model, oldest first. A removed newest row is found only against a checkpoint.
    """
    prev = GENESIS
    for row in rows:
        if row["prev"] != prev or chain_hash(row) != row["hash"]:
            return int(row["seq"])
        prev = row["hash"]
    return None


def entry(
    *,
    actor: str,
    action: str,
    model: str,
    version: str | int | None = None,
    outcome: str = "done",
    code: str | None = None,
    detail: Mapping[str, Any] | None = None,
    correlation_id: str | None = None,
) -> dict[str, Any]:
    """A row without the time and the two hashes, which it is given when it is written."""
    return {
        "actor": actor,
        "action": action,
        "model": model,
        "version": None if version is None else str(version),
        "outcome": outcome,
        "code": code,
        "detail": canonical.dumps(dict(detail or {})).decode(),
        "correlation_id": correlation_id,
    }


def append(session: Session, *, also: Sequence[int] = (), **said: Any) -> None:
    """Add one row (``entry`` has the arguments). The caller holds the model's lock, so the chain has no fork.

    Args:
        also: other locks to take shared until the commit, as PostgreSQL numbers them.
    """
    append_all(session, [entry(**said)], also)


def prepared(session: Session, *, also: Sequence[int] = (), **said: Any) -> Insert:
    """What ``append`` would execute, for a caller who sends it together with a statement of its own."""
    plain = entry(**said)
    row = {**plain, "at": time.time(), "prev": _heads(session, [plain["model"]], also)[plain["model"]]}
    return insert(_A).values(**row, hash=chain_hash(row))


def append_all(session: Session, entries: Iterable[dict[str, Any]], also: Sequence[int] = ()) -> None:
    """Add rows in this order. The caller holds the lock of each of their models."""
    entries = list(entries)
    heads = _heads(session, list(dict.fromkeys(plain["model"] for plain in entries)), also)
    rows = []
    for plain in entries:
        model = plain["model"]
        row = {**plain, "at": time.time(), "prev": heads[model]}
        row["hash"] = heads[model] = chain_hash(row)
        rows.append(row)
    if rows:
        # Several are one statement; the database numbers them in this order.
        session.execute(insert(_A), rows)


def _heads(session: Session, models: Sequence[str], also: Sequence[int]) -> dict[str, str]:
    """The newest hash of each model. On PostgreSQL the locks are taken with it: one round trip, and one for several
    models; their own locks make the answer true whichever is looked at first."""
    if session.get_bind().dialect.name == "sqlite" or len(models) == 1:
        found = {}
        for model in models:
            newest = select(_A.c.hash).where(_A.c.model == model).order_by(_A.c.seq.desc()).limit(1)
            if session.get_bind().dialect.name != "sqlite":
                locks = (func.pg_advisory_xact_lock_shared(lock) for lock in (_LOCK, *also))
                newest = select(newest.scalar_subquery(), *locks)
            found[model] = session.execute(newest).scalar() or GENESIS
        return found
    for lock in (_LOCK, *also):
        session.execute(text("SELECT pg_advisory_xact_lock_shared(:lock)"), {"lock": lock})
    newest_of_each = text(
        "SELECT asked.model, (SELECT hash FROM wt_audit WHERE model = asked.model ORDER BY seq DESC LIMIT 1) AS hash "
        "FROM unnest(CAST(:models AS text[])) AS asked(model)"
    )
    return {row.model: row.hash or GENESIS for row in session.execute(newest_of_each, {"models": list(models)})}


def settled(session: Session) -> int:
    """Number of the newest row after which none can still come in between; 0 without rows.

    Numbers are given before the commit. On PostgreSQL writers of different models commit in any order, so this waits
    for those that have one; on SQLite there is one writer at a time.
    """
    if session.get_bind().dialect.name != "sqlite":
        session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    return int(session.execute(select(func.max(_A.c.seq))).scalar() or 0)


def page(session: Session, after: int, until: int, limit: int) -> list[dict[str, Any]]:
    """Rows with ``after < seq <= until``, oldest first, with all fields as they are hashed."""
    query = select(*(_A.c[name] for name in FIELDS)).where(_A.c.seq > after, _A.c.seq <= until)
    return [dict(row) for row in session.execute(query.order_by(_A.c.seq).limit(limit)).mappings()]


def find(
    session: Session, limit: int, *, since: float | None = None, until: float | None = None, **equal: str | None
) -> list[dict[str, Any]]:
    """Newest rows first; ``detail`` as a dict.

    Args:
        since, until: seconds since the epoch; ``since`` is part of it, ``until`` is not.
        equal: values of ``model``, ``actor``, ``action``, ``outcome``, ``correlation_id``.
    """
    query = select(_A).order_by(_A.c.seq.desc()).limit(limit)
    for name in _FILTERS:
        if equal.get(name) is not None:
            query = query.where(_A.c[name] == equal[name])
    if since is not None:
        query = query.where(_A.c.at >= since)
    if until is not None:
        query = query.where(_A.c.at < until)
    rows = [dict(row) for row in session.execute(query).mappings()]
    for row in rows:
        row["detail"] = json.loads(row["detail"])
    return rows


def read(session: Session, model: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
    """Newest rows first; ``detail`` as a dict."""
    return find(session, limit, model=model)
