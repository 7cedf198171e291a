"""A person's own DAG files in a laptop's cluster: a layer on Airflow's image, which any engine can load.

A mount from this machine is kind's and minikube's own business, differs between them, and has to be known before the
cluster is made; git-sync wants a repository. The layer's tag is the folder's content, so Helm starts the pods anew
when, and only when, a file has changed. Pure, but for reading the folder.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from windtunnel.errors import StackError
from windtunnel.stack.laptop.parts import Laptop, Step, tag

IMAGE = "windtunnel/airflow-dags"
#: Where the official chart reads DAGs in the image.
FOLDER = "/opt/airflow/dags"
#: Given to Docker by its input: the folder itself needs none, and stays as it is.
RECIPE = f"""\
ARG AIRFLOW
FROM ${{AIRFLOW}}
COPY --chown=50000:0 . {FOLDER}/
"""
#: What changes with each commit, or each run, and is none of the DAGs.
_IGNORED = frozenset({".git", "__pycache__"})


def check(folder: Path) -> None:
    """Refuse a folder that holds no DAG file.

    Raises:
        StackError: it is no folder, or has no Python file.
    """
    if not folder.is_dir():
        raise StackError(f"{folder} is not a folder with DAG files", hint="give --dags an existing folder")
    if not any(path.suffix == ".py" for path in _files(folder)):
        raise StackError(f"{folder} holds no Python file", hint="give --dags the folder that your DAG files are in")


def image(folder: Path) -> str:
    """Name and tag of the layer: of what is in the folder, and of nothing else."""
    whole = hashlib.sha256()
    for path in _files(folder):
        link = path.is_symlink()
        content = os.fsencode(path.readlink()) if link else path.read_bytes()
        for part in (os.fsencode(path.relative_to(folder)), b"link" if link else b"file", content):
            whole.update(len(part).to_bytes(8, "big") + part)
    return f"{IMAGE}:{whole.hexdigest()[:16]}"


def _files(folder: Path) -> Iterator[Path]:
    """In an order that does not depend on the disk's."""
    for path in sorted(folder.rglob("*")):
        if not _IGNORED & set(path.relative_to(folder).parts) and (path.is_symlink() or path.is_file()):
            yield path


def steps(laptop: Laptop) -> list[Step]:
    """The layer is made, and read as Airflow will read it, before there is a cluster."""
    if laptop.dags is None:
        return []
    made = image(laptop.dags)
    base = f"AIRFLOW={tag(laptop, 'airflow')}"
    return [
        Step(
            "put your DAGs upon the image of Airflow",
            ("docker", "build", "--file", "-", "--build-arg", base, "--tag", made, str(laptop.dags)),
            given="dag recipe",
            mend="with --no-build the image of Airflow has to be there already",
        ),
        Step(
            "read your DAGs",
            ("docker", "run", "--rm", "--entrypoint", "python", made, "-m", "windtunnel_airflow.parsing", FOLDER),
            mend="packages that they import have to be in the image of Airflow: docker/airflow, EXTRA_PACKAGES",
        ),
    ]


def values(laptop: Laptop) -> tuple[str, ...]:
    """What Airflow's chart is told besides."""
    if laptop.dags is None:
        return ()
    repository, _, found = image(laptop.dags).rpartition(":")
    return (
        "--set-string", f"defaultAirflowRepository={repository}", "--set-string", f"defaultAirflowTag={found}",
    )  # fmt: skip
