"""What several operators ask of an MLflow server, each call ending the same however often it is made."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from windtunnel.errors import (
    DescriptionError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    RegistryError,
    UnavailableError,
)
from windtunnel_airflow.tracking_server import shapes
from windtunnel_airflow.tracking_server.base import tag_list
from windtunnel_airflow.tracking_server.rest import EXISTS, HIDDEN, MlflowRest


def get_model(rest: MlflowRest, name: str) -> dict[str, Any]:
    """A registered model in MLflow's own words."""
    return dict(rest.get("/registered-models/get", name=name)["registered_model"])


def ensure_model(rest: MlflowRest, name: str, tags: Any = None, description: str | None = None) -> bool:
    """The model is there; says whether it is new. One that is there keeps its tags and description."""
    try:
        rest.send(
            "POST", "/registered-models/create", name=name, tags=tag_list(tags) or None, description=description or None
        )
    except RegistryError as error:
        if error.code != EXISTS:
            raise
        return False
    return True


def find_version(rest: MlflowRest, name: str, version: str | None, alias: str | None) -> dict[str, Any]:
    """A version in MLflow's own words, by its number or by an alias.

    Raises:
        DescriptionError: neither or both are given.
    """
    if bool(version) == bool(alias):
        raise DescriptionError(f"model {name!r}: give either version or alias, found {version!r} and {alias!r}")
    if alias:
        return dict(rest.get("/registered-models/alias", name=name, alias=alias)["model_version"])
    return dict(rest.get("/model-versions/get", name=name, version=version)["model_version"])


def await_ready(rest: MlflowRest, name: str, version: str, timeout: float) -> dict[str, Any]:
    """The version, once it is READY.

    Raises:
        IntegrityError: the server could not register it.
        UnavailableError: it is still pending after ``timeout`` seconds.
    """
    end, pause = time.monotonic() + timeout, 0.2
    while True:
        found = find_version(rest, name, version, None)
        status = found.get("status") or "READY"
        if status == "READY":
            return found
        if status == "FAILED_REGISTRATION":
            raise IntegrityError(
                f"version {version} of {name!r} could not be registered: {found.get('status_message')}"
            )
        if time.monotonic() > end:
            raise UnavailableError(f"version {version} of {name!r} is {status} after {timeout:g} s")
        time.sleep(pause)
        pause = min(5.0, pause * 1.5)


def create_version(
    rest: MlflowRest,
    name: str,
    source: str,
    *,
    key: str,
    key_tag: str,
    run_id: str | None = None,
    run_link: str | None = None,
    description: str | None = None,
    tags: Any = None,
) -> tuple[dict[str, Any], bool]:
    """Make a version, or find the one that was made for the same key; says whether it is new."""
    for found in rest.pages(
        "/model-versions/search", "model_versions", 1, filter=f"name = {quoted(name)} AND tag.{key_tag} = {quoted(key)}"
    ):
        return dict(found), False
    made = rest.send(
        "POST",
        "/model-versions/create",
        repeat=False,
        name=name,
        source=source,
        run_id=run_id,
        run_link=run_link,
        description=description,
        tags=[*tag_list(tags), {"key": key_tag, "value": key}],
    )
    return dict(made["model_version"]), True


def change_tags(
    rest: MlflowRest, what: Mapping[str, str], tags: Any, remove: Sequence[str], present: Mapping[str, Any]
) -> None:
    """Set and remove tags of a model (``{"name"}``) or a version (``{"name", "version"}``), where they differ."""
    path = "/model-versions" if "version" in what else "/registered-models"
    there = {tag["key"]: tag.get("value", "") for tag in present.get("tags") or []}
    for tag in tag_list(tags):
        if there.get(tag["key"]) != tag["value"]:
            rest.send("POST", f"{path}/set-tag", **what, **tag)
    for key in remove:
        if key in there:
            rest.send("DELETE", f"{path}/delete-tag", **what, key=key)


def delete(rest: MlflowRest, path: str, **what: str) -> bool:
    """Delete a model or a version; False when there is none.

    Raises:
        RefusedError: it is there, and we may not.
    """
    try:
        rest.send("DELETE", path, **what)
    except NotFoundError:
        return False
    except RefusedError as error:
        # With MLflow's authentication on, what is gone is refused like what is forbidden; a search tells them apart.
        name = what["name"]
        if error.code != HIDDEN or any(
            rest.pages("/registered-models/search", "registered_models", 1, filter=f"name = {quoted(name)}")
        ):
            raise
        return False
    return True


def experiment_id(rest: MlflowRest, experiment: str) -> str:
    """Id of an experiment by its name, or by its id when it has no such name.

    Raises:
        NotFoundError: there is none.
    """
    try:
        return str(rest.get("/experiments/get-by-name", experiment_name=experiment)["experiment"]["experiment_id"])
    except NotFoundError:
        if not experiment.isdecimal():
            raise
    return str(rest.get("/experiments/get", experiment_id=experiment)["experiment"]["experiment_id"])


def get_run(rest: MlflowRest, run_id: str) -> dict[str, Any]:
    """A run, as ``shapes.run``."""
    return shapes.run(rest.get("/runs/get", run_id=run_id)["run"])


def quoted(text: str) -> str:
    """A value in MLflow's search language.

    Raises:
        DescriptionError: it holds both kinds of quotation marks, which MLflow cannot say.
    """
    if "'" not in text:
        return f"'{text}'"
    if '"' not in text:
        return f'"{text}"'
    raise DescriptionError(f"{text!r} cannot be searched for: it holds both kinds of quotation marks")
