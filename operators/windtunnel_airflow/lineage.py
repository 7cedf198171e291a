"""OpenLineage: what Windtunnel's assets and step data are called there.

Airflow's OpenLineage provider turns inlets and outlets into datasets by itself; it asks us only for the names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from airflow.sdk import Asset


def asset_to_dataset(asset: Asset, lineage_context: Any = None) -> Any:
    """``windtunnel://MODEL/KIND`` as an OpenLineage dataset: namespace ``windtunnel``, name ``MODEL/KIND``."""
    from airflow.providers.common.compat.openlineage.facet import Dataset

    parts = urlsplit(asset.uri)
    return Dataset(namespace="windtunnel", name=f"{parts.netloc}{parts.path}")


def step_dataset(ref: dict[str, Any]) -> Any:
    """A step's output as an OpenLineage dataset, its digest as the dataset's version."""
    from airflow.providers.common.compat.openlineage.facet import Dataset
    from openlineage.client.generated.dataset_version_dataset import DatasetVersionDatasetFacet

    facets = {"version": DatasetVersionDatasetFacet(datasetVersion=f"sha256:{ref['sha256']}")}
    return Dataset(namespace="file", name=str(ref["path"]), facets=facets)


def operator_lineage(inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> Any:
    """An operator's lineage from the references it read and wrote."""
    from airflow.providers.openlineage.extractors import OperatorLineage

    return OperatorLineage(
        inputs=[step_dataset(ref) for ref in inputs if ref], outputs=[step_dataset(ref) for ref in outputs if ref]
    )
