"""Rollouts: opened, moved, promoted and withdrawn by the one holder whose token is the newest."""

from __future__ import annotations

import time
import uuid
from typing import Any

from sqlalchemy import func, insert, select, update

from windtunnel import canonical
from windtunnel_mlflow import records, rows, tables
from windtunnel_mlflow.access import permission
from windtunnel_mlflow.part import Part, not_found
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.releases import candidates, firstwatch
from windtunnel_mlflow.transactions import Change

_R = tables.rollouts

#: What ``update_rollout`` may do from each open state. ``promoted`` is reached by ``promote`` alone.
MOVES = {
    "running": {"running", "promoting", "rolled_back", "withdrawn"},
    "promoting": {"promoting", "running", "rolled_back", "withdrawn"},
}
ENDED = ("promoted", "rolled_back", "withdrawn")


class Rollouts(Part):
    """A release's side of the registry."""

    def open_rollout(
        self, model: str, number: int, plan: dict[str, Any], holder: str, correlation_id: str | None
    ) -> dict[str, Any]:
        """Open the rollout of a version, find the holder's own again, or take it over from another holder."""
        with self.store.change(
            model, "open-rollout", version=number, correlation_id=correlation_id, holder=holder
        ) as change:
            permission.need(change.actor, "rollout", "open a rollout")
            session, numbers = change.session, candidates.asked(number, plan)
            version = records.version(session, model, number)
            if version is None:
                raise not_found(f"model {model!r} has no version {number}")
            token = (session.execute(select(func.max(_R.c.token)).where(_R.c.model == model)).scalar() or 0) + 1
            running = records.open_rollout(session, model)
            if running is not None:
                if candidates.named(running) != numbers:
                    what = " and ".join(str(one) for one in candidates.named(running))
                    raise Refusal(
                        "WT_ROLLOUT_RUNNING",
                        f"a rollout of version {what} of {model!r} is open ({running['holder']})",
                        hint="let it end, or roll it back",
                        status=409,
                    )
                if running["holder"] == holder:
                    change.silent = True
                    return running
                change.detail |= {"rollout": running["id"], "taken_from": running["holder"], "token": token}
                session.execute(
                    update(_R)
                    .where(_R.c.id == running["id"])
                    .values(holder=holder, token=token, updated_at=time.time())
                )
                return self._rollout(change, running["id"])
            ended = session.execute(
                select(_R)
                .where(_R.c.model == model, _R.c.version == number, _R.c.holder == holder)
                .order_by(_R.c.token.desc())
                .limit(1)
            ).first()
            if ended is not None:
                # The same holder asks again after the end: a task that was retried. It sees how it ended.
                change.silent = True
                return records.rollout(ended)
            if version["status"] != "READY":
                raise Refusal(
                    "WT_NOT_READY", f"version {number} of {model!r} is {version['status']}, not READY", status=409
                )
            champion = records.champion(session, model)
            if champion == number:
                raise Refusal("WT_CHAMPION", f"version {number} is the champion of {model!r} already", status=409)
            now = time.time()
            watched = firstwatch.watched(session, model, now)
            if watched is not None:
                raise Refusal(
                    "WT_FIRST_WATCH",
                    f"version {watched['version']} is the first release of {model!r}, and still being watched against"
                    f" its limits ({watched['holder']})",
                    hint=f"let its watch end, or take it back: windtunnel rollout abort {model}",
                    status=409,
                )
            self.store.check(change, model, number, "staging", by_hand=False)
            candidates.check(session, model, numbers, champion)
            for one in numbers[1:]:
                self.store.check(change, model, one, "staging", by_hand=False)
            identifier = uuid.uuid4().hex
            session.execute(
                insert(_R).values(
                    id=identifier,
                    model=model,
                    version=number,
                    champion=champion,
                    token=token,
                    holder=holder,
                    state="running",
                    plan=canonical.dumps(plan).decode(),
                    correlation_id=change.correlation_id,
                    opened_at=now,
                    updated_at=now,
                )
            )
            for one in numbers:
                rows.set_state(session, model, one, "releasing")
                rows.set_stage(session, model, one, rows.STAGING)
            change.detail |= {"rollout": identifier, "token": token}
            if numbers[1:]:
                change.detail["beside"] = [str(one) for one in numbers[1:]]
            return self._rollout(change, identifier)

    def rollout(self, identifier: str) -> dict[str, Any]:
        """One rollout; 404 when there is none."""
        with self.store.reading() as session:
            row = session.execute(select(_R).where(_R.c.id == identifier)).first()
        if row is None:
            raise not_found(f"there is no rollout {identifier!r}")
        return records.rollout(row)

    def rollouts(self, model: str, limit: int) -> list[dict[str, Any]]:
        """Rollouts of a model, newest first."""
        with self.store.reading() as session:
            rows = session.execute(select(_R).where(_R.c.model == model).order_by(_R.c.token.desc()).limit(limit))
            return [records.rollout(row) for row in rows]

    def update_rollout(
        self,
        identifier: str,
        token: int,
        *,
        state: str | None,
        step: int | None,
        weight: float | None,
        reason: str | None,
    ) -> dict[str, Any]:
        """Write down how a rollout stands; only its present holder may."""
        found = self.rollout(identifier)
        model, number = found["model"], int(found["version"])
        given = {"state": state, "step": step, "weight": weight, "reason": reason}
        values = {name: value for name, value in given.items() if value is not None}
        with self.store.change(
            model,
            "update-rollout",
            version=number,
            correlation_id=found["correlation_id"],
            rollout=identifier,
            **values,
        ) as change:
            permission.need(change.actor, "rollout", "change a rollout")
            current = self._rollout(change, identifier)
            _fence(current, token)
            if current["state"] in ENDED:
                if current["watching"] and state == current["state"] == "promoted":
                    # Its holder says that the first watch has ended well.
                    self._write(change, current, {"watching": False})
                    return self._rollout(change, identifier)
                if state in (None, current["state"]):
                    change.silent = True
                    return current
                raise Refusal(
                    "WT_ENDED",
                    f"the rollout of version {number} of {model!r} has ended ({current['state']})",
                    status=409,
                )
            if state is not None and state not in MOVES[current["state"]]:
                raise Refusal(
                    "WT_STATE",
                    f"a rollout that is {current['state']} cannot become {state!r}",
                    hint="'promoted' is reached by promote alone" if state == "promoted" else None,
                    status=400,
                )
            self._write(change, current, values)
            if state in ("rolled_back", "withdrawn"):
                candidates.taken_back(change.session, current, state)
            return self._rollout(change, identifier)

    def end(self, change: Change, current: dict[str, Any], state: str, reason: str) -> None:
        """Write down that an open rollout, or a first release that is watched, was undone: ``rolled_back`` or
        ``withdrawn``, its version at 0."""
        if current["watching"]:
            self.store.uncrown(change, str(current["model"]), int(current["version"]))
            change.silent = False
        self._write(change, current, {"state": state, "reason": reason, "weight": 0, "watching": False})
        candidates.taken_back(change.session, current, state)

    def promote(
        self, identifier: str, token: int, expected_champion: str | None, version: int | None = None
    ) -> dict[str, Any]:
        """Make the rollout's version champion: alias, stages, history and rollout in one transaction.

        Args:
            version: which of several candidates won; the others end as rolled back.
        """
        found = self.rollout(identifier)
        model, number = found["model"], candidates.winner(found, version)
        with self.store.change(
            model,
            "promote",
            version=number,
            correlation_id=found["correlation_id"],
            rollout=identifier,
            expected_champion=expected_champion,
        ) as change:
            permission.need(change.actor, "rollout", "promote a version")
            current = self._rollout(change, identifier)
            champion = records.champion(change.session, model)
            if current["state"] == "promoted" and champion == number:
                change.silent = True
                return records.version(change.session, model, number) or {}
            expect(champion, expected_champion, model)
            _fence(current, token)
            if current["state"] in ENDED:
                raise Refusal(
                    "WT_ENDED",
                    f"the rollout of version {number} of {model!r} has ended ({current['state']})",
                    status=409,
                )
            self.store.crown(change, model, number, reason="rollout promoted", rollout=current)
            change.silent = False
            candidates.taken_back(change.session, current, "rolled_back", but=number)
            self._write(change, current, {"state": "promoted", "watching": bool(current["plan"].get("first"))})
            return records.version(change.session, model, number) or {}

    def withdraw(self, model: str, number: int, reason: str) -> dict[str, Any]:
        """Take a version out: its alias if it is champion, its rollout if one is open."""
        with self.store.change(model, "withdraw", version=number, reason=reason) as change:
            permission.need(change.actor, "withdraw", "withdraw a version")
            session = change.session
            version = records.version(session, model, number)
            if version is None:
                raise not_found(f"model {model!r} has no version {number}")
            if version["state"] == "withdrawn":
                change.silent = True
                return version
            change.correlation_id = change.correlation_id or version["correlation_id"]
            running = records.open_rollout(session, model) or firstwatch.watched(session, model, time.time())
            if records.champion(session, model) == number:
                self.store.uncrown(change, model, number)
                change.detail["was_champion"] = True
            if running is not None and number in candidates.named(running):
                if candidates.named(running)[1:]:
                    candidates.taken_back(session, running, "rolled_back", but=number)
                values = {"state": "withdrawn", "reason": reason, "weight": 0, "watching": False}
                self._write(change, running, values)
            rows.set_state(session, model, number, "withdrawn")
            rows.set_stage(session, model, number, rows.ARCHIVED)
            return records.version(session, model, number) or {}

    def _rollout(self, change: Change, identifier: str) -> dict[str, Any]:
        row = change.session.execute(select(_R).where(_R.c.id == identifier)).first()
        if row is None:
            raise not_found(f"there is no rollout {identifier!r}")
        return records.rollout(row)

    def _write(self, change: Change, current: dict[str, Any], values: dict[str, Any]) -> None:
        now = time.time()
        ended = {"ended_at": now} if values.get("state") in ENDED else {}
        change.session.execute(update(_R).where(_R.c.id == current["id"]).values(**values, **ended, updated_at=now))


def _fence(current: dict[str, Any], token: int) -> None:
    if token != current["token"]:
        raise Refusal(
            "WT_FENCED",
            f"token {token} is not the present token {current['token']} of this rollout: "
            f"{current['holder']} holds it now",
            hint="stop writing",
            status=409,
        )


def expect(champion: int | None, expected: str | None, model: str) -> None:
    """Of two promotions at once one wins; the other learns who.

    Raises:
        Refusal: WT_CONFLICT.
    """
    if champion is not None and str(champion) != expected:
        raise Refusal(
            "WT_CONFLICT",
            f"the champion of {model!r} is version {champion} now, not {expected or 'none'}",
            hint=f"version {champion} won; roll this one back, or release it against version {champion}",
            status=409,
        )
    if champion is None and expected is not None:
        raise Refusal("WT_CONFLICT", f"{model!r} has no champion now; expected version {expected}", status=409)
