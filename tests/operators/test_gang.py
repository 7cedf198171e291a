"""Training on several nodes: real operator, trigger and client, a Kubernetes API over HTTP. DEMAND TRN-4"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kubeapi
import pandas as pd
import pytest
from airflow.sdk.exceptions import TaskDeferred

from windtunnel import canonical
from windtunnel.data import steps
from windtunnel.data.objects import connect
from windtunnel.errors import DataError, DescriptionError, ResourceError, TrainingError, TransientError
from windtunnel.home import Home
from windtunnel.tracking.contract import RunStatus
from windtunnel.tracking.cost import METRIC
from windtunnel.tracking.pods import gang, naming, nodes
from windtunnel.tracking.pods.depot import Depot

#: Fields of a TrainJob as far as ours has them; True: anything.
_POD = dict.fromkeys(
    ("affinity", "imagePullSecrets", "nodeSelector", "securityContext", "serviceAccountName", "tolerations", "volumes"),
    True,
)
_TEMPLATE = {"metadata": {"labels": True, "annotations": True}, "spec": {**_POD, "containers": [
    dict.fromkeys(("name", "env", "securityContext", "volumeMounts"), True)]}}  # fmt: skip
_JOBS = {"replicatedJobs": [{"name": True, "template": {"spec": {"template": _TEMPLATE}}}]}
_PATCH = {"metadata": {"labels": True, "annotations": True}, "spec": _JOBS}
TRAIN_JOB: dict[str, Any] = {
    "apiVersion": True, "kind": True, "metadata": True, "status": True,
    "spec": {
        **dict.fromkeys(("activeDeadlineSeconds", "managedBy", "runtimeRef", "suspend"), True),
        "trainer": dict.fromkeys(
            ("args", "command", "env", "image", "numNodes", "numProcPerNode", "resourcesPerNode"), True
        ),
        "runtimePatches": [{"manager": True, "time": True, "trainingRuntimeSpec": {"template": _PATCH}}],
    },
}  # fmt: skip


def strange(found: Any, known: Any, at: str = "") -> list[str]:
    """Fields that nobody knows, as the API's strict validation names them."""
    if known is True:
        return []
    if isinstance(known, list):
        return [field for n, one in enumerate(found) for field in strange(one, known[0], f"{at}[{n}]")]
    return [
        field
        for key, value in found.items()
        for field in (strange(value, known[key], f"{at}.{key}") if key in known else [f"unknown field {at}.{key}"])
    ]


KINDS: dict[str, tuple[str, Any]] = {
    "jobsets": ("/apis/jobset.x-k8s.io/v1alpha2", None),
    "trainjobs": ("/apis/trainer.kubeflow.org/v1alpha1", lambda body: strange(body, TRAIN_JOB)),
    "trainingruntimes": ("/apis/trainer.kubeflow.org/v1alpha1", None),
    "workloads": ("/apis/kueue.x-k8s.io/v1beta1", None),
    "pods": ("/api/v1", None),
    "events": ("/api/v1", None),
}


class Store(dict[str, Any]):
    """Airflow's task state store, as far as it is used."""

    def set(self, key: str, value: Any) -> None:
        self[key] = value


@pytest.fixture
def cluster() -> Iterator[kubeapi.Cluster]:
    with kubeapi.Cluster(dict(KINDS)) as found:
        yield found


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> str:
    from mlflow.tracking import MlflowClient

    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder}/mlflow.db"
    MlflowClient(tracking_uri=uri).create_experiment("sea", artifact_location=(folder / "artifacts").as_uri())
    return uri


