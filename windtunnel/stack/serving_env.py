"""Making the model servers' environment for an installed Windtunnel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distribution, version
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from windtunnel.errors import StackError
from windtunnel.home import Home
from windtunnel.stack import files


def make(home: Home, *, tell: Callable[[str], None] = lambda line: None, limit_s: float = 1800.0) -> str:
    """Make ``HOME/serving-env`` with this Windtunnel and its extra ``serving``; the interpreter's path.

    One that is there is whole: a failure removes what it made. Done already: nothing is done.

    Raises:
        StackError: this Python is too new for MLServer, or pip failed.
    """
    if sys.version_info >= (3, 13):
        raise StackError(
            f"MLServer does not run on Python {sys.version_info.major}.{sys.version_info.minor}",
            hint="make an environment with Python 3.11 or 3.12 and name its interpreter in $WINDTUNNEL_SERVING_PYTHON",
        )
    final = home.root / "serving-env"
    python = final / "bin" / "python"
    if os.access(python, os.X_OK):
        return str(python)
    files.folder(home.root)
    log = files.folder(home.logs) / "setup-serving.log"
    tell(f"making {final}; this downloads about 300 MB (log: {log})")
    try:
        with log.open("wb") as out:
            for command in (
                [sys.executable, "-m", "venv", str(final)],
                [str(python), "-m", "pip", "install", "--quiet", requirement()],
                [str(python), "-c", "import mlserver, mlserver_mlflow, windtunnel"],
            ):
                subprocess.run(command, stdout=out, stderr=out, check=True, timeout=limit_s)
    except BaseException as error:
        # Half an environment looks like a whole one to the next start.
        shutil.rmtree(final, ignore_errors=True)
        if isinstance(error, subprocess.SubprocessError | OSError):
            raise StackError(f"the model servers' environment could not be made: {error}", hint=f"see {log}") from error
        raise
    return str(python)


def requirement() -> str:
    """What to ask pip for: this very Windtunnel, from where it was installed, with the extra ``serving``."""
    told = distribution("windtunnel").read_text("direct_url.json")  # PEP 610: a wheel or a folder, not an index
    if told:
        url = str(json.loads(told).get("url", ""))
        if url.startswith("file://") and Path(url2pathname(urlsplit(url).path)).exists():
            return f"windtunnel[serving] @ {url}"
    return f"windtunnel[serving]=={version('windtunnel')}"


def is_usable(python: str | Path, *, limit_s: float = 60.0) -> str | None:
    """Why model servers cannot run with this interpreter, or None when they can."""
    try:
        done = subprocess.run(
            [str(python), "-c", "import mlserver, mlserver_mlflow, windtunnel; print(mlserver.__version__)"],
            capture_output=True, text=True, timeout=limit_s, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it failed"])[-1]
