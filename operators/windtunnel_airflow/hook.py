"""The hook: one connection to the MLflow server with the governed registry, and the home folder."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from windtunnel.errors import DescriptionError, UnavailableError, WindtunnelError
from windtunnel.home import Home
from windtunnel_airflow.tracking_server.hook import MlflowHook

if TYPE_CHECKING:
    from windtunnel.data.objects import Objects
    from windtunnel.registry.client import RegistryClient
    from windtunnel.serving.place import Intents, Looks, Place


class WindtunnelHook(MlflowHook):
    """Clients for the MLflow server (tracking and registry) and the paths of the embedded stack.

    Args:
        windtunnel_conn_id: a connection of type ``windtunnel``: host, port, login and password of the MLflow server.
        target: where the models in question are served: ``local``, the home; ``kubernetes``, the cluster of the
            connection that extra ``seldon_conn_id`` names.
    """

    conn_name_attr = "windtunnel_conn_id"
    default_conn_name = "windtunnel_default"
    conn_type = "windtunnel"
    hook_name = "Windtunnel"

    def __init__(self, windtunnel_conn_id: str = default_conn_name, *, target: str = "local", **kwargs: Any) -> None:
        super().__init__(windtunnel_conn_id, **kwargs)
        self.windtunnel_conn_id = windtunnel_conn_id
        self.target = target

    @property
    def home(self) -> Home:
        """The home folder of the stack this worker belongs to."""
        return Home.find(self._extra("home"))

    def get_conn(self) -> RegistryClient:
        """A client of the governed registry."""
        return self.connected(self.timeout)

    def connected(self, timeout: float) -> RegistryClient:
        """A client of the governed registry that waits so many seconds for an answer."""
        from windtunnel.registry.client import RegistryClient

        where = self.address
        return RegistryClient(
            where.url,
            where.login or "",
            where.password or "",
            timeout=timeout,
            token=where.token or None,
            verify=where.tls(),
        )

    @property
    def registry(self) -> RegistryClient:
        """The same as ``get_conn``."""
        return self.get_conn()

    # -- the cluster
    @property
    def cluster_url(self) -> str:
        """Base URL of the MLflow server, as pods reach it."""
        return str(self._extra("cluster_url") or self.url).rstrip("/")

    @property
    def cluster_authorities(self) -> dict[str, str]:
        """Variable of a training pod -> Secret beside it with ``ca.crt``: whose certificates it believes of the MLflow
        server, and of the object store."""
        named = {"MLFLOW_TRACKING_SERVER_CERT_PATH": "cluster_ca", "AWS_CA_BUNDLE": "cluster_store_ca"}
        return {variable: str(found) for variable, key in named.items() if (found := self._extra(key))}

    @property
    def objects(self) -> Objects:
        """The object store where workers and pods meet.

        Raises:
            DescriptionError: the connection names none.
        """
        from windtunnel.data.objects import connect

        return connect(self._store, self._store_client)

    @property
    def object_store(self) -> Objects | None:
        """The object store; None where the connection names none."""
        return self.objects if self._extra("store") else None

    @property
    def store_environment(self) -> dict[str, str]:
        """What a pod needs to know of the object store; its credentials are the pod's own, never these."""
        client, out = self._store_client, {"WINDTUNNEL_STORE": self._store}
        if client is not None:
            region, endpoint = client.meta.region_name, str(client.meta.endpoint_url)
            if region:
                out["AWS_DEFAULT_REGION"] = str(region)
            if "amazonaws.com" not in endpoint:
                out["AWS_ENDPOINT_URL_S3"] = endpoint
        return out

    @property
    def _store(self) -> str:
        found = self._extra("store")
        if not found:
            raise DescriptionError(
                f"connection {self.windtunnel_conn_id!r} names no object store, which training in pods needs",
                hint="set its extra 'store' to s3://BUCKET/PREFIX and, where workers need one, 'store_conn_id'",
            )
        return str(found)

    @property
    def _store_client(self) -> Any:
        """A boto3 client by the amazon provider's connection; None where the environment says who we are."""
        conn_id = self._extra("store_conn_id")
        if not conn_id or not self._store.startswith("s3://"):
            return None
        from airflow.providers.amazon.aws.hooks.s3 import S3Hook

        return S3Hook(aws_conn_id=str(conn_id)).get_conn()

    def namespace_of(self, kubernetes_conn_id: str) -> str:
        """The namespace a Kubernetes connection names; else Airflow's own, where it runs in a cluster; else ``default``
        (as KubernetesPodOperator has it)."""
        from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

        from windtunnel.kube.access import own_namespace

        return str(KubernetesHook(conn_id=kubernetes_conn_id).get_namespace() or own_namespace() or "default")

    @property
    def seldon_conn_id(self) -> str:
        """The connection to the cluster where Seldon serves."""
        from windtunnel_airflow.seldon import SeldonHook

        return str(self._extra("seldon_conn_id") or SeldonHook.default_conn_name)

    def elsewhere(self, model: str) -> bool:
        """Whether ``model``, of which only the name is known, is served by the cluster: not in this home, and there
        is a connection to one."""
        if (self.home.serving_model(model) / "desired.json").is_file():
            return False
        try:
            self.get_connection(self.seldon_conn_id)
        except Exception:  # Airflow's own of several kinds: there is none
            return False
        return True

    @property
    def place(self) -> Place:
        """Where the models are served, and what lies beside their traffic."""
        if self.target == "kubernetes":
            from windtunnel_airflow.places import cluster

            return cluster(self.windtunnel_conn_id, self.seldon_conn_id)
        from windtunnel.serving.place import at_home

        return at_home(self.home)

    def backend(self) -> Any:
        """The serving backend."""
        return self.place.backend

    def looks(self, model: str) -> Looks:
        """The look log of one model, beside its traffic."""
        return self.place.looks(model)

    def intents(self) -> Intents:
        """The promoting intents, beside the traffic."""
        return self.place.intents

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
