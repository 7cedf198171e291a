"""People's orders on rollouts, and freezes: taken or refused, and each of both in the audit."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import func, insert, select, text, update
from sqlalchemy.orm import Session

from windtunnel.registry.orders import FreezeRecord, OrderRecord, question, standing, thaw_question
from windtunnel_mlflow import records, tables
from windtunnel_mlflow.access import answers, identity
from windtunnel_mlflow.part import not_found
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.releases import firstwatch
from windtunnel_mlflow.releases.orderrules import (
    Caller,
    Wish,
    check_freeze,
    check_order,
    check_reason,
    present_step,
)
from windtunnel_mlflow.releases.rollouts import ENDED
from windtunnel_mlflow.service import Service
from windtunnel_mlflow.transactions import Change

_O = tables.orders
_F = tables.freezes
_R = tables.rollouts

#: Whether the user of the request may edit a model in MLflow.
MayEdit = Callable[[str], bool]


class Orders:
    """The operations behind ``/orders`` and ``/freezes``.

    Args:
        service: for rollouts and their end.
        may_edit: MLflow's right of the present user to change a model.
        ask: reads a human-in-the-loop task from Airflow.
    """

    def __init__(self, service: Service, may_edit: MayEdit, ask: answers.Ask = answers.from_airflow) -> None:
        self.service = service
        self.store = service.store
        self._may_edit = may_edit
        self._ask = ask

    # -- orders

    def order(self, rollout_id: str, body: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """Take an order.

        Args:
            body: ``kind``, ``reason``, and ``step``, ``key``, ``on_behalf_of``, ``done_at``, ``answer``.

        Returns:
            The order, and whether it is new: the same key gives the order that was taken with it.

        Raises:
            Refusal: see ``orderrules.check_order``; WT_KEY where the key was used for another order.
        """
        found = self.service.rollout(rollout_id)
        model, number = str(found["model"]), int(found["version"])
        kind = str(body.get("kind"))[:16]
        said = _said(body, "reason", "on_behalf_of", "step", "done_at")
        may_edit = self._may_edit(model)
        # Airflow is asked before the database is locked: it may take seconds.
        answered = self._answered(kind, found, body)
        with self.store.change(
            model,
            f"order-{kind}",
            version=number,
            correlation_id=found["correlation_id"],
            rollout=rollout_id,
            **said,
        ) as change:
            if isinstance(answered, Refusal):
                raise answered
            caller = _caller(change, may_edit, body, answered)
            wish = Wish(kind, check_reason(body.get("reason")), _step(body.get("step")), _time(body.get("done_at")))
            key = str(body.get("key") or uuid.uuid4().hex)[:128]
            change.detail |= {"by": caller.by, "via": caller.via, "claimed": caller.claimed}
            now = time.time()
            current = self._present(change, rollout_id, now)
            known = change.session.execute(select(_O).where(_O.c.rollout_id == rollout_id, _O.c.key == key)).first()
            if known is not None:
                same = (known.kind, known.reason) == (wish.kind, wish.reason) and wish.step in (None, known.step)
                if not same:
                    raise Refusal("WT_KEY", f"the key {key!r} was used for another order ({known.kind})", status=409)
                change.silent = True
                return _order(known), False
            holds = standing(
                self._of(change.session, rollout_id), [one.sentence for one in self._over(change.session, current)]
            )
            refusal = check_order(wish, caller, current, holds, now)
            if refusal is not None:
                raise refusal
            step = (present_step(current) if wish.step is None else wish.step) if kind == "skip" else None
            self._in_turn(change.session)
            change.session.execute(
                insert(_O).values(
                    rollout_id=rollout_id,
                    key=key,
                    model=model,
                    version=number,
                    kind=kind,
                    step=step,
                    reason=wish.reason,
                    by=caller.by,
                    actor=caller.name,
                    via=caller.via,
                    claimed=caller.claimed,
                    done_at=wish.done_at,
                    at=now,
                )
            )
            if wish.done_at is not None and (current["state"] not in ENDED or current["watching"]):
                self._close(change, current, f"aborted by {caller.by}: {wish.reason}")
            if step is not None:
                change.detail["step"] = step
            row = change.session.execute(select(_O).where(_O.c.rollout_id == rollout_id, _O.c.key == key)).one()
            change.detail["seq"] = row.seq
            return _order(row), True

    def of_rollout(self, rollout_id: str) -> dict[str, Any]:
        """``orders``, oldest first, and ``frozen``: sentences of the freezes over it."""
        with self.store.reading() as session:
            row = session.execute(select(_R).where(_R.c.id == rollout_id)).first()
            rows = session.execute(select(_O).where(_O.c.rollout_id == rollout_id).order_by(_O.c.seq))
            plain = [_order(found) for found in rows]
            over = [] if row is None or row.state in ENDED else self._over(session, records.rollout(row))
        return {"orders": plain, "frozen": [one.sentence for one in over]}

    def since(self, seq: int) -> dict[str, Any]:
        """Orders of open rollouts after ``seq``, the newest number, and every freeze that stands: one question
        for all rollouts."""
        with self.store.reading() as session:
            # Before the rows: orders get their numbers as they are committed, so none at or below it is missed.
            newest = session.execute(select(func.max(_O.c.seq))).scalar() or 0
            rows = session.execute(
                select(_O)
                .join(_R, _R.c.id == _O.c.rollout_id)
                .where(_O.c.seq > seq, _R.c.state.in_(records.OPEN) | _R.c.watching.is_(True))
                .order_by(_O.c.seq)
            ).all()
            newest = max([newest, *(row.seq for row in rows)])
            return {"seq": newest, "orders": [_order(row) for row in rows], "freezes": self._standing(session)}

    # -- freezes

    def freeze(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Let no step begin: of all rollouts, of an owner's, or of a model's.

        Args:
            body: ``scope``, ``reason``, and ``target``, ``on_behalf_of``.
        """
        scope, target = str(body.get("scope")), str(body.get("target") or "")
        with self._freezing("freeze", scope, target, body) as change:
            caller = _caller(change, scope == "model" and self._may_edit(target), body)
            reason = check_reason(body.get("reason"))
            same = self._same(change.session, scope, target)
            refusal = check_freeze(scope, target, caller, [one.sentence for one in same], lift=False)
            if refusal is not None:
                raise refusal
            if scope == "model":
                self.store._get_registered_model(change.session, target)
            identifier = uuid.uuid4().hex
            change.detail |= {"freeze": identifier, "by": caller.by, "claimed": caller.claimed}
            change.session.execute(
                insert(_F).values(
                    id=identifier,
                    scope=scope,
                    target=target,
                    reason=reason,
                    by=caller.by,
                    actor=caller.name,
                    claimed=caller.claimed,
                    at=time.time(),
                )
            )
            return self._freeze(change.session, identifier)

    def thaw(self, identifier: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Lift a freeze, with a reason. 404 when there is none of this id.

        Args:
            body: ``reason``, and ``answer``: the task in which a person approved it in Airflow.
        """
        with self.store.reading() as session:
            found = self._freeze(session, identifier)
        task = body.get("answer")
        answered = None if task is None else self._asked(task, thaw_question(FreezeRecord.from_dict(found)))
        scope, target = str(found["scope"]), str(found["target"])
        with self._freezing("thaw", scope, target, body) as change:
            change.detail["freeze"] = identifier
            if isinstance(answered, Refusal):
                raise answered
            caller = _caller(change, scope == "model" and self._may_edit(target), body, answered)
            change.detail |= {"by": caller.by, "via": caller.via}
            reason = check_reason(body.get("reason"))
            standing_ones = [one.sentence for one in self._same(change.session, scope, target) if one.id == identifier]
            refusal = check_freeze(scope, target, caller, standing_ones, lift=True)
            if refusal is not None:
                raise refusal
            values = {"lifted_at": time.time(), "lifted_by": caller.by, "lifted_reason": reason}
            change.session.execute(update(_F).where(_F.c.id == identifier).values(**values))
            return self._freeze(change.session, identifier)

    def freezes(self, lifted: bool, limit: int) -> list[dict[str, Any]]:
        """Those that stand, oldest first; with ``lifted`` also former ones, newest first."""
        with self.store.reading() as session:
            if not lifted:
                return self._standing(session)
            rows = session.execute(select(_F).order_by(_F.c.at.desc()).limit(limit)).all()
            return [self._plain(session, row) for row in rows]

    # -- parts

    def _freezing(self, action: str, scope: str, target: str, body: Mapping[str, Any]) -> Any:
        # A freeze of one model stands in that model's chain, any other in the house's, which has no name.
        chain = target if scope == "model" else ""
        said = _said(body, "reason", "on_behalf_of")
        return self.store.change(chain[:256], action, scope=scope[:16], target=target[:256], **said)

    def _answered(self, kind: str, rollout: Mapping[str, Any], body: Mapping[str, Any]) -> str | Refusal | None:
        """Who approved this in Airflow; a refusal instead of raising it, so that the change can audit it."""
        task = body.get("answer")
        if task is None:
            return None
        try:
            step = _step(body.get("step"))
        except Refusal as refusal:
            return refusal
        if kind == "skip" and step is None:
            return Refusal("WT_REQUEST", "a skip that was approved in Airflow names its step", status=400)
        wanted = question(kind, str(rollout["model"]), str(rollout["version"]), str(rollout["id"]), step)
        return self._asked(task, wanted)

    def _asked(self, task: Any, wanted: str) -> str | Refusal:
        """Who said yes to ``wanted`` in the task, as Airflow itself has it."""
        if not isinstance(task, Mapping):
            return Refusal("WT_REQUEST", "answer must name a task: dag_id, dag_run_id, task_id, map_index", status=400)
        try:
            return answers.approved_by(self._ask, task, wanted)
        except Refusal as refusal:
            return refusal

    def _present(self, change: Change, rollout_id: str, now: float) -> dict[str, Any]:
        """The rollout as it stands; ``watching`` is whether it truly is."""
        current = self.service._rollout(change, rollout_id)
        watched = firstwatch.watched(change.session, str(current["model"]), now) if current["watching"] else None
        return {**current, "watching": watched is not None and watched["id"] == rollout_id}

    def _of(self, session: Session, rollout_id: str) -> list[OrderRecord]:
        rows = session.execute(select(_O).where(_O.c.rollout_id == rollout_id).order_by(_O.c.seq))
        return [OrderRecord.from_dict(_order(row)) for row in rows]

    def _over(self, session: Session, rollout: Mapping[str, Any]) -> list[FreezeRecord]:
        found = [FreezeRecord.from_dict(dict(row._mapping)) for row in session.execute(_STANDING)]
        return [one for one in found if one.holds(str(rollout["model"]), rollout["plan"].get("owner"))]

    def _same(self, session: Session, scope: str, target: str) -> list[FreezeRecord]:
        rows = session.execute(_STANDING.where(_F.c.scope == scope, _F.c.target == target))
        return [FreezeRecord.from_dict(dict(row._mapping)) for row in rows]

    def _standing(self, session: Session) -> list[dict[str, Any]]:
        return [self._plain(session, row) for row in session.execute(_STANDING).all()]

    def _freeze(self, session: Session, identifier: str) -> dict[str, Any]:
        row = session.execute(select(_F).where(_F.c.id == identifier)).first()
        if row is None:
            raise not_found(f"there is no freeze {identifier!r}")
        return self._plain(session, row)

    def _plain(self, session: Session, row: Any) -> dict[str, Any]:
        plain = dict(row._mapping)
        if plain["lifted_at"] is not None:
            return {**plain, "models": []}
        rows = session.execute(select(_R.c.model, _R.c.plan).where(_R.c.state.in_(records.OPEN)).order_by(_R.c.model))
        one = FreezeRecord.from_dict(plain)
        return {**plain, "models": [r.model for r in rows if one.holds(r.model, json.loads(r.plan).get("owner"))]}

    def _in_turn(self, session: Session) -> None:
        """Orders get their numbers in the order of their commits: a reader that asks for what is newer misses none."""
        if self.store.engine.dialect.name != "sqlite":
            session.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _TURN})

    def _close(self, change: Change, current: dict[str, Any], reason: str) -> None:
        """The traffic is back already: the rollout has ended here, too."""
        state = "withdrawn" if current["champion"] is None else "rolled_back"
        change.detail["state"] = state
        if current["watching"]:
            change.detail["was_champion"] = True
        self.service.end(change, current, state, reason)


_STANDING = select(_F).where(_F.c.lifted_at.is_(None)).order_by(_F.c.at)
# Any constant of our own: PostgreSQL's lock that whoever writes an order holds.
_TURN = 0x6F726472


def _order(row: Any) -> dict[str, Any]:
    return {**row._mapping, "version": str(row.version)}


def _caller(change: Change, may_edit: bool, body: Mapping[str, Any], answered: str | None = None) -> Caller:
    actor = change.actor
    service = actor.name == identity.SERVICE_USER
    on_behalf_of = str(body.get("on_behalf_of") or "").strip()[:200] or None
    if on_behalf_of and not service:
        raise Refusal("WT_REQUEST", "on_behalf_of is for the stack's own user: a person speaks for itself", status=400)
    return Caller(
        name=actor.name,
        service=service,
        may_edit=may_edit or (actor.trusted and not service),
        admin=actor.trusted and not service,
        answered=f"airflow:{answered}" if answered and service else None,
        on_behalf_of=on_behalf_of,
    )


def _said(body: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """What the audit keeps of a request, also of one that is refused."""
    given = {name: body[name] for name in names if body.get(name) is not None}
    return {name: value if isinstance(value, (int, float)) else str(value)[:2000] for name, value in given.items()}


def _step(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise Refusal("WT_REQUEST", f"step is {value!r}; expected the index of a step, from 0", status=400)
    return value


def _time(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Refusal("WT_REQUEST", f"done_at is {value!r}; expected seconds since the epoch", status=400)
    return float(value)
