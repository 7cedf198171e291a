"""The audit chain: a changed, removed or inserted row is found (DEMAND REG-7, first part)."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, select
from sqlalchemy.orm import Session

from windtunnel_mlflow import tables
from windtunnel_mlflow.ledger import audit
from windtunnel_mlflow.migrate import upgrade


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "audit.db"


@pytest.fixture
def rows(database: Path) -> list[dict[str, Any]]:
    engine = create_engine(f"sqlite:///{database}")
    upgrade(engine)
    with Session(engine) as session:
        for number in range(4):
            audit.append(session, actor="ada", action="tag", model="visits", version=number, detail={"n": number})
            audit.append(session, actor="ada", action="tag", model="other")
        session.commit()
        found = session.execute(
            select(tables.audit).where(tables.audit.c.model == "visits").order_by(tables.audit.c.seq)
        ).mappings()
        return [dict(row) for row in found]


def test_whole(rows: list[dict[str, Any]]) -> None:
    assert len(rows) == 4
    assert audit.broken(rows) is None
    assert rows[0]["prev"] == audit.GENESIS


def test_several_at_once_are_chained_in_their_order(rows: list[dict[str, Any]], database: Path) -> None:
    with Session(create_engine(f"sqlite:///{database}")) as session:
        told = [audit.entry(actor="a", action=str(n), model=("visits", "new")[n % 2]) for n in range(6)]
        audit.append_all(session, told)
        session.commit()
        all_rows = audit.page(session, 0, 10**6, 100)
    assert [row["action"] for row in all_rows[-6:]] == ["0", "1", "2", "3", "4", "5"]
    for model in ("visits", "new", "other"):
        assert audit.broken([row for row in all_rows if row["model"] == model]) is None


@pytest.mark.parametrize("column", audit.CHAINED)
def test_every_column_is_covered(rows: list[dict[str, Any]], column: str) -> None:
    rows[1][column] = 1.5 if column == "at" else "changed"
    assert audit.broken(rows) == rows[1]["seq"]


def test_removed_and_swapped(rows: list[dict[str, Any]]) -> None:
    assert audit.broken(rows[:1] + rows[2:]) == rows[2]["seq"]
    assert audit.broken([rows[0], rows[2], rows[1], rows[3]]) == rows[2]["seq"]


@pytest.mark.parametrize("statement", ["UPDATE wt_audit SET actor = 'x'", "DELETE FROM wt_audit WHERE seq = 1"])
def test_the_database_refuses_to_change_it(rows: list[dict[str, Any]], database: Path, statement: str) -> None:
    with sqlite3.connect(database) as connection, pytest.raises(sqlite3.IntegrityError, match="append-only"):
        connection.execute(statement)
