"""The way back in an emergency, without approvals, and the review that stays open behind it (REG-6)."""

from __future__ import annotations

import time
import uuid
from typing import Any

from sqlalchemy import insert, select, update

from windtunnel_mlflow import records, rows, tables
from windtunnel_mlflow.access import permission
from windtunnel_mlflow.law import policybook
from windtunnel_mlflow.part import not_found
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.releases.orderrules import check_reason
from windtunnel_mlflow.service import Service

_C = tables.champions
_W = tables.reviews
#: States of a former champion that was taken out for harm: nobody is sent back to it unless by name.
_HARMED = ("withdrawn", "rolled_back")


class Emergencies:
    """The operations behind ``/rollback`` and ``/reviews``."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.store = service.store

    def rollback(self, model: str, to: int | None, reason: Any) -> dict[str, Any]:
        """Make a former champion champion again, now.

        Args:
            to: which; the one before the present champion, that was not taken out for harm, when None.

        Returns:
            ``champion`` (the version), ``former``, ``rollout`` (of a release that it ended) and ``review``.

        Raises:
            Refusal: WT_ROLE; WT_NO_WAY_BACK where there is no such former champion, or its content is not sealed.
        """
        with self.store.change(model, "rollback", version=to, reason=str(reason or "")[:2000]) as change:
            session = change.session
            self.store._get_registered_model(session, model)
            policy = policybook.in_force(session, model)
            permission.need(change.actor, "rollback", "roll back in an emergency", policy.document.emergency.by)
            why = check_reason(reason)
            current = records.champion(session, model)
            number = self._former(session, model, current) if to is None else to
            found = None if number is None else records.version(session, model, number)
            if number is None or found is None or not self._was_champion(session, model, number):
                raise Refusal(
                    "WT_NO_WAY_BACK",
                    f"{model!r} has no former champion to go back to"
                    if to is None
                    else f"version {to} of {model!r} was never its champion",
                    hint="only a version that was champion can be gone back to without approvals",
                    status=409,
                )
            if number == current:
                raise Refusal("WT_CHAMPION", f"version {number} is the champion of {model!r} already", status=409)
            if found["status"] != "READY" or found["digest"] is None:
                raise Refusal("WT_NO_WAY_BACK", f"version {number} of {model!r} is {found['status']}", status=409)
            change.version = str(number)
            change.detail["policy"] = f"emergency, {policy.name}"
            running = records.open_rollout(session, model)
            if running is not None:
                self.service.end(change, running, "rolled_back", f"emergency rollback by {change.actor.name}: {why}")
                change.detail["rollout"] = running["id"]
            self.store.enthrone(
                change, model, number, reason=f"emergency rollback: {why}", rollout_id=None, state="rolled_back"
            )
            review = {
                "id": uuid.uuid4().hex,
                "model": model,
                "from_version": current,
                "to_version": number,
                "reason": why,
                "by": change.actor.name,
                "at": time.time(),
            }
            session.execute(insert(_W).values(**review))
            change.detail["review"] = review["id"]
            return {
                "champion": records.version(session, model, number),
                "former": None if current is None else str(current),
                "rollout": None if running is None else running["id"],
                "review": self._review(session, str(review["id"])),
            }

    def reviews(self, closed: bool, limit: int) -> list[dict[str, Any]]:
        """Open ones, oldest first; with ``closed`` all, newest first."""
        query = select(_W).order_by(_W.c.at.desc() if closed else _W.c.at).limit(limit)
        if not closed:
            query = query.where(_W.c.closed_at.is_(None))
        with self.store.reading() as session:
            return [_plain(row) for row in session.execute(query)]

    def close(self, identifier: str, note: Any) -> dict[str, Any]:
        """Close a review, with what was found; not by whoever rolled back.

        Raises:
            Refusal: WT_ROLE, WT_FOUR_EYES; WT_REVIEW where it is closed already.
        """
        with self.store.reading() as session:
            model = str(self._review(session, identifier)["model"])
        with self.store.change(model, "close-review", review=identifier, note=str(note or "")[:2000]) as change:
            found = self._review(change.session, identifier)
            change.version = found["to_version"]
            permission.need(change.actor, "review", "close a review")
            said = check_reason(note)
            if found["closed_at"] is not None:
                raise Refusal("WT_REVIEW", f"this review was closed by {found['closed_by']}", status=409)
            if found["by"].casefold() == change.actor.name.casefold():
                raise Refusal("WT_FOUR_EYES", f"{change.actor.name} rolled back, so somebody else closes the review")
            values = {"closed_at": time.time(), "closed_by": change.actor.name, "note": said}
            change.session.execute(update(_W).where(_W.c.id == identifier).values(**values))
            return self._review(change.session, identifier)

    def _former(self, session: Any, model: str, current: int | None) -> int | None:
        history = session.execute(select(_C.c.version).where(_C.c.model == model).order_by(_C.c.id.desc())).scalars()
        for number in dict.fromkeys(history):
            found = None if number == current else records.version(session, model, number)
            if found is not None and found["status"] == rows.READY and found["state"] not in _HARMED:
                return int(number)
        return None

    def _was_champion(self, session: Any, model: str, number: int) -> bool:
        row = session.execute(select(_C.c.id).where(_C.c.model == model, _C.c.version == number).limit(1)).first()
        return row is not None

    def _review(self, session: Any, identifier: str) -> dict[str, Any]:
        row = session.execute(select(_W).where(_W.c.id == identifier)).first()
        if row is None:
            raise not_found(f"there is no review {identifier!r}")
        return _plain(row)


def _plain(row: Any) -> dict[str, Any]:
    plain = dict(row._mapping)
    for name in ("from_version", "to_version"):
        plain[name] = None if plain[name] is None else str(plain[name])
    return plain