class Flight:
    """One task, and the cluster that its set lives on."""

    def __init__(self, make: Callable[..., Any], cluster: kubeapi.Cluster, store: str, uri: str) -> None:
        self.make, self.cluster, self.url, self.uri = make, cluster, store, uri
        self.state = Store()

    def context(self, tries: int = 1) -> dict[str, Any]:
        ti = SimpleNamespace(
            dag_id="sea.train", run_id="run", task_id="train", map_index=-1, try_number=tries, stats_tags={},
            get_task_states=lambda **_: {"run": {"train": "running"}}, xcom_push=lambda key, value: None,
        )  # fmt: skip
        run = SimpleNamespace(dag_id="sea.train", run_id="run", conf={}, run_type="manual", clear_number=0)
        return {"ti": ti, "dag_run": run, "dag": SimpleNamespace(), "run_id": "run", "params": {},
                "task_state_store": self.state}  # fmt: skip

    def begin(self, tries: int = 1, **more: Any) -> Any:
        """The trigger that the task waits with, as it comes back from Airflow's database."""
        with pytest.raises(TaskDeferred) as found:
            self.make(**more).execute(self.context(tries))
        assert found.value.method_name == "resume_pod"
        path, arguments = found.value.trigger.serialize()
        assert path.endswith("gangtrigger.GangTrigger")
        json.dumps(arguments)
        return type(found.value.trigger)(**{**arguments, "look_every": 0.05, "log_every": 0.05})

    def end(self, trigger: Any, **more: Any) -> Any:
        async def first() -> dict[str, Any]:
            async for event in trigger.run():
                return dict(event.payload)
            raise AssertionError("the trigger said nothing")

        event = asyncio.run(asyncio.wait_for(first(), 100))
        return self.make(**more).resume_execution("resume_pod", {"event": event}, self.context())

    @property
    def record(self) -> dict[str, Any]:
        return dict(self.state["windtunnel_pod"])

    @property
    def depot(self) -> Depot:
        return Depot(connect(self.url), str(self.record["run_id"]))

    @property
    def the_set(self) -> dict[str, Any]:
        [found] = [*self.cluster.all("jobsets"), *self.cluster.all("trainjobs")]
        return found

    def pods(self, *states: dict[str, Any], container: str = "training") -> None:
        """The set's pods as they are now, in the order of their numbers; what JobSet and Job would make."""
        meta = self.the_set["metadata"]
        for rank, status in enumerate(states):
            self.cluster.put(
                "pods",
                {
                    "metadata": {
                        "name": f"{meta['name']}-node-0-{rank}-abcde",
                        "labels": meta["labels"],
                        "annotations": {gang.INDEX: str(rank)},
                        "ownerReferences": [{"kind": "Job", "name": f"{meta['name']}-node-0"}],
                        "creationTimestamp": "2026-11-21T10:00:00Z",
                    },
                    "spec": {"nodeName": f"n{rank}", "containers": [{"name": container}]},
                    "status": status,
                },
            )

    def says(self, kind: str, message: str = "") -> None:
        condition = {"type": kind, "status": "True", "reason": "R", "message": message}
        name, plural = self.the_set["metadata"]["name"], f"{self.the_set['kind'].lower()}s"
        self.cluster.edit(plural, name, lambda one: one.update(status={"conditions": [condition]}))

    def run(self) -> Any:
        from mlflow.tracking import MlflowClient

        return MlflowClient(tracking_uri=self.uri).get_run(self.record["run_id"])


def state(called: str = "training", **container: Any) -> dict[str, Any]:
    bound = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-11-21T10:00:00Z"}
    return {"conditions": [bound], "containerStatuses": [{"name": called, "state": container}]}


RUNS = {"phase": "Running", **state(running={"startedAt": "2026-11-21T10:00:00Z"})}


def over(code: int, reason: str = "Error", container: str = "training") -> dict[str, Any]:
    ended = {"exitCode": code, "reason": reason, "finishedAt": "2026-11-21T10:30:00Z"}
    return {"phase": "Failed" if code else "Succeeded", **state(container, terminated=ended)}


