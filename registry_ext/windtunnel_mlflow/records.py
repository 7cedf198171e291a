"""Rows as the plain dicts that travel to clients, and the few queries every part of the store shares."""

from __future__ import annotations

import json
from typing import Any

from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlRegisteredModelAlias
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME
from sqlalchemy import Row, Select, and_, func, select
from sqlalchemy.orm import Session

from windtunnel_mlflow import tables

OPEN = ("running", "promoting")
_V = tables.versions


def _joined() -> Any:
    return (
        select(_V, SqlModelVersion.current_stage.label("stage"))
        .outerjoin(
            SqlModelVersion,
            and_(
                SqlModelVersion.workspace == DEFAULT_WORKSPACE_NAME,
                SqlModelVersion.name == _V.c.model,
                SqlModelVersion.version == _V.c.version,
            ),
        )
        .where(_V.c.deleted_at.is_(None))
    )


def _version(row: Row[Any]) -> dict[str, Any]:
    plain = dict(row._mapping)
    plain["version"] = str(plain["version"])
    plain["parent"] = None if plain["parent"] is None else str(plain["parent"])
    plain["recipe"] = json.loads(plain["recipe"])
    plain["facts"] = json.loads(plain["facts"])
    plain["manifest"] = json.loads(plain["manifest"]) if plain["manifest"] else {}
    plain["adopted"] = json.loads(plain["adopted"]) if plain["adopted"] else None
    for inner in ("deleted_at", "kept", "purged_at"):
        plain.pop(inner)
    return plain


def version(session: Session, model: str, number: int) -> dict[str, Any] | None:
    """One version that is not deleted."""
    row = session.execute(_joined().where(_V.c.model == model, _V.c.version == number)).first()
    return None if row is None else _version(row)


def versions(session: Session, model: str) -> list[dict[str, Any]]:
    """All versions that are not deleted, newest first."""
    rows = session.execute(_joined().where(_V.c.model == model).order_by(_V.c.version.desc()))
    return [_version(row) for row in rows]


def governed(session: Session, model: str) -> bool:
    """Whether the model has, or ever had, a version of ours."""
    return session.execute(select(_V.c.version).where(_V.c.model == model).limit(1)).first() is not None


def champion(session: Session, model: str) -> int | None:
    """Number of the current champion."""
    return session.execute(_reigning(model)).scalar()


def champion_version(session: Session, model: str) -> dict[str, Any] | None:
    """The current champion, in one statement: between two another version could have taken its place."""
    reigning = _reigning(model).scalar_subquery()
    row = session.execute(_joined().where(_V.c.model == model, _V.c.version == reigning)).first()
    return None if row is None else _version(row)


def parent(session: Session, model: str, but: str) -> dict[str, Any] | None:
    """What a new version is compared with: the champion, else the newest version whose status is not ``but``."""
    newest = select(func.max(_V.c.version)).where(_V.c.model == model, _V.c.deleted_at.is_(None), _V.c.status != but)
    number = func.coalesce(_reigning(model).scalar_subquery(), newest.scalar_subquery())
    row = session.execute(_joined().where(_V.c.model == model, _V.c.version == number)).first()
    return None if row is None else _version(row)


def _reigning(model: str) -> Select[int]:
    table = tables.champions
    return (
        select(table.c.version)
        .where(table.c.model == model, table.c.until.is_(None))
        .order_by(table.c.id.desc())
        .limit(1)
    )


def rollout(row: Any) -> dict[str, Any]:
    """A rollout as clients see it."""
    plain = dict(row._mapping)
    plain["version"] = str(plain["version"])
    plain["champion"] = None if plain["champion"] is None else str(plain["champion"])
    plain["plan"] = json.loads(plain["plan"])
    return plain


def verdict(row: Any) -> dict[str, Any]:
    """A kept verdict as clients see it."""
    return {**json.loads(row.body), "id": row.id, "claimed": bool(row.claimed), "seq": row.seq}


def open_rollout(session: Session, model: str) -> dict[str, Any] | None:
    """The one rollout of the model that has not ended."""
    table = tables.rollouts
    row = session.execute(
        select(table).where(table.c.model == model, table.c.state.in_(OPEN)).order_by(table.c.token.desc()).limit(1)
    ).first()
    return None if row is None else rollout(row)


def alias(session: Session, model: str, name: str) -> int | None:
    """Version an alias of MLflow's points to."""
    return session.execute(
        select(SqlRegisteredModelAlias.version).where(
            SqlRegisteredModelAlias.workspace == DEFAULT_WORKSPACE_NAME,
            SqlRegisteredModelAlias.name == model,
            SqlRegisteredModelAlias.alias == name,
        )
    ).scalar()
