"""Where the prediction log lies: a folder that its readers see, or an object store that they fetch from."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from windtunnel import files
from windtunnel.data import objects
from windtunnel.errors import DataError
from windtunnel.serving.predictions import parquet, publish, watermark
from windtunnel.serving.predictions.watermark import Mark

if TYPE_CHECKING:
    import pyarrow as pa


class Place(Protocol):
    """One prediction log. Every method replaces whole files, and raises when it cannot: ``OSError``,
    ``UnavailableError`` or ``DataError``."""

    url: str

    def rows(self, model: str, name: str, table: pa.Table) -> None:
        """Publish ``table`` as ``name`` in the hours that its rows belong to."""

    def file(self, key: str, data: bytes) -> None:
        """Publish a file that is one already; ``key`` as in docs/reference/prediction-log.md."""

    def mark(self, mark: Mark, name: str) -> None:
        """Publish a watermark."""

    def mark_of(self, model: str, name: str) -> Mark | None:
        """The watermark as it lies there; None where there is none."""


class Folder:
    """A folder, such as a volume that Airflow's workers see as ``HOME/predictions``."""

    def __init__(self, root: Path) -> None:
        self.root, self.url = root, root.as_uri()
        root.mkdir(parents=True, exist_ok=True)

    def rows(self, model: str, name: str, table: pa.Table) -> None:
        for hour, part in _hours(table).items():
            parquet.write(publish.partition(self.root, model, hour * 3600) / f"{name}.parquet", part)

    def file(self, key: str, data: bytes) -> None:
        files.write_bytes(self.root / key, data, mode=files.SHARED, parents=True)

    def mark(self, mark: Mark, name: str) -> None:
        self.file(f"{mark.model}/_watermark/{name}.json", _plain(mark))

    def mark_of(self, model: str, name: str) -> Mark | None:
        return watermark.read(self.root / model / "_watermark" / f"{name}.json")


class Store:
    """Any S3-compatible store."""

    def __init__(self, store: objects.Objects) -> None:
        self._store, self.url = store, store.url

    def rows(self, model: str, name: str, table: pa.Table) -> None:
        import pyarrow.parquet as pq

        for hour, part in _hours(table).items():
            sink = io.BytesIO()
            pq.write_table(part, sink, compression="zstd")
            folder = publish.partition(Path(), model, hour * 3600).as_posix()
            self._store.put_bytes(f"{folder}/{name}.parquet", sink.getvalue())

    def file(self, key: str, data: bytes) -> None:
        self._store.put_bytes(key, data)

    def mark(self, mark: Mark, name: str) -> None:
        self.file(f"{mark.model}/_watermark/{name}.json", _plain(mark))

    def mark_of(self, model: str, name: str) -> Mark | None:
        return watermark.parsed(self._store.get_bytes(f"{model}/_watermark/{name}.json"))


def connect(url: str, client: Any = None) -> Place:
    """The log at ``url``: ``file:///FOLDER``, a path, or ``s3://BUCKET/PREFIX``.

    Raises:
        DataError: no log can lie there.
    """
    parts = urlsplit(url)
    if parts.scheme in ("", "file"):
        path = Path(unquote(parts.path))
        if not path.is_absolute() or parts.netloc not in ("", "localhost"):
            raise DataError(f"{url!r} is no absolute folder", hint="expected file:///FOLDER or s3://BUCKET/PREFIX")
        return Folder(path)
    return Store(objects.connect(url, client))


def _plain(mark: Mark) -> bytes:
    return json.dumps(asdict(mark), separators=(",", ":")).encode() + b"\n"


def _hours(table: pa.Table) -> Mapping[int, pa.Table]:
    """Hour since the epoch -> its rows."""
    import pyarrow as pa

    hours = [second // 3_600_000_000 for second in table.column("time").cast(pa.int64()).to_pylist()]
    if len(set(hours)) == 1:
        return {hours[0]: table}
    return {hour: table.filter(pa.array([one == hour for one in hours])) for hour in sorted(set(hours))}
