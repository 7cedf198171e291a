"""OpenLineage names of what goes in and out here; Airflow's provider asks only when it is on."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from windtunnel.errors import DescriptionError


def named_dataset(uri: str) -> Any:
    """Files anywhere, by their URI or path."""
    from airflow.providers.common.compat.openlineage.facet import Dataset

    parts = urlsplit(uri)
    if not parts.scheme:
        return Dataset(namespace="file", name=str(Path(uri).absolute()))
    namespace = f"{parts.scheme}://{parts.netloc}" if parts.netloc else parts.scheme
    return Dataset(namespace=namespace, name=parts.path.strip("/") or "/")


def model_dataset(url: str, name: str, version: str) -> Any:
    """A model version: namespace is the server, name ``models/NAME/VERSION``."""
    from airflow.providers.common.compat.openlineage.facet import Dataset

    if not name or not version:
        raise DescriptionError(f"a model version needs name and version, found {name!r} and {version!r}")
    return Dataset(namespace=f"mlflow+{url}", name=f"models/{name}/{version}")


def operator_lineage(inputs: list[Any], outputs: list[Any]) -> Any:
    """An operator's lineage."""
    from airflow.providers.openlineage.extractors import OperatorLineage

    return OperatorLineage(inputs=inputs, outputs=outputs)
