"""DEMAND OPS-4: the doctor holds a cluster against what these models need: extensions, runtimes, limits, collector.

Pure tables, and the checks over real HTTP against the tests' own API; LimitRanges of a real API server in
tests/kube/test_real_doctor.py.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from kubeapi import Cluster as Api

from windtunnel.kube.access import Access
from windtunnel.kube.client import Client
from windtunnel.serving.core2 import Core2
from windtunnel.serving.seldon import Seldon
from windtunnel.spec import Model
from windtunnel.stack.clusterdoctor import Cluster, api, collecting, limits, needs, secrets
from windtunnel.stack.finding import Finding

ALL = ("training", "releases", "guard")
BY = {"runtime": "torch", "scope": "namespace"}


def model(target: str = "kubernetes", serving: dict[str, Any] | None = None, **training: Any) -> Model:
    plain: dict[str, Any] = {
        "name": "sea",
        "owner": "tides",
        "target": target,
        "data": {"source": "rows.csv", "time": "t", "target": "y", "features": ["a"]},
        "training": {"entry_point": "a:b", "target": "kubernetes", **training},
        "serving": serving or {},
    }
    return Model.model_validate(plain)


# -- extensions

KEDA = Seldon(image="i", registry="http://r", autoscaler="keda", prometheus="http://p")
NEEDS: list[tuple[str, Model, tuple[str, ...], Seldon | None, dict[str, list[str]]]] = [
    ("nothing", model(pod={"image": "i"}), ALL, None, {}),
    ("nodes", model(nodes=2, pod={"image": "i", "queue": "q"}), ALL, None,
     {"JobSet": ["sea (training.nodes)"], "Kueue": ["sea (training.pod.queue)"]}),
    ("a TrainJob", model(nodes=2, pod={"image": "i", "trainjob": BY}), ALL, None,
     {"JobSet": ["sea (training.nodes)"], "Kubeflow Trainer": ["sea (training.pod.trainjob)"]}),
    ("other parts", model(nodes=2, pod={"image": "i"}), ("guard",), None, {}),
    ("autoscaling", model(serving={"maximum": 3}), ALL, None, {"metrics server": ["sea (serving.maximum)"]}),
    ("by KEDA", model(serving={"maximum": 3}), ALL, KEDA, {"KEDA": ["sea (serving.maximum)"]}),
    ("Core 2 scales itself", model(serving={"maximum": 3}), ("training", "releases-core2"),
     Core2(image="i", registry="http://r"), {}),
]  # fmt: skip


@pytest.mark.parametrize(("one", "parts", "seldon", "wanted"), [case[1:] for case in NEEDS], ids=[c[0] for c in NEEDS])
def test_what_a_model_needs(
    one: Model, parts: tuple[str, ...], seldon: Seldon | None, wanted: dict[str, list[str]]
) -> None:
    assert needs.extensions_of([one], parts, seldon) == wanted


def test_what_a_model_needs_and_the_cluster_lacks_fails() -> None:
    jobset = next(one for one in api.EXTENSIONS if one.name == "JobSet")
    found = api.judge_extension(jobset, [], None, set(), ALL, ["sea (training.nodes)"])
    assert found.result == "fail" and found.mend == "install JobSet"
    assert found.found == "not installed; for trainings on several nodes; needed by sea (training.nodes)"
    assert api.judge_extension(jobset, [], None, set(), ALL).result == "ok", "nobody is known to need it"


# -- limits: the training asks for 2 GiB and 256 MiB, 11 GiB of disk, one core; a server for one core without a limit


def item(kind: str = "Container", **bounds: dict[str, str]) -> dict[str, Any]:
    return {"metadata": {"name": "team"}, "spec": {"limits": [{"type": kind, **bounds}]}}


LIMITS: list[tuple[str, dict[str, Any], str, str]] = [
    ("wide enough", item(max={"memory": "64Gi"}, min={"memory": "1Mi"}), "ok", "lets 2 kinds of pod in"),
    ("too small", item(max={"memory": "2Gi"}), "fail",
     "a training with the usual resources, container training: may use 2.2 GiB memory, at most 2Gi"),
    ("too large", item(min={"cpu": "2"}), "fail", "container training: asks for 1 cpu, at least 2"),
    ("of the first step", item(min={"cpu": "200m"}), "fail", "container verify: asks for 0.1 cpu"),
    ("a default for servers", item(default={"cpu": "500m"}), "warn", "container any: cpu 500m in limits"),
    ("a default below a request", item(default={"cpu": "500m"}, max={"cpu": "2"}), "warn", "cpu 500m in limits"),
    ("a limit that nobody sets", item(max={"nvidia.com/gpu": "1"}), "fail", "no limit of nvidia.com/gpu, at most 1"),
    ("what we say ourselves is left", item(default={"memory": "1Mi"}, defaultRequest={"memory": "1Mi"}), "ok", "lets"),
    ("ratio", item(maxLimitRequestRatio={"memory": "1"}), "ok", "lets"),
    ("ratio of what has no limit", item(maxLimitRequestRatio={"cpu": "2"}), "fail", "no limit of cpu, at most 2 times"),
    ("pods", item("Pod", max={"ephemeral-storage": "10Gi"}), "fail", "may use 11.0 GiB ephemeral-storage, at most 10"),
    ("claims are others'", item("PersistentVolumeClaim", max={"storage": "1"}), "ok", "lets"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "result", "says"), [case[1:] for case in LIMITS], ids=[case[0] for case in LIMITS])
def test_limits(given: dict[str, Any], result: str, says: str) -> None:
    found = limits.judge_range(given, needs.pods(Cluster(), "models"), "models")
    assert (found.result, found.name) == (result, "limits team")
    assert says in found.found, found.found
    assert ("kubectl edit limitrange team -n models" in found.mend) == (result != "ok")


CONFIG = {"spec": {"volumeClaimTemplates": [
    {"name": "mlserver-models", "spec": {"resources": {"requests": {"storage": "1Gi"}}}}
]}}  # fmt: skip


@pytest.mark.parametrize(
    ("bounds", "says"),
    [
        ({"max": {"storage": "500Mi"}}, "may use 1.0 GiB storage, at most 500Mi"),
        ({"min": {"storage": "2Gi"}}, "asks for 1.0 GiB storage, at least 2Gi"),
        ({"min": {"storage": "1Gi"}, "max": {"storage": "1Gi"}}, ""),
    ],
)
def test_limits_of_claims_are_held_against_those_of_servers_on_core_2(bounds: dict[str, Any], says: str) -> None:
    claims = limits.claims_of("mlserver", CONFIG)
    found = limits.judge_range(item("PersistentVolumeClaim", **bounds), [], "models", claims)
    assert found.result == ("fail" if says else "ok")
    assert not says or found.found == f"refuses claim mlserver-models of a server (ServerConfig mlserver): {says}"
    assert limits.claims_of("mlserver", None) == {}


def test_limits_are_held_against_the_models_own_pods() -> None:
    big = model(resources={"cpu": 8, "memory": "40Gi", "disk": "1Gi"}, pod={"image": "i"}, serving={"memory": "1Gi"})
    found = limits.judge_range(item(max={"memory": "32Gi"}), needs.pods(Cluster(models=(big,)), "models"))
    assert found.found == "refuses the training of sea, container training: may use 40.2 GiB memory, at most 32Gi"
    local = model("local", resources={"memory": "40Gi"}, pod={"image": "i", "namespace": "elsewhere"})
    found = limits.judge_range(item(max={"memory": "1Mi"}), needs.pods(Cluster(models=(local,)), "models"))
    assert found.result == "ok" and found.found == "nothing of ours is held against it"
    step = {"name": "s", "run": "a:b", "target": "kubernetes", "resources": {"memory": "50Gi"}}
    plain = {**model("local", pod={"image": "i"}).to_dict(), "steps": [step]}
    with_step = Model.model_validate(plain)
    found = limits.judge_range(item(max={"memory": "32Gi"}), needs.pods(Cluster(models=(with_step,)), "models"))
    assert found.found.startswith("refuses step s of sea, container training: may use 50.2 GiB")


# -- over HTTP


@pytest.fixture
def cluster() -> Iterator[Api]:
    plurals = dict.fromkeys(("limitranges", "secrets", "configmaps"), ("/api/v1", None))
    with Api({**plurals, "trainingruntimes": ("/apis/trainer.kubeflow.org/v1alpha1", None)}) as found:
        yield found


@pytest.fixture
def look(cluster: Api, tmp_path: Path) -> Callable[..., dict[str, Finding]]:
    """The findings of one check."""

    def look(check: Callable[..., Iterator[Finding]], **more: Any) -> dict[str, Finding]:
        access = Access(cluster.kubeconfig(tmp_path / "kubeconfig"))
        found = list(check(Cluster(access, **more), Client(access, patience_s=5.0)))
        assert all(one.mend for one in found if one.result != "ok"), "each says how to mend it"
        return {one.name: one for one in found}

    return look


def test_limit_ranges_of_the_namespace(cluster: Api, look: Callable[..., dict[str, Finding]]) -> None:
    assert look(limits.limit_ranges)["limits"].found == "none"
    cluster.put("limitranges", item(max={"memory": "2Gi"}))
    assert look(limits.limit_ranges)["limits team"].result == "fail"
    assert look(limits.limit_ranges, parts=("guard",))["limits team"].result == "ok", "it makes no pods"


def test_runtimes_of_models(cluster: Api, look: Callable[..., dict[str, Finding]]) -> None:
    """DEMAND TRN-4"""
    one = model(nodes=2, pod={"image": "i", "trainjob": BY})
    assert not look(needs.runtimes)
    assert "sea trains by it" in look(needs.runtimes, models=(one, one))["runtime torch"].found
    label = {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}}
    pod: dict[str, Any] = {"containers": [{"name": "node"}]}
    job = {"name": "node", "template": {"metadata": label, "spec": {"backoffLimit": 0, "template": {"spec": pod}}}}
    spec = {"mlPolicy": {"torch": {}}, "template": {"spec": {"replicatedJobs": [job]}}}
    cluster.put("trainingruntimes", {"metadata": {"name": "torch"}, "spec": spec})
    assert "restartPolicy" in look(needs.runtimes, models=(one,))["runtime torch"].found
    pod["restartPolicy"] = "Never"
    cluster.put("trainingruntimes", {"metadata": {"name": "torch"}, "spec": spec})
    assert look(needs.runtimes, models=(one,))["runtime torch"].result == "warn", "a token, and little time"
    pod |= {"automountServiceAccountToken": False, "terminationGracePeriodSeconds": 60}
    cluster.put("trainingruntimes", {"metadata": {"name": "torch"}, "spec": spec})
    assert look(needs.runtimes, models=(one,))["runtime torch"].result == "ok"


# -- releases, and what model servers are given


RELEASES: list[tuple[str, Model, Seldon, str, str]] = [
    ("fine", model(pod={"image": "i"}), Seldon("i", "r", prometheus="http://p"), "ok", "by these settings (api core1)"),
    ("nobody counts", model(pod={"image": "i"}), Seldon("i", "r"), "fail", "a first release is watched by counts"),
    ("another API", model(pod={"image": "i"}, serving={"api": "core1"}), Core2("i", "r"), "fail", "serving.api: the"),
    ("nobody collects", model(pod={"image": "i"}, serving={"log": True}), Core2("i", "r", prometheus="http://p"),
     "fail", "serving.log: nobody would collect"),
    ("somebody does", model(pod={"image": "i"}, serving={"log": True}),
     Seldon("i", "r", prometheus="http://p", collector="http://c"), "ok", "the settings name no predictions"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "by", "result", "says"), [case[1:] for case in RELEASES], ids=[c[0] for c in RELEASES])
def test_what_a_release_would_be_refused_for(
    one: Model, by: Seldon, result: str, says: str, look: Callable[..., dict[str, Finding]]
) -> None:
    """DEMAND ROL-14: before anybody releases."""
    found = look(needs.releases, models=(one,), seldon=by)["releases of sea"]
    assert found.result == result and says in found.found
    assert not look(needs.releases, models=(one,), seldon=by, parts=("training",)), "nobody releases"


def test_releases_without_settings_are_not_looked_at(look: Callable[..., dict[str, Finding]]) -> None:
    one = model(pod={"image": "i"})
    assert look(needs.releases, models=(one,))["releases"].result == "warn"
    assert not look(needs.releases, models=(model("local", pod={"image": "i"}),)) and not look(needs.releases)


def test_what_model_servers_are_given(cluster: Api, look: Callable[..., dict[str, Finding]]) -> None:
    """Without it a first release hangs until it may hang no longer."""
    named = Seldon("i", "r", registry_secret="user", registry_ca="authority", keys="public")

    def found(**more: Any) -> dict[str, Finding]:
        return look(secrets.given_to_servers, seldon=named, **more)

    assert not look(secrets.given_to_servers) and not found(parts=("guard",))
    seen = found()
    assert {one.result for one in seen.values()} == {"fail"}
    assert "there is no Secret user in namespace models" in seen["registry user"].found
    assert "--from-file=username=FILE --from-file=password=FILE" in seen["registry user"].mend
    assert "there is no ConfigMap public" in seen["registry keys"].found
    secret(cluster, "user", username="u")
    secret(cluster, "authority", **{"ca.crt": "-----"})
    cluster.put("configmaps", {"metadata": {"name": "public"}, "data": {"keys.json": "{}"}})
    seen = found()
    assert seen["registry user"].found == "Secret user has no password"
    assert "no KEYID.pem" in seen["registry keys"].found and seen["registry authority"].result == "ok"
    secret(cluster, "user", username="u", password="s3cr3t")
    cluster.put("configmaps", {"metadata": {"name": "public"}, "data": {"keys.json": "{}", "ab.pem": "-----"}})
    seen = found()
    assert {one.result for one in seen.values()} == {"ok"} and "s3cr3t" not in str(seen)
    cluster.denied += ["GET .*secrets", "GET .*configmaps"]
    assert {one.result for one in found().values()} == {"warn"}


# -- the collector


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("http://wt-collector.windtunnel.svc:8080", ("http", 8080, "wt-collector", "windtunnel")),
        ("https://wt-collector.windtunnel.svc.cluster.local", ("https", 443, "wt-collector", "windtunnel")),
        ("http://wt-collector.windtunnel", ("http", 80, "wt-collector", "windtunnel")),
        ("http://wt-collector:8080", ("http", 8080, "wt-collector", "models")),
        ("https://collector.example.org", ("https", 443, None, None)),
        ("http://127.0.0.1:9", ("http", 9, None, None)),
    ],
)
def test_where_a_collector_is(url: str, wanted: tuple[str, int, str | None, str | None]) -> None:
    assert collecting.place_of(url, "models") == collecting.Place(*wanted)


FINE = "windtunnel_collector_held_bytes 1000\nwindtunnel_collector_flush_problem 0\n"
NUMBERS = [
    (FINE, "ok", "holds 1000 bytes"),
    (FINE.replace("problem 0", "problem 1"), "fail", "cannot publish"),
    (FINE.replace("1000", "2.6e+08"), "warn", "248.0 MiB that are not published yet; 256.0 MiB"),
    (FINE + 'windtunnel_collector_requests_total{route="events",outcome="busy"} 7\n', "warn", "turned 7 requests away"),
    (FINE + 'windtunnel_collector_requests_total{route="events",outcome="taken"} 7\n', "ok", "holds"),
    ("<html>", "fail", "none of a collector's numbers"),
]


@pytest.mark.parametrize(("text", "result", "says"), NUMBERS)
def test_a_collectors_numbers(text: str, result: str, says: str) -> None:
    found = collecting.judge_numbers("it", text)
    assert found.result == result and says in found.found


class Collecting(ThreadingHTTPServer):
    """As much of a collector as the doctor asks."""

    ready, token, numbers = True, "right", FINE


class _Handler(BaseHTTPRequestHandler):
    server: Collecting

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        if self.path == "/metrics":
            return self._answer(200, self.server.numbers)
        text = '{"status":"ready"}' if self.server.ready else '{"error":"nothing could be published for 200 s"}'
        return self._answer(200 if self.server.ready else 503, text)

    def do_PUT(self) -> None:
        right = self.headers.get("Authorization") == f"Bearer {self.server.token}"
        self._answer(400 if right else 401, "{}")

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


@pytest.fixture
def running() -> Iterator[Collecting]:
    server = Collecting(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def seldon(url: str, **more: Any) -> Seldon:
    return Seldon(image="i", registry="http://r", collector=url, **more)


def secret(cluster: Api, name: str, **values: str) -> None:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    cluster.put("secrets", {"metadata": {"name": name}, "data": data})


def test_a_collector_as_pods_reach_it(
    cluster: Api, look: Callable[..., dict[str, Finding]], running: Collecting
) -> None:
    """DEMAND OPS-4, OPS-6: the token is compared and never told."""
    url = f"http://127.0.0.1:{running.server_address[1]}"

    def found(**more: Any) -> dict[str, Finding]:
        return look(collecting.collector, seldon=seldon(url, **more))

    assert not look(collecting.collector), "no settings name one"
    seen = found()
    assert seen["collector"].result == "ok"
    assert seen["collector token"].result == "fail" and "it refuses them" in seen["collector token"].found
    named = {"collector_secret": "wt", "collector_ca": "authority"}
    seen = found(**named)
    assert "there is no Secret wt in namespace models" in seen["collector token"].found
    assert "--from-file=ca.crt=FILE" in seen["collector authority"].mend
    secret(cluster, "wt", other="x")
    secret(cluster, "authority", **{"ca.crt": "-----"})
    assert found(**named)["collector token"].found == "Secret wt has no token"
    secret(cluster, "wt", token="wrong-s3cr3t")
    seen = found(**named)
    assert "does not know the token" in seen["collector token"].found and "s3cr3t" not in str(seen)
    secret(cluster, "wt", token="right\n")
    assert {one.result for one in found(**named).values()} == {"ok"}
    cluster.denied.append("GET .*secrets")
    assert found(**named)["collector token"].result == "warn", "who may not look has found nothing"
    running.ready = False
    assert "nothing could be published" in found()["collector"].found


def test_a_collector_through_its_service(
    cluster: Api, look: Callable[..., dict[str, Finding]], running: Collecting
) -> None:
    """From outside the cluster, where its name means nothing."""
    cluster.services["wt-collector"] = ("127.0.0.1", running.server_address[1], "")
    cluster.namespaces.add("windtunnel")
    named = seldon("http://wt-collector.windtunnel.svc:8080", collector_rows="logger")
    assert look(collecting.collector, seldon=named)["collector"].found.startswith("Service wt-collector of namespace")
    running.numbers = FINE.replace("problem 0", "problem 1")
    assert "cannot publish" in look(collecting.collector, seldon=named)["collector"].found
    running.ready = False
    assert look(collecting.collector, seldon=named)["collector"].result == "fail"
    cluster.services.clear()
    seen = look(collecting.collector, seldon=named)["collector"]
    assert seen.result == "fail" and "kubectl get pods -n windtunnel" in seen.mend
    cluster.denied.append("GET .*services")
    assert look(collecting.collector, seldon=named)["collector"].result == "warn"
    away = seldon("http://127.0.0.1:9", collector_rows="logger")
    assert "does not answer" in look(collecting.collector, seldon=away)["collector"].found
