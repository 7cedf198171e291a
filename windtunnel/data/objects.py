"""Object stores: named bytes that processes on different machines share.

``s3://BUCKET/PREFIX`` is any S3-compatible store; who we are there, and at which endpoint, comes from boto3's own chain
(``AWS_*`` variables, a role for a service account) or from a client given by the caller. ``file:///FOLDER`` is a folder
that all of them see, such as a shared volume. What the bytes mean is not decided here; see ``windtunnel.data.parcels``.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

from windtunnel import files
from windtunnel.data import refusals
from windtunnel.errors import DataError, UnavailableError

_ABSENT = frozenset({"404", "NoSuchKey", "NotFound"})
#: What a store says of an object that is there already, and what one that knows no conditions says of them.
_TAKEN = frozenset({"PreconditionFailed", "412"})
_NO_CONDITIONS = frozenset({"NotImplemented", "501"})


#: Bytes between two questions whether to go on, where a file is copied; seconds, where it is sent.
_PIECE, _ASK_EVERY = 8 * 2**20, 0.05


class Objects(Protocol):
    """One store, below one prefix. Keys are relative, with '/'.

    Every method raises ``UnavailableError`` when the store does not answer and ``DataError`` when it refuses.
    """

    url: str

    def put(self, key: str, source: Path, go_on: Callable[[], None] | None = None) -> None:
        """Store a file's bytes; an object of that name is replaced as a whole.

        Args:
            go_on: called again and again meanwhile. What it raises is raised here, soon, and there is no such object
                then, or the one before.
        """

    def put_bytes(self, key: str, data: bytes) -> None:
        """Store bytes."""

    def put_new(self, key: str, data: bytes) -> bool:
        """Store bytes unless there is such an object; False where there is one, which may be this very call's own,
        sent twice: read it. Who comes second never replaces the first (on S3 by ``If-None-Match``; a store that knows
        no conditions is looked into first, and two at the same moment may both succeed)."""

    def get(self, key: str, target: Path) -> bool:
        """Write the object to ``target``, whose folder is there; False when there is no such object."""

    def get_bytes(self, key: str) -> bytes | None:
        """The object's bytes, None when there is no such object."""

    def sizes(self, prefix: str) -> dict[str, int]:
        """Key -> bytes of every object whose key starts with ``prefix``."""

    def times(self, prefix: str) -> dict[str, float]:
        """Every key that begins with ``prefix`` -> when it was written, in seconds since the epoch."""

    def delete(self, keys: Sequence[str]) -> None:
        """Remove objects; those already gone do not matter."""


def connect(url: str, client: Any = None) -> Objects:
    """The store behind a URL.

    Args:
        client: a boto3 S3 client that knows endpoint and credentials; made from the environment unless given.

    Raises:
        DataError: no store of this kind is known here.
    """
    parts = urlsplit(url)
    if parts.scheme == "s3" and parts.netloc:
        return S3Objects(url, client)
    if parts.scheme == "file" and parts.path.startswith("/") and parts.netloc in ("", "localhost"):
        return FolderObjects(Path(unquote(parts.path)))
    raise DataError(
        f"{url!r} is no object store that can be used",
        hint="expected s3://BUCKET/PREFIX (any S3-compatible endpoint) or file:///FOLDER on a shared volume",
    )


