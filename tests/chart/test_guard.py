"""The guard as the chart starts it: its arguments and settings, as any user, on a file system it cannot write, and what
it asks of the API held against its rights."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fakecore2
import fakeseldon
import podlike
import pytest
import waiting

from windtunnel.kube import rights
from windtunnel.kube.access import Access
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.core2 import Core2, Core2Backend

#: An object of ours whose lease has ended long ago would be taken back; with none there is only looking.
VERBS = {"GET": {"get", "list", "watch"}, "PATCH": {"patch"}, "POST": {"create"}, "DELETE": {"delete"}}


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that any user may read, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="wt-guard-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


def test_in_production_two_guard(rendered: Callable[[str], list[dict[str, Any]]], helpers: Any) -> None:
    """DEMAND OPS-9"""

    def parts(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], str]:
        objects = helpers.render(values)
        rules = [one for one in objects if one["kind"] == "PrometheusRule"]
        return (
            helpers.of(objects, "Deployment", "wt-guard")["spec"],
            helpers.of(objects, "PodDisruptionBudget", "wt-guard")["spec"],
            " ".join(rule["alert"] for one in rules for rule in one["spec"]["groups"][0]["rules"]),
        )

    asked = helpers.preset("production+guard")
    deployment, budget, alerts = parts(asked)
    assert (deployment["replicas"], budget["minAvailable"]) == (2, 1)
    assert budget["selector"]["matchLabels"] == deployment["selector"]["matchLabels"]
    spread = [one["topologyKey"] for one in deployment["template"]["spec"]["topologySpreadConstraints"]]
    assert spread == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    assert "WindtunnelGuardAway" in alerts and "WindtunnelGuardAlone" in alerts
    deployment, budget, alerts = parts(helpers.merged(asked, {"guard": {"replicas": 1}}))
    assert (deployment["replicas"], budget["maxUnavailable"]) == (1, 1), "a node may be drained"
    assert "WindtunnelGuardAway" in alerts and "WindtunnelGuardAlone" not in alerts
    policy = helpers.of(helpers.render(asked), "NetworkPolicy", "wt-guard")["spec"]["egress"]
    assert [one["ports"] for one in policy if "to" not in one] == [
        [{"port": port, "protocol": "TCP"} for port in (443, 6443, 8443, 16443)]
    ], "anywhere, by these ports"
    narrow = {"guard": {"apiCidrs": ["10.1.2.3/32"], "apiPorts": [7443]}, "networkPolicy": {"toCidrs": ["10.9.0.0/16"]}}
    policy = helpers.of(helpers.render(helpers.merged(asked, narrow)), "NetworkPolicy", "wt-guard")["spec"]["egress"]
    assert {"to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}], "ports": [{"port": 7443, "protocol": "TCP"}]} in policy


@pytest.mark.real
def test_the_guard_runs_as_the_chart_starts_it(
    rendered: Callable[[str], list[dict[str, Any]]], helpers: Any, open_folder: Path
) -> None:
    objects = rendered("production+guard")
    (container,) = helpers.of(objects, "Deployment", "wt-guard")["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["windtunnel", "guard"]
    home, tmp, settings = open_folder / "home", open_folder / "tmp", open_folder / "seldon.toml"
    home.mkdir()
    tmp.mkdir()
    settings.write_text(helpers.of(objects, "ConfigMap", "wt-guard")["data"]["seldon.toml"])
    place = {"/etc/windtunnel/guard/seldon.toml": str(settings), "/var/lib/windtunnel": str(home)}
    words = [place.get(word, word) for word in container["args"]]
    env = {one["name"]: one["value"] for one in container["env"] if "value" in one and one["name"] != "SSL_CERT_FILE"}
    with fakeseldon.cluster() as cluster, (open_folder / "log").open("w") as log:
        env |= {
            "HOME": str(tmp),
            "KUBECONFIG": cluster.kubeconfig(open_folder / "kubeconfig"),
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            **podlike.volumes(home, tmp),
        }
        argv = podlike.command([str(Path(sys.executable).with_name("windtunnel")), "guard", *words])
        guard = subprocess.Popen(argv, env=env, cwd=tmp, stdout=log, stderr=log)
        try:
            waiting.until(lambda: guard.poll() is not None or (home / "serving" / "guard.json").is_file(), every_s=0.1)
            probe = [
                word.replace("/var/lib/windtunnel", str(home))
                for word in container["readinessProbe"]["exec"]["command"]
            ]
            done = subprocess.run([sys.executable, *probe[1:]], capture_output=True, text=True, check=False)
        finally:
            guard.terminate()
            ended = guard.wait(60)
        asked = {(one.method, one.path) for one in cluster.requests}
    assert (done.returncode, ended) == (0, 0), (open_folder / "log").read_text()
    assert asked
    granted = {verb for rule in helpers.of(objects, "Role", "wt-guard")["rules"]
               if rule["resources"] == ["seldondeployments"] for verb in rule["verbs"]}  # fmt: skip
    for method, path in asked:
        # In the namespace of its role alone.
        assert "/namespaces/models/seldondeployments" in path, path
        assert VERBS[method] & granted, method


@pytest.mark.real
def test_on_core_2_it_takes_a_candidate_back_within_its_rights(helpers: Any, open_folder: Path) -> None:
    """DEMAND ROL-6: nobody renews the lease; the chart's guard and role are enough to end it, objects and all."""
    asked_for = helpers.merged(helpers.preset("production+guard"), {"guard": {"api": "core2"}})
    objects = helpers.render(asked_for)
    settings = open_folder / "seldon.toml"
    settings.write_text(helpers.of(objects, "ConfigMap", "wt-guard")["data"]["seldon.toml"])
    with fakecore2.cluster() as cluster, fakecore2.Core2(cluster) as core:
        kubeconfig = cluster.kubeconfig(open_folder / "kubeconfig")
        mine = Core2(image="i", registry="r", access=Access(kubeconfig), direct=core.url, poll_s=0.02)
        arms = [Arm(str(n), f"sha256:{n}", f"models:/visits/{n}", weight) for n, weight in ((1, 75), (2, 25))]
        lease = {"token": 1, "rollout_id": "r", "lease_until": time.time() + 2, "lease_s": 2.0}
        Core2Backend(mine).apply(Release("visits", arms[0], (arms[1],), **lease))
        env = {**os.environ, "HOME": str(open_folder), "KUBECONFIG": kubeconfig, "WINDTUNNEL_REGISTRY_URL": ""}
        command = [str(Path(sys.executable).with_name("windtunnel")), "guard", "--seldon", str(settings)]
        began = len(cluster.requests)
        with (open_folder / "log").open("w") as log:
            guard = subprocess.Popen([*command, "--home", str(open_folder / "home")], env=env, stdout=log, stderr=log)
        try:
            waiting.until(lambda: guard.poll() is not None or len(cluster.all("servers")) == 1, every_s=0.1)
        finally:
            guard.terminate()
            guard.wait(60)
        assert [one["metadata"]["name"] for one in cluster.all("servers")] == ["visits-v1"], (
            open_folder / "log"
        ).read_text()
        assert [one["metadata"]["name"] for one in cluster.all("models")] == ["visits-v1"]
        (found,) = cluster.all("experiments")
        assert found["spec"]["candidates"] == [{"name": "visits-v1", "weight": 100}]
        asked = {(one.method, one.path.split("/models/", 1)[1].partition("/")[0]) for one in cluster.requests[began:]}
    granted = {(resource, verb) for rule in helpers.of(objects, "Role", "wt-guard")["rules"]
               for resource in rule["resources"] for verb in rule["verbs"]}  # fmt: skip
    assert {(one.resource, verb) for one in rights.GUARD_CORE2.rights for verb in one.verbs} == granted
    for method, resource in asked:
        assert any((resource, verb) in granted for verb in VERBS[method]), (method, resource)
    assert ("DELETE", "models") in asked and ("POST", "models") not in asked
