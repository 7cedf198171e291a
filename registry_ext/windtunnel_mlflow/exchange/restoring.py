"""Rows of a record written into an installation that has none of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME
from sqlalchemy import Table, insert, select
from sqlalchemy.orm import Session

from windtunnel_mlflow import tables
from windtunnel_mlflow.exchange import dumping
from windtunnel_mlflow.refusal import Refusal


def model(session: Session, record: Mapping[str, Any]) -> None:
    """All rows of a model, in the caller's transaction. The model is not there yet.

    Raises:
        Refusal: WT_EXPORT: the record has tables or columns that this registry does not know.
    """
    known = dumping.ours()
    unknown = sorted(set(record["tables"]) - {*known, *dumping.MLFLOW})
    if unknown:
        raise Refusal("WT_EXPORT", f"this registry has no tables {', '.join(unknown)}", hint="update Windtunnel first")
    name, found = record["name"], record["tables"]
    for key, table in dumping.MLFLOW.items():
        _write(session, table, found.get(key, ()), workspace=DEFAULT_WORKSPACE_NAME, name=name)
    seen = [0]
    for row in found.get(tables.verdicts.name, ()):
        seen.append(_write(session, tables.verdicts, [row], model=name))
    for key, table in known.items():
        if table is tables.verdicts:
            continue
        rows = found.get(key, ())
        if table is tables.approvals:
            rows = [{**row, "seen": seen[row["seen"]]} for row in rows]
        _write(session, table, rows, model=name)
    runs(session, record["runs"])


def house(session: Session, record: Mapping[str, Any]) -> None:
    """The policy of the house, and freezes."""
    _write(session, tables.policies, record["tables"][tables.policies.name], model=tables.HOUSE)
    _write(session, tables.freezes, record["tables"][tables.freezes.name])


def experiments(session: Session, record: Mapping[str, Any]) -> list[str]:
    """Names of experiments that its runs are in and that are not here."""
    wanted = {run["experiment"] for run in record["runs"]}
    have = set(session.execute(select(dumping.EXPERIMENTS.c.name)).scalars())
    return sorted(wanted - have)


def runs(session: Session, found: Any) -> None:
    """Runs that are not here; their experiments are."""
    for plain in found:
        there = session.execute(
            select(dumping.RUNS.c.run_uuid).where(dumping.RUNS.c.run_uuid == plain["run_uuid"])
        ).first()
        if there is not None:
            continue
        identifier = session.execute(
            select(dumping.EXPERIMENTS.c.experiment_id).where(dumping.EXPERIMENTS.c.name == plain["experiment"])
        ).scalar_one()
        row = {key: value for key, value in plain.items() if key not in (*dumping.OF_RUNS, "experiment")}
        _write(session, dumping.RUNS, [row], experiment_id=identifier)
        for key, table in dumping.OF_RUNS.items():
            _write(session, table, plain[key], run_uuid=plain["run_uuid"])
        _latest(session, plain)


def _latest(session: Session, plain: Mapping[str, Any]) -> None:
    """MLflow keeps the newest value of each metric apart: greatest step, then time, then value."""
    newest: dict[str, Mapping[str, Any]] = {}
    for row in plain["metrics"]:
        former = newest.get(row["key"])
        if former is None or _order(row) > _order(former):
            newest[row["key"]] = row
    _write(session, dumping.LATEST, list(newest.values()), run_uuid=plain["run_uuid"])


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["step"], row["timestamp"], row["value"]


def _write(session: Session, table: Table, rows: Any, **more: Any) -> int:
    """Insert rows in their order; the number that the database gave the last, 0 for tables without."""
    number = 0
    for row in rows:
        strange = sorted(set(row) - set(table.c.keys()))
        if strange:
            raise Refusal(
                "WT_EXPORT", f"this registry's {table.name} has no {', '.join(strange)}", hint="update Windtunnel first"
            )
        done = session.execute(insert(table).values(**row, **more))
        if dumping.numbered(table):
            number = int(done.inserted_primary_key[0])  # type: ignore[attr-defined]
    return number
