"""A training of several nodes by Kubeflow Trainer: what its TrainJob says, and what its runtime must. DEMAND TRN-4"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from windtunnel.errors import DescriptionError
from windtunnel.spec import Pod, TrainJob, Volume
from windtunnel.tracking.contract import RunSpec, RunStatus
from windtunnel.tracking.pods import gang, naming, trainjob
from windtunnel.tracking.pods.ends import classify
from windtunnel.tracking.pods.manifest import Place, training_pod

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "train-on-several-nodes.md"
PLACE = Place(command=["python", "-P", "-m", "windtunnel.tracking.pods.entry"], namespace="models", attempt=2)
BY = TrainJob(runtime="windtunnel-torch", scope="namespace")


def run(**more: Any) -> RunSpec:
    asked = {"cpu": 4, "memory": 2**33, "disk": 2**30, "gpu": 8, "gpu_type": "NVIDIA-H200", "shared_memory": 2**30}
    return RunSpec(**{"run_id": "0f" * 16, "model": "sea", "entry_point": "a:b", "resources": asked, **more})


def rich() -> Pod:
    return Pod(
        image="here", trainjob=BY, queue="team-a", queue_priority="high", spot="gke", cost_centre="tides", user=1000,
        group=1000, pull_secrets=["a"], service_account="sea", secrets={"TOKEN": "mlflow/token"},
        volumes=[Volume(path="/data", claim="c")], affinity={"nodeAffinity": {}},
    )  # fmt: skip


def made(count: int = 4) -> dict[str, Any]:
    return trainjob.train_job(run(), rich(), PLACE, count)


def inside(manifest: dict[str, Any]) -> dict[str, Any]:
    """What it says of its pods beside the trainer's part."""
    [patch] = manifest["spec"]["runtimePatches"]
    [job] = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert job["name"] == "node"
    found: dict[str, Any] = job["template"]["spec"]["template"]
    return found


def test_what_a_pod_is_given_each_node_is() -> None:
    """DEMAND TRN-1: all that a TrainJob can say of a pod, said by it; what is left is the runtime's to say."""
    manifest, pod = made(), rich()
    single = training_pod(run(), pod.model_copy(update={"queue": None, "queue_priority": None}), PLACE)
    [container] = single["spec"].pop("containers")
    trainer, template = manifest["spec"]["trainer"], inside(manifest)
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (4, 8)
    assert (trainer["image"], trainer["command"]) == (container["image"], container["command"])
    assert trainer["resourcesPerNode"] == container["resources"], "requests equal limits"
    assert trainer["env"][: len(container["env"])] == container["env"]
    assert template["metadata"]["labels"] == single["metadata"]["labels"]
    patched = dict(template["spec"])
    [ours] = patched.pop("containers")
    assert ours == {
        "name": "node", "securityContext": container["securityContext"], "volumeMounts": container["volumeMounts"],
    }  # fmt: skip
    assert patched == {key: single["spec"][key] for key in patched}
    left = set(single["spec"]) - set(patched)
    owned = {"restartPolicy", "automountServiceAccountToken", "enableServiceLinks", "terminationGracePeriodSeconds"}
    assert left == owned | {"activeDeadlineSeconds"}
    assert manifest["spec"]["activeDeadlineSeconds"] == single["spec"]["activeDeadlineSeconds"]


def test_the_way_to_node_0_is_that_of_a_set_of_ours() -> None:
    """DEMAND TRN-4: Trainer refuses a TrainJob that sets torchrun's own variables; its policy sets them to the same."""
    manifest = made()
    names = [one["name"] for one in manifest["spec"]["trainer"]["env"]]
    told = {one["name"]: one for one in manifest["spec"]["trainer"]["env"]}
    assert len(told) == len(names)
    assert not [name for name in names if name.startswith("PET_")]
    name = manifest["metadata"]["name"]
    assert name == gang.gang_name("sea", "0f" * 16, 2) and re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert told["MASTER_ADDR"]["value"] == f"{name}-node-0-0.{name}"
    assert told["WORLD_SIZE"]["value"] == "4" and gang.INDEX in str(told["RANK"])


