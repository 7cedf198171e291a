"""DEMAND OPS-2, OPS-9: our values as the official Airflow chart takes them: each key is one that it knows, and what
comes out is valid, restricted, and twice there in production.

The chart is not in this repository. ``WINDTUNNEL_TEST_AIRFLOW_CHART`` names a folder with it, unpacked (``helm pull
apache-airflow/airflow --version VERSION --untar``).
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ENV = "WINDTUNNEL_TEST_AIRFLOW_CHART"
PRESETS = ("small", "small+demo", "production", "eks")


@pytest.fixture(scope="module")
def official() -> Path:
    named = os.environ.get(ENV)
    if not named:
        pytest.skip(f"{ENV} names no folder with the official Airflow chart")
    pytest.importorskip("helm_python")
    assert (Path(named) / "Chart.yaml").is_file(), f"{ENV}: no Chart.yaml in {named}"
    return Path(named)


@pytest.fixture(scope="module")
def made(official: Path, helpers: Any) -> Any:
    """Objects by preset, rendered once. Helm refuses what the chart's own schema refuses."""
    import helm_python

    chart = helm_python.Chart.load(official)

    @functools.cache
    def render(name: str) -> list[dict[str, Any]]:
        found = chart.render(
            values(helpers, name), name="airflow", namespace="airflow", is_install=True, is_upgrade=False
        )
        texts = [text for path, text in sorted(found.items()) if path.endswith(".yaml")]
        return [one for text in texts for one in yaml.safe_load_all(text) if one]

    return render


def values(helpers: Any, name: str) -> dict[str, Any]:
    """The preset with what whoever installs it has to give, by the how-to; ``A+B``: B's after A's."""
    first, _, second = name.partition("+")
    found = read(helpers, first)
    if second:
        found = helpers.merged(found, read(helpers, second))
    if first == "small":
        return dict(found)
    page = (helpers.ROOT / "docs" / "how-to" / "install-on-kubernetes.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^   ```yaml\n(.*?)^   ```", page, re.M | re.S)
    return dict(helpers.merged(found, yaml.safe_load(block)))


def read(helpers: Any, name: str) -> dict[str, Any]:
    text = (helpers.CHART / f"values-airflow-{name}.yaml").read_text(encoding="utf-8")
    return dict(yaml.safe_load(text))


def test_dags_of_ones_own_are_in_every_pod_of_airflow(official: Path, helpers: Any) -> None:
    """What ``windtunnel cluster up --dags`` sets, and where the chart reads DAGs without git-sync."""
    import helm_python

    from windtunnel.stack.laptop import Laptop, dags

    folder = helpers.ROOT / "dags"
    told = dags.values(Laptop("kind", "windtunnel", helpers.ROOT, dags=folder))
    given = values(helpers, "small") | dict(word.split("=") for word in told if "=" in word)
    found = helm_python.Chart.load(official).render(
        given, name="airflow", namespace="windtunnel", is_install=True, is_upgrade=False
    )
    objects = [one for path, text in found.items() if path.endswith(".yaml") for one in yaml.safe_load_all(text) if one]
    images = {
        container["image"]
        for _, spec in helpers.pods(objects)
        for container in [*spec.get("initContainers", []), *spec["containers"]]
    }
    assert images == {dags.image(folder)}
    assert f"dags_folder = {dags.FOLDER}\n" in "".join(found.values()).replace("      ", "")


