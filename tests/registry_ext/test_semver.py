"""What a version is over its parent, by the built-in rule and by a policy's (DEMAND REG-1)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.spec.numbering import Numbering
from windtunnel_mlflow.versions import semver

RECIPE = {"recipe": "r", "code": "c1", "params": {"depth": 3}, "features": ["a", "b"], "data": "d1", "algorithm": "gbm"}
FACTS = {"signature": {"inputs": "[1]"}, "flavor": "mlflow.sklearn"}


def content(facts: dict[str, Any] | None = None, **recipe: Any) -> semver.Content:
    return semver.Content({**RECIPE, **recipe}, {**FACTS, **(facts or {})})


PARENT = ("1.4.2", content())


@pytest.mark.parametrize(
    ("child", "expected", "why"),
    [
        (content(data="d2"), "1.4.3", "same recipe, other data"),
        (content(), "1.4.3", "same recipe, same data"),
        (content(code="c2"), "1.5.0", "code"),
        (content(params={"depth": 4}), "1.5.0", "params"),
        (content(params={"depth": 3.0}), "1.4.3", "same recipe"),
        (content(features=["a"]), "1.5.0", "features"),
        (content(recipe="other", data="d2"), "1.5.0", "recipe"),
        (content(algorithm="linear"), "2.0.0", "algorithm changed from gbm to linear"),
        (content(algorithm=None), "1.4.3", "same recipe"),
        (content({"signature": {"inputs": "[2]"}}), "2.0.0", "signature changed"),
        (content({"signature": {"inputs": "[2]"}}, code="c2"), "2.0.0", "signature changed"),
        (content({"flavor": "mlflow.pytorch"}), "2.0.0", "flavor"),
        (semver.Content({}, FACTS), "1.5.0", "recipe of this version is not known"),
    ],
)
def test_table(child: semver.Content, expected: str, why: str) -> None:
    found = semver.assign(PARENT, child, {"1.4.2"})
    assert found.semver == expected
    assert why in found.reason


def signed(**parts: Any) -> dict[str, Any]:
    return {"signature": {name: json.dumps(specs) for name, specs in parts.items()}}


AGE = {"name": "age", "type": "long", "required": True}
SIGNED = content(signed(inputs=[AGE], outputs=[{"name": "price", "type": "double"}]))


@pytest.mark.parametrize(
    ("facts", "expected", "why"),
    [
        (signed(inputs=[AGE, {"name": "city", "type": "string", "required": False}],
                outputs=[{"name": "price", "type": "double"}]), "1.5.0", "wider"),
        (signed(inputs=[AGE], outputs=[{"name": "price", "type": "double"}, {"name": "low", "type": "double"}]),
         "1.5.0", "wider"),
        (signed(inputs=[{**AGE, "type": "double"}], outputs=[{"name": "price", "type": "double"}]), "1.5.0", "wider"),
        (signed(inputs=[AGE, {"name": "city", "type": "string", "required": True}],
                outputs=[{"name": "price", "type": "double"}]), "2.0.0", "'city' is demanded by this version"),
        (signed(inputs=[{**AGE, "type": "string"}], outputs=[{"name": "price", "type": "double"}]), "2.0.0", "'age'"),
        (signed(inputs=[AGE], outputs=[{"name": "price", "type": "string"}]), "2.0.0", "output 'price' is another"),
        (signed(inputs=[AGE], outputs=[{"name": "cost", "type": "double"}]), "2.0.0", "output 'price' is gone"),
        (signed(inputs=[AGE]), "2.0.0", "output 'price' is gone"),
        ({"signature": {"inputs": "not json"}}, "2.0.0", "inputs cannot be read"),
        ({"signature": "by hand"}, "2.0.0", "cannot be compared"),
    ],
)  # fmt: skip
def test_a_signature_breaks_or_is_only_wider(facts: dict[str, Any], expected: str, why: str) -> None:
    found = semver.assign(("1.4.2", SIGNED), content(facts), {"1.4.2"})
    assert (found.semver, why in found.reason) == (expected, True), found


@pytest.mark.parametrize(
    ("numbering", "child", "expected"),
    [
        ({}, content(algorithm="linear"), "2.0.0"),
        ({"preset": "callers"}, content(algorithm="linear"), "1.5.0"),
        ({"preset": "callers"}, content({"signature": {"inputs": "[2]"}}), "2.0.0"),
        ({"preset": "results"}, content(data="d2"), "1.5.0"),
        ({"preset": "results"}, content(), "1.4.3"),
        ({"changes": {"data": "major"}}, content(data="d2"), "2.0.0"),
        # Two differences: the one that counts most decides, not the one that is gravest by itself.
        ({"changes": {"algorithm": "patch", "recipe": "minor"}}, content(algorithm="x", code="c2"), "1.5.0"),
        ({"changes": {"algorithm": "patch", "recipe": "patch"}}, content(algorithm="x", code="c2"), "1.4.3"),
    ],
)
def test_a_policy_says_what_counts(numbering: dict[str, Any], child: semver.Content, expected: str) -> None:
    rule = Numbering.model_validate(numbering)
    assert semver.assign(PARENT, child, {"1.4.2"}, None, rule).semver == expected


def test_unknown_parent_recipe_is_minor() -> None:
    found = semver.assign(("1.0.0", semver.Content({}, FACTS)), content(), {"1.0.0"})
    assert (found.semver, "of its parent is not known" in found.reason) == ("1.1.0", True)


def test_signature_given_by_the_caller_counts_when_the_model_has_none() -> None:
    parent = semver.Content({**RECIPE, "signature": "x"}, {})
    assert semver.assign(("1.0.0", parent), semver.Content({**RECIPE, "signature": "y"}, {}), []).semver == "2.0.0"


def test_first() -> None:
    assert semver.assign(None, content(), []).semver == "1.0.0"


def test_taken_ones_are_jumped_over() -> None:
    assert semver.assign(PARENT, content(data="d2"), {"1.4.2", "1.4.3", "1.4.4"}).semver == "1.4.5"
    assert semver.assign(PARENT, content(code="c2"), {"1.5.0", "1.6.0"}).semver == "1.7.0"
    assert semver.assign(PARENT, content(algorithm="x"), {"2.0.0", "2.3.1"}).semver == "3.0.0"


def test_after_everything_was_deleted_nothing_is_reused() -> None:
    assert semver.assign(None, content(), {"1.0.0", "2.7.1"}).semver == "2.8.0"


def test_override_upwards_only() -> None:
    assert semver.assign(PARENT, content(data="d2"), {"1.4.2"}, "3.0.0").semver == "3.0.0"
    for wanted, words in (("1.4.2", "below"), ("0.9.0", "below"), ("v2", "expected MAJOR"), ("2.0", "expected MAJOR")):
        with pytest.raises(ValueError, match=words):
            semver.assign(PARENT, content(data="d2"), {"1.4.2"}, wanted)
    with pytest.raises(ValueError, match="taken"):
        semver.assign(PARENT, content(data="d2"), {"1.4.2", "3.0.0"}, "3.0.0")


triples = st.tuples(*[st.integers(0, 5)] * 3).map(semver.render)


@given(triples, st.sets(triples), st.sampled_from(["data", "code", "algorithm"]))
def test_always_above_the_parent_and_never_taken(parent: str, taken: set[str], changed: str) -> None:
    found = semver.assign((parent, content()), content(**{changed: "new"}), taken | {parent})
    assert found.semver not in taken
    assert semver.parse(found.semver) > semver.parse(parent)
