"""The endpoints of what is kept, below ``/api/windtunnel/v1``: one thin function each."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from flask import Blueprint, request
from mlflow.exceptions import MlflowException
from mlflow.server import auth

from windtunnel_mlflow.access import identity
from windtunnel_mlflow.api import web
from windtunnel_mlflow.keeping.adoption import Adoption
from windtunnel_mlflow.keeping.agreement import Agreement
from windtunnel_mlflow.keeping.collecting import Collecting
from windtunnel_mlflow.keeping.deleted import Deleted
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.service import Service


def blueprint(service: Service) -> Blueprint:
    """The endpoints as a blueprint of the registry's app."""
    api = Blueprint("windtunnel-keeping", __name__)
    adoption, agreement, gone = Adoption(service), Agreement(service), Deleted(service)

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

    collecting = Collecting(service)

    # -- what was deleted

    @api.get("/deleted")
    def deleted() -> Any:
        return {"versions": gone.versions(request.args.get("model"))}

    @api.post("/models/<model>/versions/<int:number>/restore")
    def restore_version(model: str, number: int) -> Any:
        reason = web.body("reason")["reason"]
        if not web.may_edit_known(model):
            refusal = Refusal("WT_ROLE", f"user {identity.actor().name!r} may not change model {model!r}")
            service.store.note_refusal(model, "restore-version", refusal.code, version=number)
            raise refusal
        return gone.restore_version(model, number, reason)

    @api.post("/models/<model>/restore")
    def restore_model(model: str) -> Any:
        done = gone.restore_model(model, web.body("reason")["reason"])
        # MLflow took everybody's rights with the model; whoever brings it back has them, as whoever makes one.
        with suppress(MlflowException):
            auth.store.grant_user_permission(identity.actor().name, "registered_model", model, "MANAGE")
        return done

    @api.post("/purge")
    def purge() -> Any:
        return gone.purge(web.body().get("dry_run") is True)

    @api.post("/collect")
    def collect() -> Any:
        return collecting.collect(web.body().get("dry_run") is True)

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
