"""The hook: one connection to the MLflow server with the governed registry, and the home folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from windtunnel.errors import UnavailableError, WindtunnelError
from windtunnel.home import Home

if TYPE_CHECKING:
    from windtunnel.registry.client import RegistryClient
    from windtunnel.serving.backend import ServingBackend
    from windtunnel.serving.intent import Intents
    from windtunnel.serving.looklog import LookLog

#: Of a connection's extras only these are read; nothing else is passed on to any client.
EXTRAS = ("home", "public_url", "timeout")


class WindtunnelHook(BaseHook):
    """Clients for the MLflow server (tracking and registry) and the paths of the embedded stack.

    Args:
        windtunnel_conn_id: a connection of type ``windtunnel``: host, port, login and password of the MLflow server.
    """

    conn_name_attr = "windtunnel_conn_id"
    default_conn_name = "windtunnel_default"
    conn_type = "windtunnel"
    hook_name = "Windtunnel"

    def __init__(self, windtunnel_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.windtunnel_conn_id = windtunnel_conn_id
        self._connection: Any = None

    @property
    def connection(self) -> Any:
        """The Airflow connection, read once."""
        if self._connection is None:
            self._connection = self.get_connection(self.windtunnel_conn_id)
        return self._connection

    def _extra(self, key: str) -> Any:
        assert key in EXTRAS
        return (self.connection.extra_dejson or {}).get(key) or None

    @property
    def url(self) -> str:
        """Base URL of the MLflow server, as workers reach it."""
        host = self.connection.host or "127.0.0.1"
        if "://" not in host:
            host = f"{self.connection.schema or 'http'}://{host}"
        if host.startswith("http") and self.connection.port:
            return f"{host.rstrip('/')}:{self.connection.port}"
        return str(host.rstrip("/")) if host.startswith("http") else str(host)

    @property
    def public_url(self) -> str:
        """Base URL of the MLflow server, as people reach it."""
        return str(self._extra("public_url") or self.url).rstrip("/")

    @property
    def timeout(self) -> float:
        return float(self._extra("timeout") or 10)

    @property
    def home(self) -> Home:
        """The home folder of the stack this worker belongs to."""
        return Home.find(self._extra("home"))

    def get_conn(self) -> RegistryClient:
        """A client of the governed registry."""
        from windtunnel.registry.client import RegistryClient

        return RegistryClient(
            self.url, self.connection.login or "", self.connection.password or "", timeout=self.timeout
        )

    @property
    def registry(self) -> RegistryClient:
        """The same as ``get_conn``."""
        return self.get_conn()

    def backend(self) -> ServingBackend:
        """The serving backend of this home."""
        from windtunnel.serving.local import LocalBackend

        return LocalBackend(self.home)

    def looks(self, model: str) -> LookLog:
        """The look log of one model, beside its traffic."""
        from windtunnel.serving.looklog import LookLog

        return LookLog(self.home, model)

    def intents(self) -> Intents:
        """The promoting intents, beside the traffic."""
        from windtunnel.serving.intent import Intents

        return Intents(self.home)

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def mlflow_env(self) -> dict[str, str]:
        """Environment variables with which MLflow's own client reaches the server; holds the password."""
        env = {"MLFLOW_TRACKING_URI": self.url, "MLFLOW_REGISTRY_URI": self.url}
        if self.connection.login:
            env["MLFLOW_TRACKING_USERNAME"] = self.connection.login
            env["MLFLOW_TRACKING_PASSWORD"] = self.connection.password or ""
        return env

    @contextmanager
    def mlflow_environment(self) -> Iterator[None]:
        """Inside the block, and for processes started in it, MLflow's variables name this server."""
        wanted = self.mlflow_env()
        before = {key: os.environ.get(key) for key in wanted}
        os.environ.update(wanted)
        try:
            yield
        finally:
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value

    @contextmanager
    def mlflow(self) -> Iterator[Any]:
        """An ``MlflowClient`` of this connection; MLflow's own functions work inside the block, too."""
        with self.mlflow_environment():
            import mlflow

            mlflow.set_tracking_uri(self.url)
            mlflow.set_registry_uri(self.url)
            yield mlflow.MlflowClient(tracking_uri=self.url, registry_uri=self.url)

    def run_url(self, run_id: str, experiment_id: str) -> str:
        """Page of a run in the MLflow UI."""
        return f"{self.public_url}/#/experiments/{experiment_id}/runs/{run_id}"

    def version_url(self, model: str, version: str) -> str:
        """Page of a model version in the MLflow UI."""
        return f"{self.public_url}/#/models/{model}/versions/{version}"

    def test_connection(self) -> tuple[bool, str]:
        """Ask the registry how it is, with this connection's credentials."""
        try:
            health = self.get_conn().health()
            return True, f"The governed registry at {self.url} answers: {health}"
        except UnavailableError as error:
            return False, f"No answer from {self.url}: {error}"
        except WindtunnelError as error:
            return False, str(error)
        except Exception as error:  # whatever it is, the form must show it
            return False, f"{type(error).__name__}: {error}"
