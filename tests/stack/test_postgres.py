"""The stack on PostgreSQL, where this machine has one to start."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from windtunnel.errors import StackError
from windtunnel.home import Home
from windtunnel.loopback import any_free
from windtunnel.stack import database, mlflow, processes
from windtunnel.stack.stack import Stack
from windtunnel.stackfile import StackFile, read_secret

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.timeout(400)]

PASSWORD = "pg-s3cret@x"


def tools() -> Path | None:
    """The folder of PostgreSQL's programs."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "initdb").exists():
            return folder
    found = shutil.which("initdb")
    return Path(found).parent if found else None


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A PostgreSQL of its own on loopback that asks for a password."""
    folder = tools()
    if folder is None:
        pytest.skip("no PostgreSQL on this machine")
    user = None
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        try:
            user = pwd.getpwnam("postgres").pw_name
        except KeyError:
            user = "nobody"
    place = Path(tempfile.mkdtemp(prefix="wt-pg-"))
    (place / "password").write_text(PASSWORD)
    if user:
        for path in (place, place / "password"):
            shutil.chown(path, user)
    port = any_free()

    def call(*words: str) -> None:
        subprocess.run(words, check=True, capture_output=True, user=user, cwd="/", timeout=60)

    data = str(place / "data")
    call(str(folder / "initdb"), "-D", data, "-U", "ann", "-A", "scram-sha-256", "--pwfile", str(place / "password"))
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={place} -c fsync=off"
    call(str(folder / "pg_ctl"), "-D", data, "-w", "-o", options, "-l", str(place / "log"), "start")
    try:
        quoted = PASSWORD.replace("@", "%40")
        base = f"postgresql://ann:{quoted}@127.0.0.1:{port}"
        import psycopg2

        connection = psycopg2.connect(f"{base}/postgres")
        connection.autocommit = True
        connection.cursor().execute("CREATE DATABASE flights")
        connection.close()
        yield f"{base}/flights"
    finally:
        call(str(folder / "pg_ctl"), "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(place, ignore_errors=True)


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
