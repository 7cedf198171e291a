"""What a version still needs before it may move. Pure: a policy, facts and a time in, requirements out.

``explain`` is the one decision: the command, the refusal of every client and the release's waiting read its lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

from windtunnel import canonical
from windtunnel.spec.base import format_duration
from windtunnel.spec.policy import Needs, Policy, PolicyDocument, Transition
from windtunnel_mlflow.access import matrix
from windtunnel_mlflow.law.approving import Approval, Past, Weighed, weigh

ROLLOUT = "rollout"
DATA_CHECK = "data-check"


@dataclass(frozen=True, slots=True)
class Judged:
    """One verdict, as far as policy looks at it; ``at`` is when the registry took it (seconds since the epoch)."""

    seq: int
    id: str
    kind: str
    outcome: str
    subject: str
    claimed: bool
    reason: str = ""
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Moved:
    """Where a version was moved from.

    Attributes:
        installation: what the other installation is called here.
        trusted: whether the key that signed it there still counts here.
        rollout: outcome of its rollout there; None where there was none.
    """

    installation: str
    trusted: bool
    rollout: str | None


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
        approvals: what people said about this version, in any order.
        past: who was behind the version and who asks.
        lineage: origins that are known of it.
        card: parts of its card that say something.
        moved: where it was moved from; None where it was registered here.
        parentless: it is the model's first version, so it has no parent to know.
        roles: of whoever asks by hand; None where nobody in particular asks, or the stack itself does.
        done: changes of champion that whoever asks has made of this model in the last 24 hours.
    """

    status: str
    digest: str | None
    data: str | None
    champion: int | None
    in_rollout: bool
    verdicts: tuple[Judged, ...] = field(default=())
    ordered: bool = False
    approvals: tuple[Approval, ...] = ()
    past: Past = field(default_factory=Past)
    lineage: frozenset[str] = frozenset()
    card: frozenset[str] = frozenset()
    moved: Moved | None = None
    parentless: bool = False
    roles: frozenset[str] | None = None
    done: int = 0


@dataclass(frozen=True, slots=True)
class Requirement:
    """One line of a decision.

    Attributes:
        code: ``sealed``, ``evidence``, ``age``, ``approvals``, ``rejected``, ``lineage``, ``card``, ``moved``,
            ``role`` or ``limit``.
        met: whether it is there.
        text: what is there, or what is missing.
        subject: kind of evidence, origin, part of the card or role it is about.
    """

    code: str
    met: bool
    text: str
    subject: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def transition(to: Transition, facts: Facts) -> Transition:
    """Production of a model without a champion is its first release."""
    return "first" if to == "production" and facts.champion is None else to


def needs_of(policy: PolicyDocument, to: Transition, facts: Facts) -> Needs:
    """What the transition takes of this version now."""
    return policy.needs(transition(to, facts))


def kinds(needs: Needs, to: Transition, facts: Facts) -> dict[str, timedelta | None]:
    """Kinds of evidence needed, with their greatest ages. Where there is a champion, a version that is not in an open
    rollout needs a rollout's verdict whatever the policy says: otherwise a plain alias call would skip the rollout."""
    found: dict[str, timedelta | None] = {str(kind): age for kind, age in needs.evidence.items()}
    if transition(to, facts) == "production" and not facts.in_rollout:
        found.setdefault(ROLLOUT, None)
    return found


def newest(facts: Facts, kind: str) -> Judged | None:
    """The verdict of ``kind`` that counts: the newest authoritative one about this content.

    A data check is about the training data's digest; it counts as well when it names the version's own content.
    """
    return max(_fitting(facts, kind), key=lambda judged: judged.seq, default=None)


def shown(facts: Facts) -> list[Judged]:
    """The verdicts that count, one of each kind there is: what an approver is shown."""
    found = (newest(facts, kind) for kind in sorted({judged.kind for judged in facts.verdicts}))
    return [judged for judged in found if judged is not None]


