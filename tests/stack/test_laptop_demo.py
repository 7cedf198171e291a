"""``windtunnel cluster demo``: its commands, what it gives them, what it leaves, and that all names fit each other."""

from __future__ import annotations

import base64
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from fakelaptop import ROOT, Bench
from typer.testing import CliRunner

from windtunnel.cli.app import app
from windtunnel.errors import StackError
from windtunnel.kube import rights
from windtunnel.serving.seldon import Seldon
from windtunnel.stack.laptop import Laptop, demo, inputs, objects, plan, secrets
from windtunnel.stack.laptop.parts import GIVEN, NAMESPACE, tag

LAPTOP = Laptop("kind", "windtunnel", ROOT, demo=True)
IN = "--namespace windtunnel"
K, H = "kubectl --context kind-windtunnel", "helm --kube-context kind-windtunnel"
APPLY = f"{K} apply --server-side --force-conflicts --field-manager windtunnel-cluster"
ISTIO = "--repo https://istio-release.storage.googleapis.com/charts --version 1.30.0 --namespace istio-system"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def fly(bench: Bench, *more: str, fail: str = "") -> Any:
    return bench.run("demo", "--checkout", str(ROOT), "--yes", "--no-fly", "--no-build", *more, fail=fail)


def manifests() -> list[dict[str, Any]]:
    text = demo.dag_file(LAPTOP)
    made = objects.all_of_the_demo(NAMESPACE, demo.airflow_image(LAPTOP), text)
    people = objects.callers(NAMESPACE, demo.airflow_image(LAPTOP), demo.inference_url(), demo.RATE)
    return [*made, people, objects.keys(NAMESPACE, {"keys.json": "{}"})]


def pods() -> list[tuple[str, dict[str, Any]]]:
    return [
        (one["metadata"]["name"], one["spec"]["template"]["spec"])
        for one in manifests()
        if "template" in one.get("spec", {})
    ]