def test_the_queue_is_the_trainjobs() -> None:
    manifest = made()
    assert manifest["spec"]["suspend"] is True
    assert manifest["metadata"]["labels"][naming.QUEUE] == "team-a"
    assert "queue-name" not in str(manifest["spec"]), "neither the JobSet nor its pods are queued once more"
    assert manifest["spec"]["runtimeRef"]["kind"] == "TrainingRuntime"
    other = rich().model_copy(update={"trainjob": TrainJob(runtime="torch"), "queue": None, "queue_priority": None})
    found = trainjob.train_job(run(), other, PLACE, 2)
    assert (found["spec"]["runtimeRef"]["kind"], found["spec"]["suspend"]) == ("ClusterTrainingRuntime", False)


def test_more_variables_than_it_takes_are_told() -> None:
    many = rich().model_copy(update={"secrets": {f"S{n}": "a/b" for n in range(120)}})
    with pytest.raises(DescriptionError, match="takes 128 variables"):
        trainjob.train_job(run(), many, PLACE, 2)


# -- the runtime


def runtime() -> dict[str, Any]:
    """The one of the how-to."""
    [found] = [text for text in re.findall(r"```yaml\n(.*?)```", PAGE.read_text("utf-8"), re.S) if "apiVersion" in text]
    plain: dict[str, Any] = yaml.safe_load(found)
    return plain


def test_the_runtime_of_the_page_does() -> None:
    assert trainjob.look(runtime(), made()) == trainjob.Look()