@pytest.fixture
def flight(
    tmp_path: Path, cluster: kubeapi.Cluster, mlflow: str, describe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Flight:
    from windtunnel_airflow import TrainOperator

    home, store = Home(tmp_path / "home"), (tmp_path / "store").as_uri()
    kubernetes = {"kube_config_path": cluster.kubeconfig(tmp_path / "kubeconfig"), "namespace": "models"}
    ours = {"home": str(home.root), "store": store, "prices": {"currency": "EUR", "cpu": 2.0}}
    for name, given in (
        ("KUBERNETES", {"conn_type": "kubernetes", "extra": kubernetes}),
        ("WINDTUNNEL", {"conn_type": "windtunnel", "host": mlflow, "extra": ours}),
    ):
        monkeypatch.setenv(f"AIRFLOW_CONN_{name}_DEFAULT", json.dumps(given))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow)
    frame = pd.DataFrame({"t": range(20), "a": range(20), "y": range(20)})
    frame.to_parquet(tmp_path / "rows.parquet")
    rows = steps.write_output(home, "sea.train", tmp_path.name, "data", "rows", tmp_path / "rows.parquet")

    def make(**pod: Any) -> Any:
        model = describe(
            name="sea",
            data={"source": "rows.csv", "time": "t", "target": "y", "features": ["a"]},
            training={"entry_point": "a:b", "target": "kubernetes", "nodes": 2, "pod": {"image": "here", **pod}},
        )
        # Another key for each test: one MLflow for all.
        data = {"outputs": {"rows": rows.to_dict()}, "digest": f"{rows.digest}-{tmp_path.name}"}
        operator = TrainOperator(task_id="train", model=model, data=data, experiment="sea")
        operator.make_run_id = lambda key, context, own=operator.make_run_id: own(f"{tmp_path.name}/{key}", context)
        return operator

    return Flight(make, cluster, store, mlflow)


def test_a_set_that_ends_well(flight: Flight, cluster: kubeapi.Cluster, tmp_path: Path, monkeypatch: Any) -> None:
    """DEMAND TRN-4, TRN-6: made once, waited for without a worker, collected from node 0, removed, and paid."""
    trigger = flight.begin()
    made = flight.the_set
    assert made["spec"]["replicatedJobs"][0]["template"]["spec"]["completions"] == 2
    flight.pods(over(0), over(0))
    flight.says("Completed")
    name = f"{made['metadata']['name']}-node-0-0-abcde"
    cluster.pages = {f"/api/v1/namespaces/models/pods/{name}/log": "2026-11-21T10:00:00.5Z epoch 1\n"}
    said: list[str] = []
    monkeypatch.setattr(trigger.log, "info", lambda text, *a: said.append(text % a), raising=False)
    model = tmp_path / "made" / "model"
    model.mkdir(parents=True)
    (model / "MLmodel").write_text("flavors: {}\n")
    leave(flight, model)
    answer = flight.end(trigger)
    assert Path(answer["model_path"]).is_dir() and answer["metrics"] == {"loss": 0.5}
    assert not cluster.all("jobsets")
    assert "[node 0] epoch 1" in said
    run = flight.run()
    assert run.data.metrics[METRIC] == pytest.approx(2 * 0.5 * 2.0), "two nodes, half an hour, one core of 2 EUR"
    evidence = json.loads(flight.depot.objects.get_bytes(f"{flight.depot.key}/attempts/1/evidence.json") or b"")
    assert len(evidence["pods"]) == 2 and evidence["kind"] == "succeeded"
    posts = [one for one in cluster.asked() if one.startswith("POST")]
    assert posts == ["POST /apis/jobset.x-k8s.io/v1alpha2/namespaces/models/jobsets"]


BY = {"runtime": "windtunnel-torch", "scope": "namespace"}


def a_runtime(cluster: kubeapi.Cluster, **of_the_pod: Any) -> None:
    """Somebody keeps it there."""
    pod = {"restartPolicy": "Never", "containers": [{"name": "node"}], **of_the_pod}
    ours = {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}}
    job = {"name": "node", "template": {"metadata": ours, "spec": {"backoffLimit": 0, "template": {"spec": pod}}}}
    spec = {"mlPolicy": {"torch": {}}, "template": {"spec": {"replicatedJobs": [job]}}}
    cluster.put("trainingruntimes", {"metadata": {"name": BY["runtime"]}, "spec": spec})