class FolderObjects:
    """A folder that every process concerned sees."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = root.as_uri()

    def put(self, key: str, source: Path, go_on: Callable[[], None] | None = None) -> None:
        def copy(part: Path) -> None:
            if go_on is None:
                shutil.copyfile(source, part)
                return
            with source.open("rb") as given, part.open("wb") as taken:
                while piece := given.read(_PIECE):
                    go_on()
                    taken.write(piece)

        with self._errors(key):
            files.write_with(self.root / key, copy, parents=True)

    def put_bytes(self, key: str, data: bytes) -> None:
        with self._errors(key):
            files.write_bytes(self.root / key, data, parents=True)

    def put_new(self, key: str, data: bytes) -> bool:
        path = self.root / key
        with self._errors(key):
            if path.exists():
                return False
            part = files.write_bytes(path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp"), data, parents=True)
            try:
                os.link(part, path)  # a rename would take the place of what is there
                files.sync_folder(path.parent)
            except FileExistsError:
                return False
            finally:
                part.unlink(missing_ok=True)
        return True

    def get(self, key: str, target: Path) -> bool:
        with self._errors(key):
            if not (self.root / key).is_file():
                return False
            shutil.copyfile(self.root / key, target)
            return True

    def get_bytes(self, key: str) -> bytes | None:
        with self._errors(key):
            return (self.root / key).read_bytes() if (self.root / key).is_file() else None

    def sizes(self, prefix: str) -> dict[str, int]:
        above = self.root / prefix.rpartition("/")[0]
        with self._errors(prefix):
            found = {
                path.relative_to(self.root).as_posix(): path.stat().st_size
                for path in (above.rglob("*") if above.is_dir() else ())
                if path.is_file() and not path.name.endswith(".tmp")
            }
        return {key: size for key, size in sorted(found.items()) if key.startswith(prefix)}

    def times(self, prefix: str) -> dict[str, float]:
        out: dict[str, float] = {}
        for key in self.sizes(prefix):
            with suppress(FileNotFoundError):  # removed meanwhile
                out[key] = (self.root / key).stat().st_mtime
        return out

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            with self._errors(key):
                (self.root / key).unlink(missing_ok=True)

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except PermissionError as error:
            raise DataError(
                f"{self.url} refuses {key!r}: {error.strerror}", hint="check who owns the folder"
            ) from error
        except OSError as error:
            raise UnavailableError(f"{self.url}: {key!r}: {error}") from error


class S3Objects:
    """A bucket, by boto3: streamed in parts, so that memory stays bounded."""

    def __init__(self, url: str, client: Any = None) -> None:
        parts = urlsplit(url)
        self.bucket, self.prefix = parts.netloc, parts.path.strip("/")
        self.url = f"s3://{self.bucket}/{self.prefix}".rstrip("/")
        if client is None:
            try:
                client = _client()
            except Exception as raised:  # some credentials are asked for before there is a request
                if (error := refusals.refusal(raised, self.url, "")) is None:
                    raise
                raise error from raised
        self._client = client

    def _key(self, key: str) -> str:
        return f"{self.prefix}/{key}" if self.prefix else key

    def put(self, key: str, source: Path, go_on: Callable[[], None] | None = None) -> None:
        with self._errors(key):
            if go_on is None:
                self._client.upload_file(str(source), self.bucket, self._key(key))
            else:
                self._put_asking(key, source, go_on)

    def _put_asking(self, key: str, source: Path, go_on: Callable[[], None]) -> None:
        """What ``upload_file`` does, with a question between. Given up, it cancels what is under way, which takes the
        parts back that the store has; that is not waited for: a request that hangs would hold up whoever gave up."""
        from boto3.s3.transfer import TransferConfig, create_transfer_manager  # type: ignore[import-untyped]

        manager = create_transfer_manager(self._client, TransferConfig(preferred_transfer_client="classic"))
        sending = manager.upload(str(source), self.bucket, self._key(key))
        try:
            while not sending.done():
                go_on()
                time.sleep(_ASK_EVERY)
        except BaseException:
            sending.cancel()
            raise
        try:
            sending.result()
        finally:
            manager.shutdown()

    def put_bytes(self, key: str, data: bytes) -> None:
        with self._errors(key):
            self._client.put_object(Bucket=self.bucket, Key=self._key(key), Body=data)

    def put_new(self, key: str, data: bytes) -> bool:
        from botocore.exceptions import ClientError  # type: ignore[import-untyped]

        if self.get_bytes(key) is not None:
            return False
        asked = {"Bucket": self.bucket, "Key": self._key(key), "Body": data}
        with self._errors(key):
            try:
                self._client.put_object(**asked, IfNoneMatch="*")
            except ClientError as error:
                if refusals.code(error) in _TAKEN:
                    return False
                if refusals.code(error) not in _NO_CONDITIONS:
                    raise
                self._client.put_object(**asked)
        return True

    def get(self, key: str, target: Path) -> bool:
        from botocore.exceptions import ClientError

        with self._errors(key):
            try:
                self._client.download_file(self.bucket, self._key(key), str(target))
            except ClientError as error:
                if refusals.code(error) in _ABSENT:
                    return False
                raise
            return True

    def get_bytes(self, key: str) -> bytes | None:
        from botocore.exceptions import ClientError

        with self._errors(key):
            try:
                answer = self._client.get_object(Bucket=self.bucket, Key=self._key(key))
            except ClientError as error:
                if refusals.code(error) in _ABSENT:
                    return None
                raise
            body: bytes = answer["Body"].read()
            return body

    def sizes(self, prefix: str) -> dict[str, int]:
        return {key: int(each["Size"]) for key, each in self._listed(prefix).items()}

    def times(self, prefix: str) -> dict[str, float]:
        return {key: float(each["LastModified"].timestamp()) for key, each in self._listed(prefix).items()}

    def _listed(self, prefix: str) -> dict[str, Any]:
        out: dict[str, Any] = {}
        strip = len(self._key(""))
        with self._errors(prefix):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self._key(prefix))
            for page in pages:
                out |= {str(each["Key"])[strip:]: each for each in page.get("Contents", [])}
        return out

    def delete(self, keys: Sequence[str]) -> None:
        for key in keys:  # one by one: not every S3-compatible store has the request for many
            with self._errors(key):
                self._client.delete_object(Bucket=self.bucket, Key=self._key(key))

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except Exception as raised:
            if (error := refusals.refusal(raised, self.url, key, self._client)) is None:
                raise
            raise error from raised


def _client() -> Any:
    import boto3  # type: ignore[import-untyped]
    from botocore.config import Config  # type: ignore[import-untyped]

    # Nothing is said of addresses: boto3 takes the path wherever an endpoint is given (most S3-compatible stores have
    # no host name per bucket), unless AWS_CONFIG_FILE says s3.addressing_style.
    config = Config(retries={"mode": "standard", "max_attempts": 5}, connect_timeout=10, read_timeout=60)
    return boto3.client("s3", config=config)
