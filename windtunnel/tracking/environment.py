"""What a run records of itself without being asked (TRK-6): code, interpreter, packages, machine, caller."""

from __future__ import annotations

import getpass
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from windtunnel import canonical
from windtunnel.tracking.contract import RunSpec


def git(folder: Path | None) -> dict[str, str]:
    """Commit, branch and dirty flag of the checkout ``folder`` lies in; empty when it lies in none."""
    if folder is None or shutil.which("git") is None:
        return {}

    def ask(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments],
                capture_output=True, text=True, timeout=10, check=False,
                env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    if commit is None:
        return {}
    changes = ask("status", "--porcelain", "--", ".")
    return {
        "commit": commit,
        "branch": ask("rev-parse", "--abbrev-ref", "HEAD") or "unknown",
        "dirty": "unknown" if changes is None else str(bool(changes)).lower(),
    }


def packages() -> dict[str, str]:
    """Name -> version of every installed distribution."""
    from importlib.metadata import distributions

    found: dict[str, str] = {}
    for distribution in distributions():
        with suppress(Exception):  # a broken installation of something else is not our failure
            found[str(distribution.metadata["Name"]).lower()] = distribution.version
    return dict(sorted(found.items()))


def hardware() -> dict[str, Any]:
    """CPUs, memory and GPUs of this machine."""
    model = platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    gpus: list[str] = []
    if shutil.which("nvidia-smi"):
        with suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(
                ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
                capture_output=True, text=True, timeout=10, check=False,
            )  # fmt: skip
            gpus = [line.strip() for line in done.stdout.splitlines()] if done.returncode == 0 else []
    return {
        "cpu": model,
        "cpus": os.cpu_count() or 1,
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": gpus,
    }


def record(spec: RunSpec, code: Path | None, attempt: int) -> dict[str, Any]:
    """Everything, as JSON values: goes whole into the artifact ``windtunnel/environment.json``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return {
        "git": git(Path(spec.code) if spec.code else code),
        "python": platform.python_version(),
        "executable": sys.executable,
        "packages": packages(),
        "hardware": hardware(),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "user": user,
        "image": os.environ.get("WINDTUNNEL_IMAGE"),
        "context": dict(spec.context),
        "attempt": attempt,
    }


def tags(spec: RunSpec, found: Mapping[str, Any]) -> dict[str, str]:
    """The record as run tags: ours under ``wt.``, and those MLflow's own pages show."""
    hard = found["hardware"]
    out = {
        "wt.model": spec.model,
        "wt.kind": spec.kind,
        "wt.entry_point": spec.entry_point,
        "wt.seed": str(spec.seed),
        "wt.attempt": str(found["attempt"]),
        "wt.python": found["python"],
        "wt.packages": canonical.digest(found["packages"]),
        "wt.host": found["host"],
        "wt.platform": found["platform"],
        "wt.user": found["user"],
        "wt.hardware.cpu": f"{hard['cpus']} x {hard['cpu']}",
        "wt.hardware.memory": str(hard["memory"]),
        "wt.hardware.gpu": ", ".join(hard["gpus"]) or "none",
        "wt.resources": json.dumps(spec.resources, sort_keys=True),
        "mlflow.user": found["user"],
        "mlflow.source.name": spec.entry_point,
    }
    optional = {
        "wt.image": found["image"],
        "wt.data.digest": spec.data_digest,
        "wt.description.digest": spec.description_digest,
        "wt.correlation_id": spec.correlation_id,
        "wt.cause": spec.cause,
    }
    out |= {key: str(value) for key, value in optional.items() if value}
    # Without a checkout the tags are there and say so: absent would look like forgotten.
    source = found["git"] or {"commit": "none", "branch": "none", "dirty": "unknown"}
    out |= {f"wt.git.{key}": value for key, value in source.items()}
    if found["git"]:
        out |= {"mlflow.source.git.commit": source["commit"], "mlflow.source.git.branch": source["branch"]}
    out |= {f"wt.airflow.{key}": str(value) for key, value in spec.context.items()}
    out |= {f"wt.input.{name}": given.digest for name, given in spec.inputs.items()}
    return out


def flatten(params: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Parameters as MLflow stores them: nested dictionaries by dotted keys, values as JSON where they are no text."""
    out: dict[str, str] = {}
    for key, value in params.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            out |= flatten(value, f"{name}.")
        else:
            out[name] = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
    return out
