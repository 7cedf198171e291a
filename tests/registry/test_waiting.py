"""DEMAND REG-5: what a release does about its policy: the whole decision, without a server."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.registry.approvals import question
from windtunnel.registry.records import Explanation
from windtunnel.registry.waiting import Asked, body, decide, still_missing


def line(code: str, text: str = "it", subject: str | None = None, *, met: bool = False) -> dict[str, Any]:
    return {"code": code, "met": met, "text": text, "subject": subject}


def said(by: str, decision: str = "approve", *, counts: bool = True, reason: str = "seen") -> dict[str, Any]:
    return {
        "by": by,
        "decision": decision,
        "counts": counts,
        "why": None if counts else "too old",
        "reason": reason,
        "at": 1.0,
    }


def explained(*lines: dict[str, Any], approvals: tuple[Any, ...] = (), **more: Any) -> Explanation:
    missing = tuple(one["text"] for one in lines if not one["met"])
    given: dict[str, Any] = {
        "digest": "sha256:d",
        "evidence": "sha256:e",
        "to": "production",
        "policy": "house 1",
        **more,
    }
    return Explanation(not missing, missing, {}, requirements=lines, approvals=approvals, **given)


SEALED = line("sealed", "sealed", met=True)
APPROVAL = line("approvals", "1 approval by approver (nobody did)")
ROLLOUT = line("evidence", "a PASS verdict of kind rollout for this content", "rollout")
OLD_ROLLOUT = line("age", "a PASS verdict of kind rollout not older than 7d", "rollout")
SCAN = line("evidence", "a PASS verdict of kind scan for this content", "scan")
LINEAGE = line("lineage", "its code, which is unknown", "code")
REJECTED = line("rejected", "no rejection (bob rejected it: storm week)", "bob")
BOB = said("bob", "reject", reason="storm week")


@pytest.mark.parametrize(
    ("lines", "held", "action", "missing"),
    [
        ((SEALED,), (), "go", []),
        ((SEALED, ROLLOUT), (), "go", []),
        ((OLD_ROLLOUT,), (), "go", []),
        ((SCAN,), (), "wait", [SCAN["text"]]),
        ((LINEAGE,), (), "wait", [LINEAGE["text"]]),
        ((line("sealed", "a sealed version"),), (), "wait", ["a sealed version"]),
        ((APPROVAL,), (), "ask", [APPROVAL["text"]]),
        ((APPROVAL, ROLLOUT), (), "ask", [APPROVAL["text"]]),
        # Not before there is everything to look at.
        ((APPROVAL, SCAN), (), "wait", [APPROVAL["text"], SCAN["text"]]),
        # A held release waits, whatever policy says; people may approve it meanwhile.
        ((SEALED,), ("paused by ann: lunch",), "wait", ["paused by ann: lunch"]),
        ((APPROVAL,), ("frozen",), "ask", [APPROVAL["text"], "frozen"]),
        # Whatever else is missing or there, a rejection ends it.
        ((REJECTED,), (), "end", ["version 4 of sea was rejected by bob: storm week"]),
        ((REJECTED, APPROVAL, SCAN), ("frozen",), "end", ["version 4 of sea was rejected by bob: storm week"]),
        (({**REJECTED, "met": True},), (), "go", []),
    ],
)
def test_what_is_done(lines: tuple[Any, ...], held: tuple[str, ...], action: str, missing: list[str]) -> None:
    found = decide("sea", [("4", explained(*lines, approvals=(BOB,)))], held)
    assert (found.action, list(found.missing)) == (action, missing)
    asked = Asked("sea", "4", "production", "sha256:d", "sha256:e")
    assert found.asked == (asked if action == "ask" else None)


def test_of_several_candidates_each_is_asked_about_in_turn() -> None:
    ready, wanted, scanning = explained(ROLLOUT), explained(APPROVAL), explained(SCAN, APPROVAL)
    first = decide("sea", [("4", ready), ("5", wanted), ("6", wanted)])
    assert first.asked is not None and (first.action, first.asked.version) == ("ask", "5")
    assert first.missing[0] == f"version 5: {APPROVAL['text']}"
    # One that is not ready to be looked at does not keep the others from it.
    both = decide("sea", [("4", scanning), ("5", wanted)])
    assert both.asked is not None and both.asked.version == "5"
    assert decide("sea", [("4", ready), ("5", explained(REJECTED, approvals=(BOB,)))]).action == "end"


def test_nothing_is_asked_of_content_or_evidence_that_has_no_name() -> None:
    assert decide("sea", [("4", explained(APPROVAL, digest=None))]).action == "wait"
    assert decide("sea", [("4", explained(APPROVAL, evidence=None))]).action == "wait"


def test_a_rejection_does_not_hide_behind_the_words_of_its_reason() -> None:
    """What people write is no evidence of the release's own, whatever words they use."""
    told = line("rejected", "no rejection (bob rejected it: I do not believe a verdict of kind rollout)", "bob")
    found = decide("sea", [("4", explained(told, approvals=(said("bob", "reject", reason="see above"),)))])
    assert (found.action, still_missing(explained(told))) == ("end", [told["text"]])


def test_a_registry_that_tells_only_sentences() -> None:
    rollout = "a PASS verdict of kind rollout for this content"
    scan = "a PASS verdict of kind scan (the newest is FAIL: rollout.py is unsafe)"
    assert still_missing(Explanation(True, (), {})) == still_missing(Explanation(False, (rollout,), {})) == []
    plain = Explanation(False, (rollout, scan), {})
    assert still_missing(plain) == [scan]
    assert decide("sea", [("4", plain)]).action == "wait"


def test_the_question_is_the_registrys_and_shows_what_it_is_about() -> None:
    found = explained(
        APPROVAL,
        verdicts=({"kind": "evaluation", "outcome": "PASS", "reason": "rmse 0.2", "id": "v", "at": 1.0},),
        approvals=(said("eve", counts=False),),
    )
    asked = decide("sea", [("4", found)]).asked
    assert asked is not None
    assert asked.subject == question("approve", "production", "sea", "4", "sha256:d", "sha256:e")
    text = body(asked, found, ["1 approval by approver"])
    for part in (
        "sha256:d",
        "sha256:e",
        "**evaluation**: PASS: rmse 0.2",
        "eve: seen (does not count: too old)",
        "house 1",
    ):
        assert part in text
    assert Asked.from_dict(asked.to_dict()) == asked
