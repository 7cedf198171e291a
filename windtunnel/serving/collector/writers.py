"""Model servers that send what their own log has published: files and watermarks, taken as they are.

A file's name is the same whenever it is sent again, so it replaces itself. A server that went with its node never
closes its watermark; after ``GONE_S`` of silence that is done here, and said.

Any of several collectors takes them, from one request to the next. So who is silent here may be talking to another: a
watermark is closed only where it lies in the log as it came here last. Should its writer speak in that very moment, its
next heartbeat puts that right.
"""

from __future__ import annotations

import io
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from windtunnel import files
from windtunnel.serving.collector.events import BadEvent
from windtunnel.serving.collector.places import Place
from windtunnel.serving.predictions import columns, publish
from windtunnel.serving.predictions.watermark import Mark

#: Longer than a pod is away that starts again.
GONE_S = 600.0
FILE = re.compile(
    r"[a-z][a-z0-9-]{0,39}/date=\d{4}-\d\d-\d\d/hour=\d\d/[A-Za-z0-9._]+-[A-Za-z0-9._]+-\d{1,40}\.parquet"
)
MARK = re.compile(r"[a-z][a-z0-9-]{0,39}/[A-Za-z0-9._]+-[A-Za-z0-9._]+\.json")


def check_file(key: str, data: bytes) -> int:
    """Rows of a file of the log.

    Raises:
        BadEvent: it is none, or another model's.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not FILE.fullmatch(key):
        raise BadEvent("path", f"{key[:200]!r}: expected MODEL/date=YYYY-MM-DD/hour=HH/VERSION-INSTANCE-SEQ.parquet")
    try:
        with pq.ParquetFile(io.BytesIO(data)) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
            for name, kind in columns.FIXED.items():
                found = schema.field(name).type if name in schema.names else None
                if found != columns.arrow_type(kind):
                    raise BadEvent(name, f"column {name} is {found or 'missing'}: expected {columns.arrow_type(kind)}")
            models = set(file.read(columns=["model"]).column("model").to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise BadEvent("body", f"the body is no Parquet file: {str(error)[:200]}") from None
    strange = sorted(name for name in schema.names if not _known(name))
    if strange:
        raise BadEvent(strange[0], f"column {strange[0]!r} is none of the prediction log")
    model = key.partition("/")[0]
    if models - {model}:
        raise BadEvent("model", f"the file has rows of {', '.join(sorted(map(str, models)))}: expected {model}")
    return int(rows)


def check_mark(key: str, data: bytes) -> Mark:
    """The watermark that ``key`` (``MODEL/VERSION-INSTANCE.json``) may hold.

    Raises:
        BadEvent: it is none, or another writer's.
    """
    if not MARK.fullmatch(key):
        raise BadEvent("path", f"{key[:200]!r}: expected MODEL/VERSION-INSTANCE.json")
    try:
        plain = json.loads(data)
        mark = Mark(**{name: plain[name] for name in Mark.__dataclass_fields__ if name in plain})
        times = (float(mark.at), float(mark.flushed_through), float(mark.every_s))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise BadEvent("body", f"the body is no watermark: {str(error)[:200]}") from None
    name = f"{mark.model}/{publish.safe(str(mark.version))}-{publish.safe(str(mark.instance))}.json"
    if name != key or not all(0 <= at < 2**40 for at in times):
        raise BadEvent("body", f"the body is the watermark of {name[:200]}: expected that of {key}")
    return mark


class Writers:
    """The watermarks of servers that send, kept in the spool so that nobody is forgotten.

    Args:
        clock: seconds since the epoch.
    """

    def __init__(self, folder: Path, place: Place, clock: Callable[[], float] = time.time) -> None:
        self._path, self._place, self._clock = folder / "writers.json", place, clock
        self._lock = threading.Lock()
        self._kept = 0.0
        self._newest: dict[str, tuple[int, float]] = {}
        plain: Any = files.read_json(self._path, broken_ok=True)
        # Nobody could be heard of while there was no collector: everybody has the whole time anew.
        self._heard: dict[str, tuple[float, dict[str, Any]]] = {
            key: (clock(), dict(mark)) for key, (_, mark) in (plain if isinstance(plain, dict) else {}).items()
        }

    @property
    def living(self) -> int:
        return len(self._heard)

    def heard(self, key: str, mark: Mark) -> None:
        """Publish a watermark; one that is older than what came here before it is left.

        Raises: like ``Place.mark``.
        """
        with self._lock:
            run, at = self._newest.get(key, (mark.run, 0.0))
            if run == mark.run and mark.at < at:
                return
        self._place.mark(mark, _name(key))
        with self._lock:
            self._newest[key] = mark.run, mark.at
            if mark.closed:
                self._heard.pop(key, None)
            else:
                self._heard[key] = (self._clock(), asdict(mark))

    def sweep(self) -> list[str]:
        """Close the watermarks of those that are gone; who they were.

        Raises: like ``Place.mark``.
        """
        now = self._clock()
        with self._lock:
            silent = {key: Mark(**plain) for key, (at, plain) in self._heard.items() if now - at > GONE_S}
        gone = []
        for key, mark in silent.items():
            there = self._place.mark_of(key.partition("/")[0], _name(key))
            if there is not None and (there.closed or (there.run, there.at) != (mark.run, mark.at)):
                # It spoke to another collector: that one, or its own end, has the last word.
                self._learned(key, there)
                continue
            mark.closed = True
            mark.error = f"not heard of for {GONE_S:.0f} s: rows of its last seconds may be lost, nobody knows how many"
            self.heard(key, mark)
            gone.append(key)
        if silent or now - self._kept > 10:
            with self._lock:
                plain_heard = dict(self._heard)
                self._newest = {key: newest for key, newest in self._newest.items() if key in self._heard}
            files.write_json(self._path, plain_heard, durable=False)
            self._kept = now
        return sorted(gone)

    def _learned(self, key: str, mark: Mark) -> None:
        """What lies in the log is younger than what came here: from now on that is what may be too old."""
        with self._lock:
            if mark.closed:
                self._heard.pop(key, None)
            else:
                self._heard[key] = (self._clock(), asdict(mark))


def _name(key: str) -> str:
    """``VERSION-INSTANCE`` of ``MODEL/VERSION-INSTANCE.json``."""
    return key.partition("/")[2].removesuffix(".json")


def _known(name: str) -> bool:
    return name in columns.FIXED or name == columns.PREDICTION or name.startswith(columns.FEATURE_PREFIX)
