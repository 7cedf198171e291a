"""Labels: what came true, told later, perhaps for some rows only, perhaps corrected.

A label names its prediction by ``prediction_id`` and carries a ``revision``: the highest one counts, and of
equal ones the latest ``label_time``. Appending the same labels again changes nothing.

A *figure* is a number of another name that is joined the same way: what a prediction earned, whether the customer
stayed (MON-12). Its rows look like labels and are kept beside them, one set of files per figure.
"""

from __future__ import annotations

import math
import re
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel.errors import DataError
from windtunnel.names import check_model_name
from windtunnel.serving.predictions import PredictionLog, columns, parquet, seconds

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

#: Columns of a label, in their order, and their types; ``label`` is a number or text.
LABEL_COLUMNS = ("prediction_id", "label", "label_time", "revision", "source")
#: When a model has more files than this, ``append`` merges them.
_MERGE_FILES = 200
_FIGURE = re.compile(r"[a-z][a-z0-9_]{0,39}")


@dataclass(frozen=True, slots=True)
class Joined:
    """Predictions with what is known of the truth.

    Attributes:
        frame: every prediction asked for, with ``label``, ``label_time``, ``revision``, ``source``; null where
            no label has come yet.
        rows: predictions; ``labelled``: those with a label.
    """

    frame: pd.DataFrame
    rows: int
    labelled: int

    @property
    def coverage(self) -> float | None:
        """Share of predictions with a label; None without predictions."""
        return self.labelled / self.rows if self.rows else None


