"""Where Airflow and MLflow keep their tables: SQLite files, or PostgreSQL named by a private URL.

A PostgreSQL URL holds a password, so it comes from ``$WINDTUNNEL_DATABASE_URL`` or the 0600 file
``HOME/secrets/database-url`` and never from a command line. The URL's database is Airflow's; MLflow has its own
beside it, called ``NAME_mlflow``, made by ``up`` if the role may.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from windtunnel.errors import StackError
from windtunnel.home import Home
from windtunnel.stack import files
from windtunnel.stackfile import read_secret

ENV_URL = "WINDTUNNEL_DATABASE_URL"
SECRET = "database-url"

#: Named in airflow.cfg. Seconds to wait for another process's write.
SQLITE_CONNECT_ARGS = {"timeout": 30}
SQLITE_CONNECT_ARGS_ASYNC = {"timeout": 30}


@dataclass(frozen=True, slots=True)
class Databases:
    """SQLAlchemy URLs; those of PostgreSQL name their driver, because a bare one means psycopg 3."""

    kind: str  # sqlite | postgresql
    airflow: str
    mlflow: str


def find(home: Home) -> Databases:
    """The databases of ``home``. A URL given by the environment is kept in the secrets folder from then on,
    because a restart after a power cut has no such environment.

    Raises:
        StackError: the URL is not PostgreSQL's.
    """
    given = os.environ.get(ENV_URL, "").strip()
    if given:
        parsed = from_url(given)
        files.folder(home.secrets)
        files.write(home.secrets / SECRET, given + "\n")
        return parsed
    if (home.secrets / SECRET).exists():
        return from_url(read_secret(home, SECRET))
    return Databases(
        kind="sqlite",
        airflow=f"sqlite:///{home.airflow / 'airflow.db'}",
        mlflow=f"sqlite:///{home.mlflow / 'mlflow.db'}",
    )


def from_url(url: str) -> Databases:
    """Both URLs from the one given.

    Raises:
        StackError: it does not name a PostgreSQL database. The message never repeats the URL.
    """
    parts = urlsplit(url)
    if parts.scheme.split("+")[0] not in ("postgresql", "postgres"):
        raise StackError(
            f"the database URL names {parts.scheme or 'nothing'!r}",
            hint="expected postgresql://USER:PASSWORD@HOST:PORT/NAME; leave it out for SQLite",
        )
    name = parts.path.strip("/")
    if not parts.hostname or not name:
        raise StackError(
            "the database URL names no host or no database", hint="postgresql://USER:PASSWORD@HOST:PORT/NAME"
        )

    def with_name(database: str) -> str:
        return urlunsplit(("postgresql+psycopg2", parts.netloc, f"/{database}", parts.query, ""))

    return Databases("postgresql", with_name(name), with_name(f"{name}_mlflow"))


def refuse_password() -> None:
    """Refuse a database URL in a command line, for everybody on the machine can read it there.

    Raises:
        StackError: always.
    """
    raise StackError(
        "a database URL on the command line can be read by everybody on this machine",
        hint=f"put it into the environment variable {ENV_URL}, or into HOME/secrets/{SECRET} with mode 0600",
    )


def create_postgres(databases: Databases) -> None:
    """Make MLflow's database beside Airflow's if it is missing, and see that both answer.

    Raises:
        StackError: PostgreSQL does not answer, or the role may not create the database.
    """
    import psycopg2  # type: ignore[import-untyped]
    from psycopg2 import sql

    plain = databases.airflow.replace("postgresql+psycopg2", "postgresql", 1)
    name = urlsplit(databases.mlflow).path.strip("/")
    try:
        connection = psycopg2.connect(plain, connect_timeout=10)
        connection.autocommit = True
        with contextlib.closing(connection), connection.cursor() as cursor:
            cursor.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,))
            if cursor.fetchone() is None:
                cursor.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    except psycopg2.Error as error:
        host = urlsplit(plain).hostname
        raise StackError(
            f"PostgreSQL at {host}: {str(error).strip().splitlines()[0]}",
            hint=f"the role must be able to connect and to create the database {name!r} (or create it beforehand)",
        ) from error


def refresh_statistics(path: Path) -> bool:
    """Let SQLite count what it has, so that its planner chooses the right index; True if it was done.

    Without it a search ordered by a metric over 100,000 MLflow runs does not end in a minute.
    """
    if not path.exists():
        return False
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=5)) as connection:
            connection.execute("PRAGMA analysis_limit=1000")
            connection.execute("ANALYZE")  # with the limit, quick on any size
            connection.commit()
    except sqlite3.Error:
        return False  # busy or being created; the next start does it
    return True
