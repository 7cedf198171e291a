"""The hook of any MLflow 3 server: connection type ``mlflow``; connections of type ``windtunnel`` do as well."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import BaseHook

from windtunnel.errors import DescriptionError, UnavailableError, WindtunnelError

if TYPE_CHECKING:
    from windtunnel_airflow.tracking_server.rest import Address, MlflowRest

#: Of a connection's extras only these are read; nothing else is passed on to any client.
EXTRAS = ("public_url", "timeout", "attempts", "token", "verify", "ca", "headers")

#: What MLflow's client reads of the environment about the server; inside ``mlflow_environment`` it is this connection.
VARIABLES = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_REGISTRY_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
)


class MlflowHook(BaseHook):
    """One MLflow server, tracking and registry.

    Args:
        mlflow_conn_id: a connection of type ``mlflow``: host (with or without ``https://``), port, login and password,
            or a token; in extra ``token``, ``verify``, ``ca``, ``headers``, ``timeout``, ``attempts``, ``public_url``.
    """

    conn_name_attr = "mlflow_conn_id"
    default_conn_name = "mlflow_default"
    conn_type = "mlflow"
    hook_name = "MLflow"

    def __init__(self, mlflow_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mlflow_conn_id = mlflow_conn_id
        self._connection: Any = None
        self._rest: MlflowRest | None = None

    @property
    def connection(self) -> Any:
        """The Airflow connection, read once."""
        if self._connection is None:
            self._connection = self.get_connection(self.mlflow_conn_id)
        return self._connection

    def _extra(self, key: str) -> Any:
        found = (self.connection.extra_dejson or {}).get(key)
        return None if found == "" else found

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
        """Seconds for one request."""
        return float(self._extra("timeout") or 10)

    @property
    def address(self) -> Address:
        """Where the server is, and who we are there.

        Raises:
            DescriptionError: the connection says something that cannot be used.
        """
        from windtunnel_airflow.tracking_server.rest import Address

        connection, headers = self.connection, self._extra("headers") or {}
        where = f"connection {self.mlflow_conn_id!r}"
        if not isinstance(headers, dict):
            raise DescriptionError(f"{where}: extra 'headers' is {headers!r}; expected an object of names and values")
        # As in the older provider: login "token" means that the password is a bearer token.
        bearer = connection.password if connection.login == "token" else None
        token = str(self._extra("token") or bearer or "")
        return Address(
            url=self.url,
            login="" if bearer else connection.login or "",
            password="" if bearer else connection.password or "",
            token=token,
            verify=_flag(self._extra("verify"), where),
            ca=str(self._extra("ca") or ""),
            headers={str(name): str(value) for name, value in headers.items()},
            timeout=self.timeout,
            attempts=int(self._extra("attempts") or 5),
        )

    @property
    def rest(self) -> MlflowRest:
        """MLflow's REST API, as this connection's user."""
        if self._rest is None:
            from windtunnel_airflow.tracking_server.rest import MlflowRest

            if not self.url.startswith("http"):
                raise DescriptionError(
                    f"connection {self.mlflow_conn_id!r}: host {self.connection.host!r} is no http or https URL",
                    hint="expected the address of an MLflow server",
                )
            self._rest = MlflowRest(self.address)
        return self._rest

    def get_conn(self) -> Any:
        """A client of MLflow's REST API."""
        return self.rest

    def mlflow_env(self) -> dict[str, str]:
        """Environment variables with which MLflow's own client reaches the server; holds the password."""
        address = self.address
        env = {"MLFLOW_TRACKING_URI": address.url, "MLFLOW_REGISTRY_URI": address.url}
        if address.token:
            env["MLFLOW_TRACKING_TOKEN"] = address.token
        elif address.login:
            env["MLFLOW_TRACKING_USERNAME"] = address.login
            env["MLFLOW_TRACKING_PASSWORD"] = address.password
        if not address.verify:
            env["MLFLOW_TRACKING_INSECURE_TLS"] = "true"
        elif address.ca:
            env["MLFLOW_TRACKING_SERVER_CERT_PATH"] = address.ca
        return env

    @contextmanager
    def mlflow_environment(self) -> Iterator[None]:
        """Inside the block, and for processes started in it, MLflow's variables name this server and no other."""
        wanted = self.mlflow_env()
        before = {key: os.environ.get(key) for key in VARIABLES}
        for key in VARIABLES:
            os.environ.pop(key, None)
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

            # The variables name the server, unless somebody in this process has set another address: it comes back.
            tracking, registry = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
            if tracking != self.url:
                mlflow.set_tracking_uri(self.url)
            if registry != self.url:
                mlflow.set_registry_uri(self.url)
            try:
                yield mlflow.MlflowClient(tracking_uri=self.url, registry_uri=self.url)
            finally:
                if tracking != self.url:
                    mlflow.set_tracking_uri(tracking)
                if registry != self.url:
                    mlflow.set_registry_uri(registry)

    # -- pages for people

    def experiment_url(self, experiment_id: str) -> str:
        """Page of an experiment in the MLflow UI."""
        return f"{self.public_url}/#/experiments/{experiment_id}"

    def run_url(self, run_id: str, experiment_id: str) -> str:
        """Page of a run in the MLflow UI."""
        return f"{self.public_url}/#/experiments/{experiment_id}/runs/{run_id}"

    def model_url(self, model: str) -> str:
        """Page of a registered model in the MLflow UI."""
        return f"{self.public_url}/#/models/{quote(model, safe='')}"

    def version_url(self, model: str, version: str) -> str:
        """Page of a model version in the MLflow UI."""
        return f"{self.public_url}/#/models/{quote(model, safe='')}/versions/{version}"

    def test_connection(self) -> tuple[bool, str]:
        """Ask the server for an experiment and for a model, with this connection's credentials."""
        try:
            self.rest.address.tls()
            self.rest.get("/experiments/search", max_results=1)
            self.rest.get("/registered-models/search", max_results=1)
            return True, f"The MLflow server at {self.url} answers; experiments and models can be read."
        except UnavailableError as error:
            return False, f"No answer from {self.url}: {error}"
        except WindtunnelError as error:
            return False, str(error)
        except Exception as error:  # whatever it is, the form must show it
            return False, f"{type(error).__name__}: {error}"


def _flag(value: Any, where: str) -> bool:
    if value is None or isinstance(value, bool):
        return value is not False
    if str(value).strip().lower() in ("true", "1", "yes", "false", "0", "no"):
        return str(value).strip().lower() in ("true", "1", "yes")
    raise DescriptionError(
        f"{where}: extra 'verify' is {value!r}; expected true or false", hint="a CA file goes to 'ca'"
    )
