"""The spool of one writer: rows on the local disk before they are published.

A folder ``ROOT/MODEL/_spool/VERSION-INSTANCE/`` holds

- ``lock``: held by the living writer; whoever gets it knows that the writer is dead;
- ``RUN.counts``: counters of the run in shared memory, so that what was accepted is known after ``kill -9``;
- ``SEQ.spool``: frames of rows, appended. A frame says how many rows were spooled up to and with it, and
  carries a checksum: a torn one is seen and ends the file.

The name ``SEQ`` is also the name of the Parquet file it becomes: publishing it twice replaces it by itself.
"""

from __future__ import annotations

import fcntl
import io
import mmap
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

_FRAME = struct.Struct("<4sQIII")  # magic, rows spooled up to and with this frame, rows, length, CRC-32
_MAGIC = b"WTF1"
_COUNTS = struct.Struct("<8sQQQQQQ")
_COUNTS_MAGIC = b"WTCOUNT1"


@dataclass(slots=True)
class Counts:
    """Rows of one run of a writer.

    Attributes:
        accepted: rows taken over from requests, to be logged.
        overflow: rows refused because the buffer was full.
        sampled_out: rows left out by the sampling rule; not a loss.
        spooled: rows in frames that were written whole.
        late: rows whose time was before what had been declared complete.
        misfits: values that did not fit their column and became null.
    """

    accepted: int = 0
    overflow: int = 0
    sampled_out: int = 0
    spooled: int = 0
    late: int = 0
    misfits: int = 0


class SharedCounts:
    """``Counts`` mirrored into a file through shared memory: the kernel keeps it when the process is killed."""

    def __init__(self, path: Path) -> None:
        """Create the file.

        Raises:
            OSError: it cannot be created.
        """
        self.path = path
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Real blocks, not a hole: a store into a hole on a full disk kills the process with SIGBUS.
            os.posix_fallocate(descriptor, 0, _COUNTS.size)
            self._memory = mmap.mmap(descriptor, _COUNTS.size)
        finally:
            os.close(descriptor)

    def store(self, counts: Counts) -> None:
        """Mirror ``counts``; a few hundred nanoseconds, no system call."""
        _COUNTS.pack_into(
            self._memory,
            0,
            _COUNTS_MAGIC,
            counts.accepted,
            counts.overflow,
            counts.sampled_out,
            counts.spooled,
            counts.late,
            counts.misfits,
        )

    def close(self) -> None:
        self._memory.close()


def read_counts(path: Path) -> Counts:
    """What ``SharedCounts`` left; zeros when the run died before its first store."""
    data = path.read_bytes()
    if len(data) < _COUNTS.size or not data.startswith(_COUNTS_MAGIC):
        return Counts()
    return Counts(*_COUNTS.unpack_from(data)[1:])


class SpoolFile:
    """One spool file open for appending."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self.size = 0

    def append(self, table: pa.Table, upto: int) -> None:
        """Add one frame; after a failure the same or another one can be added.

        Raises:
            OSError: the disk is full.
        """
        import pyarrow as pa

        sink = io.BytesIO()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        body = sink.getvalue()
        data = _FRAME.pack(_MAGIC, upto, table.num_rows, len(body), zlib.crc32(body)) + body
        # Always at the end of the last whole frame: what a failed attempt left is overwritten.
        written = 0
        while written < len(data):
            written += os.pwrite(self._descriptor, data[written:], self.size + written)
        self.size += len(data)

    def close(self) -> None:
        os.close(self._descriptor)


def read_spool(path: Path) -> tuple[list[pa.Table], int]:
    """Whole frames of a spool file, and the rows spooled up to and with the last; a torn end is left out."""
    import pyarrow as pa

    data = path.read_bytes()
    tables: list[pa.Table] = []
    upto = at = 0
    while at + _FRAME.size <= len(data):
        magic, frame_upto, _, length, checksum = _FRAME.unpack_from(data, at)
        body = data[at + _FRAME.size : at + _FRAME.size + length]
        if magic != _MAGIC or len(body) != length or zlib.crc32(body) != checksum:
            break
        with pa.ipc.open_stream(body) as stream:
            tables.append(stream.read_all())
        upto = frame_upto
        at += _FRAME.size + length
    return tables, upto


def lock(folder: Path) -> int | None:
    """Take the folder's lock; the descriptor that holds it, or None while its writer lives.

    The kernel frees it with the process, however that ends. The file is never removed: a lock on a
    removed file would be a second lock.
    """
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def spool_files(folder: Path) -> list[Path]:
    """Spool files in their order."""
    return sorted(folder.glob("*.spool"))


def counts_files(folder: Path) -> list[Path]:
    """Counters of runs that were not folded into the watermark yet."""
    return sorted(folder.glob("*.counts"))
