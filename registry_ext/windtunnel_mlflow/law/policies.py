"""The policy of the house and of each model, and what a version still needs under it."""

from __future__ import annotations

import json
import time
from typing import Any, get_args

from pydantic import ValidationError

from windtunnel.spec import merging
from windtunnel.spec.policy import Policy, PolicyDocument, Transition
from windtunnel_mlflow import records, tables
from windtunnel_mlflow.access import identity, permission
from windtunnel_mlflow.law import policybook, weighing
from windtunnel_mlflow.law.policy import (
    evidence_digest,
    explain,
    lacking,
    needs_of,
    present,
    shown,
    weighed,
)
from windtunnel_mlflow.part import Part, not_found
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.releases import candidates
from windtunnel_mlflow.releases.orderrules import check_reason
from windtunnel_mlflow.transactions import Change

#: Names of a target in requests.
TARGETS: dict[str, Transition] = {
    "champion": "production",
    **{name: name for name in get_args(Transition) if name != "first"},
}


def target(name: str) -> Transition:
    """Where to, as a request says it.

    Raises:
        Refusal: WT_REQUEST.
    """
    found = TARGETS.get(str(name).strip().casefold())
    if found is None:
        raise Refusal("WT_REQUEST", f"cannot go to {name!r}; expected one of {', '.join(sorted(TARGETS))}", status=400)
    return found


class Policies(Part):
    """Policies shown, set and explained."""

    def explain(self, model: str, number: int, to: str) -> dict[str, Any]:
        """Whether a version may go there (to production: by its own rollout, where one is open), what is there
        and what is missing."""
        wanted = target(to)
        with self.store.reading() as session:
            found = records.version(session, model, number)
            if found is None:
                raise not_found(f"model {model!r} has no version {number}")
            running = records.open_rollout(session, model)
            inside = running is not None and number in candidates.named(running)
            facts = weighing.facts(session, model, number, in_rollout=inside, to=wanted)
            policy = policybook.in_force(session, model)
        now = time.time()
        lines = explain(policy.document, facts, now, wanted)
        done = wanted == "production" and facts.champion == number
        needs = needs_of(policy.document, wanted, facts)
        said = {one.approval.seq: one for one in weighed(needs, facts, now)}
        return {
            "allowed": done or not lacking(lines),
            "missing": [] if done else lacking(lines),
            "present": {} if done else present(policy.document, facts),
            "to": wanted,
            "policy": policy.name,
            "digest": facts.digest,
            "evidence": evidence_digest(model, number, facts),
            "requirements": [line.to_dict() for line in lines],
            "verdicts": [
                {"kind": v.kind, "id": v.id, "outcome": v.outcome, "reason": v.reason, "at": v.at} for v in shown(facts)
            ],
            "approvals": [
                {"decision": a.decision, "by": a.by, "reason": a.reason, "at": a.at, "counts": w.counts, "why": w.why}
                for a, w in ((one, said[one.seq]) for one in facts.approvals)
            ],
        }

    def policy(self, model: str) -> dict[str, Any]:
        """The kinds of evidence in force, as in a description."""
        with self.store.reading() as session:
            return policybook.in_force(session, model).document.short.model_dump(mode="json")

    def policy_document(self, model: str) -> dict[str, Any]:
        """The whole policy in force of a model, or of the house for an empty name, and the versions it is made of."""
        with self.store.reading() as session:
            found = policybook.in_force(session, model)
            layers = {
                "house": policybook.newest(session, tables.HOUSE, policybook.ADMIN),
                "model": policybook.newest(session, model, policybook.ADMIN) if model else None,
                "description": policybook.newest(session, model, policybook.DESCRIPTION) if model else None,
            }
        return {"name": found.name, "policy": found.document.model_dump(mode="json"), "layers": layers}

    def policy_history(self, model: str, limit: int) -> list[dict[str, Any]]:
        """Every version of a policy, newest first."""
        with self.store.reading() as session:
            return policybook.history(session, model, limit)

    def check_policy(self, model: str, plain: dict[str, Any]) -> dict[str, Any]:
        """What would be in force with this policy; nothing is set.

        Raises:
            Refusal: it is no policy, or is looser than the house allows.
        """
        with self.store.reading() as session:
            return _effective(session, model, _document(plain)).model_dump(mode="json")

    def set_policy(self, model: str, plain: dict[str, Any]) -> dict[str, Any]:
        """The short form ``{champion, first}``: an administrator's is the model's policy, the service's is what the
        model's description wishes. Returns what is in force."""
        with self.store.change(model, "set-policy", policy=plain) as change:
            try:
                short = Policy.model_validate(plain)
            except ValidationError as error:
                raise Refusal("WT_REQUEST", f"this is not a policy: {error}", status=400) from error
            if change.actor.name == identity.SERVICE_USER:
                permission.need(change.actor, "describe-policy", "pass on a policy")
                self._keep(change, model, policybook.DESCRIPTION, short.model_dump_json(), "the model's description")
            else:
                permission.need(change.actor, "set-policy", "change a policy")
                document = PolicyDocument.model_validate(
                    {"production": {"evidence": short.champion}, "first": {"evidence": short.first}}
                )
                _effective(change.session, model, document)
                self._keep(change, model, policybook.ADMIN, _body(document), "set in the short form")
            return policybook.in_force(change.session, model).document.short.model_dump(mode="json")

    def set_document(self, model: str, plain: dict[str, Any], reason: Any) -> dict[str, Any]:
        """Set the policy of a model, or of the house for an empty name; only administrators may.

        Raises:
            Refusal: WT_ROLE, WT_LOOSER, or WT_REQUEST for what is no policy.
        """
        with self.store.change(model, "set-policy", policy=plain, reason=str(reason or "")[:2000]) as change:
            permission.need(change.actor, "set-policy", "change a policy")
            why, document = check_reason(reason), _document(plain)
            _effective(change.session, model, document)
            if model:
                self.store._get_registered_model(change.session, model)
            self._keep(change, model, policybook.ADMIN, _body(document), why)
        return self.policy_document(model)

    def _keep(self, change: Change, model: str, layer: policybook.Layer, body: str, reason: str) -> None:
        former = policybook.newest(change.session, model, layer)
        if former is not None and former["policy"] == json.loads(body):
            change.silent = True
            return
        kept = policybook.add(change.session, model, layer, body, change.actor.name, reason)
        change.detail |= {"layer": layer, "number": kept["number"], "former": former and former["number"]}


def _body(document: PolicyDocument) -> str:
    """Only what it says: what it leaves out is the house's, or the built-in policy's, also when those change."""
    return document.model_dump_json(exclude_unset=True)


def _document(plain: dict[str, Any]) -> PolicyDocument:
    try:
        return PolicyDocument.model_validate(plain)
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False))
        raise Refusal("WT_REQUEST", f"this is not a policy: {lines}", status=400) from error


def _effective(session: Any, model: str, document: PolicyDocument) -> PolicyDocument:
    if not model:
        return merging.complete(document)
    house = policybook.house(session)
    if too_loose := merging.looser(house, document):
        raise Refusal(
            "WT_LOOSER",
            f"the policy of {model!r} is looser than the house allows",
            missing=tuple(too_loose),
            hint="make it stricter, or name what may be looser in the house's policy (looser: [production.approvals])",
        )
    return merging.merge(house, document)
