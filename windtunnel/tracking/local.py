"""Runs on this machine: start, look, cancel, read the log; from any process, at any time.

A run lives in ``HOME/runs/RUN_ID`` and belongs to no Airflow task: its runner is a process of its own session, adopted
by init, which watches the process that runs the user's code. Starting the same run id again finds the run that is
there. Files of a run:

    spec.json       what to do                     start.json      who was asked to start, attempt, token
    runner.json     the runner's pid               child.json      pid and start time of the user's process
    heartbeat.json  renewed each second            log.txt         stdout and stderr, capped
    alive.lock      held while the runner lives    cancel.json     somebody wants it ended
    result.json     what it made                   exit.json       how it ended: written last
    metrics.jsonl, facts.json                      words for MLflow; see ``spool``
    closing.json, closed.json                      how the MLflow run is to be closed, and that it was
    model/          the model                      attempts/N/     papers of earlier attempts
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

from windtunnel import files, procfs
from windtunnel.errors import ResourceError, TransientError
from windtunnel.home import Home
from windtunnel.tracking import lifelock, processes
from windtunnel.tracking.contract import EXIT, Failure, RunHandle, RunResult, RunSpec, RunStatus, run_dir

#: A cancel is over after this many seconds, whatever it takes (TRN-7).
CANCEL_WITHIN = 28.0
#: What the user's code gets between TERM and KILL.
GRACE = 10.0
#: How long a runner may go on after its run has ended.
LAST_WORDS = 30.0

_PAPERS = (
    "start.json", "runner.json", "child.json", "heartbeat.json", "cancel.json", "failure.json", "exit.json",
    "closing.json", "closed.json", "result.json", "log.txt",
)  # fmt: skip
_HIDDEN = ("AIRFLOW", "_AIRFLOW")


def start(
    home: Home, spec: RunSpec, *, env: Mapping[str, str] | None = None, restart: bool = False, check: bool = True
) -> RunHandle:
    """Start a run, or find it.

    A running run is attached to. One that has ended is returned as it ended, unless it was lost (its runner died) or
    ``restart`` asks for another attempt of a failed or cancelled one; then the old processes are surely dead first, and
    a model that was already trained and saved is only delivered, not trained again.

    Args:
        home: where runs live.
        spec: what to do; that of the first start stays for attached runs.
        env: variables beside this process's own, e.g. MLflow credentials; never written to disk.
        check: False where a scheduler has found a place with what is asked already.

    Raises:
        ResourceError: this machine can never give what is asked (TRN-5).
        TransientError: processes of an earlier attempt cannot be ended, or the runner did not start.
    """
    if check:
        check_resources(home, spec)
    folder = run_dir(home, spec.run_id)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = lifelock.take(folder)
    if lock is None and restart and (folder / "exit.json").exists():
        # It has ended; its runner is only saying its last words to MLflow, for a bounded time.
        end = time.monotonic() + LAST_WORDS
        while lock is None and time.monotonic() < end:
            time.sleep(0.05)
            lock = lifelock.take(folder)
    if lock is None:
        return RunHandle(spec.run_id, folder, True, status(home, spec.run_id))
    try:
        before = status(home, spec.run_id, assume_dead=True)
        again = before.state == "lost" or (restart and before.state in ("failed", "cancelled"))
        if before.state != "absent" and not again:
            return RunHandle(spec.run_id, folder, True, before)
        _bury(folder, before)
        attempt = before.attempt + 1
        token = secrets.token_hex(16)
        files.write_json(folder / "spec.json", spec.to_dict(), mode=0o600)
        files.write_json(
            folder / "start.json", {"token": token, "attempt": attempt, "at": time.time(), "by": os.getpid()}
        )
        _spawn(folder, spec, lock, _environment(spec, token, env))
        return RunHandle(spec.run_id, folder, False, status(home, spec.run_id))
    finally:
        os.close(lock)


def _bury(folder: Path, before: RunStatus) -> None:
    """End what is left of an earlier attempt and put its papers aside."""
    begun = files.read_json(folder / "start.json")
    if begun is None:
        return
    _end_leftovers(folder)
    aside = folder / "attempts" / str(begun.get("attempt", before.attempt))
    aside.mkdir(parents=True, exist_ok=True)
    for name in _PAPERS:
        with suppress(FileNotFoundError):
            (folder / name).replace(aside / name)


def _end_leftovers(folder: Path, within: float = 10.0) -> None:
    begun = files.read_json(folder / "start.json") or {}
    child = files.read_json(folder / "child.json") or {}
    if begun.get("token") and not processes.end_leftovers(begun["token"], child.get("pid"), child.get("start"), within):
        raise TransientError(
            f"processes of an earlier attempt of run {folder.name} do not die",
            hint="they hang in the kernel (a dead network disk?); the run starts again when they are gone",
        )


def _environment(spec: RunSpec, token: str, extra: Mapping[str, str] | None) -> dict[str, str]:
    """The runner's environment: the caller's, without Airflow's own (its keys are no business of a training)."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_HIDDEN)}
    kept.update(extra or {})
    paths = [*spec.python_path, *(p for p in [kept.get("PYTHONPATH", "")] if p)]
    if paths:
        kept["PYTHONPATH"] = os.pathsep.join(paths)
    kept[processes.TOKEN] = token
    return kept


