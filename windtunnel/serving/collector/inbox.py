"""Events on the disk before they are acknowledged.

A folder holds, by the number of the flush that they belong to,

- ``N.events``: frames, appended and synced; the youngest is open;
- ``N.plan``: flush N has begun: what it publishes is settled;
- ``N.carry``: frames of the halves that flush N left waiting;
- ``N.hand``: frames of the halves that other collectors have to take, or have taken a moment ago;
- ``N.keys``: what flush N published, so that it is known when it comes again;
- ``totals.json``: flush N is done, and what was counted up to it. Replacing this file is what makes a flush done.

A frame carries a checksum: a torn one is seen and ends the file, and was never acknowledged.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from windtunnel import files

log = logging.getLogger("windtunnel.collector")

_FRAME = struct.Struct("<4sII")  # magic, length, CRC-32
_MAGIC = b"WTE1"
KEY_BYTES = 16


def frame(attributes: Mapping[str, Any], body: bytes) -> bytes:
    """One event as it is kept: its attributes as JSON, and its body."""
    head = json.dumps(attributes, separators=(",", ":")).encode()
    data = struct.pack("<I", len(head)) + head + body
    return _FRAME.pack(_MAGIC, len(data), zlib.crc32(data)) + data


def frames(path: Path) -> Iterator[tuple[dict[str, Any], bytes]]:
    """Whole frames of a file, in their order; nothing when there is no such file."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    at = 0
    while at + _FRAME.size <= len(data):
        magic, length, checksum = _FRAME.unpack_from(data, at)
        body = data[at + _FRAME.size : at + _FRAME.size + length]
        if magic != _MAGIC or len(body) != length or zlib.crc32(body) != checksum:
            # Of a write that was killed, and so never acknowledged; in the middle of a file it would be a broken disk.
            log.warning("%s: %d bytes at its end are no whole event", path, len(data) - at)
            return
        (head,) = struct.unpack_from("<I", body)
        yield json.loads(body[4 : 4 + head]), body[4 + head :]
        at += _FRAME.size + length


class Segment:
    """One ``N.events`` open for appending."""

    def __init__(self, folder: Path, number: int) -> None:
        self.number = number
        self.path = folder / f"{number:010d}.events"
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        files.sync_folder(folder)
        self.size = 0

    def append(self, data: bytes) -> None:
        """Whole and on the disk, or not at all.

        Raises:
            OSError: the disk is full or broken; the file ends where it ended before.
        """
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(self._descriptor, data[written:], self.size + written)
            os.fdatasync(self._descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self.size)
            raise
        self.size += len(data)

    def close(self) -> None:
        os.close(self._descriptor)


def numbers(folder: Path, suffix: str) -> list[int]:
    """Numbers of the files with this ending, ascending."""
    return sorted(int(path.stem) for path in folder.glob(f"*.{suffix}") if path.stem.isdigit())


def place(folder: Path, number: int, suffix: str) -> Path:
    return folder / f"{number:010d}.{suffix}"


def write_frames(path: Path, found: Iterable[tuple[Mapping[str, Any], bytes]]) -> None:
    """A file of frames, whole or absent."""
    files.write_bytes(path, b"".join(frame(attributes, body) for attributes, body in found))


def write_keys(path: Path, keys: Iterable[bytes]) -> None:
    files.write_bytes(path, b"".join(keys))


def read_keys(path: Path) -> list[bytes]:
    data = path.read_bytes()
    return [data[at : at + KEY_BYTES] for at in range(0, len(data) - KEY_BYTES + 1, KEY_BYTES)]
