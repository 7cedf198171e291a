"""The endpoints of exports, imports and other installations: one thin function each. For administrators."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, request

from windtunnel_mlflow.api import web
from windtunnel_mlflow.exchange.arrivals import Arrivals
from windtunnel_mlflow.exchange.exports import Exports
from windtunnel_mlflow.exchange.trust import Trust
from windtunnel_mlflow.ledger.checkpoints import Publisher
from windtunnel_mlflow.store import GovernedStore
from windtunnel_mlflow.tables import HOUSE


def blueprint(store: GovernedStore, publisher: Publisher | None) -> Blueprint:
    """The endpoints as a blueprint of the registry's app."""
    api = Blueprint("windtunnel-exchange", __name__)
    exports, imports, trusting = Exports(store, publisher), Arrivals(store), Trust(store)

    # -- other installations

    @api.get("/installations")
    def installations() -> Any:
        return {"installations": trusting.installations()}

    @api.post("/installations")
    def trust() -> Any:
        body = web.body("name", "key")
        return trusting.trust(body["name"], body["key"]), 201

    @api.post("/installations/<name>/distrust")
    def distrust(name: str) -> Any:
        return {"installations": trusting.distrust(name, web.body("reason")["reason"])}

    # -- what leaves

    @api.get("/exports/models")
    def names() -> Any:
        return {"models": exports.names(), "keys": exports.keys()}

    @api.get("/exports/house")
    def house() -> Any:
        return exports.record(HOUSE)

    @api.get("/exports/models/<model>")
    def record(model: str) -> Any:
        return exports.record(model)

    @api.get("/exports/models/<model>/versions/<int:number>")
    def version(model: str, number: int) -> Any:
        return exports.record(model, number)

    @api.post("/exports/seal")
    def seal() -> Any:
        return exports.seal(web.body("index")["index"])

    @api.post("/exports/audits")
    def audits() -> Any:
        logs = exports.logs()
        return {"logs": logs, "entries": exports.entries(logs[0])}

    @api.get("/exports/audits/<name>")
    def log(name: str) -> Any:
        return exports.log(name, web.whole(request.args.get("offset", 0), "offset", 2**62))

    # -- what comes

    @api.post("/imports/check")
    def check() -> Any:
        return imports.index(web.body("signature")["signature"])

    @api.post("/imports/plan")
    def plan() -> Any:
        body = web.body("record", "signature")
        return imports.plan(body["record"], body["signature"])

    @api.post("/imports/records")
    def restore() -> Any:
        body = web.body("record", "signature")
        return imports.restore(body["record"], body["signature"])

    @api.post("/imports/versions/plan")
    def look() -> Any:
        body = web.body("record", "signature")
        return imports.look(body["record"], body["signature"])

    @api.post("/imports/versions")
    def take() -> Any:
        body = web.body("record", "signature")
        return imports.take(body["record"], body["signature"])

    @api.post("/imports/audits")
    def audit() -> Any:
        return imports.audit(web.body("statement", "offset", "text", "last"))

    return api
