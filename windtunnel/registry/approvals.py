"""Approvals, policies and reviews as the registry answers them, and the question a person is asked in Airflow. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from windtunnel.registry.plain import Plain

#: Where a version can be brought; ``champion`` is another name for production.
Target = Literal["development", "staging", "challenger", "production", "archived"]

#: The answer in Airflow that is a no: asked to approve, it is a rejection.
REJECT = "Reject"
#: Where a person may write why beside an answer in Airflow.
REASON_FIELD = "reason"


def question(decision: str, to: str, model: str, version: str, digest: str, evidence: str) -> str:
    """The headline a person says yes or no to in Airflow. Asker and registry must use the very same words.

    Args:
        decision: ``approve`` or ``reject``.
        digest: of the version's content.
        evidence: ``Explanation.evidence``: names the verdicts that were shown.
    """
    return f"{decision} {model} version {version} for {to}: content {digest}, evidence {evidence}"


@dataclass(frozen=True, slots=True)
class ApprovalRecord(Plain):
    """What one person said about one version.

    Attributes:
        decision: ``approve`` or ``reject``.
        digest, evidence: of the content, and of the verdicts that were shown.
        policy: versions of the policy then.
        by: the person; ``via`` is how that is known: ``credential`` or ``airflow``.
        counts: whether it counts now, where a version was explained; ``why`` is why not.
    """

    seq: int
    model: str
    version: str
    target: str
    decision: str
    digest: str
    evidence: str
    policy: str
    by: str
    via: str
    roles: str
    reason: str
    at: float
    withdrawn_at: float | None = None
    withdrawn_by: str | None = None
    withdrawn_reason: str | None = None
    counts: bool | None = None
    why: str | None = None


@dataclass(frozen=True, slots=True)
class ReviewRecord(Plain):
    """An emergency rollback that another person shall look at; open until ``closed_at``."""

    id: str
    model: str
    from_version: str | None
    to_version: str
    reason: str
    by: str
    at: float
    closed_at: float | None = None
    closed_by: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class PolicyVersion(Plain):
    """One version of a policy.

    Attributes:
        model: empty for the policy of the house.
        layer: ``admin`` for one that an administrator set, ``description`` for what a model's DAGs passed on.
        number: counts from 1 within model and layer.
        policy: the document, or the short form.
    """

    seq: int
    model: str
    layer: str
    number: int
    actor: str
    reason: str
    at: float
    policy: dict[str, Any] = field(default_factory=dict)
