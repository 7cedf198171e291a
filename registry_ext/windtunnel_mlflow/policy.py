"""What a version still needs before it may become champion. Pure: facts in, a list of missing things out.

Later demands (approvals, roles, signatures, lineage) become further facts and further lines in ``missing``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from windtunnel.spec.policy import Policy

ROLLOUT = "rollout"
DATA_CHECK = "data-check"


@dataclass(frozen=True, slots=True)
class Judged:
    """One verdict, as far as policy looks at it."""

    seq: int
    id: str
    kind: str
    outcome: str
    subject: str
    claimed: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything policy looks at.

    Attributes:
        status: registration status of the version.
        digest: digest of its sealed content, None before the seal.
        data: digest of the data it was trained on, as its recipe says.
        champion: number of the current champion, None where there is none.
        in_rollout: a rollout of this very version is open.
        verdicts: all verdicts about this model, in any order.
        ordered: a person (never a mere claim) has ordered the open rollout of this version to go on.
    """

    status: str
    digest: str | None
    data: str | None
    champion: int | None
    in_rollout: bool
    verdicts: tuple[Judged, ...] = field(default=())
    ordered: bool = False


def required(policy: Policy, facts: Facts) -> list[str]:
    """Kinds of evidence needed. Where there is a champion, a version that is not in an open rollout needs a
    rollout's verdict whatever the policy says: otherwise a plain alias call would skip the rollout."""
    if facts.champion is None:
        return list(policy.first)
    kinds = list(policy.champion)
    if not facts.in_rollout and ROLLOUT not in kinds:
        kinds.append(ROLLOUT)
    return kinds


def newest(facts: Facts, kind: str) -> Judged | None:
    """The verdict of ``kind`` that counts: the newest authoritative one about this content.

    A data check is about the training data's digest; it counts as well when it names the version's own content.
    """
    subjects = {facts.digest} if kind != DATA_CHECK else {facts.digest, facts.data}
    subjects.discard(None)
    fitting: Iterable[Judged] = (
        judged for judged in facts.verdicts if judged.kind == kind and not judged.claimed and judged.subject in subjects
    )
    return max(fitting, key=lambda judged: judged.seq, default=None)


def missing(policy: Policy, facts: Facts) -> list[str]:
    """One readable line per thing that is missing; empty when the version may become champion."""
    lines = []
    if facts.status != "READY" or facts.digest is None:
        lines.append(f"a sealed version (its status is {facts.status})")
    for kind in required(policy, facts):
        judged = newest(facts, kind)
        if judged is None:
            lines.append(f"a PASS verdict of kind {kind} for this content")
        elif kind == ROLLOUT and judged.outcome == "INCONCLUSIVE" and facts.ordered:
            continue  # the evidence stays what it is; a person took it upon themselves, and the audit says who
        elif judged.outcome != "PASS":
            said = f": {judged.reason}" if judged.reason else ""
            lines.append(f"a PASS verdict of kind {kind} (the newest is {judged.outcome}{said})")
    return lines


def present(policy: Policy, facts: Facts) -> Mapping[str, Any]:
    """The verdicts that count, by kind: id and outcome."""
    found = {kind: newest(facts, kind) for kind in required(policy, facts)}
    return {kind: {"id": j.id, "outcome": j.outcome, "reason": j.reason} for kind, j in found.items() if j is not None}
