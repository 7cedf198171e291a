"""The Python that runs a model: this one, a given one, or one made from the model's own requirements and kept."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from windtunnel.errors import DataError, ResourceError
from windtunnel.serving.artifacts import file_lock

#: What predicting itself needs beside the model's requirements.
_OWN = "pyarrow\npandas\n"
_VARIABLES_KEPT_BACK = (
    "MLFLOW_TRACKING_",
    "MLFLOW_REGISTRY_",
    "AIRFLOW__",
    "AIRFLOW_CONN_",
    "AIRFLOW_VAR_",
    "DATABRICKS_",
)


def child_environment() -> dict[str, str]:
    """This process's environment without the credentials of MLflow and Airflow: a model is somebody's code."""
    kept_back = _VARIABLES_KEPT_BACK
    return {key: value for key, value in os.environ.items() if not key.startswith(kept_back)}


def interpreter(wanted: str, model: Path, time_limit: float) -> str:
    """The Python program to run ``model`` with.

    Args:
        wanted: ``local``, ``model``, or the path of a Python program.
        model: folder with the model; ``model`` reads its ``requirements.txt``.
        time_limit: seconds to make an environment.

    Raises:
        DataError: there is no such program, or the model says nothing of what it needs.
        ResourceError: its requirements cannot be installed.
    """
    if wanted == "local":
        return sys.executable
    if wanted != "model":
        if not os.access(wanted, os.X_OK):
            raise DataError(f"there is no Python program at {wanted}", hint="expected 'local', 'model' or a path")
        return wanted
    listed = model / "requirements.txt"
    if not listed.is_file():
        raise DataError(f"{model} has no requirements.txt", hint="log the model with its requirements, or use 'local'")
    text = listed.read_text(encoding="utf-8") + _OWN
    key = hashlib.sha256(f"{sys.version}\n{text}".encode()).hexdigest()[:20]
    root = Path(tempfile.gettempdir()) / f"windtunnel-environments-{os.getuid()}"
    root.mkdir(mode=0o700, exist_ok=True)
    if root.stat().st_uid != os.getuid() or root.stat().st_mode & 0o077:
        raise DataError(f"{root} is not ours alone", hint="remove it")
    with file_lock(root / f"{key}.lock"):
        made, python = root / key, root / key / "bin" / "python"
        if not (made / "complete").exists():
            shutil.rmtree(made, ignore_errors=True)
            _run([sys.executable, "-m", "venv", str(made)], time_limit)
            wants = made / "requirements.txt"
            wants.write_text(text, encoding="utf-8")
            _run([str(python), "-m", "pip", "install", "--quiet", "--no-input", "-r", str(wants)], time_limit)
            (made / "complete").touch()
    return str(python)


def _run(argv: list[str], time_limit: float) -> None:
    try:
        done = subprocess.run(
            argv, env=child_environment(), capture_output=True, text=True, timeout=time_limit, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ResourceError(f"{' '.join(argv[:4])} did not end within {time_limit:g} s") from error
    if done.returncode:
        raise ResourceError(f"the model's environment cannot be made: {(done.stderr or done.stdout)[-1500:]}")
