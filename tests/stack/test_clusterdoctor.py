"""DEMAND OPS-4: ``doctor --target kubernetes`` finds what is wrong with a cluster and says how to mend it.

Over real HTTP against the tests' own API; against a real API server in tests/kube/test_real_doctor.py.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from kubeapi import Cluster as Api
from kubeapi import Fault
from typer.testing import CliRunner

from windtunnel.errors import DescriptionError
from windtunnel.kube import rights
from windtunnel.kube.access import Access
from windtunnel.kube.client import groups_of
from windtunnel.kube.extensions import EXTENSIONS
from windtunnel.serving.seldon import Seldon
from windtunnel.stack.clusterdoctor import Cluster, api, examine, looking, machines, namespace
from windtunnel.stack.finding import Finding

SELDON = "machinelearning.seldon.io"


def node(name: str, ready: bool = True, labels: dict[str, str] | None = None, **offers: str) -> dict[str, Any]:
    allocatable = {
        "cpu": "8",
        "memory": "64Gi",
        "ephemeral-storage": "200Gi",
        **{f"nvidia.com/{what.replace('_', '-')}": count for what, count in offers.items()},
    }
    condition = {"type": "Ready", "status": "True" if ready else "Unknown"}
    return {
        "metadata": {"name": name, "labels": labels or {}},
        "status": {"allocatable": allocatable, "conditions": [condition]},
    }


def storage_class(name: str, default: bool = False) -> dict[str, Any]:
    key = "storageclass.kubernetes.io/is-default-class"
    return {"metadata": {"name": name, "annotations": {key: "true"} if default else {}}}


def install(cluster: Api, *names: str) -> None:
    """As discovery tells it."""
    for one in (one for one in EXTENSIONS if one.name in names):
        cluster.pages[f"/apis/{one.group}"] = {"kind": "APIGroup", "versions": [{"version": one.versions[0]}]}
        cluster.pages[f"/apis/{one.group}/{one.versions[0]}"] = {"resources": [{"name": p} for p in one.plurals]}


@pytest.fixture
def cluster() -> Iterator[Api]:
    """A cluster in which all is well."""
    plurals = ("resourcequotas", "limitranges", "secrets", "configmaps")
    with Api(dict.fromkeys(plurals, ("/api/v1", None))) as found:
        found.pages |= {
            "/version": {"major": "1", "minor": "34+", "gitVersion": "v1.34.1"},
            "/api/v1/nodes": {"items": [node("n1", labels={machines.PRODUCT: "A100"}, gpu="2", mig_1g_5gb="7")]},
            "/apis/storage.k8s.io/v1/storageclasses": {"items": [storage_class("gp3", default=True)]},
            "/api/v1/namespaces/models": {"metadata": {"name": "models", "labels": {namespace.ENFORCE: "restricted"}}},
        }
        install(found, "Seldon Core 1")
        yield found


@pytest.fixture
def look(cluster: Api, tmp_path: Path) -> Callable[..., dict[str, Finding]]:
    def look(**more: Any) -> dict[str, Finding]:
        asked = {"access": Access(cluster.kubeconfig(tmp_path / "kubeconfig"))} | more
        found = examine(Cluster(**asked))
        assert len({one.name for one in found}) == len(found)
        assert all(one.mend for one in found if one.result != "ok"), "each says how to mend it"
        return {one.name: one for one in found}

    return look


def test_all_is_well(look: Callable[..., dict[str, Finding]], tmp_path: Path) -> None:
    found = look(store=(tmp_path / "store").as_uri())
    beside = {"api certificate", "prometheus", "gateway"}  # plain HTTP here; the others were not named
    assert {one.name for one in found.values() if one.result != "ok"} == beside
    assert found["gpus"].found == "2 nvidia.com/gpu (A100), 7 nvidia.com/mig-1g-5gb (A100)"
    assert found["context"].found == "context fake, namespace models"
    assert found["rights of training"].found.startswith("these credentials may do all 21 things")
    assert not list((tmp_path / "store").rglob("*.*")), "the probe is removed"


def test_a_missing_verb_is_named_with_the_command_that_gives_it(
    cluster: Api, look: Callable[..., dict[str, Finding]]
) -> None:
    cluster.denied += ["delete pods", "get pods/log", "list nodes"]
    found = look()
    one = found["rights of training"]
    assert one.result == "fail"
    assert "delete pods (start" in one.found and "get pods/log (the task's log)" in one.found
    assert "kubectl create role -n models windtunnel-training-1 --verb=delete --resource=pods" in one.mend
    assert "--resource=pods/log" in one.mend and "create clusterrole windtunnel-training-3" in one.mend
    assert found["rights of releases"].result == "ok"
    cluster.denied[:] = ["list nodes"]
    assert look()["rights of training"].result == "warn", "all works without it"


def test_each_verb_of_each_part_is_asked_for(cluster: Api, look: Callable[..., dict[str, Finding]]) -> None:
    look(parts=("guard",))
    asked = [one.body["spec"]["resourceAttributes"] for one in cluster.requests if one.path.endswith("accessreviews")]
    assert {(a["group"], a["resource"], a["subresource"], a["verb"], a.get("namespace")) for a in asked} == {
        (right.group, *[*right.resource.split("/"), ""][:2], verb, "models")
        for right in rights.GUARD.rights
        for verb in right.verbs
    }


def test_somebody_elses_rights(cluster: Api, look: Callable[..., dict[str, Finding]]) -> None:
    user = "system:serviceaccount:airflow:airflow-worker"
    assert groups_of(user) == ["system:serviceaccounts", "system:serviceaccounts:airflow", "system:authenticated"]
    assert groups_of("ada") == ["system:authenticated"]
    found = look(user=user, parts=("guard",))
    assert found["rights of guard"].found.startswith(user)
    assert [one.body["spec"]["user"] for one in cluster.requests if one.path.endswith("/subjectaccessreviews")]
    cluster.denied.append("POST .*/subjectaccessreviews")
    assert look(user=user)["rights"].result == "warn", "who may not ask has not found anything wrong"


def test_no_cluster_context_or_token(cluster: Api, tmp_path: Path) -> None:
    """What needs the API is not looked at then, and the rest is."""
    path = cluster.kubeconfig(tmp_path / "kubeconfig")

    def looked(access: Access) -> dict[str, Finding]:
        return {one.name: one for one in examine(Cluster(access))}

    found = looked(Access(path, context="prod"))
    assert set(found) == {"context", "object store", "prometheus", "gateway"}
    assert found["context"].result == "fail" and "its contexts: fake" in found["context"].found
    assert looked(Access(str(tmp_path / "none")))["context"].result == "fail"
    found = looked(Access(cluster.kubeconfig(tmp_path / "old", token="expired")))
    assert found["reached"].result == "fail" and "log in again" in found["reached"].mend
    config = json.loads(Path(path).read_text())
    config["clusters"][0]["cluster"]["server"] = "http://127.0.0.1:9"
    (tmp_path / "gone").write_text(json.dumps(config))
    found = looked(Access(str(tmp_path / "gone")))
    assert found["api"].result == "fail" and "does not answer" in found["api"].found and "rights" not in found


@pytest.mark.parametrize(
    ("major", "minor", "result"),
    [("1", "29", "fail"), ("1", "30+", "ok"), ("1", "36", "ok"), ("1", "99", "warn"), ("", "", "fail")],
)
def test_versions(major: str, minor: str, result: str) -> None:
    assert api.judge_version(major, minor, "").result == result


def test_the_chart_asks_for_the_same_oldest_version() -> None:
    chart = Path(__file__).parents[2] / "helm" / "windtunnel" / "Chart.yaml"
    assert f'kubeVersion: ">={api.OLDEST[0]}.{api.OLDEST[1]}.0-0"' in chart.read_text(encoding="utf-8")


@pytest.mark.parametrize(("ahead", "result"), [(0, "ok"), (-4, "warn"), (60, "fail"), (-60, "fail")])
def test_clocks(look: Callable[..., dict[str, Finding]], ahead: float, result: str) -> None:
    found = look(clock=lambda: time.time() + ahead)["clock"]
    assert found.result == result
    assert ("behind" in found.found) == (ahead > 0) and ("ahead" in found.found) == (ahead < 0)


def test_what_is_not_installed(cluster: Api, look: Callable[..., dict[str, Finding]]) -> None:
    del cluster.pages[f"/apis/{SELDON}"]
    found = look()
    assert found["Seldon Core 1"].result == "fail" and "install Seldon" in found["Seldon Core 1"].mend
    assert found["KEDA"].result == "ok" and found["KEDA"].found.startswith("not installed; for autoscaling")
    assert look(parts=("training",))["Seldon Core 1"].result == "ok", "nobody needs it there"
    cluster.pages[f"/apis/{SELDON}"] = {"versions": [{"version": "v1alpha3"}]}
    assert look()["Seldon Core 1"].found == f"{SELDON} is served as v1alpha3, expected v1"
    cluster.pages[f"/apis/{SELDON}"] = {"versions": [{"version": "v1"}]}
    cluster.pages[f"/apis/{SELDON}/v1"] = {"resources": []}
    assert "has no seldondeployments" in look()["Seldon Core 1"].found


def test_namespace(cluster: Api, look: Callable[..., dict[str, Finding]]) -> None:
    page = cluster.pages["/api/v1/namespaces/models"]
    page["metadata"]["labels"] = {}
    assert "kubectl label namespace models" in look()["pod security"].mend
    page["metadata"]["labels"] = {namespace.ENFORCE: "privileged"}
    assert look()["pod security"].found.startswith("privileged is enforced")
    page["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    assert look()["namespace"].result == "fail"
    cluster.denied.append("GET /api/v1/namespaces/models$")
    assert look()["namespace"].result == "warn"


@pytest.mark.parametrize(
    ("hard", "used", "result", "says"),
    [
        ({"pods": "10", "requests.cpu": "4"}, {"pods": "3", "requests.cpu": "500m"}, "ok", "pods 3 of 10"),
        ({"requests.memory": "10Gi"}, {"requests.memory": "9500Mi"}, "warn", "requests.memory 9500Mi of 10Gi"),
        ({"pods": "10", "requests.cpu": "4"}, {"pods": "10"}, "fail", "pods 10 of 10"),
        ({"requests.nvidia.com/gpu": "0"}, {"requests.nvidia.com/gpu": "0"}, "ok", "0 of 0"),
    ],
)
def test_quotas(
    cluster: Api, look: Callable[..., dict[str, Finding]], hard: Any, used: Any, result: str, says: str
) -> None:
    cluster.put("resourcequotas", {"metadata": {"name": "team"}, "status": {"hard": hard, "used": used}})
    found = look()["quota team"]
    assert found.result == result and says in found.found


def test_nodes_and_gpus() -> None:
    def judged(*nodes: dict[str, Any]) -> dict[str, tuple[str, str]]:
        return {one.name: (one.result, one.found) for one in machines.judge_nodes(nodes)}

    assert judged()["nodes"] == ("fail", "there are no nodes")
    assert judged(node("a", ready=False, gpu="8"))["gpus"][0] == "warn", "what is not ready offers nothing"
    assert judged(node("a"), node("b", ready=False))["nodes"] == ("warn", "1 of 2 nodes are ready")
    assert judged(node("a", gpu="0"))["gpus"][0] == "warn"
    assert judged(node("a", gpu="4"))["gpus"] == ("warn", "4 nvidia.com/gpu; no type is told by a")


def test_who_may_not_list_nodes_is_told_so(cluster: Api, look: Callable[..., dict[str, Finding]]) -> None:
    cluster.denied.append("GET /api/v1/nodes$")
    found = look()["gpus"]
    assert found.result == "warn" and "without that right" in found.mend


def test_storage_classes(cluster: Api, look: Callable[..., dict[str, Finding]]) -> None:
    page = cluster.pages["/apis/storage.k8s.io/v1/storageclasses"]
    page["items"] = [storage_class("a"), storage_class("b")]
    assert "there are: a, b" in look()["storage class"].found
    page["items"] = [storage_class("a", True), storage_class("b", True)]
    assert look()["storage class"].found == "several are the default: a, b"


def test_object_stores(look: Callable[..., dict[str, Finding]], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert look(store=(tmp_path / "file").as_uri())["object store"].result == "fail"
    found = look(store="gs://bucket")["object store"]
    assert found.result == "fail" and "s3://BUCKET" in found.mend


class Answering(ThreadingHTTPServer):
    """A Prometheus with some metrics, or another server."""

    def __init__(self, metrics: dict[str, float] | None, token: str | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.metrics, self.token = metrics, token

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Answering

    def log_message(self, *_: Any) -> None: ...

    def do_POST(self) -> None:
        if self.server.token and self.headers["Authorization"] != f"Bearer {self.server.token}":
            self._answer(401, b"{}")
            return
        query = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())["query"][0]
        metrics = self.server.metrics
        rows = [[0, str(value)] for name, value in (metrics or {}).items() if name in query]
        labels = {"predictor_name": "v1", "server": "visits-v1", "code": "200", "le": "0.1"}
        body = b"<html>" if metrics is None else json.dumps(
            {"status": "success", "data": {"result": [{"metric": labels, "value": row} for row in rows]}}
        ).encode()  # fmt: skip
        self._answer(200, body)

    def do_GET(self) -> None:
        self._answer(404 if self.server.metrics is not None else 503, b"{}")

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def answering() -> Iterator[Callable[..., str]]:
    servers: list[Answering] = []

    def start(metrics: dict[str, float] | None, token: str | None = None) -> str:
        servers.append(Answering(metrics, token))
        threading.Thread(target=servers[-1].serve_forever, args=(0.05,), daemon=True).start()
        return servers[-1].url

    yield start
    for one in servers:
        one.shutdown()
        one.server_close()


def test_prometheus(look: Callable[..., dict[str, Finding]], answering: Callable[..., str], tmp_path: Path) -> None:
    metrics = {"up == 1": 3.0, "requests_seconds_count": 1.0, "requests_seconds_bucket": 1.0, "process_start": 1.0}
    found = look(prometheus=answering(metrics))
    assert found["prometheus"].result == found["metrics"].result == "ok"
    found = look(prometheus=answering({"up == 1": 3.0}))
    assert found["metrics"].result == "warn" and "seldon_api_executor_server_requests" in found["metrics"].found
    closed = answering({"up == 1": 3.0, "seldon_model_infer_api": 1.0, "process_start": 1.0}, token="word")
    assert "answered 401" in look(prometheus=closed)["prometheus"].found
    (tmp_path / "token").write_text("word\n")
    core2 = Seldon.of({"image": "i", "registry": "r", "api": "core2", "prometheus_token_file": f"{tmp_path}/token"})
    found = look(prometheus=closed, seldon=core2)
    assert found["prometheus"].result == found["metrics"].result == "ok", "Core 2 counts by other names"
    assert look(prometheus=answering({}))["prometheus"].found.endswith("scrapes nobody")
    assert "is no Prometheus" in look(prometheus=answering(None))["prometheus"].found
    assert look(prometheus="http://127.0.0.1:9")["prometheus"].result == "fail"


def test_gateway(look: Callable[..., dict[str, Finding]], answering: Callable[[dict[str, float] | None], str]) -> None:
    url = answering({})
    found = look(gateway=f"{url}/seldon/{{namespace}}/{{model}}")["gateway"]
    assert found.result == "ok" and "/seldon/models/windtunnel-doctor answers (404" in found.found
    assert look(gateway=answering(None))["gateway"].result == "warn"
    found = look(gateway="http://127.0.0.1:9/{model}")["gateway"]
    assert found.result == "fail" and "inside the cluster" in found.mend


def test_a_check_that_breaks_or_is_refused_is_a_finding(
    cluster: Api, look: Callable[..., dict[str, Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.faults.append(Fault("GET /apis/storage", status=400))
    assert look()["storage classes"].result == "fail"

    def broken(*_: Any) -> Iterator[Finding]:
        raise RuntimeError("boom")
        yield

    monkeypatch.setattr(machines, "gpus", broken)
    assert "boom" in look()["broken"].found


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(DescriptionError, match="no part 'gaurd'"):
        looking.examine(Cluster(parts=("gaurd",)))


def test_the_command(cluster: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from windtunnel.cli.app import app

    monkeypatch.setenv("KUBECONFIG", cluster.kubeconfig(tmp_path / "kubeconfig"))
    (tmp_path / "seldon.toml").write_text('image = "i"\nregistry = "http://r"\ngateway = "http://127.0.0.1:9"\n')
    user = {"username": "YQ==", "password": "Yg=="}
    cluster.put("secrets", {"metadata": {"name": "windtunnel-registry"}, "data": user})
    keys = {"keys.json": "{}", "ab.pem": "-----"}
    cluster.put("configmaps", {"metadata": {"name": "windtunnel-keys"}, "data": keys})
    asked = ["doctor", "--target", "kubernetes", "--seldon", str(tmp_path / "seldon.toml"), "--json"]
    done = CliRunner().invoke(app, asked)
    told = json.loads(done.stdout)
    assert done.exit_code == 1 and told["schema"] == "windtunnel.doctor/1" and told["target"] == "kubernetes"
    failed = [one["name"] for one in told["findings"] if one["result"] == "fail"]
    assert failed == ["gateway"]
    done = CliRunner().invoke(app, ["doctor", "--target", "kubernetes", "--part", "training"])
    assert done.exit_code == 0 and "rights of training" in done.stdout and "rights of guard" not in done.stdout
    done = CliRunner().invoke(app, ["doctor", "--namespace", "models"])
    assert isinstance(done.exception, DescriptionError) and "--target kubernetes" in str(done.exception)
