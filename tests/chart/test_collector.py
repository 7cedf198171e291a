"""The collector as the chart starts it: its arguments and volumes, as any user, on a file system it cannot write; its
check, its alerts and who may come in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import podlike
import pytest
import waiting

from windtunnel.loopback import any_free
from windtunnel.serving.collector.metrics import METRICS

Rendered = Callable[[str], list[dict[str, Any]]]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that any user may read, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="wt-collector-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


def test_it_runs_as_the_chart_starts_it_and_its_check_finds_nothing(
    rendered: Rendered, helpers: Any, open_folder: Path
) -> None:
    """DEMAND OPS-3"""
    objects = rendered("production+collector")
    (container,) = helpers.of(objects, "StatefulSet", "wt-collector")["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["windtunnel", "collector"]
    folders = {name: open_folder / name for name in ("spool", "tmp", "log")}
    for folder in folders.values():
        folder.mkdir()
    token, port = open_folder / "token", any_free()
    token.write_text("secret")
    place = {
        "--spool=/var/spool/windtunnel/collector": f"--spool={folders['spool'] / 'collector'}",
        "--to=s3://models/predictions": f"--to={folders['log'].as_uri()}",
        "--port=8080": f"--port={port}",
        "--token-file=/etc/windtunnel/collector/token": f"--token-file={token}",
        "--instance=$(INSTANCE)": "--instance=0",
    }
    assert set(place) <= set(container["args"]) and "--tls=/etc/windtunnel/tls" in container["args"]
    each = [f"--peer={n}=https://wt-collector-{n}.wt-collector-peers.ml.svc:8080" for n in (0, 1)]
    assert [word for word in container["args"] if "peer" in word] == [*each, "--peer-ca=/etc/windtunnel/tls/ca.crt"]
    words = [place.get(word, word) for word in container["args"] if not word.startswith(("--tls=", "--peer"))]
    env = {one["name"]: one["value"] for one in container["env"] if "value" in one} | {
        "HOME": str(folders["tmp"]), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1",
        **podlike.volumes(*folders.values()),
    }  # fmt: skip
    argv = podlike.command([str(Path(sys.executable).with_name("windtunnel")), "collector", *words])
    with (open_folder / "out").open("w") as log:
        process = subprocess.Popen(argv, env=env, cwd=folders["tmp"], stdout=log, stderr=log)
    try:
        url = f"http://127.0.0.1:{port}"
        probe = container["readinessProbe"]["httpGet"]["path"]
        waiting.until(lambda: process.poll() is not None or httpx.get(url + probe).status_code == 200, every_s=0.1)
        (check,) = helpers.of(objects, "Pod", "wt-collector-check")["spec"]["containers"]
        assert check["args"][0] == "https://wt-collector.ml.svc:8080"
        there = {
            "--token-file=/etc/windtunnel/collector/token": f"--token-file={token}",
            "--each=0=https://wt-collector-0.wt-collector-peers.ml.svc:8080": f"--each=0={url}",
        }
        given = [word for word in check["args"][1:] if not word.startswith(("--ca=", "--each=1="))]
        assert set(there) <= set(given)
        told = [there.get(word, word) for word in given]
        done = subprocess.run(
            [sys.executable, *check["command"][1:], url, *told], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr + (open_folder / "out").read_text()
        token.write_text("another")
        wrong = open_folder / "wrong"
        wrong.write_text("guess")
        refused = subprocess.run(
            [sys.executable, *check["command"][1:], url, f"--token-file={wrong}", "--wait=1", f"--each=1={url}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert refused.returncode == 1 and "collector 1" in refused.stderr and "401" in refused.stderr
    finally:
        process.terminate()
        ended = process.wait(60)
    assert ended == 0, (open_folder / "out").read_text()


def test_alerts_ask_for_what_there_is(rendered: Rendered, helpers: Any) -> None:
    (group,) = helpers.of(rendered("production+collector"), "PrometheusRule", "wt-collector")["spec"]["groups"]
    names = {name for name, _, _ in METRICS}
    asked = set(re.findall(r"windtunnel_\w+", " ".join(rule["expr"] for rule in group["rules"])))
    assert asked and asked <= names
    (endpoint,) = helpers.of(rendered("production+collector"), "ServiceMonitor", "wt-collector")["spec"]["endpoints"]
    assert (endpoint["path"], endpoint["scheme"]) == ("/metrics", "https")


def test_models_pods_come_in_and_the_store_is_reached(rendered: Rendered, helpers: Any) -> None:
    policy = helpers.of(rendered("production+collector"), "NetworkPolicy", "wt-collector")["spec"]
    spaces = [
        one["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        for one in policy["ingress"][0]["from"]
        if "namespaceSelector" in one
    ]
    assert "models" in spaces and "monitoring" in spaces
    assert {port["port"] for rule in policy["egress"] for port in rule["ports"]} == {53, 443, "http"}
    plain = helpers.preset("production+collector")
    plain = helpers.merged(plain, {"collector": {"plain": True, "openEvents": True}})
    args = helpers.of(helpers.render(plain), "StatefulSet")["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "--open-events" in args and not [word for word in args if word.startswith("--tls")]


def test_each_collector_has_a_name_a_volume_and_a_way_to_the_others(rendered: Rendered, helpers: Any) -> None:
    """DEMAND OPS-9: two in production, on nodes of their own, each reachable by the name its certificate has."""
    objects = rendered("production+collector")
    owner = helpers.of(objects, "StatefulSet", "wt-collector")["spec"]
    pod = owner["template"]["spec"]
    assert (owner["replicas"], owner["serviceName"]) == (2, "wt-collector-peers")
    assert owner["podManagementPolicy"] == "Parallel"
    env = {one["name"]: one.get("valueFrom") for one in pod["containers"][0]["env"]}
    assert env["INSTANCE"] == {"fieldRef": {"fieldPath": "metadata.labels['apps.kubernetes.io/pod-index']"}}
    (spread, _) = pod["topologySpreadConstraints"]
    assert (spread["topologyKey"], spread["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "DoNotSchedule")
    peers = helpers.of(objects, "Service", "wt-collector-peers")
    assert (peers["spec"]["clusterIP"], peers["spec"]["publishNotReadyAddresses"]) == ("None", True)
    assert helpers.of(objects, "Service", "wt-collector")["spec"]["sessionAffinity"] == "ClientIP"
    watched = helpers.of(objects, "ServiceMonitor", "wt-collector")["spec"]["selector"]["matchLabels"]
    assert not watched.items() <= peers["metadata"]["labels"].items(), "each would be scraped twice"
    names = helpers.of(objects, "Certificate", "wt-collector")["spec"]["dnsNames"]
    said = [word.split("=", 2) for word in pod["containers"][0]["args"] if word.startswith("--peer=")]
    assert [name for _, name, _ in said] == ["0", "1"]
    assert {url.removeprefix("https://").partition(":")[0] for _, _, url in said} <= set(names)
    policy = helpers.of(objects, "NetworkPolicy", "wt-collector")["spec"]
    each = {"podSelector": {"matchLabels": policy["podSelector"]["matchLabels"]}}
    assert each in policy["ingress"][0]["from"] and any(each in rule["to"] for rule in policy["egress"])
    one = helpers.merged(helpers.preset("production+collector"), {"collector": {"replicas": 1}})
    text = str(helpers.of(helpers.render(one), "StatefulSet", "wt-collector"))
    assert "--peer" not in text and "topologySpread" not in text
    assert "PeerAway" not in str(helpers.of(helpers.render(one), "PrometheusRule", "wt-collector"))
