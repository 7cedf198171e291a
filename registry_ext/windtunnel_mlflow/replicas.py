"""Read replicas of MLflow: its own gets and searches go there, whatever the law looks at does not.

A replica is behind. A release, an approval or a sealed path that was decided there would be decided on what was.
"""

from __future__ import annotations

import functools
import os
import time
from typing import Any

#: Seconds a server that starts waits for the replica to have what the primary's tables are.
FOLLOWS_WITHIN = 120.0


def replica_uri() -> str | None:
    """Where MLflow's reads go: what ``mlflow server --read-replica-backend-store-uri`` was given."""
    from mlflow.server.constants import READ_REPLICA_BACKEND_STORE_URI_ENV_VAR

    return os.environ.get(READ_REPLICA_BACKEND_STORE_URI_ENV_VAR) or None


def follow(primary: str, replica: str, within: float = FOLLOWS_WITHIN) -> None:
    """Wait until MLflow's tables of the primary are on its replica as well, in the same revision.

    MLflow's stores ask the replica as they are made: a first start, or the first after an upgrade of MLflow, would
    fail for a replica that is a moment behind.

    Args:
        primary: SQLAlchemy URL of the primary; MLflow's tables are made there when it has none.
        replica: SQLAlchemy URL of its replica.
        within: seconds.

    Raises:
        MlflowException: the replica has not followed, or cannot be reached.
    """
    import sqlalchemy
    from mlflow.exceptions import MlflowException
    from mlflow.store.db import utils

    first = utils.create_sqlalchemy_engine_with_retry(primary)
    second = sqlalchemy.create_engine(replica, poolclass=sqlalchemy.pool.NullPool)
    try:
        if not utils._all_tables_exist(first):
            utils._initialize_tables(first)
        wanted, end, found = utils._get_schema_version(first), time.monotonic() + within, "no answer"
        while True:
            try:
                found = f"revision {utils._get_schema_version(second)}"
                if found == f"revision {wanted}":
                    return
            except sqlalchemy.exc.SQLAlchemyError as error:
                found = str(error).strip().partition("\n")[0]
            if time.monotonic() > end:
                break
            time.sleep(0.2)
        raise MlflowException(
            f"the read replica {second.url.render_as_string()} does not follow its primary: MLflow's tables there are "
            f"of revision {wanted}, and of the replica is known after {within:g} s: {found}; let it follow, or start "
            "without a replica"
        )
    finally:
        first.dispose()
        second.dispose()


def tracking_store() -> Any:
    """MLflow's tracking store that reads from the primary: a version is often registered the moment its run ended."""
    from mlflow.server.handlers import _get_tracking_store

    found = _get_tracking_store()
    if getattr(found, "read_engine", None) is None:
        return found
    return _of_primary(found.db_uri, found.artifact_root_uri)


@functools.cache
def _of_primary(db_uri: str, artifact_root: str) -> Any:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    return SqlAlchemyStore(db_uri, artifact_root)
