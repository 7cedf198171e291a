"""A real S3 API on loopback."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_KEYS, _REGION = ("a", "b"), "us-east-1"


@contextmanager
def bucket() -> Iterator[tuple[Any, str]]:
    """A client and the name of an empty bucket, a new one each time: servers of one process share what they hold."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        import boto3

        host, port = server.get_host_and_port()
        client = boto3.client(
            "s3",
            endpoint_url=f"http://{host}:{port}",
            aws_access_key_id=_KEYS[0],
            aws_secret_access_key=_KEYS[1],
            region_name=_REGION,
        )
        name = f"b-{uuid.uuid4().hex[:12]}"
        client.create_bucket(Bucket=name)
        yield client, name
    finally:
        server.stop()


def environment(client: Any) -> dict[str, str]:
    """Variables by which boto3's chain, and MLflow, come to the same API."""
    url = client.meta.endpoint_url
    return {
        "AWS_ENDPOINT_URL_S3": url, "MLFLOW_S3_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": _KEYS[0],
        "AWS_SECRET_ACCESS_KEY": _KEYS[1], "AWS_DEFAULT_REGION": _REGION,
    }  # fmt: skip
