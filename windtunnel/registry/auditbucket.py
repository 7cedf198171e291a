"""A bucket where checkpoints of the audit are published (``s3://BUCKET/PREFIX``), any S3-compatible store.

A name is added by a conditional write (``If-None-Match: *``): whoever comes second finds it taken instead of taking it.
Where a store knows no such writes, it is looked first; what keeps a checkpoint for good is the bucket's object lock.
Endpoint and credentials are those of boto3's chain (``AWS_*``, a role), or MLflow's ``MLFLOW_S3_ENDPOINT_URL``.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from windtunnel.errors import WindtunnelError

_TAKEN = ("PreconditionFailed", "412", "ConditionalRequestConflict", "409")
_NO_CONDITIONS = ("NotImplemented", "501")
_ABSENT = ("NoSuchKey", "404", "NotFound")


class Bucket:
    """See ``auditfiles.Place``.

    Args:
        url: ``s3://BUCKET/PREFIX``.
        same: raises ``FileExistsError`` unless what is there (1) is what was to be added (2) under a name (3).
        client: a boto3 S3 client; made from the environment unless given.

    Raises:
        WindtunnelError: it is no such URL, or boto3 is not installed.
    """

    def __init__(self, url: str, same: Callable[[str, str, str], None], client: Any = None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "s3" or not parts.netloc:
            raise WindtunnelError(f"{url} names no bucket", hint="expected s3://BUCKET/PREFIX")
        self.bucket, prefix = parts.netloc, parts.path.strip("/")
        self._prefix, self._same = f"{prefix}/" if prefix else "", same
        self._client = client or _client(url)

    def names(self) -> list[str]:
        """Names below the prefix, sorted; those in folders below are none of ours."""
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self.bucket, Prefix=self._prefix, Delimiter="/"
        )
        return sorted(str(one["Key"])[len(self._prefix) :] for page in pages for one in page.get("Contents", []))

    def read(self, name: str) -> str:
        """Content of one."""
        answer = self._client.get_object(Bucket=self.bucket, Key=self._prefix + name)
        return bytes(answer["Body"].read()).decode()

    def put(self, name: str, text: str) -> None:
        """Add one."""
        from botocore.exceptions import ClientError  # type: ignore[import-untyped]

        there = self._there(name)
        if there is not None:
            self._same(there, text, name)
            return
        asked = {"Bucket": self.bucket, "Key": self._prefix + name, "Body": text.encode()}
        try:
            self._client.put_object(**asked, IfNoneMatch="*")
        except ClientError as error:
            code = _code(error)
            if code in _NO_CONDITIONS:
                self._client.put_object(**asked)
            elif code in _TAKEN:
                self._same(self.read(name), text, name)
            else:
                raise

    def _there(self, name: str) -> str | None:
        from botocore.exceptions import ClientError

        try:
            return self.read(name)
        except ClientError as error:
            if _code(error) in _ABSENT:
                return None
            raise


def _client(url: str) -> Any:
    try:
        import boto3  # type: ignore[import-untyped]
    except ImportError as error:
        raise WindtunnelError(
            f"{url} cannot be opened: boto3 is missing", hint='pip install "windtunnel[s3]"'
        ) from error
    return boto3.client("s3", endpoint_url=os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None)


def _code(error: Any) -> str:
    return str((error.response.get("Error") or {}).get("Code") or "unknown")
