"""Reading rows from where a description says they are: CSV, Parquet, SQL; here or behind a URI.

Everything that can be wrong with a source is a ``DataError`` that names it. Only the columns that are needed are read.
"""

from __future__ import annotations

import glob
import io
import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from windtunnel.errors import DataError, UnavailableError
from windtunnel.spec.data import Data

if TYPE_CHECKING:
    import pandas as pd

#: ``(connection id, query) -> DataFrame``; operators pass one over Airflow's connections.
SqlReader = Callable[[str, str], "pd.DataFrame"]


def columns(data: Data, extra: Iterable[str] = ()) -> list[str]:
    """Every column the description names: time, id, features, target and ``extra``, each once."""
    named = [data.time, *([data.id] if data.id else []), *data.feature_names, data.target, *extra]
    return list(dict.fromkeys(named))


def read(data: Data, *, sql_reader: SqlReader | None = None, extra: Sequence[str] = ()) -> pd.DataFrame:
    """All rows of the source, with the columns the description names.

    Args:
        sql_reader: reads ``(connection, query)``; needed when the source is SQL.
        extra: further columns to keep.

    Raises:
        DataError: the source is missing, unreadable, not what its format says, or lacks a column.
        UnavailableError: a store behind a URI did not answer.
    """
    wanted = columns(data, extra)
    if data.resolved_format == "sql":
        return _sql(data, sql_reader, wanted)
    places = _places(data.source)
    import pandas as pd

    frames = [_file(place, opened, data.resolved_format, wanted) for place, opened in places]
    return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True)


def require(found: Iterable[str], wanted: Iterable[str], where: str) -> None:
    """Refuse a table that lacks a column.

    Raises:
        DataError: names what is missing, the nearest name there is, and what there is.
    """
    there = [str(name) for name in found]
    missing = [name for name in wanted if name not in there]
    if not missing:
        return
    hints = []
    for name in missing:
        folded = {other.strip().lower(): other for other in there}
        close = [folded[name.lower()]] if name.lower() in folded else get_close_matches(name, there, n=1)
        if close:
            hints.append(f"{close[0]!r} for {name!r}")
    raise DataError(
        f"{where} has no column {', '.join(map(repr, missing))}; it has {_some(there)}",
        hint=f"did you mean {', '.join(hints)}?" if hints else "name the columns as the data does",
    )


def _some(names: Sequence[str], most: int = 20) -> str:
    text = ", ".join(names[:most]) or "none"
    return f"{text} and {len(names) - most} more" if len(names) > most else text


def _sql(data: Data, reader: SqlReader | None, wanted: list[str]) -> pd.DataFrame:
    if not data.connection:
        raise DataError("the source is SQL but no connection is described", hint="set data.connection")
    if reader is None:
        raise DataError(
            f"the source is SQL over connection {data.connection!r}, and nothing here can read it",
            hint="run it as a task, where Airflow's connections are, or pass sql_reader",
        )
    where = f"the query over connection {data.connection!r}"
    try:
        frame = reader(data.connection, data.source)
    except (DataError, UnavailableError):
        raise
    except (ConnectionError, TimeoutError) as error:
        raise UnavailableError(f"{where} got no answer: {error}") from error
    except Exception as error:
        raise DataError(f"{where} failed: {type(error).__name__}: {error}", hint="try the query by hand") from error
    require(frame.columns, wanted, where)
    return frame[wanted]


def _places(source: str) -> list[tuple[str, Any]]:
    """(name, path or bytes) of each file behind a path, glob or URI, in the order of their names."""
    scheme = urlsplit(source).scheme if "://" in source else ""
    if scheme not in ("", "file"):
        return _remote(source, scheme)
    path = unquote(urlsplit(source).path) if scheme == "file" else source
    path = str(Path(path).expanduser())
    if glob.has_magic(path) and not Path(path).exists():
        found = sorted(name for name in glob.glob(path, recursive=True) if Path(name).is_file())  # noqa: PTH207
        if not found:
            raise DataError(f"no file matches {source!r}", hint=_around(Path(path)))
        return [(name, Path(name)) for name in found]
    place = Path(path)
    if place.is_dir():
        inside = sorted(p for p in place.rglob("*") if p.is_file() and not p.name.startswith((".", "_")))
        if not inside:
            raise DataError(f"the folder {place} holds no files", hint="expected CSV or Parquet files in it")
        return [(str(p), p) for p in inside]
    if not place.exists():
        raise DataError(f"there is no data file {place}", hint=_around(place))
    return [(str(place), place)]


