"""What a version needs before it may become champion (DEMAND REG-5)."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.spec.policy import Policy, PolicyDocument
from windtunnel_mlflow.law.policy import Facts, Judged, Moved, kinds, missing, needs_of, present

DIGEST, DATA = "sha256:v", "sha256:d"


def judged(kind: str, outcome: str = "PASS", seq: int = 1, subject: str | None = None, claimed: bool = False) -> Judged:
    subject = subject or (DATA if kind == "data-check" else DIGEST)
    return Judged(seq, f"id-{kind}-{seq}", kind, outcome, subject, claimed, "because")


def facts(*verdicts: Judged, **more: Any) -> Facts:
    given = {"status": "READY", "digest": DIGEST, "data": DATA, "champion": None, "in_rollout": True}
    return Facts(**{**given, **more}, verdicts=verdicts)


CHECK, EVALUATION, ROLLOUT = judged("data-check"), judged("evaluation"), judged("rollout")


@pytest.mark.parametrize(
    ("name", "given", "lacking"),
    [
        ("first, all there", facts(CHECK, EVALUATION), []),
        ("first, nothing there", facts(), ["data-check", "evaluation"]),
        ("first needs no rollout", facts(CHECK, EVALUATION, champion=None, in_rollout=False), []),
        ("next, all there", facts(CHECK, EVALUATION, ROLLOUT, champion=1), []),
        ("next, no rollout", facts(CHECK, EVALUATION, champion=1), ["rollout"]),
        ("not sealed", facts(CHECK, EVALUATION, status="PENDING_REGISTRATION"), ["sealed"]),
        ("failed", facts(status="FAILED_REGISTRATION", digest=None), ["sealed", "data-check", "evaluation"]),
        ("claimed", facts(CHECK, judged("evaluation", claimed=True)), ["evaluation"]),
        ("other content", facts(CHECK, judged("evaluation", subject="sha256:x")), ["evaluation"]),
        ("other data", facts(judged("data-check", subject="sha256:x"), EVALUATION), ["data-check"]),
        ("data check about the version", facts(judged("data-check", subject=DIGEST), EVALUATION), []),
        ("evaluation about the data", facts(CHECK, judged("evaluation", subject=DATA)), ["evaluation"]),
        ("fail", facts(CHECK, judged("evaluation", "FAIL")), ["newest is FAIL: because"]),
        ("inconclusive", facts(CHECK, judged("evaluation", "INCONCLUSIVE")), ["newest is INCONCLUSIVE"]),
        ("pass, then fail", facts(CHECK, EVALUATION, judged("evaluation", "FAIL", 2)), ["newest is FAIL"]),
        ("fail, then pass", facts(CHECK, judged("evaluation", "FAIL", 1), judged("evaluation", seq=2)), []),
        ("pass, then a claimed fail", facts(CHECK, EVALUATION, judged("evaluation", "FAIL", 2, claimed=True)), []),
        ("fail, then a claimed pass", facts(CHECK, judged("evaluation", "FAIL"), judged("evaluation", seq=2, claimed=True)), ["FAIL"]),  # noqa: E501
        ("unknown data", facts(CHECK, EVALUATION, data=None), ["data-check"]),
    ],
)  # fmt: skip
def test_table(name: str, given: Facts, lacking: list[str]) -> None:
    found = missing(Policy(), given)
    assert len(found) == len(lacking), (name, found)
    for word, line in zip(lacking, found, strict=True):
        assert word in line


def test_without_an_open_rollout_the_rollout_is_needed_whatever_the_policy_says() -> None:
    lenient = Policy(champion=["evaluation"])
    assert missing(lenient, facts(EVALUATION, champion=1, in_rollout=True)) == []
    assert "rollout" in missing(lenient, facts(EVALUATION, champion=1, in_rollout=False))[0]


def test_required_follows_the_policy() -> None:
    policy = PolicyDocument.of(Policy(champion=["scan", "rollout"], first=["scan"]))

    def required(given: Facts) -> list[str]:
        return list(kinds(needs_of(policy, "production", given), "production", given))

    assert required(facts()) == ["scan"]
    assert required(facts(champion=3)) == ["scan", "rollout"]


def test_present_names_the_verdict_that_counts() -> None:
    found = present(Policy(), facts(CHECK, judged("evaluation", "FAIL", 1), judged("evaluation", seq=5)))
    assert found["evaluation"]["id"] == "id-evaluation-5"


@pytest.mark.parametrize(
    ("moved", "why"),
    [
        (Moved("staging", True, "PASS"), None),
        (None, "registered here"),
        (Moved("development", True, "PASS"), "moved from development"),
        (Moved("staging", False, "PASS"), "not trusted any more"),
        (Moved("staging", True, "FAIL"), "is FAIL"),
        (Moved("staging", True, None), "no rollout there"),
    ],
)
def test_where_a_version_must_come_from(moved: Moved | None, why: str | None) -> None:
    """DEMAND REG-12."""
    document = PolicyDocument.model_validate({"first": {"evidence": [], "moved_from": ["staging"]}})
    found = missing(document, facts(moved=moved))
    assert found == [] if why is None else (len(found) == 1 and why in found[0])
