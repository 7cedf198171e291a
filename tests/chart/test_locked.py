"""A cluster that is locked down: what it lets out by policy alone, nodes of somebody's own, its own authorities and
proxies, and files that are applied without Helm. DEMAND OPS-2, OPS-10, OPS-13"""

from __future__ import annotations

import functools
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

PLACE = {
    "nodeSelector": {"pool": "platform"},
    "tolerations": [{"key": "pool", "operator": "Exists", "effect": "NoSchedule"}],
    "priorityClassName": "platform",
}
#: Every part on, and what such a cluster asks for.
EVERY: dict[str, Any] = {
    "guard": {"enabled": True, "namespace": "models", "modelServer": "model-server:0.1.0", **PLACE},
    "releases": {"enabled": True, "namespace": "models"},
    "collector": {"enabled": True, "to": "s3://models/predictions", "namespaces": ["models"], **PLACE},
    "registry": PLACE,
    "image": {"pullSecrets": ["mirror"]},
}
STORE = {"endpointUrl": "https://s3.example.org:9000", "secretName": "store", "caSecretName": "store-authority"}


@pytest.fixture(scope="module", params=["small", "production"])
def objects(request: pytest.FixtureRequest, helpers: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = helpers.render(helpers.merged(helpers.preset(request.param), EVERY))
    return found


def labels(one: dict[str, Any]) -> dict[str, str]:
    """Of the pod that the object makes or is; none for others."""
    if one["kind"] == "Pod":
        return dict(one["metadata"]["labels"])
    return dict(one.get("spec", {}).get("template", {}).get("metadata", {}).get("labels", {}))


def hooks(one: dict[str, Any]) -> dict[str, str]:
    return {key: text for key, text in one["metadata"].get("annotations", {}).items() if key.startswith("helm.sh/hook")}


def test_every_pod_has_a_way_out_when_it_starts(objects: list[dict[str, Any]]) -> None:
    """Where a namespace denies by default: also the check of "helm test", and the job before anything is installed."""
    policies = [one for one in objects if one["kind"] == "NetworkPolicy"]
    for one in objects:
        if not (worn := labels(one)):
            continue
        (policy,) = [way for way in policies if way["spec"]["podSelector"]["matchLabels"].items() <= worn.items()]
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        if one["kind"] == "Job":
            assert hooks(policy)["helm.sh/hook"] == hooks(one)["helm.sh/hook"]
            assert int(hooks(policy)["helm.sh/hook-weight"]) < int(hooks(one)["helm.sh/hook-weight"])
        else:
            assert hooks(policy) == {}, "gone before the pod"


def test_the_checks_reach_what_they_check(objects: list[dict[str, Any]]) -> None:
    (policy,) = [one for one in objects if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == "wt-check"]
    reached = {
        peer["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        for rule in policy["spec"]["egress"]
        for peer in rule["to"]
        if "podSelector" in peer
    }
    assert reached == {"registry", "collector"}


def test_every_pod_runs_where_it_is_told_to_and_finds_its_image(objects: list[dict[str, Any]], helpers: Any) -> None:
    looked = 0
    for where, pod in helpers.pods(objects):
        looked += 1
        assert pod["imagePullSecrets"] == [{"name": "mirror"}], where
        assert pod["nodeSelector"] == PLACE["nodeSelector"], where
        assert pod["priorityClassName"] == "platform", where
        assert PLACE["tolerations"][0] in pod["tolerations"], where  # type: ignore[index]
    assert looked >= 6


def test_a_quota_that_wants_a_limit_of_processors_is_met_by_every_container(helpers: Any) -> None:
    most = {"resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"cpu": "1", "memory": "1Gi"}}}
    parts = ("registry", "migration", "checks", "collector", "guard", "postgresql")
    values = helpers.merged(helpers.preset("small"), EVERY)
    looked = 0
    for where, pod in helpers.pods(helpers.render(helpers.merged(values, dict.fromkeys(parts, most)))):
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            looked += 1
            assert container["resources"] == most["resources"], (where, container["name"])
    assert looked >= 7


def test_authorities_of_its_own(helpers: Any) -> None:
    """A store and an identity provider whose certificates nobody else knows."""
    given = helpers.merged(EVERY, {"artifacts": {"s3": STORE}, "oidc": {"caSecretName": "people", "audience": "wt"}})
    given = helpers.merged(given, {"oidc": {"issuer": "https://id.example.org"}, "collector": {"s3": STORE}})
    given = helpers.merged(given, {"airflow": {"caSecretName": "house"}})
    made = helpers.render(helpers.merged(helpers.preset("production"), given))
    asked = {"wt-registry": {"AWS_CA_BUNDLE": "store-authority", "SSL_CERT_FILE": "people",
                             "WINDTUNNEL_AIRFLOW_CA": "house"},
             "wt-collector": {"AWS_CA_BUNDLE": "store-authority"}}  # fmt: skip
    for name, authorities in asked.items():
        (pod,) = [one for where, one in helpers.pods(made) if where.split("/")[1] == name]
        (container,) = pod["containers"]
        env = {one["name"]: one.get("value") for one in container["env"]}
        for variable, secret in authorities.items():
            folder, _, file = env[variable].rpartition("/")
            (volume,) = [one["name"] for one in container["volumeMounts"] if one["mountPath"] == folder]
            (source,) = [one["secret"] for one in pod["volumes"] if one["name"] == volume]
            assert (source["secretName"], source["items"]) == (secret, [{"key": "ca.crt", "path": file}])
        policy = helpers.of(made, "NetworkPolicy", name)["spec"]["egress"]
        assert 9000 in [port["port"] for rule in policy for port in rule["ports"]]


def test_a_replica_of_the_database_is_a_file_that_the_server_reads(helpers: Any) -> None:
    from windtunnel_mlflow.cluster import mounted

    given = helpers.merged(helpers.preset("production"), {"database": {"replicaSecretName": "replica"}})
    found = [
        (source["secret"]["name"], item["path"], where)
        for where, pod in helpers.pods(helpers.render(given))
        for volume in pod["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
        for item in source["secret"]["items"]
        if source["secret"]["name"] == "replica"
    ]
    assert found == [("replica", mounted.REPLICA_URL, "Deployment/wt-registry")]


def test_a_proxy_and_ipv6(helpers: Any) -> None:
    given = {
        "listen": "::",
        "networkPolicy": {"toCidrs": ["::/0"], "toPorts": [443, 3128]},
        "collector": {"env": {"HTTPS_PROXY": "http://proxy:3128"}},
    }
    made = helpers.render(helpers.merged(helpers.merged(helpers.preset("production"), EVERY), given))
    for name in ("wt-registry", "wt-collector"):
        (container,) = [one for where, pod in helpers.pods(made) if where.split("/")[1] == name
                        for one in pod["containers"]]  # fmt: skip
        assert "--host=::" in container["args"]
        outside = [rule for rule in helpers.of(made, "NetworkPolicy", name)["spec"]["egress"]
                   if {port["port"] for port in rule["ports"]} == {443, 3128}]  # fmt: skip
        assert [rule["to"] for rule in outside] == [[{"ipBlock": {"cidr": "::/0", "except": ["fd00:ec2::254/128"]}}]]
    assert {"name": "HTTPS_PROXY", "value": "http://proxy:3128"} in container["env"]


def test_files_that_are_applied_need_no_hook(helpers: Any) -> None:
    """A job's pod cannot be changed: one that would be another is another job; the same one is left alone."""

    @functools.cache
    def job(tag: str, flush: int) -> dict[str, Any]:
        given = {"migration": {"hook": False}, "image": {"tag": tag, "digest": ""}, "collector": {"flush": flush}}
        made = helpers.render(helpers.merged(helpers.merged(helpers.preset("production"), EVERY), given))
        assert {one["kind"] for one in made if hooks(one)} == {"Pod"}  # the checks, left out by --no-hooks
        return dict(helpers.of(made, "Job"))

    assert job("0.1.0", 10) == job("0.1.0", 11)
    assert job("0.1.0", 10)["metadata"]["name"] != job("0.1.1", 10)["metadata"]["name"]
    assert len(job("0.1.0", 10)["metadata"]["name"]) <= 63


def test_the_log_of_a_check_is_there_when_helm_reads_it(objects: list[dict[str, Any]]) -> None:
    """helm/helm#9098: "helm test --logs" fails where a pod is deleted as soon as it has succeeded."""
    checks = [one for one in objects if one["kind"] == "Pod"]
    assert len(checks) == 2
    assert {hooks(one)["helm.sh/hook-delete-policy"] for one in checks} == {"before-hook-creation"}


def test_no_pod_is_told_to_end_before_it_is_sent_nothing_more(objects: list[dict[str, Any]], helpers: Any) -> None:
    behind = {one["spec"]["selector"]["app.kubernetes.io/component"] for one in objects if one["kind"] == "Service"}
    for one in objects:
        part = labels(one).get("app.kubernetes.io/component")
        if one["kind"] in ("Deployment", "StatefulSet") and part in behind - {"postgresql"}:
            (container,) = one["spec"]["template"]["spec"]["containers"]
            assert container["lifecycle"]["preStop"]["sleep"]["seconds"] >= 3, part


def test_names_and_labels_that_kubernetes_takes(helpers: Any, tmp_path: Path) -> None:
    """A chart that was packaged with a build number; names of releases that Helm takes and a Service may not have."""
    helm = pytest.importorskip("helm_python")
    copy = tmp_path / "windtunnel"
    shutil.copytree(helpers.CHART, copy)
    about = (copy / "Chart.yaml").read_text(encoding="utf-8")
    (copy / "Chart.yaml").write_text(about.replace("version: 0.1.0", "version: 0.1.0+7"), encoding="utf-8")
    made = helm.Chart.load(copy).render(helpers.preset("small"), name="wt", namespace="ml", is_install=True)
    text = "\n".join(made.values())
    assert "windtunnel-0.1.0_7" in text
    assert "0.1.0+7" not in text
    for name in ("2wt", "wt.prod"):
        with pytest.raises(helm.HelmError, match=f"fullnameOverride: empty, and the release.s name .*{name}"):
            helpers.chart().render(helpers.preset("small"), name=name, namespace="ml", is_install=True)
        given = helpers.merged(helpers.preset("small"), {"fullnameOverride": "wt"})
        assert helpers.chart().render(given, name=name, namespace="ml", is_install=True)


def test_the_chart_may_be_part_of_another(helpers: Any) -> None:
    """Helm hands an umbrella's own globals down to every part."""
    assert helpers.render(helpers.merged(helpers.preset("small"), {"global": {"imageRegistry": "mirror.example.org"}}))


def test_the_page_names_what_an_installer_lacks(helpers: Any) -> None:
    """Objects that Kubernetes's own role "admin" may not make, and roles that give what it does not have."""
    page = (helpers.ROOT / "docs" / "how-to" / "install-in-a-locked-down-cluster.md").read_text(encoding="utf-8")
    values, roles = re.findall(r"^```\n(.*?)^```", page, re.M | re.S)
    given = helpers.merged(helpers.preset("production"), EVERY)
    assert helpers.render(helpers.merged(given, yaml.safe_load(values)))
    told: set[tuple[str, str]] = set()
    for role in yaml.safe_load_all(roles):
        where = role["metadata"]["namespace"]
        for rule in role["rules"]:
            told |= {(where, name) for name in rule.get("resourceNames", rule["resources"])}
    made = helpers.chart().render(given, name="windtunnel", namespace="windtunnel", is_install=True).items()
    objects = [one for file, text in made if file.endswith(".yaml") for one in yaml.safe_load_all(text) if one]
    wanted = set()
    for one in objects:
        where = one["metadata"].get("namespace", "windtunnel")
        if one["kind"] == "Role":
            wanted.add((where, one["metadata"]["name"]))
        elif ".k8s.io" not in one["apiVersion"] and "." in one["apiVersion"]:
            wanted.add((where, one["kind"].lower() + "s"))
    assert told == wanted
