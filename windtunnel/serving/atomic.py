"""Files that are whole or absent: temporary name in the same folder, fsync, rename."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any


def write_bytes(path: Path, data: bytes, *, durable: bool = True, mode: int = 0o600) -> None:
    """Replace ``path`` by ``data`` so that a reader sees the old bytes or the new ones, never a part.

    Args:
        durable: also survive a power cut (fsync of file and folder). A heartbeat, worthless after a
            power cut, is written without: twice a second per model, the disk would do little else.

    Raises:
        OSError: the disk is full or not writable; ``path`` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def write_json(path: Path, value: Any, *, durable: bool = True) -> None:
    """``write_bytes`` of ``value`` as JSON on one line."""
    write_bytes(path, json.dumps(value, separators=(",", ":")).encode() + b"\n", durable=durable)


def read_json(path: Path) -> Any | None:
    """The JSON value in ``path``; None when the file is absent or holds none."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def sync_folder(folder: Path) -> None:
    """Make renames and new names in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
