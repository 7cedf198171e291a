"""Processes are named by pid and start time, and measured without counting shared pages twice."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import psutil

from windtunnel import procfs


def test_this_very_process_is_found() -> None:
    me = os.getpid()
    start = procfs.started(me)
    assert start is not None and me in procfs.pids()
    since_boot = start / os.sysconf("SC_CLK_TCK")
    assert abs(psutil.Process(me).create_time() - psutil.boot_time() - since_boot) < 2
    assert procfs.alive(me, start) and procfs.parent(me) == os.getppid()
    assert not procfs.alive(me, start + 1), "another process under a pid that came back"
    assert not procfs.alive(None, start) and not procfs.alive(me, None)


def test_an_odd_name_does_not_shift_the_fields() -> None:
    rename = r"ctypes.CDLL(None).prctl(15, b'a) Z 1 (\xff', 0, 0, 0)"
    code = f"import ctypes, sys; {rename}; print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout and child.stdin
        child.stdout.readline()
        assert procfs.parent(child.pid) == os.getpid()
        assert (procfs.started(child.pid) or 0) >= (procfs.started(os.getpid()) or 0) > 1
        child.stdin.close()


def test_a_zombie_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    try:
        end = time.monotonic() + 20
        while procfs.started(child.pid) is not None and time.monotonic() < end:
            time.sleep(0.02)
        assert psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
        assert procfs.started(child.pid) is None and procfs.parent(child.pid) is None
    finally:
        child.wait()


def test_memory_is_what_psutil_says_and_nothing_for_the_dead() -> None:
    me = os.getpid()
    assert abs(procfs.memory([me]) - psutil.Process(me).memory_full_info().pss) < 2**23
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    assert procfs.memory([child.pid]) == 0
