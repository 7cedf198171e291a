"""Processes that belong to a home: finding them, and ending them for certain.

A process is ours when it carries the mark that supervisord got from ``up`` and that everything below inherits
(``WINDTUNNEL_SUPERVISED=HOME``), or, lacking that, when it runs one of the stack's own programs with
``WINDTUNNEL_HOME=HOME`` or inside HOME. That finds detached training runners and model servers too, whoever their
parent is by now, and spares a person's shell that merely has ``WINDTUNNEL_HOME`` exported. A pid alone never names
a process here: it comes with its start time.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from windtunnel import procfs
from windtunnel.home import ENV_HOME, Home


@dataclass(frozen=True, slots=True)
class Process:
    """A process that cannot be mistaken for another: ``started`` is in clock ticks since boot."""

    pid: int
    started: int
    command: str


def identify(pid: int) -> Process | None:
    """The process that has ``pid`` now, or None; zombies are gone already."""
    started = procfs.started(pid)
    if started is None:
        return None
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return None
    return Process(pid, started, command)


def is_alive(process: Process) -> bool:
    return procfs.alive(process.pid, process.started)


def _ancestors() -> set[int]:
    """This process and those above it: never ended, whatever their environment says."""
    found: set[int] = set()
    pid: int | None = os.getpid()
    while pid is not None and pid > 1 and pid not in found:
        found.add(pid)
        pid = procfs.parent(pid)
    return found


#: Set by ``up`` for supervisord, and so for all it starts and for what those start.
MARK = "WINDTUNNEL_SUPERVISED"

_OURS = re.compile(r"windtunnel\.(tracking|serving|stack)|supervisord|mlserver|/envoy\b|mlflow|airflow")


def belongs(home: str, *, environ: bytes, cwd: str, command: str) -> bool:
    """Whether a process with these traits is part of the stack in ``home``."""
    variables = environ.split(b"\0")
    if f"{MARK}={home}".encode() in variables:
        return True
    inside = cwd == home or cwd.startswith(home + "/")
    return bool(_OURS.search(command)) and (inside or f"{ENV_HOME}={home}".encode() in variables)


def of_home(home: Home) -> list[Process]:
    """Every living process of this user's that belongs to ``home``, except the caller and its ancestors."""
    spared = _ancestors()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in spared:
            continue
        with contextlib.suppress(OSError):
            if entry.stat().st_uid != os.getuid():
                continue
            process = identify(int(entry.name))
            if process is None:
                continue
            environ = (entry / "environ").read_bytes()
            cwd = os.readlink(entry / "cwd")  # noqa: PTH115 - Path.readlink refuses "(deleted)" on some kernels
            if belongs(str(home.root), environ=environ, cwd=cwd, command=process.command):
                found.append(process)
    return sorted(found, key=lambda process: process.pid)


def end_all(home: Home, *, patience_s: float = 3.0, limit_s: float = 10.0) -> list[Process]:
    """End everything of ``home``: SIGTERM, then SIGKILL, again and again until a scan finds nothing.

    Returns:
        those that would not go within ``limit_s`` (uninterruptible sleep); normally empty.
    """
    start = time.monotonic()
    asked: set[Process] = set()
    while True:
        # One that is just dying has lost its environment already, but may still hold its ports: it counts as left.
        found = of_home(home)
        left = [*found, *(process for process in asked.difference(found) if is_alive(process))]
        waited = time.monotonic() - start
        if not left or waited > limit_s:
            return left
        for process in left:
            if process not in asked or waited > patience_s:
                number = signal.SIGTERM if process not in asked and waited <= patience_s else signal.SIGKILL
                asked.add(process)
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(process.pid, number)
        time.sleep(0.1)
