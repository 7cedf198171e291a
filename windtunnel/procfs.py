"""Processes as Linux shows them below ``/proc``.

A pid alone names nothing, for pids come back; a pid with its start time does.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

#: Places in what ``stat`` returns.
STATE, PARENT, SESSION, START = 0, 1, 3, 19


def pids() -> list[int]:
    """Every process there is now."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208 (hot loop)


def stat(pid: int) -> list[str] | None:
    """Fields of ``/proc/PID/stat`` from the state on; None when the process is gone (a zombie is)."""
    try:
        # The name before may hold spaces, brackets and bytes that are no text.
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return fields if len(fields) > START and fields[STATE] not in "ZX" else None


def started(pid: int) -> int | None:
    """Start time of a living process in clock ticks since boot; None when it is gone or a zombie."""
    fields = stat(pid)
    return None if fields is None else int(fields[START])


def alive(pid: int | None, start: int | None) -> bool:
    """The very process: same pid and same start time."""
    return pid is not None and start is not None and started(pid) == start


def parent(pid: int) -> int | None:
    """Who started it or adopted it; None when it is gone."""
    fields = stat(pid)
    return None if fields is None else int(fields[PARENT])


def memory(processes: Iterable[int]) -> int:
    """Bytes held together: proportional set size, so that shared pages count once; RSS where the kernel hides it."""
    total = 0
    page = os.sysconf("SC_PAGE_SIZE")
    for pid in processes:
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines():
                if line.startswith(b"Pss:"):
                    total += int(line.split()[1]) * 1024
                    break
        except OSError:
            with suppress(OSError, ValueError, IndexError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page
    return total
