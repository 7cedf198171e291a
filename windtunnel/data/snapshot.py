"""A snapshot: the rows one training run learns from and those it is judged on, frozen with a digest.

The same source and description give the same bytes, so the digest names the data: rows are sorted by time (ties by
their content), types follow the description (numeric features and times of one kind), and Parquet is written with fixed
settings and no volatile metadata.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel import canonical, files
from windtunnel.data import sources
from windtunnel.data.sources import SqlReader
from windtunnel.errors import DataError, IntegrityError
from windtunnel.spec.data import Data, Feature
from windtunnel.spec.evaluation import KNOWN_METRICS, Evaluation

if TYPE_CHECKING:
    import pandas as pd

_REGRESSION = {"rmse", "mae", "poisson_deviance", "r2"}
_TRUE = {"true", "t", "yes", "1", "1.0"}
_FALSE = {"false", "f", "no", "0", "0.0"}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What ``snapshot`` has written.

    Attributes:
        rows_path: Parquet of the training rows, sorted by time.
        holdout_path: Parquet of the newest rows, kept from training.
        digest: of both together; names the data.
        rows_digest, holdout_digest: of each file's bytes.
        rows, holdout_rows: how many.
        start, end: time of the first and the last row, seconds since the epoch (numbers stay as they are).
        cut: time from which rows are in the holdout.
    """

    rows_path: Path
    holdout_path: Path
    digest: str
    rows_digest: str
    holdout_digest: str
    rows: int
    holdout_rows: int
    start: float
    end: float
    cut: float

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "rows_path": str(self.rows_path), "holdout_path": str(self.holdout_path)}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Snapshot:
        paths = {key: Path(plain[key]) for key in ("rows_path", "holdout_path")}
        return cls(**{**plain, **paths})


def snapshot(
    data: Data,
    out_dir: Path,
    *,
    evaluation: Evaluation | None = None,
    now: float | None = None,
    sql_reader: SqlReader | None = None,
    extra: Sequence[str] = (),
) -> Snapshot:
    """Read, check, sort, cut and write ``rows.parquet``, ``holdout.parquet`` and, last, ``meta.json``.

    Args:
        out_dir: made if absent; files of an earlier try are replaced, whole or not at all.
        evaluation: its ``holdout`` fraction; the default's 20 % unless told.
        now: seconds since the epoch; rows of the future (beyond a day's clock error) are refused when it is given.
        sql_reader: ``(connection, query) -> DataFrame`` for SQL sources.
        extra: columns to keep beside the described ones.

    Raises:
        DataError: the source is missing or unreadable, lacks a column, has wrong types, missing values in target or
            time, no rows in the window, or too few rows. Nothing is left half-written.
        UnavailableError: the source did not answer.
    """
    rules = evaluation or Evaluation()
    frame = sources.read(data, sql_reader=sql_reader, extra=extra)
    if frame.empty:
        raise DataError(f"{data.source!r} holds no rows", hint="expected at least one row below the header")
    frame = frame.reset_index(drop=True)
    frame[data.time] = _times(frame[data.time], data.time, now)
    frame[data.target] = _target(frame[data.target], data.target, rules)
    for feature in data.features:
        frame[feature.name] = _feature(frame[feature.name], feature)
    frame = _window(_sorted(frame, data), data)
    if len(frame) < data.min_rows:
        raise DataError(
            f"{len(frame)} rows after since and newest; data.min_rows asks for {data.min_rows}",
            hint="collect more data, widen data.since or lower data.min_rows",
        )
    rows, holdout, cut = split(frame, data.time, rules.holdout)
    return _write(rows, holdout, cut, data, out_dir)


def split(frame: pd.DataFrame, time: str, fraction: float) -> tuple[pd.DataFrame, pd.DataFrame, Any]:
    """Cut rows sorted by ``time``: the newest ``fraction`` apart.

    Rows of the same time stay together, on the newer side unless that would leave nothing to learn from.

    Returns:
        training rows, holdout rows, and the time from which rows are held out.

    Raises:
        DataError: all rows have the same time, so no cut separates old from new.
    """
    times = frame[time].to_numpy()
    at = min(max(round(len(frame) * (1 - fraction)), 1), len(frame) - 1) if len(frame) > 1 else 0
    begin = int(times.searchsorted(times[at], side="left")) if len(frame) else 0
    if begin == 0 and len(frame):
        begin = int(times.searchsorted(times[at], side="right"))
    if begin in (0, len(frame)):
        raise DataError(
            f"all {len(frame)} rows have the same {time!r}: nothing tells old rows from new ones",
            hint="data.time must be the column with each row's own time",
        )
    return frame.iloc[:begin], frame.iloc[begin:], times[begin]