def evidence_digest(model: str, version: int, facts: Facts) -> str:
    """Names exactly what an approver was shown: the model, the content and the verdicts that count."""
    return canonical.digest(
        {
            "model": model,
            "version": str(version),
            "content": facts.digest,
            # That the sealed bytes are still there is told again and again, and is nothing new to look at.
            "verdicts": [
                [judged.kind, judged.id, judged.outcome]
                for judged in shown(facts)
                if (judged.kind, judged.outcome) != ("integrity", "PASS")
            ],
        }
    )


def needs_digest(needs: Needs) -> str:
    """Names exactly what was demanded when somebody approved."""
    plain = needs.model_dump(mode="json")
    if not plain["card"]:
        # Approvals of the time before cards stay what they are.
        del plain["card"]
    if not plain["moved_from"]:
        del plain["moved_from"]
    return canonical.digest(plain)


def explain(policy: PolicyDocument, facts: Facts, now: float, to: Transition = "production") -> list[Requirement]:
    """Everything that the transition takes, each met or missing; it is allowed when all are met.

    Args:
        policy: in force for the model, complete.
        now: seconds since the epoch.
        to: where to.
    """
    needs = needs_of(policy, to, facts)
    return [
        *_sealed(to, facts),
        *(line for kind, greatest in kinds(needs, to, facts).items() for line in _evidence(facts, kind, greatest, now)),
        *_lineage(needs, to, facts),
        *_card(needs, facts),
        *_moved(needs, facts),
        *_said(needs, facts, now),
        *_asking(needs, to, facts),
    ]


def weighed(needs: Needs, facts: Facts, now: float) -> list[Weighed]:
    """Every approval and rejection of the version with whether it counts, and why not."""
    contrary = max((judged.seq for judged in _about(facts) if judged.outcome == "FAIL"), default=0)
    return weigh(needs, needs_digest(needs), facts.approvals, facts.past, facts.digest, contrary, now)


def lacking(lines: Iterable[Requirement]) -> list[str]:
    """The sentences of what is missing."""
    return [line.text for line in lines if not line.met]


def missing(policy: Policy | PolicyDocument, facts: Facts, now: float = 0.0) -> list[str]:
    """One readable line per thing that is missing; empty when the version may become champion."""
    document = PolicyDocument.of(policy) if isinstance(policy, Policy) else policy
    return lacking(explain(document, facts, now))


def present(policy: Policy | PolicyDocument, facts: Facts) -> Mapping[str, Any]:
    """The verdicts that count, by kind: id and outcome."""
    document = PolicyDocument.of(policy) if isinstance(policy, Policy) else policy
    wanted = kinds(needs_of(document, "production", facts), "production", facts)
    found = {kind: newest(facts, kind) for kind in wanted}
    return {kind: {"id": j.id, "outcome": j.outcome, "reason": j.reason} for kind, j in found.items() if j is not None}


def _about(facts: Facts) -> Iterable[Judged]:
    return (judged for kind in {judged.kind for judged in facts.verdicts} for judged in _fitting(facts, kind))


def _fitting(facts: Facts, kind: str) -> Iterable[Judged]:
    subjects = {facts.digest} if kind != DATA_CHECK else {facts.digest, facts.data}
    subjects.discard(None)
    return (
        judged for judged in facts.verdicts if judged.kind == kind and not judged.claimed and judged.subject in subjects
    )


def _sealed(to: Transition, facts: Facts) -> Iterable[Requirement]:
    met = facts.status == "READY" and facts.digest is not None
    if to == "archived" and not met:
        return  # what could not be sealed may be put away
    yield Requirement(
        "sealed", met, f"sealed content {facts.digest}" if met else f"a sealed version (its status is {facts.status})"
    )


