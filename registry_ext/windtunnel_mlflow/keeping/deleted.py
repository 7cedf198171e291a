"""Deleted versions and models: brought back while their retention lasts, and then their files go.

Rows, history and audit never go. A version's files are removed in three steps, so that a crash, or a registration of
the same files at the same moment, never meets half of them: it is marked (from then on nothing brings it back), its
files are removed unless somebody else needs them, and only then its path is open again. Whoever registers looks for the
mark after its own row is there (``Sealing.being_purged``), and the removal looks for that row after its mark is there:
one of them sees the other.
"""

from __future__ import annotations

import json
import time
from typing import Any

from mlflow.store.model_registry.dbmodels.models import SqlModelVersion
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from windtunnel_mlflow import records, rows, tables
from windtunnel_mlflow.access import permission
from windtunnel_mlflow.law import policybook
from windtunnel_mlflow.part import not_found
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.releases.orderrules import check_reason
from windtunnel_mlflow.service import Service
from windtunnel_mlflow.transactions import Change
from windtunnel_mlflow.versions import locations, memory

#: Versions whose files go in one request.
MOST = 100

_V = tables.versions
_D = tables.deleted_models


class Deleted:
    """The operations behind ``/deleted``, ``/models/M/restore`` and ``/purge``."""

    def __init__(self, service: Service) -> None:
        self.store = service.store

    def versions(self, model: str | None = None) -> list[dict[str, Any]]:
        """Deleted versions, the last first: ``until`` when they can be brought back, ``purged_at`` or ``why`` not."""
        query = select(_V).where(_V.c.deleted_at > 0).order_by(_V.c.deleted_at.desc(), _V.c.version.desc())
        if model is not None:
            query = query.where(_V.c.model == model)
        with self.store.reading() as session:
            return [_told(session, row) for row in session.execute(query.limit(10_000))]

    def restore_version(self, model: str, number: int, reason: Any) -> dict[str, Any]:
        """Bring a version back with its number, semantic version, tags and description; aliases are set anew.

        Raises:
            Refusal: WT_ROLE; WT_RETENTION where it cannot be brought back any more.
        """
        with self.store.change(model, "restore-version", version=number, reason=str(reason or "")[:2000]) as change:
            permission.need(change.actor, "restore", "bring back a version")
            check_reason(reason)
            self.store._get_registered_model(change.session, model)
            row = change.session.execute(select(_V).where(_V.c.model == model, _V.c.version == number)).first()
            if row is None or row.deleted_at is None:
                raise not_found(f"model {model!r} has no deleted version {number}")
            self._restore(change, row)
            found = records.version(change.session, model, number) or {}
        self._go_on(model, [found])
        return found

    def restore_model(self, model: str, reason: Any) -> dict[str, Any]:
        """Bring a model back, with the versions that were deleted with it.

        Returns:
            ``versions`` that are back, and ``lost``: those that cannot be.

        Raises:
            Refusal: WT_ROLE; WT_RESTORE where there is a model of that name again.
        """
        with self.store.change(model, "restore-model", reason=str(reason or "")[:2000]) as change:
            session = change.session
            permission.need(change.actor, "restore", "bring back a model")
            check_reason(reason)
            one = session.execute(
                select(_D).where(_D.c.model == model, _D.c.restored_at.is_(None)).order_by(_D.c.seq.desc()).limit(1)
            ).first()
            if one is None:
                raise not_found(f"there is no deleted model {model!r}")
            if not change.actor.trusted and one.actor != change.actor.name:
                raise Refusal(
                    "WT_ROLE", f"model {model!r} was deleted by {one.actor}; they or an administrator restore it"
                )
            if self.store._model_exists(model):
                raise Refusal(
                    "WT_RESTORE",
                    f"there is a model {model!r} again",
                    hint=f"bring its versions back one by one: windtunnel registry restore {model} VERSION",
                    status=409,
                )
            memory.put_model_back(session, model, json.loads(one.kept))
            session.execute(update(_D).where(_D.c.seq == one.seq).values(restored_at=time.time()))
            back, lost = [], []
            together = select(_V).where(_V.c.model == model, _V.c.deleted_at == one.deleted_at).order_by(_V.c.version)
            for row in session.execute(together).all():
                told = _told(session, row)
                if told["why"] is None:
                    self._restore(change, row)
                    back.append(records.version(session, model, row.version) or {})
                else:
                    lost.append(told)
            self._reserve(session, model)
            change.detail |= {"versions": [found["version"] for found in back]}
        self._go_on(model, back)
        return {"model": model, "versions": back, "lost": lost}

    def purge(self, dry_run: bool = False) -> dict[str, Any]:
        """Remove the files of deleted versions whose retention has ended, at most ``MOST``.

        Returns:
            ``purged``: each with ``model``, ``version``, ``location`` and ``removed`` (False where somebody else
            needs the files); ``left``: how many the next call takes up.
        """
        if dry_run:
            due, left = self._due()
            return {"purged": [{**one, "removed": False} for one in due], "left": left}
        with self.store.change(tables.HOUSE, "purge") as change:
            change.silent = True
            permission.need(change.actor, "clean", "remove files of deleted versions")
        due, left = self._due()
        return {"purged": [self._purge(**one) for one in due], "left": left}

    def _due(self) -> tuple[list[dict[str, Any]], int]:
        now = time.time()
        query = select(_V).where(_V.c.deleted_at > 0, _V.c.location.isnot(None)).order_by(_V.c.deleted_at)
        with self.store.reading() as session:
            kept: dict[str, float] = {}
            due = []
            for row in session.execute(query):
                if row.model not in kept:
                    kept[row.model] = _retention(session, row.model)
                # Marked and still with its path: a purge that did not come to its end.
                if row.purged_at is not None or row.deleted_at + kept[row.model] <= now:
                    due.append({"model": row.model, "version": str(row.version), "location": row.location})
        return due[:MOST], max(0, len(due) - MOST)

    def _purge(self, model: str, version: str, location: str) -> dict[str, Any]:
        ours = (_V.c.model == model) & (_V.c.version == int(version))
        told = {"model": model, "version": version, "location": location}
        with self.store.change(model, "purge-version", version=version, location=location) as change:
            row = change.session.execute(select(_V).where(ours)).first()
            if row is None or row.deleted_at is None or row.location is None:
                change.silent = True
                return {**told, "removed": False}
            if row.purged_at is None:
                change.session.execute(update(_V).where(ours).values(purged_at=time.time()))
            else:
                change.silent = True
        removed = not self._needed(location)
        if removed:
            self.store.remove_files(location)
        with self.store.change(model, "purged-version", version=version, location=location, removed=removed) as change:
            change.session.execute(update(_V).where(ours).values(location=None))
        return {**told, "removed": removed}

    def _needed(self, location: str) -> bool:
        """Whether another version, live or recoverable, has its files at, above or below a location."""
        with self.store.reading() as session:
            others = select(_V.c.model).where(_V.c.purged_at.is_(None), locations.touching(_V.c.location, location))
            return session.execute(others.limit(1)).first() is not None

    def _restore(self, change: Change, row: Any) -> None:
        session = change.session
        if (why := _told(session, row)["why"]) is not None:
            raise Refusal(
                "WT_RETENTION", f"version {row.version} of {row.model!r} cannot be brought back: {why}", status=409
            )
        kept = json.loads(row.kept)
        memory.put_version_back(session, row.model, row.version, kept)
        taken = session.execute(select(_V.c.version).where(_V.c.model == row.model, _V.c.key == kept["key"])).scalar()
        values: dict[str, Any] = {"deleted_at": None, "kept": None}
        if taken is None:
            values["key"] = kept["key"]
        else:
            # One key names one version, and since it was deleted that is another one.
            change.detail["key_of"] = str(taken)
        session.execute(update(_V).where(_V.c.model == row.model, _V.c.version == row.version).values(**values))
        change.detail["aliases_were"] = kept["aliases"]

    def _go_on(self, model: str, found: list[dict[str, Any]]) -> None:
        for one in found:
            if one.get("status") == rows.PENDING and self.store.sealer is not None:
                self.store.sealer.submit(model, int(one["version"]))

    def _reserve(self, session: Session, model: str) -> None:
        highest = session.execute(select(func.max(_V.c.version)).where(_V.c.model == model)).scalar()
        there = select(SqlModelVersion.version).where(
            SqlModelVersion.workspace == DEFAULT_WORKSPACE_NAME,
            SqlModelVersion.name == model,
            SqlModelVersion.version == highest,
        )
        if session.execute(there).first() is None:
            self.store._reserve_numbers(session, model)


def _retention(session: Session, model: str) -> float:
    return policybook.in_force(session, model).document.retention.total_seconds()


def _told(session: Session, row: Any) -> dict[str, Any]:
    until = row.deleted_at + _retention(session, row.model)
    kept = json.loads(row.kept) if row.kept else None
    why = None
    if row.purged_at is not None:
        why = "its files were removed when its retention had ended"
    elif kept is None:
        why = "it was deleted before the registry kept what bringing back takes"
    elif time.time() >= until:
        why = "its retention has ended"
    return {
        "model": row.model,
        "version": str(row.version),
        "semver": row.semver,
        "deleted_at": row.deleted_at,
        "by": kept and kept["by"],
        "until": until,
        "purged_at": row.purged_at,
        "why": why,
    }