def _bad_rows(mask: Any) -> str:
    """``3 rows (first: 2, 5, 9)``; rows count from 1, as data rows in an editor below the header."""
    import numpy as np

    where = np.flatnonzero(np.asarray(mask)) + 1
    first = ", ".join(map(str, where[:5]))
    return f"{len(where)} row{'s' if len(where) != 1 else ''} (first: {first})"


def _sample(values: Any) -> str:
    return ", ".join(repr(value) for value in list(values[:3]))


def _times(column: pd.Series, name: str, now: float | None) -> pd.Series:
    """Time as UTC timestamps, or as float64 where the column is numbers."""
    import pandas as pd

    if column.isna().any():
        raise DataError(
            f"time column {name!r} is missing in {_bad_rows(column.isna())}", hint="every row needs its time"
        )
    if pd.api.types.is_bool_dtype(column):
        raise DataError(f"time column {name!r} holds true and false", hint="expected dates or numbers")
    if pd.api.types.is_numeric_dtype(column):
        return column.astype("float64")
    made = pd.to_datetime(column, errors="coerce", utc=True, format=None if _is_time(column) else "ISO8601")
    if made.isna().any():
        bad = made.isna()
        raise DataError(
            f"time column {name!r} holds no time in {_bad_rows(bad)}: {_sample(column[bad])}",
            hint="expected ISO 8601, e.g. 2026-01-31T12:00:00Z, or numbers",
        )
    made = made.astype("datetime64[us, UTC]")
    if now is not None:
        late = made > pd.Timestamp(now + 86_400, unit="s", tz="UTC")
        if late.any():
            raise DataError(
                f"time column {name!r} lies in the future in {_bad_rows(late)}: {_sample(column[late])}",
                hint="a wrong year or unit? all windows follow this column",
            )
    return made


def _is_time(column: pd.Series) -> bool:
    import pandas as pd

    return bool(pd.api.types.is_datetime64_any_dtype(column))


def _number(column: pd.Series, what: str) -> pd.Series:
    """Numbers as float64; text that is no number is refused and shown."""
    import pandas as pd

    if _is_time(column):
        raise DataError(f"{what} holds times, expected numbers", hint="turn it into a number, or leave it out")
    made = pd.to_numeric(column, errors="coerce")
    bad = made.isna() & column.notna()
    if bad.any():
        raise DataError(
            f"{what} is no number in {_bad_rows(bad)}: {_sample(column[bad])}",
            hint="expected numbers; describe it as kind: categorical if it holds names",
        )
    return made.astype("float64")


def _target(column: pd.Series, name: str, rules: Evaluation) -> pd.Series:
    import numpy as np
    import pandas as pd

    if column.isna().any():
        raise DataError(
            f"target {name!r} is missing (NaN) in {_bad_rows(column.isna())}",
            hint="leave out rows whose answer is not known",
        )
    numeric = pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)
    if not numeric and {m.name for m in rules.metrics if m.name in KNOWN_METRICS} & _REGRESSION:
        return _number(column, f"target {name!r}")
    if numeric and not pd.api.types.is_bool_dtype(column):
        infinite = ~np.isfinite(column.to_numpy(dtype="float64"))
        if infinite.any():
            raise DataError(f"target {name!r} is infinite in {_bad_rows(infinite)}", hint="look for a division by zero")
    return column