def unknown(given: Any, schema: Mapping[str, Any], root: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Keys that a schema does not name: at some places it takes any, and Helm then says nothing of a wrong one."""
    while "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        schema = {**target, **{key: value for key, value in schema.items() if key != "$ref"}}
    if isinstance(given, list):
        for number, one in enumerate(given):
            yield from unknown(one, schema.get("items", {}), root, f"{path}[{number}]")
    if not isinstance(given, dict) or (not schema.get("properties") and schema.get("type") in (None, "object")):
        return  # a map whose keys are anybody's, or a choice of several schemas
    for key, value in given.items():
        known, rest = schema.get("properties", {}), schema.get("additionalProperties")
        if key in known:
            yield from unknown(value, known[key], root, f"{path}.{key}")
        elif not isinstance(rest, dict):
            yield f"{path}.{key}"


def test_it_is_the_version_that_is_installed(official: Path, helpers: Any) -> None:
    notes = (helpers.CHART / "templates" / "NOTES.txt").read_text(encoding="utf-8")
    (version,) = re.findall(r"--version (\S+)", notes)
    assert yaml.safe_load((official / "Chart.yaml").read_text(encoding="utf-8"))["version"] == version


@pytest.mark.parametrize("name", PRESETS)
def test_each_key_is_one_the_chart_knows(name: str, official: Path, helpers: Any) -> None:
    schema = json.loads((official / "values.schema.json").read_text(encoding="utf-8"))
    assert list(unknown({"schedular": {"replicas": 2}, "scheduler": {"replica": 2}}, schema, schema)) == [
        ".schedular", ".scheduler.replica"
    ]  # fmt: skip
    assert list(unknown(values(helpers, name), schema, schema)) == []


@pytest.mark.parametrize("name", PRESETS)
def test_every_object_is_valid_and_every_pod_restricted(name: str, made: Any, helpers: Any) -> None:
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    objects = made(name)
    for one in objects:
        for version in ("1.30", "1.34"):
            kubernetes_validate.validate(one, version, strict=True)
    found = every(helpers, objects)
    assert len(found) >= 5
    for where, pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True, where
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        for container in [*pod["containers"], *(pod.get("initContainers") or [])]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False, where
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, where
            assert not container["image"].endswith(":latest") and ":" in container["image"], where
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), (where, container["name"])
            assert "memory" in container["resources"]["limits"], (where, container["name"])


def every(helpers: Any, objects: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """(where, pod spec) of each pod, that of a task too, where tasks have pods of their own."""
    data = helpers.of(objects, "ConfigMap", "airflow-config")["data"]
    task = data.get("pod_template_file.yaml")
    return [*helpers.pods(objects), *([("a task", yaml.safe_load(task)["spec"])] if task else [])]


def named(found: Any, keys: tuple[str, ...]) -> set[str]:
    """Names in the references below that are called by one of ``keys``."""
    if isinstance(found, list):
        return {name for one in found for name in named(one, keys)}
    if not isinstance(found, dict):
        return set()
    here = [found[key] for key in keys if isinstance(found.get(key), dict)]
    mine = {str(one.get("name") or one.get("secretName")) for one in here}
    return mine | {name for value in found.values() for name in named(value, keys)}


@pytest.mark.parametrize("name", ["production", "eks"])
def test_in_production_each_part_is_there_twice(name: str, made: Any, helpers: Any) -> None:
    objects = made(name)
    kinds = {one["kind"] for one in objects}
    assert not kinds & {"StatefulSet", "PersistentVolumeClaim"}, "what keeps data is not in the cluster"
    parts = [one for one in objects if one["kind"] == "Deployment" and one["metadata"]["name"] != "airflow-statsd"]
    assert len(parts) == 4
    for one in parts:
        assert one["spec"]["replicas"] >= 2, one["metadata"]["name"]
        budget = helpers.of(objects, "PodDisruptionBudget", f"{one['metadata']['name']}-pdb")
        labels = one["spec"]["template"]["metadata"]["labels"]
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()


@pytest.mark.parametrize("name", ["production", "eks"])
def test_who_has_to_reach_the_api_server_is_let_in(name: str, made: Any, helpers: Any) -> None:
    """Tasks report to it; a policy without rules would let nobody in."""
    objects = made(name)
    policy = helpers.of(objects, "NetworkPolicy", "airflow-api-server-policy")
    (rule,) = policy["spec"]["ingress"]
    selectors = [one["podSelector"]["matchLabels"] for one in rule["from"] if set(one) == {"podSelector"}]
    text = helpers.of(objects, "ConfigMap", "airflow-config")["data"]["pod_template_file.yaml"]
    tasks = yaml.safe_load(text)["metadata"]["labels"]
    assert any(labels.items() <= tasks.items() for labels in selectors)
    assert any("namespaceSelector" in one and "podSelector" in one for one in rule["from"]), "the registry"
    assert any("ipBlock" in one or set(one) == {"namespaceSelector"} for one in rule["from"]), "the ingress"
    service = helpers.of(objects, "Service", "airflow-api-server")["spec"]["ports"]
    assert [one["port"] for one in rule["ports"]] == [one["port"] for one in service]
    (rules,) = helpers.of(objects, "Ingress")["spec"]["rules"]
    assert rules["host"] == "airflow.example.org"


@pytest.mark.parametrize("name", ["production", "eks"])
def test_only_the_api_server_can_log_people_in(name: str, made: Any, helpers: Any) -> None:
    pods = every(helpers, made(name))
    assert "a task" in dict(pods)
    knows = {where for where, pod in pods if "keycloak-client-secret" in yaml.safe_dump(pod)}
    assert knows == {"Deployment/airflow-api-server"}


@pytest.mark.parametrize("name", PRESETS)
def test_both_charts_name_the_same(name: str, made: Any, helpers: Any) -> None:
    """Service accounts that our chart gives rights to, and secrets and files that the how-to makes."""
    first = name.partition("+")[0]
    ours = helpers.merged(
        yaml.safe_load((helpers.CHART / "values.yaml").read_text(encoding="utf-8")), helpers.preset(first)
    )
    if name == "small+demo":
        demo = yaml.safe_load((helpers.CHART / "values-demo.yaml").read_text(encoding="utf-8"))
        ours = helpers.merged(ours, demo)
    accounts = {one["metadata"]["name"] for one in made(name) if one["kind"] == "ServiceAccount"}
    for part in ("training", "releases"):
        if ours[part]["enabled"] or first != "small":
            wanted = {*ours[part]["airflowServiceAccounts"], *ours[part].get("pageServiceAccounts", [])}
            assert wanted <= accounts, part
    page = (helpers.ROOT / "docs" / "reference" / "kubernetes-permissions.md").read_text(encoding="utf-8")
    pods = [pod for _, pod in every(helpers, made(name))]
    secrets = named(pods, ("secretKeyRef", "secretRef", "secret"))
    assert len(secrets) >= 2
    assert {one for one in secrets if f"| `{one}` |" not in page} == {"windtunnel-demo"} & secrets
    maps = {one["metadata"]["name"] for one in made(name) if one["kind"] == "ConfigMap"}
    assert named(pods, ("configMap", "configMapRef")) - maps <= {"windtunnel-ca", "windtunnel-demo-dags"}
