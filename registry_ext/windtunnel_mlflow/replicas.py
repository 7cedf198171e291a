"""Read replicas of MLflow: its own gets and searches go there, whatever the law looks at does not.

A replica is behind. A release, an approval or a sealed path that was decided there would be decided on what was.
"""

from __future__ import annotations

import functools
import os
from typing import Any


def replica_uri() -> str | None:
    """Where MLflow's reads go: what ``mlflow server --read-replica-backend-store-uri`` was given."""
    from mlflow.server.constants import READ_REPLICA_BACKEND_STORE_URI_ENV_VAR

    return os.environ.get(READ_REPLICA_BACKEND_STORE_URI_ENV_VAR) or None


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