def _feature(column: pd.Series, feature: Feature) -> pd.Series:
    """A feature as the kind it is described as. Missing values are the data check's business."""
    import numpy as np
    import pandas as pd

    what = f"feature {feature.name!r}"
    if feature.kind == "numeric":
        made = _number(column, what)
        infinite = np.isinf(made.to_numpy())
        if infinite.any():
            raise DataError(f"{what} is infinite in {_bad_rows(infinite)}", hint="look for a division by zero")
        return made
    if feature.kind == "boolean":
        if pd.api.types.is_bool_dtype(column):
            return column
        text = column.astype("string").str.strip().str.lower()
        bad = ~text.isin(_TRUE | _FALSE) & column.notna()
        if bad.any():
            raise DataError(
                f"{what} is neither true nor false in {_bad_rows(bad)}: {_sample(column[bad])}",
                hint="expected true/false, yes/no or 1/0",
            )
        made = text.isin(_TRUE).astype("boolean").mask(column.isna())
        return made.astype("bool") if not column.isna().any() else made
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.astype(column.cat.categories.dtype)
    return column


def _sorted(frame: pd.DataFrame, data: Data) -> pd.DataFrame:
    """By time; ties by id and the row's content, so that a source's order of rows does not matter."""
    import pandas as pd

    keys: dict[str, Any] = {"time": frame[data.time]}
    if data.id:
        keys["id"] = frame[data.id].astype("string")
    keys["content"] = pd.util.hash_pandas_object(frame, index=False)
    order = pd.DataFrame(keys).sort_values(list(keys), kind="stable").index
    return frame.loc[order].reset_index(drop=True)


def _window(frame: pd.DataFrame, data: Data) -> pd.DataFrame:
    """The newest rows that ``since`` and ``newest`` leave."""
    import pandas as pd

    if data.since is not None:
        times = frame[data.time]
        span: Any = pd.Timedelta(data.since) if _is_time(times) else data.since.total_seconds()
        frame = frame[times >= times.iloc[-1] - span]
    if data.newest is not None:
        frame = frame.tail(data.newest)
    if frame.empty:
        raise DataError("no rows lie in the window of data.since", hint="widen data.since")
    return frame.reset_index(drop=True)


def seconds(value: Any) -> float:
    """A time of the time column as a number: seconds since the epoch, or the number it is."""
    import numpy as np

    if isinstance(value, np.datetime64):
        return float(value.astype("datetime64[us]").astype("int64")) / 1e6
    return float(value.timestamp()) if hasattr(value, "timestamp") else float(value)


def _parquet(frame: pd.DataFrame, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.Table.from_pandas(frame, preserve_index=False)
    # Pandas' own metadata names library versions: without it the bytes follow from the rows alone.
    table = table.replace_schema_metadata(None)
    pq.write_table(table, path, compression="zstd", row_group_size=128 * 1024, store_schema=False)


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def _write(rows: pd.DataFrame, holdout: pd.DataFrame, cut: Any, data: Data, out_dir: Path) -> Snapshot:
    out_dir.mkdir(parents=True, exist_ok=True)
    meta = out_dir / "meta.json"
    meta.unlink(missing_ok=True)  # until it is there again the snapshot is not whole
    paths = {}
    for name, part in (("rows", rows), ("holdout", holdout)):
        paths[name] = files.write_with(out_dir / f"{name}.parquet", partial(_parquet, part))
    digests = {name: _digest(path) for name, path in paths.items()}
    made = Snapshot(
        rows_path=paths["rows"],
        holdout_path=paths["holdout"],
        digest=canonical.digest(digests),
        rows_digest=digests["rows"],
        holdout_digest=digests["holdout"],
        rows=len(rows),
        holdout_rows=len(holdout),
        start=seconds(rows[data.time].iloc[0]),
        end=seconds(holdout[data.time].iloc[-1]),
        cut=seconds(cut),
    )
    files.write_json(meta, made.to_dict())
    return made


def load(out_dir: Path) -> Snapshot:
    """The snapshot in a folder, its files checked against their digests.

    Raises:
        DataError: there is none, or it was not finished.
        IntegrityError: a file was changed.
    """
    plain = files.read_json(out_dir / "meta.json")
    if plain is None:
        raise DataError(f"no finished snapshot in {out_dir}", hint="run the data step again")
    plain |= {"rows_path": str(out_dir / "rows.parquet"), "holdout_path": str(out_dir / "holdout.parquet")}
    found = Snapshot.from_dict(plain)
    for path, digest in ((found.rows_path, found.rows_digest), (found.holdout_path, found.holdout_digest)):
        if not path.exists():
            raise DataError(f"{path} is missing", hint="run the data step again")
        if _digest(path) != digest:
            raise IntegrityError(f"{path} is not what the snapshot wrote", hint="run the data step again")
    return found
