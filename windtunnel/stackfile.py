"""What a running stack says of itself: ports, URLs, interpreters; and its secrets, one 0600 file each.

Written by ``windtunnel up`` (room ``stack``), read by every room that must find a server.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from windtunnel.errors import StackError
from windtunnel.home import Home


@dataclass(frozen=True, slots=True)
class StackFile:
    """``HOME/stack.json``.

    Attributes:
        ports: by server: ``airflow``, ``mlflow``, ``envoy``.
        urls: ``airflow``, ``mlflow``, ``inference``.
        python: interpreters, ``main`` and ``serving``.
        database: ``sqlite`` or ``postgresql``.
        pid: supervisord's process id.
    """

    home: str
    ports: dict[str, int]
    urls: dict[str, str]
    python: dict[str, str]
    database: str = "sqlite"
    pid: int | None = None
    started_at: float | None = None
    version: int = 1
    extra: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, home: Home) -> StackFile:
        """The stack that was started in ``home``.

        Raises:
            StackError: none was, or the file cannot be read.
        """
        try:
            plain = json.loads(home.stack_file.read_text(encoding="utf-8"))
            return cls(**plain)
        except FileNotFoundError:
            raise StackError(f"no stack in {home.root}", hint="start one with 'windtunnel up'") from None
        except (ValueError, TypeError) as error:
            raise StackError(f"{home.stack_file} cannot be read: {error}", hint="run 'windtunnel up' again") from error

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"


def read_secret(home: Home, name: str) -> str:
    """One secret of the stack, without its newline.

    Raises:
        StackError: it is not there, or others may read it.
    """
    path: Path = home.secrets / name
    try:
        mode = path.stat().st_mode & 0o077
        if mode:
            raise StackError(f"{path} can be read by others (mode {mode:o})", hint=f"chmod 600 {path}")
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise StackError(f"no secret {name!r} in {home.secrets}", hint="run 'windtunnel up' to create it") from None


#: A unix socket's path may have 107 bytes on Linux; supervisord binds to ``PATH.PID`` first.
SOCKET_LIMIT = 98


def socket_path(home: Home, wanted: Path) -> Path:
    """Where a unix socket wanted at ``wanted`` (below ``home``) really lives.

    Usually ``wanted`` itself. A home with a long path gets a short private folder below /tmp instead, the same
    one every time and whatever ``$TMPDIR`` says, so that nobody has to be told. The folder is made by whoever
    creates the socket (``make_socket_folder``).
    """
    if len(os.fsencode(wanted)) <= SOCKET_LIMIT:
        return wanted
    short = hashlib.sha256(os.fsencode(home.root)).hexdigest()[:12]
    return Path("/tmp") / f"windtunnel-{os.getuid()}-{short}" / wanted.name


def supervisor_socket(home: Home) -> Path:
    """The unix socket of the supervisor that runs in ``home``."""
    return socket_path(home, home.supervisor / "supervisor.sock")


def make_socket_folder(socket: Path) -> None:
    """Make the folder of a socket, mode 0700.

    Raises:
        StackError: the folder is there but belongs to somebody else or is a link.
    """
    folder = socket.parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    about = folder.lstat()
    if folder.is_symlink() or about.st_uid != os.getuid():
        raise StackError(f"{folder} is not ours", hint="remove it, or use a home with a shorter path")
    folder.chmod(0o700)
