"""Databases: SQLite by default; a PostgreSQL URL only from private places."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from windtunnel.errors import StackError
from windtunnel.home import Home
from windtunnel.stack import database

URL = "postgresql://ann:s3cr%40t@db.example:5433/airflow"


def test_sqlite_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(database.ENV_URL, raising=False)
    found = database.find(Home(tmp_path))
    assert found.kind == "sqlite"
    assert found.airflow == f"sqlite:///{tmp_path}/airflow/airflow.db"


def test_a_url_from_the_environment_is_kept_privately(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(database.ENV_URL, URL)
    found = database.find(Home(tmp_path))
    assert found.airflow == "postgresql+psycopg2://ann:s3cr%40t@db.example:5433/airflow"
    assert found.mlflow == "postgresql+psycopg2://ann:s3cr%40t@db.example:5433/airflow_mlflow"
    assert (tmp_path / "secrets" / "database-url").stat().st_mode & 0o777 == 0o600
    monkeypatch.delenv(database.ENV_URL)
    assert database.find(Home(tmp_path)) == found  # the next start has no such environment


def test_a_file_that_others_can_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(database.ENV_URL, raising=False)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "database-url").write_text(URL)
    (tmp_path / "secrets" / "database-url").chmod(0o644)
    with pytest.raises(StackError, match="can be read by others"):
        database.find(Home(tmp_path))


@pytest.mark.parametrize("url", ["mysql://ann:s3cret@h/d", "postgresql://ann:s3cret@h", "postgresql:///d", "s3cret"])
def test_a_wrong_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(StackError) as caught:
        database.from_url(url)
    assert "s3cret" not in str(caught.value) or url == "s3cret"
    assert "ann" not in str(caught.value)


def test_statistics_are_made_for_tables_nobody_read(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (a INTEGER, b INTEGER)")
        connection.execute("CREATE INDEX i ON t (a)")
        connection.executemany("INSERT INTO t VALUES (?, ?)", [(n % 7, n) for n in range(5000)])
    connection.close()
    assert database.refresh_statistics(path)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_stat1").fetchone()[0] >= 1
    connection.close()
    assert not database.refresh_statistics(tmp_path / "absent.db")
