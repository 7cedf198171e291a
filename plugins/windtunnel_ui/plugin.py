"""What Airflow mounts: one FastAPI app and one entry in its navigation."""

from __future__ import annotations

from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

from windtunnel_ui.app import URL_PREFIX, create_app


class WindtunnelPlugin(AirflowPlugin):
    """The models page, behind Airflow's own log-in."""

    name = "windtunnel"
    fastapi_apps: ClassVar[list[Any]] = [{"app": create_app(), "url_prefix": URL_PREFIX, "name": "Windtunnel"}]
    external_views: ClassVar[list[Any]] = [
        {
            "name": "Models",
            "href": f"{URL_PREFIX}/models",
            "url_route": "windtunnel-models",
            "destination": "nav",
            "category": "browse",
            "nav_top_level": True,
        }
    ]
