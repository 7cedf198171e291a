"""The MLflow server's program, as the registry room prepares it."""

from __future__ import annotations

from pathlib import Path

from windtunnel.home import Home
from windtunnel.registry import launch
from windtunnel.stack import files, settings
from windtunnel.stack.database import Databases
from windtunnel.stack.programs import Program

NAME = "mlflow"
HEALTH = "/health"


def program(home: Home, databases: Databases, port: int) -> Program:
    """The governed MLflow server on loopback. Writes the files it needs.

    Raises:
        StackError: a file cannot be written.
    """
    told = settings.read(home)
    database = None if databases.kind == "sqlite" else databases.mlflow
    prepared = launch.prepare(home, port, database_url=database, oidc=told.oidc, default_role=told.default_role)
    for folder in prepared.folders:
        files.folder(folder)
    for file in prepared.files:
        files.write(file.path, file.content, mode=file.mode)
    audit = {launch.ENV_AUDIT_EVERY: str(told.audit_every_s)}
    if told.audit_publish:
        audit[launch.ENV_AUDIT_PLACE] = told.audit_publish
    env = {"PYTHONUNBUFFERED": "1", "MALLOC_ARENA_MAX": "2", **audit, **prepared.env}
    return Program(NAME, prepared.argv, env, home.mlflow, stop_wait_s=5)


def database_file(home: Home) -> Path:
    return home.mlflow / "mlflow.db"


def _born(home: Home) -> Path:
    return home.mlflow / ".born"


def sweep_unborn(home: Home) -> bool:
    """Remove databases whose very first migration never ended; True if there were any.

    MLflow refuses a half-made schema for ever. Nobody can have stored anything in it: the server was never healthy.
    """
    if _born(home).exists():
        return False
    found = False
    for database in (database_file(home), home.mlflow / "auth.db"):
        for suffix in ("", "-wal", "-shm", "-journal"):
            path = database.with_name(database.name + suffix)
            found = found or path.exists()
            path.unlink(missing_ok=True)
    return found


def mark_born(home: Home) -> None:
    """Remember that the server was healthy once."""
    if not _born(home).exists():
        files.write(_born(home), "the database is complete\n")