def job(found: dict[str, Any]) -> dict[str, Any]:
    one: dict[str, Any] = found["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]
    return one


def pod(found: dict[str, Any]) -> dict[str, Any]:
    one: dict[str, Any] = job(found)["spec"]["template"]["spec"]
    return one


Change = Callable[[dict[str, Any]], Any]
REFUSED: list[tuple[str, Change, str]] = [
    ("no policy", lambda r: r["spec"].pop("mlPolicy"), "mlPolicy is none: torch"),
    ("MPI", lambda r: r["spec"].update(mlPolicy={"numNodes": 1, "mpi": {}}), "mlPolicy is mpi"),
    ("an initializer", lambda r: r["spec"]["template"]["spec"]["replicatedJobs"].append({"name": "model-initializer"}),
     "jobs model-initializer, too"),
    ("other names", lambda r: r["spec"]["template"]["spec"]["replicatedJobs"][0].update(name="worker"), "no job"),
    ("no ancestor", lambda r: job(r).pop("metadata"), "lacks the label trainer.kubeflow.org/trainjob-ancestor-step"),
    ("a sidecar", lambda r: pod(r)["containers"].append({"name": "proxy"}), "containers node, proxy"),
    ("restarts of the set", lambda r: r["spec"]["template"]["spec"].update(failurePolicy={"maxRestarts": 3}),
     "starts the set again"),
    ("restarts without end", lambda r: r["spec"]["template"]["spec"].update(
        failurePolicy={"rules": [{"action": "RestartJobSetAndIgnoreMaxRestarts"}]}), "starts the set again"),
    ("the Job's default", lambda r: job(r)["spec"].pop("backoffLimit"), "backoffLimit is 6 where it is not said"),
    ("JobSet's default", lambda r: pod(r).pop("restartPolicy"), "restartPolicy is OnFailure where it is not said"),
    ("pods made anew", lambda r: job(r)["spec"].update(podFailurePolicy={"rules": [{"action": "Ignore"}]}),
     "another pod"),
    ("no numbers", lambda r: job(r)["spec"].update(completionMode="NonIndexed"), "completionMode: Indexed"),
    ("no names", lambda r: r["spec"]["template"]["spec"].update(network={"enableDNSHostnames": False}), "network:"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "says"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_a_runtime_that_does_not_do_is_told_with_the_field(change: Change, says: str) -> None:
    """DEMAND TRN-4, PIP-3: tries that nobody counts, nodes without numbers, what does not end."""
    found = runtime()
    change(found)
    [refused] = trainjob.look(found, made()).refused
    assert says in refused


def test_all_mistakes_are_told_at_once() -> None:
    """As Trainer's own runtime for torch is: it says nothing of how nodes end."""
    found = runtime()
    found["spec"]["template"]["spec"].pop("failurePolicy")
    job(found)["spec"].pop("backoffLimit")
    job(found)["spec"]["template"]["spec"] = {"containers": [{"name": "node", "image": "torch"}]}
    seen = trainjob.look(found, made())
    assert [one.split()[0] for one in seen.refused] == ["backoffLimit", "restartPolicy"]
    assert len(seen.told) == 2, "a token in each pod, and 30 s for the last checkpoint"
    assert trainjob.look({}, made()).refused


TOLD: list[tuple[str, Change, str]] = [
    ("a token", lambda r: pod(r).pop("automountServiceAccountToken"), "a token of the cluster"),
    ("little time", lambda r: pod(r).update(terminationGracePeriodSeconds=5), "has 5 s for its last checkpoint"),
    ("gone at once", lambda r: r["spec"]["template"]["spec"].update(ttlSecondsAfterFinished=0), "pods may be gone"),
    ("the host", lambda r: pod(r).update(hostNetwork=True, volumes=[{"name": "h", "hostPath": {"path": "/"}}]),
     "hostNetwork, volume h of the host"),
    ("more resources", lambda r: pod(r)["containers"][0].update(resources={"limits": {"rdma/ib": "1"}}),
     "asks for rdma/ib"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "says"), [case[1:] for case in TOLD], ids=[case[0] for case in TOLD])
def test_what_is_less_than_a_set_of_ours_is_told(change: Change, says: str) -> None:
    found = runtime()
    change(found)
    seen = trainjob.look(found, made())
    assert not seen.refused
    [told] = seen.told
    assert says in told


# -- how it ends


def test_its_ends_are_those_of_a_set() -> None:
    """DEMAND PIP-3: its own words for its conditions, its own name for the container."""
    thing = copy.deepcopy(made(2))
    assert gang.size(thing) == 2 and gang.suspended(thing)
    thing["spec"]["suspend"] = False

    def says(kind: str, reason: str = "R") -> dict[str, Any]:
        at = "2026-11-21T10:30:00Z"
        one = {"type": kind, "status": "True", "reason": reason, "message": "m", "lastTransitionTime": at}
        return {**thing, "status": {"conditions": [one]}}

    done = gang.judge(says("Complete"), [], {})
    assert (done.kind, gang.ended_at(says("Complete"))) == ("succeeded", 1795257000.0)
    late = gang.judge(
        says("Failed", "DeadlineExceeded"), [], {0: RunStatus("r", "failed", 75, "transient", "told to stop")}
    )
    assert (late.kind, late.failure) == ("deadline", "resource") and "training.time_limit" in late.message
    ended = {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-11-21T10:30:00Z"}
    dead = {
        "metadata": {"name": "p1", "annotations": {gang.INDEX: "1"}},
        "spec": {"containers": [{"name": "node", "resources": {"limits": {"memory": "1Gi"}}}]},
        "status": {"phase": "Failed", "containerStatuses": [{"name": "node", "state": {"terminated": ended}}]},
    }
    found = gang.judge(says("Failed"), [dead], {})
    assert found.kind == "oom-killed" and "1.0 GiB" in found.message
    assert classify(dead).exit_code == 137 and gang.container_name(dead) == "node"
    assert gang.container_name({"spec": {"containers": [{"name": "training"}]}}) == "training"
    assert gang.ended_at(thing) is None
