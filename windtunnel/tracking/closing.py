"""Closing a run in MLflow, by whoever finds that it has ended (TRK-8).

The wish is written first (``closing.json``), then carried out, then noted (``closed.json``). A server that is down
leaves the wish; ``close_abandoned`` carries it out later.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from windtunnel import files
from windtunnel.errors import TrainingError, UnavailableError
from windtunnel.home import Home
from windtunnel.tracking import lifelock, local
from windtunnel.tracking.contract import RunSpec
from windtunnel.tracking.server import MetricPoint, RunState, connect
from windtunnel.tracking.spool import Spool


def intend(
    folder: Path,
    state: RunState | None,
    reason: str,
    tags: Mapping[str, str],
    metrics: Mapping[str, float] | None = None,
) -> None:
    """Write down how the MLflow run is to be closed; facts and last metrics go to its spool.

    Args:
        state: None: somebody else closes it, and only what waits is to be delivered.
    """
    now = int(time.time() * 1000)
    spool = Spool(folder)
    spool.append([MetricPoint(key, value, now, 0) for key, value in (metrics or {}).items()])
    if state is not None:
        spool.set_facts({}, {"wt.reason": reason, **tags})
    files.write_json(folder / "closing.json", {"state": state, "end_time": now, "reason": reason})


def close(folder: Path, spec: RunSpec, *, patience: float) -> bool:
    """Deliver what waits and close the MLflow run; True when it is done.

    Args:
        patience: seconds to keep trying while the server does not answer.
    """
    wish: dict[str, Any] | None = files.read_json(folder / "closing.json")
    if wish is None or (folder / "closed.json").exists():
        return wish is not None
    if spec.tracking_uri is None:
        files.write_json(folder / "closed.json", {"at": time.time(), "server": None})
        return True
    end = time.monotonic() + patience
    while True:
        try:
            tracking = connect(spec.tracking_uri, timeout=5.0)
            Spool(folder).ship(tracking, spec.run_id)
            if wish["state"] is not None:
                tracking.set_state(spec.run_id, wish["state"], wish["end_time"])
            files.write_json(folder / "closed.json", {"at": time.time(), "server": spec.tracking_uri})
            return True
        except TrainingError as error:  # the run was deleted, or the credential is wrong: a person must look
            files.write_json(folder / "closed.json", {"at": time.time(), "refused": error.message})
            return False
        except UnavailableError:
            if time.monotonic() > end:
                return False
            time.sleep(0.5)


def close_abandoned(home: Home, *, env: Mapping[str, str] | None = None, silent_for: float = 60.0) -> dict[str, str]:
    """Carry out what ended runs could not: for the steward, every few minutes.

    A run whose runner died is ended for good (leftover processes killed), closed FAILED with reason ``abandoned``,
    and its metrics are delivered; a run that ended while the server was down is delivered and closed.

    Args:
        env: MLflow credentials, where this process's environment does not hold them.
        silent_for: seconds since the last heartbeat before a dead run counts as abandoned, so that a task that
            retries may take it up first.

    Returns:
        run id -> ``abandoned``, ``closed`` or ``waiting`` (the server does not answer) for each run touched.
    """
    done: dict[str, str] = {}
    if not home.runs.is_dir():
        return done
    kept = {name: os.environ.get(name) for name in (env or {})}
    os.environ.update(env or {})
    try:
        for folder in sorted(home.runs.iterdir()):
            if (folder / "closed.json").exists() or not (folder / "start.json").exists():
                continue
            if word := _tend(home, folder, silent_for):
                done[folder.name] = word
    finally:
        for name, value in kept.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    return done


def _tend(home: Home, folder: Path, silent_for: float) -> str | None:
    lock = lifelock.take(folder)  # nobody starts it again while we look
    if lock is None:
        return None
    try:
        found = local.status(home, folder.name, assume_dead=True)
        spec = RunSpec.from_dict(files.read_json(folder / "spec.json") or {})
        word = "closed"
        if not (folder / "exit.json").exists():
            if time.time() - (found.heartbeat or found.started_at or 0) < silent_for:
                return None
            local.end_run(folder, "lost", found.message)
            word = "abandoned"
        if not (folder / "closing.json").exists():
            if found.state == "cancelled":
                intend(folder, "KILLED", found.message, {"wt.failure": "cancelled"})
            else:
                reason = f"abandoned: {found.message}"
                intend(folder, "FAILED", reason, {"wt.failure": "transient", "wt.abandoned": "true"})
                word = "abandoned"
        return word if close(folder, spec, patience=0) or (folder / "closed.json").exists() else "waiting"
    finally:
        os.close(lock)
