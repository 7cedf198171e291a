"""The way back: the former champion is kept for as long as its model's plan keeps it warm (ROL-12)."""

from __future__ import annotations

import json

from sqlalchemy import select
from sqlalchemy.orm import Session

from windtunnel_mlflow import tables
from windtunnel_mlflow.refusal import Refusal

#: Of a champion that came without a rollout, or with one that does not say.
DEFAULT_S = 24 * 3600.0


def refuse(session: Session, model: str, number: int, now: float) -> None:
    """Refuse to lose the version that the present champion replaced, while it is kept warm.

    Raises:
        Refusal: WT_WAY_BACK.
    """
    table = tables.champions
    history = session.execute(select(table).where(table.c.model == model).order_by(table.c.id.desc()).limit(2)).all()
    if len(history) < 2 or history[1].version != number or history[1].until is None:
        return
    kept = history[1].until + _keep_warm(session, history[0].rollout_id)
    if now < kept:
        raise Refusal(
            "WT_WAY_BACK",
            f"version {number} of {model!r} is what a rollback of version {history[0].version} goes back to",
            hint=f"it can be deleted in {(kept - now) / 3600:.1f} hours, when it is no longer kept warm",
        )


def _keep_warm(session: Session, rollout_id: str | None) -> float:
    plan = session.execute(
        select(tables.rollouts.c.plan).where(tables.rollouts.c.id == rollout_id)
    ).scalar_one_or_none()
    told = json.loads(plan).get("keep_warm_s") if plan else None
    return DEFAULT_S if told is None else float(told)
