"""What the registry knows of one model, as one record: rows of our tables, of MLflow's and of the runs behind them.

A record holds nothing of the database it comes from: rows that a database numbers by itself are told in their order
instead, so that a record of a restored model is the same record, byte by byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlModelVersionTag,
    SqlRegisteredModel,
    SqlRegisteredModelAlias,
    SqlRegisteredModelTag,
)
from mlflow.store.tracking.dbmodels.models import SqlExperiment, SqlLatestMetric, SqlMetric, SqlParam, SqlRun, SqlTag
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME
from sqlalchemy import Integer, Table, inspect, or_, select, text
from sqlalchemy.orm import Session

from windtunnel import canonical
from windtunnel.registry.exchange import FORM
from windtunnel_mlflow import tables

#: Not of a record: the audit is a chain of its own, and the outbox is news for readers of this installation.
_APART = {tables.audit.name, tables.outbox.name}
#: MLflow's tables of a model, each with the column that holds the model's name.
MLFLOW: dict[str, Table] = {
    entity.__table__.name: entity.__table__
    for entity in (
        SqlRegisteredModel,
        SqlRegisteredModelTag,
        SqlModelVersion,
        SqlModelVersionTag,
        SqlRegisteredModelAlias,
    )
}
#: MLflow's tables of a run.
OF_RUNS: dict[str, Table] = {entity.__table__.name: entity.__table__ for entity in (SqlParam, SqlMetric, SqlTag)}
RUNS: Table = SqlRun.__table__
EXPERIMENTS: Table = SqlExperiment.__table__
LATEST: Table = SqlLatestMetric.__table__
#: Tables of one version that moves: what belongs to the model, or to other versions, stays.
_NO_VERSION = {tables.policies.name, tables.reviews.name}


def ours() -> dict[str, Table]:
    """Our tables that hold rows of models, in an order in which they can be written."""
    return {
        table.name: table
        for table in tables.metadata.sorted_tables
        if "model" in table.c and table.name not in _APART and table.name.startswith("wt_")
    }


def numbered(table: Table) -> str | None:
    """The column that the database itself counts, if it has one."""
    found = [column for column in table.primary_key.columns if isinstance(column.type, Integer)]
    return found[0].name if len(table.primary_key.columns) == 1 and found else None


def snapshot(session: Session) -> None:
    """Everything read from now on in this transaction is of one moment."""
    if session.get_bind().dialect.name == "sqlite":
        session.execute(text("BEGIN"))
    else:
        session.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))


def names(session: Session) -> list[str]:
    """Every model that there is, or ever was."""
    known = set(session.execute(select(SqlRegisteredModel.name)).scalars())
    for table in ours().values():
        known |= set(session.execute(select(table.c.model).distinct()).scalars())
    return sorted(known - {tables.HOUSE})


def model(session: Session, name: str) -> dict[str, Any]:
    """The record of a model; empty tables where there is none."""
    return _record(session, "model", name, None)


def version(session: Session, name: str, number: int) -> dict[str, Any]:
    """The record of one version."""
    return _record(session, "version", name, number) | {"version": str(number)}


def house(session: Session) -> dict[str, Any]:
    """What belongs to no model: the policy of the house, and freezes."""
    found = {
        tables.policies.name: _rows(session, tables.policies, tables.policies.c.model == tables.HOUSE),
        tables.freezes.name: _rows(session, tables.freezes),
    }
    return {"form": FORM, "kind": "house", "name": tables.HOUSE, "tables": found, "runs": []}


def is_empty(record: Mapping[str, Any]) -> bool:
    """Whether it says nothing."""
    return not any(record["tables"].values())


def body(record: Mapping[str, Any]) -> bytes:
    """The bytes that are digested, signed and kept."""
    return canonical.dumps(dict(record))


def _record(session: Session, kind: str, name: str, number: int | None) -> dict[str, Any]:
    found: dict[str, list[dict[str, Any]]] = {}
    for key, table in ours().items():
        if number is not None and key in _NO_VERSION:
            continue
        where = [table.c.model == name]
        if number is not None:
            if "version" not in table.c:
                continue
            whole = isinstance(table.c.version.type, Integer)
            own = table.c.version == (number if whole else str(number))
            if table is tables.verdicts:
                # A check of its data names the data, and maybe no version.
                own = or_(own, table.c.subject.in_(_subjects(session, name, number)))
            where.append(own)
        found[key] = _rows(session, table, *where)
    _place_seen(session, name, found)
    for key, table in MLFLOW.items():
        where = [table.c.workspace == DEFAULT_WORKSPACE_NAME, table.c.name == name]
        if number is not None:
            if "version" not in table.c:
                continue
            where.append(table.c.version == number)
        found[key] = _rows(session, table, *where, leave=("workspace", "name"))
    runs = sorted({row["run_id"] for row in found[tables.versions.name] + found["model_versions"] if row["run_id"]})
    return {"form": FORM, "kind": kind, "name": name, "tables": found, "runs": _runs(session, runs)}


def _subjects(session: Session, name: str, number: int) -> list[str]:
    table = tables.versions
    row = session.execute(
        select(table.c.digest, table.c.recipe).where(table.c.model == name, table.c.version == number)
    ).first()
    if row is None:
        return []
    data = canonical.loads(row.recipe).get("data")
    return [one for one in (row.digest, data) if isinstance(one, str)]


def _place_seen(session: Session, name: str, found: dict[str, list[dict[str, Any]]]) -> None:
    """Approvals name the newest verdict that was seen by its number; here, by how many of the model there were."""
    numbers = list(
        session.execute(select(tables.verdicts.c.seq).where(tables.verdicts.c.model == name).order_by("seq")).scalars()
    )
    for row in found[tables.approvals.name]:
        row["seen"] = sum(1 for seq in numbers if seq <= row["seen"])


def _rows(session: Session, table: Table, *where: Any, leave: Iterable[str] = ()) -> list[dict[str, Any]]:
    counted = numbered(table)
    left = {*leave, counted, "model"} if "model" in table.c else {*leave, counted}
    columns = [column for column in table.c if column.name not in left]
    order = [table.c[counted]] if counted else list(table.primary_key.columns)
    query = select(*columns).where(*where).order_by(*order)
    return [dict(row) for row in session.execute(query).mappings()]


def _runs(session: Session, identifiers: list[str]) -> list[dict[str, Any]]:
    """Runs with parameters, metrics and tags; those of the tracking store's database, which is the registry's."""
    if not identifiers or not _has(session, RUNS.name):
        return []
    made = []
    for identifier in identifiers:
        row = session.execute(
            select(RUNS, EXPERIMENTS.c.name.label("experiment"))
            .join(EXPERIMENTS, EXPERIMENTS.c.experiment_id == RUNS.c.experiment_id)
            .where(RUNS.c.run_uuid == identifier)
        ).mappings().first()  # fmt: skip
        if row is None:
            continue
        one = {key: value for key, value in row.items() if key not in ("experiment_id",)}
        for key, table in OF_RUNS.items():
            one[key] = _rows(session, table, table.c.run_uuid == identifier, leave=("run_uuid",))
        made.append(one)
    return made


def _has(session: Session, table: str) -> bool:
    return bool(inspect(session.connection()).has_table(table))
