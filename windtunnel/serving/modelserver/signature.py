"""What a model accepts and what it must return: pure checks over Open Inference Protocol tensors (SRV-5).

A request is wrong when a field is missing, unknown, given twice, of the wrong type or shape, null where null is
not allowed, or outside the bounds of the description. Every refusal names the field, says what was found and
what was expected. Heavy libraries stay out: the same check runs in the model server and in tests.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from windtunnel.serving.compatibility import refusals as refusals

Kind = Literal["numeric", "categorical", "boolean"]

_FLOATS = frozenset({"FP16", "FP32", "FP64"})
_INTEGERS = frozenset({"INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64"})
DATATYPES = _FLOATS | _INTEGERS | {"BOOL", "BYTES"}
#: MLflow column type to what a value must be.
_MLFLOW_KINDS: dict[str, Kind] = {
    "double": "numeric",
    "float": "numeric",
    "long": "numeric",
    "integer": "numeric",
    "boolean": "boolean",
    "string": "categorical",
}
_DTYPES = {"double": "float64", "float": "float32", "long": "int64", "integer": "int32", "boolean": "bool"}
_SHOWN = 60  # characters of a client's value that a message repeats


class BadRequest(ValueError):
    """A request the model must not see.

    Args:
        field: the input (or part of the protocol) that is wrong.
        message: what was found and what was expected, with the field's name.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field
        self.message = message


class BadOutput(ValueError):
    """The model returned something that is no prediction (NaN, wrong number of rows ...)."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One named input as it was sent: ``data`` is the flat or nested list of the JSON."""

    name: str
    shape: Sequence[int]
    datatype: str
    data: Any


@dataclass(frozen=True, slots=True)
class Field:
    """One input of the model.

    Attributes:
        dtype: NumPy type of the model's column; None leaves the values as they are (strings, categories).
        to_model: False for a described feature the model itself does not read: accepted and logged.
        categories: the only values allowed, where they are listed.
    """

    name: str
    kind: Kind = "numeric"
    required: bool = True
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    categories: tuple[str | int | float | bool, ...] | None = None
    dtype: str | None = "float64"
    to_model: bool = True


@dataclass(frozen=True, slots=True)
class Contract:
    """Inputs by name, in the order the model wants them."""

    fields: tuple[Field, ...]
    max_rows: int = 10_000

    @property
    def names(self) -> list[str]:
        return [field.name for field in self.fields]

    def decode(self, tensors: Sequence[Tensor]) -> tuple[dict[str, list[Any]], int]:
        """Columns by name (of fields that were sent), each with as many values as there are rows; and that number.

        Raises:
            BadRequest: naming the field.
        """
        known = {field.name: field for field in self.fields}
        columns: dict[str, list[Any]] = {}
        rows: int | None = None
        if not tensors:
            raise BadRequest("inputs", f"inputs is empty: expected one tensor for each of {_list(self.names)}")
        for tensor in tensors:
            field = known.get(tensor.name)
            if field is None:
                raise BadRequest(tensor.name, f"unknown input {_show(tensor.name)}: expected {_list(self.names)}")
            if tensor.name in columns:
                raise BadRequest(tensor.name, f"input {tensor.name!r} was sent twice")
            values = _flat(tensor, self.max_rows)
            if rows is not None and len(values) != rows:
                raise BadRequest(
                    tensor.name, f"input {tensor.name!r} has {len(values)} rows, the inputs before it have {rows}"
                )
            rows = len(values)
            _check(field, tensor.datatype, values)
            columns[tensor.name] = values
        for field in self.fields:
            if field.name not in columns and field.required:
                raise BadRequest(field.name, f"input {field.name!r} is missing: expected {_describe(field)}")
        return columns, rows or 0


def contract(signature: Mapping[str, Any] | None, features: Sequence[Mapping[str, Any]]) -> Contract:
    """What requests must look like, from the model's own signature and the description's features.

    Args:
        signature: ``{"inputs": [MLflow column specs], ...}`` as ``read_signature`` gives; None when the model has none.
        features: ``spec.Feature`` as plain dicts; empty when the description is not at hand.

    Raises:
        ValueError: neither is given, or the model reads an input that is neither named nor typed.
    """
    described = {str(feature["name"]): feature for feature in features}
    columns: list[Mapping[str, Any]] = list((signature or {}).get("inputs") or [])
    if not columns and not described:
        raise ValueError("the model has no signature with named columns and no features are described")
    fields: list[Field] = []
    for column in columns:
        name, kind = column.get("name"), str(column.get("type"))
        if not name or kind not in _MLFLOW_KINDS:
            raise ValueError(f"the model's signature has input {dict(column)}: expected named columns of plain types")
        feature = described.pop(str(name), None)
        required = bool(column.get("required", True))
        fields.append(_field(str(name), feature, _MLFLOW_KINDS[kind], _DTYPES.get(kind), required, to_model=True))
    for name, feature in described.items():
        kind_ = feature.get("kind", "numeric")
        dtype = {"numeric": "float64", "boolean": "bool"}.get(kind_)
        # With a signature, a feature the model does not read is welcome but not needed.
        fields.append(_field(name, feature, kind_, dtype, required=not columns, to_model=not columns))
    return Contract(tuple(fields))


def read_signature(model: Path) -> dict[str, Any] | None:
    """Signature in an ``MLmodel`` file: ``{"inputs": [...], "outputs": [...]}``, or None when there is none."""
    return parse_signature((model / "MLmodel").read_bytes())


def parse_signature(mlmodel: bytes) -> dict[str, Any] | None:
    """Signature in the text of an ``MLmodel`` file; see ``read_signature``."""
    from ruamel.yaml import YAML

    plain = YAML(typ="safe").load(mlmodel.decode("utf-8")) or {}
    found = plain.get("signature")
    if not found:
        return None
    return {key: json.loads(found[key]) for key in ("inputs", "outputs") if found.get(key)}