def _spawn(folder: Path, spec: RunSpec, lock: int, environment: dict[str, str]) -> None:
    command = [spec.python or sys.executable, "-P", "-m", "windtunnel.tracking.runner", str(folder), str(lock)]
    try:
        with (folder / "runner.log").open("ab") as log:
            done = subprocess.run(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                pass_fds=(lock,), start_new_session=True, timeout=60, check=False,
            )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TransientError(f"the runner of {spec.run_id} did not start: {error}", hint=f"see {folder}") from error
    if done.returncode:
        tail = (folder / "runner.log").read_text(errors="replace")[-400:]
        raise TransientError(f"the runner of {spec.run_id} did not start (exit code {done.returncode}): {tail.strip()}")


def status(home: Home, run_id: str, *, assume_dead: bool = False) -> RunStatus:
    """Where a run stands; asks the kernel, starts and changes nothing.

    Args:
        assume_dead: the caller holds the run's lock, so nobody else does.
    """
    folder = run_dir(home, run_id)
    # The lock is asked before the exit file is read: a runner writes that file before it lets go.
    living = not assume_dead and lifelock.held(folder)
    begun = files.read_json(folder / "start.json")
    over = files.read_json(folder / "exit.json")
    attempt = int((begun or {}).get("attempt", 0))
    if over is not None:
        return RunStatus.from_dict({**over, "run_id": run_id, "attempt": attempt})
    beat = files.read_json(folder / "heartbeat.json") or {}
    runner = files.read_json(folder / "runner.json") or {}
    child = files.read_json(folder / "child.json") or {}
    numbers = {
        "run_id": run_id, "attempt": attempt, "started_at": (begun or {}).get("at"), "heartbeat": beat.get("at"),
        "memory": beat.get("memory"), "peak_memory": beat.get("peak_memory"), "pid": runner.get("pid"),
    }  # fmt: skip
    if living:
        return RunStatus.from_dict({**numbers, "state": "running" if child else "starting"})
    if begun is None:
        return RunStatus(run_id, "absent", message=f"run {run_id} was never started in {home.runs}")
    return RunStatus.from_dict(
        {
            **numbers,
            "state": "lost",
            "failure": "transient",
            "exit_code": EXIT["transient"],
            "message": "the runner died without a word (killed, or the machine went down)",
        }
    )


def result(home: Home, run_id: str) -> RunResult | None:
    """What a succeeded run made; None before that."""
    if status(home, run_id).state != "succeeded":
        return None
    plain = files.read_json(run_dir(home, run_id) / "result.json")
    return RunResult.from_dict(plain) if plain else None


def wait(home: Home, run_id: str, *, timeout: float, every: float = 0.2) -> RunStatus:
    """Look until the run has ended or ``timeout`` seconds are over; the last look either way."""
    end = time.monotonic() + timeout
    while True:
        found = status(home, run_id)
        if found.ended or time.monotonic() > end:
            return found
        time.sleep(every)


def cancel(home: Home, run_id: str, *, reason: str = "cancelled by a person") -> RunStatus:
    """End a run and everything it started within 30 s: TERM, then KILL. Cancelling what has ended changes nothing.

    Raises:
        TransientError: processes do not die, even by KILL.
    """
    folder = run_dir(home, run_id)
    found = status(home, run_id)
    if found.state == "absent" or (found.ended and found.state != "lost"):
        return found
    files.write_json(folder / "cancel.json", {"reason": reason, "at": time.time(), "by": os.getpid()})
    end = time.monotonic() + CANCEL_WITHIN - 6
    told = False
    while lifelock.held(folder) and time.monotonic() < end:
        runner = files.read_json(folder / "runner.json")
        if not told and runner and procfs.alive(runner["pid"], runner["start"]):
            processes.kill([runner["pid"]], signal.SIGTERM)
            told = True
        if (folder / "exit.json").exists():
            return status(home, run_id)
        time.sleep(0.05)
    # No runner, or one that does not obey.
    end_run(folder, "cancelled", reason)
    return status(home, run_id)


