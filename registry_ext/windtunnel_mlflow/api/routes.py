"""``/api/windtunnel/v1``: one thin function per endpoint. Nothing answers without a verified credential."""

from __future__ import annotations

from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any

from flask import Blueprint, Flask, Response, g, jsonify, request
from mlflow.exceptions import MlflowException
from mlflow.server import auth
from werkzeug.exceptions import HTTPException

from windtunnel.errors import DescriptionError
from windtunnel.names import check_model_name
from windtunnel_mlflow.access import identity, viewers
from windtunnel_mlflow.api import (
    auditroutes,
    cardroutes,
    exchangeroutes,
    findroutes,
    keepingroutes,
    lineageroutes,
    metrics,
    openapi,
    orderroutes,
    outboxroutes,
    policyroutes,
    web,
)
from windtunnel_mlflow.ledger.checkpoints import Publisher
from windtunnel_mlflow.lineage.tracing import Tracing
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.releases.orders import Orders
from windtunnel_mlflow.rows import PENDING
from windtunnel_mlflow.service import Service

PREFIX = openapi.PREFIX

#: Seconds a registration waits for its seal before it answers 202; the client then asks again.
SEAL_WAIT = 5.0


def create_api(service: Service, publisher: Publisher | None = None) -> Flask:
    """The endpoints as a Flask app of their own, mounted under ``PREFIX`` beside MLflow's.

    Apart from MLflow's app, because its fail-closed rule knows MLflow's routes only.
    """
    api = Flask("windtunnel")
    api.url_map.converters["int"] = web.Number
    api.before_request(_authenticate)
    api.before_request(lambda: viewers.check(service.store))
    api.before_request(web.refuse_unwritable)
    orders = Orders(service, web.may_edit_known)
    api.register_blueprint(_blueprint(service, orders))
    api.register_blueprint(orderroutes.blueprint(orders))
    api.register_blueprint(policyroutes.blueprint(service))
    api.register_blueprint(cardroutes.blueprint(service.store))
    api.register_blueprint(findroutes.blueprint(service.store))
    api.register_blueprint(outboxroutes.blueprint(service.store))
    api.register_blueprint(lineageroutes.blueprint(Tracing(service.store)))
    api.register_blueprint(auditroutes.blueprint(service.store, publisher))
    api.register_blueprint(metrics.blueprint(service.store, publisher))
    api.register_blueprint(keepingroutes.blueprint(service))
    api.register_blueprint(exchangeroutes.blueprint(service.store, publisher))
    api.register_error_handler(Refusal, _refused)
    api.register_error_handler(MlflowException, _mlflow_error)
    api.register_error_handler(HTTPException, _http_error)
    return api


def _authenticate() -> Response | None:
    authorization = auth.authenticate_request()
    if isinstance(authorization, Response):
        return authorization
    g.mlflow_authenticated_user = authorization.username
    identity.mark_user(authorization.username)
    return None


def _refused(refusal: Refusal) -> tuple[Response, int]:
    return jsonify(refusal.to_dict()), refusal.status


def _mlflow_error(error: MlflowException) -> tuple[Response, int]:
    status = error.get_http_status_code()
    code = "WT_NOT_FOUND" if status == 404 else error.error_code
    return jsonify({"error_code": code, "message": error.message, "missing": [], "hint": None}), status


def _http_error(error: HTTPException) -> tuple[Response, int]:
    body: dict[str, Any] = {"error_code": "WT_REQUEST", "message": str(error.description), "missing": [], "hint": None}
    return jsonify(body), error.code or 500


