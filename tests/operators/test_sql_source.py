"""Data by SQL through an Airflow connection: a real database, a real connection, a real hook."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pandas as pd
import pytest

from windtunnel.data.snapshot import snapshot
from windtunnel.errors import DataError
from windtunnel.spec import Data, Evaluation
from windtunnel_airflow.operators.data import read_sql


@pytest.fixture
def connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    path = tmp_path / "team.db"
    with sqlite3.connect(path) as database:
        rows = pd.DataFrame(
            {"day": pd.date_range("2026-01-01", periods=300).astype(str), "x": range(300), "y": range(300)}
        )
        rows.to_sql("visits", database, index=False)
    monkeypatch.setenv("AIRFLOW_CONN_TEAM_DB", json.dumps({"conn_type": "sqlite", "host": str(path)}))
    return "team_db"


def data(connection: str, source: str) -> Data:
    return Data(source=source, connection=connection, time="day", target="y", features=["x"])


def test_a_select_becomes_a_snapshot(connection: str, tmp_path: Path) -> None:
    asked = data(connection, "SELECT day, x, y FROM visits WHERE x >= 50")
    taken = snapshot(asked, tmp_path / "out", evaluation=Evaluation(holdout=0.2), sql_reader=read_sql)
    assert (taken.rows, taken.holdout_rows) == (200, 50)


@pytest.mark.parametrize(
    ("name", "source", "told"),
    [
        ("team_db", "SELECT * FROM nowhere", "no such table"),
        ("team_db", "SELECT x FROM visits", "day"),
        ("no_such_connection", "SELECT 1", "no_such_connection"),
    ],
)
def test_what_cannot_be_asked_is_a_data_error(
    connection: str, tmp_path: Path, name: str, source: str, told: str
) -> None:
    with pytest.raises(DataError, match=told):
        snapshot(data(name, source), tmp_path / "out", evaluation=Evaluation(), sql_reader=read_sql)


def test_a_connection_that_is_no_database_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WEB", "http://example.invalid")
    with pytest.raises(DataError, match="web"):
        snapshot(data("web", "SELECT 1"), tmp_path / "out", evaluation=Evaluation(), sql_reader=read_sql)
