"""What the object store of artifacts refuses, as an answer that says so: MLflow's own is 500 and not a word."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from windtunnel.data.refusals import refusal
from windtunnel.errors import UnavailableError


@contextmanager
def told(repo: Any, path: str) -> Iterator[None]:
    """What S3 says while ``repo`` writes, or removes, at ``path``.

    Raises:
        MlflowException: it refuses (INTERNAL_ERROR: the fault is the server's, not the caller's), or does not answer.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, TEMPORARILY_UNAVAILABLE

    try:
        yield
    except MlflowException:
        raise
    except Exception as raised:
        if not str(repo.artifact_uri).startswith("s3://"):
            raise
        client = None
        with suppress(Exception):  # only for whose credentials they were
            client = repo._get_s3_client()
        if (error := refusal(raised, str(repo.artifact_uri), path, client)) is None:
            raise
        code = TEMPORARILY_UNAVAILABLE if isinstance(error, UnavailableError) else INTERNAL_ERROR
        raise MlflowException(f"the artifact store: {error}", error_code=code) from raised
