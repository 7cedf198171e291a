"""The stack's own text files: written only when they change, and a full disk is said as a stack's trouble."""

from __future__ import annotations

from pathlib import Path

from windtunnel.errors import StackError
from windtunnel.files import write_bytes


def write(path: Path, text: str, *, mode: int = 0o600) -> bool:
    """Write ``text`` to ``path`` in one step; True if anything changed.

    Raises:
        StackError: the disk is full or the folder cannot be written.
    """
    try:
        if path.is_file() and not path.is_symlink() and path.read_text(encoding="utf-8") == text:
            if path.stat().st_mode & 0o777 != mode:
                path.chmod(mode)
            return False
        write_bytes(path, text.encode(), mode=mode, parents=True)
    except (OSError, UnicodeError) as error:
        raise _no_room(path, error) from error
    return True


def folder(path: Path, *, mode: int = 0o700) -> Path:
    """Make a folder and give it ``mode``.

    Raises:
        StackError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        if path.stat().st_mode & 0o777 != mode:
            path.chmod(mode)
    except OSError as error:
        raise _no_room(path, error) from error
    return path


def _no_room(path: Path, error: OSError | UnicodeError) -> StackError:
    why = getattr(error, "strerror", None) or str(error)
    return StackError(f"cannot write {path}: {why}", hint="free some space or choose another place with --home")