def _evidence(facts: Facts, kind: str, greatest: timedelta | None, now: float) -> Iterable[Requirement]:
    judged = newest(facts, kind)
    if judged is None:
        yield Requirement("evidence", False, f"a PASS verdict of kind {kind} for this content", kind)
        return
    said = f": {judged.reason}" if judged.reason else ""
    if kind == ROLLOUT and judged.outcome == "INCONCLUSIVE" and facts.ordered:
        # The evidence stays what it is; a person took it upon themselves, and the audit says who.
        yield Requirement("evidence", True, f"kind {kind}: INCONCLUSIVE{said}; a person ordered it to go on", kind)
    elif judged.outcome != "PASS":
        text = f"a PASS verdict of kind {kind} (the newest is {judged.outcome}{said})"
        yield Requirement("evidence", False, text, kind)
        return
    else:
        yield Requirement("evidence", True, f"kind {kind}: PASS{said}", kind)
    if greatest is not None:
        old = timedelta(seconds=max(0, round(now - judged.at)))
        # A verdict from the future shows a clock that was set back: how old it is cannot be told.
        met = judged.at <= now + 60 and old <= greatest
        had = f"{_rough(old)} old" if judged.at <= now + 60 else "from a time to come: a clock was set back"
        text = f"a PASS verdict of kind {kind} not older than {format_duration(greatest)} (the newest is {had})"
        yield Requirement("age", met, f"kind {kind}: {had}" if met else text, kind)


def _lineage(needs: Needs, to: Transition, facts: Facts) -> Iterable[Requirement]:
    for origin in needs.lineage:
        if origin == "parent" and facts.parentless:
            continue
        met = origin in facts.lineage
        yield Requirement(
            "lineage", met, f"its {origin} is known" if met else f"its {origin}, which is unknown", origin
        )


def _card(needs: Needs, facts: Facts) -> Iterable[Requirement]:
    for part in needs.card:
        met = part in facts.card
        yield Requirement("card", met, f"its card says: {part}" if met else f"a card that says: {part}", part)


def _moved(needs: Needs, facts: Facts) -> Iterable[Requirement]:
    if not needs.moved_from:
        return
    wanted, moved = " or ".join(needs.moved_from), facts.moved
    if moved is None:
        why = "it was registered here"
    elif moved.installation not in needs.moved_from:
        why = f"it was moved from {moved.installation}"
    elif not moved.trusted:
        why = f"{moved.installation} is not trusted any more"
    elif moved.rollout != "PASS":
        why = f"its rollout there is {moved.rollout}" if moved.rollout else "it had no rollout there"
    else:
        text = f"moved from {moved.installation}, where its rollout passed"
        yield Requirement("moved", True, text, moved.installation)
        return
    yield Requirement("moved", False, f"to be moved from {wanted} after its rollout passed there ({why})", wanted)


def _said(needs: Needs, facts: Facts, now: float) -> Iterable[Requirement]:
    found = weighed(needs, facts, now)
    for one in found:
        if one.approval.decision == "reject" and one.counts:
            text = f"no rejection ({one.approval.by} rejected it: {one.approval.reason})"
            yield Requirement("rejected", False, text, one.approval.by)
    if not needs.approvals:
        return
    counted = [one.approval for one in found if one.approval.decision == "approve" and one.counts]
    others = [f"{one.why}" for one in found if one.approval.decision == "approve" and not one.counts]
    names = ", ".join(one.by for one in counted)
    who = " or ".join(needs.approvers)
    if len(counted) >= needs.approvals:
        yield Requirement("approvals", True, f"approved by {names}")
        return
    many = "1 approval" if needs.approvals == 1 else f"{needs.approvals} approvals"
    notes = [f"{names} did" if counted else "nobody did", *others]
    yield Requirement("approvals", False, f"{many} by {who} ({'; '.join(notes)})")


def _asking(needs: Needs, to: Transition, facts: Facts) -> Iterable[Requirement]:
    if facts.roles is None:
        return
    action: matrix.Action = "promote" if to in ("production", "first") else "stage"
    if not matrix.may(facts.roles, action):
        yield Requirement("role", False, f"one of the roles {', '.join(matrix.who(action))} to do this by hand")
        return
    if needs.by is not None and not facts.roles & set(needs.by):
        yield Requirement("role", False, f"one of the roles {', '.join(needs.by) or '(none)'} to do this by hand")
    # A role without a limit lifts the limit of another.
    free = facts.roles - set(needs.limits)
    if needs.by is not None:
        free &= set(needs.by)
    limits = [number for role, number in needs.limits.items() if role in facts.roles]
    if limits and not free and facts.done >= max(limits):
        text = f"a day with fewer than {max(limits)} changes of champion by this person (the limit of the role)"
        yield Requirement("limit", False, text)


def _rough(value: timedelta) -> str:
    seconds = int(value.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
