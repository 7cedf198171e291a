"""The database's schema, MLflow's, its auth's and ours, brought up to date by one process at a time.

MLflow's own guard is a file lock: it knows nothing of another pod. Here PostgreSQL itself holds the lock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from sqlalchemy import Engine, create_engine, text

from windtunnel.errors import StackError, UnavailableError
from windtunnel_mlflow import migrate
from windtunnel_mlflow.cluster import election

#: PostgreSQL's advisory lock of whoever migrates all three. Another than ``migrate``'s own, which is taken within.
_LOCK = 0x77696E65


def upgrade(url: str, role: str | None = None, *, auth: bool = True) -> bool:
    """Bring all three schemas up to date; whether anything was done.

    Args:
        url: SQLAlchemy URL of the database, as the tables' owner.
        auth: MLflow's auth as well. A process that will serve leaves it to the app, which does it when it is made: to
            import it before would fix its settings too early.
        role: the server's own role, where it is not the owner: it is given what it needs (``ledger.roles``).

    Raises:
        StackError: the role cannot be separated.
    """
    engine = create_engine(url)
    try:
        with _alone(engine):
            before = _standing(engine)
            _mlflow(engine)
            migrate.upgrade(engine)
            if auth:
                _auth(engine)
            if role:
                _separate(engine, role)
            return _standing(engine) != before
    finally:
        engine.dispose()


def downgrade(url: str, revision: str, wait: float = 120.0) -> None:
    """Take our own tables back to a revision, before an older image is started. MLflow's have no way back.

    Args:
        wait: seconds that a server which is being ended may take. None serves or begins to meanwhile: it would go on
            without its tables, or bring them up again.

    Raises:
        StackError: there is no such revision, or it is a newer one.
        UnavailableError: a server serves.
    """
    from alembic import command
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = migrate._config()
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            now = migrate.current(connection)
            known = [one.revision for one in ScriptDirectory.from_config(config).walk_revisions(head=now or "head")]
            if now is None or revision not in known:
                raise StackError(
                    f"the registry's schema is at {now}, and {revision!r} is not before it",
                    hint=f"expected one of {', '.join(reversed(known))}",
                )
        with _nobody_serves(engine, wait), _alone(engine), engine.connect() as connection:
            config.attributes["connection"] = connection
            command.downgrade(config, revision)
            connection.commit()
    except CommandError as error:
        raise StackError(f"the schema cannot go back to {revision!r}: {error}") from error
    finally:
        engine.dispose()


@contextmanager
def _nobody_serves(engine: Engine, wait: float) -> Iterator[None]:
    """Hold the lock of whoever serves, so that nobody does."""
    lock = {"first": election.LOCK[0], "second": election.LOCK[1]}
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        until = time.monotonic() + wait
        while not connection.execute(text("SELECT pg_try_advisory_lock(:first, :second)"), lock).scalar():
            if time.monotonic() >= until:
                raise UnavailableError(
                    "a server of this registry serves: its tables cannot be taken back under it",
                    hint="end all of them first: kubectl scale deployment/RELEASE-registry --replicas=0",
                )
            time.sleep(min(1.0, max(0.0, until - time.monotonic())))
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:first, :second)"), lock)


@contextmanager
def _alone(engine: Engine) -> Iterator[None]:
    """Nobody else migrates this database meanwhile; the lock ends with the process, however that ends."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": _LOCK})
        try:
            yield
        finally:
            connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _LOCK})


def _mlflow(engine: Engine) -> None:
    from mlflow.store.db import utils

    if not utils._all_tables_exist(engine):
        utils._initialize_tables(engine)
    elif utils._get_schema_version(engine) != utils._get_latest_schema_revision():
        utils._upgrade_db(engine)


def _auth(engine: Engine) -> None:
    from alembic import command
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    utils = import_module("mlflow.server.auth.db.utils")
    config = utils._get_alembic_config(engine.url.render_as_string(hide_password=False))
    head = ScriptDirectory.from_config(config).get_current_head()
    with engine.begin() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "alembic_version_auth"})
        if context.get_current_revision() == head:
            return
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def _standing(engine: Engine) -> list[tuple[str, str]]:
    """Each version table and what it says."""
    found = []
    with engine.connect() as connection:
        for table in ("alembic_version", "alembic_version_auth", migrate.VERSION_TABLE):
            there = connection.execute(text("SELECT to_regclass(:name)"), {"name": table}).scalar()
            if there:
                rows = connection.execute(text(f"SELECT version_num FROM {table}")).scalars()
                found += [(table, str(row)) for row in rows]
    return found


def _separate(engine: Engine, role: str) -> None:
    from windtunnel_mlflow.ledger import roles

    try:
        with engine.begin() as connection:
            roles.separate(connection, role)
    except ValueError as error:
        raise StackError(f"the server's role cannot be separated: {error}") from error
