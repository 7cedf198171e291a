"""Processes of a run: which they are, how they end. Linux only (``/proc``).

The processes of a run are
found in three ways, so that none gets away: descendants of the runner (which adopts orphans), the session of the
child, and a token in the environment.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from windtunnel import procfs

TOKEN = "WINDTUNNEL_RUN_TOKEN"
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def descendants(root: int) -> list[int]:
    """Every living descendant of ``root``."""
    children: dict[int, list[int]] = {}
    for pid in procfs.pids():
        above = procfs.parent(pid)
        if above is not None:
            children.setdefault(above, []).append(pid)
    out, queue = [], [root]
    while queue:
        below = children.get(queue.pop(), [])
        out += below
        queue += below
    return out


def leftovers(token: str, session: int | None = None, session_start: int | None = None) -> list[int]:
    """Living processes that carry the run's token or are of its child's session.

    Args:
        session: pid of the child, which leads its session.
        session_start: start time of that child, in ticks; a leader with another start time is a stranger's
            session under a pid that came back.
    """
    needle = f"{TOKEN}={token}".encode()
    mine, found = os.getpid(), []
    leader = procfs.started(session) if session else None
    recycled = leader is not None and leader != session_start
    for pid in procfs.pids():
        if pid == mine:
            continue
        fields = procfs.stat(pid)
        if fields is None:
            continue
        of_session = bool(
            session
            and not recycled
            and int(fields[procfs.SESSION]) == session
            and int(fields[procfs.START]) >= (session_start or 0)
        )
        with suppress(OSError):
            if of_session or needle in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(pid)
    return found


def kill(pids: list[int], sign: signal.Signals) -> None:
    """Signal each; those already gone do not matter."""
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, sign)


def end_leftovers(token: str, session: int | None, session_start: int | None, within: float = 10.0) -> bool:
    """Kill whatever is left of a run; True when surely nothing is."""
    end = time.monotonic() + within
    while found := leftovers(token, session, session_start):
        kill(found, signal.SIGKILL)
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies; exits at once if it died already."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(75)


def adopt_orphans() -> None:
    """Make this process the parent of every orphan below it."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def oom_kills() -> int:
    """Processes the kernel has killed for memory, on this machine and in this cgroup; 0 where it does not say."""
    total = 0
    with suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                total += int(line.split()[1])
    with suppress(OSError, ValueError):
        for line in Path("/sys/fs/cgroup/memory.events").read_text().splitlines():
            if line.startswith("oom_kill "):
                total += int(line.split()[1])
    return total
