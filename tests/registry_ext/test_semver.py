"""The simple rule for semantic versions (DEMAND REG-1)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
