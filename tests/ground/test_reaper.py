"""``.ci/run`` leaves no process behind: whoever started it, whatever it calls itself, however the run ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import until

from windtunnel import procfs

REAPER = Path(__file__).parents[2] / ".ci" / "reaper.py"

#: Detached as a daemon is (two forks, a session of its own), its environment overwritten as Airflow's processes do it.
DAEMON = """
import ctypes, os, sys, time
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
fields = open("/proc/self/stat").read().rpartition(")")[2].split()
start, end = int(fields[47]), int(fields[48])  # env_start, env_end
ctypes.memset(start, 0, end - start)
with open(sys.argv[1] + ".new", "w") as file:
    file.write(f"{os.getpid()} {fields[19]}")
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""


class Run:
    """A reaper over a shell that starts a daemon and then does ``after``; and a neighbour, none of its business."""

    def __init__(self, folder: Path, after: str) -> None:
        self.file = folder / "pid"
        there = f"until [ -e {self.file} ]; do sleep 0.02; done"
        script = f"{sys.executable} -c '{DAEMON}' {self.file}; {there}; {after}"
        self.neighbour = subprocess.Popen(["sleep", "600"])
        self.process = subprocess.Popen(
            [sys.executable, str(REAPER), "bash", "-c", script], stderr=subprocess.PIPE, text=True
        )
        until(self.file.exists)
        self.daemon, self.started = map(int, self.file.read_text().split())

    def end(self) -> tuple[int, str]:
        """Exit code and what was said; the neighbour is still there, the daemon is not."""
        said = self.process.communicate(timeout=60)[1]
        assert self.neighbour.poll() is None
        assert not procfs.alive(self.daemon, self.started)
        return self.process.returncode, said

    def close(self) -> None:
        for process in (self.neighbour, self.process):
            process.kill()
            process.wait()
        if procfs.alive(self.daemon, self.started):
            os.kill(self.daemon, signal.SIGKILL)


@pytest.fixture
def run(tmp_path: Path) -> object:
    made: list[Run] = []

    def start(after: str) -> Run:
        made.append(Run(tmp_path, after))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.mark.parametrize("code", [0, 3])
def test_what_a_command_leaves_behind_is_ended_and_named(run: Callable[[str], Run], code: int) -> None:
    found = run(f"exit {code}")
    ended, said = found.end()
    assert ended == code
    assert f"left behind, and ended: {found.daemon} " in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything_below(run: Callable[[str], Run], number: signal.Signals) -> None:
    found = run("sleep 600")
    # Blind to the daemon by environment; it is found by descent.
    assert not Path(f"/proc/{found.daemon}/environ").read_bytes().strip(b"\0")
    assert procfs.parent(found.daemon) == found.process.pid
    found.process.send_signal(number)
    assert found.end()[0] == 128 + number