class Labels:
    """Labels below ``root`` (``HOME/labels``): ``MODEL/*.parquet``, each file whole or absent.

    A figure's files have its name before the suffix: ``MODEL/*.revenue.parquet``.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def append(self, model: str, rows: pd.DataFrame | Sequence[Mapping[str, Any]], *, figure: str | None = None) -> int:
        """Add labels; when this returns they are on the disk, all or none.

        Args:
            rows: ``prediction_id``, ``label`` (number, boolean or text; not null), ``label_time`` (seconds since the
                epoch, or a time with a zone); ``revision`` (0 when not given), ``source`` (empty when not given).
            figure: these are no labels but values (finite numbers, in ``label``) of this figure.

        Returns:
            How many were added.

        Raises:
            DataError: a row lacks its id, label or time, labels mix numbers and text, a figure is no finite number
                or its name none of small letters, digits and '_'; nothing was added.
            OSError: the disk is full; nothing was added.
        """
        folder = self.root / check_model_name(model)
        records = _records(rows)
        if figure is not None:
            _check_figure(model, figure, records)
        table = _table(model, records)
        if table.num_rows == 0:
            return 0
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, table, figure)
        if len(self.files(model, figure)) > _MERGE_FILES:
            self._merge(folder, figure)
        return int(table.num_rows)

    def files(self, model: str, figure: str | None = None) -> list[Path]:
        """The files of the labels, or of one figure, by time of arrival."""
        found = (self.root / check_model_name(model)).glob("*.parquet")
        return sorted(path for path in found if not path.name.startswith(".") and _figure_of(path) == figure)

    def figures(self, model: str) -> list[str]:
        """Names of the figures there are rows of."""
        found = {_figure_of(path) for path in (self.root / check_model_name(model)).glob("*.parquet")}
        return sorted(name for name in found if name is not None)

    def read(
        self,
        model: str,
        start: float | datetime | None = None,
        *,
        ids: Iterable[str] | None = None,
        figure: str | None = None,
    ) -> pd.DataFrame:
        """The label that counts of each prediction.

        Args:
            start: only labels that came (``label_time``) at or after this.
            ids: only labels of these predictions.
            figure: the values of this figure instead.
        """
        return self.table(model, start, ids=ids, figure=figure).to_pandas()

    def table(
        self,
        model: str,
        start: float | datetime | None = None,
        *,
        ids: Iterable[str] | None = None,
        figure: str | None = None,
    ) -> pa.Table:
        """``read`` as an Arrow table."""
        import pyarrow as pa
        import pyarrow.compute as pc

        for _ in range(5):
            try:
                found = load(self.files(model, figure))
                break
            except FileNotFoundError:
                continue  # merged between the listing and the reading
        else:
            raise DataError(f"the labels of model {model!r} in {self.root} change faster than they can be read")
        if ids is not None:
            found = found.filter(pc.is_in(found.column("prediction_id"), pa.array(list(ids), pa.string())))
        # The label that counts is chosen first: an old one that was corrected does not come back through ``start``.
        latest = newest(found)
        if start is not None:
            since = pa.scalar(round(seconds(start) * 1e6), columns.arrow_type("time"))
            latest = latest.filter(pc.greater_equal(latest.column("label_time"), since))
        return latest

    def _merge(self, folder: Path, figure: str | None = None) -> None:
        """Put all files into one. Killed in between, some labels are there twice, which changes nothing."""
        paths = self.files(folder.name, figure)
        _write(folder, load(paths), figure)
        for path in paths:
            path.unlink(missing_ok=True)


def joined(
    log: PredictionLog,
    labels: Labels,
    model: str,
    start: float | datetime,
    end: float | datetime,
    *,
    columns: Sequence[str] | None = None,
    versions: Iterable[str] | None = None,
) -> Joined:
    """Predictions with ``start <= time < end``, each with its latest label where one has come.

    Recompute it as labels arrive: nothing is remembered between two calls.
    """
    wanted = None if columns is None else list(dict.fromkeys(["prediction_id", *columns]))
    predictions = log.table(model, start, end, columns=wanted, versions=versions).to_pandas()
    known = labels.table(model, ids=predictions["prediction_id"]).to_pandas()
    frame = predictions.merge(known, on="prediction_id", how="left", validate="many_to_one")
    return Joined(frame=frame, rows=len(frame), labelled=int(frame["label"].notna().sum()))


def _records(rows: pd.DataFrame | Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    to_dict = getattr(rows, "to_dict", None)
    return list(to_dict("records")) if to_dict is not None else list(rows)


def _table(model: str, records: list[Mapping[str, Any]]) -> pa.Table:
    import pyarrow as pa

    cleaned: dict[str, list[Any]] = {name: [] for name in LABEL_COLUMNS}
    for number, row in enumerate(records):
        where = f"label {number} of {len(records)} for model {model!r}"
        unknown = set(row) - set(LABEL_COLUMNS)
        if unknown:
            raise DataError(
                f"{where} has unknown columns {sorted(unknown)}", hint=f"expected {', '.join(LABEL_COLUMNS)}"
            )
        name, label, moment = (columns.plain(row.get(key)) for key in ("prediction_id", "label", "label_time"))
        if not isinstance(name, str) or not name:
            raise DataError(
                f"{where} has no prediction_id (found {name!r})", hint="it is in each response's parameters"
            )
        if label is None or label != label:
            raise DataError(
                f"{where}, prediction {name!r}, has no label (found {label!r})",
                hint="leave the row out until it is known",
            )
        if not isinstance(label, (bool, int, float, str)):
            raise DataError(f"{where}, prediction {name!r}: expected a number, boolean or text, found {label!r}")
        try:
            revision = row.get("revision")
            cleaned["revision"].append(0 if revision is None or revision != revision else int(revision))
            cleaned["label_time"].append(round(seconds(moment) * 1e6))
        except (TypeError, ValueError) as error:
            raise DataError(
                f"{where}, prediction {name!r}: {error}",
                hint="label_time is seconds since the epoch or a time with a zone, revision an integer",
            ) from error
        source = row.get("source")
        cleaned["prediction_id"].append(name)
        cleaned["label"].append(label)
        cleaned["source"].append("" if source is None or source != source else str(source))
    kinds = {columns.kind_of([label]) for label in cleaned["label"]}
    if "string" in kinds and len(kinds) > 1:
        raise DataError(f"the labels for model {model!r} mix numbers and text", hint="use one of them")
    kind = columns.widest([kind for kind in kinds if kind] or ["null"])
    return pa.table(
        {
            "prediction_id": pa.array(cleaned["prediction_id"], pa.string()),
            "label": columns.array([float(v) if kind == "double" else v for v in cleaned["label"]], kind)[0],
            "label_time": pa.array(cleaned["label_time"], columns.arrow_type("time")),
            "revision": pa.array(cleaned["revision"], pa.int64()),
            "source": pa.array(cleaned["source"], pa.string()),
        }
    )


def _check_figure(model: str, figure: str, records: list[Mapping[str, Any]]) -> None:
    if not _FIGURE.fullmatch(figure):
        raise DataError(f"{figure!r} is no name of a figure", hint="expected small letters, digits and '_': 'revenue'")
    for number, row in enumerate(records):
        value = columns.plain(row.get("label"))
        if not isinstance(value, (bool, int, float)) or not math.isfinite(value):
            raise DataError(
                f"row {number} of {len(records)} of figure {figure!r} for model {model!r}: "
                f"expected a finite number, found {value!r}",
                hint="leave the row out until it is known; what came to nothing is 0",
            )


def _figure_of(path: Path) -> str | None:
    """The figure whose rows are in a file; None for labels."""
    return path.name.removesuffix(".parquet").partition(".")[2] or None


def _write(folder: Path, table: pa.Table, figure: str | None = None) -> None:
    name = f"{time.time_ns():020d}-{secrets.token_hex(4)}"
    parquet.write(folder / (f"{name}.{figure}.parquet" if figure else f"{name}.parquet"), table)


def load(paths: list[Path]) -> pa.Table:
    """All labels as they came: by file, which carry the time of arrival in their names."""
    return together([_read(path) for path in paths])


def _read(path: Path) -> pa.Table:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return file.read(use_threads=False)


def together(tables: list[pa.Table]) -> pa.Table:
    """Labels of several files, in the given order."""
    import pyarrow as pa

    kinds = {"prediction_id": "string", "label": "null", "label_time": "time", "revision": "int64", "source": "string"}
    if not tables:
        return columns.conform(pa.table({}), kinds)
    kinds["label"] = columns.widest([columns.kind_name(table.schema.field("label").type) for table in tables])
    return pa.concat_tables([columns.conform(table, kinds) for table in tables])


def newest(table: pa.Table) -> pa.Table:
    """One label per prediction: highest revision, then latest ``label_time``, then last to arrive."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if table.num_rows == 0:
        return table
    table = table.append_column("arrival", pa.array(range(table.num_rows), pa.int64()))
    keys = [(name, "ascending") for name in ("prediction_id", "revision", "label_time", "arrival")]
    table = table.take(pc.sort_indices(table, sort_keys=keys)).drop_columns(["arrival"])
    ids = table.column("prediction_id").combine_chunks()
    last = pa.concat_arrays([pc.not_equal(ids[1:], ids[:-1]), pa.array([True])])
    return table.filter(last)
