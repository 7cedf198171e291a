"""A candidate must accept every request the champion accepts (DEMAND ROL-11)."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from windtunnel.errors import IntegrityError
from windtunnel.evidence import manifest
from windtunnel.home import Home
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.mismatch import release_refusals
from windtunnel.serving.modelserver import signature
from windtunnel.serving.modelserver.signature import Tensor

Inputs = list[dict[str, Any]]


def column(name: str | None, kind: str, required: bool = True, **more: Any) -> dict[str, Any]:
    return {"type": kind, "required": required, **({"name": name} if name else {}), **more}


def tensor(*shape: int, dtype: str = "float32", name: str | None = None) -> dict[str, Any]:
    spec = {"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": list(shape)}}
    return {**spec, **({"name": name} if name else {})}


AGE, PLAN = column("age", "double"), column("plan", "string")
#: case: champion's inputs, candidate's inputs, words of the only refusal ("" where there is none)
CASES: dict[str, tuple[Inputs | None, Inputs | None, str]] = {
    "the same": ([AGE, PLAN], [AGE, PLAN], ""),
    "another order": ([AGE, PLAN], [PLAN, AGE], ""),
    "an input more": ([AGE], [AGE, PLAN], "'plan' is demanded by the candidate"),
    "an optional input more": ([AGE], [AGE, column("plan", "string", required=False)], ""),
    "an input less": ([AGE, PLAN], [AGE], "'plan' is unknown to the candidate"),
    "an optional input less": ([AGE, column("plan", "string", False)], [AGE], "'plan' is unknown"),
    "renamed in case": ([AGE], [column("Age", "double", required=False)], "'age' is unknown"),
    "now demanded": ([column("age", "double", False)], [AGE], "may be missing for the champion"),
    "no longer demanded": ([AGE], [column("age", "double", False)], ""),
    "integer to long": ([column("n", "integer")], [column("n", "long")], ""),
    "integer to double": ([column("n", "integer")], [column("n", "double")], ""),
    "long to double": ([column("n", "long")], [column("n", "double")], ""),
    "long to float": ([column("n", "long")], [column("n", "float")], ""),
    "float to double": ([column("n", "float")], [column("n", "double")], ""),
    "long to integer": ([column("n", "long")], [column("n", "integer")], "long for the champion, integer"),
    "double to float": ([column("n", "double")], [column("n", "float")], "double for the champion, float"),
    "double to long": ([column("n", "double")], [column("n", "long")], "double for the champion, long"),
    "string to double": ([column("n", "string")], [column("n", "double")], "string for the champion"),
    "double to string": ([column("n", "double")], [column("n", "string")], "double for the champion"),
    "boolean to double": ([column("n", "boolean")], [column("n", "double")], "boolean for the champion"),
    "double to boolean": ([column("n", "double")], [column("n", "boolean")], "double for the champion"),
    "datetime to string": ([column("n", "datetime")], [column("n", "string")], "datetime for the champion"),
    "anything goes": ([column("n", "datetime")], [column("n", "any", required=False)], ""),
    "anything went": ([column("n", "any")], [column("n", "double")], "any for the champion"),
    "wider items": (
        [column("n", "array", items={"type": "long"})], [column("n", "array", items={"type": "double"})], "",
    ),
    "narrower items": (
        [column("n", "array", items={"type": "double"})], [column("n", "array", items={"type": "long"})], "each item,",
    ),
    "array to scalar": ([column("n", "array", items={"type": "double"})], [column("n", "double")], "array for"),
    "other values of a map": (
        [column("n", "map", values={"type": "string"})], [column("n", "map", values={"type": "long"})], "each value,",
    ),
    "a property more": (
        [column("n", "object", properties={"x": {"type": "long"}})],
        [column("n", "object", properties={"x": {"type": "long"}, "y": {"type": "long"}})],
        "property 'n.y' is demanded",
    ),
    "a property of a property": (
        [column("n", "object", properties={"x": {"type": "object", "properties": {"z": {"type": "double"}}}})],
        [column("n", "object", properties={"x": {"type": "object", "properties": {"z": {"type": "long"}}}})],
        "property 'n.x.z' is double",
    ),
    "tensors of one shape": ([tensor(-1, 784)], [tensor(-1, 784)], ""),
    "a dimension set free": ([tensor(-1, 28, 28)], [tensor(-1, -1, 28)], ""),
    "a dimension fixed": ([tensor(-1, -1)], [tensor(-1, 784)], "shape [-1, -1] for the champion, [-1, 784]"),
    "another size": ([tensor(-1, 784)], [tensor(-1, 785)], "shape [-1, 784]"),
    "another rank": ([tensor(-1, 784)], [tensor(-1, 28, 28)], "shape [-1, 784]"),
    "another type of tensor": ([tensor(-1, 4)], [tensor(-1, 4, dtype="float64")], "type float32"),
    "named tensors, another order": (
        [tensor(-1, name="a"), tensor(-1, 2, name="b")], [tensor(-1, 2, name="b"), tensor(-1, name="a")], "",
    ),
    "a tensor more": ([tensor(-1, name="a")], [tensor(-1, name="a"), tensor(-1, name="b")], "'b' is demanded"),
    "columns to tensors": ([AGE], [tensor(-1, 1, name="age")], "takes columns, the candidate tensors"),
    "without names": ([column(None, "long")], [column(None, "double")], ""),
    "without names, narrower": ([column(None, "double")], [column(None, "long")], "input 1 is double"),
    "without names, more": ([column(None, "long")], [column(None, "long"), column(None, "long")], "takes 1 inputs"),
    "the champion has none": (None, [AGE], "the champion has not"),
    "the candidate has none": ([AGE], [], "the candidate has not"),
    "neither has one": (None, None, "neither has"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_cases(case: str) -> None:
    champion, candidate, words = CASES[case]
    found = signature.refusals(champion, candidate)
    assert len(found) == (1 if words else 0), found
    assert not words or words in found[0]


def test_every_reason_is_told() -> None:
    found = signature.refusals([AGE, PLAN], [column("age", "long"), column("sex", "string")])
    assert len(found) == 3


def test_what_the_server_takes_beside_the_model_is_no_reason() -> None:
    assert signature.refusals([AGE, PLAN], [AGE], welcome=["plan"]) == []


def save(root: Path, version: str, inputs: Inputs) -> Arm:
    """A model folder as MLflow writes it, as far as anybody reads it here."""
    folder = root / version
    folder.mkdir()
    (folder / "MLmodel").write_text(f"signature:\n  inputs: '{json.dumps(inputs)}'\n  outputs: null\n")
    return Arm(version, manifest.build(folder).content, str(folder))


def test_the_sealed_versions_of_a_release_are_compared(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    one, two = save(tmp_path, "1", [AGE]), save(tmp_path, "2", [AGE])
    three = save(tmp_path, "3", [AGE, PLAN])
    assert release_refusals(home, Release("m", one, (two,))) == []
    assert release_refusals(home, Release("m", None, (three,))) == [], "a first release has nothing to accept"
    [reason] = release_refusals(home, Release("m", one, (two, three)))
    assert reason.startswith("version 3: input 'plan' is demanded")
    back = Release("m", three, (one,))
    assert release_refusals(home, back) == ["version 1: input 'plan' is unknown to the candidate"]
    described = {"1": {"features": [{"name": "age"}, {"name": "plan", "kind": "categorical"}]}}
    assert release_refusals(home, Release("m", three, (one,), settings=described)) == []


def test_a_version_without_its_description_of_itself_is_an_error(tmp_path: Path) -> None:
    one, two = save(tmp_path, "1", [AGE]), save(tmp_path, "2", [AGE])
    shutil.rmtree(tmp_path / "2")
    with pytest.raises(IntegrityError, match="no MLmodel"):
        release_refusals(Home(tmp_path / "home"), Release("m", one, (two,)))


KINDS = ["double", "float", "long", "integer", "boolean", "string"]
VALUES = {
    "double": st.floats(-1e300, 1e300), "float": st.floats(-1e30, 1e30), "long": st.integers(-(2**63), 2**63 - 1),
    "integer": st.integers(-(2**31), 2**31 - 1), "boolean": st.booleans(), "string": st.text(max_size=5),
}  # fmt: skip
DATATYPES = {"double": "FP64", "float": "FP64", "long": "INT64", "integer": "INT64", "boolean": "BOOL"}
SIGNATURES = st.lists(
    st.builds(column, st.sampled_from("abc"), st.sampled_from(KINDS), st.booleans()),
    min_size=1, max_size=3, unique_by=lambda item: str(item["name"]),
)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(champion=SIGNATURES, candidate=SIGNATURES, data=st.data())
def test_what_is_not_refused_is_accepted_by_the_server(champion: Inputs, candidate: Inputs, data: Any) -> None:
    """The comparison is as strict as the check that each request meets (``signature.Contract``)."""
    request = []
    for item in champion:
        if item["required"] or data.draw(st.booleans()):
            value = data.draw(VALUES[item["type"]])
            request.append(Tensor(item["name"], [1], DATATYPES.get(item["type"], "BYTES"), [value]))
    assume(request)
    signature.contract({"inputs": champion}, []).decode([replace(one, data=list(one.data)) for one in request])
    if not signature.refusals(champion, candidate):
        signature.contract({"inputs": candidate}, []).decode(request)
