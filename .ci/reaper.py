"""``python3 .ci/reaper.py COMMAND...``: runs a command, and nothing that it started outlives it.

Marks in the environment do not find everything: Airflow writes its process titles over it. So this process makes
itself the one that orphans of its descendants come to (``prctl(2)``, PR_SET_CHILD_SUBREAPER): whoever was started from
here, in whatever session, has this process above it. When the command has ended, or SIGTERM or SIGHUP tells this
process to end, or its own parent dies, all below it are killed until none is left; nobody else's process ever is below.

The exit code is the command's; 128 and the signal's number after a signal.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
PATIENCE_S = 30.0


class Told(BaseException):
    """A signal asks for the end."""

    def __init__(self, number: int) -> None:
        self.number = number


def below(top: int) -> dict[int, str]:
    """Every process below ``top``, zombies left out, with its command line."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                # The name in brackets may hold anything, brackets and spaces too.
                state, parent = (entry / "stat").read_bytes().rpartition(b")")[2].split()[:2]
                if state not in (b"Z", b"X"):
                    children.setdefault(int(parent), []).append(int(entry.name))
    found: dict[int, str] = {}
    unseen = [top]
    while unseen:
        for pid in children.get(unseen.pop(), ()):
            unseen.append(pid)
            found[pid] = ""
            with contextlib.suppress(OSError):
                found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return found


def end_all(*, tell: bool) -> None:
    """Kill what is below, again and again: one that dies may have just started another, which then comes to us."""
    end = time.monotonic() + PATIENCE_S
    told: set[int] = set()
    while ((left := below(os.getpid())) or not buried()) and time.monotonic() < end:
        for pid, command in left.items():
            if tell and pid not in told:
                told.add(pid)
                print(f"ci: left behind, and ended: {pid} {command[:120]}", file=sys.stderr)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    for pid, command in left.items():
        print(f"ci: could not end {pid} {command[:120]}", file=sys.stderr)


def buried() -> bool:
    """Take the exit codes of children that have ended; whether there is none left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return True
    return False


def main(command: list[str]) -> int:
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        print(f"ci: no subreaper: {os.strerror(ctypes.get_errno())}; processes may be left behind", file=sys.stderr)
    parent = os.getppid()
    prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)

    def told(number: int, frame: FrameType | None) -> None:
        for each in (signal.SIGTERM, signal.SIGHUP):  # once is enough
            signal.signal(each, signal.SIG_IGN)
        raise Told(number)

    code: int | None = None
    try:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, told)
        if os.getppid() != parent:  # it died while we were getting ready
            raise Told(signal.SIGTERM)
        child = subprocess.Popen(command)
        while code is None:
            pid, status = os.waitpid(-1, 0)  # orphans come here too
            if pid == child.pid:
                code = os.waitstatus_to_exitcode(status)
                code = code if code >= 0 else 128 - code
    except Told as signalled:
        code = 128 + signalled.number
    finally:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        end_all(tell=code is not None and code < 128)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
