"""Columns of the prediction log: the fixed ones, one per feature, the output; and how values get in.

A feature's column has one type per model version. It is declared (``kinds``) or follows from the first
value seen. A value that does not fit a declared column becomes null and is counted (``misfits``): one odd
request must not turn a number into text for everybody who reads the window.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

#: Fixed columns in their order and Arrow type names.
FIXED: dict[str, str] = {
    "prediction_id": "string",
    "request_id": "string",
    "time": "time",
    "model": "string",
    "version": "string",
    "arm": "string",
    "correlation_id": "string",
    "latency_ms": "double",
    "status": "int32",
    "error": "string",
    "confidence": "double",
    "queue_ms": "double",
    "client": "string",
    "segment": "string",
    "instance": "string",
    "shadow": "bool",
}
PREDICTION = "prediction"
FEATURE_PREFIX = "feature_"

#: A feature's kind in the description, and the column type it gets.
_KINDS = {
    "numeric": "double",
    "categorical": "string",
    "boolean": "bool",
    "double": "double",
    "string": "string",
    "bool": "bool",
}


def arrow_type(name: str) -> pa.DataType:
    """The Arrow type behind one of our type names."""
    import pyarrow as pa

    types = {
        "double": pa.float64(),
        "string": pa.string(),
        "bool": pa.bool_(),
        "int32": pa.int32(),
        "int64": pa.int64(),
        "time": pa.timestamp("us", tz="UTC"),
        "null": pa.null(),
    }
    return types[name]


def declared(kinds: Mapping[str, str] | None) -> dict[str, str]:
    """Column types from a description's kinds (``numeric``, ``categorical``, ``boolean``); others are left open."""
    return {name: _KINDS[kind] for name, kind in (kinds or {}).items() if kind in _KINDS}


def kind_of(values: Sequence[Any]) -> str | None:
    """Column type that the first value that is there asks for; None when there is none."""
    for value in values:
        value = plain(value)
        if value is None:
            continue
        if isinstance(value, bool):
            return "bool"
        return "double" if isinstance(value, (int, float)) else "string"
    return None


def plain(value: Any) -> Any:
    """A NumPy or pandas scalar as the Python value it stands for; anything else as it is."""
    item = getattr(value, "item", None)
    if item is not None and getattr(value, "ndim", 0) == 0:
        return item()
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    return value


def text(value: Any) -> str:
    """A value as text: strings as they are, lists and objects as JSON, integral floats without ``.0``."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer() and math.isfinite(value):
        return str(int(value))
    if isinstance(value, (list, tuple, dict)) or hasattr(value, "tolist"):
        return json.dumps(value.tolist() if hasattr(value, "tolist") else value, default=str)
    return str(value)


def array(values: list[Any], kind: str) -> tuple[pa.Array, int]:
    """``values`` as a column of type ``kind``, and how many did not fit and became null. Never raises for a value."""
    import pyarrow as pa

    wanted = arrow_type(kind)
    try:
        return pa.array(values, wanted), 0
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        pass
    fitted = [_fit(plain(value), kind) for value in values]
    misfits = sum(new is None and plain(old) is not None for old, new in zip(values, fitted, strict=True))
    return pa.array(fitted, wanted), misfits


def _fit(value: Any, kind: str) -> Any:
    if value is None:
        return None
    try:
        if kind == "string":
            return text(value).encode("utf-8", "replace").decode()  # lone surrogates are no UTF-8
        if kind == "double":
            return None if isinstance(value, (str, bytes)) else float(value)
        if kind == "bool":
            return bool(value) if isinstance(value, bool) or value in (0, 1) else None
        if kind == "int32":
            number = int(value)
            return number if -(2**31) <= number < 2**31 else None
        if kind == "time":
            number = int(value)
            return number if -(2**62) < number < 2**62 else None
    except Exception:
        return None
    return None


def widest(kinds: Sequence[str]) -> str:
    """The narrowest column type that holds columns of all these types: null < bool < double < string."""
    order = ("null", "bool", "double", "string")
    return max(kinds, key=order.index)


def kind_name(arrow: pa.DataType) -> str:
    """Our name of the Arrow type of a feature's or the output's column as found in a file."""
    import pyarrow.types as types

    if types.is_null(arrow):
        return "null"
    if types.is_boolean(arrow):
        return "bool"
    if types.is_integer(arrow) or types.is_floating(arrow):
        return "double"
    return "string"


def empty_schema(features: Sequence[str] = ()) -> pa.Schema:
    """Fixed columns, features and output with nothing known of their types yet."""
    import pyarrow as pa

    return pa.schema(
        [(name, arrow_type(kind)) for name, kind in FIXED.items()]
        + [(FEATURE_PREFIX + name, pa.null()) for name in features]
        + [(PREDICTION, pa.null())]
    )


def conform(table: pa.Table, kinds: Mapping[str, str]) -> pa.Table:
    """``table`` with its columns cast to ``kinds`` (column name to type name); columns it lacks become null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = []
    for name, kind in kinds.items():
        wanted = arrow_type(kind)
        if name not in table.column_names:
            columns.append(pa.nulls(table.num_rows, wanted))
            continue
        column = table.column(name)
        if column.type != wanted:
            if kind == "string" and pa.types.is_floating(column.type):
                column = pa.chunked_array([[None if v is None else text(v) for v in column.to_pylist()]], wanted)
            elif kind == "double" and pa.types.is_boolean(column.type):
                column = pc.cast(pc.cast(column, pa.int8()), wanted)
            else:
                column = pc.cast(column, wanted)
        columns.append(column)
    return pa.table(columns, names=list(kinds))
