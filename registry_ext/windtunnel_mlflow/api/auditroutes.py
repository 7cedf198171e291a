"""The endpoints of the audit, below ``/api/windtunnel/v1``."""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, Response, request

from windtunnel_mlflow.access import identity
from windtunnel_mlflow.api import web
from windtunnel_mlflow.ledger import audit, checkpoints
from windtunnel_mlflow.ledger.checkpoints import Publisher
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.store import GovernedStore


def blueprint(store: GovernedStore, publisher: Publisher | None) -> Blueprint:
    """The endpoints as a blueprint of the registry's app."""
    api = Blueprint("windtunnel-audit", __name__)

    def state() -> dict[str, Any]:
        with store.ManagedSessionMaker(read_only=False) as session:
            changeable = checkpoints.changeable(session)
        nothing = {"checkpoint": None, "key": None, "problem": "this server publishes no checkpoints: it has no home"}
        return {**(publisher.state() if publisher else nothing), "changeable": changeable}

    @api.get("/audit")
    def find() -> Any:
        args = request.args
        equal = {name: args.get(name) for name in ("model", "actor", "action", "outcome", "correlation_id")}
        with store.reading() as session:
            found = audit.find(session, web.limit(), since=_time("since"), until=_time("until"), **equal)
        return {"audit": found}

    @api.get("/audit/log")
    def log() -> Any:
        after = web.whole(request.args.get("after", 0), "after")
        until = request.args.get("until")
        # The primary: a replica has no writers to wait for.
        with store.ManagedSessionMaker(read_only=False) as session:
            last = audit.settled(session) if until is None else web.whole(until, "until")
        with store.reading() if until is not None else store.ManagedSessionMaker(read_only=False) as session:
            rows = audit.page(session, after, last, web.limit())
        found = {"entries": rows, "next": rows[-1]["seq"] if rows else last, "until": last}
        # Not jsonify: sorting a page's keys costs as much as reading it.
        return Response(json.dumps(found), mimetype="application/json")

    @api.get("/audit/checkpoint")
    def checkpoint() -> Any:
        return state()

    @api.post("/audit/checkpoint")
    def publish() -> Any:
        actor = identity.actor()
        if not actor.trusted:
            refusal = Refusal("WT_ROLE", f"user {actor.name!r} may not publish a checkpoint")
            store.note_refusal("", "publish-checkpoint", refusal.code, detail={"message": refusal.plain})
            raise refusal
        if publisher is not None:
            publisher.publish()
        return state()

    return api


def _time(name: str) -> float | None:
    value = request.args.get(name)
    try:
        return None if value is None else float(value)
    except ValueError:
        raise Refusal("WT_REQUEST", f"{name} is {value!r}; expected seconds since the epoch", status=400) from None
