"""The endpoint of the outbox, below ``/api/windtunnel/v1``."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, request

from windtunnel_mlflow.api import web
from windtunnel_mlflow.ledger import outbox
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.store import GovernedStore

#: Events in one answer.
MOST = 1_000


def blueprint(store: GovernedStore) -> Blueprint:
    """The endpoint as a blueprint of the registry's app."""
    api = Blueprint("windtunnel-outbox", __name__)

    @api.get("/events")
    def events() -> Any:
        args = request.args
        after = None if args.get("after", "now") == "now" else web.whole(args["after"], "after")
        if after is not None and after < 0:
            raise Refusal("WT_REQUEST", f"after is {after}; expected 0 or more, or 'now'", status=400)
        kinds = [kind for kind in args.get("kind", "").split(",") if kind]
        unknown = sorted({*kinds} - {*outbox.KINDS})
        if unknown:
            raise Refusal(
                "WT_REQUEST",
                f"there are no events of kind {', '.join(unknown)}",
                hint=f"kinds are {', '.join(outbox.KINDS)}",
                status=400,
            )
        model = args.get("model")
        # The primary: a replica may show numbers out of order, and has no locks to wait at.
        with store.ManagedSessionMaker(read_only=False) as session:
            found = outbox.read(session, after, min(web.limit(), MOST))
        # Sorted out here and not in the query, so that ``next`` moves on over what was not asked for.
        found["events"] = [
            event
            for event in found["events"]
            if (not kinds or event["kind"] in kinds) and (model is None or event["model"] == model)
        ]
        return found

    return api
