"""The endpoints of what is kept, below ``/api/windtunnel/v1``: one thin function each."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, request

from windtunnel_mlflow.api import web
from windtunnel_mlflow.keeping.adoption import Adoption
from windtunnel_mlflow.keeping.agreement import Agreement
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.service import Service


def blueprint(service: Service) -> Blueprint:
    """The endpoints as a blueprint of the registry's app."""
    api = Blueprint("windtunnel-keeping", __name__)
    adoption, agreement = Adoption(service), Agreement(service)

    # -- adoption

    @api.get("/adoption")
    def waiting() -> Any:
        return {"models": adoption.waiting()}

    @api.post("/models/<model>/adopt")
    def adopt(model: str) -> Any:
        body = web.body()
        return adoption.adopt(
            model,
            dry_run=body.get("dry_run") is True,
            formats=_formats(body.get("formats")),
            again=body.get("again") is not False,
            after=web.whole(body.get("after", 0), "after"),
        )

    # -- agreement

    @api.get("/agreement")
    def differences() -> Any:
        return {"differences": agreement.differences(request.args.get("model"))}

    @api.post("/models/<model>/mend")
    def mend(model: str) -> Any:
        return agreement.mend(model, web.body("reason")["reason"])

    return api


def _formats(given: Any) -> dict[str, Any]:
    found = {} if given is None else given
    if isinstance(found, dict) and set(found) <= {"pickle", "trust"}:
        pickle, trust = found.get("pickle", False), found.get("trust", [])
        if isinstance(pickle, bool) and isinstance(trust, list) and all(isinstance(name, str) for name in trust):
            return {"pickle": pickle, "trust": trust}
    raise Refusal(
        "WT_REQUEST", f"formats is {given!r}; expected pickle (true or false) and trust (names of modules)", status=400
    )
