"""Rows as Arrow tables with the prediction log's columns. Pure.

Nobody tells the collector what a feature should be, so its type is that of the values of one file; a reader gets the
wider type where files differ (docs/reference/prediction-log.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from windtunnel.serving.collector.pairing import Row
from windtunnel.serving.predictions import columns

if TYPE_CHECKING:
    import pyarrow as pa


def by_version(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """(model, version) -> its rows."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.model, row.version), []).append(row)
    return found


def table(rows: Sequence[Row], instance: str) -> pa.Table:
    """Rows of one version, as one table."""
    import pyarrow as pa

    counts = [row.count for row in rows]
    total = sum(counts)

    def spread(values: list[Any]) -> list[Any]:
        return [value for value, n in zip(values, counts, strict=True) for _ in range(n)]

    def joined(parts: Iterable[Sequence[Any] | None]) -> list[Any]:
        out: list[Any] = []
        for part, n in zip(parts, counts, strict=True):
            out += [None] * n if part is None else part
        return out

    fixed: dict[str, list[Any]] = {
        "prediction_id": joined(row.ids for row in rows),
        "request_id": spread([row.request_id for row in rows]),
        "time": spread([round(row.at * 1e6) for row in rows]),
        "model": [rows[0].model] * total,
        "version": [rows[0].version] * total,
        "arm": [None] * total,
        "correlation_id": [None] * total,
        "latency_ms": spread([row.latency_ms for row in rows]),
        "status": spread([row.status for row in rows]),
        "error": spread([row.error for row in rows]),
        "confidence": joined(row.confidence for row in rows),
        "queue_ms": [None] * total,
        "client": [None] * total,
        "segment": [None] * total,
        "instance": [instance] * total,
        "shadow": spread([row.shadow for row in rows]),
    }
    names = list(dict.fromkeys(name for row in rows for name in row.columns))
    arrays = [columns.array(fixed[name], kind)[0] for name, kind in columns.FIXED.items()]
    arrays += [_column(joined(row.columns.get(name) for row in rows)) for name in names]
    arrays.append(_column(joined(row.outputs for row in rows)))
    called = [*columns.FIXED, *(columns.FEATURE_PREFIX + name for name in names), columns.PREDICTION]
    return pa.table(arrays, names=called)


def _column(values: list[Any]) -> pa.Array:
    kinds = {kind for kind in (_kind(value) for value in values) if kind is not None}
    return columns.array(values, columns.widest(sorted(kinds)) if kinds else "null")[0]


def _kind(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "bool"
    return "double" if isinstance(value, (int, float)) else "string"
