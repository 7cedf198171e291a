"""Names: what a model may be called, and every name derived from it.

One place, so that DAG ids, Kubernetes names, Envoy clusters and asset URIs can never disagree.
"""

from __future__ import annotations

import hashlib
import re

from windtunnel.errors import DescriptionError

MODEL_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}")

#: The kinds of asset a model has. Each is the arrow between two DAGs; ``behind`` leads from the watch to itself.
ASSET_KINDS = ("data", "version", "champion", "window", "behind", "drift", "rollback")


def check_model_name(name: str) -> str:
    """Return ``name`` if it may be a model's name.

    Raises:
        DescriptionError: it does not match ``[a-z][a-z0-9-]{0,39}``.
    """
    if not MODEL_NAME.fullmatch(name):
        raise DescriptionError(
            f"{name!r} cannot be a model's name",
            hint="use 1 to 40 of a-z, 0-9 and '-', starting with a letter; put anything else in display_name",
        )
    return name


def slug(foreign: str) -> str:
    """Map a foreign MLflow name onto a model name: a readable slug and, if it changed, a short hash."""
    if MODEL_NAME.fullmatch(foreign):
        return foreign
    readable = re.sub(r"[^a-z0-9]+", "-", foreign.lower()).strip("-")
    readable = re.sub(r"^[^a-z]+", "", readable)[:32].strip("-") or "m"
    return f"{readable}-{hashlib.sha256(foreign.encode()).hexdigest()[:7]}"


def asset_uri(model: str, kind: str) -> str:
    """URI of the Airflow asset that carries events of ``kind`` for ``model``."""
    if kind not in ASSET_KINDS:
        raise ValueError(f"unknown asset kind {kind!r}; expected one of {ASSET_KINDS}")
    return f"windtunnel://{model}/{kind}"


def dag_id(model: str, stage: str) -> str:
    """``MODEL.train``, ``MODEL.release``, ``MODEL.watch``, ``MODEL.score``."""
    return f"{model}.{stage}"


def arm_id(model: str, version: str) -> str:
    """Name of one version's server: Envoy cluster, supervised program, folder."""
    return f"{model}.v{version}"
