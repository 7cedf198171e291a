"""The policy of a model, and what a version still needs under it."""

from __future__ import annotations

import json
import time
from typing import Any

from pydantic import ValidationError
from sqlalchemy import insert, select, update

from windtunnel.spec.policy import Policy
from windtunnel_mlflow import records, tables
from windtunnel_mlflow.part import Part, not_found, trusted_only
from windtunnel_mlflow.policy import missing, present
from windtunnel_mlflow.refusal import Refusal


class Policies(Part):
    """Policies shown, set and explained."""

    def explain(self, model: str, number: int, to: str) -> dict[str, Any]:
        """Whether a version may become champion by its own rollout, and what is missing."""
        if to != "champion":
            raise Refusal("WT_REQUEST", f"cannot explain {to!r}; expected 'champion'", status=400)
        with self.store.reading() as session:
            if records.version(session, model, number) is None:
                raise not_found(f"model {model!r} has no version {number}")
            running = records.open_rollout(session, model)
            inside = running is not None and int(running["version"]) == number
            facts = records.facts(session, model, number, in_rollout=inside)
            policy = records.policy(session, model)
            if facts.champion == number:
                return {"allowed": True, "missing": [], "present": {}}
            lacking = missing(policy, facts)
            return {"allowed": not lacking, "missing": lacking, "present": present(policy, facts)}

    def policy(self, model: str) -> dict[str, Any]:
        """The policy in force."""
        with self.store.reading() as session:
            return records.policy(session, model).model_dump(mode="json")

    def set_policy(self, model: str, plain: dict[str, Any]) -> dict[str, Any]:
        """Replace the policy; only the service and administrators may."""
        with self.store.change(model, "set-policy", policy=plain) as change:
            trusted_only(change, "change a policy")
            try:
                policy = Policy.model_validate(plain)
            except ValidationError as error:
                raise Refusal("WT_REQUEST", f"this is not a policy: {error}", status=400) from error
            body = policy.model_dump_json()
            table = tables.policies
            former = change.session.execute(select(table.c.policy).where(table.c.model == model)).scalar()
            if former == body:
                change.silent = True
                return policy.model_dump(mode="json")
            values = {"policy": body, "actor": change.actor.name, "updated_at": time.time()}
            if former is None:
                change.session.execute(insert(table).values(model=model, **values))
            else:
                change.session.execute(update(table).where(table.c.model == model).values(**values))
                change.detail["former"] = json.loads(former)
            return policy.model_dump(mode="json")
