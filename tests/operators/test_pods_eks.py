"""Training pods on Amazon EKS: the amazon provider's own operator, hook and token, an EKS that moto plays, and a
Kubernetes API over HTTP in the place that it names."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from windtunnel.errors import TrainingError, UnavailableError

pytest.importorskip("kmock")
pytest.importorskip("moto")
from fakecluster import RUNNING, Cluster, over

CASE = Path(__file__).parents[1] / "kube" / "cases" / "pod-small.json"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as found:
        yield found


@pytest.fixture
def eks(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Airflow's connection names an EKS cluster; AWS says that its API is the cluster of these tests."""
    import boto3
    from moto.backends import get_backend
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        aws = {
            "conn_type": "aws", "login": "a-key", "password": "a-secret",
            "extra": {"endpoint_url": f"http://{host}:{port}", "region_name": "eu-central-1"},
        }  # fmt: skip
        extra = {"eks_cluster_name": "tides", "aws_conn_id": "cloud", "region_name": "eu-central-1",
                 "namespace": "training"}  # fmt: skip
        monkeypatch.setenv("AIRFLOW_CONN_CLOUD", json.dumps(aws))
        monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps({"conn_type": "kubernetes", "extra": extra}))
        monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")  # the token's command looks there
        client = boto3.client(
            "eks", endpoint_url=f"http://{host}:{port}", region_name="eu-central-1", aws_access_key_id="a-key",
            aws_secret_access_key="a-secret",
        )  # fmt: skip
        client.create_cluster(name="tides", roleArn="arn:aws:iam::123456789012:role/eks", resourcesVpcConfig={})
        made = get_backend("eks")["123456789012"]["eu-central-1"].clusters["tides"]
        made.endpoint = cluster.url
        made.certificate_authority = {"data": base64.b64encode(b"none").decode()}
        yield client
        with contextlib.suppress(client.exceptions.ResourceNotFoundException):
            client.delete_cluster(name="tides")  # what moto knows outlives its server
    finally:
        server.stop()


def flight() -> Any:
    from windtunnel_airflow.pods.flight import PodFlight

    made = json.loads(CASE.read_text())
    made["metadata"] |= {"namespace": "training"}
    return PodFlight("train", "kubernetes_default", made, 600)


def test_a_cluster_that_aws_does_not_know_is_said(eks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from windtunnel_airflow.pods.eks import eks_of

    assert eks_of("kubernetes_default") is not None
    eks.delete_cluster(name="tides")
    with pytest.raises(TrainingError, match="no way to EKS cluster 'tides' by connection 'cloud'"):
        _ = flight().operator
    once = {"retries": {"total_max_attempts": 1}}
    extra = {"endpoint_url": "http://127.0.0.1:9", "region_name": "eu-central-1", "config_kwargs": once}
    away = {"conn_type": "aws", "login": "a", "password": "b", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_CLOUD", json.dumps(away))
    with pytest.raises(UnavailableError, match="no way to EKS cluster"):
        _ = flight().operator
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps({"conn_type": "kubernetes"}))
    assert eks_of("kubernetes_default") is None


def test_the_operator_is_the_providers_and_its_files_go_with_it(eks: Any) -> None:
    from airflow.providers.amazon.aws.operators.eks import EksPodOperator

    made = flight()
    assert type(made.operator) is EksPodOperator
    files = [Path(made.operator.kubeconfig.path), Path(made.operator.kubeconfig.credentials)]
    assert all(path.is_file() for path in files)
    assert files[1].stat().st_mode & 0o077 == 0
    made.operator.kubeconfig.close()
    assert not any(path.exists() for path in files)


@pytest.mark.long
def test_others_reach_it_by_the_same_connection(eks: Any, cluster: Cluster) -> None:
    """The steward, and trainings on several nodes."""
    from windtunnel.kube.kinds import POD
    from windtunnel_airflow.pods import gangflight, sweeping

    swept = sweeping.sweep("kubernetes_default", "training", 0.0, lambda task: None, lambda *given: False)
    assert swept.removed == []
    listed = gangflight.client_of("kubernetes_default", "training").list(POD)
    assert listed["kind"] == "PodList"
    assert all(token.startswith("Bearer k8s-aws-v1.") for token in cluster.tokens)


@pytest.mark.long
def test_a_pod_flies_on_eks(eks: Any, cluster: Cluster) -> None:
    """The token is the provider's, in the worker and in the triggerer; each call of its command takes seconds."""
    from airflow.sdk.exceptions import TaskDeferred

    from windtunnel_airflow.pods.trigger import TrainingPodTrigger

    cluster.script = [RUNNING, over(0, "Completed", "Succeeded")]
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="train", map_index=-1, try_number=1, start_date=None,
                         xcom_push=lambda key, value: None)  # fmt: skip
    context = {"ti": ti, "dag": SimpleNamespace(), "run_id": "r", "dag_run": SimpleNamespace(run_id="r")}
    made = flight()
    with pytest.raises(TaskDeferred) as waits:
        made.watch(context)
    ours = TrainingPodTrigger.instead_of(waits.value.trigger, grace=20, run={})
    stored = json.dumps(ours.serialize()[1])
    assert "a-secret" not in stored and "airflow_eks_" not in stored, "no credentials lie in Airflow's database"

    async def first() -> dict[str, Any]:
        async for event in TrainingPodTrigger(**json.loads(stored)).run():
            return dict(event.payload)
        raise AssertionError("the trigger said nothing")

    event = asyncio.run(asyncio.wait_for(first(), 120))
    assert event["status"] == "success"
    again = flight()  # the task comes back in another process
    again.resume(context, event)
    assert again.end()[0].kind == "succeeded"
    again.remove()
    assert not cluster.pods
    tokens = {token.removeprefix("Bearer ") for token in cluster.tokens}
    for token in tokens:
        assert token.startswith("k8s-aws-v1.")
        signed = base64.urlsafe_b64decode(token.removeprefix("k8s-aws-v1.") + "==").decode()
        assert "GetCallerIdentity" in signed and "X-Amz-Signature" in signed
