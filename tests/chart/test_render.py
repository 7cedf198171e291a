"""The chart as Kubernetes would get it: valid objects for every preset and for a grid of values."""

from __future__ import annotations

import functools
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

PRESETS = ("small", "production", "eks", "production+guard", "production+collector")
#: Kinds that are not Kubernetes's own; checked here by what we use of them.
FOREIGN = {
    "Certificate": ("cert-manager.io/v1", {"secretName", "dnsNames", "issuerRef"}),
    "ServiceMonitor": ("monitoring.coreos.com/v1", {"selector", "endpoints"}),
    "PodMonitor": ("monitoring.coreos.com/v1", {"selector", "podMetricsEndpoints"}),
    "PrometheusRule": ("monitoring.coreos.com/v1", {"groups"}),
}
#: The oldest and a newer Kubernetes of kubeVersion in Chart.yaml.
KUBERNETES = ("1.30", "1.34")


def validate(one: dict[str, Any], version: str) -> None:
    """Against Kubernetes's own schema, each object once: most are the same whatever the values."""
    _validate(json.dumps(one, sort_keys=True), version)


@functools.cache
def _validate(text: str, version: str) -> None:
    import kubernetes_validate

    one = json.loads(text)

    if one["kind"] in FOREIGN:
        api, keys = FOREIGN[one["kind"]]
        assert one["apiVersion"] == api
        assert keys <= set(one["spec"])
        return
    kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize("name", PRESETS)
def test_every_object_of_a_preset_is_valid(name: str, rendered: Callable[[str], list[dict[str, Any]]]) -> None:
    """DEMAND OPS-2"""
    objects = rendered(name)
    assert len(objects) > 8
    names = [(one["kind"], one["metadata"].get("namespace"), one["metadata"]["name"]) for one in objects]
    assert len(names) == len(set(names))
    for version, one in itertools.product(KUBERNETES, objects):
        validate(one, version)


@pytest.mark.parametrize("name", PRESETS)
def test_lint_finds_nothing(name: str, helpers: Any) -> None:
    helm = pytest.importorskip("helm_python")
    report = helm.lint(helpers.CHART, helpers.preset(name), strict=True, namespace="ml", kube_version="v1.30.0")
    assert not report["errors"]
    assert [one for one in report["messages"] if one["severity"] >= 2] == []


SWITCHES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "tls": (
        {"tls": {"enabled": True, "secretName": "given", "certManager": {"enabled": False}}},
        {"tls": {"enabled": False, "certManager": {"enabled": False}}},
    ),
    "store": (
        {
            "artifacts": {
                "store": "s3",
                "destination": "s3://bucket/p",
                "s3": {"endpointUrl": "http://minio.store:9000", "secretName": "keys", "caSecretName": "authority"},
            }
        },
        {
            "artifacts": {"store": "volume", "destination": ""},
            "audit": {"publishUrl": "", "publishClaim": "kept"},
            "registry": {"replicas": 1, "volume": {"enabled": True}},
        },
    ),
    "policy": ({"networkPolicy": {"enabled": True}}, {"networkPolicy": {"enabled": False}}),
    "training": (
        {
            "training": {"enabled": True, "readNodes": True, "readRuntimes": True},
            "guard": {"enabled": True, "modelServer": "model-server:0.1.0"},
        },
        {"training": {"enabled": False}},
    ),
    "volume": (
        {"registry": {"volume": {"enabled": True, "existingClaim": "old", "accessMode": "ReadWriteMany"}}},
        {"registry": {"runAsUser": None, "fsGroup": None, "keys": {"secretName": "mine"}}},
    ),
    "rest": (
        {
            "oidc": {
                "issuer": "https://id.example.org",
                "audience": "wt",
                "roles": {"ml": "ml_engineer"},
                "caSecretName": "people",
            },
            "listen": "::",
            "migration": {"hook": False},
            "database": {"replicaSecretName": "replica"},
            "airflow": {"url": "http://airflow-api-server:8080", "secretName": "asks"},
            "secret": {"revision": "2"},
            "commonLabels": {"team": "ml"},
            "image": {"pullSecrets": ["mine"]},
            "registry": {
                "nodeSelector": {"disk": "ssd"},
                "tolerations": [{"key": "ml", "operator": "Exists"}],
                "priorityClassName": "high",
                "env": {"MLFLOW_HTTP_REQUEST_TIMEOUT": "60"},
            },
        },
        {
            "monitoring": {"rules": {"enabled": True}},
            "migration": {"enabled": False},
            "collector": {
                "enabled": True,
                "to": "file:///predictions",
                "claim": "predictions",
                "openEvents": True,
                "plain": True,
                "s3": {
                    "endpointUrl": "http://minio.store:9000",
                    "region": "eu-west-1",
                    "secretName": "keys",
                    "caSecretName": "authority",
                },
                "env": {"HTTPS_PROXY": "http://proxy:3128"},
                "nodeSelector": {"disk": "ssd"},
            },
        },
    ),
}