def test_the_same_life_by_kubeflow_trainer(
    flight: Flight, cluster: kubeapi.Cluster, tmp_path: Path, monkeypatch: Any, caplog: Any
) -> None:
    """DEMAND TRN-4, PIP-5: a TrainJob, made once, found again, waited for, collected, removed."""
    a_runtime(cluster)
    flight.begin(trainjob=BY)
    assert "a token of the cluster" in caplog.text, "what the runtime gives less is told"
    flight.state.clear()
    trigger = flight.begin(tries=2, trainjob=BY)
    made = flight.the_set
    assert made["kind"] == "TrainJob" and made["spec"]["trainer"]["numNodes"] == 2
    assert [one for one in cluster.asked() if one.startswith("POST")] == [
        "POST /apis/trainer.kubeflow.org/v1alpha1/namespaces/models/trainjobs"
    ]
    flight.pods(over(0, container="node"), over(0, container="node"), container="node")
    flight.says("Complete")
    name = f"{made['metadata']['name']}-node-0-0-abcde"
    cluster.pages = {f"/api/v1/namespaces/models/pods/{name}/log": "2026-11-21T10:00:00.5Z epoch 1\n"}
    said: list[str] = []
    monkeypatch.setattr(trigger.log, "info", lambda text, *a: said.append(text % a), raising=False)
    model = tmp_path / "made" / "model"
    model.mkdir(parents=True)
    (model / "MLmodel").write_text("flavors: {}\n")
    leave(flight, model)
    answer = flight.end(trigger, trainjob=BY)
    assert Path(answer["model_path"]).is_dir()
    assert not cluster.all("trainjobs")
    assert "[node 0] epoch 1" in said
    [read] = {one.query["container"] for one in cluster.requests if one.path.endswith("/log")}
    assert read == "node"


def test_a_node_of_a_trainjob_that_fails_ends_the_run(flight: Flight, cluster: kubeapi.Cluster) -> None:
    """DEMAND PIP-3"""
    a_runtime(cluster)
    trigger = flight.begin(trainjob=BY)
    flight.pods(over(70, container="node"), over(137, "OOMKilled", container="node"), container="node")
    flight.says("Failed", "jobset failed")
    with pytest.raises(ResourceError, match=r"node 1: the kernel killed it for memory"):
        flight.end(trigger, trainjob=BY)
    assert not cluster.all("trainjobs")


def test_a_persons_cancel_removes_a_trainjob(flight: Flight, cluster: kubeapi.Cluster) -> None:
    """DEMAND TRN-7"""
    a_runtime(cluster)
    trigger = flight.begin(trainjob=BY)
    asyncio.run(trigger.on_kill())
    assert not cluster.all("trainjobs")
    assert flight.run().info.status == "KILLED"


def test_a_runtime_that_does_not_do_is_refused_before_anything_is_made(
    flight: Flight, cluster: kubeapi.Cluster
) -> None:
    """DEMAND TRN-4: with what to set where; so is one that is not there, may not be read, or a cluster without any."""

    def refused(says: str, hint: str, **pod: Any) -> None:
        with pytest.raises(TrainingError, match=says) as found:
            flight.make(trainjob=BY, **pod).execute(flight.context())
        assert hint in str(found.value.hint)
        assert not cluster.all("trainjobs")

    refused("there is no TrainingRuntime windtunnel-torch in namespace models", "train-on-several-nodes")
    a_runtime(cluster, restartPolicy="OnFailure")
    refused("restartPolicy is OnFailure: Never", "train-on-several-nodes")
    cluster.denied.append("GET .*trainingruntimes")
    refused("cannot be looked at", "the right to get trainingruntimes")
    cluster.denied.clear()
    a_runtime(cluster)
    webhook = "admission webhook validator.trainjob.trainer.kubeflow.org denied the request: no"
    cluster.faults.append(kubeapi.Fault("POST .*trainjobs", status=403, message=webhook))
    refused("denied the request", "a webhook of the cluster")
    cluster.faults.append(kubeapi.Fault("POST .*trainjobs", status=400, message='unknown field "spec.runtimePatches"'))
    refused("runtimePatches", "Kubeflow Trainer 2.2")
    del cluster.kinds["trainjobs"]
    refused("knows no TrainJobs", "install Kubeflow Trainer 2.2")


