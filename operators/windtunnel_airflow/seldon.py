"""The connection to a cluster where Seldon serves: type ``windtunnel_seldon``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from windtunnel.errors import WindtunnelError

if TYPE_CHECKING:
    from windtunnel.serving.seldon import Seldon


class SeldonHook(BaseHook):
    """Which cluster, and how Seldon serves there. No secret is in it: Secrets of the cluster are named, and a
    kubeconfig is the path of a file on the workers.

    Args:
        seldon_conn_id: a connection of type ``windtunnel_seldon``; its extra is what ``Seldon.of`` takes.
    """

    conn_name_attr = "seldon_conn_id"
    default_conn_name = "windtunnel_seldon"
    conn_type = "windtunnel_seldon"
    hook_name = "Windtunnel: Seldon"

    def __init__(self, seldon_conn_id: str = default_conn_name, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seldon_conn_id = seldon_conn_id

    @property
    def settings(self) -> Seldon:
        """The cluster's settings.

        Raises:
            DescriptionError: the connection says what nobody knows, or lacks what is needed.
        """
        from windtunnel.serving.seldon import Seldon

        return Seldon.of_form(self.get_connection(self.seldon_conn_id).extra_dejson or {})

    def get_conn(self) -> Any:
        """The serving backend."""
        from windtunnel.serving.place import in_cluster

        return in_cluster(self.settings).backend

    def test_connection(self) -> tuple[bool, str]:
        """Ask the cluster whether these credentials may do what a release does, and Prometheus whether it answers."""
        from windtunnel.kube.client import Client
        from windtunnel.serving.core2 import needed

        try:
            settings = self.settings
            client = Client(settings.access, patience_s=5.0)
            where = f"namespace {client.namespace}"
            for kind, verbs in needed(settings).items():
                client.list(kind)
                lacking = [verb for verb in verbs if not client.may(verb, kind)]
                if lacking:
                    return False, f"May not {', '.join(lacking)} {kind.plural} in {where}"
            if settings.prometheus is None:
                return True, f"Seldon answers in {where}; no Prometheus is set, so gates have no traffic numbers"
            return _prometheus(settings.prometheus, where)
        except WindtunnelError as error:
            return False, str(error)
        except Exception as error:  # whatever it is, the form must show it
            return False, f"{type(error).__name__}: {error}"


def _prometheus(url: str, where: str) -> tuple[bool, str]:
    import httpx

    try:
        answer = httpx.get(f"{url.rstrip('/')}/-/ready", timeout=5.0)
    except httpx.HTTPError as error:
        return False, f"Seldon answers in {where}, Prometheus at {url} does not: {error!r}"
    return answer.status_code < 500, f"Seldon answers in {where}, Prometheus at {url} with {answer.status_code}"
