"""Canonical JSON: one byte form, and back."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel import canonical

GOLDEN = [
    ({"b": 1, "a": [True, None, "x"]}, b'{"a":[true,null,"x"],"b":1}'),
    ({"e": 1e21, "f": 0.1, "g": 1.0}, b'{"e":1e+21,"f":0.1,"g":1}'),
    ({"n": math.nan, "i": math.inf, "m": -math.inf}, b'{"i":"~wt:inf","m":"~wt:-inf","n":"~wt:nan"}'),
    (2**53, b'"~wt:int:9007199254740992"'),
    ("~wt:nan", b'"~wt:str:~wt:nan"'),
    ({"é": "\u20ac"}, '{"é":"€"}'.encode()),
]


@pytest.mark.parametrize(("value", "expected"), GOLDEN)
def test_golden_bytes(value: object, expected: bytes) -> None:
    assert canonical.dumps(value) == expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def same(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and math.isnan(a):
        return isinstance(b, float) and math.isnan(b)
    return a == b


@given(json_values)
def test_what_goes_in_comes_back(value: object) -> None:
    assert same(value, canonical.loads(canonical.dumps(value)))


@given(json_values)
def test_text_that_is_not_hashed_is_read_as_the_same_value(value: object) -> None:
    assert same(canonical.loads(canonical.dumps(value)), canonical.loads(canonical.text(value)))


@given(st.dictionaries(st.text(), st.integers()))
def test_key_order_does_not_matter(value: dict[str, int]) -> None:
    assert canonical.digest(value) == canonical.digest(dict(reversed(value.items())))


@pytest.mark.parametrize("value", [{1: "x"}, {"x": object()}, {"x": {1, 2}}])
def test_what_has_no_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="canonical JSON takes"):
        canonical.dumps(value)
