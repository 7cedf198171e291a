"""Alerts and dashboard ask for metrics that exist: those the server gives, and the cluster's own, by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from windtunnel_mlflow.api.metrics import METRICS

#: Prometheus's own, the kubelet's, cAdvisor's, kube-state-metrics'.
CLUSTER = {
    "up", "kubelet_volume_stats_available_bytes", "kubelet_volume_stats_capacity_bytes",
    "container_memory_working_set_bytes", "container_cpu_usage_seconds_total",
    "kube_pod_container_status_restarts_total", "kube_deployment_status_replicas_available",
}  # fmt: skip
FUNCTIONS = {"absent", "and", "count", "label_values", "max", "min", "on", "rate", "sum"}
KNOWN = {name for name, _, _ in METRICS} | CLUSTER


def asked(expression: str) -> set[str]:
    """Names of metrics in an expression."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|by \([^)]*\)', " ", expression)
    return set(re.findall(r"[a-z_]{2,}", bare)) - FUNCTIONS


def test_alerts_ask_for_what_there_is(rendered: Callable[[str], list[dict[str, Any]]], helpers: Any) -> None:
    (group,) = helpers.of(rendered("production"), "PrometheusRule")["spec"]["groups"]
    used: set[str] = set()
    for rule in group["rules"]:
        assert asked(rule["expr"]) <= KNOWN, rule["expr"]
        used |= asked(rule["expr"])
        assert {"summary", "description"} <= set(rule["annotations"])
        assert rule["labels"]["severity"] in ("warning", "critical")
    assert len(used) >= 5


def test_every_alert_is_explained_and_nothing_else_is(helpers: Any) -> None:
    """DEMAND OPS-2: each alert leads to a section of the page, in the same order; each section is an alert's."""
    page = "docs/how-to/answer-an-alert.md"
    sections = (helpers.ROOT / page).read_text(encoding="utf-8").split("\n## ")[1:]
    for told in sections:
        assert {"**It means**", "**If nobody does**"} <= set(re.findall(r"\*\*[^*]+\*\*", told)), told.partition("\n")[
            0
        ]
    every = helpers.merged(helpers.preset("production+guard"), helpers.preset("production+collector"))
    every = helpers.merged(every, {"registry": {"volume": {"enabled": True}}})
    every = helpers.merged(every, {"registry": {"volume": {"accessMode": "ReadWriteMany"}}})
    for base in ("", "https://git.example.org/windtunnel/answer-an-alert.html"):
        given = helpers.merged(every, {"monitoring": {"rules": {"runbookUrl": base}}})
        objects = helpers.render(given)
        rules = [
            rule
            for name in ("wt-registry", "wt-collector")
            for group in helpers.of(objects, "PrometheusRule", name)["spec"]["groups"]
            for rule in group["rules"]
        ]
        assert [one["alert"] for one in rules] == [told.partition("\n")[0] for told in sections]
        assert [one["annotations"]["runbook_url"] for one in rules] == [
            f"{base or page}#{one['alert'].lower()}" for one in rules
        ]


def test_the_dashboard_asks_for_what_there_is(rendered: Callable[[str], list[dict[str, Any]]], helpers: Any) -> None:
    text = helpers.of(rendered("production"), "ConfigMap", "wt-registry-dashboard")["data"]["windtunnel-registry.json"]
    dashboard = json.loads(text)
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    used = set().union(*map(asked, expressions))
    assert used <= KNOWN
    # Every metric of ours is either shown or compared with one that is.
    assert {name for name, _, _ in METRICS} - used <= {"windtunnel_registry_audit_signed_entries"}
    # Every server answers for the registry: what it says is shown once, however many there are.
    assert all(
        re.match(r"(max|min|sum)\b", one) for one in expressions if "windtunnel_registry_" in one or "up{" in one
    )
    variables = {one["name"] for one in dashboard["templating"]["list"]}
    assert set(re.findall(r"\$(\w+)", " ".join(expressions))) <= variables


def test_prometheus_finds_the_models(rendered: Callable[[str], list[dict[str, Any]]], helpers: Any) -> None:
    """DEMAND ROL-2: gates count what it scrapes. Port and path are those of Seldon's own examples."""
    from windtunnel.serving.seldon import manifest, record

    assert not [one for one in rendered("production") if one["kind"] == "PodMonitor"]  # no models, none
    found = helpers.of(rendered("production+guard"), "PodMonitor")
    assert found["metadata"]["namespace"] == "models"
    assert found["spec"]["selector"] == {"matchExpressions": [{"key": record.MODEL, "operator": "Exists"}]}
    (endpoint,) = found["spec"]["podMetricsEndpoints"]
    assert (endpoint["port"], endpoint["path"], endpoint["interval"]) == ("metrics", "/prometheus", "15s")
    assert manifest.METRICS == 6000  # our server's port of that name, which answers at any path
    core2 = helpers.merged(helpers.preset("production+guard"), {"releases": {"api": "core2"}})
    found = helpers.of(helpers.render(core2), "PodMonitor")["spec"]
    assert found["selector"] == {"matchLabels": {"app.kubernetes.io/name": "seldon-server"}}
    assert [(one["port"], one["path"]) for one in found["podMetricsEndpoints"]] == [("metrics", "/metrics")]


def test_prometheus_finds_the_endpoint(rendered: Callable[[str], list[dict[str, Any]]], helpers: Any) -> None:
    from windtunnel_mlflow.api.openapi import ENDPOINTS, PREFIX

    objects = rendered("production")
    (endpoint,) = helpers.of(objects, "ServiceMonitor")["spec"]["endpoints"]
    assert ("get", endpoint["path"].removeprefix(PREFIX)) in {(method, route) for method, route, *_ in ENDPOINTS}
    service = helpers.of(objects, "Service", "wt-registry")
    assert endpoint["port"] in [port["name"] for port in service["spec"]["ports"]]
    chosen = helpers.of(objects, "ServiceMonitor")["spec"]["selector"]["matchLabels"]
    assert chosen.items() <= service["metadata"]["labels"].items()
    # The certificate has the name that Prometheus asks for.
    assert endpoint["tlsConfig"]["serverName"] in helpers.of(objects, "Certificate")["spec"]["dnsNames"]
