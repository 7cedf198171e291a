"""What a running stack says of itself: ports, URLs, interpreters; and its secrets, one 0600 file each.

Written by ``windtunnel up`` (room ``stack``), read by every room that must find a server.
"""

from __future__ import annotations

import json
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
