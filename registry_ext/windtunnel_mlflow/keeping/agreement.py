"""Whether MLflow's tables still say what the registry's own history says.

Whoever runs another MLflow server on the same database, or writes SQL, goes past the law. That cannot be refused
here, so it is found: by the steward, which fails, and by ``windtunnel doctor``. Only governed models are looked at, and
of versions that nobody adopted only those that came after the model was governed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlparse

from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlRegisteredModelAlias
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME
from sqlalchemy import and_, func, select
from sqlalchemy.orm import Session

from windtunnel_mlflow import records, rows, tables
from windtunnel_mlflow.access import permission
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.releases.orderrules import check_reason
from windtunnel_mlflow.service import Service
from windtunnel_mlflow.versions import locations

#: Differences in one answer; whoever has more has another problem than a list.
MOST = 1_000

_V = tables.versions
_C = tables.champions
_M = SqlModelVersion
_A = SqlRegisteredModelAlias
_LIVE = and_(_M.workspace == DEFAULT_WORKSPACE_NAME, _M.current_stage != STAGE_DELETED_INTERNAL)
_SAME = and_(_M.workspace == DEFAULT_WORKSPACE_NAME, _M.name == _V.c.model, _M.version == _V.c.version)
_GOVERNED = select(_V.c.model)


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that MLflow's tables say otherwise.

    Attributes:
        what: ``alias``, ``stage``, ``unknown-version``, ``missing-version`` or ``source``.
        found: what MLflow's tables say.
        expected: what the registry's own say.
        do: what a person can do.
    """

    model: str
    version: str | None
    what: str
    found: str
    expected: str
    do: str


class Agreement:
    """The operations behind ``/agreement`` and ``/models/M/mend``."""

    def __init__(self, service: Service) -> None:
        self.store = service.store

    def differences(self, model: str | None = None) -> list[dict[str, Any]]:
        """Where MLflow's tables and ours differ, at most ``MOST``; of one model where it is named."""
        found: list[Difference] = []
        with self.store.reading() as session:
            for one in _differences(session, model):
                found.append(one)
                if len(found) == MOST:
                    break
        return [asdict(one) for one in found]

    def mend(self, model: str, reason: Any) -> dict[str, Any]:
        """Write the champion's alias and the stage Production as the history says.

        Returns:
            ``mended`` and ``left``: the differences that were there, and those that a person must decide about.

        Raises:
            Refusal: WT_ROLE; WT_CHAMPION where the champion itself is gone.
        """
        with self.store.change(model, "mend", reason=str(reason or "")[:2000]) as change:
            session = change.session
            permission.need(change.actor, "adopt", "set MLflow's tables right")
            check_reason(reason)
            self.store._get_registered_model(session, model)
            before = list(_differences(session, model))
            champion = records.champion(session, model)
            if champion is not None and records.version(session, model, champion) is None:
                raise Refusal("WT_CHAMPION", f"the champion of {model!r}, version {champion}, is deleted", status=409)
            if records.alias(session, model, rows.CHAMPION) != champion:
                # MLflow's own methods: to set the alias is what the law decided already, when it made the champion.
                if champion is None:
                    SqlAlchemyStore.delete_registered_model_alias(self.store, model, rows.CHAMPION)
                else:
                    SqlAlchemyStore.set_registered_model_alias(self.store, model, rows.CHAMPION, champion)
            wrong = session.execute(
                select(_M.version).where(_LIVE, _M.name == model, _M.current_stage == rows.PRODUCTION)
            ).scalars()
            for number in [int(one) for one in wrong if one != champion]:
                rows.set_stage(session, model, number, rows.ARCHIVED)
            if champion is not None:
                rows.set_stage(session, model, champion, rows.PRODUCTION)
            for row in session.execute(_sources(model)).all():
                if _moved(row):
                    rows.set_source(session, model, row.version, row.ours, row.location)
            session.flush()
            session.expire_all()
            left = list(_differences(session, model))
            mended = [one for one in before if one not in left]
            change.silent = not mended
            change.detail["differences"] = [f"{one.what} {one.version or ''}: {one.found}" for one in mended]
            return {"mended": [asdict(one) for one in mended], "left": [asdict(one) for one in left]}


def _differences(session: Session, model: str | None) -> Iterator[Difference]:
    yield from _aliases(session, model)
    yield from _stages(session, model)
    yield from _unknown(session, model)
    yield from _missing(session, model)
    for row in session.execute(_sources(model)):
        if moved := _moved(row):
            yield Difference(row.model, str(row.version), "source", moved, f"source {row.ours}", _mend(row.model))


