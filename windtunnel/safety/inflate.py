"""Compressed files as streams: gzip, bz2, xz, lzma and zlib, which give up when far too much comes out."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any, BinaryIO, cast

from windtunnel.safety.values import Broken

Opener = Callable[[], BinaryIO]


def inflating(opener: Opener, head: bytes) -> Iterator[Opener]:
    """How to read what a compressed file holds, if it begins like one."""
    if head.startswith(b"\x1f\x8b"):
        yield lambda: cast("BinaryIO", _Limited(cast("Any", gzip.GzipFile(fileobj=opener()))))
    elif head.startswith(b"BZh"):
        yield lambda: cast("BinaryIO", _Limited(cast("Any", bz2.BZ2File(opener()))))
    elif head.startswith((b"\xfd7zXZ\x00", b"\x5d\x00\x00")):
        yield lambda: cast("BinaryIO", _Limited(lzma.LZMAFile(opener())))  # noqa: SIM115
    elif head[:1] == b"\x78" and head[1:2] in (b"\x01", b"\x5e", b"\x9c", b"\xda"):
        yield lambda: cast("BinaryIO", _Limited(cast("Any", io.BufferedReader(_Zlib(opener())))))


class _Limited(io.RawIOBase):
    """A stream that gives up when far too much comes out of it."""

    LIMIT = 64 << 30

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self._stream = stream
        self._given = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._stream.seekable())

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        return int(self._stream.tell())

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        self._given += len(data)
        if self._given > self.LIMIT:
            raise Broken(f"more than {self.LIMIT >> 30} GiB come out of it")
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        with closing(self._stream):
            super().close()


class _Zlib(io.RawIOBase):
    """zlib's own stream, as joblib writes it."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream
        self._inflate = zlib.decompressobj()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data and not self._inflate.eof:
            tail = self._inflate.unconsumed_tail or self._stream.read(1 << 16)
            if not tail:
                raise EOFError("a compressed file that ends in the middle")
            data = self._inflate.decompress(tail, len(buffer))
        buffer[: len(data)] = data
        return len(data)
