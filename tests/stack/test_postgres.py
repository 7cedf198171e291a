"""The stack on PostgreSQL, where this machine has one to start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from postgres import serving
from sqlalchemy import create_engine, text

from windtunnel.errors import StackError
from windtunnel.home import Home
from windtunnel.stack import database, mlflow, processes
from windtunnel.stack.stack import Stack
from windtunnel.stackfile import StackFile, read_secret

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.timeout(400)]

PASSWORD = "pg-s3cret@x"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A PostgreSQL of its own on loopback that asks for a password."""
    with serving(PASSWORD) as first:
        with create_engine(first, isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text("CREATE DATABASE flights"))
        yield first.replace("+psycopg2", "").replace("/postgres", "/flights")


def test_both_servers_use_it_and_nobody_sees_the_password(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "home")
    stack = Stack(home)
    monkeypatch.setenv(database.ENV_URL, url)
    try:
        stack.up()
        monkeypatch.delenv(database.ENV_URL)
        file = StackFile.read(home)
        assert file.database == "postgresql"
        assert "s3cret" not in home.stack_file.read_text()
        assert not (home.airflow / "airflow.db").exists() and not mlflow.database_file(home).exists()
        assert not [one for one in processes.of_home(home) if "s3cret" in one.command]
        for log in home.logs.rglob("*.log"):
            assert "s3cret" not in log.read_text(errors="replace"), log
        made = httpx.post(
            f"{file.urls['mlflow']}/api/2.0/mlflow/experiments/create",
            auth=("service", read_secret(home, "mlflow-service")), json={"name": "kept"}, timeout=60,
        )  # fmt: skip
        assert made.status_code == 200, made.text
        assert stack.down() == []
        stack.up()  # the URL is remembered, in a private file
        found = httpx.get(
            f"{StackFile.read(home).urls['mlflow']}/api/2.0/mlflow/experiments/get-by-name",
            params={"experiment_name": "kept"}, auth=("admin", read_secret(home, "mlflow-admin")), timeout=60,
        )  # fmt: skip
        assert found.status_code == 200
    finally:
        assert stack.down() == []


def test_a_wrong_password_is_said_before_anything_starts(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "home")
    monkeypatch.setenv(database.ENV_URL, url.replace("pg-s3cret", "wr0ng"))
    with pytest.raises(StackError, match=r"PostgreSQL at 127\.0\.0\.1") as caught:
        Stack(home).up()
    assert "wr0ng" not in str(caught.value)
    assert processes.of_home(home) == []
