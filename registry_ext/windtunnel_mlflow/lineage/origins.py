"""What a version was made of, as its recipe, its run, its source and its sealed files say. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

#: Kinds of origin, as they are kept.
RUN, DATA, SOURCE, CODE, COMMIT, ENVIRONMENT, IMAGE, DAG_RUN, VERSION = (
    "run", "data", "source", "code", "commit", "environment", "image", "dag_run", "version",
)  # fmt: skip
KINDS = (RUN, DATA, SOURCE, CODE, COMMIT, ENVIRONMENT, IMAGE, DAG_RUN, VERSION)

#: Which origin of a policy's ``lineage`` list each kind is; the others are no demand of a policy.
DEMANDED = {RUN: "run", DATA: "data", CODE: "code", COMMIT: "code", DAG_RUN: "dag_run"}

#: Files of a model that say which environment it wants, the most exact first.
_ENVIRONMENTS = ("conda.yaml", "requirements.txt", "python_env.yaml")
_COPY = re.compile(r"models:/(?P<model>[^/]+)/(?P<version>[0-9]+)")
_LONGEST = 512


@dataclass(frozen=True, slots=True)
class Origin:
    """One thing a version was made of.

    Attributes:
        kind: one of ``KINDS``.
        value: what it is: a digest, a commit, a run's id. Two versions with the same kind and value share it.
        name: what it is called where it was used, or a remark; may be empty.
        said: who says so: ``recipe`` (whoever registered), ``run`` (MLflow's run, as it was at that moment),
            ``source`` or ``files`` (the sealed files).
    """

    kind: str
    value: str
    name: str
    said: str


def of_recipe(recipe: Mapping[str, Any], run_id: str | None, source: str) -> list[Origin]:
    """What whoever registered said of it.

    Args:
        recipe: as given at registration; anything may be in it.
        run_id: of MLflow.
        source: of the files, as given.
    """
    found = [
        _origin(RUN, run_id, "", "source"),
        _origin(DATA, recipe.get("data"), "", "recipe"),
        _origin(SOURCE, _public(recipe.get("data_source")), "", "recipe"),
        _origin(CODE, recipe.get("code"), "", "recipe"),
        _origin(COMMIT, recipe.get("commit"), "", "recipe"),
        _origin(ENVIRONMENT, recipe.get("environment"), "", "recipe"),
        _origin(IMAGE, recipe.get("image"), "", "recipe"),
        _origin(DAG_RUN, _dag_run(recipe.get("dag_id"), recipe.get("dag_run_id")), "", "recipe"),
    ]
    if copied := copy_of(source):
        found.append(_origin(VERSION, f"{copied[0]}/{copied[1]}", "copied", "source"))
    return _once(found)


def of_run(tags: Mapping[str, str], datasets: Iterable[tuple[str, str, str]] = ()) -> list[Origin]:
    """What MLflow's run says of itself; it may be edited or deleted later, so it is asked at registration.

    Args:
        tags: of the run.
        datasets: (name, digest, source as MLflow's JSON) of its data set inputs.
    """
    commit = tags.get("wt.git.commit") or tags.get("mlflow.source.git.commit")
    dirty = "with uncommitted changes" if tags.get("wt.git.dirty") == "true" else ""
    dag = tags.get("wt.airflow.dag_id") or tags.get("airflow.dag_id")
    dag_run = tags.get("wt.airflow.dag_run_id") or tags.get("airflow.dag_run_id")
    found = [
        _origin(COMMIT, None if commit == "none" else commit, dirty, "run"),
        _origin(ENVIRONMENT, tags.get("wt.packages"), "packages", "run"),
        _origin(IMAGE, tags.get("wt.image") or tags.get("mlflow.docker.image.uri"), "", "run"),
        _origin(DAG_RUN, _dag_run(dag, dag_run), "", "run"),
        _origin(DATA, tags.get("wt.data.digest"), "", "run"),
    ]
    found += [
        _origin(DATA, value, key.removeprefix("wt.input."), "run")
        for key, value in sorted(tags.items())
        if key.startswith("wt.input.")
    ]
    for name, digest, source in datasets:
        found.append(_origin(DATA, digest, name, "run"))
        found.append(_origin(SOURCE, _address(source), name, "run"))
        # MLflow calls a data set without a name ``dataset``.
        found.append(_origin(SOURCE, None if name == "dataset" else name, "name", "run"))
    return _once(found)


def of_files(digests: Mapping[str, str]) -> list[Origin]:
    """What the sealed files say.

    Args:
        digests: path below the model -> SHA-256.
    """
    return _once([_origin(ENVIRONMENT, digests.get(path), path, "files") for path in _ENVIRONMENTS])


def copy_of(source: str) -> tuple[str, int] | None:
    """Model and version that a source ``models:/MODEL/VERSION`` copies."""
    found = _COPY.fullmatch(source)
    return (found["model"], int(found["version"])) if found else None


def tags(found: Iterable[Origin], recipe: Mapping[str, Any], parent: int | None) -> dict[str, str]:
    """What MLflow's pages show of it, as tags of the version: ``windtunnel.data``, ``.commit`` ... The first of a
    kind; whoever registered is asked before the run."""
    shown: dict[str, str] = {}
    for origin in found:
        if origin.kind not in (RUN, ENVIRONMENT, VERSION):  # MLflow shows the run and the source itself
            shown.setdefault(f"windtunnel.{origin.kind}", origin.value)
    if parent is not None:
        shown["windtunnel.parent"] = str(parent)
    link = recipe.get("dag_run_url")
    if isinstance(link, str) and link.startswith(("http://", "https://")):
        shown["windtunnel.dag_run_url"] = link[:_LONGEST]
    return shown


def demanded(kinds: Iterable[str]) -> frozenset[str]:
    """The origins of a policy's list that these kinds are."""
    return frozenset(DEMANDED[kind] for kind in kinds if kind in DEMANDED)


def _origin(kind: str, value: Any, name: str, said: str) -> Origin | None:
    if not isinstance(value, str) or not value.strip():
        return None
    value = value.strip()
    if len(value) > _LONGEST:
        # Cut off, two different ones could be taken for one.
        from windtunnel import canonical

        value, name = canonical.digest(value), f"{name} {value[:100]}...".strip()
    return Origin(kind, value, name[:256], said)


def _once(found: Iterable[Origin | None]) -> list[Origin]:
    kept: dict[tuple[str, str], Origin] = {}
    for origin in found:
        if origin is not None:
            kept.setdefault((origin.kind, origin.value), origin)
    return list(kept.values())


def merged(*lists: Iterable[Origin]) -> list[Origin]:
    """All of them, each once; who comes first has said it."""
    return _once(origin for found in lists for origin in found)


def _dag_run(dag: Any, run: Any) -> str | None:
    return f"{dag}/{run}" if dag and run else None


def _public(source: Any) -> str | None:
    """Without a user and password in it."""
    if not isinstance(source, str):
        return None
    try:
        parts = urlsplit(source)
    except ValueError:
        return source
    if "@" not in parts.netloc:
        return source
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def _address(source: str) -> str | None:
    try:
        told = json.loads(source)
    except ValueError:
        return _public(source)
    if not isinstance(told, dict):
        return None
    return next((_public(told[key]) for key in ("uri", "url", "path", "delta_table_name") if told.get(key)), None)
