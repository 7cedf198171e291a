"""Which processes belong to a home, and that they can be ended for certain."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from windtunnel.home import Home
from windtunnel.stack import processes


@pytest.mark.parametrize(
    ("environ", "cwd", "command", "ours"),
    [
        (b"WINDTUNNEL_SUPERVISED=/h", "/", "anything", True),
        (b"A=1\0WINDTUNNEL_SUPERVISED=/h\0B=2", "/", "anything", True),
        (b"WINDTUNNEL_SUPERVISED=/h2", "/", "python -m windtunnel.serving.release.guard", False),
        (b"WINDTUNNEL_HOME=/h", "/", "python -m windtunnel.tracking.runner /h/runs/1", True),
        (b"WINDTUNNEL_HOME=/h", "/", "bash", False),
        (b"WINDTUNNEL_HOME=/h", "/home/ann", "vim notes", False),
        (b"", "/h/serving", "/venv/bin/mlserver start .", True),
        (b"", "/h", "bash", False),
        (b"", "/hh", "/venv/bin/mlserver start .", False),
    ],
)
def test_belongs(environ: bytes, cwd: str, command: str, ours: bool) -> None:
    assert processes.belongs("/h", environ=environ, cwd=cwd, command=command) is ours


def start(home: Home, code: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, processes.MARK: str(home.root)}
    child = subprocess.Popen([sys.executable, "-c", code], env=env, start_new_session=True, stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline()
    return child


def test_a_process_that_ignores_sigterm_is_ended_too(tmp_path: Path) -> None:
    home = Home(tmp_path)
    stubborn = start(home, "import signal, time; signal.signal(15, signal.SIG_IGN); print(flush=True); time.sleep(600)")
    gentle = start(home, "import time; print(flush=True); time.sleep(600)")
    other = start(Home(tmp_path / "other"), "import time; print(flush=True); time.sleep(600)")
    try:
        assert {process.pid for process in processes.of_home(home)} == {stubborn.pid, gentle.pid}
        began = time.monotonic()
        assert processes.end_all(home, patience_s=0.5) == []
        assert time.monotonic() - began < 30
        assert processes.of_home(home) == []
        assert stubborn.wait(90) == -9 and gentle.wait(90) == -15
        assert other.poll() is None
    finally:
        for child in (stubborn, gentle, other):
            child.kill()
            child.wait()


def test_a_pid_that_was_used_again_is_another_process() -> None:
    me = processes.identify(os.getpid())
    assert me is not None and processes.is_alive(me)
    assert not processes.is_alive(processes.Process(me.pid, me.started + 1, me.command))


def test_a_zombie_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    deadline = time.monotonic() + 90
    while processes.identify(child.pid) is not None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert processes.identify(child.pid) is None
    child.wait()
