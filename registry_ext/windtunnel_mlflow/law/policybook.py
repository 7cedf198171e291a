"""Which policy is in force for a model: every version that was ever set is kept, the newest of each kind is read.

Three kinds come together (``spec.merging``): the house's, which an administrator sets; a model's own, likewise; and the
short form in a model's description, which its DAGs pass on as the stack's own user. A DAG's author can run any code
there, so that word alone decides only while no administrator has set anything; from then on it can only add.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from windtunnel.spec import merging
from windtunnel.spec.policy import BUILT_IN, Policy, PolicyDocument
from windtunnel_mlflow import tables

Layer = Literal["admin", "description"]
ADMIN: Layer = "admin"
DESCRIPTION: Layer = "description"

_P = tables.policies


@dataclass(frozen=True, slots=True)
class InForce:
    """The policy of one model now.

    Attributes:
        document: complete.
        name: versions it is made of, as ``house 2, model 1, description 4``; ``built-in`` where nobody set any.
    """

    document: PolicyDocument
    name: str


def in_force(session: Session, model: str) -> InForce:
    """The policy in force for a model; of the house for an empty name."""
    newest = (
        select(func.max(_P.c.seq))
        .where(_P.c.model.in_((tables.HOUSE, model)))
        .group_by(_P.c.model, _P.c.layer)
        .scalar_subquery()
    )
    found = {
        (row.model == tables.HOUSE, row.layer): (row.number, row.policy)
        for row in session.execute(select(_P).where(_P.c.seq.in_(newest)))
    }
    parts = {
        "house": found.get((True, ADMIN)),
        "model": found.get((False, ADMIN)),
        "description": found.get((False, DESCRIPTION)),
    }
    name = ", ".join(f"{part} {row[0]}" for part, row in parts.items() if row) or "built-in"
    return InForce(_merged(*(row[1] if row else None for row in parts.values())), name)


@lru_cache(maxsize=4096)
def _merged(house: str | None, model: str | None, description: str | None) -> PolicyDocument:
    made = BUILT_IN if house is None else merging.complete(PolicyDocument.model_validate_json(house))
    if model is not None:
        made = merging.merge(made, PolicyDocument.model_validate_json(model))
    if description is not None:
        free = house is None and model is None
        made = merging.wished(made, Policy.model_validate_json(description), free=free)
    return made


def house(session: Session) -> PolicyDocument:
    """The house's policy, complete."""
    return in_force(session, tables.HOUSE).document


def newest(session: Session, model: str, layer: Layer) -> dict[str, Any] | None:
    """What was set last; None where nothing was."""
    row = session.execute(
        select(_P).where(_P.c.model == model, _P.c.layer == layer).order_by(_P.c.number.desc()).limit(1)
    ).first()
    return None if row is None else _plain(row)


def add(session: Session, model: str, layer: Layer, body: str, actor: str, reason: str) -> dict[str, Any]:
    """Keep another version. The caller holds the model's lock, so numbers have no gap."""
    number = (
        session.execute(select(func.max(_P.c.number)).where(_P.c.model == model, _P.c.layer == layer)).scalar() or 0
    ) + 1
    row = {
        "model": model,
        "layer": layer,
        "number": number,
        "policy": body,
        "actor": actor,
        "reason": reason,
        "at": time.time(),
    }
    session.execute(insert(_P).values(**row))
    return {**row, "policy": json.loads(body)}


def history(session: Session, model: str, limit: int) -> list[dict[str, Any]]:
    """Every version of a model's policy, or of the house's, newest first."""
    rows = session.execute(select(_P).where(_P.c.model == model).order_by(_P.c.seq.desc()).limit(limit))
    return [_plain(row) for row in rows]


def _plain(row: Any) -> dict[str, Any]:
    return {**row._mapping, "policy": json.loads(row.policy)}
