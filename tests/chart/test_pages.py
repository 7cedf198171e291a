"""The page on permissions says what the chart gives, no less and no more."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from windtunnel.kube import rights
from windtunnel.safety import keysecret


def rows(text: str, heading: str) -> list[list[str]]:
    section = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return found[2:]


def test_the_table_of_permissions_is_the_rendered_one(
    rendered: Callable[[str], list[dict[str, Any]]], helpers: Any
) -> None:
    text = (helpers.ROOT / "docs" / "reference" / "kubernetes-permissions.md").read_text(encoding="utf-8")
    told = {
        (resource, verb)
        for cells in rows(text, "Rights")
        for resource in re.findall(r"`([\w/]+)`", cells[1])
        for verb in re.findall(r"`(\w+)`", cells[2])
    }
    given = {
        (resource, verb)
        for one in rendered("production+guard")
        if one["kind"] == "Role"
        for rule in one["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert told == given
    accounts = {
        one["metadata"]["name"].removeprefix("wt-")
        for name in ("small", "production+guard", "production+collector")
        for one in rendered(name)
        if one["kind"] == "ServiceAccount"
    }
    assert {
        name for cells in rows(text, "Service accounts") for name in re.findall(r"`([\w-]+)`", cells[0])
    } == accounts


def test_rights_are_one_table(rendered: Callable[[str], list[dict[str, Any]]], helpers: Any) -> None:
    """DEMAND OPS-4: the pages, the chart and the doctor mean the same rights."""
    roles = {one["metadata"]["name"]: one["rules"] for one in rendered("production+guard") if one["kind"] == "Role"}

    def plain(rules: list[dict[str, Any]]) -> set[tuple[str, str, tuple[str, ...]]]:
        return {
            (group, resource, tuple(sorted(rule["verbs"])))
            for rule in rules
            for group in rule["apiGroups"]
            for resource in rule["resources"]
        }

    for name in ("guard", "training", "releases", "page"):
        (found,) = [rules for role, rules in roles.items() if role.endswith(name)]
        assert plain(found) == plain(rights.rules(rights.PARTS[name]))
        assert all(right.verbs == tuple(sorted(right.verbs)) for right in rights.PARTS[name].rights)
    folder = helpers.ROOT / "docs" / "reference"
    chart = rows((folder / "kubernetes-permissions.md").read_text(encoding="utf-8"), "Rights")
    pages = {
        "training": chart[: chart.index(next(cells for cells in chart if "releases." in cells[0]))],
        "page": [cells for cells in chart if "pageServiceAccounts" in cells[0]],
        "guard": [cells for cells in chart if "guard" in cells[0]],
    }
    for name, page in (("releases", "seldon.md"), ("releases-core2", "seldon-core2.md")):
        text = (folder / page).read_text(encoding="utf-8")
        pages[name] = [["", *cells] for cells in rows(text, "Permissions")]
    for name, table in pages.items():
        wanted = [right for right in rights.part(name).rights if not right.everywhere]
        told = {
            (resource, verb)
            for cells in table
            for resource in re.findall(r"`([\w/]+)", cells[1])
            for verb in re.findall(r"`(\w+)`", cells[2])
        }
        told = {pair for pair in told if pair[1] != "following"}  # the call that needs `watch`
        assert told == {(right.resource, verb) for right in wanted for verb in right.verbs}, name
        assert {cells[3] for cells in table} == {right.purpose for right in wanted}, name


def test_the_table_of_secrets_is_what_is_mounted_or_read(
    rendered: Callable[[str], list[dict[str, Any]]], helpers: Any
) -> None:
    """Each key that any preset reads is in the page's table, by secret."""
    text = (helpers.ROOT / "docs" / "reference" / "kubernetes-permissions.md").read_text(encoding="utf-8")
    told = {
        (re.findall(r"`([\w-]+)`", cells[0])[0], key)
        for cells in rows(text, "Secrets")
        for key in re.findall(r"`([\w.-]+)`", cells[1])
    }
    read: set[tuple[str, str]] = set()
    read |= set(_keys(rendered("production+guard"))) | set(_keys(rendered("production+collector")))
    for name in ("small", "production", "eks"):
        for one in rendered(name):
            read |= set(_keys(one))
        for file in (f"values-airflow-{name}.yaml",):
            values = yaml.safe_load((helpers.CHART / file).read_text(encoding="utf-8"))
            read |= {(one["secretName"], one["secretKey"]) for one in values["secret"]} | set(_keys(values))
            read |= {(values[f"{kind}SecretName"], key) for kind, key in (("fernetKey", "fernet-key"),)}
            read |= {(values["apiSecretKeySecretName"], "api-secret-key"), (values["jwtSecretName"], "jwt-secret")}
            if "data" in values:
                read.add((values["data"]["metadataSecretName"], "connection"))
    # Made by cert-manager, not by people.
    assert told == {pair for pair in read if pair[0] not in ("wt-registry-tls", "wt-collector-tls")}


