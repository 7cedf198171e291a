"""The FastAPI app behind the pages. Airflow mounts a plugin's app open, so every route asks for a user itself."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import jinja2
from airflow.api_fastapi.app import get_auth_manager
from airflow.api_fastapi.auth.managers.models.base_user import BaseUser
from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
from airflow.api_fastapi.core_api.security import get_user
from fastapi import Depends, FastAPI, HTTPException
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response

from windtunnel import names
from windtunnel.errors import WindtunnelError
from windtunnel.home import Home
from windtunnel.registry.orders import CONTROL_DAG
from windtunnel_ui import reports
from windtunnel_ui.rows import rows
from windtunnel_ui.source import looks, registry, waits
from windtunnel_ui.store import store

URL_PREFIX = "/windtunnel"
NO_REPORT = "no such report, or none that you may see"
TEMPLATES = Path(__file__).parent / "templates"

User = Annotated[BaseUser, Depends(get_user)]


def may_see(user: BaseUser, model: str) -> bool:
    """Who may read ``MODEL.release`` may see the model."""
    return bool(
        get_auth_manager().is_authorized_dag(
            method="GET", details=DagDetails(id=names.dag_id(model, "release")), user=user
        )
    )


def may_order(user: BaseUser) -> bool:
    """Who may trigger ``windtunnel.control`` may order; Airflow asks again when it is triggered."""
    return bool(
        get_auth_manager().is_authorized_dag(
            method="POST", access_entity=DagAccessEntity.RUN, details=DagDetails(id=CONTROL_DAG), user=user
        )
    )


def models_for(user: BaseUser) -> list[dict[str, Any]]:
    """The rows ``user`` may see."""
    client = registry()
    summaries = client.models()
    visible = [summary.name for summary in summaries if may_see(user, summary.name)]
    running = [s.rollout for s in summaries if s.name in visible and s.rollout and s.rollout.live]
    orders = client.orders() if running else None
    found = rows(
        summaries,
        visible,
        orders,
        looks(Home.find(), running) if running else None,
        waits(client, running),
        may_order=bool(running) and may_order(user),
    )
    return [row.to_dict() for row in found]


def create_app() -> FastAPI:
    """Pages and their JSON, without public API docs of its own."""
    app = FastAPI(title="Windtunnel", docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(get_user)])
    pages = jinja2.Environment(loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True)

    @app.get("/models", response_class=HTMLResponse)
    def models_page(user: User) -> HTMLResponse:
        try:
            shown, problem = models_for(user), None
        except WindtunnelError as error:
            shown, problem = [], str(error)
        page = pages.get_template("models.html").render(models=shown, problem=problem, control=CONTROL_DAG)
        return HTMLResponse(page, status_code=200 if problem is None else 503)

    @app.get("/api/models")
    def models_json(user: User) -> JSONResponse:
        try:
            return JSONResponse({"version": 1, "models": models_for(user)})
        except WindtunnelError as error:
            return JSONResponse({"version": 1, "error": str(error)}, status_code=503)

    @app.get("/reports/{address:path}")
    def report(address: str, user: User) -> Response:
        model, kind = reports.model_of(address), reports.KINDS.get(PurePosixPath(address).suffix)
        if model is None or kind is None or not may_see(user, model):
            raise HTTPException(404, NO_REPORT)
        path = reports.find(Home.find(), address)
        if path is not None:
            return FileResponse(path, media_type=kind, headers=reports.HEADERS)
        try:
            page = reports.fetch(store(), address)
        except (WindtunnelError, ImportError) as error:
            raise HTTPException(503, f"the object store cannot be read: {error}") from error
        if page is None:
            raise HTTPException(404, NO_REPORT)
        return Response(page, media_type=kind, headers=reports.HEADERS)

    return app
