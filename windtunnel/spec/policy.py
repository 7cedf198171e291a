"""What the registry demands before a version may move: the short form of a description, and the whole document.

Enforced in the store, not here. How two documents become one is in ``windtunnel.spec.merging``.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from windtunnel.spec.base import Duration, Part
from windtunnel.spec.card import CardField
from windtunnel.spec.mistakes import several
from windtunnel.spec.numbering import Numbering

Evidence = Literal["data-check", "evaluation", "benchmark", "rollout", "scan"]

#: Where a version can move. ``first`` is production where there is no champion yet.
Transition = Literal["staging", "challenger", "production", "first", "archived"]
TRANSITIONS: tuple[Transition, ...] = get_args(Transition)

#: Roles of people (REG-10). The stack's own user, ``service``, is nobody's approver.
Person = Literal["data_scientist", "ml_engineer", "approver", "admin"]
#: Roles that can be given approvals and emergencies.
Approver = Literal["ml_engineer", "approver", "admin"]

#: Who of a version's past may not approve it.
Eyes = Literal["author", "trainer", "requester"]

#: Origins of a version that can be demanded.
Origin = Literal["run", "data", "code", "params", "features", "signature", "parent", "dag_run"]


class Policy(Part):
    """Required PASS verdicts.

    Attributes:
        champion: what a version needs to become champion.
        first: what the first release needs instead; there is nobody to compare it with yet.
    """

    champion: list[Evidence] = Field(["data-check", "evaluation", "rollout"])
    first: list[Evidence] = Field(["data-check", "evaluation"])


def _ages(value: Any) -> Any:
    """A list of kinds is a mapping without ages."""
    return dict.fromkeys(value) if isinstance(value, list) else value


Ages = Annotated[
    dict[Evidence, Duration | None],
    BeforeValidator(_ages, json_schema_input_type=dict[Evidence, str | float | None] | list[Evidence]),
]


class Needs(Part):
    """What one transition takes.

    Attributes:
        evidence: kinds of PASS verdicts, as a list, or each with its greatest age (``evaluation: 7d``).
        approvals: how many people must approve.
        approvers: roles whose approval counts.
        four_eyes: who may not approve: the author who registered the version, the one who trained it (the run's
            user), the one who asks for the transition or ordered it.
        valid: how long an approval counts; null is for ever.
        rejection: a rejection stands until it is withdrawn, or until somebody who may approve does so later.
        lineage: origins that must be known of the version.
        card: parts of the model's card that must say something.
        moved_from: trusted installations; the version must have been moved from one of them, its rollout passed there.
        by: roles of people who may carry out the transition by hand; null is everybody whom the role matrix allows.
        limits: by role, how often in 24 hours one person may change a model's champion by hand.
    """

    evidence: Ages = Field(default_factory=dict)
    approvals: int = Field(0, ge=0, le=20)
    approvers: list[Approver] = Field(["approver", "admin"])
    four_eyes: list[Eyes] = Field(["author", "trainer", "requester"])
    valid: Duration | None = Field("30d")  # type: ignore[assignment]  # validated
    rejection: Literal["until_withdrawn", "until_superseded"] = "until_withdrawn"
    lineage: list[Origin] = Field(default_factory=list)
    card: list[CardField] = Field(default_factory=list)
    moved_from: list[str] = Field(default_factory=list)
    by: list[Person] | None = None
    limits: dict[Person, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _possible(self) -> Needs:
        if self.approvals and not self.approvers:
            raise ValueError(f"{self.approvals} approvals are wanted and no role may approve; name one in approvers")
        return self


class Emergency(Part):
    """The way back without approvals (REG-6).

    Attributes:
        by: roles of people who may roll back.
    """

    by: list[Approver] = Field(["ml_engineer", "approver", "admin"])


def _production() -> Needs:
    return Needs(evidence={"data-check": None, "evaluation": None, "rollout": None})


def _first() -> Needs:
    return Needs(evidence={"data-check": None, "evaluation": None})


class PolicyDocument(Part):
    """The policy of the house, or what one model has otherwise.

    Attributes:
        staging: what it takes to come to Staging, where a release begins.
        challenger: what it takes to get the alias challenger.
        production: what it takes to become champion.
        first: what it takes instead where there is no champion.
        archived: what it takes to be archived by hand.
        emergency: who may roll back at once.
        looser: only in the policy of the house: what a model's own policy may loosen, as ``production`` or
            ``production.approvals``. Everything else it can only make stricter.
        retention: how long a deleted version can be brought back; then its files go. A model's own can only be longer.
        numbering: what makes a version MAJOR, MINOR or PATCH; a model's own replaces the house's.
        people: only in the policy of the house: by name in Airflow, the registry's user whose answer to a
            human-in-the-loop task counts. A name that is not here is its own.
    """

    staging: Needs = Field(default_factory=Needs)
    challenger: Needs = Field(default_factory=Needs)
    production: Needs = Field(default_factory=_production)
    first: Needs = Field(default_factory=_first)
    archived: Needs = Field(default_factory=Needs)
    emergency: Emergency = Field(default_factory=Emergency)
    retention: Duration = Field("30d")  # type: ignore[assignment]  # validated
    numbering: Numbering = Field(default_factory=Numbering)
    looser: list[str] = Field(default_factory=list)
    people: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _known(self) -> PolicyDocument:
        problems: list[tuple[tuple[str | int, ...], str]] = []
        for position, path in enumerate(self.looser):
            head, _, tail = path.partition(".")
            kind = Emergency if head == "emergency" else Needs if head in TRANSITIONS else None
            if kind is None or (tail and tail not in kind.model_fields):
                problems.append((("looser", position), f"{path!r} is no part of a policy, as production.approvals is"))
        for name in TRANSITIONS:
            if name not in ("production", "first") and self.needs(name).limits:
                problems.append(
                    ((name, "limits"), "limits count changes of champion: they go with production or first")
                )
        if problems:
            raise several(problems)
        return self

    def needs(self, transition: Transition) -> Needs:
        """What one transition takes."""
        found: Needs = getattr(self, transition)
        return found

    @classmethod
    def of(cls, short: Policy) -> PolicyDocument:
        """The document that a description's short form means."""
        return cls(
            production=Needs(evidence=dict.fromkeys(short.champion)),
            first=Needs(evidence=dict.fromkeys(short.first)),
        )

    @property
    def short(self) -> Policy:
        """The kinds of evidence alone."""
        return Policy(champion=list(self.production.evidence), first=list(self.first.evidence))


#: In force where nobody has set another: what the embedded stack does without people.
BUILT_IN = PolicyDocument()


def schema() -> dict[str, Any]:
    """JSON Schema of a policy document."""
    made = PolicyDocument.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://windtunnel.dev/schema/policy-1.json",
        **made,
        "title": "The registry's policy",
    }


def age(value: timedelta | None) -> str:
    """How a greatest age is said."""
    from windtunnel.spec.base import format_duration

    return "" if value is None else format_duration(value)
