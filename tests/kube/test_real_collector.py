"""What a SeldonDeployment says of its rows, asked of a real API server with Seldon's CRD; ``make test-kubernetes``."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from waiting import until

from windtunnel.errors import AbsentError
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import DEFINITION, NAMESPACE, SELDON_DEPLOYMENT, Kind
from windtunnel.serving import desired
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.desired import Server, State
from windtunnel.serving.seldon import Seldon, manifest

pytestmark = pytest.mark.kubernetes
CHART = Path(__file__).parents[1] / "chart" / "golden" / "production-collector.yaml"
KINDS = {
    "ServiceAccount": Kind("", "v1", "serviceaccounts", "ServiceAccount"),
    "Service": Kind("", "v1", "services", "Service"),
    "StatefulSet": Kind("apps", "v1", "statefulsets", "StatefulSet"),
    "PodDisruptionBudget": Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget"),
    "NetworkPolicy": Kind("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy"),
    "Pod": Kind("", "v1", "pods", "Pod"),
}


@pytest.mark.parametrize("rows", ["server", "logger"])
def test_the_real_schema_takes_what_is_said_of_rows(client: Client, rows: str) -> None:
    """Strict: nothing of ``graph.logger`` and of the pods' environment and volumes is pruned or refused."""
    if client.get(DEFINITION, f"{SELDON_DEPLOYMENT.plural}.{SELDON_DEPLOYMENT.group}") is None:
        pytest.skip("this cluster has no SeldonDeployment")
    seldon = Seldon.of(
        {
            "image": "registry.example.org/model-server:1",
            "registry": "http://registry",
            "collector": "http://wt-collector.ml.svc:8080",
            "collector_rows": rows,
            "collector_secret": "token",
            "collector_ca": "authority",
        }
    )
    arms = [Arm(str(n), f"sha256:{n:064x}", f"models:/rows/{n}", weight) for n, weight in ((1, 100), (2, 0))]
    release = Release(f"rows-{rows}", arms[0], (arms[1],), token=3, rollout_id="r", lease_until=99.5, mirror=20)
    servers = {one.version: Server(one.digest, one.source, 0, True, True, {}) for one in arms}
    wanted = desired.routed(State(release, servers=servers), now=1000.0)
    made = manifest.deployment(wanted, seldon, None, client.namespace)
    live = client.create(SELDON_DEPLOYMENT, made)
    assert live["spec"]["predictors"] == made["spec"]["predictors"]
    found = {one["name"]: one["graph"].get("logger") for one in live["spec"]["predictors"]}
    url = "http://wt-collector.ml.svc:8080/v1/events"
    said = {"v1": {"url": url, "mode": "all"}, "v2": {"url": f"{url}?shadow=1", "mode": "all"}}
    assert found == (said if rows == "logger" else {"v1": None, "v2": None})
    client.delete(SELDON_DEPLOYMENT, release.model)

    def gone() -> bool:
        try:
            return client.get(SELDON_DEPLOYMENT, release.model) is None
        except AbsentError:
            return True

    until(gone, 60)


def test_the_real_api_takes_what_the_chart_installs_as_restricted(client: Client) -> None:
    """DEMAND OPS-2: strict, in a namespace that lets only restricted pods in; the check's pod is admitted as one."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    client.patch(NAMESPACE, str(client.namespace), {"metadata": {"labels": labels}})
    objects = [one for one in yaml.safe_load_all(CHART.read_text(encoding="utf-8")) if one["kind"] in KINDS]
    assert {one["kind"] for one in objects} == set(KINDS)
    for one in sorted(objects, key=lambda one: list(KINDS).index(one["kind"])):
        live = client.create(KINDS[one["kind"]], one)
        if one["kind"] == "StatefulSet":
            (made,), (said,) = (each["spec"]["template"]["spec"]["containers"] for each in (live, one))
            assert (made["args"], made["securityContext"]) == (said["args"], said["securityContext"])
    for one in objects:
        client.delete(KINDS[one["kind"]], one["metadata"]["name"])
