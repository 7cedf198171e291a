"""Which approvals and rejections count. Pure.

An approval is of one person, about one content, under one policy, after one look at the evidence. It stops counting
when it is withdrawn, too old, given by one of the version's own, or when evidence against the version came after it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from windtunnel.spec.base import format_duration
from windtunnel.spec.policy import Needs

Decision = Literal["approve", "reject"]


@dataclass(frozen=True, slots=True)
class Approval:
    """What one person said.

    Attributes:
        digest: of the content it is about.
        evidence: ``policy.evidence_digest`` of what was shown.
        seen: number of the registry's newest verdict then.
        needs: ``policy.needs_digest`` of what was demanded then.
        by: the person, as the registry's user.
        roles: the person's then.
        at, withdrawn_at: seconds since the epoch.
    """

    seq: int
    decision: Decision
    digest: str
    evidence: str
    seen: int
    needs: str
    by: str
    roles: frozenset[str]
    reason: str
    at: float
    withdrawn_at: float | None = None


@dataclass(frozen=True, slots=True)
class Past:
    """Who was behind a version, and who wants it to move; names of users.

    Attributes:
        author: who registered it.
        trainer: the run's user.
        requesters: who asks for the transition, or has ordered it.
    """

    author: str | None = None
    trainer: str | None = None
    requesters: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Weighed:
    """An approval or rejection, whether it counts, and why not."""

    approval: Approval
    counts: bool
    why: str | None = None


def weigh(
    needs: Needs,
    needs_digest: str,
    approvals: Iterable[Approval],
    past: Past,
    digest: str | None,
    contrary: int,
    now: float,
) -> list[Weighed]:
    """Each with whether it counts, oldest first.

    Args:
        needs_digest: names ``needs``.
        contrary: number of the newest FAIL about this content; 0 where there is none.
        now: seconds since the epoch.
    """
    ordered = sorted(approvals, key=lambda one: one.seq)
    last = {one.by: one.seq for one in ordered if one.decision == "approve" and one.withdrawn_at is None}
    found: list[Weighed] = []
    for one in ordered:
        if one.decision == "reject":
            why = _rejection(needs, one, ordered, past, digest)
        else:
            why = _approval(needs, needs_digest, one, past, digest, contrary, now)
            if why is None and last.get(one.by) != one.seq:
                why = f"{one.by} approved it again later"
        found.append(Weighed(one, why is None, why))
    return found


def blind(needs: Needs, by: str, past: Past) -> str | None:
    """Why this person may not approve this version under four eyes; None when it may."""
    same = by.casefold()
    for eye in needs.four_eyes:
        names = past.requesters if eye == "requester" else {getattr(past, eye) or ""}
        if same in {name.casefold() for name in names}:
            return {
                "author": f"{by} registered it",
                "trainer": f"{by} trained it",
                "requester": f"{by} asked for it",
            }[eye]
    return None


def _approval(
    needs: Needs, needs_digest: str, one: Approval, past: Past, digest: str | None, contrary: int, now: float
) -> str | None:
    whose = f"{one.by}'s does not count"
    if one.withdrawn_at is not None:
        return f"{one.by} withdrew it"
    if one.digest != digest:
        return f"{whose}: it is about other content"
    if not one.roles & set(needs.approvers):
        return f"{whose}: {one.by} is no {' or '.join(needs.approvers)}"
    if (own := blind(needs, one.by, past)) is not None:
        return f"{whose}: {own}"
    if contrary > one.seen:
        return f"{whose}: a FAIL came after it"
    if one.needs != needs_digest:
        return f"{whose}: the policy has changed since"
    if one.at > now + 60:
        return f"{whose}: it is from a time to come, a clock was set back"
    if needs.valid is not None and now - one.at > needs.valid.total_seconds():
        return f"{whose}: it was valid for {format_duration(needs.valid)}"
    return None


def _rejection(needs: Needs, one: Approval, all_: list[Approval], past: Past, digest: str | None) -> str | None:
    if one.withdrawn_at is not None:
        return f"{one.by} withdrew it"
    if one.digest != digest:
        return "it is about other content"
    if needs.rejection == "until_superseded":
        later = (
            other
            for other in all_
            if other.seq > one.seq
            and other.decision == "approve"
            and other.withdrawn_at is None
            and other.digest == digest
            and other.roles & set(needs.approvers)
            and blind(needs, other.by, past) is None
        )
        if (found := next(later, None)) is not None:
            return f"{found.by} approved it later"
    return None
