"""Bad requests are refused and name the field (DEMAND SRV-5)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from windtunnel.serving.modelserver import signature
from windtunnel.serving.modelserver.signature import BadOutput, BadRequest, Tensor

COLUMNS = [
    {"name": "age", "type": "double", "required": True},
    {"name": "visits", "type": "long", "required": True},
    {"name": "plan", "type": "string", "required": True},
    {"name": "smoker", "type": "boolean", "required": True},
    {"name": "income", "type": "double", "required": False},
]
FEATURES = [
    {"name": "age", "minimum": 0, "maximum": 130},
    {"name": "visits"},
    {"name": "plan", "kind": "categorical", "categories": ["free", "paid"]},
    {"name": "smoker", "kind": "boolean"},
    {"name": "region", "kind": "categorical", "nullable": True},
]
CONTRACT = signature.contract({"inputs": COLUMNS}, FEATURES)


def good(**changes: Tensor | None) -> list[Tensor]:
    tensors: dict[str, Tensor | None] = {
        "age": Tensor("age", [1], "FP64", [40.5]),
        "visits": Tensor("visits", [1], "INT64", [3]),
        "plan": Tensor("plan", [1], "BYTES", ["free"]),
        "smoker": Tensor("smoker", [1], "BOOL", [False]),
        **changes,
    }
    return [tensor for tensor in tensors.values() if tensor is not None]


def test_a_good_request_becomes_columns() -> None:
    assert CONTRACT.decode(good()) == ({"age": [40.5], "visits": [3], "plan": ["free"], "smoker": [False]}, 1)


@pytest.mark.parametrize(
    ("tensor", "expected"),
    [
        (Tensor("age", [2, 1], "FP32", [[1.0], [2]]), [1.0, 2]),
        (Tensor("age", [2], "INT32", [1, 2]), [1, 2]),
        (Tensor("visits", [2], "FP64", [3.0, 4.0]), [3, 4]),
        (Tensor("smoker", [2], "INT64", [0, 1]), [False, True]),
        (Tensor("income", [2], "FP64", [None, 1.5]), [None, 1.5]),
        (Tensor("region", [2], "BYTES", ["north", None]), ["north", None]),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_what_is_accepted_and_what_it_becomes(tensor: Tensor, expected: list[Any]) -> None:
    twice = [Tensor(t.name, [2], t.datatype, t.data * 2) for t in good(**{tensor.name: None})]
    columns, rows = CONTRACT.decode([*twice, tensor])
    assert rows == 2
    assert columns[tensor.name] == expected
    assert [type(value) for value in columns[tensor.name]] == [type(value) for value in expected]


BAD: list[tuple[str, list[Tensor], str, str]] = [
    ("nothing sent", [], "inputs", "expected one tensor for each of age"),
    ("missing", good(plan=None), "plan", "missing"),
    ("unknown", [*good(), Tensor("wealth", [1], "FP64", [1.0])], "wealth", "unknown"),
    ("twice", [*good(), Tensor("age", [1], "FP64", [1.0])], "age", "twice"),
    ("text for a number", good(age=Tensor("age", [1], "FP64", ["40"])), "age", "a finite number expected"),
    ("text datatype", good(age=Tensor("age", [1], "BYTES", ["40"])), "age", "datatype"),
    ("unknown datatype", good(age=Tensor("age", [1], "FP128", [40.0])), "age", "datatype"),
    ("truth for a number", good(age=Tensor("age", [1], "FP64", [True])), "age", "a finite number expected"),
    ("number for text", good(plan=Tensor("plan", [1], "INT64", [1])), "plan", "datatype"),
    ("number in text", good(plan=Tensor("plan", [1], "BYTES", [1.5])), "plan", "a string expected"),
    ("null", good(age=Tensor("age", [1], "FP64", [None])), "age", "null"),
    ("NaN", good(age=Tensor("age", [1], "FP64", [math.nan])), "age", "a finite number expected"),
    ("infinite", good(age=Tensor("age", [1], "FP64", [math.inf])), "age", "a finite number expected"),
    ("beyond int64", good(visits=Tensor("visits", [1], "INT64", [2**63])), "visits", "a whole number expected"),
    ("half a visit", good(visits=Tensor("visits", [1], "FP64", [1.5])), "visits", "a whole number expected"),
    ("below", good(age=Tensor("age", [1], "FP64", [-1.0])), "age", "at least 0 expected"),
    ("above", good(age=Tensor("age", [1], "FP64", [131])), "age", "at most 130 expected"),
    ("category", good(plan=Tensor("plan", [1], "BYTES", ["gold"])), "plan", "one of free, paid"),
    ("two for a truth", good(smoker=Tensor("smoker", [1], "INT64", [2])), "smoker", "true or false"),
    ("rows differ", good(age=Tensor("age", [2], "FP64", [1.0, 2.0])), "visits", "1 rows"),
    ("shape lies", good(age=Tensor("age", [3], "FP64", [1.0])), "age", "3 rows in its shape"),
    ("two columns", good(age=Tensor("age", [1, 2], "FP64", [[1.0, 2.0]])), "age", "expected [rows] or [rows, 1]"),
    ("no shape", good(age=Tensor("age", [], "FP64", [1.0])), "age", "expected [rows] or [rows, 1]"),
    ("ragged", good(age=Tensor("age", [1, 1], "FP64", [[1.0, 2.0]])), "age", "does not have shape"),
    ("no rows", good(age=Tensor("age", [0], "FP64", [])), "age", "no rows"),
    ("an object", good(age=Tensor("age", [1], "FP64", {"a": 1})), "age", "expected a list"),
    ("an object inside", good(age=Tensor("age", [1], "FP64", [{"a": 1}])), "age", "a finite number expected"),
    ("too many rows", [Tensor("age", [10_001], "FP64", [1.0] * 10_001)], "age", "at most 10000"),
    ("long text", good(plan=Tensor("plan", [1], "BYTES", ["x" * 10_000])), "plan", "one of free, paid"),
]


@pytest.mark.parametrize(("tensors", "field", "said"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_bad_request_names_the_field(tensors: list[Tensor], field: str, said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        CONTRACT.decode(tensors)
    assert caught.value.field == field
    assert field in caught.value.message
    assert said in caught.value.message
    assert len(caught.value.message) < 400, "a client's megabyte does not come back"


def test_a_described_feature_the_model_does_not_read_is_welcome_but_not_needed() -> None:
    fields = {field.name: field for field in CONTRACT.fields}
    assert not fields["region"].required
    assert not fields["region"].to_model
    assert fields["income"].nullable, "what MLflow calls optional may be null"


def test_without_a_signature_the_description_is_the_contract() -> None:
    found = signature.contract(None, FEATURES)
    assert found.names == ["age", "visits", "plan", "smoker", "region"]
    assert all(field.required and field.to_model for field in found.fields if field.name != "region")


@pytest.mark.parametrize("column", [{"type": "tensor"}, {"name": "x", "type": "datetime"}, {"type": "double"}])
def test_a_signature_that_cannot_be_checked_is_refused_at_load(column: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="signature"):
        signature.contract({"inputs": [column]}, [])


def test_neither_signature_nor_features_is_refused() -> None:
    with pytest.raises(ValueError, match="no signature"):
        signature.contract(None, [])


def test_the_signature_is_read_from_the_model_file(tmp_path: Path) -> None:
    inputs = '[{"type": "double", "name": "age"}]'
    (tmp_path / "MLmodel").write_text(f"signature:\n  inputs: '{inputs}'\n  outputs: null\n")
    assert signature.read_signature(tmp_path) == {"inputs": [{"type": "double", "name": "age"}]}
    (tmp_path / "MLmodel").write_text("flavors: {}\n")
    assert signature.read_signature(tmp_path) is None


@pytest.mark.parametrize(
    ("values", "rows", "said"),
    [
        ([1.0, math.nan], 2, "nan for row 1"),
        ([math.inf], 1, "inf for row 0"),
        ([None], 1, "None for row 0"),
        ([[0.5, math.nan]], 1, "row 0"),
        ([1.0], 2, "1 predictions for 2 rows"),
        ([1.0, 2.0], 1, "2 predictions for 1 rows"),
    ],
)
def test_an_output_that_is_no_prediction_is_refused(values: list[Any], rows: int, said: str) -> None:
    with pytest.raises(BadOutput, match=said):
        signature.check_output(values, rows)


@pytest.mark.parametrize("values", [[1.0], [2], ["yes"], [True], [[0.2, 0.8]]])
def test_good_outputs_pass(values: list[Any]) -> None:
    signature.check_output(values, 1)
