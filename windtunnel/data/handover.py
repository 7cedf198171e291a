"""Outputs of steps for workers that share no disk (PIP-2): by the object store, at the place they have below the home.

HOME/pipelines/{dag}/runs/{run}/steps/{task}/outputs/{name}   here
pipelines/{dag}/runs/{run}/steps/{task}/outputs/{name}        there, a parcel
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from windtunnel import files
from windtunnel.data import parcels, steps
from windtunnel.data.objects import Objects
from windtunnel.errors import DataError
from windtunnel.home import Home


def key_of(home: Home, path: Path) -> str | None:
    """Where the store has what lies at ``path``; None where that is no output of a step of this home."""
    return f"pipelines/{path.relative_to(home.pipelines).as_posix()}" if path.is_relative_to(home.pipelines) else None


def hand_over(objects: Objects, home: Home, given: steps.Output) -> None:
    """Store an output, verified; one that is there already is left as it is.

    Raises:
        DataError: it is missing or changed, no step of this home wrote it, or the store refuses.
        UnavailableError: the store does not answer.
    """
    key = key_of(home, given.path)
    if key is None:
        raise DataError(f"output {given.name!r} at {given.path} is no step's of {home.pipelines}")
    steps.verify_input(given)
    parcels.send(objects, key, parcels.contents(given.path), {"digest": given.digest})


def known(objects: Objects, key: str, given: steps.Output) -> parcels.Parcel | None:
    """This very output in the store, as its sender measured it (who receives it measures it again); None: not there."""
    there = parcels.read(objects, key)
    same = there is not None and there.about.get("digest") == given.digest and there.size == given.size
    return there if same else None


def is_folder(found: parcels.Parcel, given: steps.Output) -> bool:
    """Whether an output is a folder: of a file, the digest is the file's own."""
    return [f"sha256:{digest}" for digest, _ in found.files.values()] != [given.digest]


def fetch(objects: Objects, key: str, given: steps.Output) -> None:
    """Put an output from the store to where it lies by its reference, with its sidecar; verified.

    Raises:
        DataError: it is not there, or not what the step wrote.
        IntegrityError: it was changed on its way.
        UnavailableError: the store does not answer.
    """
    target, sidecar = given.path, given.path.with_name(given.path.name + steps.SIDECAR)
    # Two tasks of one worker may want the same at once.
    staging = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}")
    staging.parent.mkdir(parents=True, exist_ok=True)
    try:
        found = parcels.receive(objects, key, staging)
        if found is None:
            raise DataError(
                f"output {given.name!r} is missing: nothing at {objects.url}/{key}",
                hint="run the step that writes it again",
            )
        sidecar.unlink(missing_ok=True)
        came = staging if is_folder(found, given) else staging / target.name
        steps.verify_input(steps.Output(given.name, came, given.digest, given.size))
        _place(came, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    files.write_json(sidecar, given.to_dict())


def _place(source: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target, ignore_errors=True)
    else:
        target.unlink(missing_ok=True)
    source.rename(target)
