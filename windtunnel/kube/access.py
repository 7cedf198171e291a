"""Where the API is, and with whose credentials.

Looked for in this order, as everywhere in Kubernetes: the kubeconfig that is named, ``$KUBECONFIG``, the service
account of the pod this process runs in, ``~/.kube/config``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windtunnel.errors import ForbiddenError

#: Connections that are kept open: as many as a triggerer has threads that look at releases.
POOL = 64
_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def own_namespace() -> str | None:
    """The namespace of the pod this process runs in; None where it runs in none."""
    try:
        return (_ACCOUNT / "namespace").read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


@dataclass(frozen=True, slots=True)
class Access:
    """Which cluster, as whom, and where in it.

    Attributes:
        kubeconfig: path of a kubeconfig; None: as the module says.
        context: of that kubeconfig; None: its current one.
        namespace: None: the context's, or the pod's; else ``default``.
    """

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None

    @property
    def in_pod(self) -> bool:
        """Whether the credentials are those of the pod this process runs in."""
        told = self.kubeconfig or self.context or os.environ.get("KUBECONFIG")
        return not told and bool(os.environ.get("KUBERNETES_SERVICE_HOST")) and (_ACCOUNT / "token").is_file()

    @property
    def path(self) -> str | None:
        """The kubeconfig; the library reads the environment only once, when it is imported."""
        return self.kubeconfig or os.environ.get("KUBECONFIG")

    def connect(self) -> tuple[Any, str]:
        """A ``kubernetes.client.ApiClient`` with fresh credentials, and the namespace.

        Raises:
            ForbiddenError: there is no configuration, no such context, or no credentials could be got.
        """
        from kubernetes import client, config

        settings = client.Configuration()
        try:
            if self.in_pod:
                config.load_incluster_config(client_configuration=settings)
                found: str | None = (_ACCOUNT / "namespace").read_text(encoding="utf-8").strip()
            else:
                config.load_kube_config(self.path, self.context, client_configuration=settings)
                found = self._of_context()
        except (config.ConfigException, OSError, ValueError, TypeError) as error:
            where = self.path or "~/.kube/config"
            raise ForbiddenError(
                f"no access to a Kubernetes API by {where}"
                f"{f', context {self.context}' if self.context else ''}: {error}",
                hint="set KUBECONFIG, or name a kubeconfig and one of its contexts ('kubectl config get-contexts')",
            ) from error
        settings.connection_pool_maxsize = POOL
        settings.retries = False  # tries are counted in one place, the client's
        return client.ApiClient(settings), self.namespace or found or "default"

    def _of_context(self) -> str | None:
        from kubernetes import config

        contexts, current = config.list_kube_config_contexts(self.path)
        chosen = next((one for one in contexts if one["name"] == self.context), current)
        namespace = (chosen.get("context") or {}).get("namespace") if chosen else None
        return None if namespace is None else str(namespace)
