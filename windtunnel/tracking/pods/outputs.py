"""Outputs of a step that ran in a pod: from its folder through the object store to the worker's (PIP-2).

pipelines/DAG/runs/RUN/steps/TASK/outputs/NAME   parcels, where a worker keeps them as well
runs/RUN/outputs.json                            which they are; written when all of them are there
"""

from __future__ import annotations

from typing import Any

from windtunnel import canonical
from windtunnel.data import handover, parcels, steps
from windtunnel.data.objects import Objects
from windtunnel.errors import DataError, IntegrityError
from windtunnel.home import Home


def leave(objects: Objects, key: str, home: Home, made: dict[str, dict[str, Any]]) -> None:
    """Store what a step wrote.

    Args:
        key: of the run in the store.
        home: the pod's.
        made: ``RunResult.outputs``: name -> path, digest and size.

    Raises:
        IntegrityError: an output changed since it was measured.
        DataError, UnavailableError: as the store's.
    """
    told: dict[str, Any] = {}
    for name, plain in made.items():
        given = steps.Output.from_dict(plain)
        steps.verify_input(given)
        where = f"pipelines/{given.path.relative_to(home.pipelines).as_posix()}"
        parcels.send(objects, where, parcels.contents(given.path), {"digest": given.digest})
        told[name] = {"key": where, "folder": given.path.is_dir(), "digest": given.digest, "size": given.size}
    objects.put_bytes(f"{key}/outputs.json", canonical.dumps(told))


def collect(objects: Objects, key: str, home: Home) -> dict[str, dict[str, Any]]:
    """Fetch them to where the steps after it look; name -> path, digest and size.

    Raises:
        DataError: one is not there.
        IntegrityError: one is not what the step wrote.
        UnavailableError: the store does not answer.
    """
    raw = objects.get_bytes(f"{key}/outputs.json")
    if raw is None:
        raise DataError(f"{objects.url}/{key}/outputs.json is missing: the step left no outputs", hint="clear its task")
    out: dict[str, dict[str, Any]] = {}
    for name, told in canonical.loads(raw).items():
        parts = str(told["key"]).split("/")
        if parts[0] != "pipelines" or ".." in parts or "" in parts:
            raise IntegrityError(f"{objects.url}/{key}/outputs.json names a place outside: {told['key']!r}")
        found = steps.Output(name, home.pipelines.joinpath(*parts[1:]), str(told["digest"]), int(told["size"]))
        handover.fetch(objects, str(told["key"]), found)
        out[name] = found.to_dict()
    return out
