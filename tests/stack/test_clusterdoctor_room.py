"""DEMAND OPS-4, TRN-8: the doctor holds trainings against Kueue's queues, and all pods of ours against quotas.

Pure tables; over real HTTP against the tests' own API. Field names are those of Kueue's CRDs (v1beta1, v1beta2).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kubeapi import Cluster as Api

from windtunnel.kube.access import Access
from windtunnel.kube.client import Client
from windtunnel.spec import Model
from windtunnel.stack.clusterdoctor import Cluster, needs, queues, quotas
from windtunnel.stack.finding import Finding

GPU = "nvidia.com/gpu"


def model(nodes: int = 1, gpu: int = 0, queue: str | None = "team") -> Model:
    """A training that requests 1 cpu, 2.2 GiB, 2 GiB of disk and so many GPUs in each of its pods."""
    resources: dict[str, Any] = {"cpu": 1, "memory": "2Gi", "disk": "1Gi", "gpu": gpu}
    training = {"entry_point": "a:b", "target": "kubernetes", "nodes": nodes, "resources": resources}
    return Model.model_validate({
        "name": "sea", "owner": "tides", "target": "local",
        "data": {"source": "rows.csv", "time": "t", "target": "y", "features": ["a"]},
        "training": {**training, "pod": {"image": "i", "queue": queue}},
    })  # fmt: skip


def asked(one: Model) -> list[queues.Asked]:
    found = needs.pods(Cluster(models=(one,), parts=("training",)), "models")
    return [queues.Asked(made.who, queues._requests(made)) for made in found]


def condition(status: str = "True", reason: str = "Ready") -> dict[str, Any]:
    return {"conditions": [{"type": "Active", "status": status, "reason": reason, "message": "as Kueue says"}]}


def local(status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "team"}, "spec": {"clusterQueue": "all", **spec}, "status": status or {}}


def flavor(name: str, lending: dict[str, str] | None = None, **most: str) -> dict[str, Any]:
    named = {GPU if what == "gpu" else what.replace("_", "-"): amount for what, amount in most.items()}
    rows = [{"name": what, "nominalQuota": amount} for what, amount in named.items()]
    return {"name": name, "resources": [{**one, **(lending or {})} for one in rows]}


def whole(*flavors: dict[str, Any], groups: list[dict[str, Any]] | None = None, **spec: Any) -> dict[str, Any]:
    """A ClusterQueue with these flavors of one group."""
    covered = [one["name"] for one in flavors[0]["resources"]] if flavors else []
    made = groups or [{"coveredResources": covered, "flavors": list(flavors)}]
    return {"spec": {"namespaceSelector": {}, "resourceGroups": made, **spec}, "status": condition()}


LOCAL: list[tuple[str, dict[str, Any] | None, str, str]] = [
    ("none", None, "fail", "there is no LocalQueue team in namespace models; the training of sea names it"),
    ("going", {"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}, "fail", "is being deleted"),
    ("stopped", local(condition(), stopPolicy="Hold"), "fail", "is stopped (stopPolicy Hold)"),
    ("not judged", local(), "warn", "has not said yet"),
    ("not active", local(condition("False", "ClusterQueueIsInactive")), "fail", "ClusterQueueIsInactive: as Kueue"),
]


@pytest.mark.parametrize(("item", "result", "says"), [case[1:] for case in LOCAL], ids=[case[0] for case in LOCAL])
def test_a_local_queue(item: dict[str, Any] | None, result: str, says: str) -> None:
    found = queues.judge_local("team", item, "models", asked(model()))
    assert found is not None and found.mend
    assert (found.name, found.result) == ("queue team", result) and says in found.found


def test_a_local_queue_that_admits() -> None:
    for fine in (local(condition()), local(condition(), stopPolicy="None")):
        assert queues.judge_local("team", fine, "models", asked(model())) is None


ROOM = flavor("default", cpu="8", memory="32Gi", ephemeral_storage="100Gi", gpu="4", pods="4")
SMALL = flavor("small", cpu="1", memory="32Gi", ephemeral_storage="100Gi", gpu="8", pods="4")
CLUSTER: list[tuple[str, dict[str, Any] | None, Model, str, str]] = [
    ("room", whole(ROOM), model(gpu=1), "ok", "the training of sea fits while it is empty"),
    ("none", None, model(), "fail", "its ClusterQueue all is not there"),
    ("stopped", {**whole(ROOM), "status": condition("False", "Stopped")}, model(), "fail", "Stopped: as Kueue says"),
    ("open to nobody", whole(ROOM, namespaceSelector=None), model(), "fail", "takes nothing from namespace models"),
    ("open to others", whole(ROOM, namespaceSelector={"matchLabels": {"team": "x"}}), model(), "fail", "takes nothing"),
    ("disk is not covered", whole(flavor("f", cpu="8", memory="32Gi")), model(), "fail",
     "the training of sea: ephemeral-storage is in none of its resourceGroups, and requested"),
    ("too many GPUs", whole(ROOM), model(gpu=5), "fail", f"asks for 5 {GPU}, no flavor has more than 4 {GPU}"),
    ("of all nodes", whole(ROOM), model(nodes=3, gpu=2), "fail", f"asks for 6 {GPU}, no flavor"),
    ("pods", whole(ROOM), model(nodes=5), "fail", "asks for 5 pods, no flavor has more than 4 pods"),
    ("another flavor", whole(SMALL, ROOM), model(nodes=2, gpu=2), "ok", "fits"),
    ("no flavor has both", whole(SMALL, ROOM), model(nodes=2, gpu=4), "fail", "no flavor has 2 cpu and "),
    ("its cohort lends", whole(ROOM, cohortName="c"), model(gpu=50), "ok", "fits"),
    ("and so under the old name", whole(ROOM, cohort="c"), model(gpu=50), "ok", "fits"),
    ("up to a bound", whole(flavor("f", {"borrowingLimit": "1"}, cpu="8", memory="32Gi", ephemeral_storage="9Gi",
                                   gpu="4"), cohortName="c"), model(gpu=6), "fail", f"no flavor has more than 5 {GPU}"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("item", "one", "result", "says"), [case[1:] for case in CLUSTER], ids=[case[0] for case in CLUSTER]
)
def test_a_cluster_queue(item: dict[str, Any] | None, one: Model, result: str, says: str) -> None:
    labels = {"kubernetes.io/metadata.name": "models"}
    found = queues.judge_cluster("team", "all", item, labels, "models", asked(one))
    assert (found.name, found.result) == ("queue team", result) and says in found.found, found.found
    assert bool(found.mend) == (result != "ok")


def test_label_selectors() -> None:
    labels = {"team": "sea"}

    def holds(operator: str, key: str, *values: str) -> bool:
        one = {"key": key, "operator": operator, **({"values": list(values)} if values else {})}
        return queues.selected({"matchExpressions": [one]}, labels)

    assert queues.selected({}, labels) and not queues.selected(None, labels)
    assert queues.selected({"matchLabels": labels}, labels) and not queues.selected({"matchLabels": {"a": "b"}}, labels)
    assert holds("In", "team", "sea", "air") and not holds("In", "team", "air")
    assert holds("NotIn", "team", "air") and not holds("NotIn", "team", "sea")
    assert holds("Exists", "team") and not holds("Exists", "other")
    assert holds("DoesNotExist", "other") and not holds("DoesNotExist", "team")


def test_queues_over_http(tmp_path: Path) -> None:
    plurals = dict.fromkeys(("localqueues",), ("/apis/kueue.x-k8s.io/v1beta2", None))
    with Api(plurals) as cluster:
        access = Access(cluster.kubeconfig(tmp_path / "kubeconfig"))

        def look(one: Model) -> list[Finding]:
            return list(queues.queues(Cluster(access, models=(one,)), Client(access, patience_s=5.0)))

        assert look(model()) == [], "Kueue is not there: another finding"
        cluster.pages["/apis/kueue.x-k8s.io"] = {"versions": [{"version": "v1beta2"}]}
        assert look(model(queue=None)) == []
        assert "there is no LocalQueue team" in look(model())[0].found
        cluster.put("localqueues", local(condition()))
        cluster.denied.append("GET .*/clusterqueues")
        [found] = look(model())
        assert found.result == "warn" and "cannot be seen" in found.found
        cluster.denied.clear()
        cluster.pages["/apis/kueue.x-k8s.io/v1beta2/clusterqueues/all"] = whole(ROOM)
        cluster.pages["/api/v1/namespaces/models"] = {"metadata": {"name": "models", "labels": {}}}
        assert look(model())[0].result == "ok"


# -- quotas: as above, and a server of one core without a limit of it


def quota(hard: dict[str, str], used: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    status = {"hard": hard, "used": dict.fromkeys(hard, "0") | (used or {})}
    return {"metadata": {"name": "team"}, "spec": {"hard": hard, **spec}, "status": status}


def limits(**defaults: str) -> list[dict[str, Any]]:
    return [{"spec": {"limits": [{"type": "Container", "default": defaults}]}}]


QUOTAS: list[tuple[str, dict[str, Any], list[dict[str, Any]], str, str]] = [
    ("room", quota({"requests.cpu": "8", "limits.memory": "64Gi", "pods": "9"}), [], "ok", "limits.memory 0 of 64Gi"),
    ("never", quota({f"requests.{GPU}": "1"}), [], "fail", f"training of sea: 2 pods with 2 {GPU} (requests), of 1"),
    ("memory", quota({"memory": "1Gi"}), [], "fail", "the training of sea: 2 pods with 2.2 GiB memory (requests), of"),
    ("a limit is demanded", quota({"limits.cpu": "64"}), [], "fail",
     "never let in a server of sea, container any, verify: no limit of cpu, which a quota on limits.cpu demands"),
    ("a LimitRange writes it", quota({"limits.cpu": "64"}), limits(cpu="1"), "ok", "limits.cpu 0 of 64"),
    ("no room now", quota({"cpu": "8"}, {"cpu": "7"}), [], "warn",
     "no room now for the training of sea: 2 pods with 1 cpu (requests), 7 of 8 are used"),
    ("pods", quota({"pods": "1"}), [], "fail", "the training of sea: 2 pods, of 1"),
    ("no pods now", quota({"count/pods": "9"}, {"count/pods": "8"}), [], "warn", "2 pods, 8 of 9 are used"),
    ("used up", quota({"pods": "9", "services": "2"}, {"services": "2"}), [], "fail", "used up: services 2 of 2"),
    ("nearly", quota({"requests.storage": "100Gi"}, {"requests.storage": "95Gi"}), [], "warn", "nearly used up"),
    ("of some pods only", quota({"pods": "1"}, scopes=["BestEffort"]), [], "ok", "pods 0 of 1"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("item", "ranges", "result", "says"), [case[1:] for case in QUOTAS], ids=[case[0] for case in QUOTAS]
)
def test_quotas_are_held_against_our_pods(
    item: dict[str, Any], ranges: list[dict[str, Any]], result: str, says: str
) -> None:
    served = Model.model_validate({**model(nodes=2, gpu=2).to_dict(), "target": "kubernetes"})
    made = needs.pods(Cluster(models=(served,)), "models")
    found = quotas.judge_quota(item, made, ranges)
    assert (found.name, found.result) == ("quota team", result) and says in found.found, found.found
    assert bool(found.mend) == (result != "ok")


def test_servers_are_held_against_quotas_with_all_their_replicas() -> None:
    plain = {**model().to_dict(), "target": "kubernetes", "serving": {"replicas": 3}}
    made = needs.pods(Cluster(models=(Model.model_validate(plain),), parts=("releases",)), "models")
    found = quotas.judge_quota(quota({"pods": "2"}), made)
    assert found.found == "would never let in a server of sea: 3 pods, of 2"
