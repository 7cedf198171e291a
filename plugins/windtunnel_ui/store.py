"""The object store where a cluster's workers put reports, by Airflow's connection ``windtunnel_default``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from windtunnel.data.objects import Objects

CONNECTION = "windtunnel_default"
#: A page waits no longer than this for the store to say anything (seconds), and asks it twice.
WITHIN_S = 3.0


def store() -> Objects | None:
    """The store; None where there is no such connection, or it names none.

    Raises:
        DataError: what it names is no store.
    """
    from airflow.exceptions import AirflowNotFoundException
    from airflow.models.connection import Connection

    from windtunnel.data import objects

    try:
        extra = Connection.get_connection_from_secrets(CONNECTION).extra_dejson
    except AirflowNotFoundException:
        return None
    url = str(extra.get("store") or "")
    if not url:
        return None
    return objects.connect(url, _client(extra.get("store_conn_id")) if url.startswith("s3://") else None)


def _client(conn_id: str | None) -> Any:
    """A boto3 client by the amazon provider's connection, else by the environment."""
    from botocore.config import Config  # type: ignore[import-untyped]

    config = Config(connect_timeout=WITHIN_S, read_timeout=WITHIN_S, retries={"total_max_attempts": 2})
    if conn_id:
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        return S3Hook(aws_conn_id=str(conn_id), config=config).get_conn()
    import boto3  # type: ignore[import-untyped]

    return boto3.client("s3", config=config)
