"""Endpoints of finding and comparing: one thin function each."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, request

from windtunnel_mlflow.api import web
from windtunnel_mlflow.finding.comparing import Comparing
from windtunnel_mlflow.finding.search import Search
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.store import GovernedStore


def blueprint(store: GovernedStore) -> Blueprint:
    """The endpoints as a blueprint of the registry's app."""
    api = Blueprint("windtunnel-finding", __name__)
    searching, comparing = Search(store), Comparing(store)

    @api.get("/search")
    def search() -> Any:
        args = request.args
        return searching.page(
            args.get("query", ""), args.get("order_by", ""), web.limit(), args.get("cursor"), web.readable()
        )

    @api.get("/models/<model>/compare")
    def compare(model: str) -> Any:
        web.need_read(model)
        given = [request.args.get(name) for name in ("left", "right")]
        if None in given:
            raise Refusal("WT_REQUEST", "compare which? Tell left and right, numbers of versions", status=400)
        left, right = (web.whole(value, "left and right") for value in given)
        return comparing.compare(model, left, right)

    return api
