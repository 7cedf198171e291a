"""What policy demands of a card (DEMAND REG-14)."""

from __future__ import annotations

from typing import Any

from windtunnel import canonical
from windtunnel.spec.policy import Needs, PolicyDocument
from windtunnel_mlflow.law.policy import Facts, missing, needs_digest


def facts(**more: Any) -> Facts:
    given = {"status": "READY", "digest": "sha256:v", "data": None, "champion": None, "in_rollout": True}
    return Facts(**{**given, **more})


def test_a_card_is_demanded_part_by_part() -> None:
    document = PolicyDocument.model_validate({"first": {"evidence": [], "card": ["purpose", "risk"]}})
    assert missing(document, facts()) == ["a card that says: purpose", "a card that says: risk"]
    assert missing(document, facts(card=frozenset({"risk", "text"}))) == ["a card that says: purpose"]
    assert missing(document, facts(card=frozenset({"risk", "purpose"}))) == []
    assert missing(document, facts(champion=1)) != [], "production has its own list"


def test_approvals_of_the_time_before_cards_are_of_the_same_demands() -> None:
    then = ("evidence", "approvals", "approvers", "four_eyes", "valid", "rejection", "lineage", "by", "limits")
    plain = Needs().model_dump(mode="json")
    assert needs_digest(Needs()) == canonical.digest({name: plain[name] for name in then})
    assert needs_digest(Needs(card=["risk"])) != needs_digest(Needs())
