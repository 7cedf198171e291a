"""Processes of model servers: one per version, behind one interface with two hands.

``SupervisorServers`` adds programs to the running supervisord, which keeps them up whoever of us dies.
``ProcessServers`` starts plain child processes: the benchmark uses it, whose servers must end with it.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import shlex
import signal
import subprocess
import time
import xmlrpc.client
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from windtunnel import files
from windtunnel.errors import ServingError, UnavailableError
from windtunnel.home import Home
from windtunnel.loopback import call_supervisor, is_free
from windtunnel.serving.artifacts import Folder
from windtunnel.serving.modelserver.launch import GAVE_UP
from windtunnel.serving.modelserver.serverfiles import (
    program_name as program_name,  # it was here, and is asked for here
)
from windtunnel.serving.modelserver.serverfiles import write
from windtunnel.serving.routing import PROBE_HEADER
from windtunnel.spec.serving import Serving
from windtunnel.stackfile import StackFile, supervisor_socket

#: Below Linux's ephemeral range, so that no outgoing connection takes a server's port while it restarts.
PORTS = range(21_000, 31_000)


@dataclass(frozen=True, slots=True)
class Program:
    """One server's process: ``name`` is unique in a home."""

    name: str
    command: tuple[str, ...]
    folder: Path
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    stop_s: float = 10.0


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """``state``: absent, running (or starting), failed (it will not come back by itself)."""

    state: str
    pid: int | None = None
    message: str = ""


class ServerManager(Protocol):
    """Starts and stops programs; each method can be repeated without harm."""

    def start(self, program: Program) -> None:
        """Run ``program``; one that runs with the same settings is left alone, with others is replaced."""

    def stop(self, name: str) -> None:
        """End it and forget it."""

    def status(self, name: str) -> ProcessStatus:
        """What it is like now."""

    def names(self) -> list[str]:
        """All programs this manager was asked to run."""


def ignored(serving: Serving) -> list[str]:
    """Settings that servers on this machine do not follow: one process per version, no GPU of its own."""
    asked = {
        "replicas": serving.replicas > 1,
        "minimum": serving.minimum is not None,
        "maximum": serving.maximum is not None,
        "scale": serving.scale is not None,
        "disk": serving.disk != Serving().disk,
        "gpu": serving.gpu > 0,
        "api": serving.api is not None,
    }
    return [f"serving.{name}" for name, is_set in asked.items() if is_set]


