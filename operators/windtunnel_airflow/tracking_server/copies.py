"""A private copy of a version's files, verified against the governed registry's manifest where there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from windtunnel.errors import IntegrityError, NotFoundError
from windtunnel_airflow.tracking_server.hook import MlflowHook
from windtunnel_airflow.tracking_server.rest import MlflowRest

_OURS = "/api/windtunnel/v1"


def sealed(rest: MlflowRest, name: str, version: str) -> dict[str, Any] | None:
    """The registry's record of a sealed version; None on a server that is not governed.

    Raises:
        IntegrityError: the server is governed, and the version is not sealed.
    """
    try:
        rest.call("GET", f"{_OURS}/health")
    except NotFoundError:
        return None
    from urllib.parse import quote

    record = rest.call("GET", f"{_OURS}/models/{quote(name, safe='')}/versions/{version}")
    if not record.get("manifest") or not record.get("digest"):
        raise IntegrityError(
            f"version {version} of {name!r} is {record.get('status')}: there is nothing to verify its files by",
            hint="wait until it is sealed, for instance with ModelVersionSensor",
        )
    return record


def fetch(hook: MlflowHook, name: str, version: str, place: Path) -> tuple[Path, str | None]:
    """Download a version's files to ``place`` and verify them; the model's folder, and its digest if it is sealed.

    Raises:
        IntegrityError: the files are not those that were sealed.
    """
    record = sealed(hook.rest, name, version)
    with hook.mlflow_environment():
        import mlflow.artifacts

        found = mlflow.artifacts.download_artifacts(
            artifact_uri=f"models:/{name}/{version}", dst_path=str(place), tracking_uri=hook.url, registry_uri=hook.url
        )
    model = Path(found)
    if record is None:
        return model, None
    from windtunnel.evidence import manifest
    from windtunnel.evidence.manifest import Manifest

    expected = Manifest.from_dict(record["manifest"])
    # MLflow's client notes in the copy which version it is; that file was never sealed.
    note = model / "registered_model_meta"
    if "registered_model_meta" not in expected.files:
        note.unlink(missing_ok=True)
    manifest.verify(model, expected)
    if manifest.build(model).content != record["digest"]:
        raise IntegrityError(
            f"the files of version {version} of {name!r} are not those with digest {str(record['digest'])[:19]}..."
        )
    return model, str(record["digest"])
