"""OpenLineage: what Windtunnel's assets and step data are called there.

Airflow's OpenLineage provider turns inlets and outlets into datasets by itself; it asks us for the names, and the tasks
that make something for what they read and made. Both use the same names, so the graph there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from airflow.sdk import Asset

    from windtunnel_airflow.base import Used

NAMESPACE = "windtunnel"


def asset_to_dataset(asset: Asset, lineage_context: Any = None) -> Any:
    """``windtunnel://MODEL/KIND`` as an OpenLineage dataset: namespace ``windtunnel``, name ``MODEL/KIND``."""
    from airflow.providers.common.compat.openlineage.facet import Dataset

    parts = urlsplit(asset.uri)
    return Dataset(namespace=NAMESPACE, name=f"{parts.netloc}{parts.path}")


def dataset(name: str, version: str | None) -> Any:
    """What a task read or made, with its version as the facet ``version``.

    Args:
        name: below the model, as its asset is called (``MODEL/version``); or a URI or absolute path of something else.
    """
    from airflow.providers.common.compat.openlineage.facet import Dataset
    from openlineage.client.generated.dataset_version_dataset import DatasetVersionDatasetFacet

    facets = {} if version is None else {"version": DatasetVersionDatasetFacet(datasetVersion=version)}
    namespace, path = NAMESPACE, name
    if "://" in name or name.startswith("/"):
        parts = urlsplit(name)
        where = parts.netloc.rpartition("@")[2]  # no user and password
        namespace = (f"{parts.scheme}://{where}" if where else parts.scheme) or "file"
        path = parts.path if namespace == "file" else parts.path.strip("/") or "/"
    return Dataset(namespace=namespace, name=path, facets=facets)


def operator_lineage(used: Sequence[Used], made: Sequence[Used]) -> Any:
    """A task's lineage, for the provider."""
    from airflow.providers.openlineage.extractors import OperatorLineage

    return OperatorLineage(inputs=[dataset(*one) for one in used], outputs=[dataset(*one) for one in made])
