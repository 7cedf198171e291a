"""Files that are there whole or not at all: temporary file in the same folder, fsync, rename."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_with(path: Path, write: Callable[[Path], object], *, mode: int = 0o644) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, then put it in place.

    A reader sees the old file or the new one. When ``write`` raises, nothing is left behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(mode)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    return path


def sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes, *, mode: int = 0o644) -> Path:
    """``content`` at ``path``, whole or not at all."""
    return write_with(path, lambda temporary: temporary.write_bytes(content), mode=mode)


def write_json(path: Path, value: Any, *, mode: int = 0o644) -> Path:
    """``value`` as indented JSON at ``path``, whole or not at all."""
    return write_bytes(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode(), mode=mode)


def read_json(path: Path) -> Any | None:
    """The JSON value at ``path``, or None when there is no such file.

    Raises:
        ValueError: the file is no JSON (it was not written by ``write_json``).
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
