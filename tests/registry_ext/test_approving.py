"""Which approvals count, crossed with everything that can be the matter with them (DEMAND REG-5)."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from windtunnel.spec.policy import BUILT_IN, Needs, PolicyDocument
from windtunnel_mlflow.law.approving import Approval, Past, blind, weigh
from windtunnel_mlflow.law.policy import Facts, Judged, evidence_digest, explain, lacking, needs_digest

NOW, DIGEST = 1_000_000.0, "sha256:v"
NEEDS = Needs(approvals=1, valid="1d", approvers=["approver"])
EVE = Approval(
    1, "approve", DIGEST, "sha256:e", 10, needs_digest(NEEDS), "eve", frozenset({"approver"}), "fine", NOW - 60
)

#: What can be the matter with one approval: how it is made so, and a word of why it does not count.
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "withdrawn": ({"withdrawn_at": NOW - 1}, "withdrew"),
    "other content": ({"digest": "sha256:x"}, "other content"),
    "no role": ({"roles": frozenset({"ml_engineer"})}, "is no approver"),
    "author": ({"by": "anna"}, "registered it"),
    "trainer": ({"by": "Tom"}, "trained it"),
    "requester": ({"by": "rita"}, "asked for it"),
    "before a fail": ({"seen": 3}, "a FAIL came after"),
    "other policy": ({"needs": "sha256:n"}, "policy has changed"),
    "too old": ({"at": NOW - 86_401}, "valid for 1d"),
    "from the future": ({"at": NOW + 3600}, "clock was set back"),
}
PAST = Past("anna", "tom", frozenset({"rita"}))


def weighed(*approvals: Approval, needs: Needs = NEEDS, contrary: int = 5) -> list[tuple[bool, str | None]]:
    found = weigh(needs, needs_digest(NEEDS), approvals, PAST, DIGEST, contrary, NOW)
    return [(one.counts, one.why) for one in found]


def test_one_without_fault_counts() -> None:
    assert weighed(EVE) == [(True, None)]


@pytest.mark.parametrize("names", [pair for pair in product(FAULTS, FAULTS) if pair[0] <= pair[1]])
def test_any_fault_and_any_two_make_it_not_count(names: tuple[str, str]) -> None:
    changes: dict[str, Any] = {}
    for name in names:
        changes |= FAULTS[name][0]
    ((counts, why),) = weighed(replace(EVE, **changes))
    assert not counts
    assert why is not None and any(FAULTS[name][1] in why for name in names)


def test_one_person_is_one_approval() -> None:
    again = replace(EVE, seq=2)
    assert [counts for counts, _ in weighed(EVE, again)] == [False, True]
    assert [counts for counts, _ in weighed(EVE, replace(again, withdrawn_at=NOW))] == [True, False]
    two = NEEDS.model_copy(update={"approvals": 2})
    facts = Facts("READY", DIGEST, None, None, True, (), approvals=(EVE, again), past=PAST)
    policy = BUILT_IN.model_copy(update={"first": two})
    assert any("2 approvals" in line for line in lacking(explain(policy, facts, NOW)))


@pytest.mark.parametrize(
    ("rejection", "later", "stands"),
    [
        ("until_withdrawn", None, True),
        ("until_withdrawn", {}, True),
        ("until_superseded", None, True),
        ("until_superseded", {}, False),
        ("until_superseded", {"withdrawn_at": NOW}, True),
        ("until_superseded", {"by": "anna"}, True),
        ("until_superseded", {"roles": frozenset({"data_scientist"})}, True),
        ("until_superseded", {"digest": "sha256:x"}, True),
        ("until_superseded", {"seq": 0}, True),
    ],
)
def test_a_rejection_stands_until(rejection: str, later: dict[str, Any] | None, stands: bool) -> None:
    no = replace(EVE, seq=5, decision="reject", by="bob")
    said = [no] if later is None else [no, replace(EVE, **{"seq": 6, **later})]
    needs = NEEDS.model_copy(update={"rejection": rejection})
    found = weigh(needs, needs_digest(NEEDS), said, PAST, DIGEST, 5, NOW)
    assert next(one.counts for one in found if one.approval is no) == stands
    for gone in ({"withdrawn_at": NOW}, {"digest": "sha256:x"}):
        found = weigh(needs, needs_digest(NEEDS), [replace(no, **gone)], PAST, DIGEST, 5, NOW)
        assert not found[0].counts


def test_four_eyes_as_policy_says() -> None:
    for eyes in product([True, False], repeat=3):
        named = [name for name, on in zip(("author", "trainer", "requester"), eyes, strict=True) if on]
        needs = NEEDS.model_copy(update={"four_eyes": named})
        for person, eye in (("anna", "author"), ("TOM", "trainer"), ("rita", "requester")):
            assert (blind(needs, person, PAST) is not None) == (eye in named)
        assert blind(needs, "eve", PAST) is None
    assert blind(NEEDS, "eve", Past()) is None


# -- the decision

VERDICTS = {
    kind: Judged(
        i + 1, f"id-{kind}", kind, "PASS", "sha256:d" if kind == "data-check" else DIGEST, False, "", NOW - 100
    )
    for i, kind in enumerate(("data-check", "evaluation", "rollout"))
}
POLICY = PolicyDocument.model_validate(
    {
        "production": {
            "evidence": {"evaluation": "1h", "rollout": None},
            "approvals": 1,
            "approvers": ["approver"],
            "valid": "1d",
            "lineage": ["data", "parent"],
            "by": ["ml_engineer", "admin"],
            "limits": {"ml_engineer": 2},
        }
    }
)
GOOD = Facts(
    "READY",
    DIGEST,
    "sha256:d",
    1,
    True,
    tuple(VERDICTS.values()),
    approvals=(replace(EVE, needs=needs_digest(POLICY.production)),),
    past=PAST,
    lineage=frozenset({"data", "parent"}),
    roles=frozenset({"ml_engineer"}),
)
#: What can be missing: how, and the code and a word of its line.
LACKS: dict[str, tuple[dict[str, Any], str, str]] = {
    "unsealed": ({"status": "PENDING_REGISTRATION"}, "sealed", "PENDING_REGISTRATION"),
    "no lineage": ({"lineage": frozenset({"parent"})}, "lineage", "its data"),
    "no approval": ({"approvals": ()}, "approvals", "nobody did"),
    "no verdict": ({"verdicts": (VERDICTS["rollout"],)}, "evidence", "kind evaluation"),
    "role": ({"roles": frozenset({"data_scientist"})}, "role", "ml_engineer"),
    "limit": ({"done": 2}, "limit", "fewer than 2"),
}


def test_nothing_is_missing() -> None:
    lines = explain(POLICY, GOOD, NOW)
    assert lacking(lines) == []
    assert {line.code for line in lines} >= {"sealed", "evidence", "age", "lineage", "approvals"}


@pytest.mark.parametrize("chosen", list(product([False, True], repeat=len(LACKS))))
def test_every_combination_of_what_is_missing(chosen: tuple[bool, ...]) -> None:
    names = [name for name, on in zip(LACKS, chosen, strict=True) if on]
    facts = replace(GOOD, **{key: value for name in names for key, value in LACKS[name][0].items()})
    found = [line for line in explain(POLICY, facts, NOW) if not line.met]
    # Whoever has not the role does not hear of its limit.
    wanted = [name for name in names if not (name == "limit" and "role" in names)]
    assert len(found) == len(wanted), found
    for name in wanted:
        _, code, word = LACKS[name]
        assert any(line.code == code and word in line.text for line in found), (name, found)


@pytest.mark.parametrize(
    ("at", "met"), [(NOW - 3600, True), (NOW - 3602, False), (NOW + 30, True), (NOW + 3600, False)]
)
def test_the_age_of_evidence(at: float, met: bool) -> None:
    old = replace(VERDICTS["evaluation"], at=at)
    facts = replace(GOOD, verdicts=(VERDICTS["data-check"], old, VERDICTS["rollout"]))
    assert [line.met for line in explain(POLICY, facts, NOW) if line.code == "age"] == [met]


def test_a_fail_that_nobody_asked_for_still_voids_an_approval() -> None:
    scan = Judged(11, "id-scan", "scan", "FAIL", DIGEST, False)
    facts = replace(GOOD, verdicts=(*GOOD.verdicts, scan))
    assert "a FAIL came after it" in lacking(explain(POLICY, facts, NOW))[0]
    for harmless in (replace(scan, claimed=True), replace(scan, subject="sha256:x"), replace(scan, seq=9)):
        assert lacking(explain(POLICY, replace(GOOD, verdicts=(*GOOD.verdicts, harmless)), NOW)) == []


def test_the_first_version_has_no_parent_to_know() -> None:
    facts = replace(GOOD, lineage=frozenset({"data"}))
    assert "its parent" in lacking(explain(POLICY, facts, NOW))[0]
    assert lacking(explain(POLICY, replace(facts, parentless=True), NOW)) == []


def test_a_second_role_without_a_limit_lifts_it() -> None:
    facts = replace(GOOD, done=5, roles=frozenset({"ml_engineer", "admin"}))
    assert lacking(explain(POLICY, facts, NOW)) == []
    assert lacking(explain(POLICY, replace(facts, roles=None), NOW)) == [], "a release is no person"


def test_other_transitions_ask_for_what_is_theirs() -> None:
    for to in ("staging", "challenger", "archived"):
        assert lacking(explain(POLICY, replace(GOOD, verdicts=(), approvals=()), NOW, to)) == []  # type: ignore[arg-type]
    assert lacking(explain(POLICY, replace(GOOD, status="FAILED_REGISTRATION"), NOW, "archived")) == []
    assert lacking(explain(POLICY, replace(GOOD, status="FAILED_REGISTRATION"), NOW, "staging"))


def test_the_evidence_digest_names_model_version_content_and_verdicts() -> None:
    newer = replace(VERDICTS["evaluation"], seq=20, id="id-newer")
    made = {
        evidence_digest("sea", 1, GOOD),
        evidence_digest("lake", 1, GOOD),
        evidence_digest("sea", 2, GOOD),
        evidence_digest("sea", 1, replace(GOOD, digest="sha256:w")),
        evidence_digest("sea", 1, replace(GOOD, verdicts=(*GOOD.verdicts, newer))),
    }
    assert len(made) == 5
    older = replace(newer, seq=0, id="id-older")
    assert evidence_digest("sea", 1, replace(GOOD, verdicts=(*GOOD.verdicts, older))) == evidence_digest("sea", 1, GOOD)
