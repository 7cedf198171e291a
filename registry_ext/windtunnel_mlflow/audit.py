"""The audit: one row per change and per refusal, chained by hash per model, written in the change's transaction."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from windtunnel import canonical
from windtunnel_mlflow import tables

#: ``prev`` of the first row of a model.
GENESIS = "sha256:" + "0" * 64
CHAINED = ("at", "actor", "action", "model", "version", "outcome", "code", "detail", "correlation_id", "prev")


def chain_hash(row: Mapping[str, Any]) -> str:
    """Digest of one row with its predecessor's hash in ``prev``. ``seq`` is left out: the database gives it."""
    return canonical.digest({key: row[key] for key in CHAINED})


def broken(rows: Iterable[Mapping[str, Any]]) -> int | None:
    """``seq`` of the first row of one model's chain that was edited or lost its predecessor; None when whole.

    Args:
        rows: all rows of one model, oldest first. A removed newest row is found only against a kept head hash.
    """
    prev = GENESIS
    for row in rows:
        if row["prev"] != prev or chain_hash(row) != row["hash"]:
            return int(row["seq"])
        prev = row["hash"]
    return None


def append(
    session: Session,
    *,
    actor: str,
    action: str,
    model: str,
    version: str | int | None = None,
    outcome: str = "done",
    code: str | None = None,
    detail: Mapping[str, Any] | None = None,
    correlation_id: str | None = None,
) -> None:
    """Add one row. The caller holds the model's lock, so the chain has no fork."""
    table = tables.audit
    last = session.execute(
        select(table.c.hash).where(table.c.model == model).order_by(table.c.seq.desc()).limit(1)
    ).scalar()
    row: dict[str, Any] = {
        "at": time.time(),
        "actor": actor,
        "action": action,
        "model": model,
        "version": None if version is None else str(version),
        "outcome": outcome,
        "code": code,
        "detail": canonical.dumps(dict(detail or {})).decode(),
        "correlation_id": correlation_id,
        "prev": last or GENESIS,
    }
    session.execute(table.insert().values(**row, hash=chain_hash(row)))


def read(session: Session, model: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
    """Newest rows first; ``detail`` as a dict."""
    table = tables.audit
    query = select(table).order_by(table.c.seq.desc()).limit(limit)
    if model is not None:
        query = query.where(table.c.model == model)
    rows = [dict(row) for row in session.execute(query).mappings()]
    for row in rows:
        row["detail"] = json.loads(row["detail"])
    return rows
