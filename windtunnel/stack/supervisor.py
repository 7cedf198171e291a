"""Talking to supervisord: start it, ask it, tell it. XML-RPC over its 0600 unix socket."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windtunnel.errors import StackError, UnavailableError
from windtunnel.home import Home
from windtunnel.loopback import call_supervisor
from windtunnel.stack import processes
from windtunnel.stackfile import make_socket_folder, supervisor_socket


@dataclass(frozen=True, slots=True)
class ProgramState:
    """A program as supervisord sees it. ``state``: STOPPED, STARTING, RUNNING, BACKOFF, STOPPING, EXITED, FATAL."""

    name: str
    state: str
    pid: int | None
    started_at: float | None
    message: str


def _hear_sigint() -> None:
    """A script's background job ignores SIGINT, and so would all it starts; Airflow ends its children only on it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Supervisor:
    """A supervisord of one home. Nothing is done until a method is called."""

    def __init__(self, home: Home, *, timeout_s: float = 10.0) -> None:
        self.home = home
        self.socket = supervisor_socket(home)
        self.timeout_s = timeout_s

    # -- life
    def start(self, config: Path, *, limit_s: float = 15.0) -> int:
        """Start supervisord with ``config`` in a session of its own and wait until it answers; its pid.

        Raises:
            StackError: it did not come up.
        """
        make_socket_folder(self.socket)
        log = self.home.logs / "supervisord.out"
        with log.open("wb") as out:
            child = subprocess.Popen(
                [sys.executable, "-m", "supervisor.supervisord", "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd=self.home.root,
                env=clean_environment(self.home),
                start_new_session=True,
                umask=0o077,
                preexec_fn=_hear_sigint,
            )
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if child.poll() is not None:
                tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
                raise StackError(
                    f"supervisord ended with code {child.returncode}: {' | '.join(tail)}",
                    hint=f"see {log}",
                )
            if self.pid() == child.pid:
                return child.pid
            time.sleep(0.05)
        child.kill()
        raise StackError(f"supervisord did not answer within {limit_s:.0f} s", hint=f"see {self.home.logs}")

    def pid(self) -> int | None:
        """Its pid, or None when none answers."""
        try:
            return int(self.call("supervisor.getPID"))
        except UnavailableError:
            return None

    def shutdown(self) -> None:
        """Ask it to stop everything and end."""
        self.call("supervisor.shutdown")

    # -- programs
    def states(self) -> dict[str, ProgramState]:
        """All programs, model servers included.

        Raises:
            UnavailableError: supervisord does not answer.
        """
        found = {}
        for info in self.call("supervisor.getAllProcessInfo"):
            name = str(info["name"]) if info["name"] == info["group"] else f"{info['group']}:{info['name']}"
            found[name] = ProgramState(
                name=name,
                state=str(info["statename"]),
                pid=int(info["pid"]) or None,
                started_at=float(info["start"]) or None,
                message=str(info["spawnerr"] or info["description"]),
            )
        return found

    def start_programs(self, names: Iterable[str]) -> None:
        """Start programs without waiting for them; those that run already are left alone."""
        for name in names:
            self._tolerant("supervisor.startProcess", name, False)

    def stop_programs(self, names: Iterable[str]) -> None:
        """Ask programs to stop without waiting."""
        for name in names:
            self._tolerant("supervisor.stopProcess", name, False)

    def _tolerant(self, method: str, name: str, wait: bool) -> None:
        try:
            self.call(method, name, wait)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode not in (60, 70):  # ALREADY_STARTED, NOT_RUNNING
                raise StackError(f"supervisord: {name}: {fault.faultString}") from fault

    def call(self, method: str, *arguments: Any) -> Any:
        """One remote call.

        Raises:
            UnavailableError: nobody answers at the socket.
            xmlrpc.client.Fault: supervisord says no.
        """
        return call_supervisor(self.socket, method, *arguments, timeout_s=self.timeout_s)


#: Variables that would change what Airflow, MLflow or Python do, if the person who calls ``up`` has them set.
_FOREIGN = ("AIRFLOW", "MLFLOW", "PYTHON", "GUNICORN", "UVICORN", "SQLALCHEMY", "WINDTUNNEL", "SUPERVISOR")


def clean_environment(home: Home, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of supervisord and so of everything below: the caller's without foreign settings, secrets
    of ours included, with loopback never sent through a proxy.
    """
    env = {
        key: text
        for key, text in (os.environ if environ is None else environ).items()
        if not key.upper().startswith(_FOREIGN)
    }
    kept = [part for part in env.get("no_proxy", env.get("NO_PROXY", "")).split(",") if part]
    loopback = ",".join(dict.fromkeys([*kept, "127.0.0.1", "localhost"]))
    return env | {
        "no_proxy": loopback,
        "NO_PROXY": loopback,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", "/usr/bin:/bin")]),
        # No library below reports to its makers.
        "DO_NOT_TRACK": "1",
        "GX_ANALYTICS_ENABLED": "False",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "WINDTUNNEL_HOME": str(home.root),
        processes.MARK: str(home.root),
    }
