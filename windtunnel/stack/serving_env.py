"""Making the model servers' environment for an installed Windtunnel."""

from __future__ import annotations

import json
import os
import re
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

#: What an environment of its own was made from, in its folder.
ASKED = "asked-for.txt"


def make(
    home: Home,
    name: str | None = None,
    requirements: Path | None = None,
    *,
    tell: Callable[[str], None] = lambda line: None,
    limit_s: float = 1800.0,
) -> str:
    """Make ``HOME/serving-env`` with this Windtunnel and its extra ``serving``; the interpreter's path.

    One that is there is whole: a failure removes what it made. Done already: nothing is done.

    Args:
        name: of an environment of its own, in place of the common one (``serving.environment``).
        requirements: what else is in it, a file as pip takes it.

    Raises:
        StackError: this Python is too new for MLServer, pip failed, the name or the file is wrong, or an environment of
            this name was made from something else.
    """
    if sys.version_info >= (3, 13):
        raise StackError(
            f"MLServer does not run on Python {sys.version_info.major}.{sys.version_info.minor}",
            hint="make an environment with Python 3.11 or 3.12 and name its interpreter in $WINDTUNNEL_SERVING_PYTHON",
        )
    asked = _asked(name, requirements)
    final = home.root / "serving-env" if name is None else home.serving_environment(name)
    python = final / "bin" / "python"
    if os.access(python, os.X_OK):
        if name is not None and (final / ASKED).read_text(encoding="utf-8") != asked:
            raise StackError(
                f"the environment {name!r} was made from something else (see {final / ASKED})",
                hint="take another name: servers may be running from this one",
            )
        return str(python)
    files.folder(home.root)
    log = files.folder(home.logs) / "setup-serving.log"
    tell(f"making {final}; this downloads about 300 MB (log: {log})")
    more = ["-r", str(requirements)] if requirements is not None else []
    try:
        with log.open("wb") as out:
            for command in (
                [sys.executable, "-m", "venv", str(final)],
                [str(python), "-m", "pip", "install", "--quiet", requirement(), *more],
                [str(python), "-c", "import mlserver, mlserver_mlflow, windtunnel"],
            ):
                subprocess.run(command, stdout=out, stderr=out, check=True, timeout=limit_s)
        if name is not None:
            (final / ASKED).write_text(asked, encoding="utf-8")
    except BaseException as error:
        # Half an environment looks like a whole one to the next start.
        shutil.rmtree(final, ignore_errors=True)
        if isinstance(error, subprocess.SubprocessError | OSError):
            raise StackError(f"the model servers' environment could not be made: {error}", hint=f"see {log}") from error
        raise
    return str(python)


def _asked(name: str | None, requirements: Path | None) -> str:
    if (name is None) != (requirements is None):
        raise StackError(
            "an environment of its own has a name and a requirements file",
            hint="windtunnel setup-serving NAME requirements.txt; without both the common one is made",
        )
    if name is None or requirements is None:
        return ""
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,39}", name):
        raise StackError(f"{name!r} cannot name an environment", hint="a-z, 0-9 and -, at most 40, a letter first")
    try:
        return requirements.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise StackError(f"{requirements} cannot be read: {error}", hint="expected a requirements file") from error


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