def configure(
    folder: Folder,
    *,
    home: Home,
    model: str,
    version: str,
    digest: str,
    port: int,
    serving: Serving,
    features: Sequence[dict[str, Any]] = (),
    warmup: Sequence[dict[str, Any]] = (),
    predictions: Path | None = None,
) -> Program:
    """Write a server's settings and say how to run it. Files that hold the same already are not touched.

    Args:
        features: ``spec.Feature`` as plain dicts; with the signature they make the input check.
        warmup: rows (feature to value) predicted before the server is ready.
        predictions: root of the prediction log; the home's by default.

    Raises:
        ServingError: the description asks for what this backend does not have.
    """
    python = interpreter(home, model, serving.environment)
    threads = write(
        folder,
        model=model,
        version=version,
        digest=digest,
        port=port,
        serving=serving,
        features=features,
        warmup=warmup,
        predictions=predictions or home.predictions,
    )
    return Program(
        name=program_name(model, version),
        command=(python, "-m", "windtunnel.serving.modelserver.launch", str(folder.path)),
        folder=folder.path,
        log=home.logs / f"server-{model}-{version}.log",
        environment={
            # A server needs nothing of MLflow's server; and numeric libraries must not take all cores for one version.
            "MLFLOW_TRACKING_URI": "file:///nonexistent",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "OMP_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": str(threads),
            "MALLOC_ARENA_MAX": "2",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        stop_s=serving.drain.total_seconds() + 5,
    )


def interpreter(home: Home, model: str, environment: str | None) -> str:
    """The Python of a model's servers: the stack's, or that of an environment of its own.

    Raises:
        ServingError: the environment was not made on this machine.
    """
    if environment is None:
        return StackFile.read(home).python["serving"]
    python = home.serving_environment(environment) / "bin" / "python"
    if not os.access(python, os.X_OK):
        raise ServingError(
            f"{model} is served from the environment {environment!r}, which is not on this machine ({python})",
            hint=f"windtunnel setup-serving {environment} requirements.txt",
        )
    return str(python)


class SupervisorServers:
    """Model servers as programs of the home's supervisord, one file each in ``HOME/supervisor/conf.d``."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.folder = home.supervisor / "conf.d"

    def start(self, program: Program) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        program.log.parent.mkdir(parents=True, exist_ok=True)
        path = self._path(program.name)
        text = conf(program)
        changed = not path.exists() or path.read_text(encoding="utf-8") != text
        if changed:
            files.write_bytes(path, text.encode())
        state = self._info(program.name)
        if state is not None and changed:
            self._remove(program.name)
            state = None
        if state is None:
            self._call("supervisor.reloadConfig")
            self._tolerant("supervisor.addProcessGroup", program.name)
            state = self._info(program.name)
        if state is not None and state["statename"] in ("STOPPED", "EXITED", "FATAL"):
            self._tolerant("supervisor.startProcess", program.name, False)

    def stop(self, name: str) -> None:
        path = self._path(name)
        if self._info(name) is not None:
            self._remove(name)
        if path.exists():
            path.unlink()
            self._call("supervisor.reloadConfig")

    def status(self, name: str) -> ProcessStatus:
        info = self._info(name)
        if info is None:
            return ProcessStatus("absent")
        message = str(info["spawnerr"] or info["description"])
        if info["statename"] in ("STOPPED", "EXITED", "FATAL"):
            return ProcessStatus("failed", None, message)
        return ProcessStatus("running", int(info["pid"]) or None, message)

    def names(self) -> list[str]:
        return sorted(path.stem for path in self.folder.glob("wt-*.conf"))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.conf"

    def _remove(self, name: str) -> None:
        self._tolerant("supervisor.stopProcessGroup", name, True)
        deadline = time.monotonic() + 30
        while True:
            try:
                self._call("supervisor.removeProcessGroup", name)
                return
            except xmlrpc.client.Fault as fault:
                if fault.faultCode == 10:  # BAD_NAME: gone
                    return
                if time.monotonic() > deadline:
                    raise ServingError(f"supervisord does not let go of {name}: {fault.faultString}") from fault
                time.sleep(0.1)  # STILL_RUNNING

    def _info(self, name: str) -> dict[str, Any] | None:
        try:
            return dict(self._call("supervisor.getProcessInfo", name))
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == 10:  # BAD_NAME
                return None
            raise ServingError(f"supervisord: {name}: {fault.faultString}") from fault

    def _tolerant(self, method: str, *arguments: Any) -> None:
        try:
            self._call(method, *arguments)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode not in (10, 60, 70, 90):  # gone, already started, not running, already added
                raise ServingError(f"supervisord: {arguments[0]}: {fault.faultString}") from fault

    def _call(self, method: str, *arguments: Any) -> Any:
        return call_supervisor(supervisor_socket(self.home), method, *arguments, timeout_s=60.0)


def conf(program: Program) -> str:
    """The supervisord section of one server."""

    def escape(text: str) -> str:
        return text.replace("%", "%%")

    environment = ",".join(f'{key}="{escape(value)}"' for key, value in sorted(program.environment.items()))
    return (
        f"[program:{program.name}]\n"
        f"command={escape(shlex.join(program.command))}\n"
        f"directory={escape(str(program.folder))}\n"
        f"environment={environment}\n"
        "autostart=true\n"
        "autorestart=unexpected\n"
        # The only exit that a restart cannot mend; everything else comes back (launch.py slows down a crash loop).
        f"exitcodes={GAVE_UP}\n"
        "startsecs=0\n"
        "stopsignal=TERM\n"
        f"stopwaitsecs={math.ceil(program.stop_s)}\n"
        "stopasgroup=true\n"
        "killasgroup=true\n"
        "redirect_stderr=true\n"
        f"stdout_logfile={escape(str(program.log))}\n"
        "stdout_logfile_maxbytes=5MB\n"
        "stdout_logfile_backups=1\n"
        "umask=077\n"
    )


class ProcessServers:
    """Model servers as children of this process; ``close`` ends them all."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[Program, subprocess.Popen[bytes]]] = {}

    def start(self, program: Program) -> None:
        found = self._running.get(program.name)
        if found and found[1].poll() is None:
            if found[0] == program:
                return
            self.stop(program.name)
        program.log.parent.mkdir(parents=True, exist_ok=True)
        with program.log.open("ab") as log:
            child = subprocess.Popen(
                program.command,
                cwd=program.folder,
                env={**os.environ, **program.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._running[program.name] = (program, child)

    def stop(self, name: str) -> None:
        found = self._running.pop(name, None)
        if found is None or found[1].poll() is not None:
            return
        program, child = found
        child.terminate()
        try:
            child.wait(program.stop_s)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()

    def status(self, name: str) -> ProcessStatus:
        found = self._running.get(name)
        if found is None:
            return ProcessStatus("absent")
        code = found[1].poll()
        if code is not None:
            return ProcessStatus("failed", None, f"exit code {code}")
        return ProcessStatus("running", found[1].pid)

    def names(self) -> list[str]:
        return sorted(self._running)

    def close(self) -> None:
        for name in list(self._running):
            self.stop(name)


# -- ports and probes


def free_port(taken: set[int], start: int) -> int:
    """A port of ``PORTS`` that is neither in ``taken`` nor in use; ``start`` spreads homes over the range.

    Raises:
        ServingError: none is left.
    """
    for offset in range(len(PORTS)):
        port = PORTS[(start + offset) % len(PORTS)]
        if port not in taken and is_free(port):
            return port
    raise ServingError(f"no free port between {PORTS.start} and {PORTS.stop}", hint="unload models nobody uses")


def is_ready(model: str, port: int, timeout_s: float = 2.0) -> bool:
    """The server on ``port`` says that ``model`` is loaded and warmed."""
    try:
        return _request("GET", port, f"/v2/models/{model}/ready", None, timeout_s)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def infer(model: str, version: str, port: int, row: dict[str, Any], timeout_s: float) -> None:
    """One real inference that is not logged.

    Raises:
        UnavailableError: nobody answered.
        ServingError: the answer is not a prediction of this version.
    """
    body = json.dumps({"inputs": tensors([row])}).encode()
    try:
        status, answer = _request("POST", port, f"/v2/models/{model}/infer", body, timeout_s)
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(f"{model} version {version} did not answer an inference: {error}") from error
    if status != 200:
        raise ServingError(f"{model} version {version} answered {status} to an inference: {answer[:500]!r}")
    found = json.loads(answer)
    if found.get("model_name") != model or found.get("model_version") != version:
        raise ServingError(f"port {port} answers for {found.get('model_name')} version {found.get('model_version')}")


def tensors(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Open Inference Protocol inputs for ``rows``: one tensor per feature."""
    listed = []
    for name in rows[0]:
        values = [row[name] for row in rows]
        first = next((value for value in values if value is not None), 0.0)
        datatype = "FP64"
        if isinstance(first, bool):
            datatype = "BOOL"
        elif isinstance(first, str):
            datatype = "BYTES"
        elif all(isinstance(value, int) for value in values if value is not None):
            datatype = "INT64"
        listed.append({"name": name, "shape": [len(values)], "datatype": datatype, "data": values})
    return listed


def _request(method: str, port: int, path: str, body: bytes | None, timeout_s: float) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json", PROBE_HEADER: "1"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
