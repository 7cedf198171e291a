"""The reference: what a version's world looked like when it was trained. Later windows are compared with it.

Built once from the training rows, kept as a summary (some 100 KB of JSON) and a small sample for the
Evidently report; the training data is never needed again (MON-1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from windtunnel.errors import DataError
from windtunnel.files import write_with
from windtunnel.home import Home
from windtunnel.monitoring import files
from windtunnel.monitoring.profile import Column, ColumnKind, cells_of, count, kind_of, summarize
from windtunnel.spec import Model

SCHEMA_VERSION = 1
#: Rows of the sample that the Evidently report shows as the reference.
SAMPLE_ROWS = 5_000
PREDICTION = "prediction"


@dataclass(frozen=True, slots=True)
class Reference:
    """Summary of one version's training rows, its predictions, and its loss at evaluation.

    Attributes:
        digest: content digest of the version.
        features: feature name to summary.
        prediction: summary of its predictions; None when there were none.
        metrics: metric name to value at evaluation.
        created_at: seconds since the epoch.
        sample: at most ``SAMPLE_ROWS`` rows (features, and prediction and target where their length
            allows); lives in a Parquet file beside the JSON, None when only the JSON was read.
    """

    model: str
    version: str
    digest: str
    features: dict[str, Column]
    prediction: Column | None
    metrics: dict[str, float] = field(default_factory=dict)
    rows: int = 0
    created_at: float = 0.0
    sample: Any = field(default=None, compare=False, repr=False)

    def loss(self, metric: str) -> float | None:
        """Value of ``metric`` at evaluation, None when it was not measured."""
        return self.metrics.get(metric)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, without the sample."""
        return {
            "v": SCHEMA_VERSION,
            "model": self.model,
            "version": self.version,
            "digest": self.digest,
            "rows": self.rows,
            "created_at": self.created_at,
            "metrics": dict(self.metrics),
            "features": {name: column.to_dict() for name, column in self.features.items()},
            "prediction": self.prediction.to_dict() if self.prediction else None,
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Reference:
        """The inverse of ``to_dict``.

        Raises:
            DataError: it was written by a newer Windtunnel.
        """
        if plain.get("v") != SCHEMA_VERSION:
            raise DataError(f"a reference of schema {plain.get('v')!r}, expected {SCHEMA_VERSION}")
        return cls(
            model=plain["model"],
            version=plain["version"],
            digest=plain["digest"],
            rows=int(plain["rows"]),
            created_at=float(plain["created_at"]),
            metrics={name: float(value) for name, value in plain["metrics"].items()},
            features={name: Column.from_dict(column) for name, column in plain["features"].items()},
            prediction=Column.from_dict(plain["prediction"]) if plain["prediction"] else None,
        )


def build(
    model: Model,
    version: str,
    rows: Any,
    predictions: Any,
    evaluation_numbers: Mapping[str, Any],
    digest: str,
    *,
    created_at: float = 0.0,
) -> Reference:
    """Summarize what ``version`` was trained on.

    Args:
        rows: DataFrame with the feature columns (and the target, for the report), shape (n, any).
        predictions: array of shape (k,) of the version's predictions. Predictions of rows it was *not*
            trained on (the holdout) are better: a model is surer of its training rows than of the world.
            ``k`` may differ from ``n``; rows and predictions are then sampled apart.
        evaluation_numbers: ``EvaluationResult.numbers``; the metrics are picked from it.
        digest: content digest of the version.

    Raises:
        DataError: a feature is missing from ``rows``, a numeric one holds no number, or there are no rows.
    """
    import pandas as pd

    absent = [feature.name for feature in model.data.features if feature.name not in rows.columns]
    if absent or not len(rows):
        raise DataError(
            f"the reference of {model.name} {version} needs rows with every feature; "
            + (f"missing: {', '.join(absent)}" if absent else "found no rows"),
            hint="pass the rows the version was trained on",
        )
    features: dict[str, Column] = {}
    for feature in model.data.features:
        kind: ColumnKind = "numeric" if feature.kind == "numeric" else "categorical"
        try:
            features[feature.name] = summarize(rows[feature.name], kind)
        except DataError as error:
            raise DataError(f"feature {feature.name!r}: {error.message}", hint=error.hint) from None
    outputs = pd.Series(predictions) if predictions is not None else pd.Series(dtype="float64")
    outputs = outputs.reset_index(drop=True)
    prediction = None
    if outputs.notna().any():
        prediction = summarize(outputs, kind_of(outputs))
    return Reference(
        model=model.name,
        version=str(version),
        digest=digest,
        features=features,
        prediction=prediction,
        metrics=metrics_of(evaluation_numbers),
        rows=len(rows),
        created_at=created_at,
        sample=_sample(model, rows, outputs, digest),
    )


def _sample(model: Model, rows: Any, outputs: Any, digest: str) -> Any:
    """A sample that is the same for the same version."""
    import numpy as np
    import pandas as pd

    seed = int.from_bytes(digest.encode()[-8:].rjust(8, b"\0"), "big")
    generator = np.random.default_rng(seed)
    size = min(SAMPLE_ROWS, len(rows))
    chosen = np.sort(generator.choice(len(rows), size, replace=False))
    columns = [*model.data.feature_names]
    paired = len(outputs) == len(rows)
    if paired and model.data.target in rows.columns:
        columns.append(model.data.target)
    sample = pd.DataFrame(rows[columns].iloc[chosen]).reset_index(drop=True)
    if len(outputs):
        picked = outputs.iloc[chosen if paired else generator.choice(len(outputs), size, replace=size > len(outputs))]
        sample[PREDICTION] = picked.to_numpy()
    return sample


def metrics_of(numbers: Mapping[str, Any]) -> dict[str, float]:
    """Finite metric values out of evaluation numbers: ``{"metrics": {name: value or {"value": ...}}}`` or flat."""
    inner = numbers.get("metrics", numbers)
    found: dict[str, float] = {}
    if isinstance(inner, Mapping):
        for name, value in inner.items():
            if isinstance(value, Mapping):
                value = value.get("value")
            if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
                found[str(name)] = float(value)
    return found


def save(home: Home, reference: Reference) -> Path:
    """Write ``HOME/monitoring/MODEL/reference-VERSION.json`` (and its sample); returns its path."""
    path = files.reference_file(home, reference.model, reference.version)
    if reference.sample is not None:
        beside = files.sample_file(home, reference.model, reference.version)
        write_with(beside, lambda hidden: reference.sample.to_parquet(hidden, index=False), parents=True)
    files.write_json(path, reference.to_dict())
    return path


def load(home: Home, model: str, version: str) -> Reference:
    """The reference of one version, without its sample.

    Raises:
        DataError: there is none.
    """
    path = files.reference_file(home, model, version)
    plain = files.read_json(path)
    if plain is None:
        raise DataError(
            f"no reference for {model} version {version} at {path}",
            hint="it is written when the version is registered; train and register it with Windtunnel",
        )
    return Reference.from_dict(plain)


def load_sample(home: Home, model: str, version: str) -> Any | None:
    """The sample as a DataFrame, or None when none was kept."""
    import pandas as pd

    path = files.sample_file(home, model, version)
    return pd.read_parquet(path) if path.exists() else None


__all__ = [
    "PREDICTION",
    "Reference",
    "build",
    "cells_of",
    "count",
    "load",
    "load_sample",
    "metrics_of",
    "save",
]