def _mend(model: str) -> str:
    return f"windtunnel registry mend {model}"


def _of(column: Any, model: str | None) -> Any:
    return column.in_(_GOVERNED) if model is None else column == model


def _aliases(session: Session, model: str | None) -> Iterator[Difference]:
    aliased = and_(_A.workspace == DEFAULT_WORKSPACE_NAME, _A.alias == rows.CHAMPION)
    theirs = {
        row.name: int(row.version)
        for row in session.execute(select(_A.name, _A.version).where(aliased, _of(_A.name, model)))
    }
    ours = {
        row.model: int(row.version)
        for row in session.execute(select(_C.c.model, _C.c.version).where(_C.c.until.is_(None), _of(_C.c.model, model)))
    }
    for name in sorted(theirs.keys() | ours.keys()):
        if theirs.get(name) != ours.get(name):
            yield Difference(
                name, _text(theirs.get(name)), "alias", _said("the alias champion is", theirs.get(name)),
                _said("the champion is", ours.get(name)), _mend(name),
            )  # fmt: skip


def _text(number: int | None) -> str | None:
    return None if number is None else str(number)


def _said(what: str, number: int | None) -> str:
    return f"{what} nobody" if number is None else f"{what} version {number}"


def _stages(session: Session, model: str | None) -> Iterator[Difference]:
    head = and_(_C.c.model == _M.name, _C.c.version == _M.version, _C.c.until.is_(None))
    query = (
        select(_M.name, _M.version, _M.current_stage, _C.c.id)
        .outerjoin(_C, head)
        .where(_LIVE, _of(_M.name, model), (_M.current_stage == rows.PRODUCTION) | _C.c.id.isnot(None))
        .order_by(_M.name, _M.version)
    )
    for row in session.execute(query):
        champion = row.id is not None
        if champion != (row.current_stage == rows.PRODUCTION):
            expected = "it is the champion: Production" if champion else "it is not the champion: another stage"
            yield Difference(
                row.name, str(row.version), "stage", f"stage {row.current_stage}", expected, _mend(row.name)
            )


def _unknown(session: Session, model: str | None) -> Iterator[Difference]:
    """Versions that came past the server after the model was governed."""
    since = select(_V.c.model, func.min(_V.c.sealed_at).label("at")).group_by(_V.c.model).subquery()
    query = (
        select(_M.name, _M.version, _M.source)
        .join(since, since.c.model == _M.name)
        .outerjoin(_V, _SAME)
        .where(_LIVE, _of(_M.name, model), _V.c.model.is_(None), _M.creation_time > since.c.at * 1000)
        .order_by(_M.name, _M.version)
    )
    for row in session.execute(query):
        yield Difference(
            row.name, str(row.version), "unknown-version", f"a version of source {row.source}", "no such version",
            f"delete it, or take it over: windtunnel registry adopt --model {row.name}",
        )  # fmt: skip


def _missing(session: Session, model: str | None) -> Iterator[Difference]:
    query = (
        select(_V.c.model, _V.c.version, _V.c.semver)
        .outerjoin(_M, and_(_SAME, _LIVE))
        .where(_V.c.deleted_at.is_(None), _M.name.is_(None))
        .order_by(_V.c.model, _V.c.version)
    )
    if model is not None:
        query = query.where(_V.c.model == model)
    for row in session.execute(query):
        yield Difference(
            row.model, str(row.version), "missing-version", "no such version", f"version {row.version} ({row.semver})",
            "put MLflow's row back from a backup of the database; its files are sealed and whole",
        )  # fmt: skip


def _sources(model: str | None) -> Any:
    query = (
        select(_V.c.model, _V.c.version, _V.c.source.label("ours"), _V.c.location, _M.source, _M.storage_location)
        .join(_M, and_(_SAME, _LIVE))
        .where(_V.c.deleted_at.is_(None), _V.c.status == rows.READY)
        .where((_M.source != _V.c.source) | (_M.storage_location != _M.source))
        .order_by(_V.c.model, _V.c.version)
    )
    return query if model is None else query.where(_V.c.model == model)


def _moved(row: Any) -> str | None:
    """What readers are sent to instead of the sealed files; None where it is these."""
    if row.source is not None and row.source != row.ours:
        return f"source {row.source}"
    if row.storage_location in (None, row.source) or urlparse(row.storage_location).scheme in ("runs", "models"):
        return None
    try:
        place: str | None = locations.repo_path(row.storage_location)
    except Refusal:
        place = None
    return None if place == row.location else f"files at {row.storage_location}"
