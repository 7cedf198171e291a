"""Where a model version's files really are: any MLflow source URI as a path below the server's artifact root."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.versions.runs import Run

_HTTP_ANCHOR = "/api/2.0/mlflow-artifacts/artifacts/"
MLMODEL = "MLmodel"


def clean(path: str) -> str:
    """One spelling per path: decoded as often as MLflow decodes it, normalised, without outer slashes."""
    while (decoded := unquote(path)) != path:
        path = decoded
    normal = posixpath.normpath("/" + path).strip("/")
    return "" if normal == "." else normal


def _refuse(source: str, why: str) -> Refusal:
    return Refusal(
        "WT_SOURCE",
        f"the source {source!r} cannot be registered: {why}",
        hint="log the model to an MLflow run of this server and register that run's model",
    )


def destination() -> str:
    """The server's ``--artifacts-destination``."""
    from mlflow.server.constants import ARTIFACTS_DESTINATION_ENV_VAR

    found = os.environ.get(ARTIFACTS_DESTINATION_ENV_VAR)
    if not found:
        raise Refusal(
            "WT_SERVER",
            "versions are registered through the MLflow server, which reads and seals their files",
            hint="use the server's URL as tracking and registry URI, not the database's",
        )
    return found


def repo_path(uri: str) -> str:
    """``uri`` as a clean path below the artifact root.

    Raises:
        Refusal: it is not below it.
    """
    parsed = urlparse(uri)
    if parsed.scheme == "mlflow-artifacts":
        return clean(parsed.path)
    if parsed.scheme in ("http", "https") and _HTTP_ANCHOR in parsed.path:
        return clean(parsed.path.split(_HTTP_ANCHOR, 1)[1])
    root = destination()
    if parsed.scheme in ("", "file") and urlparse(root).scheme in ("", "file"):
        base, found = Path(unquote(urlparse(root).path)).resolve(), Path(unquote(parsed.path)).resolve()
        if base in found.parents:
            return clean(found.relative_to(base).as_posix())
    elif uri.startswith(root.rstrip("/") + "/"):
        return clean(uri[len(root.rstrip("/")) + 1 :])
    raise _refuse(uri, "it is not below the server's artifact root, so it cannot be sealed")


def _inside(path: str, root: str) -> bool:
    return bool(root) and (path == root or path.startswith(root + "/"))


def touching(column: Any, path: str, *, below: bool = True) -> Any:
    """SQL: the column's path is ``path``, above it, or with ``below`` below it; it uses the column's index."""
    parts = path.split("/")
    found = column.in_(["/".join(parts[: end + 1]) for end in range(len(parts))])
    if not below:
        return found
    if not path:
        return column.isnot(None)
    # '0' is the character after '/': the range is everything below the path.
    return found | ((column >= f"{path}/") & (column < f"{path}0"))


def resolve(
    source: str,
    run_id: str | None,
    model_id: str | None,
    *,
    tracking: Any,
    get_run: Callable[[str], Run],
    exists: Callable[[str], bool],
    location_of: Callable[[str, int], str | None],
) -> str:
    """The path below the artifact root that ``source`` means.

    Args:
        source: ``runs:/``, ``models:/m-...``, ``models:/NAME/VERSION``, ``mlflow-artifacts:/`` or a path
            below the root.
        run_id: the run the version is said to come from.
        model_id: the logged model it is said to come from.
        tracking: MLflow's tracking store; ``get_run``: a run of it by id.
        exists: whether a path below the root is a file.
        location_of: location of an already sealed version.

    Raises:
        Refusal: the source is outside its run's and its logged model's own artifacts.
    """
    from mlflow.store.artifact.runs_artifact_repo import RunsArtifactRepository
    from mlflow.store.artifact.utils.models import _parse_model_uri

    scheme = urlparse(source).scheme
    if scheme == "models":
        parsed = _parse_model_uri(source)
        if parsed.model_id is not None:
            return repo_path(tracking.get_logged_model(parsed.model_id).artifact_location)
        location = location_of(parsed.name, int(parsed.version)) if parsed.version else None
        if location is None:
            raise _refuse(source, "that version is not sealed")
        return location
    if scheme == "runs":
        source_run, path = RunsArtifactRepository.parse_runs_uri(source)
        run = get_run(source_run)
        found = clean(posixpath.join(repo_path(run.place), path or ""))
        if not exists(posixpath.join(found, MLMODEL)):
            # MLflow 3 keeps a run's models apart from its other artifacts, under an id of their own.
            logged = _logged_model(tracking, run, path or "")
            if logged is not None:
                return repo_path(logged.artifact_location)
        return found
    found = repo_path(source)
    owners = []
    if run_id:
        owners.append(repo_path(get_run(run_id).place))
    if model_id:
        owners.append(repo_path(tracking.get_logged_model(model_id).artifact_location))
    if run_id and not any(_inside(found, owner) for owner in owners):
        owners += [repo_path(model.artifact_location) for model in _logged_models(tracking, get_run(run_id))]
    if not any(_inside(found, owner) for owner in owners):
        raise _refuse(source, f"it is not among the artifacts of run {run_id}")
    return found


def _logged_models(tracking: Any, run: Run) -> list[Any]:
    found = tracking.search_logged_models(
        experiment_ids=[run.experiment_id], filter_string=f"source_run_id = '{run.run_id}'"
    )
    return list(found)


def _logged_model(tracking: Any, run: Run, name: str) -> Any:
    named = [model for model in _logged_models(tracking, run) if model.name == name]
    return max(named, key=lambda model: model.creation_timestamp, default=None)
