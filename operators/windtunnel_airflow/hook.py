"""The hook: one connection to the MLflow server with the governed registry, and the home folder."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from windtunnel.errors import UnavailableError, WindtunnelError
from windtunnel.home import Home
from windtunnel_airflow.tracking_server.hook import MlflowHook

if TYPE_CHECKING:
    from windtunnel.registry.client import RegistryClient
    from windtunnel.serving.backend import ServingBackend
    from windtunnel.serving.intent import Intents
    from windtunnel.serving.looklog import LookLog


class WindtunnelHook(MlflowHook):
    """Clients for the MLflow server (tracking and registry) and the paths of the embedded stack.

    Args:
        windtunnel_conn_id: a connection of type ``windtunnel``: host, port, login and password of the MLflow server.
    """

    conn_name_attr = "windtunnel_conn_id"
    default_conn_name = "windtunnel_default"
    conn_type = "windtunnel"
    hook_name = "Windtunnel"

    def __init__(self, windtunnel_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(windtunnel_conn_id, **kwargs)
        self.windtunnel_conn_id = windtunnel_conn_id

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
