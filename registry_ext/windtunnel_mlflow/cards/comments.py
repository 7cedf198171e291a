"""Comments on versions: only ever added to, each in the audit as well (REG-14)."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import insert, select

from windtunnel_mlflow import records, tables
from windtunnel_mlflow.access import permission
from windtunnel_mlflow.part import not_found
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.store import GovernedStore

LONGEST = 5000
_C = tables.comments


class Comments:
    """The operations behind ``/models/M/versions/N/comments``."""

    def __init__(self, store: GovernedStore) -> None:
        self.store = store

    def of(self, model: str, number: int, limit: int) -> list[dict[str, Any]]:
        """The newest ``limit`` comments, oldest of them first."""
        with self.store.reading() as session:
            if records.version(session, model, number) is None:
                raise not_found(f"model {model!r} has no version {number}")
            rows = session.execute(
                select(_C).where(_C.c.model == model, _C.c.version == number).order_by(_C.c.seq.desc()).limit(limit)
            ).all()
        return [{**row._mapping, "version": str(row.version)} for row in reversed(rows)]

    def add(self, model: str, number: int, text: Any) -> dict[str, Any]:
        """Say something about a version.

        Raises:
            Refusal: WT_ROLE, or WT_REQUEST for no text or too much of it.
        """
        said = text.strip() if isinstance(text, str) else ""
        if not said or len(said) > LONGEST or "\x00" in said:
            raise Refusal("WT_REQUEST", f"expected a comment of 1 to {LONGEST} characters", status=400)
        with self.store.change(model, "comment", version=number, text=said) as change:
            permission.need(change.actor, "comment", "comment on a version")
            if records.version(change.session, model, number) is None:
                raise not_found(f"model {model!r} has no version {number}")
            row = {"model": model, "version": number, "text": said, "actor": change.actor.name, "at": time.time()}
            done = change.session.execute(insert(_C).values(**row))
            seq = int(done.inserted_primary_key[0])  # type: ignore[attr-defined]
        return {**row, "version": str(number), "seq": seq}
