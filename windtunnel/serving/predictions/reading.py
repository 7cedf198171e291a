"""Reading the prediction log: rows by event time, each once, and how far the log is complete."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from windtunnel.names import check_model_name
from windtunnel.serving.predictions import columns, publish, watermark
from windtunnel.serving.predictions.watermark import Watermark

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def seconds(moment: float | datetime) -> float:
    """Seconds since the epoch. A datetime must say its zone.

    Raises:
        ValueError: it does not.
    """
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise ValueError(f"expected a time with a zone, found {moment.isoformat()}; use datetime(..., tzinfo=UTC)")
        return moment.timestamp()
    return float(moment)


class PredictionLog:
    """The log below ``root``, as in docs/reference/prediction-log.md."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def read(
        self,
        model: str,
        start: float | datetime,
        end: float | datetime,
        *,
        columns: Sequence[str] | None = None,
        versions: Iterable[str] | None = None,
    ) -> pd.DataFrame:
        """Rows with ``start <= time < end``, oldest first, each prediction of a version once.

        Only the hours and versions asked for are opened. Rows published after the watermark passed
        ``end`` are late ones; read again to see them.

        Args:
            start, end: seconds since the epoch, or datetimes with a zone.
            columns: these columns only; None for all. A column no file has comes back null.
            versions: rows of these versions only.

        Returns:
            ``time`` as UTC timestamps, features as ``feature_NAME``, output as ``prediction``. With no rows, the
            fixed columns (or those asked for) and none.
        """
        table = self.table(model, start, end, columns=columns, versions=versions)
        return table.to_pandas()

    def table(
        self,
        model: str,
        start: float | datetime,
        end: float | datetime,
        *,
        columns: Sequence[str] | None = None,
        versions: Iterable[str] | None = None,
    ) -> pa.Table:
        """``read`` as an Arrow table, which tells null from NaN."""
        wanted = None if columns is None else list(dict.fromkeys(columns))
        chosen = None if versions is None else {str(version) for version in versions}
        for _ in range(5):
            try:
                return _load(
                    self._files(model, seconds(start), seconds(end)), seconds(start), seconds(end), wanted, chosen
                )
            except FileNotFoundError:
                continue  # retention took a file between the listing and the reading
        return _load([], seconds(start), seconds(end), wanted, chosen)

    def count(
        self, model: str, start: float | datetime, end: float | datetime, *, versions: Iterable[str] | None = None
    ) -> int:
        """Distinct predictions (of all versions) with ``start <= time < end``."""
        return int(self.table(model, start, end, columns=["prediction_id"], versions=versions).num_rows)

    def watermark(self, model: str, now: float | None = None) -> Watermark:
        """How far the log of ``model`` is complete; ``stale`` when a writer stopped reporting.

        A window ``[a, b)`` may be closed once ``time >= b``; while ``stale``, what is there may not be all.
        """
        marks = watermark.read_all(self.root, check_model_name(model))
        return watermark.combine(marks, time.time() if now is None else now)

    def _files(self, model: str, start: float, end: float) -> list[Path]:
        """Published files of the hours that [start, end) touches."""
        found: list[Path] = []
        first, last = hour_of(start), hour_of(end)
        for day in sorted((self.root / check_model_name(model)).glob("date=*")):
            if not f"{first:%Y-%m-%d}" <= day.name.removeprefix("date=") <= f"{last:%Y-%m-%d}":
                continue
            for hour in sorted(day.glob("hour=*")):
                name = f"{day.name.removeprefix('date=')}T{hour.name.removeprefix('hour=')}"
                if f"{first:%Y-%m-%dT%H}" <= name <= f"{last:%Y-%m-%dT%H}":
                    found += sorted(path for path in hour.glob("*.parquet") if not path.name.startswith("."))
        return found


def hour_of(second: float) -> datetime:
    """The UTC hour an event time falls into; far times are cut to what a calendar holds."""
    return datetime.fromtimestamp(min(max(second, 0.0), 253_402_300_799.0), UTC)


def _load(files: list[Path], start: float, end: float, wanted: list[str] | None, versions: set[str] | None) -> pa.Table:
    import pyarrow.parquet as pq

    if versions is not None:
        files = [path for path in files if path.name.partition("-")[0] in {publish.safe(v) for v in versions}]
    by_schema: dict[pa.Schema, list[str]] = {}
    for path in files:
        by_schema.setdefault(pq.read_schema(path).remove_metadata(), []).append(str(path))
    table = _scanned(by_schema, start, end, wanted, versions, ())
    once = _once(table)
    if wanted is not None and once.num_rows < table.num_rows:
        # Which of several rows is the whole one is seen by columns that were not asked for.
        once = _once(_scanned(by_schema, start, end, wanted, versions, _WHOLE))
    return once if wanted is None else once.select(wanted)


#: By these a row is seen to be whole: it has no error, and both halves' moments.
_WHOLE = ("error", "latency_ms")


def _scanned(
    by_schema: dict[pa.Schema, list[str]],
    start: float,
    end: float,
    wanted: list[str] | None,
    versions: set[str] | None,
    more: Sequence[str],
) -> pa.Table:
    import pyarrow as pa
    import pyarrow.dataset as ds

    kinds = publish.unified(list(by_schema))
    asked = [*(wanted or ()), "prediction_id", "version", "time", *more]
    loaded = list(kinds) if wanted is None else list(dict.fromkeys(asked))
    moment = columns.arrow_type("time")
    keep = (ds.field("time") >= pa.scalar(_micros(start), moment)) & (
        ds.field("time") < pa.scalar(_micros(end), moment)
    )
    if versions is not None:
        keep = keep & ds.field("version").isin(sorted(versions))
    target = {name: kinds.get(name, "null") for name in loaded}
    tables = []
    for schema, paths in by_schema.items():
        scan = ds.dataset(paths, schema=schema, format="parquet")
        part = scan.to_table(columns=[name for name in loaded if name in schema.names], filter=keep)
        tables.append(columns.conform(part, target))
    return pa.concat_tables(tables) if tables else columns.conform(columns.empty_schema().empty_table(), target)


def _micros(second: float) -> int:
    return min(max(round(second * 1e6), -(2**62)), 2**62)


def _once(table: pa.Table) -> pa.Table:
    """Oldest first, each prediction once: of those with equal id and version one that is whole, else the first.

    A mirrored request has the same id on both versions, and is a prediction of each. Not whole is a row whose other
    half never came to the collector that wrote it; another may have both.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    table = table.take(pc.sort_indices(table, sort_keys=[("time", "ascending"), ("prediction_id", "ascending")]))
    if pc.count_distinct(table.column("prediction_id"), mode="all").as_py() == table.num_rows:
        return table
    rows = table.num_rows
    lacks = np.zeros(rows, np.int64)
    if "error" in table.column_names:
        lacks += 2 * pc.is_valid(table.column("error")).to_numpy()
    if "latency_ms" in table.column_names:
        lacks += pc.is_null(table.column("latency_ms")).to_numpy()
    rank = pa.array(lacks * rows + np.arange(rows))
    keys = table.select(["prediction_id", "version"]).append_column("rank", rank)
    best = keys.group_by(["prediction_id", "version"]).aggregate([("rank", "min")]).column("rank_min")
    return table.take(pa.array(np.sort(best.to_numpy() % rows)))
