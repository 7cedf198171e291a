"""A real S3 API on loopback."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest


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
            aws_access_key_id="a",
            aws_secret_access_key="b",
            region_name="us-east-1",
        )
        name = f"b-{uuid.uuid4().hex[:12]}"
        client.create_bucket(Bucket=name)
        yield client, name
    finally:
        server.stop()
