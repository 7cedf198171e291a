"""Policy documents: what they say, how they merge, their schema (DEMAND REG-5)."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from windtunnel.errors import DescriptionError
from windtunnel.spec import load, merging
from windtunnel.spec.policy import BUILT_IN, Needs, Policy, PolicyDocument, schema

GOLDEN = Path(__file__).parent / "policy-schema.json"


def document(**plain: Any) -> PolicyDocument:
    return PolicyDocument.model_validate(plain)


def test_the_built_in_policy_needs_no_people() -> None:
    assert all(BUILT_IN.needs(name).approvals == 0 for name in ("staging", "challenger", "production", "first"))
    assert BUILT_IN.short == Policy()
    assert PolicyDocument.of(Policy(champion=["scan"], first=[])).short == Policy(champion=["scan"], first=[])


def test_ages_may_be_left_out() -> None:
    found = document(first={"evidence": ["scan"]}, production={"evidence": {"scan": "7d", "rollout": None}})
    assert found.first.evidence == {"scan": None}
    assert found.production.evidence == {"scan": timedelta(days=7), "rollout": None}
    assert document(**json.loads(found.model_dump_json(exclude_unset=True))) == found


@pytest.mark.parametrize(
    "plain",
    [
        {"produktion": {}},
        {"first": {"evidence": ["astrology"]}},
        {"first": {"approvals": -1}},
        {"first": {"approvals": 1, "approvers": []}},
        {"first": {"approvers": ["service"]}},
        {"first": {"approvers": ["data_scientist"]}},
        {"emergency": {"by": ["service"]}},
        {"first": {"valid": "-1d"}},
        {"staging": {"limits": {"ml_engineer": 1}}},
        {"looser": ["production.colour"]},
        {"looser": ["everything"]},
    ],
)
def test_what_is_no_policy(plain: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        document(**plain)


def test_a_file_with_a_mistake_is_told_by_its_line(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("first:\n  approvals: 1\n  approver: [admin]\n", encoding="utf-8")
    with pytest.raises(DescriptionError, match=r"policy.yaml:3: first.approver: unknown key; did you mean 'approvers'"):
        load.load_policy(file)
    file.write_text("policy:\n  first: {approvals: 1}\n", encoding="utf-8")
    assert load.load_policy(file).first.approvals == 1


# -- merging

HOUSE = merging.complete(
    document(
        production={
            "approvals": 1,
            "evidence": {"rollout": None, "scan": "7d"},
            "valid": "10d",
            "by": ["ml_engineer", "admin"],
            "limits": {"ml_engineer": 2},
            "lineage": ["data"],
            "four_eyes": ["author"],
        },
        people={"eve@corp": "eve"},
    )
)


def test_the_house_is_complete_where_it_says_nothing() -> None:
    assert HOUSE.production.approvers == BUILT_IN.production.approvers
    assert HOUSE.first == BUILT_IN.first
    assert merging.complete(document()) == BUILT_IN
    partial = merging.complete(document(production={"approvals": 2}))
    assert partial.production.evidence == BUILT_IN.production.evidence, "an approval more is no evidence less"


@pytest.mark.parametrize(
    ("field", "wanted", "given", "loose"),
    [
        ("approvals", 2, 2, False),
        ("approvals", 0, 1, True),
        ("approvers", ["admin"], ["admin"], False),
        ("approvers", ["ml_engineer", "admin"], ["admin"], True),
        ("evidence", ["benchmark"], {"rollout": None, "scan": timedelta(days=7), "benchmark": None}, False),
        ("evidence", {"scan": "1d"}, {"rollout": None, "scan": timedelta(days=1)}, False),
        ("evidence", {"scan": "8d"}, {"rollout": None, "scan": timedelta(days=7)}, True),
        ("evidence", {"scan": None}, {"rollout": None, "scan": timedelta(days=7)}, True),
        ("valid", "1d", timedelta(days=1), False),
        ("valid", "11d", timedelta(days=10), True),
        ("valid", None, timedelta(days=10), True),
        ("by", ["admin"], ["admin"], False),
        ("by", ["admin", "approver"], ["admin"], True),
        ("by", None, ["ml_engineer", "admin"], True),
        ("limits", {"ml_engineer": 1}, {"ml_engineer": 1}, False),
        ("limits", {"admin": 1}, {"ml_engineer": 2, "admin": 1}, False),
        ("limits", {"ml_engineer": 3}, {"ml_engineer": 2}, True),
        ("lineage", ["code"], ["data", "code"], False),
        ("lineage", [], ["data"], False),
        ("four_eyes", ["trainer"], ["author", "trainer"], False),
        ("four_eyes", [], ["author"], False),
        ("rejection", "until_withdrawn", "until_withdrawn", False),
        ("rejection", "until_superseded", "until_withdrawn", True),
    ],
)
def test_a_model_may_be_stricter_and_looser_only_where_it_is_allowed(
    field: str, wanted: Any, given: Any, loose: bool
) -> None:
    mine = document(production={field: wanted})
    assert getattr(merging.merge(HOUSE, mine).production, field) == given
    assert bool(merging.looser(HOUSE, mine)) == loose
    for path in (f"production.{field}", "production"):
        lenient = HOUSE.model_copy(update={"looser": [path]})
        free = merging.merge(lenient, mine)
        assert getattr(free.production, field) == getattr(mine.production, field)
        assert merging.looser(lenient, mine) == []


def test_every_field_has_a_rule() -> None:
    assert set(merging._STRICTER) == set(Needs.model_fields)


def test_what_is_the_houses_alone() -> None:
    mine = document(people={"mallory": "eve"}, looser=["production"])
    assert merging.looser(HOUSE, mine) == [
        "looser is for the policy of the house",
        "people is for the policy of the house",
    ]
    assert merging.merge(HOUSE, mine).people == {"eve@corp": "eve"}
    nobody = merging.complete(document(first={"approvals": 1, "approvers": ["approver"]}))
    assert "nobody is left" in " ".join(merging.looser(nobody, document(first={"approvers": ["admin"]})))


@pytest.mark.parametrize(("kinds", "free"), product([[], ["scan"], ["evaluation", "rollout"]], [True, False]))
def test_a_description_only_adds_once_somebody_has_set_a_policy(kinds: list[Any], free: bool) -> None:
    found = merging.wished(HOUSE, Policy(champion=kinds, first=kinds), free=free).production.evidence
    assert set(found) == (set(kinds) if free else set(kinds) | {"rollout", "scan"})
    if not free:
        assert found["scan"] == timedelta(days=7)


def test_merging_never_loosens() -> None:
    """Whatever a model says, what the house demands is still demanded."""
    fields: dict[str, list[Any]] = {
        "approvals": [0, 3],
        "approvers": [["admin"], ["ml_engineer", "approver", "admin"]],
        "valid": ["1d", None],
        "evidence": [[], {"scan": "9d"}],
        "four_eyes": [[], ["trainer"]],
        "by": [None, ["admin"]],
    }
    for values in product(*fields.values()):
        got = merging.merge(HOUSE, document(production=dict(zip(fields, values, strict=True)))).production
        ours = HOUSE.production
        assert got.approvals >= ours.approvals and set(got.approvers) <= set(ours.approvers)
        assert got.valid is not None and ours.valid is not None and got.valid <= ours.valid
        assert set(ours.evidence) <= set(got.evidence) and got.evidence["scan"] is not None
        assert set(ours.four_eyes) <= set(got.four_eyes)
        assert got.by is not None and ours.by is not None and set(got.by) <= set(ours.by)


def test_parts_of_a_card_that_both_demand_are_demanded() -> None:
    """DEMAND REG-14"""
    house = merging.complete(document(production={"card": ["risk", "owner"]}))
    mine = document(production={"card": ["purpose", "risk"]}, first={"card": ["text"]})
    found = merging.merge(house, mine)
    assert found.production.card == ["risk", "owner", "purpose"]
    assert (found.first.card, found.staging.card) == (["text"], [])
    assert merging.looser(house, mine) == []
    assert merging.merge(house, document(production={"card": []})).production.card == ["risk", "owner"]
    with pytest.raises(ValidationError):
        document(production={"card": ["colour"]})


def test_the_schema_changes_only_on_purpose() -> None:
    """To take a change: ``windtunnel registry policy schema > tests/spec/policy-schema.json``."""
    assert json.loads(GOLDEN.read_text(encoding="utf-8")) == schema()
