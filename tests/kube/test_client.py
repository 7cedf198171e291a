"""The client of the Kubernetes API against a real HTTP server that answers as one does, and misbehaves when told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakeseldon
import pytest
from kubeapi import Cluster, Fault

from windtunnel.errors import (
    AbsentError,
    ClusterError,
    ConflictError,
    ForbiddenError,
    UnavailableError,
    WindtunnelError,
)
from windtunnel.kube.access import Access
from windtunnel.kube.answers import Answer, error_of, wait_before
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import POD, SELDON_DEPLOYMENT, Kind

JOB = Kind("batch", "v1", "jobs", "Job")


def pod(name: str = "one", **more: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "a"}}, "spec": {}, **more}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with fakeseldon.cluster() as found:
        yield found


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def client(cluster: Cluster, tmp_path: Path, waits: list[float]) -> Client:
    """One whose waits take no time, but count."""
    access = Access(cluster.kubeconfig(tmp_path / "config"))
    spent = [0.0]

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        spent[0] += seconds

    return Client(access, timeout_s=(5.0, 5.0), sleep=sleep, monotonic=lambda: spent[0])


def test_an_object_is_made_read_changed_and_deleted(client: Client, cluster: Cluster) -> None:
    assert client.namespace == "models"
    assert client.get(POD, "one") is None
    made = client.create(POD, pod())
    assert client.get(POD, "one") == made
    assert client.patch(POD, "one", {"metadata": {"labels": {"b": "2"}}})["metadata"]["labels"] == {
        "app": "a",
        "b": "2",
    }
    assert [one["metadata"]["name"] for one in client.list(POD, labels="b=2")["items"]] == ["one"]
    assert client.list(POD, labels="b=3")["items"] == []
    with pytest.raises(ConflictError):
        client.delete(POD, "one", resource_version=made["metadata"]["resourceVersion"])
    assert client.delete(POD, "one")
    assert not client.delete(POD, "one")
    assert cluster.all("pods") == []


def test_what_exists_is_not_made_again(client: Client) -> None:
    client.create(POD, pod())
    with pytest.raises(ConflictError, match="already exists"):
        client.create(POD, pod())


def test_an_apply_owns_its_fields_and_leaves_others_alone(client: Client, cluster: Cluster) -> None:
    client.apply(POD, pod(spec={"a": 1, "b": 2}))
    cluster.edit("pods", "one", lambda thing: thing["spec"].update(theirs=3))
    seen = client.apply(POD, pod(spec={"a": 5}))
    assert seen["spec"] == {"a": 5, "theirs": 3}, "what we no longer say goes, what others said stays"
    request = cluster.requests[-1]
    assert (request.query["fieldManager"], request.query["fieldValidation"]) == ("windtunnel", "Strict")


def test_an_apply_of_a_stale_version_changes_nothing(client: Client, cluster: Cluster) -> None:
    """DEMAND ROL-7"""
    stale = client.apply(POD, pod(spec={"a": 1}))["metadata"]["resourceVersion"]
    client.apply(POD, pod(spec={"a": 2}))
    late = pod(spec={"a": 3})
    late["metadata"]["resourceVersion"] = stale
    with pytest.raises(ConflictError, match="read it again"):
        client.apply(POD, late)
    assert cluster.get("pods", "one")["spec"] == {"a": 2}  # type: ignore[index]


def test_a_field_nobody_knows_is_refused_not_dropped(client: Client) -> None:
    manifest = {
        "apiVersion": SELDON_DEPLOYMENT.api_version,
        "kind": "SeldonDeployment",
        "metadata": {"name": "visits"},
        "spec": {
            "protocol": "v2",
            "predictors": [{"name": "a", "graph": {"name": "m", "implementation": "X"}, "wait": 1}],
        },
    }
    with pytest.raises(ClusterError, match=r'unknown field "spec.predictors\[0\].wait"'):
        client.create(SELDON_DEPLOYMENT, manifest)


@pytest.mark.parametrize("fault", [Fault("GET", 500), Fault("GET", 503), Fault("GET"), Fault("GET", times=3)])
def test_what_passes_is_tried_again(client: Client, cluster: Cluster, waits: list[float], fault: Fault) -> None:
    cluster.put("pods", pod())
    times = fault.times
    cluster.faults.append(fault)
    assert client.get(POD, "one") is not None
    assert waits == [0.25, 0.5, 1.0][:times]


def test_retry_after_is_obeyed(client: Client, cluster: Cluster, waits: list[float]) -> None:
    cluster.put("pods", pod())
    cluster.faults.append(Fault("GET", 429, times=2, headers={"Retry-After": "7"}, reason="TooManyRequests"))
    assert client.get(POD, "one") is not None
    assert waits == [7.0, 7.0]


def test_an_api_that_stays_busy_is_unavailable(client: Client, cluster: Cluster, waits: list[float]) -> None:
    cluster.faults.append(Fault("GET", 429, times=99, headers={"Retry-After": "7"}))
    with pytest.raises(UnavailableError, match="429 again and again"):
        client.get(POD, "one")
    assert sum(waits) <= 30
    cluster.faults[:] = [Fault("GET", 503, times=99, headers={"Retry-After": "3600"})]
    with pytest.raises(UnavailableError):
        client.get(POD, "one")
    assert len(cluster.requests) == 5 + 1, "an hour is not waited for"


def test_a_slow_api_is_given_up_in_time(cluster: Cluster, tmp_path: Path) -> None:
    cluster.faults.append(Fault("GET", wait_s=3.0, times=9))
    hasty = Client(Access(cluster.kubeconfig(tmp_path / "config")), timeout_s=(1.0, 0.2), patience_s=0.1)
    with pytest.raises(UnavailableError, match="cannot read Pod one in namespace models"):
        hasty.get(POD, "one")


def test_nobody_listens(tmp_path: Path) -> None:
    with fakeseldon.cluster() as gone:
        access = Access(gone.kubeconfig(tmp_path / "config"))
    with pytest.raises(UnavailableError, match="does not answer"):
        Client(access, timeout_s=(0.5, 0.5), patience_s=0.1).get(POD, "one")


def test_an_apply_that_was_done_though_its_answer_was_lost(client: Client, cluster: Cluster) -> None:
    """DEMAND PIP-5: asked again, it finds everything as it wants it."""
    cluster.faults.append(Fault("PATCH", done=True))
    assert client.apply(POD, pod(spec={"a": 1}))["spec"] == {"a": 1}
    assert cluster.asked().count("PATCH /api/v1/namespaces/models/pods/one") == 2


def test_a_token_that_was_renewed_is_read_again(client: Client, cluster: Cluster, tmp_path: Path) -> None:
    cluster.put("pods", pod())
    assert client.get(POD, "one")
    cluster.token = "renewed"
    cluster.kubeconfig(tmp_path / "config", "renewed")
    assert client.get(POD, "one")
    cluster.token = "another"
    with pytest.raises(ForbiddenError, match="expired or was revoked"):
        client.get(POD, "one")


def test_refusals_say_what_to_do(client: Client, cluster: Cluster) -> None:
    with pytest.raises(AbsentError, match="serves no such kind"):
        client.get(JOB, "one")
    with pytest.raises(AbsentError, match="CRD is not installed"):
        client.delete(JOB, "one")
    cluster.denied.append("GET .*/pods")
    with pytest.raises(ForbiddenError, match=r"docs/reference/seldon\.md"):
        client.list(POD)
    cluster.namespaces = {"others"}
    with pytest.raises(AbsentError, match="make the namespace first"):
        client.create(POD, pod())


def test_permissions_are_asked_for(client: Client, cluster: Cluster) -> None:
    cluster.denied.append("delete pods")
    assert client.may("get", POD)
    assert not client.may("delete", POD)


def test_a_service_is_reached_through_the_api(client: Client, cluster: Cluster) -> None:
    answer = client.through("nobody", "http", "GET", "/x")
    assert (answer.status, "no endpoints" in answer.message) == (503, True)
    with fakeseldon.Seldon(cluster) as seldon:
        cluster.services["visits-v3"] = ("127.0.0.1", seldon.port, "/direct/visits/v3")
        said = client.through("visits-v3", "http", "POST", "/v2/models/visits/infer", {"inputs": []})
    assert (said.status, said.body["model_version"]) == (200, "3")


@pytest.mark.parametrize(
    ("status", "body", "kind", "says"),
    [
        (403, "exceeded quota: gpus", ForbiddenError, "quota is used up"),
        (404, 'namespaces "x" not found', AbsentError, "make the namespace"),
        (418, "teapot", ClusterError, "answered 418"),
        (422, "admission webhook denied", ClusterError, "admission webhook denied"),
    ],
)
def test_what_a_status_means(status: int, body: str, kind: type[WindtunnelError], says: str) -> None:
    error = error_of(Answer(status, {"kind": "Status", "message": body}, {}), "create Pod one")
    assert type(error) is kind
    assert says in str(error)


def test_how_long_to_wait() -> None:
    from datetime import UTC, datetime

    now = datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)
    dated = Answer(503, "", {"retry-after": "Thu, 01 Jan 2026 12:00:09 GMT"})
    assert wait_before(dated, 1, now) == 9
    assert wait_before(Answer(429, {"kind": "Status", "details": {"retryAfterSeconds": 4}}, {}), 1) == 4
    assert [wait_before(Answer(500, "", {}), n) for n in (1, 2, 3, 9)] == [0.25, 0.5, 1.0, 8.0]
    assert wait_before(Answer(500, "", {"retry-after": "soon"}), 1) == 0.25


def test_a_pod_is_its_service_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kubernetes.config import incluster_config

    from windtunnel.kube import access

    for name, text in (("token", "a-token"), ("namespace", "theirs\n"), ("ca.crt", "an authority")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(access, "_ACCOUNT", tmp_path)
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    assert not Access().in_pod
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    assert Access().in_pod and not Access("a-kubeconfig").in_pod
    api, namespace = Access().connect()
    headers: dict[str, str] = {}
    api.update_params_for_auth(headers, [], ["BearerToken"])
    assert (api.configuration.host, namespace) == ("https://10.0.0.1:443", "theirs")
    assert headers["authorization"].lower() == "bearer a-token"
    assert Access(namespace="mine").connect()[1] == "mine"


def test_no_access_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ForbiddenError, match=r"(?s)nowhere.*KUBECONFIG"):
        Client(Access(str(tmp_path / "nowhere"))).get(POD, "one")
    with fakeseldon.cluster() as cluster:
        path = cluster.kubeconfig(tmp_path / "config", namespace="theirs")
        with pytest.raises(ForbiddenError, match="context other"):
            Client(Access(path, "other")).get(POD, "one")
        assert Client(Access(path)).namespace == "theirs"
        assert Client(Access(path, namespace="mine")).namespace == "mine"
        monkeypatch.setenv("KUBECONFIG", path)
        assert Client().namespace == "theirs"
