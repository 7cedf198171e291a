"""First releases that are champion already and still watched against their limits (ROL-10)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from windtunnel.registry.orders import OrderRecord, standing
from windtunnel_mlflow import records, tables

#: A watch whose end nobody told is over after twice its longest time and this (seconds).
SLACK_S = 3600.0


def watched(session: Session, model: str, now: float) -> dict[str, Any] | None:
    """The first release of the model that is being watched; None when there is none.

    Its end is told by the gate or the guard. One that both forgot must not hold up the model for ever, so it is taken
    to be over long after its time, unless a person has paused it.

    Args:
        now: seconds since the epoch.
    """
    table, orders = tables.rollouts, tables.orders
    row = session.execute(
        select(table)
        .where(
            table.c.model == model,
            table.c.watching.is_(True),
            table.c.state == "promoted",
            table.c.version == records.champion(session, model),
        )
        .order_by(table.c.token.desc())
        .limit(1)
    ).first()
    if row is None:
        return None
    found = records.rollout(row)
    rows = session.execute(select(orders).where(orders.c.rollout_id == found["id"]).order_by(orders.c.seq)).all()
    given = [OrderRecord.from_dict({**one._mapping, "version": str(one.version)}) for one in rows]
    if standing(given).paused:
        return found
    since = max([float(found["ended_at"]), *(one.at for one in given)])
    return found if now < since + 2 * longest(found["plan"]) + SLACK_S else None


def longest(plan: Mapping[str, Any]) -> float:
    """Seconds that a plan's one step may take while all is well; 0 for a plan that does not say."""
    step: Mapping[str, Any] = next(iter(plan.get("steps") or ()), {})
    hold = float(step.get("hold_s") or 0.0)
    patience = plan.get("patience_s")
    return hold + float(hold if patience is None else patience)