def _blueprint(service: Service, orders: Orders) -> Blueprint:
    api = Blueprint("windtunnel", __name__)
    store = service.store

    @api.get("/health")
    def health() -> Any:
        from windtunnel import __version__

        return {"status": "ok", "version": __version__, "user": identity.actor().name}

    @api.get("/openapi.json")
    def description() -> Any:
        from windtunnel import __version__

        return openapi.document(__version__)

    @api.get("/models")
    def models() -> Any:
        return {"models": service.models()}

    @api.post("/models/<model>/versions")
    def register(model: str) -> Any:
        body = web.body("source")
        web.texts(body, "source", "run_id", "model_id", "key", "semver", "cause", "correlation_id")
        if not isinstance(body.get("recipe"), dict | None):
            raise Refusal("WT_REQUEST", "recipe is not an object of names and values", status=400)
        try:
            check_model_name(model)
        except DescriptionError as error:
            raise Refusal("WT_NAME", error.message, hint=error.hint, status=400) from error
        if store._model_exists(model):
            try:
                web.may_update(model)
            except Refusal as refusal:
                store.note_refusal(model, "register", refusal.code, detail={"message": refusal.plain})
                raise
        else:
            _create_model(model)
        registered = store.register(
            model,
            source=body["source"],
            run_id=body.get("run_id"),
            model_id=body.get("model_id"),
            key=body.get("key"),
            recipe=body.get("recipe") or {},
            wanted=body.get("semver"),
            parent=None if body.get("parent") is None else str(web.whole(body["parent"], "parent")),
            cause=body.get("cause"),
            correlation_id=body.get("correlation_id"),
        )
        if store.sealer is not None:
            try:
                store.sealer.submit(model, registered.number).result(timeout=SEAL_WAIT)
            except FutureTimeout:
                pass
        found = service.version(model, registered.number)
        return found, 202 if found["status"] == PENDING else 201 if registered.made else 200

    def _create_model(model: str) -> None:
        try:
            store.create_registered_model(model)
        except MlflowException as error:
            # Another request created it a moment ago.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return
        auth.store.grant_user_permission(identity.actor().name, "registered_model", model, "MANAGE")

    @api.get("/models/<model>/versions")
    def versions(model: str) -> Any:
        return {"versions": service.versions(model)}

    @api.get("/models/<model>/versions/<int:number>")
    def version(model: str, number: int) -> Any:
        return service.version(model, number)

    @api.get("/models/<model>/versions/<int:number>/explain")
    def explain(model: str, number: int) -> Any:
        return service.explain(model, number, request.args.get("to", "champion"))

    @api.post("/models/<model>/versions/<int:number>/withdraw")
    def withdraw(model: str, number: int) -> Any:
        return service.withdraw(model, number, str(web.body("reason")["reason"]))

    @api.get("/models/<model>/champion")
    def champion(model: str) -> Any:
        at = request.args.get("at")
        if at is not None:
            return {"champion": service.champion_at(model, web.moment(at, "at"))}
        return {"champion": service.champion(model)}

    @api.get("/models/<model>/champion/history")
    def champion_history(model: str) -> Any:
        return {"history": service.champion_history(model)}

    @api.get("/models/<model>/pending")
    def pending(model: str) -> Any:
        return {"pending": service.pending(model)}

    @api.post("/verdicts")
    def post_verdict() -> Any:
        return service.post_verdict(web.body()), 201

    @api.get("/models/<model>/verdicts")
    def verdicts(model: str) -> Any:
        args = request.args
        return {
            "verdicts": service.verdicts(model, args.get("subject"), args.get("kind"), args.get("version"), web.limit())
        }

    @api.get("/models/<model>/policy")
    def policy(model: str) -> Any:
        return service.policy(model)

    @api.put("/models/<model>/policy")
    def set_policy(model: str) -> Any:
        return service.set_policy(model, web.body())

    @api.post("/models/<model>/rollouts")
    def open_rollout(model: str) -> Any:
        body = web.body("version", "holder")
        return service.open_rollout(
            model,
            web.whole(body["version"], "version"),
            body.get("plan") or {},
            str(body["holder"]),
            body.get("correlation_id"),
        )

    @api.get("/models/<model>/rollouts")
    def rollouts(model: str) -> Any:
        return {"rollouts": service.rollouts(model, web.limit())}

    @api.get("/rollouts/<identifier>")
    def rollout(identifier: str) -> Any:
        return {**service.rollout(identifier), **orders.of_rollout(identifier)}

    @api.patch("/rollouts/<identifier>")
    def update_rollout(identifier: str) -> Any:
        body = web.body("token")
        return service.update_rollout(
            identifier,
            web.whole(body["token"], "token"),
            state=body.get("state"),
            step=None if body.get("step") is None else web.whole(body["step"], "step"),
            weight=None if body.get("weight") is None else web.number(body["weight"], "weight"),
            reason=body.get("reason"),
        )

    @api.post("/rollouts/<identifier>/promote")
    def promote(identifier: str) -> Any:
        body = web.body("token")
        expected = body.get("expected_champion")
        return service.promote(
            identifier,
            web.whole(body["token"], "token"),
            None if expected is None else str(expected),
            None if body.get("version") is None else web.whole(body["version"], "version"),
        )

    return api
