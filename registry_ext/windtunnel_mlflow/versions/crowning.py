"""The champion's alias, stage, history and state, which change together or not at all (REG-4)."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import update

from windtunnel.spec.policy import Transition
from windtunnel_mlflow import records, rows, tables
from windtunnel_mlflow.law import policybook, weighing
from windtunnel_mlflow.law.policy import explain, lacking
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.transactions import Change, ChangingStore

#: What a version becomes, in words.
BECOME = {
    "production": "become champion",
    "staging": "come to Staging",
    "challenger": "become challenger",
    "archived": "be archived",
}


class Crowning(ChangingStore):
    """How a version becomes champion, and how it ends being it."""

    def check(
        self, change: Change, model: str, number: int, to: Transition, *, rollout: bool = False, by_hand: bool = True
    ) -> None:
        """Ask the policy; the audit of the change names the version of it that was asked.

        Args:
            rollout: within the version's open rollout.
            by_hand: whoever asks does it by itself, so its roles and limits count.

        Raises:
            Refusal: WT_POLICY with what is missing.
        """
        session = change.session
        policy = policybook.in_force(session, model)
        change.detail["policy"] = policy.name
        if records.version(session, model, number) is None:
            missing = ["a version that was registered through the governed store"]
        else:
            asker = change.actor if by_hand else None
            facts = weighing.facts(session, model, number, in_rollout=rollout, to=to, asker=asker)
            missing = lacking(explain(policy.document, facts, time.time(), to))
        if missing:
            raise Refusal(
                "WT_POLICY",
                f"version {number} of {model!r} may not {BECOME[to]}",
                missing=tuple(missing),
                hint="verdicts come from the model's own DAGs (check, evaluate, release), approvals from people: "
                f"windtunnel registry explain {model} {number} --to {to}",
            )

    def crown(
        self,
        change: Change,
        model: str,
        number: int,
        *,
        reason: str,
        rollout: dict[str, Any] | None = None,
    ) -> None:
        """Make a version champion, if policy allows: alias, both stages, history, states, in this transaction.

        Args:
            change: the open change.
            model: registered model.
            number: the version.
            reason: for the history.
            rollout: the open rollout that promotes it; None when a client sets the alias or the stage by itself.

        Raises:
            Refusal: WT_POLICY with what is missing, or WT_ROLLOUT_RUNNING.
        """
        session = change.session
        if records.champion(session, model) == number:
            change.silent = rollout is None
            return
        if rollout is None:
            rows.refuse_open_rollout(session, model)
        self.check(change, model, number, "production", rollout=rollout is not None, by_hand=rollout is None)
        self.enthrone(change, model, number, reason=reason, rollout_id=None if rollout is None else rollout["id"])

    def enthrone(
        self, change: Change, model: str, number: int, *, reason: str, rollout_id: str | None, state: str = "archived"
    ) -> None:
        """Write that a version is champion now; whether it may be was asked before.

        Args:
            state: what the former champion becomes.
        """
        session = change.session
        current = records.champion(session, model)
        super().set_registered_model_alias(model, rows.CHAMPION, number)
        if number == records.alias(session, model, rows.CHALLENGER):
            super().delete_registered_model_alias(model, rows.CHALLENGER)
        now = time.time()
        table = tables.champions
        session.execute(update(table).where(table.c.model == model, table.c.until.is_(None)).values(until=now))
        session.execute(
            table.insert().values(
                model=model,
                version=number,
                since=now,
                actor=change.actor.name,
                reason=reason,
                rollout_id=rollout_id,
                policy=change.detail.get("policy"),
            )
        )
        if current is not None:
            rows.set_stage(session, model, current, rows.ARCHIVED)
            rows.set_state(session, model, current, state)
        rows.set_stage(session, model, number, rows.PRODUCTION)
        rows.set_state(session, model, number, rows.CHAMPION)
        change.detail |= {"champion": str(number), "former": None if current is None else str(current)}

    def uncrown(self, change: Change, model: str, number: int) -> None:
        """Take the alias from a champion that is withdrawn; the model has none until the next release."""
        super().delete_registered_model_alias(model, rows.CHAMPION)
        table = tables.champions
        change.session.execute(
            update(table).where(table.c.model == model, table.c.until.is_(None)).values(until=time.time())
        )
        rows.set_stage(change.session, model, number, rows.ARCHIVED)
