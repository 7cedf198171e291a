"""What a request asked and what the answer said, as columns: the Open Inference Protocol and Seldon's own. Pure.

Formats: ``v2`` of https://github.com/kserve/open-inference-protocol; ``seldon`` is the JSON of Seldon's
``prediction.proto`` (``data.names`` with ``data.ndarray`` or ``data.tensor``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: More columns than this of one tensor are one column with lists: an image is no table.
MAX_COLUMNS = 256
MAX_ROWS = 10_000


class BadPayload(ValueError):
    """A payload that is not what its protocol says.

    Args:
        field: the part that is wrong.
        message: what was found and what was expected, with the field's name.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field, self.message = field, message


@dataclass(slots=True)
class Asked:
    """Inputs: column name -> one value per row."""

    columns: dict[str, list[Any]]
    rows: int


@dataclass(slots=True)
class Answered:
    """Outputs.

    Attributes:
        outputs: one per row.
        ids: prediction ids that the answer gave its caller, one per row; empty where it gave none.
        confidence: one per row, or None.
        version: what the server says of itself, or None.
    """

    outputs: list[Any]
    ids: list[str] = field(default_factory=list)
    confidence: list[Any] | None = None
    version: str | None = None

    @property
    def rows(self) -> int:
        return len(self.outputs)


def asked(protocol: str, body: Any) -> Asked:
    """Inputs of a request.

    Args:
        protocol: ``v2`` (also ``kfserving``) or ``seldon``.
        body: the JSON.

    Raises:
        BadPayload: naming the field.
    """
    if protocol == "seldon":
        names, rows = _seldon(body)
        return Asked(_columns(names, rows, "data"), len(rows))
    columns: dict[str, list[Any]] = {}
    count: int | None = None
    for name, rows in _tensors(body, "inputs"):
        if count is not None and len(rows) != count:
            raise BadPayload("inputs", f"input {name!r} has {len(rows)} rows, the inputs before it have {count}")
        count = len(rows)
        columns |= _columns(None, rows, name) if rows and isinstance(rows[0], list) else {name: rows}
    return Asked(columns, count or 0)


def answered(protocol: str, body: Any) -> Answered:
    """Outputs of an answer.

    Raises:
        BadPayload: naming the field.
    """
    if protocol == "seldon":
        _, rows = _seldon(body)
        return Answered([row[0] if isinstance(row, list) and len(row) == 1 else row for row in rows])
    tensors = dict(_tensors(body, "outputs"))
    first = "predictions" if "predictions" in tensors else "predict" if "predict" in tensors else next(iter(tensors))
    outputs = tensors[first]
    parameters = body.get("parameters")
    given = parameters.get("prediction_ids") if isinstance(parameters, Mapping) else None
    ids = [str(one) for one in given] if isinstance(given, list) and len(given) == len(outputs) else []
    confidence = tensors.get("confidence")
    if confidence is not None and len(confidence) != len(outputs):
        confidence = None
    version = body.get("model_version")
    return Answered(outputs, ids, confidence, str(version) if version else None)


def _tensors(body: Any, key: str) -> list[tuple[str, list[Any]]]:
    """(name, rows) of each tensor; a row is a value, or a list where the tensor is wider."""
    if not isinstance(body, Mapping):
        raise BadPayload("body", f"body is a JSON {_kind(body)}: expected an object with {key!r}")
    tensors = body.get(key)
    if not isinstance(tensors, list) or not tensors:
        raise BadPayload(key, f"{key} is {_kind(tensors)}: expected a list of tensors")
    found = []
    for place, tensor in enumerate(tensors):
        where = f"{key}[{place}]"
        if not isinstance(tensor, Mapping) or not isinstance(tensor.get("name"), str):
            raise BadPayload(f"{where}.name", f"{where}.name is missing: expected a tensor with a name")
        shape, data = tensor.get("shape"), tensor.get("data")
        if not isinstance(shape, list) or not shape or not all(_is_size(size) for size in shape):
            raise BadPayload(f"{where}.shape", f"{where}.shape is {_show(shape)}: expected a list of whole numbers")
        if not isinstance(data, list):
            raise BadPayload(
                f"{where}.data", f"{where}.data is {_kind(data)}: expected a list; tensors in binary form are not read"
            )
        if shape[0] > MAX_ROWS:
            raise BadPayload(f"{where}.shape", f"{where}.shape says {shape[0]} rows: expected at most {MAX_ROWS}")
        found.append((tensor["name"], _rows(where, shape, data)))
    return found


def _rows(where: str, shape: Sequence[int], data: list[Any]) -> list[Any]:
    rows, wide = shape[0], math.prod(shape[1:])
    if len(data) == rows and len(shape) > 1 and all(isinstance(one, list) for one in data):
        split: list[Any] = data  # nested, as the protocol allows
    elif len(data) != rows * wide:
        raise BadPayload(f"{where}.data", f"{where}.data has {len(data)} values: shape {shape} has {rows * wide}")
    elif len(shape) == 1:
        return data
    else:
        split = [data[n * wide : (n + 1) * wide] for n in range(rows)]
    return [one[0] for one in split] if wide == 1 and all(len(one) == 1 for one in split) else split


def _seldon(body: Any) -> tuple[list[str] | None, list[Any]]:
    data = body.get("data") if isinstance(body, Mapping) else None
    if not isinstance(data, Mapping):
        raise BadPayload("data", "data is missing: expected data.ndarray or data.tensor; other payloads are not read")
    names = data.get("names")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise BadPayload("data.names", f"data.names is {_show(names)}: expected a list of names")
    rows = data.get("ndarray")
    if rows is None and isinstance(data.get("tensor"), Mapping):
        shape, values = data["tensor"].get("shape"), data["tensor"].get("values")
        if not isinstance(shape, list) or not shape or not all(_is_size(size) for size in shape):
            raise BadPayload("data.tensor.shape", f"data.tensor.shape is {_show(shape)}: expected whole numbers")
        if not isinstance(values, list):
            raise BadPayload("data.tensor.values", "data.tensor.values is missing: expected a list")
        rows = _rows("data.tensor", shape, values)
    if not isinstance(rows, list):
        raise BadPayload("data.ndarray", "data.ndarray is missing: expected a list of rows, or data.tensor")
    if len(rows) > MAX_ROWS:
        raise BadPayload("data.ndarray", f"data.ndarray has {len(rows)} rows: expected at most {MAX_ROWS}")
    return names or None, rows


def _columns(names: list[str] | None, rows: list[Any], stem: str) -> dict[str, list[Any]]:
    """Columns of rows that are lists of one length; else one column called ``stem`` with the rows as they are."""
    wide = len(rows[0]) if rows and isinstance(rows[0], list) else 0
    flat = wide and all(
        isinstance(row, list) and len(row) == wide and not any(isinstance(one, (list, dict)) for one in row)
        for row in rows
    )
    if not flat or wide > MAX_COLUMNS:
        return {stem: rows}
    called = names if names is not None and len(names) == wide else [f"{stem}_{n}" for n in range(wide)]
    return {name: [row[n] for row in rows] for n, name in enumerate(called)}


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    return {dict: "object", list: "list", str: "text", bool: "boolean"}.get(type(value), "number")


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."
