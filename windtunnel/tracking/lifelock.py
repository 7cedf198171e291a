"""Is the runner of a run alive? A lock it holds for life answers without a doubt.

An open-file-description lock on ``RUN_DIR/alive.lock`` is taken by whoever starts the run and handed to the runner
with the open file itself, so there is no moment in between. The kernel lets go of it when the runner dies, however it
dies. Asking (``held``) takes nothing, so a question never looks like a runner.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

_FLOCK = "hhqqi4x"  # l_type, l_whence, l_start, l_len, l_pid of struct flock on 64-bit Linux


def _record(kind: int) -> bytes:
    return struct.pack(_FLOCK, kind, os.SEEK_SET, 0, 0, 0)


def path(folder: Path) -> Path:
    return folder / "alive.lock"


def take(folder: Path) -> int | None:
    """An open file that holds the lock until its last copy is closed, or None when another holds it."""
    descriptor = os.open(path(folder), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _record(fcntl.F_WRLCK))
    except (BlockingIOError, PermissionError):
        os.close(descriptor)
        return None
    return descriptor


def held(folder: Path) -> bool:
    """Does anybody hold the lock? Takes nothing."""
    try:
        descriptor = os.open(path(folder), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        answer = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _record(fcntl.F_WRLCK))
        return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)
    finally:
        os.close(descriptor)
