"""The router's access log: what one line means, and reading lines as they come.

What a line counts as is decided here and nowhere else. A response of 500 or more is the model's error, and
so is one that broke off, timed out or never came. A client that went away (flag ``DC``) is the client's
doing; how long it waited is in the latency, so slowness shows all the same. A copied request's client is the
router itself, which leaves when the model's time-out is over: that is the model's error.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from windtunnel.names import MODEL_NAME
from windtunnel.serving.routing import AUDIENCE, SHADOW
from windtunnel.stats.histogram import BOUNDS, Histogram, bucket

#: Envoy's response flags that say the answer broke off or never came, whatever status was already sent:
#: upstream failure, termination, reset, time-out, protocol error; no healthy server; no such cluster.
BROKEN = frozenset({"UF", "UC", "UR", "LR", "UT", "UPE", "UMSDR", "DT", "NC", "NFCF", "UH"})
#: Flag of a request refused because queue and concurrency were full.
OVERLOAD = "UO"
#: Flags of a client that went away or spoke no HTTP.
CLIENT_GONE = frozenset({"DC", "DR", "DPE"})
#: A segment that is counted under its own name; anything else a client sends is ``other``.
SEGMENT = re.compile(r"[A-Za-z0-9_.-]{1,40}")
#: Whose request it was: divided by weight, sent by an audience's header, or a copy whose answer nobody gets.
Kind = Literal["split", "audience", "shadow"]


@dataclass(frozen=True, slots=True)
class Entry:
    """One request, as far as counting goes. Times in milliseconds; ``second`` since the epoch."""

    model: str
    version: str
    second: int
    latency_ms: float
    error: bool
    client_error: bool
    overload: bool
    disconnect: bool
    kind: Kind = "split"
    segment: str | None = None


@dataclass(slots=True)
class Tally:
    """Cumulative counts of one version; only ever grows within an epoch."""

    requests: int = 0
    errors: int = 0
    client_errors: int = 0
    overload: int = 0
    disconnects: int = 0
    last: int = 0  # newest second counted
    latency: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))

    def add(self, entry: Entry) -> None:
        self.requests += 1
        self.errors += entry.error
        self.client_errors += entry.client_error
        self.overload += entry.overload
        self.disconnects += entry.disconnect
        self.last = max(self.last, entry.second)
        self.latency[bucket(entry.latency_ms)] += 1

    def to_dict(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "errors": self.errors,
            "client_errors": self.client_errors,
            "overload": self.overload,
            "disconnects": self.disconnects,
            "last": self.last,
            "latency": {str(i): count for i, count in enumerate(self.latency) if count},
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Tally:
        counts = {name: int(plain.get(name, 0)) for name in cls.__slots__ if name != "latency"}
        return cls(**counts, latency=list(Histogram.from_dict(plain["latency"]).counts))


def parse(line: str) -> Entry | None:
    """The request a line tells of; None when it names no version (nobody's traffic).

    Raises:
        ValueError: it is no JSON object.
    """
    plain = json.loads(line)
    if not isinstance(plain, dict):
        raise ValueError("not an object")
    model, version = _said(plain.get("model")), _said(plain.get("version"))
    if model is None or version is None:
        # A router whose clusters carry no metadata still names the cluster: MODEL.vVERSION.
        model, found, version = (_said(plain.get("cluster")) or "").partition(".v")
        if not found or not version:
            return None
    if not MODEL_NAME.fullmatch(model):
        return None
    status = int(_number(plain.get("status")) or 0)
    raw = _said(plain.get("response_flags", plain.get("flags")))
    flags = set(raw.split(",")) if raw else set()
    micros = _number(plain.get("duration_us"))
    latency = micros / 1000 if micros is not None else _number(plain.get("duration_ms"))
    kind = _kind(plain.get("route"))
    gone = kind != "shadow" and bool(flags & CLIENT_GONE)
    error = status >= 500 or (not gone and (status == 0 or bool(flags & (BROKEN | CLIENT_GONE | {OVERLOAD}))))
    return Entry(
        model=model,
        version=version,
        second=int((_number(plain.get("time")) or 0) / 1000),
        latency_ms=max(0.0, latency or 0.0),
        error=error,
        client_error=not error and (gone or 400 <= status < 500),
        overload=OVERLOAD in flags,
        disconnect=gone,
        kind=kind,
        segment=_said(plain.get("segment")),
    )


def _kind(route: Any) -> Kind:
    """Whose request it was, by the name of its route (``routing``)."""
    name = str(route or "")
    if name == SHADOW:
        return "shadow"
    return "audience" if name.startswith(f"{AUDIENCE}:") else "split"


def _said(value: Any) -> str | None:
    """A field that says something: Envoy writes null or "-" where there is nothing."""
    return None if value is None or value in ("", "-") else str(value)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if number == number and abs(number) != float("inf") else None


#: A line longer than this without an end is none; it is skipped.
_MAX_LINE = 2**20
_CHUNK = 2**20


@dataclass(slots=True)
class _Source:
    """One file of the log, open, so that its inode cannot become another file's."""

    path: Path
    descriptor: int
    inode: int
    offset: int = 0
    identity: str | None = None
    skipping: bool = False


class Tail:
    """Whole lines of a log that is rotated by renaming, each exactly once.

    A file is known by its first line, not by name or inode: names move and inodes come back. The position in
    each file is in ``positions()``, which its owner keeps together with what it made of the lines.

    Args:
        path: the live file; rotated ones lie beside it as ``NAME.SUFFIX``.
        positions: from an earlier ``positions()``.
    """

    def __init__(self, path: Path, positions: dict[str, int] | None = None) -> None:
        self.path = path
        self._known = dict(positions or {})
        self._sources: list[_Source] = []
        self.skipped = 0  # bytes of lines without end
        self._discover()  # so that positions() is right before the first poll too

    def poll(self) -> Iterator[list[str]]:
        """Lines that came since the last call, in blocks; oldest file first.

        The position counts a block as read as soon as it is handed out: finish with it before ``positions()``.
        """
        self._discover()
        for source in self._sources:
            yield from self._lines(source)

    def positions(self) -> dict[str, int]:
        """Identity of each file that still exists to the offset read so far."""
        return {source.identity: source.offset for source in self._sources if source.identity is not None}

    def unread(self) -> int:
        """Bytes written and not read."""
        return sum(max(0, os.fstat(s.descriptor).st_size - s.offset) for s in self._sources)

    def live_size(self) -> int:
        """Size of the live file, 0 when there is none."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def rotated(self) -> list[Path]:
        """Rotated files, oldest first."""
        return sorted(self.path.parent.glob(f"{self.path.name}.*"), key=lambda path: path.name)

    def finished(self, path: Path, quiet_s: float, now: float) -> bool:
        """Whether all of a rotated file was read and nobody has written to it for ``quiet_s``."""
        for source in self._sources:
            if source.path == path:
                status = os.fstat(source.descriptor)
                return source.offset >= status.st_size and now - status.st_mtime >= quiet_s
        return False

    def close(self) -> None:
        for source in self._sources:
            os.close(source.descriptor)
        self._sources = []

    def _discover(self) -> None:
        """Open files that are new, close those that are gone, learn new names."""
        names = {}
        for path in [*self.rotated(), self.path]:
            try:
                names[path.stat().st_ino] = path
            except FileNotFoundError:
                continue  # renamed or removed this instant; the next poll finds it
        for source in list(self._sources):
            if source.inode in names:
                source.path = names[source.inode]
            elif os.fstat(source.descriptor).st_nlink == 0 and self._drained(source):
                os.close(source.descriptor)
                self._sources.remove(source)
        have = {source.inode for source in self._sources}
        for inode, path in names.items():
            if inode not in have:
                self._open(path)

    def _drained(self, source: _Source) -> bool:
        return source.offset >= os.fstat(source.descriptor).st_size

    def _open(self, path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        source = _Source(path, descriptor, os.fstat(descriptor).st_ino)
        source.identity = _identity(os.pread(descriptor, _CHUNK, 0))
        if source.identity is not None:
            source.offset = self._known.get(source.identity, 0)
            source.skipping = source.offset > 0 and os.pread(descriptor, 1, source.offset - 1) != b"\n"
        self._sources.append(source)

    def _lines(self, source: _Source) -> Iterator[list[str]]:
        size = os.fstat(source.descriptor).st_size
        if size < source.offset:  # truncated in place: another content under the same inode
            source.offset, source.identity, source.skipping = 0, None, False
        while source.offset < size:
            data = os.pread(source.descriptor, _CHUNK, source.offset)
            if source.identity is None:
                source.identity = _identity(data) if source.offset == 0 else source.identity
            end = data.rfind(b"\n") + 1
            if end == 0:
                if len(data) < _MAX_LINE:
                    return  # torn: the rest will come
                source.identity = source.identity or _digest(data)
                source.offset += len(data)
                source.skipping = True
                self.skipped += len(data)
                continue
            block = data[:end]
            source.offset += end
            if source.skipping:
                source.skipping = False
                self.skipped += block.index(b"\n") + 1
                block = block[block.index(b"\n") + 1 :]
            if block:
                yield block.decode("utf-8", "replace").split("\n")[:-1]


def _identity(head: bytes) -> str | None:
    end = head.find(b"\n")
    if end < 0:
        return _digest(head) if len(head) >= _MAX_LINE else None
    return _digest(head[:end])


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()[:24]
