"""The champion's alias, stage, history and state, which change together or not at all (REG-4)."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import update

from windtunnel_mlflow import records, rows, tables
from windtunnel_mlflow.policy import missing
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.transactions import Change, ChangingStore


class Crowning(ChangingStore):
    """How a version becomes champion, and how it ends being it."""

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
        current = records.champion(session, model)
        if current == number:
            change.silent = rollout is None
            return
        if rollout is None:
            rows.refuse_open_rollout(session, model)
        facts = records.facts(session, model, number, in_rollout=rollout is not None)
        lacking = missing(records.policy(session, model), facts)
        if records.version(session, model, number) is None:
            lacking = ["a version that was registered through the governed store"]
        if lacking:
            raise Refusal(
                "WT_POLICY",
                f"version {number} of {model!r} may not become champion",
                missing=tuple(lacking),
                hint="the verdicts come from the model's own DAGs: check, evaluate, release",
            )
        super().set_registered_model_alias(model, rows.CHAMPION, number)
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
                rollout_id=None if rollout is None else rollout["id"],
            )
        )
        if current is not None:
            rows.set_stage(session, model, current, rows.ARCHIVED)
            rows.set_state(session, model, current, "archived")
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
