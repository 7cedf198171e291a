"""The endpoints of lineage, below ``/api/windtunnel/v1``."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, request

from windtunnel_mlflow.api import web
from windtunnel_mlflow.lineage.tracing import MOST, Tracing
from windtunnel_mlflow.refusal import Refusal


def blueprint(tracing: Tracing) -> Blueprint:
    """The endpoints as a blueprint of the registry's app."""
    api = Blueprint("windtunnel-lineage", __name__)

    @api.get("/models/<model>/versions/<which>/lineage")
    def lineage(model: str, which: str) -> Any:
        return tracing.lineage(
            model,
            which,
            direction=request.args.get("direction", "both"),
            depth=web.whole(request.args.get("depth", 3), "depth"),
            as_of=_as_of(),
            limit=_limit(500),
        )

    @api.get("/lineage/impact")
    def impact() -> Any:
        of = request.args.get("of", "").strip()
        if not of:
            raise Refusal("WT_REQUEST", "of is missing; expected a data set's digest or source", status=400)
        return tracing.impact(of, as_of=_as_of(), limit=_limit(100))

    return api


def _limit(usual: int) -> int:
    return max(1, min(MOST, web.whole(request.args.get("limit", usual), "limit")))


def _as_of() -> float | None:
    told = request.args.get("as_of")
    return None if told is None else web.moment(told, "as_of")