def _keys(found: Any) -> list[tuple[str, str]]:
    """(secret, key) of every reference below."""
    pairs: list[tuple[str, str]] = []
    if isinstance(found, dict):
        for name in ("secret", "secretKeyRef"):
            one = found.get(name)
            if isinstance(one, dict):
                secret = one.get("secretName") or one.get("name")
                pairs += [(secret, item["key"]) for item in one.get("items", [])]
                if secret == "windtunnel-keys":  # mounted whole: the public keys are called by their ids
                    pairs += [(secret, key) for key in (keysecret.PRIVATE, keysecret.AUDIT, keysecret.LIST)]
                if "key" in one:
                    pairs.append((secret, one["key"]))
        for value in found.values():
            pairs += _keys(value)
        if "basicAuth" in found:
            pairs += [(ref["name"], ref["key"]) for ref in found["basicAuth"].values()]
    elif isinstance(found, list):
        for value in found:
            pairs += _keys(value)
    return pairs


def test_airflows_values_fit_each_other(helpers: Any) -> None:
    """One chart version everywhere, the Airflow of the image, and what the registry's chart names."""
    locked = (helpers.ROOT / "locks" / "main.txt").read_text(encoding="utf-8")
    airflow = re.search(r"^apache-airflow==(\S+)", locked, re.M)[1]  # type: ignore[index]
    image = (helpers.ROOT / "docker" / "airflow" / "Dockerfile").read_text(encoding="utf-8")
    assert f"apache/airflow:slim-{airflow}-python3.12" in image
    notes = (helpers.CHART / "templates" / "NOTES.txt").read_text(encoding="utf-8")
    version = re.search(r"--version (\S+)", notes)[1]  # type: ignore[index]
    for name in helpers.PRESETS:
        text = (helpers.CHART / f"values-airflow-{name}.yaml").read_text(encoding="utf-8")
        values = yaml.safe_load(text)
        assert values["airflowVersion"] == airflow
        assert f"apache-airflow/airflow {version}" in text
        chart = yaml.safe_load((helpers.CHART / "Chart.yaml").read_text(encoding="utf-8"))
        assert values["defaultAirflowTag"] == chart["appVersion"]
        if name == "small":
            continue
        assert all(values[part]["replicas"] >= 2 for part in ("scheduler", "apiServer", "dagProcessor", "triggerer"))
        assert not values["postgresql"]["enabled"]
        # Everybody's own log-in, by a provider that the image has.
        manager = values["config"]["core"]["auth_manager"]
        assert "simple" not in manager and f"apache-airflow-providers-{manager.split('.')[2]}==" in image
        # The authority's file lies where the connection of the how-to says.
        assert values["volumeMounts"][0]["mountPath"] == "/etc/windtunnel/tls"
        # A policy without peers would let in nobody, not even tasks; and who comes by the ingress came by HTTPS.
        assert values["networkPolicies"]["enabled"] and values["apiServer"]["networkPolicy"]["ingress"]["from"]
        assert values["ingress"]["apiServer"]["enabled"] and "--proxy-headers" in values["apiServer"]["args"][-1]


@pytest.mark.parametrize("name", ["production", "eks"])
def test_tasks_start_no_pods_beside_the_registrys_secrets(
    name: str, rendered: Callable[[str], list[dict[str, Any]]], helpers: Any
) -> None:
    """DEMAND OPS-4: the official chart lets Airflow's tasks start pods in its namespace, and a pod may mount any secret
    there; so it is another one than the registry's, in all that names it."""
    ours = helpers.preset(name)
    assert ours["training"]["airflowNamespace"] == ours["releases"]["airflowNamespace"] == "airflow"
    objects = helpers.render(helpers.merged(ours, {"releases": {"enabled": True}}))
    for one in objects:
        if one["kind"] == "RoleBinding":
            assert {subject["namespace"] for subject in one["subjects"]} == {"airflow"}, one["metadata"]["name"]
    notes = next(text for path, text in helpers.files(ours).items() if path.endswith("NOTES.txt"))
    assert "--namespace airflow --values helm/windtunnel/values-airflow-" + name in notes
    for page in ("install-on-kubernetes", "install-on-eks"):
        text = (helpers.ROOT / "docs" / "how-to" / f"{page}.md").read_text(encoding="utf-8")
        for line in re.findall(r"helm install airflow .*", text):
            assert ("--namespace airflow" in line) == ("small" not in line), line


def test_the_values_in_the_how_to_are_taken(helpers: Any) -> None:
    page = (helpers.ROOT / "docs" / "how-to" / "install-on-eks.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^   ```yaml\n(.*?)^   ```", page, re.M | re.S)
    preset = yaml.safe_load((helpers.CHART / "values-eks.yaml").read_text(encoding="utf-8"))
    text = block.replace("BUCKET", "models").replace("REGION", "eu-west-1")
    assert helpers.render(helpers.merged(preset, yaml.safe_load(text)))


def test_the_secrets_of_the_how_to_are_all_that_small_needs(
    rendered: Callable[[str], list[dict[str, Any]]], helpers: Any
) -> None:
    page = (helpers.ROOT / "docs" / "how-to" / "install-on-kubernetes.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"<<END\n(.*?)^END", page, re.M | re.S)
    text = re.sub(r"\$\([^)]*\)|\$[A-Z]+", "x", block)
    made = {(one["metadata"]["name"], key) for one in yaml.safe_load_all(text) for key in one["stringData"]}
    read = {pair for one in rendered("small") for pair in _keys(one)}
    values = yaml.safe_load((helpers.CHART / "values-airflow-small.yaml").read_text(encoding="utf-8"))
    airflow = values["data"]["metadataSecretName"]
    asked = {"connection", "fernet-key", "api-secret-key", "jwt-secret"}
    assert made == read | {("windtunnel-airflow", key) for key in asked} | {(airflow, "connection")}
