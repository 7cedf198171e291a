"""Files that are whole or absent: written beside their place, flushed, then renamed. And small JSON files."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: What Windtunnel keeps is rows, predictions and settings: the owner's alone, unless a caller says otherwise.
PRIVATE = 0o600
SHARED = 0o644


def write_with(
    path: Path,
    write: Callable[[Path], object],
    *,
    mode: int = PRIVATE,
    durable: bool = True,
    parents: bool = False,
) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, then put it in place; returns ``path``.

    A reader sees the old file or the new one, never a part. When ``write`` raises, ``path`` is as it was and
    nothing is left behind.

    Args:
        mode: permissions of the file, whatever the umask says.
        durable: also survive a power cut (fsync of file and folder). A heartbeat, worthless after a power cut, is
            written without: twice a second per model, the disk would do little else.
        parents: make the folders above ``path`` that are missing. Off by default, so that a late writer does not
            bring back a folder that was removed.

    Raises:
        OSError: the disk is full or not writable, or the folder is not there.
    """
    made = _make_folders(path.parent) if parents else []
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE))
        write(temporary)
        temporary.chmod(mode)
        if durable:
            _sync(temporary, os.O_RDONLY)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        for folder in (path.parent, *(folder.parent for folder in made)):
            sync_folder(folder)
    return path


def write_bytes(path: Path, data: bytes, *, mode: int = PRIVATE, durable: bool = True, parents: bool = False) -> Path:
    """``data`` at ``path``, whole or not at all. Arguments and errors as in ``write_with``."""

    def write(temporary: Path) -> None:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CLOEXEC), "wb") as file:
            file.write(data)

    return write_with(path, write, mode=mode, durable=durable, parents=parents)


def write_json(path: Path, value: Any, *, mode: int = PRIVATE, durable: bool = True, parents: bool = False) -> Path:
    """``value`` as JSON on one line at ``path``. Arguments and errors as in ``write_with``.

    For what has to survive as a digest or hold NaN there is ``windtunnel.canonical``.
    """
    data = json.dumps(value, separators=(",", ":")).encode() + b"\n"
    return write_bytes(path, data, mode=mode, durable=durable, parents=parents)


def write_json_if_changed(path: Path, value: Any) -> bool:
    """Replace ``path`` in one step, unless the file holds exactly that already; True if it was written."""
    if path.exists() and read_json(path, broken_ok=True) == json.loads(json.dumps(value)):
        return False
    write_json(path, value)
    return True


def read_json(path: Path, *, broken_ok: bool = False) -> Any | None:
    """The JSON value in ``path``, or None when there is no such file.

    Args:
        broken_ok: a file that holds no JSON counts as absent.

    Raises:
        ValueError: the file holds no JSON, so it was not written by ``write_json``.
    """
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        if broken_ok:
            return None
        raise ValueError(f"{path} holds no JSON: {error}") from error


def sync_folder(folder: Path) -> None:
    """Make renames and new names in ``folder`` survive a power cut."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _make_folders(folder: Path) -> list[Path]:
    """Make ``folder`` and what is missing above it; those that were missing, deepest first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for one in reversed(missing):
        one.mkdir(exist_ok=True)
    return missing
