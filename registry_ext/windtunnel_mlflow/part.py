"""What the parts of the service share: the store, and the answer that there is no such thing."""

from __future__ import annotations

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

from windtunnel_mlflow.store import GovernedStore


class Part:
    """One part of the operations behind ``/api/windtunnel/v1``; ``service.Service`` is all of them."""

    def __init__(self, store: GovernedStore) -> None:
        self.store = store


def not_found(what: str) -> MlflowException:
    """404."""
    return MlflowException(what, error_code=RESOURCE_DOES_NOT_EXIST)
