"""What no object of the chart may do, in any preset. DEMAND OPS-2, OPS-6, OPS-9, OPS-10"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

Rendered = Callable[[str], list[dict[str, Any]]]
pytestmark = pytest.mark.parametrize("name", ["small", "production", "eks", "production+guard", "production+collector"])


def test_pods_are_restricted(name: str, rendered: Rendered, helpers: Any) -> None:
    """The level "restricted" of the Pod Security Standards, and a root file system that cannot be written."""
    looked = 0
    for where, pod in helpers.pods(rendered(name)):
        assert pod["automountServiceAccountToken"] is (where == "Deployment/wt-guard"), where
        assert pod["serviceAccountName"] not in ("", "default"), where
        assert pod["securityContext"]["runAsNonRoot"] is True, where
        assert pod["securityContext"].get("runAsUser") != 0, where
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostUsers"} & set(pod), where
        allowed = {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}
        assert all(set(volume) - {"name"} <= allowed for volume in pod["volumes"]), where
        for container in pod["containers"] + pod.get("initContainers", []):
            looked += 1
            safety = container["securityContext"]
            assert safety["allowPrivilegeEscalation"] is False, where
            assert safety["privileged"] is False, where
            assert safety["readOnlyRootFilesystem"] is True, where
            assert safety["capabilities"] == {"drop": ["ALL"]}, where
            assert not [port for port in container.get("ports", []) if "hostPort" in port], where
    assert looked >= 3


def test_every_container_has_bounds_and_is_watched(name: str, rendered: Rendered, helpers: Any) -> None:
    for where, pod in helpers.pods(rendered(name)):
        for container in pod["containers"]:
            assert {"cpu", "memory"} <= set(container["resources"]["requests"]), where
            assert "memory" in container["resources"]["limits"], where
            if pod.get("restartPolicy", "Always") == "Always":
                assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container), where
        for volume in pod["volumes"]:
            if "emptyDir" in volume:
                assert volume["emptyDir"].get("sizeLimit"), where


def test_images_have_a_tag_or_a_digest(name: str, rendered: Rendered, helpers: Any) -> None:
    for where, pod in helpers.pods(rendered(name)):
        for container in pod["containers"]:
            image = container["image"]
            assert re.search(r":[\w.-]+(@sha256:[0-9a-f]{64})?$", image), (where, image)
            assert ":latest" not in image, where


def test_no_secret_is_written_anywhere(name: str, rendered: Rendered) -> None:
    """Secrets are named and never held: no object of that kind, no password in an environment or a command line."""
    for one in rendered(name):
        assert one["kind"] != "Secret"
        text = yaml.safe_dump(one)
        assert not re.search(r"postgres(ql)?(\+\w+)?://", text), one["metadata"]["name"]
        for variable in re.findall(r"- name: ([A-Z_]+)\n\s+value: (\S+)", text):
            assert not re.search(r"PASSWORD(?!_FILE)|_KEY$|TOKEN", variable[0]), variable


def test_only_training_releases_and_the_guard_give_rights_and_no_wildcards(name: str, rendered: Rendered) -> None:
    for one in rendered(name):
        assert one["kind"] not in ("ClusterRole", "ClusterRoleBinding")
        if one["kind"] == "Role":
            assert one["metadata"]["labels"]["app.kubernetes.io/component"] in ("training", "releases", "guard")
            for rule in one["rules"]:
                assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
                assert not {"secrets", "pods/exec", "pods/attach", "configmaps"} & set(rule["resources"])
        if one["kind"] == "ServiceAccount":
            assert one["automountServiceAccountToken"] is False


def test_every_running_part_is_behind_a_network_policy(name: str, rendered: Rendered) -> None:
    objects = rendered(name)
    chosen = [
        one["spec"]["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
        for one in objects
        if one["kind"] == "NetworkPolicy"
    ]
    parts = {
        (one if one["kind"] == "Pod" else one["spec"]["template"])["metadata"]["labels"]["app.kubernetes.io/component"]
        for one in objects
        if one["kind"] == "Pod" or "template" in one.get("spec", {})
    }
    assert parts == set(chosen)
    for one in objects:
        if one["kind"] == "NetworkPolicy":
            assert one["spec"]["policyTypes"] == ["Ingress", "Egress"]
            for rule in one["spec"].get("ingress", []) + one["spec"].get("egress", []):
                assert rule["ports"]
                # The cluster's API is no address that every network knows (Cilium: its nodes are in no range).
                api = name == "production+guard" and one["metadata"]["name"] == "wt-guard" and set(rule) == {"ports"}
                assert rule.get("from") or rule.get("to") or (api and 6443 in {port["port"] for port in rule["ports"]})


def test_people_come_in_by_tls(name: str, rendered: Rendered) -> None:
    """DEMAND OPS-10: at the ingress, and between the parts."""
    if name == "small":
        assert not [one for one in rendered(name) if one["kind"] == "Ingress"]
        return
    text = yaml.safe_dump_all(rendered(name))
    (ingress,) = (one for one in rendered(name) if one["kind"] == "Ingress")
    assert [host for entry in ingress["spec"]["tls"] for host in entry["hosts"]] == ["mlflow.example.org"]
    assert "--tls=/etc/windtunnel/tls" in text
    assert "http://wt-registry" not in text


def test_what_keeps_data_is_in_the_cluster_in_small_alone(name: str, rendered: Rendered) -> None:
    """DEMAND OPS-9"""
    stateful = [one["metadata"]["name"] for one in rendered(name) if one["kind"] == "StatefulSet"]
    # The collector's spool holds seconds: what pods sent and nobody published yet.
    assert stateful == {"small": ["wt-postgresql"], "production+collector": ["wt-collector"]}.get(name, [])
    budgets = [one for one in rendered(name) if one["kind"] == "PodDisruptionBudget"]
    assert bool(budgets) == (name != "small")
    # Where one stands by, one is left at every drain; for a single one it would hold the drain up.
    for one in budgets:
        part = one["metadata"]["labels"]["app.kubernetes.io/component"]
        kept = {"minAvailable": 1} if part in ("registry", "guard") else {"maxUnavailable": 1}
        assert kept.items() <= one["spec"].items()
    claims = [one["metadata"]["name"] for one in rendered(name) if one["kind"] == "PersistentVolumeClaim"]
    assert claims == ({"small": ["wt-registry"]}.get(name, []))


def test_the_registry_is_no_single_point_but_in_small(name: str, rendered: Rendered, helpers: Any) -> None:
    """DEMAND OPS-9"""
    spec = helpers.of(rendered(name), "Deployment", "wt-registry")["spec"]
    pod = spec["template"]["spec"]
    if name == "small":
        assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
        assert "topologySpreadConstraints" not in pod
        return
    assert spec["replicas"] == 2
    # A new one stands by, ready to pass on, before a former one goes.
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    spread = {one["topologyKey"]: one["whenUnsatisfiable"] for one in pod["topologySpreadConstraints"]}
    assert spread == {
        "kubernetes.io/hostname": "DoNotSchedule",
        "topology.kubernetes.io/zone": "ScheduleAnyway",
    }
    assert all(
        one["labelSelector"]["matchLabels"] == spec["selector"]["matchLabels"]
        for one in pod["topologySpreadConstraints"]
    )
    assert [volume["name"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume] == []
    (container,) = pod["containers"]
    paths = {probe: container[f"{probe}Probe"]["httpGet"]["path"] for probe in ("startup", "readiness", "liveness")}
    assert paths == {"startup": "/alive", "readiness": "/health", "liveness": "/alive"}
    given = {one["name"]: one for one in container["env"]}
    assert given["WINDTUNNEL_ADDRESS"]["valueFrom"]["fieldRef"]["fieldPath"] == "status.podIP"
    assert given["WINDTUNNEL_HOME_TEMPORARY"]["value"] == "1"
    # Those that stand by reach the one that serves, by a name that its certificate has.
    policy = helpers.of(rendered(name), "NetworkPolicy", "wt-registry")["spec"]
    (to,) = [rule for rule in policy["egress"] if rule["to"] == [{"podSelector": spec["selector"]}]]
    assert to["ports"] == [{"port": "http", "protocol": "TCP"}]
    names = helpers.of(rendered(name), "Certificate", "wt-registry")["spec"]["dnsNames"]
    assert given["WINDTUNNEL_SERVER_NAME"]["value"] in names