def test_sets_that_nobody_comes_back_for_are_swept(
    flight: Flight, cluster: kubeapi.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEMAND TRN-5: a TrainJob that ended (a JobSet of ours removes itself), and a set that its queue holds back, or
    that goes on, while its task is over. By the API's clock, whatever this machine's says."""
    from windtunnel_airflow.pods import sweeping

    pauses: list[float] = []
    words: list[Any] = []

    said: list[str] = []

    def sweep(word: Any = "living") -> list[str]:
        def depart(thing: Any, why: str, evidence: Any) -> bool:
            said.append(why)
            return True

        heard = lambda task: words.pop(0) if words else word  # noqa: E731
        return sweeping.sweep("kubernetes_default", "models", 86400.0, heard, depart).removed

    a_runtime(cluster)
    flight.begin(trainjob=BY)
    assert sweep() == [], "it has not ended"
    name = flight.the_set["metadata"]["name"]
    ended = {"type": "Failed", "status": "True", "reason": "R", "lastTransitionTime": "2026-11-01T10:00:00Z"}
    cluster.edit("trainjobs", name, lambda one: one.update(status={"conditions": [ended]}))
    assert sweep() == [name]
    assert not cluster.all("trainjobs")
    flight.state.clear()
    flight.begin(queue="team-a")
    name = flight.the_set["metadata"]["name"]

    def age(at: str) -> None:
        cluster.edit("jobsets", name, lambda one: one["metadata"].update(creationTimestamp=at))

    age("2020-01-01T00:00:00Z")
    assert sweep() == sweep(None) == [], "a queue may hold it back for as long as it likes"
    assert sweep("over") == [name]
    assert "no queue has admitted it" in said[-1] and "task sea.train/run/train is over" in said[-1]
    flight.state.clear()
    flight.begin()
    monkeypatch.setattr(sweeping, "time", SimpleNamespace(time=lambda: 1e12, sleep=pauses.append))
    age(datetime.now(UTC).isoformat())
    assert sweep(None) == [], "by the API's clock it was made just now"
    age("2020-01-01T00:00:00Z")
    flight.pods({"phase": "Pending"}, RUNS)
    cluster.edit("pods", f"{name}-node-0-0-abcde", lambda one: one["spec"].pop("nodeName"))
    assert sweep(None) == sweep("living") == [] and not pauses, "one of its nodes has a deadline, and ends all"
    words[:] = ["over", "living"]
    assert sweep() == [] and pauses == [sweeping.PAUSE_S], "its task was cleared meanwhile"
    cluster.denied += ["GET .*trainjobs", "GET .*jobsets"]
    assert sweep("over") == []
    cluster.denied.clear()
    assert sweep("over") == [name]
    assert said[-1] == "it was running, and task sea.train/run/train is over"
    assert not cluster.all("jobsets")
    flight.state.clear()
    flight.begin()
    name = flight.the_set["metadata"]["name"]
    age("2020-01-01T00:00:00Z")
    del cluster.kinds["trainjobs"]
    for pod in cluster.all("pods"):
        cluster.remove("pods", pod["metadata"]["name"])
    assert sweep(None) == [name] and "no task waits longer than start_within (600 s)" in said[-1]


def test_a_set_is_found_after_its_description_has_shrunk_to_one_pod(flight: Flight, cluster: kubeapi.Cluster) -> None:
    """DEMAND PIP-5: attached to, judged as a set, and removed as one."""
    from windtunnel_airflow import TrainOperator

    trigger = flight.begin()
    whole = flight.make

    def alone(**pod: Any) -> TrainOperator:
        operator: TrainOperator = whole(**pod)
        training = operator.model.training.model_copy(update={"nodes": 1})
        operator.model = operator.model.model_copy(update={"training": training})
        return operator

    flight.make = alone
    trigger = flight.begin(tries=2)
    assert len(cluster.all("jobsets")) == 1 and not cluster.all("pods")
    flight.pods(RUNS, over(137, "OOMKilled"))
    flight.says("Failed")
    with pytest.raises(ResourceError, match="node 1: the kernel killed it for memory"):
        flight.end(trigger)
    assert not cluster.all("jobsets")


def test_another_triggerer_goes_on_with_node_0_s_log(
    flight: Flight, cluster: kubeapi.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    trigger = flight.begin()
    flight.pods(RUNS, RUNS)
    name = f"{flight.the_set['metadata']['name']}-node-0-0-abcde"
    page = f"/api/v1/namespaces/models/pods/{name}/log"
    cluster.pages = {page: "2026-11-21T10:00:00.5Z epoch 1\n"}
    heard: list[str] = []

    async def until_heard(words: str) -> None:
        again = type(trigger)(**trigger.serialize()[1])
        monkeypatch.setattr(again.log, "info", lambda text, *a: heard.append(text % a), raising=False)

        async def events() -> list[Any]:
            return [event async for event in again.run()]

        waiting = asyncio.create_task(events())
        while not any(words in line for line in heard):
            assert not waiting.done()
            await asyncio.sleep(0.02)
        waiting.cancel()
        await asyncio.wait({waiting})
        await again.cleanup()

    asyncio.run(asyncio.wait_for(until_heard("epoch 1"), 60))
    cluster.pages[page] += "2026-11-21T10:00:01.5Z epoch 2\n"
    asyncio.run(asyncio.wait_for(until_heard("epoch 2"), 60))
    assert [line for line in heard if "epoch" in line] == ["[node 0] epoch 1", "[node 0] epoch 2"]


def leave(flight: Flight, model: Path) -> None:
    """What node 0 of a run leaves in the store."""
    from windtunnel.evidence import manifest
    from windtunnel.tracking.contract import RunResult

    run_id, found = str(flight.record["run_id"]), manifest.build(model)
    result = RunResult(
        run_id, "train", f"runs:/{run_id}/model", str(model), found.content, found.to_dict(), {"loss": 0.5}
    )
    folder = model.parent
    for name, plain in (("trained.json", {}), ("result.json", result.to_dict()), ("environment.json", {})):
        (folder / name).write_bytes(canonical.dumps(plain))
    flight.depot.leave(folder, int(flight.record["attempt"]), RunStatus(run_id, "succeeded", 0))


def test_one_node_s_end_is_the_run_s(flight: Flight, cluster: kubeapi.Cluster) -> None:
    """DEMAND TRN-4, PIP-3: node 0 saw a cut connection, the kernel killed node 1 for memory."""
    trigger = flight.begin()
    flight.pods(over(70), over(137, "OOMKilled"))
    flight.depot.leave(Path("/nowhere"), 1, RunStatus("r", "failed", 70, "code", "connection reset by peer"))
    flight.says("Failed", "job failed")
    with pytest.raises(ResourceError, match=r"node 1: the kernel killed it for memory"):
        flight.end(trigger)
    assert not cluster.all("jobsets")
    tags = flight.run().data.tags
    assert (tags["wt.pod.end"], tags["wt.failure"]) == ("oom-killed", "resource")
    assert tags["wt.cost"].endswith("EUR for 1 attempt")


def test_after_a_lost_node_the_next_try_makes_the_next_set(flight: Flight, cluster: kubeapi.Cluster) -> None:
    """DEMAND TRN-3, TRN-4"""
    trigger = flight.begin()
    first = flight.the_set["metadata"]["name"]
    preempted = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": ""}
    lost = over(143)
    lost["conditions"] = [*lost["conditions"], preempted]
    flight.pods(RUNS, lost)
    flight.says("Failed")
    with pytest.raises(TransientError, match="node 1: PreemptionByScheduler"):
        flight.end(trigger)
    for pod in cluster.all("pods"):
        cluster.remove("pods", pod["metadata"]["name"])
    flight.begin(tries=2)
    assert flight.the_set["metadata"]["name"] != first
    assert flight.the_set["metadata"]["labels"][naming.ATTEMPT] == "2"


def test_a_task_that_died_finds_its_set_again(flight: Flight, cluster: kubeapi.Cluster) -> None:
    """DEMAND PIP-5: also one that died between making it and saying so."""
    flight.begin()
    flight.begin(tries=2)
    flight.state.clear()
    flight.begin(tries=3)
    assert len(cluster.all("jobsets")) == 1
    made = [one for one in cluster.asked() if one.startswith("POST")]
    assert len(made) == 1


def test_a_waiting_set_says_what_it_waits_for(flight: Flight, cluster: kubeapi.Cluster, monkeypatch: Any) -> None:
    """DEMAND TRN-8: the queue's own words; its time does not count, and afterwards all must run within theirs."""
    trigger = flight.begin(queue="team-a", start_within="0s")
    assert flight.the_set["spec"]["suspend"] is True
    uid = flight.the_set["metadata"]["uid"]
    reason = "couldn't assign flavors to pod set node: insufficient quota for nvidia.com/gpu"
    waits = {"type": "QuotaReserved", "status": "False", "reason": "Pending", "message": reason}
    meta = {"name": "w", "labels": {"kueue.x-k8s.io/job-uid": uid}}
    cluster.put("workloads", {"metadata": meta, "status": {"conditions": [waits]}})
    said: list[str] = []

    def note(text: str, *given: Any) -> None:
        said.append(text % given)
        if "insufficient quota" in said[-1]:  # admitted: one of two pods finds a node
            name = flight.the_set["metadata"]["name"]
            cluster.edit("jobsets", name, lambda one: one["spec"].update(suspend=False))
            flight.pods(RUNS)

    monkeypatch.setattr(trigger.log, "info", note, raising=False)
    with pytest.raises(TransientError, match="1 of 2 nodes run; all must"):
        flight.end(trigger, queue="team-a", start_within="0s")
    assert any(f"waits for queue team-a to admit it: {reason}" in line for line in said)
    assert not cluster.all("jobsets")


def test_a_persons_cancel_removes_the_set_and_its_pods(flight: Flight, cluster: kubeapi.Cluster) -> None:
    """DEMAND TRN-7"""
    trigger = flight.begin()
    flight.pods(RUNS, RUNS)
    asyncio.run(trigger.on_kill())
    assert not cluster.all("jobsets") and not cluster.all("pods")
    graces = [
        one.body["gracePeriodSeconds"] for one in cluster.requests if one.method == "DELETE" and "pods" in one.path
    ]
    assert graces == [20, 20]
    assert flight.depot.wish(1) is not None, "the nodes know why when they are told to stop"
    assert flight.run().info.status == "KILLED"


def test_a_cluster_without_jobset_says_what_to_install(flight: Flight, cluster: kubeapi.Cluster) -> None:
    del cluster.kinds["jobsets"]
    with pytest.raises(TrainingError, match="knows no JobSets") as found:
        flight.make().execute(flight.context())
    assert "install JobSet" in str(found.value.hint)


def test_what_other_nodes_said_counts_where_their_pods_are_gone(flight: Flight, cluster: kubeapi.Cluster) -> None:
    trigger = flight.begin()
    word = RunStatus("r", "failed", 65, "data", "the column is empty", ended_at=5.0)
    nodes.leave(flight.depot, Path("/nowhere"), 1, 1, word)
    flight.says("Failed")
    with pytest.raises(DataError, match="node 1: the column is empty"):
        flight.end(trigger)


def test_a_price_table_that_is_none_is_told_with_its_connection(
    describe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEMAND TRN-6: the description's own wins; the installation's is named where it is wrong."""
    from windtunnel_airflow.hook import WindtunnelHook
    from windtunnel_airflow.pods.charging import prices_of

    def connection(**extra: Any) -> WindtunnelHook:
        given = {"conn_type": "windtunnel", "host": "http://127.0.0.1:9", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_WINDTUNNEL_DEFAULT", json.dumps(given))
        return WindtunnelHook()

    assert prices_of(connection(), describe()) is None
    found = prices_of(connection(prices={"currency": "EUR", "cpu": 2}), describe())
    assert found is not None and (found.currency, found.cpu) == ("EUR", 2.0)
    with pytest.raises(DescriptionError, match=r"connection 'windtunnel_default'.*currency.*disk"):
        prices_of(connection(prices={"currency": "euro", "disk": 1}), describe())
    own = describe(training={"entry_point": "a:b", "prices": {"currency": "USD"}})
    found = prices_of(connection(prices={"currency": "euro"}), own)
    assert found is not None and found.currency == "USD"


def test_an_api_that_is_away_is_asked_again(flight: Flight, cluster: kubeapi.Cluster) -> None:
    trigger = flight.begin()
    flight.pods(over(70), RUNS)
    cluster.faults.append(kubeapi.Fault("GET .*jobsets", status=503, times=2, headers={"Retry-After": "0"}))
    with pytest.raises(TrainingError, match="node 0"):
        flight.end(trigger)
    assert not cluster.all("jobsets"), "a set of which one node has failed is not waited for"


def test_looks_at_sets_do_not_wait_for_the_threads_of_others(flight: Flight, cluster: kubeapi.Cluster) -> None:
    """The issue's numbers: 200 sets in one triggerer without missed looks; Python's own pool may be taken."""
    trigger = flight.begin()
    flight.says("Failed", "the set failed")
    free = threading.Event()

    async def go() -> str:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))
        taken = loop.run_in_executor(None, free.wait)
        try:
            async for event in trigger.run():
                return str(event.payload["message"])
        finally:
            free.set()
            await taken
        raise AssertionError("the trigger said nothing")

    assert asyncio.run(asyncio.wait_for(go(), 60)) == "the set failed"