def unwanted(home: Home, run_id: str) -> bool:
    """Whether somebody asked for the end of the run's present attempt, whether or not it has obeyed."""
    return (run_dir(home, run_id) / "cancel.json").exists()


def end_run(folder: Path, state: Literal["cancelled", "lost"], message: str) -> None:
    """End everything of a run whose runner is dead or does not obey, and write its last word.

    Raises:
        TransientError: processes do not die, even by KILL.
    """
    _end_leftovers(folder, within=5.0)
    if (folder / "exit.json").exists():
        return
    begun = files.read_json(folder / "start.json") or {}
    failure: Failure = "cancelled" if state == "cancelled" else "transient"
    files.write_json(
        folder / "exit.json",
        {
            "run_id": folder.name, "state": state, "failure": failure, "exit_code": EXIT[failure],
            "message": message, "started_at": begun.get("at"), "ended_at": time.time(),
        },
    )  # fmt: skip


def running(home: Home) -> Iterator[str]:
    """Ids of the runs that live now."""
    if home.runs.is_dir():
        for folder in sorted(home.runs.iterdir()):
            if folder.is_dir() and lifelock.held(folder):
                yield folder.name


def stop_all(home: Home, *, reason: str = "the stack was stopped") -> list[str]:
    """End every run as a transient failure (a retry starts it again): for ``windtunnel down``. The ids ended."""
    ended = []
    for run_id in list(running(home)):
        folder = run_dir(home, run_id)
        runner = files.read_json(folder / "runner.json")
        if runner and procfs.alive(runner["pid"], runner["start"]):
            processes.kill([runner["pid"]], signal.SIGTERM)
        ended.append(run_id)
    end = time.monotonic() + GRACE + 10
    for run_id in ended:
        folder = run_dir(home, run_id)
        while lifelock.held(folder) and time.monotonic() < end:
            time.sleep(0.05)
        end_run(folder, "lost", reason)
    return ended


def tail(home: Home, run_id: str, offset: int = 0, limit: int = 256 * 1024) -> tuple[str, int]:
    """Text of the log from byte ``offset`` on, at most ``limit`` bytes, and the offset to go on from.

    A character cut in two at the end waits for its other half, unless nothing follows any more.
    """
    path = run_dir(home, run_id) / "log.txt"
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            found = stream.read(limit)
    except FileNotFoundError:
        return "", offset
    for missing in range(1, min(4, len(found) + 1)):
        byte = found[-missing]
        if byte & 0b1100_0000 == 0b1000_0000:
            continue
        needed = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
        if needed > missing and len(found) > missing:
            found = found[:-missing]
        break
    return found.decode("utf-8", errors="replace"), offset + len(found)


def machine_memory() -> int:
    """Bytes this process may ever have: the machine's, or its cgroup's if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, ValueError):
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return total


def _gpus() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    found = subprocess.run(
        ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    return [line.strip() for line in found.stdout.splitlines() if line.strip()] if found.returncode == 0 else []


def check_resources(home: Home, spec: RunSpec) -> None:
    """Refuse at once what can never be given (TRN-5).

    Raises:
        ResourceError: names what was asked and what there is.
    """
    asked = spec.resources
    memory, cpu, gpu = int(asked.get("memory", 0)), float(asked.get("cpu", 0)), int(asked.get("gpu", 0))
    if memory > machine_memory():
        raise ResourceError(
            f"run {spec.run_id} asks for {memory / 2**30:.1f} GiB memory; there is {machine_memory() / 2**30:.1f}",
            hint="lower training.resources.memory or use a larger machine",
        )
    if cpu > (os.cpu_count() or 1):
        raise ResourceError(
            f"run {spec.run_id} asks for {cpu:g} CPUs; this machine has {os.cpu_count()}",
            hint="lower training.resources.cpu or use a larger machine",
        )
    if gpu:
        found = _gpus()
        wanted = [name for name in found if (asked.get("gpu_type") or "").lower() in name.lower()]
        if len(wanted) < gpu:
            raise ResourceError(
                f"run {spec.run_id} asks for {gpu} GPU(s) of type {asked.get('gpu_type') or 'any'}; "
                f"this machine has {', '.join(found) or 'none'}",
                hint="train on a machine that has one",
            )
    home.runs.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home.runs).free
    if free < 64 * 2**20:
        raise ResourceError(
            f"only {free / 2**20:.0f} MiB are free in {home.runs}", hint="free some disk space, then run the task again"
        )
