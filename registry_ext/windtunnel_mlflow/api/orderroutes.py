"""The endpoints of orders and freezes, below ``/api/windtunnel/v1``: one thin function each."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, request

from windtunnel_mlflow.api import web
from windtunnel_mlflow.releases.orders import Orders


def blueprint(orders: Orders) -> Blueprint:
    """The endpoints as a blueprint of the registry's app."""
    api = Blueprint("windtunnel-orders", __name__)

    @api.post("/rollouts/<identifier>/orders")
    def order(identifier: str) -> Any:
        taken, new = orders.order(identifier, web.body())
        return taken, 201 if new else 200

    @api.get("/rollouts/<identifier>/orders")
    def of_rollout(identifier: str) -> Any:
        orders.service.rollout(identifier)
        return orders.of_rollout(identifier)

    @api.get("/orders")
    def since() -> Any:
        return orders.since(web.whole(request.args.get("since", 0), "since"))

    @api.get("/freezes")
    def freezes() -> Any:
        return {"freezes": orders.freezes(request.args.get("lifted") == "true", web.limit())}

    @api.post("/freezes")
    def freeze() -> Any:
        return orders.freeze(web.body()), 201

    @api.post("/freezes/<identifier>/thaw")
    def thaw(identifier: str) -> Any:
        return orders.thaw(identifier, web.body())

    return api
