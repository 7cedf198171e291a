"""The audit outside the database: exports, and places where checkpoints are published: folder, bucket or fsspec URL."""

from __future__ import annotations

import mmap
import multiprocessing
import os
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import IO, Any, Protocol

from windtunnel.errors import IntegrityError, WindtunnelError
from windtunnel.evidence import checkpoint, entry
from windtunnel.evidence.auditcheck import CHUNK, Break, Checker, Chunk, Report, check_chunk, explained
from windtunnel.evidence.checkpoint import Checkpoint, VerifierKey
from windtunnel.files import SHARED, sync_folder, write_bytes
from windtunnel.registry.auditbucket import Bucket

SUFFIX, KEY_SUFFIX = ".checkpoint", ".vkey"
#: An export smaller than this (bytes) is checked before other processes would have started.
_SMALL = 16 << 20


class Place(Protocol):
    """Where checkpoints are published: names are only ever added."""

    def names(self) -> list[str]:
        """Names of the files, sorted."""

    def read(self, name: str) -> str:
        """Content of one file."""

    def put(self, name: str, text: str) -> None:
        """Add a file. Raises FileExistsError where the name holds something else."""


def place(where: str | Path) -> Place:
    """A folder, a bucket (``s3://BUCKET/PREFIX``), or another URL that fsspec knows.

    Raises:
        WindtunnelError: no boto3, no fsspec, or nothing installed that knows the URL's scheme.
    """
    if isinstance(where, str) and where.startswith("s3://"):
        return Bucket(where, _same)
    if isinstance(where, str) and "://" in where:
        return _Remote(where)
    return _Folder(Path(where).expanduser())


def name_of(size: int) -> str:
    """File name of the checkpoint at ``size`` entries; sorts by size."""
    return f"{size:020d}{SUFFIX}"


class _Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        if not self.path.is_dir():
            return []
        return sorted(one.name for one in self.path.iterdir() if not one.name.startswith("."))

    def read(self, name: str) -> str:
        return (self.path / name).read_text(encoding="utf-8")

    def put(self, name: str, text: str) -> None:
        # A link, not a rename: whoever comes second finds the name taken instead of taking it.
        made = write_bytes(self.path / f".{name}.{os.getpid()}", text.encode(), mode=SHARED, parents=True)
        try:
            os.link(made, self.path / name)
            sync_folder(self.path)
        except FileExistsError:
            _same(self.read(name), text, name)
        finally:
            made.unlink()


class _Remote:
    def __init__(self, url: str) -> None:
        try:
            from fsspec.core import url_to_fs  # type: ignore[import-untyped]

            self._files, self._root = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise WindtunnelError(
                f"{url} cannot be opened: {error}", hint="install fsspec and what it needs for this scheme"
            ) from error

    def names(self) -> list[str]:
        if not self._files.exists(self._root):
            return []
        self._files.invalidate_cache()
        return sorted(str(name).rpartition("/")[2] for name in self._files.ls(self._root, detail=False))

    def read(self, name: str) -> str:
        return str(self._files.cat_file(f"{self._root}/{name}").decode())

    def put(self, name: str, text: str) -> None:
        path = f"{self._root}/{name}"
        if self._files.exists(path):
            _same(self.read(name), text, name)
            return
        self._files.makedirs(self._root, exist_ok=True)
        self._files.pipe_file(path, text.encode())


def _same(there: str, text: str, name: str) -> None:
    if there == text:
        return
    try:
        same = (checkpoint.read(there).size, checkpoint.read(there).root) == (
            checkpoint.read(text).size,
            checkpoint.read(text).root,
        )
    except IntegrityError:
        same = False
    if not same:
        raise FileExistsError(f"{name} is there already, with another content")


def newest(where: Place) -> Checkpoint | None:
    """The largest checkpoint in a place, whoever signed it; None where there is none.

    Raises:
        IntegrityError: it cannot be read.
    """
    names = [name for name in where.names() if name.endswith(SUFFIX)]
    return checkpoint.read(where.read(names[-1])) if names else None


def keys_in(where: Place) -> list[VerifierKey]:
    """The public keys that lie in a place."""
    return [VerifierKey.parse(where.read(name)) for name in where.names() if name.endswith(KEY_SUFFIX)]


def keys_of(file: Path) -> list[VerifierKey]:
    """The public keys in a file, one a line.

    Raises:
        IntegrityError: a line is not a key, or there is none.
    """
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not lines:
        raise IntegrityError(f"{file} holds no key", hint="expected lines NAME+ID+KEY, as in HOME/audit/*.vkey")
    return [VerifierKey.parse(line) for line in lines]


def checkpoints_in(where: Place, keys: Sequence[VerifierKey]) -> tuple[list[Checkpoint], list[Break]]:
    """Checkpoints that one of ``keys`` signed, and what is wrong with the others."""
    found, problems = [], []
    for name in where.names():
        if not name.endswith(SUFFIX):
            continue
        try:
            found.append(checkpoint.open_note(where.read(name), keys))
        except (IntegrityError, UnicodeDecodeError) as error:
            problems.append(Break("checkpoint", f"{name}: {getattr(error, 'message', error)}"))
    return found, problems


def write_log(rows: Iterable[Mapping[str, Any]], stream: IO[bytes]) -> int:
    """Write entries, one a line, exactly as they are hashed; how many.

    Args:
        rows: each with all ``entry.FIELDS``, oldest first.
    """
    counted = 0
    for row in rows:
        stream.write(entry.line(row) + b"\n")
        counted += 1
    return counted


def verify(
    path: Path, checkpoints: Iterable[Checkpoint] = (), problems: Iterable[Break] = (), *, processes: int | None = None
) -> Report:
    """Check an export: one entry a line, as ``windtunnel audit export`` writes them.

    Args:
        path: the file.
        checkpoints: those that a trusted key signed.
        problems: what was wrong with others.
        processes: as many as there are cores unless told; 1 for this one alone.

    Raises:
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    checker = Checker(checkpoints, problems)
    if processes is None:
        processes = 1 if size < _SMALL else min(os.cpu_count() or 1, 8)
    if processes == 1:
        for first, offset, length, count in _pieces(path):
            checker.add(_check(str(path), offset, length, first, checker.sizes(first, count)))
    else:
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            waiting: deque[Future[Chunk]] = deque()
            for first, offset, length, count in _pieces(path):
                waiting.append(pool.submit(_check, str(path), offset, length, first, checker.sizes(first, count)))
                if len(waiting) > 4 * processes:
                    checker.add(waiting.popleft().result())
            while waiting:
                checker.add(waiting.popleft().result())
    report = checker.report()
    if not report.broken or not size:
        return report
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as log:
        return explained(report, log)


def _pieces(path: Path) -> Iterable[tuple[int, int, int, int]]:
    """(first line, byte offset, bytes, lines) of each chunk."""
    first = offset = 0
    with path.open("rb") as file:
        while lines := list(islice(file, CHUNK)):
            length = sum(map(len, lines))
            yield first, offset, length, len(lines)
            first, offset = first + len(lines), offset + length


def _check(path: str, offset: int, length: int, first: int, sizes: Sequence[int]) -> Chunk:
    with Path(path).open("rb") as file:
        file.seek(offset)
        data = file.read(length)
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return check_chunk(lines, first, sizes)
