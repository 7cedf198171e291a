"""The endpoints of policies, approvals, transitions, emergencies and people: one thin function each."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, request
from mlflow.exceptions import MlflowException

from windtunnel_mlflow.access import identity, people, permission
from windtunnel_mlflow.api import web
from windtunnel_mlflow.law.approvals import Approvals
from windtunnel_mlflow.law.emergencies import Emergencies
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.service import Service
from windtunnel_mlflow.tables import HOUSE
from windtunnel_mlflow.versions.moving import Moving


def blueprint(service: Service) -> Blueprint:
    """The endpoints as a blueprint of the registry's app."""
    api = Blueprint("windtunnel-policy", __name__)
    approvals, emergencies, moving = Approvals(service), Emergencies(service), Moving(service)

    # -- policies

    @api.get("/policy")
    def house() -> Any:
        return service.policy_document(HOUSE)

    @api.put("/policy")
    def set_house() -> Any:
        body = web.body("policy", "reason")
        return service.set_document(HOUSE, body["policy"], body["reason"])

    @api.get("/policy/history")
    def house_history() -> Any:
        return {"history": service.policy_history(HOUSE, web.limit())}

    @api.post("/policy/check")
    def check_house() -> Any:
        return {"policy": service.check_policy(HOUSE, web.body("policy")["policy"])}

    @api.get("/models/<model>/policy/document")
    def document(model: str) -> Any:
        return service.policy_document(model)

    @api.put("/models/<model>/policy/document")
    def set_document(model: str) -> Any:
        body = web.body("policy", "reason")
        return service.set_document(model, body["policy"], body["reason"])

    @api.get("/models/<model>/policy/history")
    def history(model: str) -> Any:
        return {"history": service.policy_history(model, web.limit())}

    @api.post("/models/<model>/policy/check")
    def check(model: str) -> Any:
        return {"policy": service.check_policy(model, web.body("policy")["policy"])}

    # -- approvals and transitions

    @api.get("/models/<model>/versions/<int:number>/approvals")
    def said(model: str, number: int) -> Any:
        return {"approvals": approvals.of(model, number)}

    @api.post("/models/<model>/versions/<int:number>/approvals")
    def approve(model: str, number: int) -> Any:
        taken, new = approvals.take(model, number, web.body("decision", "reason"))
        return taken, 201 if new else 200

    @api.post("/models/<model>/versions/<int:number>/approvals/withdraw")
    def withdraw(model: str, number: int) -> Any:
        return {"approvals": approvals.withdraw(model, number, web.body("reason"))}

    @api.post("/models/<model>/versions/<int:number>/transition")
    def transition(model: str, number: int) -> Any:
        body = web.body("to", "reason")
        if not web.may_edit_known(model):
            refusal = Refusal("WT_ROLE", f"user {identity.actor().name!r} may not change model {model!r}")
            service.store.note_refusal(model, "transition", refusal.code, version=number)
            raise refusal
        expected = body.get("expected_champion")
        given = ("expected_champion" in body, None if expected is None else str(expected))
        return moving.move(model, number, str(body["to"]), str(body["reason"])[:2000], given)

    # -- emergencies

    @api.post("/models/<model>/rollback")
    def rollback(model: str) -> Any:
        body = web.body("reason")
        to = body.get("to")
        return emergencies.rollback(model, None if to is None else web.whole(to, "to"), body["reason"])

    @api.get("/reviews")
    def reviews() -> Any:
        return {"reviews": emergencies.reviews(request.args.get("closed") == "true", web.limit())}

    @api.post("/reviews/<identifier>/close")
    def close(identifier: str) -> Any:
        return emergencies.close(identifier, web.body("note")["note"])

    # -- people

    @api.get("/people")
    def everybody() -> Any:
        return {"people": people.everybody()}

    @api.post("/people")
    def add() -> Any:
        body = web.body("name", "password")
        name, password = str(body["name"]), str(body["password"])
        with service.store.change(HOUSE, "add-person", name=name[:256]) as change:
            permission.need(change.actor, "people", "add a user")
            try:
                return people.add(name, password), 201
            except MlflowException as error:
                if isinstance(error, Refusal):
                    raise
                raise Refusal("WT_PERSON", f"the user {name!r} cannot be added: {error.message}", status=400) from error

    @api.put("/people/<name>/roles")
    def grant(name: str) -> Any:
        wanted = web.body("roles")["roles"]
        if not isinstance(wanted, list):
            raise Refusal("WT_REQUEST", "roles is a list of names", status=400)
        with service.store.change(HOUSE, "grant-roles", name=name[:256], roles=[str(r) for r in wanted]) as change:
            permission.need(change.actor, "people", "give roles")
            return people.grant(name, [str(role) for role in wanted])

    return api
