"""Which card is in force: every version that was ever set is kept, what they come to now is kept beside them.

Three lie over each other, part by part (``spec.card.over``): the description's at the bottom, which the model's DAGs
pass on, then what people set for the model, then what they set for one version.
"""

from __future__ import annotations

import json
import time
from typing import Any, Literal

from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlModelVersionTag, SqlRegisteredModelTag
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME
from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from windtunnel import canonical
from windtunnel.spec import card as cards
from windtunnel_mlflow import tables
from windtunnel_mlflow.marks import TAG_PREFIX

Layer = Literal["person", "description"]
PERSON: Layer = "person"
DESCRIPTION: Layer = "description"

#: Stands for the model where a version's number is meant.
MODEL = 0

#: Parts that MLflow's UI and its search show, as tags of the registry's own.
SHOWN = ("owner", "risk", "purpose", "uses", "limits")
_C, _N = tables.cards, tables.cards_now


def in_force(session: Session, model: str, number: int = MODEL) -> dict[str, Any]:
    """The card of a version, or of the model; empty where nobody said anything."""
    rows = {
        row.version: row.card
        for row in session.execute(
            select(_N.c.version, _N.c.card).where(_N.c.model == model, _N.c.version.in_({MODEL, number}))
        )
    }
    found = rows.get(number, rows.get(MODEL))
    return {} if found is None else dict(json.loads(found))


def newest(session: Session, model: str, number: int, layer: Layer) -> dict[str, Any] | None:
    """What was set last; None where nothing was."""
    row = session.execute(
        select(_C)
        .where(_C.c.model == model, _C.c.version == number, _C.c.layer == layer)
        .order_by(_C.c.number.desc())
        .limit(1)
    ).first()
    return None if row is None else plain(row)


def history(session: Session, model: str, number: int, limit: int) -> list[dict[str, Any]]:
    """Every card that was set, newest first; of a version its own and the model's."""
    rows = session.execute(
        select(_C).where(_C.c.model == model, _C.c.version.in_({MODEL, number})).order_by(_C.c.seq.desc()).limit(limit)
    )
    return [plain(row) for row in rows]


def plain(row: Any) -> dict[str, Any]:
    """A row as clients see it; ``version`` is None for the model's card."""
    return {**row._mapping, "card": json.loads(row.card), "version": str(row.version) if row.version else None}


def add(
    session: Session, model: str, number: int, layer: Layer, said: dict[str, Any], actor: str, reason: str
) -> dict[str, Any]:
    """Keep another card, and what they all come to. The caller holds the model's lock, so numbers have no gap."""
    last = session.execute(
        select(func.max(_C.c.number)).where(_C.c.model == model, _C.c.version == number, _C.c.layer == layer)
    ).scalar()
    row = {
        "model": model,
        "version": number,
        "layer": layer,
        "number": (last or 0) + 1,
        "card": canonical.dumps(said).decode(),
        "actor": actor,
        "reason": reason,
        "at": time.time(),
    }
    session.execute(insert(_C).values(**row))
    refresh(session, model)
    return {**row, "card": said}


def refresh(session: Session, model: str) -> None:
    """Work out anew what is in force for the model and for each version with a card of its own."""
    own: dict[tuple[int, str], dict[str, Any]] = {}
    for row in session.execute(select(_C).where(_C.c.model == model).order_by(_C.c.number)):
        own[row.version, row.layer] = json.loads(row.card)
    session.execute(delete(_N).where(_N.c.model == model))
    below = cards.over(own.get((MODEL, DESCRIPTION)), own.get((MODEL, PERSON)))
    made = {MODEL: below}
    made |= {number: cards.over(below, said) for (number, _), said in own.items() if number != MODEL and said}
    for number, said in made.items():
        session.execute(
            insert(_N).values(
                model=model,
                version=number,
                card=canonical.dumps(said).decode(),
                words="\n".join(_words(value) or "" for value in said.values()),
                owner=said.get("owner"),
                risk=said.get("risk"),
            )
        )
    _show(session, model, made, {number for number, _ in own if number != MODEL})


def _show(session: Session, model: str, made: dict[int, dict[str, Any]], numbers: set[int]) -> None:
    """Tags ``windtunnel.card.*``, which MLflow's UI shows and nobody else can set."""
    for part in SHOWN:
        key = f"{TAG_PREFIX}card.{part}"
        _tag(session, SqlRegisteredModelTag, {"name": model}, key, _words(made[MODEL].get(part)))
        for number in numbers:
            where = {"workspace": DEFAULT_WORKSPACE_NAME, "name": model, "version": number}
            if session.get(SqlModelVersion, where) is not None:
                _tag(
                    session,
                    SqlModelVersionTag,
                    {"name": model, "version": number},
                    key,
                    _words(made.get(number, {}).get(part)),
                )


def _tag(session: Session, kind: Any, of: dict[str, Any], key: str, value: str | None) -> None:
    where = {"workspace": DEFAULT_WORKSPACE_NAME, "key": key, **of}
    if value is not None:
        session.merge(kind(**where, value=value[:5000]))
        return
    found = session.get(kind, where)
    if found is not None:
        session.delete(found)


def _words(value: Any) -> str | None:
    said = "; ".join(value) if isinstance(value, list) else value
    return str(said) if said else None