@pytest.mark.parametrize("base", ["small", "production"])
def test_a_grid_of_values_renders_to_valid_objects(base: str, helpers: Any) -> None:
    """Every combination of six switches."""
    for chosen in itertools.product((0, 1), repeat=len(SWITCHES)):
        values = helpers.preset(base)
        for (name, both), which in zip(SWITCHES.items(), chosen, strict=True):
            if name == "rest" and which and base == "production":
                continue  # two roles need the migration
            values = helpers.merged(values, both[which])
        for one in helpers.render(values):
            validate(one, KUBERNETES[0])


@pytest.mark.parametrize("name", ["production", "production+collector"])
def test_what_production_installs_is_what_was_looked_at(
    name: str, rendered: Callable[[str], list[dict[str, Any]]], helpers: Any
) -> None:
    """A difference in the golden file is a difference in somebody's cluster. WINDTUNNEL_GOLDEN=write makes it anew."""
    path = helpers.ROOT / "tests" / "chart" / "golden" / f"{name.replace('+', '-')}.yaml"
    known = rendered("production") if name != "production" else []  # a part's own file has that part alone
    objects = [one for one in rendered(name) if one not in known]
    text = yaml.safe_dump_all(objects, sort_keys=True, width=120)
    if os.environ.get("WINDTUNNEL_GOLDEN") == "write":
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


def test_a_changed_setting_starts_the_pod_anew(helpers: Any) -> None:
    def annotations(values: dict[str, Any]) -> dict[str, str]:
        found = helpers.of(helpers.render(values), "Deployment", "wt-registry")["spec"]["template"]["metadata"][
            "annotations"
        ]
        return dict(found)

    small = helpers.preset("small")
    assert annotations(small) != annotations(helpers.merged(small, {"audit": {"every": 30}}))
    assert annotations(small) != annotations(helpers.merged(small, {"secret": {"revision": "2"}}))
    assert annotations(small) == annotations(helpers.merged(small, {"ingress": {"className": "x"}}))


def test_the_notes_name_the_next_commands(helpers: Any) -> None:
    for name, file in (("small", "small"), ("production", "production"), ("eks", "eks")):
        notes = next(text for path, text in helpers.files(helpers.preset(name)).items() if path.endswith("NOTES.txt"))
        assert "helm test wt --namespace ml" in notes
        where = "ml" if name == "small" else "airflow"  # Airflow is not beside the keys
        command = f"--version 1.22.0 --namespace {where} --values helm/windtunnel/values-airflow-{file}.yaml"
        assert command in notes
        assert ("create configmap windtunnel-ca --namespace airflow" in notes) == (name != "small")


def test_the_schema_is_migrated_before_the_pods_are_replaced(
    rendered: Callable[[str], list[dict[str, Any]]], helpers: Any
) -> None:
    """The job may need nothing that is installed after it."""
    for name, hooks in (("production", "pre-install,pre-upgrade"), ("small", "pre-upgrade")):
        objects = rendered(name)
        job = helpers.of(objects, "Job")
        assert job["metadata"]["annotations"]["helm.sh/hook"] == hooks
        account = helpers.of(objects, "ServiceAccount", job["spec"]["template"]["spec"]["serviceAccountName"])
        assert account["metadata"]["annotations"]["helm.sh/hook"] == hooks
        assert int(account["metadata"]["annotations"]["helm.sh/hook-weight"]) < int(
            job["metadata"]["annotations"]["helm.sh/hook-weight"]
        )
        text = yaml.safe_dump(job)
        assert "configMap" not in text
        assert "persistentVolumeClaim" not in text


def test_the_owner_of_the_tables_is_known_to_the_migration_alone(
    rendered: Callable[[str], list[dict[str, Any]]],
) -> None:
    for one in rendered("production"):
        assert ("windtunnel-database-owner" in yaml.safe_dump(one)) == (one["kind"] == "Job")


