"""The MLflow server app ``windtunnel``: MLflow's own auth app, the governed store's endpoints, the artifact guard.

``mlflow server --app-name windtunnel`` calls ``create_app`` in the process that serves.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

_logger = logging.getLogger(__name__)

#: Seconds between refreshes of SQLite's statistics; one refresh looks at about a thousand rows per index.
STATISTICS_EVERY = 600.0
#: Seconds that the last checkpoint may take when the server ends.
LAST_WORDS = 10.0


def create_app() -> Any:
    """Build the app. Heavy imports are in here: ``mlflow server`` imports this module in its parent process too."""
    from windtunnel_mlflow.access import people, users

    users.prepare_environment()
    people.default()
    _die_with_parent()

    from mlflow.environment_variables import MLFLOW_ENABLE_WORKSPACES
    from mlflow.exceptions import MlflowException
    from mlflow.server import app as flask_app
    from mlflow.server import auth, handlers
    from mlflow.server.constants import BACKEND_STORE_URI_ENV_VAR
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    from windtunnel_mlflow import refusals, replicas
    from windtunnel_mlflow.api.routes import PREFIX, create_api
    from windtunnel_mlflow.ledger import checkpoints
    from windtunnel_mlflow.service import Service
    from windtunnel_mlflow.store import GovernedStore
    from windtunnel_mlflow.versions.guard import govern
    from windtunnel_mlflow.versions.sealer import Sealer

    if MLFLOW_ENABLE_WORKSPACES.get():
        raise MlflowException("the governed store does not know MLflow's workspaces: start without --enable-workspaces")
    replica = replicas.replica_uri()
    if replica:
        replicas.follow(os.environ[BACKEND_STORE_URI_ENV_VAR], replica)
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

    refusals.audit_registry_routes(flask_app, store)
    refusals.refuse_writes_around_the_proxy(flask_app, store)
    refusals.refuse_changes_of_viewers(flask_app, store)
    publisher = checkpoints.start(lambda: store.ManagedSessionMaker(read_only=False))
    flask_app.wsgi_app = DispatcherMiddleware(flask_app.wsgi_app, {PREFIX: create_api(Service(store), publisher)})
    if served is not flask_app:
        _carry_identity(served, store)
        if publisher is not None:
            publish_last(served, publisher.publish)

    resumed = store.sealer.resume()
    if resumed:
        _logger.info("sealing %s versions a former process left pending", resumed)
    _keep_statistics(store, tracking)
    # For whoever ends this server in order.
    served.windtunnel = SimpleNamespace(store=store, publisher=publisher)
    return served


def _die_with_parent() -> None:
    """End with ``mlflow server``: killed with -9 it would leave this worker behind, holding the port."""
    if sys.platform == "linux" and "uvicorn" in sys.argv[0]:
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)


def publish_last(served: Any, publish: Callable[[], object], limit_s: float = LAST_WORDS) -> None:
    """Publish once more when the web server has stopped, no longer than ``limit_s``: a place may be out of reach.

    Not left to ``atexit``: uvicorn raises the signal again that ended it, and after SIGTERM Python runs nothing more.
    """
    inside = served.router.lifespan_context

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Any]:
        async with inside(app) as state:
            yield state
        last = threading.Thread(target=publish, name="windtunnel-last-checkpoint", daemon=True)
        last.start()
        await asyncio.to_thread(last.join, limit_s)

    served.router.lifespan_context = lifespan


def _carry_identity(served: Any, store: Any) -> None:
    """Make the user MLflow's FastAPI middleware verified known to the store, for routes that never enter Flask."""
    from starlette.middleware import Middleware

    from windtunnel_mlflow.access import identity
    from windtunnel_mlflow.access.viewers import ViewersOnlyRead
    from windtunnel_mlflow.refusals import NoteRefusals

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
    served.user_middleware.append(Middleware(ViewersOnlyRead, store=store))
    # And first is outermost: it sees what everything inside answers.
    served.user_middleware.insert(0, Middleware(NoteRefusals, store=store))


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