def _around(place: Path) -> str:
    """What there is near a path that leads nowhere."""
    folder = place.parent
    while not folder.is_dir() or glob.has_magic(str(folder)):
        if folder == folder.parent:
            break
        folder = folder.parent
    try:
        names = sorted(p.name for p in folder.iterdir() if not p.name.startswith("."))
    except OSError:
        names = []
    near = get_close_matches(place.name, names, n=1)
    return f"did you mean {folder / near[0]}?" if near else f"in {folder} there is {_some(names, 8)}"


def _s3(source: str) -> list[tuple[str, Any]]:
    """By boto3, which the object store needs as well: who we are there, and where, comes from its own chain."""
    from windtunnel.data.objects import connect

    bucket, _, key = source.removeprefix("s3://").partition("/")
    store = connect(f"s3://{bucket}")
    if key and not key.endswith("/") and not glob.has_magic(key) and (raw := store.get_bytes(key)) is not None:
        return [(source, io.BytesIO(raw))]
    if glob.has_magic(key):
        fixed = re.split(r"[*?\[]", key, maxsplit=1)[0]
        keys = [name for name in store.sizes(fixed) if matches(name.split("/"), key.split("/"))]
    else:
        keys = [name for name in store.sizes(f"{key.rstrip('/')}/" if key else "") if _is_data(name)]
    if not keys:
        raise DataError(f"there is nothing at {source!r}", hint="check the path and who may read it")
    made = []
    for name in sorted(keys):
        if (raw := store.get_bytes(name)) is None:
            raise DataError(f"s3://{bucket}/{name} went while {source!r} was read", hint="run this again")
        made.append((f"s3://{bucket}/{name}", io.BytesIO(raw)))
    return made


def _is_data(key: str) -> bool:
    """Whether it is a file that a folder of data is read by: no marker of another program."""
    return not key.endswith("/") and not key.rpartition("/")[2].startswith((".", "_"))


def matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether a key's parts fit a pattern's: ``*`` and its like within one part, ``**`` for any number of them."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(matches(parts[at:], pattern[1:]) for at in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], pattern[0]) and matches(parts[1:], pattern[1:])


def _remote(source: str, scheme: str) -> list[tuple[str, Any]]:
    if scheme == "s3" and find_spec("boto3") is not None:
        return _s3(source)
    try:
        import fsspec  # type: ignore[import-untyped]
    except ImportError:
        raise DataError(
            f"{source!r} needs fsspec, which is not installed", hint="pip install fsspec, or use a local path"
        ) from None
    try:
        system, path = fsspec.core.url_to_fs(source)
    except (ImportError, ValueError) as error:
        raise DataError(
            f"{source!r} cannot be read here: {error}",
            hint=f"install what fsspec needs for {scheme}://, e.g. s3fs for s3://",
        ) from error
    try:
        found = sorted(system.glob(path)) if glob.has_magic(path) else [path]
        if not found or not system.exists(found[0]):
            raise DataError(f"there is nothing at {source!r}", hint="check the path and who may read it")
        return [(f"{scheme}://{name}", io.BytesIO(system.cat_file(name))) for name in found]
    except PermissionError as error:
        raise DataError(f"{source!r} may not be read: {error}", hint="check the credentials") from error
    except FileNotFoundError as error:
        raise DataError(f"there is nothing at {source!r}", hint="check the path") from error
    except OSError as error:
        raise UnavailableError(f"{source!r} did not answer: {error}") from error


def _file(name: str, opened: Any, kind: str, wanted: list[str]) -> pd.DataFrame:
    try:
        return _csv(name, opened, wanted) if kind == "csv" else _parquet(name, opened, wanted)
    except DataError:
        raise
    except PermissionError:
        raise DataError(f"{name} may not be read by this user", hint="check the file's mode and owner") from None
    except OSError as error:
        raise DataError(f"{name} cannot be read: {error}", hint="is it complete, and what data.format says?") from error


def _csv(name: str, opened: Any, wanted: list[str]) -> pd.DataFrame:
    import pandas as pd

    try:
        head = pd.read_csv(opened, nrows=0)
        if hasattr(opened, "seek"):
            opened.seek(0)
        require(head.columns, wanted, name)
        frame = pd.read_csv(opened, usecols=wanted, low_memory=False)
    except pd.errors.EmptyDataError:
        raise DataError(f"{name} is empty", hint="expected CSV with a header line") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise DataError(f"{name} is no readable CSV: {error}", hint="expected UTF-8 with one header line") from error
    return frame[wanted]


def _parquet(name: str, opened: Any, wanted: list[str]) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(opened) as file:
            require(file.schema_arrow.names, wanted, name)
            frame: pd.DataFrame = file.read(columns=wanted).to_pandas()
    except pa.ArrowInvalid as error:
        raise DataError(
            f"{name} is no readable Parquet: {str(error).splitlines()[0]}",
            hint="was it written to its end? set data.format if it is CSV",
        ) from error
    return frame[wanted]