def values(name: str) -> dict[str, Any]:
    found = yaml.safe_load((ROOT / "helm" / "windtunnel" / f"{name}.yaml").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_the_commands_in_their_order(bench: Bench) -> None:
    done = fly(bench)
    assert done.exit_code == 0, done.exception
    asked = bench.asked()
    images = " ".join(
        f"windtunnel/{one}:0.1.0" for one in ("registry", "airflow", "trainer", "model-server", "collector")
    )
    assert f"kind load docker-image {images} --name windtunnel" in asked
    begun = asked.index(f"{K} get secret windtunnel-demo windtunnel-registry windtunnel-collector {IN}")
    told = [one for one in asked[begun:] if " --set " not in one]
    assert told == [
        f"{K} get secret windtunnel-demo windtunnel-registry windtunnel-collector {IN}",
        f"{K} get secret windtunnel {IN} --output json",
        f"{K} create {IN} --filename -",
        f"{APPLY} {IN} --filename -",
        f"{K} wait --for=condition=Complete job/windtunnel-demo-bucket {IN} --timeout=10m",
        f"{K} rollout status deployment/windtunnel-demo-prometheus {IN} --timeout=10m",
        f"{H} upgrade --install istio-base base {ISTIO} --create-namespace --wait --timeout 10m",
        f"{APPLY} --namespace istio-system --filename -",
        f"{H} upgrade --install windtunnel helm/windtunnel {IN} --values helm/windtunnel/values-small.yaml"
        " --values helm/windtunnel/values-demo.yaml --wait --timeout 15m",
        f"{' '.join(demo.reading_keys(LAPTOP))}",
        f"{APPLY} {IN} --filename -",
        f"{H} upgrade --install airflow airflow --repo https://airflow.apache.org --version 1.22.0 {IN}"
        " --values helm/windtunnel/values-airflow-small.yaml --values helm/windtunnel/values-airflow-demo.yaml"
        " --timeout 15m",
        f"{K} wait --for=condition=Ready pod {IN} --selector release=airflow,component in"
        " (api-server,scheduler,dag-processor,triggerer) --timeout=15m",
        f"{H} test windtunnel {IN} --logs",
        f"{APPLY} {IN} --filename -",
    ]
    charts = [one.split(" --set ") for one in asked if " --set " in one]
    assert [words[0].split()[5] for words in charts] == ["istiod", "istio-ingressgateway", "seldon-core"]
    assert "istio.gateway=istio-system/seldon-gateway" in charts[2] and "--version 1.18.2" in charts[2][0]
    assert all("istio-system --create-namespace --wait" in words[0] for words in charts[:2])
    assert "service.type=ClusterIP" in charts[1], "nothing waits for a load balancer that there is none of"


def test_secrets_come_by_stdin_alone_and_fit(bench: Bench) -> None:
    done = fly(bench)
    calls = bench.calls()
    given = [json.loads(one["stdin"]) for one in calls if "create" in one["argv"] and one["stdin"]]
    small, added = ({one["metadata"]["name"]: one["stringData"] for one in two["items"]} for two in given)
    service = small["windtunnel"]["mlflow-service"]
    ours = added["windtunnel-demo"]
    assert json.loads(ours["connection"])["password"] == ours["password"] == service, "the one the cluster has"
    assert added["windtunnel-registry"] == {"username": "service", "password": service}
    store = json.loads(ours["aws-connection"])
    assert (store["login"], store["password"]) == (ours["aws-access-key-id"], ours["aws-secret-access-key"])
    hidden = {service, ours["aws-secret-access-key"], added["windtunnel-collector"]["token"]}
    written = [one["stdin"] for one in calls if "apply" in one["argv"]]
    assert len(written) == 4
    shown = done.stdout + done.stderr + "".join(" ".join(one["argv"]) for one in calls) + "".join(written)
    assert not [one for one in hidden if one in shown]
    assert json.loads(written[2])["items"][0]["data"] == {"keys.json": "{}", "abc.pem": "a public key"}


def test_a_second_time_keeps_the_cluster_and_its_secrets(bench: Bench) -> None:
    fly(bench)
    bench.calls()
    assert fly(bench).exit_code == 0
    asked = bench.asked()
    assert not [one for one in asked if " create " in one or "--output json" in one]
    assert len([one for one in asked if " upgrade --install " in one]) == 6


@pytest.mark.parametrize(
    ("fail", "named"),
    [
        ("windtunnel --output json", "the secret windtunnel of the cluster windtunnel cannot be read"),
        ("windtunnel-cluster --namespace windtunnel", "cannot make the object store and Prometheus"),
        ("job/windtunnel-demo-bucket", "cannot wait for the bucket"),
        ("windtunnel-cluster --namespace istio-system", "cannot open Istio's gateway"),
        ("install seldon-core", "cannot install Seldon Core"),
        (" exec ", "does not tell its public keys"),
    ],
)
def test_a_failure_is_named_and_leaves_nothing(bench: Bench, fail: str, named: str) -> None:
    done = fly(bench, fail=fail)
    assert isinstance(done.exception, StackError)
    assert named in done.exception.message and done.exception.hint
    assert bench.asked()[-1] == "kind delete cluster --name windtunnel"


def test_nothing_is_installed_before_its_licence_is_agreed_to(bench: Bench) -> None:
    refused = CliRunner().invoke(app, ["cluster", "demo", "--checkout", str(ROOT)], input="n\n")
    assert refused.exit_code == 1 and bench.asked() == []
    assert "Business Source License 1.1" in refused.stderr and "not open source" in refused.stderr
    dry = bench.run("demo", "--checkout", str(ROOT), "--dry-run")
    assert dry.exit_code == 0 and bench.asked() == [] and "Business Source" in dry.stderr
    lines = [line for line in dry.stdout.splitlines() if not line.startswith("#")]
    assert len(lines) == len(plan.whole(LAPTOP)) == 26
    assert lines[4].startswith("docker build --file docker/trainer/Dockerfile --target cpu ")


def test_minikube_gets_room(bench: Bench) -> None:
    bench.remove("kind")
    bench.install("minikube")
    assert fly(bench).exit_code == 0
    asked = bench.asked()
    assert "minikube start --profile windtunnel --memory 14g --cpus 6" in asked
    assert all("context windtunnel" in one for one in asked if one.startswith(("kubectl", "helm")))
    assert len([one for one in asked if one.startswith("minikube image load")]) == 5


def test_every_manifest_is_valid() -> None:
    """DEMAND OPS-2: against Kubernetes' own schemas, strictly."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    found = manifests()
    for version, one in itertools.product(("1.30", "1.34"), found):
        kubernetes_validate.validate(one, version, strict=True)
    names = [(one["kind"], one["metadata"]["name"]) for one in found]
    assert len(set(names)) == len(names) and all(one["metadata"]["namespace"] == NAMESPACE for one in found)


def test_pods_are_restricted_bounded_and_pinned() -> None:
    """DEMAND OPS-6"""
    found = pods()
    assert len(found) == 4
    for name, pod in found:
        assert pod["automountServiceAccountToken"] is (name == objects.PROMETHEUS)
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            safety = container["securityContext"]
            assert safety["readOnlyRootFilesystem"] and not safety["allowPrivilegeEscalation"]
            assert safety["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= set(container["resources"]["requests"])
            assert "memory" in container["resources"]["limits"]
            assert ":" in container["image"] and ":latest" not in container["image"]
            if name in (objects.STORE, objects.PROMETHEUS):
                assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
        for volume in pod["volumes"]:
            assert volume.get("emptyDir", {"sizeLimit": 1}).get("sizeLimit")


def test_what_releases_is_what_the_doctor_asks_for() -> None:
    (role,) = [one for one in objects.releases("ml") if one["kind"] == "Role"]
    assert role["rules"] == rights.rules(rights.part("releases"))


def test_prometheus_finds_seldons_executors_and_nothing_else() -> None:
    (job,) = yaml.safe_load(objects.scraping("ml"))["scrape_configs"]
    assert job["kubernetes_sd_configs"] == [{"role": "pod", "namespaces": {"names": ["ml"]}}]
    kept = {one["source_labels"][0]: one["regex"] for one in job["relabel_configs"] if one["action"] == "keep"}
    # The operator marks a predictor's pods; its executor's port is called so by executor.metricsPortName.
    assert kept == {
        "__meta_kubernetes_pod_annotation_prometheus_io_scrape": "true",
        "__meta_kubernetes_pod_container_port_name": "metrics",
    }


def test_values_name_what_is_made() -> None:
    """Services, secrets with their keys, images, folders and the namespace, as each side calls them."""
    made = manifests()
    services = {one["metadata"]["name"]: one["spec"]["ports"][0]["port"] for one in made if one["kind"] == "Service"}
    keys = {
        (one["metadata"]["name"], key)
        for one in json.loads(secrets.demo(NAMESPACE, "x"))["items"]
        for key in one["stringData"]
    }
    airflow, ours = values("values-airflow-demo"), values("values-demo")
    assert {(one["secretName"], one["secretKey"]) for one in airflow["secret"]} <= keys
    small = {one["envName"] for one in values("values-airflow-small")["secret"]}
    assert small <= {one["envName"] for one in airflow["secret"]}, "a list replaces the one before"
    env = {one["name"]: one["value"] for one in airflow["env"]}
    settings = Seldon.of(json.loads(env["AIRFLOW_CONN_WINDTUNNEL_SELDON"])["extra"])
    assert settings.image == tag(LAPTOP, "model-server") == ours["guard"]["modelServer"]
    assert settings.access.namespace == NAMESPACE and settings.predictions == ours["collector"]["to"]
    for service, port, url in (
        (objects.PROMETHEUS, objects.PROMETHEUS_PORT, settings.prometheus),
        (objects.STORE, objects.STORE_PORT, env["AWS_ENDPOINT_URL_S3"]),
        (objects.STORE, objects.STORE_PORT, ours["collector"]["s3"]["endpointUrl"]),
    ):
        assert services[service] == port and url == f"http://{service}.{NAMESPACE}.svc:{port}"
    assert (settings.registry_secret, "password") in keys and (settings.collector_secret, "token") in keys
    assert (ours["collector"]["s3"]["secretName"], "aws-access-key-id") in keys
    assert ours["collector"]["namespaces"] == [NAMESPACE]
    gateway = str(settings.gateway).format(namespace=NAMESPACE, model=demo.MODEL)
    assert demo.inference_url() == f"{gateway}/v2/models/{demo.MODEL}/infer"
    assert objects.gateway()["metadata"] | {"labels": 0} == {
        "name": "seldon-gateway", "namespace": "istio-system", "labels": 0,
    }  # fmt: skip
    (init,) = airflow["scheduler"]["extraInitContainers"]
    mounts = {one["name"]: one for one in airflow["scheduler"]["extraVolumeMounts"]}
    assert init["image"] == demo.airflow_image(LAPTOP)
    volumes = airflow["scheduler"]["extraVolumes"]
    assert volumes[0]["configMap"]["name"] == objects.DAGS and mounts["demo-dags"]["subPath"] == "visits.py"
    (dags,) = [one for one in made if one["metadata"]["name"] == objects.DAGS]
    assert set(dags["data"]) == {"visits.py"}
    from windtunnel_examples.visits import cluster

    model = cluster.model
    assert init["command"][-1] == cluster.TABLE and cluster.TABLE.startswith(mounts["demo-table"]["mountPath"] + "/")
    assert model.training.pod is not None and model.training.pod.image == tag(LAPTOP, "trainer")
    assert {tuple(one.split("/")) for one in model.training.pod.secrets.values()} <= keys
    chart = values("values")
    assert model.training.pod.service_account == chart["training"]["serviceAccount"]["name"]
    assert model.target == "kubernetes" and model.serving.log and model.name == demo.MODEL


def test_every_input_is_named_and_a_cluster_that_says_nothing_is_told() -> None:
    whole = plan.whole(replace(LAPTOP, dags=ROOT / "dags"))
    assert {step.given for step in whole if step.given} == set(GIVEN)
    for code, out in ((1, ""), (0, "no json"), (0, "{}"), (0, '{"data": {}}')):
        with pytest.raises(StackError, match="cannot be read"):
            inputs.password(LAPTOP, lambda argv, code=code, out=out: (code, out))  # type: ignore[misc]
    secret = json.dumps({"data": {"mlflow-service": base64.b64encode(b"word").decode()}})
    assert inputs.password(LAPTOP, lambda argv: (0, secret)) == "word"
    for code, out in ((1, ""), (0, "no json"), (0, "[]"), (0, '{"other": ""}')):
        with pytest.raises(StackError, match="public keys"):
            inputs.public_keys(LAPTOP, lambda argv, code=code, out=out: (code, out))  # type: ignore[misc]
