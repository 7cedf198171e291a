"""The audit's migration, there and back: entries of an older database come into the tree (DEMAND REG-7)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from windtunnel.evidence import Outcome, auditcheck, entry
from windtunnel.evidence.checkpoint import SigningKey, read
from windtunnel.registry import auditfiles
from windtunnel_mlflow import migrate
from windtunnel_mlflow.ledger import audit
from windtunnel_mlflow.ledger.checkpoints import Publisher

#: The revision that hardens the audit, and the one before.
OURS, BEFORE = "0005", "0004"
SQLITE_ONLY = [
    "INSERT OR REPLACE INTO wt_audit SELECT seq, at, 'eve', action, model, version, outcome, code, detail, "
    "correlation_id, prev, hash FROM wt_audit WHERE seq = 2",
    "INSERT INTO wt_audit SELECT 3, at, 'eve', action, model, version, outcome, code, detail, correlation_id, prev, "
    "hash FROM wt_audit WHERE seq = 2",
]


def to(engine: Engine, revision: str, *, down: bool = False) -> None:
    with engine.begin() as connection:
        config = migrate._config()
        config.attributes["connection"] = connection
        (command.downgrade if down else command.upgrade)(config, revision)


def write(engine: Engine, count: int) -> None:
    with Session(engine) as session:
        for number in range(count):
            audit.append(session, actor="ada", action="tag", model=f"m{number % 3}", detail={"n": number})
        session.commit()


def walk(engine: Engine, out: Path) -> None:
    """Up to the revision before, entries, up, a checkpoint, down, up to the newest, another checkpoint: one log."""
    to(engine, BEFORE)
    write(engine, 7)
    to(engine, OURS)
    write(engine, 2)
    publisher = Publisher(lambda: Session(engine), SigningKey("log", bytes(32)), [auditfiles.place(out)])
    note = publisher.publish()["checkpoint"]
    assert read(note).size == 9
    to(engine, BEFORE, down=True)
    with engine.connect() as connection, pytest.raises(DBAPIError, match="append-only"):
        connection.execute(text("DELETE FROM wt_audit"))
    write(engine, 1)
    assert migrate.upgrade(engine)
    write(engine, 1)
    points = [read(note), read(publisher.publish()["checkpoint"])]
    with Session(engine) as session:
        rows = audit.page(session, 0, audit.settled(session), 100)
    report = auditcheck.check([entry.line(row) for row in rows], points)
    assert (report.outcome, report.entries, report.vouched) == (Outcome.PASS, 11, 11)


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[Engine]:
    engine = create_engine(f"sqlite:///{tmp_path / 'audit.db'}")
    yield engine
    engine.dispose()


def test_there_and_back_on_sqlite(sqlite: Engine, tmp_path: Path) -> None:
    walk(sqlite, tmp_path / "out")


@pytest.mark.parametrize("statement", SQLITE_ONLY, ids=["replace", "in between"])
def test_nothing_comes_in_between(sqlite: Engine, statement: str) -> None:
    migrate.upgrade(sqlite)
    write(sqlite, 4)
    with sqlite.begin() as connection:
        # A gap, as a mistake of the database's owner could leave it.
        connection.execute(text("DROP TRIGGER wt_audit_no_delete"))
        connection.execute(text("DELETE FROM wt_audit WHERE seq = 3"))
    with sqlite.connect() as connection, pytest.raises(DBAPIError, match="append-only"):
        connection.execute(text(statement))


@pytest.mark.real
def test_there_and_back_on_postgresql(postgres: str, tmp_path: Path) -> None:
    house = create_engine(postgres, isolation_level="AUTOCOMMIT")
    with house.connect() as connection:
        connection.execute(text("CREATE DATABASE audit_migration"))
        connection.execute(text("CREATE ROLE careless"))
    url: Any = house.url.set(database="audit_migration")
    engine = create_engine(url)
    to(engine, BEFORE)
    with engine.begin() as connection:
        connection.execute(text("GRANT ALL ON wt_audit TO careless"))
        connection.execute(text("GRANT UPDATE ON wt_audit TO PUBLIC"))
    walk(engine, tmp_path / "out")
    with engine.connect() as connection:
        held = "SELECT has_table_privilege('careless', 'wt_audit', :what)"
        rights = {
            what: connection.execute(text(held), {"what": what}).scalar()
            for what in ("INSERT", "UPDATE", "DELETE", "TRUNCATE", "TRIGGER")
        }
    assert [what for what, allowed in rights.items() if allowed] == ["INSERT"]
    engine.dispose()