def test_only_the_host_names_of_the_service_and_the_ingress_are_answered(
    rendered: Callable[[str], list[dict[str, Any]]], helpers: Any
) -> None:
    data = helpers.of(rendered("production"), "ConfigMap", "wt-registry")["data"]
    hosts = data["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert "mlflow.example.org" in hosts
    assert {"wt-registry.ml.svc:5000", "localhost:5000", "127.0.0.1:5000"} <= set(hosts)  # the last by a forwarded port
    assert not [host for host in hosts if "*" in host]


def test_the_port_of_an_object_store_is_let_through(helpers: Any) -> None:
    for url, port in (
        ("http://minio.store:9000", 9000),
        ("https://s3.example.org", 443),
        ("http://s3.example.org", 80),
    ):
        given = {"artifacts": {"s3": {"endpointUrl": url}}}
        objects = helpers.render(helpers.merged(helpers.preset("production"), given))
        egress = helpers.of(objects, "NetworkPolicy", "wt-registry")["spec"]["egress"]
        assert port in [rule["ports"][0]["port"] for rule in egress if {"namespaceSelector": {}} in rule["to"]]


def test_who_asks_the_registry_is_let_in(helpers: Any) -> None:
    """DEMAND OPS-2: a model server's first step fetches from it, so a namespace that a part is for need not be said
    twice."""

    def rule(values: dict[str, Any]) -> dict[str, Any]:
        policy = helpers.of(helpers.render(values), "NetworkPolicy", "wt-registry")
        return dict(policy["spec"])

    def named(values: dict[str, Any]) -> list[str]:
        selectors = [one["namespaceSelector"] for one in rule(values)["ingress"][0]["from"] if len(one) == 1
                     and "namespaceSelector" in one]  # fmt: skip
        return [one["matchLabels"]["kubernetes.io/metadata.name"] for one in selectors]

    small = helpers.preset("small")
    assert named(small) == []
    given = {
        "networkPolicy": {"fromNamespaces": ["monitoring", "trainings"]},
        "training": {
            "enabled": True,
            "namespace": "trainings",
            "moreNamespaces": ["tides", "trainings"],
            "airflowNamespace": "flows",
        },
        "releases": {"enabled": True, "namespace": "models", "airflowNamespace": "flows"},
        "guard": {"enabled": True, "namespace": "others", "modelServer": "model-server:0.1.0"},
    }
    assert named(helpers.merged(small, given)) == ["monitoring", "trainings", "flows", "tides", "models", "others"]
    ours = [
        one for one in helpers.render(helpers.merged(small, given)) if one["metadata"]["name"].endswith("-training")
    ]
    for namespace in ("trainings", "tides"):  # what descriptions name has the same rights, each once
        there = sorted(one["kind"] for one in ours if one["metadata"].get("namespace") == namespace)
        assert there == ["Role", "RoleBinding", "ServiceAccount"], there
    database = helpers.merged(helpers.preset("production"), {"networkPolicy": {"databaseNamespaces": ["postgres"]}})
    there = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "postgres"}}}
    assert there in next(one for one in rule(database)["egress"] if one["ports"][0]["port"] == 5432)["to"]
    dns = {"networkPolicy": {"dns": {"namespaces": ["openshift-dns"], "cidrs": ["169.254.20.10/32"], "ports": [5353]}}}
    for one in helpers.render(helpers.merged(small, dns)):
        if one["metadata"]["name"] in ("wt-registry", "wt-migration") and one["kind"] == "NetworkPolicy":
            names = one["spec"]["egress"][0]
            assert {port["port"] for port in names["ports"]} == {5353}
            assert [*map(list, names["to"])] == [["namespaceSelector"], ["ipBlock"]]


def test_the_way_back_is_the_migrations_job(helpers: Any) -> None:
    given = {"registry": {"replicas": 0}, "migration": {"downgradeTo": "0008"}}
    objects = helpers.render(helpers.merged(helpers.preset("production"), given))
    job = helpers.of(objects, "Job")["spec"]["template"]["spec"]
    assert job["containers"][0]["args"] == ["downgrade", "0008"]
    assert "windtunnel-database-owner" in yaml.safe_dump(job["volumes"])
    assert helpers.of(objects, "Deployment", "wt-registry")["spec"]["replicas"] == 0
    # A rollback runs the hooks of the release it goes back to: this one must not be among them.
    assert "rollback" not in yaml.safe_dump(objects)


def test_the_guard_is_told_what_its_command_reads(
    rendered: Callable[[str], list[dict[str, Any]]], helpers: Any, tmp_path: Path
) -> None:
    """Its settings are Seldon's own, its probe holds the heartbeat against the clock."""
    from windtunnel.home import Home
    from windtunnel.serving.release.guard import heartbeat_path
    from windtunnel.serving.seldon import Seldon

    objects = rendered("production+guard")
    (tmp_path / "seldon.toml").write_text(helpers.of(objects, "ConfigMap", "wt-guard")["data"]["seldon.toml"])
    settings = Seldon.read(tmp_path / "seldon.toml")
    assert settings.registry == "https://wt-registry.ml.svc:5000"
    assert settings.access.namespace == "models"
    (container,) = helpers.of(objects, "Deployment", "wt-guard")["spec"]["template"]["spec"]["containers"]
    home = container["args"][container["args"].index("--home") + 1]
    assert f"{heartbeat_path(Home(Path(home)))}" in container["livenessProbe"]["exec"]["command"][2]
    beat = tmp_path / "guard.json"
    probe = [word.replace(f"{heartbeat_path(Home(Path(home)))}", str(beat)) for word in
             container["livenessProbe"]["exec"]["command"]]  # fmt: skip
    for at, code in ((time.time(), 0), (time.time() - 60, 1)):
        beat.write_text(json.dumps({"at": at}))
        assert subprocess.run([sys.executable, *probe[1:]], check=False).returncode == code
    beat.unlink()
    assert subprocess.run([sys.executable, *probe[1:]], capture_output=True, check=False).returncode == 1
