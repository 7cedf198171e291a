"""Processes of a run: who they are, what they hold, how they end. Linux only (``/proc``).

A pid alone names nothing, for pids come back; a pid with its start time does. The processes of a run are
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

TOKEN = "WINDTUNNEL_RUN_TOKEN"
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def _stat(pid: int) -> list[str] | None:
    """Fields of ``/proc/PID/stat`` from ``state`` on (the name before may hold spaces and brackets)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None


def started(pid: int) -> int | None:
    """Start time of a living process in clock ticks since boot; None when it is gone or a zombie."""
    found = _stat(pid)
    if found is None or found[0] in "ZX":
        return None
    return int(found[19])


def alive(pid: int | None, start: int | None) -> bool:
    """The very process: same pid and same start time."""
    return pid is not None and start is not None and started(pid) == start


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 (hot loop)


def descendants(root: int) -> list[int]:
    """Every living descendant of ``root``."""
    children: dict[int, list[int]] = {}
    for pid in _all_pids():
        found = _stat(pid)
        if found and found[0] not in "ZX":
            children.setdefault(int(found[1]), []).append(pid)
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
    leader = started(session) if session else None
    recycled = leader is not None and leader != session_start
    for pid in _all_pids():
        if pid == mine:
            continue
        fields = _stat(pid)
        if fields is None or fields[0] in "ZX":
            continue
        of_session = bool(
            session and not recycled and int(fields[3]) == session and int(fields[19]) >= (session_start or 0)
        )
        with suppress(OSError):
            if of_session or needle in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.append(pid)
    return found


def memory(pids: list[int]) -> int:
    """Bytes held together: proportional set size, so that shared pages count once; RSS where the kernel hides it."""
    total = 0
    page = os.sysconf("SC_PAGE_SIZE")
    for pid in pids:
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines():
                if line.startswith(b"Pss:"):
                    total += int(line.split()[1]) * 1024
                    break
        except OSError:
            with suppress(OSError, ValueError, IndexError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page
    return total


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
