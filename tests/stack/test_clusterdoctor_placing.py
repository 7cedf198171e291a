"""DEMAND OPS-4, TRN-5: the doctor says before a training which of its pods no node could ever hold, and why."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubeapi import Cluster as Api

from windtunnel.kube.access import Access
from windtunnel.kube.client import Client
from windtunnel.spec import Model
from windtunnel.stack.clusterdoctor import Cluster, placing, secrets
from windtunnel.stack.finding import Finding

GPU, PRODUCT = "nvidia.com/gpu", "nvidia.com/gpu.product"
POOL = "karpenter.sh/nodepool"


def node(
    labels: dict[str, str] | None = None, taints: list[dict[str, str]] | None = None, **offers: str
) -> dict[str, Any]:
    resources = {"cpu": "8", "memory": "64Gi", "ephemeral-storage": "200Gi"}
    gpus = {f"nvidia.com/{name.replace('_', '-')}": count for name, count in offers.items()}
    return {
        "metadata": {"name": "n", "labels": labels or {}},
        "spec": {"taints": taints or []},
        "status": {"allocatable": {**resources, **gpus}},
    }


def model(serving: dict[str, Any] | None = None, **training: Any) -> Model:
    plain: dict[str, Any] = {
        "name": "sea", "owner": "tides", "target": "kubernetes",
        "data": {"source": "rows.csv", "time": "t", "target": "y", "features": ["a"]},
        "training": {"entry_point": "a:b", "target": "kubernetes", "pod": {"image": "i"}, **training},
        "serving": serving or {},
    }  # fmt: skip
    return Model.model_validate(plain)


@pytest.fixture
def api() -> Iterator[Api]:
    with Api({"secrets": ("/api/v1", None)}) as found:
        yield found


def look(api: Api, folder: Path, one: Model, *nodes: dict[str, Any]) -> dict[str, Finding]:
    api.pages["/api/v1/nodes"] = {"items": list(nodes)}
    client = Client(Access(api.kubeconfig(folder / "kubeconfig")))
    cluster = Cluster(models=(one,), parts=("training", "releases"))
    found = [*placing.nodes_for_pods(cluster, client), *secrets.given_to_trainings(cluster, client)]
    assert all(one.mend for one in found if one.result != "ok"), "each says how to mend it"
    return {one.name: one for one in found}


A100 = node({PRODUCT: "A100"}, gpu="4")
KEPT = node({PRODUCT: "A100"}, [{"key": "team", "value": "tides", "effect": "NoSchedule"}], gpu="4")
USUAL = node({PRODUCT: "A100"}, [{"key": GPU, "effect": "NoSchedule"}], gpu="4")
SICK = node(taints=[{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}])
ASKED = {"gpu": 1, "gpu_type": "A100"}
ZONES = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
    {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b", "c"]}]}]}}}  # fmt: skip
CASES: list[tuple[str, dict[str, Any], list[dict[str, Any]], str, str]] = [
    ("nothing special", {}, [node()], "ok", "some node could hold it"),
    ("a GPU", {"resources": ASKED}, [node(), A100], "ok", "1 nvidia.com/gpu, nvidia.com/gpu.product=A100"),
    ("the taint of GPUs", {"resources": ASKED}, [USUAL], "ok", "some node"),
    ("another taint", {"resources": ASKED}, [node(), KEPT], "fail", "kept for others by team=tides:NoSchedule"),
    ("that taint", {"resources": ASKED, "pod": {"image": "i", "tolerations": [
        {"key": "team", "value": "tides", "effect": "NoSchedule"}]}}, [KEPT], "ok", "some node"),
    ("a taint that passes", {}, [SICK], "ok", "some node"),
    ("another type", {"resources": {"gpu": 1, "gpu_type": "H200"}}, [A100], "fail",
     "no node has nvidia.com/gpu.product=H200"),
    ("too many", {"resources": {"gpu": 8, "gpu_type": "A100"}}, [A100], "fail", "the most is 4 nvidia.com/gpu"),
    ("a slice", {"resources": {"gpu": 1, "mig": "1g.10gb"}}, [node(**{"mig_1g.10gb": "7"})], "ok", "mig-1g.10gb"),
    ("another slice", {"resources": {"gpu": 1, "mig": "3g.40gb"}}, [node(**{"mig_1g.10gb": "7"})], "fail",
     "no node has 1 nvidia.com/mig-3g.40gb"),
    ("a selector", {"pod": {"image": "i", "node_selector": {"zone": "b"}}}, [node({"zone": "a"})], "fail",
     "zone is a"),
    ("a zone by affinity", {"pod": {"image": "i", "affinity": ZONES}}, [node({"zone": "b"})], "ok", "zone in (b, c)"),
    ("another zone", {"pod": {"image": "i", "affinity": ZONES}}, [node({"zone": "a"})], "fail",
     "no node meets the affinity (zone in (b, c))"),
    ("the zone elsewhere", {"resources": ASKED, "pod": {"image": "i", "affinity": ZONES}}, [node({"zone": "b"}), A100],
     "fail", "no single node has all of it together"),
    ("memory", {"resources": {"memory": "100Gi"}}, [node()], "fail", "the most is 64.0 GiB memory"),
    ("made when needed", {"resources": ASKED}, [node({POOL: "general"})], "warn", "no node has"),
    ("a cloud's group", {"resources": ASKED}, [node({"eks.amazonaws.com/nodegroup": "cpu"})], "warn", "no node has"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("training", "nodes", "result", "said"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_the_pod_of_a_training(
    training: dict[str, Any], nodes: list[dict[str, Any]], result: str, said: str, api: Api, tmp_path: Path
) -> None:
    found = look(api, tmp_path, model(**training), *nodes)["nodes for the training of sea"]
    assert (found.result, said in found.found) == (result, True), found


def test_the_pods_of_a_models_servers(api: Api, tmp_path: Path) -> None:
    """A GPU that is only a limit is asked for as well."""
    asked = model(serving={"gpu": 1, "gpu_type": "L4"})
    name = "nodes for a server of sea"
    assert look(api, tmp_path, asked, node({PRODUCT: "L4"}, gpu="1"))[name].result == "ok"
    assert "no node has 1 nvidia.com/gpu" in look(api, tmp_path, asked, node({PRODUCT: "L4"}))[name].found


def test_an_autoscaler_without_a_node_of_its_own_is_seen(api: Api, tmp_path: Path) -> None:
    asked = model(resources=ASKED)
    assert look(api, tmp_path, asked, node())["nodes for the training of sea"].result == "fail"
    api.pages["/apis/karpenter.sh"] = {"kind": "APIGroup", "versions": [{"version": "v1"}]}
    found = look(api, tmp_path, asked, node())["nodes for the training of sea"]
    assert found.result == "warn" and "Karpenter" in found.mend


def test_what_a_training_is_given(api: Api, tmp_path: Path) -> None:
    """The user by whom it logs in to MLflow, among others: each Secret, and each key."""
    pod = {
        "image": "i", "secrets": {"LOGIN": "mlflow/user", "PASSWORD": "mlflow/password"},
        "secrets_from": ["more"], "pull_secrets": ["registry"], "volumes": [{"path": "/keys", "secret": "keys"}],
    }  # fmt: skip
    name = "secrets of the training of sea"
    assert name not in look(api, tmp_path, model(), node())
    found = look(api, tmp_path, model(pod=pod), node())[name]
    assert found.result == "fail"
    assert all(f"no Secret {one}" in found.found for one in ("keys", "mlflow", "more", "registry"))
    value = base64.b64encode(b"x").decode()
    for one, keys in (("mlflow", ["user"]), ("more", []), ("registry", []), ("keys", [])):
        api.put("secrets", {"metadata": {"name": one, "namespace": "models"}, "data": dict.fromkeys(keys, value)})
    found = look(api, tmp_path, model(pod=pod), node())[name]
    assert found.result == "fail" and "no password in Secret mlflow" in found.found and "more" not in found.found
    api.put(
        "secrets", {"metadata": {"name": "mlflow", "namespace": "models"}, "data": {"user": value, "password": value}}
    )
    assert look(api, tmp_path, model(pod=pod), node())[name].result == "ok"
    api.denied.append("GET /api/v1/namespaces/models/secrets")
    assert look(api, tmp_path, model(pod=pod), node())[name].result == "warn"
