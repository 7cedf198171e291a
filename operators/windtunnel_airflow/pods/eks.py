"""A cluster on Amazon EKS, named by a Kubernetes connection: its kubeconfig is made by the amazon provider.

The connection's extra says ``eks_cluster_name`` and, where they are not the defaults, ``aws_conn_id`` and
``region_name``. The provider asks AWS for the cluster's address and lets a token be made from the AWS connection's
credentials; both live in files that go when nobody holds them.
"""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from windtunnel.errors import TrainingError, UnavailableError


@dataclass(frozen=True, slots=True)
class EksCluster:
    """Which cluster, by whose credentials."""

    name: str
    aws_conn_id: str | None = "aws_default"
    region: str | None = None


def eks_of(kubernetes_conn_id: str) -> EksCluster | None:
    """The EKS cluster that a connection names; None where it is another way to a cluster."""
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        extra = BaseHook.get_connection(kubernetes_conn_id).extra_dejson
    except AirflowNotFoundException:
        return None
    name = extra.get("eks_cluster_name")
    if not name:
        return None
    return EksCluster(str(name), extra.get("aws_conn_id", "aws_default"), extra.get("region_name"))


class Kubeconfig:
    """Files for a cluster; they are there until this is closed or forgotten.

    Attributes:
        path: the kubeconfig.
        credentials: what its token command reads.

    Raises:
        TrainingError: AWS does not know the cluster, or us.
        UnavailableError: AWS does not answer.
    """

    def __init__(self, cluster: EksCluster, namespace: str) -> None:
        from airflow.providers.amazon.aws.hooks.eks import EksHook

        files = ExitStack()
        hook = EksHook(aws_conn_id=cluster.aws_conn_id, region_name=cluster.region)
        try:
            self.path, self.credentials = files.enter_context(
                hook.generate_config_file_with_credentials(eks_cluster_name=cluster.name, pod_namespace=namespace)
            )
        except Exception as error:
            said = f"no way to EKS cluster {cluster.name!r} by connection {cluster.aws_conn_id!r}: {error}"
            if not _for_good(error):
                raise UnavailableError(said, hint="another try may help") from error
            raise TrainingError(
                said, hint="the connection's role needs eks:DescribeCluster, and an access entry of the cluster"
            ) from error
        self.close = weakref.finalize(self, files.close)


def _for_good(error: Exception) -> bool:
    """Whether AWS has answered, and the same would be answered again; or there is no such connection."""
    from airflow.sdk.exceptions import AirflowNotFoundException

    told = getattr(error, "response", None) or {}
    status = int((told.get("ResponseMetadata") or {}).get("HTTPStatusCode") or 0)
    throttled = "Throttl" in str((told.get("Error") or {}).get("Code"))
    return isinstance(error, AirflowNotFoundException) or (400 <= status < 500 and status != 429 and not throttled)


def client_of(kubernetes_conn_id: str, namespace: str) -> Any:
    """A ``kubernetes.client.ApiClient`` by a connection, on EKS or not; it holds the files that it needs."""
    from airflow.providers.cncf.kubernetes.hooks.kubernetes import KubernetesHook

    eks = eks_of(kubernetes_conn_id)
    if eks is None:
        return KubernetesHook(conn_id=kubernetes_conn_id).get_conn()
    files = Kubeconfig(eks, namespace)
    client = KubernetesHook(conn_id=kubernetes_conn_id, config_file=files.path, in_cluster=False).get_conn()
    client.kubeconfig = files
    return client
