"""Programs of the local serving backend: Envoy, the meter that reads its log, the guard."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from windtunnel.errors import StackError
from windtunnel.home import Home
from windtunnel.stack.programs import Program

ENV_PYTHON = "WINDTUNNEL_SERVING_PYTHON"
PROGRAMS = ("envoy", "meter", "guard")


def find_python(home: Home) -> str:
    """The interpreter of the model servers' environment.

    ``$WINDTUNNEL_SERVING_PYTHON``, else the home's own environment (``windtunnel setup-serving``), else the
    checkout's ``.venv-serving`` beside the environment this runs in.

    Raises:
        StackError: there is none; says how to make one.
    """
    told = os.environ.get(ENV_PYTHON)
    if told:
        if not os.access(told, os.X_OK):
            raise StackError(f"${ENV_PYTHON} names {told}, which cannot be run", hint="name a Python interpreter")
        return told
    for folder in (home.root / "serving-env", Path(sys.prefix).parent / ".venv-serving"):
        python = folder / "bin" / "python"
        if os.access(python, os.X_OK):
            return str(python)
    raise StackError(
        "no environment for the model servers (MLServer cannot share one with Airflow)",
        hint=f"run 'windtunnel setup-serving', or name an interpreter that has mlserver in ${ENV_PYTHON}",
    )


def programs(home: Home, port: int) -> list[Program]:
    """Envoy, meter and guard. Writes Envoy's bootstrap configuration.

    Raises:
        StackError: the configuration cannot be written.
    """
    from windtunnel.serving.local import envoy

    envoy.bootstrap(home, port)
    env = {"WINDTUNNEL_HOME": str(home.root), "PYTHONUNBUFFERED": "1", "MALLOC_ARENA_MAX": "2"}
    return [
        Program("envoy", list(envoy.command(home)), {"WINDTUNNEL_HOME": str(home.root)}, home.serving, stop_wait_s=5),
        Program("meter", [sys.executable, "-m", "windtunnel.serving.traffic.meter"], env, home.serving, stop_wait_s=5),
        Program("guard", [sys.executable, "-m", "windtunnel.serving.release.guard"], env, home.serving, stop_wait_s=5),
    ]
