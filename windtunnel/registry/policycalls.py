"""The client's methods for policies, approvals, transitions, emergencies and people; part of ``RegistryClient``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from windtunnel.registry.approvals import ApprovalRecord, PolicyVersion, ReviewRecord, Target
from windtunnel.registry.records import ChampionRecord, VersionRecord


class PolicyCalls(ABC):
    """One method per endpoint."""

    @abstractmethod
    def _call(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        """One request; its JSON object."""

    # -- policies

    def policy_document(self, model: str | None = None) -> dict[str, Any]:
        """The policy in force of a model, or of the house: ``name`` (versions it is made of), ``policy`` and
        ``layers``."""
        return self._call("GET", f"{_of(model)}/document" if model else "/policy")

    def set_policy_document(
        self, policy: Mapping[str, Any], reason: str, *, model: str | None = None
    ) -> dict[str, Any]:
        """Set the policy of a model, or of the house (``windtunnel.spec.policy.PolicyDocument`` as a dict).

        Raises:
            RefusedError: WT_ROLE (it takes an administrator); WT_LOOSER with what is looser than the house allows.
        """
        path = f"{_of(model)}/document" if model else "/policy"
        return self._call("PUT", path, json={"policy": dict(policy), "reason": reason})

    def check_policy(self, policy: Mapping[str, Any], *, model: str | None = None) -> dict[str, Any]:
        """What would be in force with this policy; nothing is set."""
        return dict(self._call("POST", f"{_of(model)}/check", json={"policy": dict(policy)})["policy"])

    def policy_history(self, model: str | None = None, *, limit: int = 100) -> list[PolicyVersion]:
        """Every version of a policy, newest first."""
        found = self._call("GET", f"{_of(model)}/history", params={"limit": str(limit)})["history"]
        return [PolicyVersion.from_dict(row) for row in found]

    # -- approvals and transitions

    def approve(
        self,
        model: str,
        version: str | int,
        reason: str,
        *,
        digest: str | None,
        evidence: str | None,
        to: Target = "production",
        decision: str = "approve",
        key: str | None = None,
        answer: Mapping[str, Any] | None = None,
    ) -> ApprovalRecord:
        """Approve a version, or reject it.

        Args:
            reason: why; must say something.
            digest, evidence: of ``explain``: what was looked at. Something newer is refused.
            to: where the version is to come.
            decision: ``approve`` or ``reject``.
            key: the same key gives the same approval.
            answer: for the stack's own user: the human-in-the-loop task (``dag_id``, ``dag_run_id``, ``task_id``,
                ``map_index``) whose question is ``windtunnel.registry.approvals.question``; the registry asks Airflow.

        Raises:
            RefusedError: WT_ROLE, WT_FOUR_EYES, WT_ANSWER, WT_DIGEST, WT_EVIDENCE, WT_NOT_READY.
        """
        given = {
            "decision": decision,
            "to": to,
            "reason": reason,
            "digest": digest,
            "evidence": evidence,
            "key": key,
            "answer": None if answer is None else dict(answer),
        }
        body = {name: value for name, value in given.items() if value is not None}
        return ApprovalRecord.from_dict(self._call("POST", _said(model, version), json=body))

    def withdraw_approval(
        self, model: str, version: str | int, reason: str, *, to: Target = "production", by: str | None = None
    ) -> list[ApprovalRecord]:
        """Take back what one said about a version, or, as administrator, what ``by`` said."""
        body = {"to": to, "reason": reason, **({"by": by} if by else {})}
        found = self._call("POST", f"{_said(model, version)}/withdraw", json=body)["approvals"]
        return [ApprovalRecord.from_dict(row) for row in found]

    def approvals(self, model: str, version: str | int) -> list[ApprovalRecord]:
        """Everything that was said about a version, oldest first."""
        return [ApprovalRecord.from_dict(row) for row in self._call("GET", _said(model, version))["approvals"]]

    def transition(
        self, model: str, version: str | int, to: Target, reason: str, **expected_champion: str | int | None
    ) -> VersionRecord:
        """Bring a version somewhere by hand, as MLflow's stage and alias calls do.

        Args:
            expected_champion: by its name, where told: who must be champion now; None is nobody.

        Raises:
            RefusedError: WT_POLICY with what is missing; WT_CONFLICT naming the champion that won meanwhile.
        """
        told = {name: None if value is None else str(value) for name, value in expected_champion.items()}
        path = f"/models/{_q(model)}/versions/{_q(version)}/transition"
        return VersionRecord.from_dict(self._call("POST", path, json={"to": to, "reason": reason, **told}))

    def champion_at(self, model: str, at: float) -> ChampionRecord | None:
        """Who was champion at a time (seconds since the epoch)."""
        found = self._call("GET", f"/models/{_q(model)}/champion", params={"at": repr(at)})["champion"]
        return ChampionRecord.from_dict(found) if found else None

    # -- emergencies

    def rollback(self, model: str, reason: str, *, to: str | int | None = None) -> ReviewRecord:
        """Make a former champion champion again, now, without approvals; opens a review.

        Args:
            to: which version; the champion before this one unless told.

        Raises:
            RefusedError: WT_ROLE, WT_NO_WAY_BACK.
        """
        body = {"reason": reason, **({} if to is None else {"to": str(to)})}
        return ReviewRecord.from_dict(self._call("POST", f"/models/{_q(model)}/rollback", json=body)["review"])

    def reviews(self, *, closed: bool = False) -> list[ReviewRecord]:
        """Open reviews, oldest first; with ``closed`` all, newest first."""
        found = self._call("GET", "/reviews", params={"closed": str(closed).lower()})["reviews"]
        return [ReviewRecord.from_dict(row) for row in found]

    def close_review(self, review_id: str, note: str) -> ReviewRecord:
        """Close somebody else's review with a note."""
        return ReviewRecord.from_dict(self._call("POST", f"/reviews/{_q(review_id)}/close", json={"note": note}))

    # -- people

    def people(self) -> list[dict[str, Any]]:
        """Users with their ``roles``, by ``name``."""
        return list(self._call("GET", "/people")["people"])

    def add_person(self, name: str, password: str) -> dict[str, Any]:
        """A new user; administrators only."""
        return self._call("POST", "/people", json={"name": name, "password": password})

    def grant(self, name: str, roles: Sequence[str]) -> dict[str, Any]:
        """Give a user exactly these roles; administrators only."""
        return self._call("PUT", f"/people/{_q(name)}/roles", json={"roles": list(roles)})


def _of(model: str | None) -> str:
    return f"/models/{_q(model)}/policy" if model else "/policy"


def _said(model: str, version: str | int) -> str:
    return f"/models/{_q(model)}/versions/{_q(version)}/approvals"


def _q(part: str | int) -> str:
    return quote(str(part), safe="")