def check_output(values: Sequence[Any], rows: int) -> None:
    """One finite prediction per row.

    Raises:
        BadOutput: naming the first row that is wrong.
    """
    if len(values) != rows:
        raise BadOutput(f"the model returned {len(values)} predictions for {rows} rows")
    for row, value in enumerate(values):
        for item in value if isinstance(value, list) else (value,):
            if item is None or (isinstance(item, float) and not math.isfinite(item)):
                raise BadOutput(f"the model predicted {item} for row {row}: expected a finite value")


def _field(
    name: str, feature: Mapping[str, Any] | None, kind: Kind, dtype: str | None, required: bool, *, to_model: bool
) -> Field:
    if feature is None:
        return Field(name, kind, required, nullable=not required, dtype=dtype, to_model=to_model)
    nullable = bool(feature.get("nullable", False))
    categories = feature.get("categories")
    described: Kind = feature.get("kind", "numeric")
    return Field(
        name,
        # A category coded as a number in the training table stays a number on the wire.
        kind if described == "categorical" and kind != "categorical" else described,
        required,
        nullable or not required,
        feature.get("minimum"),
        feature.get("maximum"),
        tuple(categories) if categories is not None else None,
        dtype,
        to_model,
    )


def _flat(tensor: Tensor, max_rows: int) -> list[Any]:
    """The tensor's values, one per row: shape ``[n]`` or ``[n, 1]``."""
    shape, data = list(tensor.shape), tensor.data
    name = tensor.name
    if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] != 1):
        raise BadRequest(name, f"input {name!r} has shape {_show(shape)}: expected [rows] or [rows, 1]")
    if not isinstance(data, list):
        raise BadRequest(name, f"input {name!r} has data {_show(data)}: expected a list")
    if data and isinstance(data[0], list):
        if len(shape) != 2 or any(not isinstance(item, list) or len(item) != 1 for item in data):
            raise BadRequest(name, f"input {name!r}: data does not have shape {_show(shape)}")
        data = [item[0] for item in data]
    if shape[0] != len(data):
        raise BadRequest(name, f"input {name!r} says {shape[0]} rows in its shape and has {len(data)} in its data")
    if not data:
        raise BadRequest(name, f"input {name!r} has no rows: expected at least one")
    if len(data) > max_rows:
        raise BadRequest(name, f"input {name!r} has {len(data)} rows: expected at most {max_rows}")
    return list(data)


def _check(field: Field, datatype: str, values: list[Any]) -> None:
    """Check one column in place; whole floats become integers where the model wants integers."""
    wanted = _datatypes(field)
    if datatype not in wanted:
        raise BadRequest(
            field.name, f"input {field.name!r} has datatype {_show(datatype)}: expected {' or '.join(sorted(wanted))}"
        )
    integral = field.dtype is not None and field.dtype.startswith("int")
    limit = 2 ** (int(field.dtype[3:]) - 1) if integral and field.dtype else 0
    for row, value in enumerate(values):
        if value is None:
            if not field.nullable:
                raise BadRequest(field.name, f"input {field.name!r} is null in row {row}: null is not allowed")
            if integral or field.dtype == "bool":
                raise BadRequest(field.name, f"input {field.name!r} is null in row {row}: {_describe(field)} expected")
            continue
        if not _fits(field.kind, value):
            raise BadRequest(
                field.name, f"input {field.name!r} is {_show(value)} in row {row}: {_describe(field)} expected"
            )
        if field.kind == "boolean":
            values[row] = value = bool(value)
        if field.kind == "numeric":
            if integral:
                if value != int(value) or not -limit <= value < limit:
                    raise BadRequest(
                        field.name, f"input {field.name!r} is {_show(value)} in row {row}: a whole number expected"
                    )
                values[row] = value = int(value)
            if field.minimum is not None and value < field.minimum:
                raise BadRequest(
                    field.name,
                    f"input {field.name!r} is {_show(value)} in row {row}: at least {field.minimum:g} expected",
                )
            if field.maximum is not None and value > field.maximum:
                raise BadRequest(
                    field.name,
                    f"input {field.name!r} is {_show(value)} in row {row}: at most {field.maximum:g} expected",
                )
        if field.categories is not None and value not in field.categories:
            raise BadRequest(
                field.name,
                f"input {field.name!r} is {_show(value)} in row {row}: expected one of {_list(field.categories)}",
            )


def _datatypes(field: Field) -> frozenset[str]:
    if field.kind == "boolean":
        return _INTEGERS | {"BOOL"}
    if field.kind == "categorical":
        return frozenset({"BYTES"}) if field.dtype is None and not _numbers(field) else _INTEGERS | {"BYTES"}
    return _FLOATS | _INTEGERS


def _numbers(field: Field) -> bool:
    return bool(field.categories) and all(isinstance(item, (int, float)) for item in field.categories or ())


def _fits(kind: Kind, value: Any) -> bool:
    if kind == "boolean":
        return isinstance(value, bool) or (isinstance(value, int) and value in (0, 1))
    if kind == "categorical":
        return isinstance(value, (str, int)) and not isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return math.isfinite(value) if isinstance(value, float) else -(2**63) <= value < 2**64


def _describe(field: Field) -> str:
    if field.kind == "boolean":
        return "true or false"
    if field.kind == "categorical":
        return "a string" if not _numbers(field) else "a category"
    return "a whole number" if field.dtype and field.dtype.startswith("int") else "a finite number"


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."


def _list(items: Sequence[Any]) -> str:
    shown = [str(item) for item in items[:20]]
    return ", ".join(shown) + (" ..." if len(items) > 20 else "")
