"""Brings Windtunnel's tables up to date when the store starts; safe when two processes start at once.

The version is kept in a table of its own, so MLflow's migrations and ours never see each other.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, text

VERSION_TABLE = "wt_alembic_version"
_FOLDER = Path(__file__).parent / "migrations"
# Any constant of our own: PostgreSQL's advisory lock that only one migrating process holds.
_LOCK = 0x77696E64


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    return config


def head() -> str:
    """The newest revision this code knows."""
    revision = ScriptDirectory.from_config(_config()).get_current_head()
    if revision is None:
        raise RuntimeError(f"no migration in {_FOLDER}")
    return revision


def current(connection: Connection) -> str | None:
    """The revision of the database, None before the first migration."""
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    return context.get_current_revision()


def upgrade(engine: Engine) -> bool:
    """Migrate if needed; says whether anything was done.

    The whole upgrade is one transaction behind one lock, so a process killed in the middle leaves the old
    state, and a second process waits and then finds nothing to do.
    """
    with engine.connect() as connection:
        if current(connection) == head():
            return False
        connection.rollback()
        if engine.dialect.name == "sqlite":
            connection.execute(text("PRAGMA busy_timeout = 60000"))
            connection.execute(text("BEGIN IMMEDIATE"))
        else:
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
        if current(connection) == head():
            connection.rollback()
            return False
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()
        return True
