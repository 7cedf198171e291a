"""The MLflow server app ``windtunnel``: MLflow's own auth app, the governed store's endpoints, the artifact guard.

``mlflow server --app-name windtunnel`` calls ``create_app`` in the process that serves.
"""

from __future__ import annotations

import ctypes
import logging
import signal
import sys
import threading
from typing import Any

_logger = logging.getLogger(__name__)

#: Seconds between refreshes of SQLite's statistics; one refresh looks at about a thousand rows per index.
STATISTICS_EVERY = 600.0


def create_app() -> Any:
    """Build the app. Heavy imports are in here: ``mlflow server`` imports this module in its parent process too."""
    from windtunnel_mlflow import users

    users.prepare_environment()
    _die_with_parent()

    from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
    from mlflow.exceptions import MlflowException
    from mlflow.server import app as flask_app
    from mlflow.server import auth, handlers
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    from windtunnel_mlflow.guard import govern
    from windtunnel_mlflow.routes import PREFIX, create_api
    from windtunnel_mlflow.sealer import Sealer
    from windtunnel_mlflow.service import Service
    from windtunnel_mlflow.store import GovernedStore

    if MLFLOW_ENABLE_WORKSPACES.get():
        raise MlflowException("the governed store does not know MLflow's workspaces: start without --enable-workspaces")
    store = handlers._get_model_registry_store()
    if not isinstance(store, GovernedStore):
        raise MlflowException(
            "app 'windtunnel' needs the governed store: start with "
            "--registry-store-uri windtunnel+sqlite:///... (or windtunnel+postgresql://...)"
        )
    tracking = handlers._get_tracking_store()
    _refresh_statistics(store, tracking)

    served = auth.create_app(flask_app)
    users.seed(auth.store)

    repo = handlers._get_artifact_repo_mlflow_artifacts()
    govern(repo, store.writes, store.check_artifact_write)
    store.artifact_repo = repo
    store.sealer = Sealer(store, repo)

    _audit_mlflow_refusals(flask_app, store)
    _refuse_writes_around_the_proxy(flask_app)
    flask_app.wsgi_app = DispatcherMiddleware(flask_app.wsgi_app, {PREFIX: create_api(Service(store))})
    if served is not flask_app:
        _carry_identity(served)

    resumed = store.sealer.resume()
    if resumed:
        _logger.info("sealing %s versions a former process left pending", resumed)
    _keep_statistics(store, tracking)
    return served


def _die_with_parent() -> None:
    """End with ``mlflow server``: killed with -9 it would leave this worker behind, holding the port."""
    if sys.platform == "linux" and "uvicorn" in sys.argv[0]:
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)


def _carry_identity(served: Any) -> None:
    """Make the user MLflow's FastAPI middleware verified known to the store, for routes that never enter Flask."""
    from starlette.middleware import Middleware

    from windtunnel_mlflow import identity

    class CarryIdentity:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                identity.asgi_user.set(scope.get("state", {}).get("username"))
                wanted = identity.CORRELATION_HEADER.lower().encode()
                found = next((value for name, value in scope["headers"] if name == wanted), b"")
                identity.asgi_correlation.set(found.decode("latin-1") or None)
            await self.app(scope, receive, send)

    # Last in the list is innermost: after the permission middleware has verified the credential.
    served.user_middleware.append(Middleware(CarryIdentity))


def _audit_mlflow_refusals(flask_app: Any, store: Any) -> None:
    """What MLflow itself refuses about the registry (permissions, foreign sources) is in the audit as well."""
    from flask import g, request

    from windtunnel_mlflow import identity

    def note(response: Any) -> Any:
        path = request.path
        registry = "/mlflow/registered-models/" in path or "/mlflow/model-versions/" in path
        if registry and request.method != "GET" and response.status_code in (400, 401, 403) and not identity.audited():
            body = request.get_json(silent=True)
            body = body if isinstance(body, dict) else {}
            answer = response.get_json(silent=True)
            answer = answer if isinstance(answer, dict) else {}
            if answer.get("error_code") == "RESOURCE_ALREADY_EXISTS" or path.endswith("/search"):
                return response
            if not getattr(g, "mlflow_authenticated_user", None):
                return response
            store.note_refusal(
                str(body.get("name") or "")[:256],
                "mlflow-refused",
                f"MLFLOW_{answer.get('error_code', response.status_code)}",
                version=body.get("version"),
                detail={"path": path, "message": str(answer.get("message", ""))[:500]},
            )
        return response

    flask_app.after_request(note)


def _refuse_writes_around_the_proxy(flask_app: Any) -> None:
    """The UI's upload writes straight to disk for an experiment with a local folder, which could be a sealed one."""
    from flask import request
    from mlflow.server import handlers
    from mlflow.server.handlers import catch_mlflow_exception

    from windtunnel_mlflow.refusal import Refusal

    @catch_mlflow_exception
    def check() -> None:
        if request.method != "POST" or not request.path.endswith("/mlflow/upload-artifact"):
            return
        run_id = request.args.get("run_uuid")
        if not run_id:
            return
        uri = handlers._get_tracking_store().get_run(run_id).info.artifact_uri
        if not handlers._is_servable_proxied_run_artifact_root(uri):
            raise Refusal("WT_SOURCE", f"run {run_id} keeps its artifacts outside the artifact proxy ({uri})")

    flask_app.before_request(check)


def _refresh_statistics(*stores: Any) -> None:
    """Keep the query planner's numbers fresh: without them some of MLflow's searches do not end on a large SQLite."""
    from sqlalchemy import text

    for engine in {id(store.engine): store.engine for store in stores if hasattr(store, "engine")}.values():
        if engine.dialect.name != "sqlite":
            continue
        try:
            with engine.connect() as connection:
                connection.execute(text("PRAGMA busy_timeout = 20000"))
                connection.execute(text("PRAGMA analysis_limit = 1000"))
                connection.execute(text("ANALYZE"))
                connection.commit()
            # Other connections read the statistics when they open.
            engine.dispose()
        except Exception:
            _logger.warning("SQLite's statistics could not be refreshed", exc_info=True)


def _keep_statistics(*stores: Any) -> None:
    never = threading.Event()

    def loop() -> None:
        while not never.wait(STATISTICS_EVERY):
            _refresh_statistics(*stores)

    threading.Thread(target=loop, name="windtunnel-statistics", daemon=True).start()
