"""Training in a pod: the real operators, the real Kubernetes client and provider, a Kubernetes API over HTTP.

A pod that is made runs as a plain process with the pod's own environment; what the API says of it is the test's script.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import roles
from airflow.sdk.exceptions import AirflowFailException, TaskDeferred

from windtunnel.data import steps
from windtunnel.errors import (
    DataError,
    DescriptionError,
    ForbiddenError,
    IntegrityError,
    ResourceError,
    TrainingError,
    TransientError,
    UnavailableError,
)
from windtunnel.evidence import manifest
from windtunnel.home import Home
from windtunnel.tracking.pods import naming

pytest.importorskip("kmock")
from fakecluster import RUNNING, Cluster, Kubelet, Status, over

CASES = Path(__file__).parents[1] / "kube" / "cases"


class Store(dict[str, Any]):
    """Airflow's task state store, as far as it is used."""

    def set(self, key: str, value: Any) -> None:
        self[key] = value


@pytest.fixture(scope="session")
def mlflow(tmp_path_factory: pytest.TempPathFactory) -> str:
    from mlflow.tracking import MlflowClient

    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder}/mlflow.db"
    MlflowClient(tracking_uri=uri).create_experiment("sea", artifact_location=(folder / "artifacts").as_uri())
    return uri


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as found:
        yield found


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def train(
    tmp_path: Path,
    home: Home,
    cluster: Cluster,
    mlflow: str,
    describe: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Any]:
    """A fresh TrainOperator, as each try makes one, with real hooks and connections."""
    import tenacity
    from airflow.providers.cncf.kubernetes.utils.pod_manager import PodManager

    from windtunnel_airflow import TrainOperator

    # The provider asks five times, with pauses that double: without the pauses the answers are the same.
    monkeypatch.setattr(PodManager.create_pod.retry, "wait", tenacity.wait_none())
    cluster_extra = {"kube_config_path": str(cluster.kubeconfig(tmp_path / "kubeconfig")), "namespace": "training"}
    ours = {"home": str(home.root), "store": (tmp_path / "store").as_uri()}
    monkeypatch.setenv(
        "AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps({"conn_type": "kubernetes", "extra": cluster_extra})
    )
    monkeypatch.setenv(
        "AIRFLOW_CONN_WINDTUNNEL_DEFAULT", json.dumps({"conn_type": "windtunnel", "host": mlflow, "extra": ours})
    )
    frame = pd.DataFrame({"t": range(20), "a": range(20), "y": range(20)})
    path = tmp_path / "rows.parquet"
    frame.to_parquet(path)
    rows = steps.write_output(home, "sea.train", "run", "data", "rows", path)

    def make(function: str = "train", **pod: Any) -> Any:
        model = describe(
            name="sea",
            data={"source": "rows.csv", "time": "t", "target": "y", "features": ["a"]},
            training={
                "entry_point": f"wt_pod_cases:{function}", "target": "kubernetes", "time_limit": "5m",
                "resources": {"cpu": 1, "memory": "2Gi", "disk": "1Gi"}, "pod": {"image": "here", **pod},
            },
        )  # fmt: skip
        data = {"outputs": {"rows": rows.to_dict()}, "digest": rows.digest}
        return TrainOperator(task_id="train", model=model, data=data)

    return make


def context(
    store: Store, *, state: str = "running", cleared: int = 0, beside: int = 0, tries: int = 1
) -> dict[str, Any]:
    """What Airflow gives a try of the task, which has three retries.

    Args:
        cleared: how often this task was cleared, each time after its first try.
        beside: how often another task of the DAG run was.
    """
    pushed: dict[str, Any] = {}
    ti = SimpleNamespace(
        dag_id="sea.train", run_id="run", task_id="train", map_index=-1, try_number=tries, stats_tags={},
        max_tries=3 + cleared, start_date=datetime.now(UTC) - timedelta(hours=1),
        get_task_states=lambda **_: {"run": {"train": state}}, xcom_push=lambda key, value: pushed.update({key: value}),
    )  # fmt: skip
    run = SimpleNamespace(dag_id="sea.train", run_id="run", conf={}, run_type="manual", clear_number=cleared + beside)
    return {
        "ti": ti,
        "dag_run": run,
        "dag": SimpleNamespace(),
        "run_id": "run",
        "params": {},
        "task_state_store": store,
    }


def deferred(work: Callable[[], Any]) -> TaskDeferred:
    with pytest.raises(TaskDeferred) as found:
        work()
    assert found.value.method_name == "resume_pod"
    return found.value


def event_of(trigger: Any) -> dict[str, Any]:
    """Run the trigger, as it comes back from Airflow's database, until it says something."""
    from windtunnel_airflow.pods.trigger import TrainingPodTrigger

    path, arguments = trigger.serialize()
    assert path == "windtunnel_airflow.pods.trigger.TrainingPodTrigger"

    async def first() -> dict[str, Any]:
        async for event in TrainingPodTrigger(**json.loads(json.dumps(arguments))).run():
            return dict(event.payload)
        raise AssertionError("the trigger said nothing")

    return asyncio.run(asyncio.wait_for(first(), 100))


def through(make: Callable[[], Any], store: Store, **more: Any) -> Any:
    """One try of the task, with a new operator each time Airflow makes one."""
    at = deferred(lambda: make().execute(context(store, **more)))
    for _ in range(5):
        event = event_of(at.trigger)
        operator = make()
        try:
            return operator.resume_execution(at.method_name, {"event": event}, context(store, **more))
        except TaskDeferred as again:
            at = again
    raise AssertionError("deferred again and again")


def reopened(store: Store, uri: str) -> None:
    """The run is as a running pod has it: tests of one process share what their keys name."""
    from mlflow.tracking import MlflowClient

    MlflowClient(tracking_uri=uri).update_run(store["windtunnel_pod"]["run_id"], status="RUNNING")


def run_of(store: Store, uri: str) -> Any:
    from mlflow.tracking import MlflowClient

    # Named: another test of this process may have told MLflow of another place.
    return MlflowClient(tracking_uri=uri).get_run(store["windtunnel_pod"]["run_id"])


def test_a_training_flies_in_a_pod(
    train: Callable[..., Any], store: Store, cluster: Cluster, home: Home, tmp_path: Path, mlflow: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """DEMAND TRN-1, TRN-2, PIP-2, PIP-5: from the task to the pod and back, as the local training answers."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow)
    kubelet = Kubelet(cluster, tmp_path / "node", CASES)
    try:
        answer = through(train, store)
    finally:
        kubelet.stop()
    assert manifest.build(Path(answer["model_path"])).content == answer["digest"]
    assert Path(answer["model_path"]).is_relative_to(home.runs)
    assert answer["metrics"]["epoch"] == 2.0
    assert answer["model_uri"] == f"runs:/{answer['run_id']}/model"
    assert steps.verify_input(steps.Output.from_dict(answer["outputs"]["model"]))
    found = run_of(store, mlflow)
    assert found.info.status == "FINISHED"
    assert found.data.tags["wt.failure"] == "none" and found.data.tags["wt.image"] == "here"
    assert not cluster.pods, "no pod is left"
    # A worker that died before it could return this: the next try collects what is there, and trains nothing (PIP-5).
    again = train().execute(context(store, tries=2))
    assert (again["run_id"], again["digest"]) == (answer["run_id"], answer["digest"])
    created = [path for method, path in cluster.requests if method == "POST"]
    assert created == ["/api/v1/namespaces/training/pods"], "one pod for one run"
    # A task that could not return it, and was cleared by a person: what was trained is not trained again.
    store["windtunnel_pod"].pop("answered")
    again = train().execute(context(store, cleared=1, tries=2))
    assert (again["run_id"], again["digest"]) == (answer["run_id"], answer["digest"])
    cluster.made = lambda pod: None  # nobody waits for this one
    deferred(lambda: train().execute(context(store, cleared=2, tries=3)))
    assert store["windtunnel_pod"]["run_id"] != answer["run_id"], "one that did return it is cleared to train anew"


def test_workers_need_no_disk_in_common(
    train: Callable[..., Any], store: Store, cluster: Cluster, home: Home, tmp_path: Path, mlflow: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """DEMAND PIP-2: each try of each task on a worker with an empty home, as Airflow's KubernetesExecutor has them."""
    from windtunnel_airflow import DataSnapshotOperator
    from windtunnel_airflow.operators.evaluate import verified

    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow)
    frame = pd.DataFrame({"t": range(200), "a": [float(n) for n in range(200)], "y": range(200)})
    frame.to_csv(tmp_path / "rows.csv", index=False)
    reads = DataSnapshotOperator(task_id="data", model=train().model, source=str(tmp_path / "rows.csv"))
    data = reads.execute(context(store))

    def elsewhere() -> Any:
        shutil.rmtree(home.root, ignore_errors=True)
        operator = train()
        operator.data = data
        return operator

    kubelet = Kubelet(cluster, tmp_path / "node", CASES)
    try:
        answer = through(elsewhere, store)
    finally:
        kubelet.stop()
    assert not list(home.pipelines.rglob("rows")), "rows go from the store to the pod, not through each worker"
    handing = elsewhere().handing
    assert len(pd.read_parquet(handing.take(data, "holdout").path)) == data["holdout_rows"]
    assert verified(handing.model(answer), answer["digest"]) == Path(answer["model_path"])
    handing = elsewhere().handing
    assert steps.verify_input(handing.take(answer, "model")), "for a step of the team's own"
    [name] = [key for key in elsewhere().hook.objects.sizes("pipelines/") if key.endswith("/holdout/holdout")]
    elsewhere().hook.objects.delete([name])
    with pytest.raises(IntegrityError, match="holdout is missing"):
        elsewhere().handing.take(data, "holdout")


def test_the_pod_is_the_manifest_and_nothing_more(train: Callable[..., Any], store: Store, cluster: Cluster) -> None:
    """What the provider adds are labels; nothing of the description gets lost on the way."""
    made: list[dict[str, Any]] = []
    cluster.made = made.append
    operator = train(
        "train", tolerations=[{"key": "a", "operator": "Exists"}], node_selector={"zone": "a"}, labels={"team": "sea"},
        affinity={"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}, pull_secrets=["x"], user=7,
        secrets={"TOKEN": "a/b"}, volumes=[{"path": "/data", "claim": "c"}],
    )  # fmt: skip
    deferred(lambda: operator.execute(context(store)))
    [pod] = made
    record = store["windtunnel_pod"]
    digest = next(e["value"] for e in pod["spec"]["containers"][0]["env"] if e["name"] == "WINDTUNNEL_SPEC_DIGEST")
    flight = operator._flight(operator._spec(record, context(store)), record, digest)
    wanted = flight.manifest
    labels = pod["metadata"].pop("labels")
    assert wanted["metadata"].pop("labels").items() <= labels.items()
    assert pod["spec"].pop("hostNetwork") is False
    assert pod["metadata"].pop("creationTimestamp")
    assert _pruned(pod) == _pruned(wanted)
    assert labels[naming.RUN] == record["run_id"]


def _pruned(value: Any) -> Any:
    """Without what is empty: the provider sends empty lists and objects along."""
    if isinstance(value, dict):
        return {key: found for key, item in value.items() if (found := _pruned(item)) not in (None, {}, [], "")}
    return [_pruned(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("last", "error", "said", "tag"),
    [
        (over(137, "OOMKilled"), ResourceError, "OOMKilled", "oom-killed"),
        ({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory. ",
          "containerStatuses": over(137)["containerStatuses"]}, TransientError, "low on resource", "evicted"),
        (over(143, conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}]),
         TransientError, "PreemptionByScheduler", "preempted"),
        (over(137, "ContainerStatusUnknown"), TransientError, "ContainerStatusUnknown", "node-lost"),
        (over(65), DataError, "exit code 65", "exited"),
        (over(1), TrainingError, "exit code 1", "exited"),
        ({"phase": "Failed", "reason": "DeadlineExceeded", "containerStatuses": over(137)["containerStatuses"]},
         ResourceError, "time_limit", "deadline"),
        ({"phase": "Pending", "containerStatuses": [{"name": "training", "image": "x", "imageID": "", "ready": False,
          "restartCount": 0, "state": {"waiting": {"reason": "ErrImagePull", "message": "manifest unknown"}}}]},
         TrainingError, "manifest unknown", "image"),
    ],
    ids=["oom", "evicted", "preempted", "node lost", "data", "code", "deadline", "image"],
)  # fmt: skip
def test_ends_are_told_apart_and_leave_no_pod(
    last: Status, error: type[Exception], said: str, tag: str, train: Callable[..., Any], store: Store,
    cluster: Cluster, mlflow: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    """DEMAND PIP-3, TRN-2, TRN-5, TRK-8"""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow)
    cluster.script = [last] if last["phase"] == "Pending" else [{"phase": "Pending"}, RUNNING, RUNNING, last]
    with pytest.raises(error, match=said) as found:
        through(train, store)
    assert type(found.value) is error
    assert not cluster.pods, "no pod is left"
    run = run_of(store, mlflow)
    assert run.info.status == "FAILED"
    assert run.data.tags["wt.pod.end"] == tag
    [evidence] = list((tmp_path / "store").rglob("evidence.json"))
    assert json.loads(evidence.read_text())["kind"] == tag


def test_a_sidecar_that_goes_on_holds_no_worker(train: Callable[..., Any], store: Store, cluster: Cluster) -> None:
    """DEMAND TRN-2: the training's container has ended; that is the end."""
    ended = over(65, phase="Running")
    mesh = {**RUNNING["containerStatuses"][0], "name": "mesh"}
    cluster.script = [RUNNING, {**ended, "containerStatuses": [*ended["containerStatuses"], mesh]}]
    with pytest.raises(DataError, match="exit code 65"):
        through(train, store)
    assert not cluster.pods


def test_a_pod_nobody_can_place_is_given_up_with_the_amounts(
    train: Callable[..., Any], store: Store, cluster: Cluster
) -> None:
    """DEMAND TRN-5"""
    unscheduled = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes available",
    }
    cluster.script = [{"phase": "Pending", "conditions": [unscheduled]}]
    cluster.nodes = [{"metadata": {"name": "a"}, "spec": {}, "status": {"allocatable": {"cpu": "8", "memory": "1Gi"}}}]
    with pytest.raises(ResourceError, match=r"no node has 2\.\d GiB memory: the most is 1\.0 GiB"):
        through(lambda: train(start_within="1s"), store)
    assert not cluster.pods


def test_an_impossible_pod_fails_early_unless_a_node_is_on_its_way(
    train: Callable[..., Any], store: Store, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEMAND TRN-5: not after the ten minutes that a full cluster gets."""
    from windtunnel_airflow.pods import flight

    monkeypatch.setattr(flight, "DOUBT", 1)
    cluster.age = timedelta(seconds=flight.DOUBT + 90)
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    cluster.script = [{"phase": "Pending", "conditions": [unscheduled]}]
    cluster.nodes = [{"metadata": {"name": "a"}, "spec": {}, "status": {"allocatable": {"cpu": "8", "memory": "1Gi"}}}]
    at = deferred(lambda: train().execute(context(store)))
    assert (at.trigger.schedule_within, at.trigger.start_within) == (1, 600)
    [name] = cluster.pods
    event = event_of(at.trigger)
    cluster.events[name] = [{"reason": "TriggeredScaleUp", "message": "a node is made"}]
    on = deferred(lambda: train().resume_pod(context(store), event))
    assert on.trigger.schedule_within == 600
    cluster.events.clear()
    with pytest.raises(ResourceError, match="no node has"):
        train().resume_pod(context(store), event)
    assert not cluster.pods


def test_a_task_that_died_finds_its_pod_again(train: Callable[..., Any], store: Store, cluster: Cluster) -> None:
    """DEMAND PIP-5, TRN-2: whatever was lost, the same run is attached to and no second pod is made."""
    cluster.script = [RUNNING]
    deferred(lambda: train().execute(context(store)))
    name = next(iter(cluster.pods))
    deferred(lambda: train().execute(context(store, tries=2)))
    forgotten = Store()  # the worker died before it could write down that the pod is made, or the store was lost
    deferred(lambda: train().execute(context(forgotten, tries=2)))
    assert list(cluster.pods) == [name]
    assert [path for method, path in cluster.requests if method == "POST"] == ["/api/v1/namespaces/training/pods"]


@pytest.mark.parametrize("state", ["failed", "success", "restarting"])
def test_a_person_who_acts_while_the_pod_is_made_is_heard(
    state: str, train: Callable[..., Any], store: Store, cluster: Cluster, mlflow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEMAND TRN-7: no signal has come yet, and Airflow takes no deferral of a task that is over."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow)
    cluster.script = [RUNNING]
    with pytest.raises(AirflowFailException, match=f"was set to {state}"):
        train().execute(context(store, state=state))
    assert len(cluster.removed) == 1 and not cluster.pods
    assert run_of(store, mlflow).info.status == "KILLED"


def test_two_workers_at_once_make_one_pod(train: Callable[..., Any], store: Store, cluster: Cluster) -> None:
    """DEMAND PIP-5: what the list did not show yet, the name still finds."""
    cluster.script = [RUNNING]
    deferred(lambda: train().execute(context(store)))
    [(name, pod)] = cluster.pods.items()
    hidden = pod["metadata"]["labels"].pop(naming.RUN)
    again = Store(windtunnel_pod={**store["windtunnel_pod"], "made": False})
    deferred(lambda: train().execute(context(again)))
    pod["metadata"]["labels"][naming.RUN] = hidden
    assert list(cluster.pods) == [name]


def test_after_a_preemption_the_next_try_makes_the_next_attempt(
    train: Callable[..., Any], store: Store, cluster: Cluster
) -> None:
    """DEMAND TRN-3: which goes on from the checkpoint (tests/kube/test_pod_entry.py)."""
    cluster.script = [
        over(143, conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}])
    ]
    with pytest.raises(TransientError):
        through(train, store)
    cluster.script = [RUNNING]
    first = store["windtunnel_pod"]["run_id"]
    deferred(lambda: train().execute(context(store, tries=2, cleared=1)))  # by a person, after the last of its tries
    [pod] = cluster.pods.values()
    assert pod["metadata"]["labels"][naming.ATTEMPT] == "2"
    assert (store["windtunnel_pod"]["attempt"], store["windtunnel_pod"]["run_id"]) == (2, first)
    cluster.scripts[pod["metadata"]["name"]] = [over(143)]
    deferred(lambda: train().execute(context(store, tries=3, cleared=1)))
    [pod] = cluster.pods.values()
    assert pod["metadata"]["labels"][naming.ATTEMPT] == "3"


def test_a_pod_somebody_deleted_is_followed_by_another_attempt(
    train: Callable[..., Any], store: Store, cluster: Cluster
) -> None:
    cluster.script = [RUNNING]
    deferred(lambda: train().execute(context(store)))
    cluster.pods.clear()
    deferred(lambda: train().execute(context(store, tries=2)))
    [pod] = cluster.pods.values()
    assert pod["metadata"]["labels"][naming.ATTEMPT] == "2"


def test_a_persons_cancel_ends_the_pod(
    train: Callable[..., Any], store: Store, cluster: Cluster, mlflow: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """DEMAND TRN-6, TRN-7: Airflow's triggerer calls the trigger's on_kill for a person's act, and for nothing else."""
    from windtunnel.data.objects import FolderObjects
    from windtunnel.tracking.pods.depot import Depot
    from windtunnel_airflow.pods.trigger import TrainingPodTrigger

    said = json.loads(os.environ["AIRFLOW_CONN_WINDTUNNEL_DEFAULT"])
    said["extra"]["prices"] = {"currency": "EUR", "cpu": 2.0}
    monkeypatch.setenv("AIRFLOW_CONN_WINDTUNNEL_DEFAULT", json.dumps(said))
    began = (datetime.now(UTC) - timedelta(minutes=30)).isoformat()
    cluster.script = [{**RUNNING, "startTime": began}]
    at = deferred(lambda: train().execute(context(store)))
    reopened(store, mlflow)
    arguments = json.loads(json.dumps(at.trigger.serialize()[1]))

    async def waits(after: str) -> None:
        trigger = TrainingPodTrigger(**arguments)

        async def events() -> list[Any]:
            return [event async for event in trigger.run()]

        waiting = asyncio.create_task(events())
        await asyncio.sleep(0.5)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert waiting.cancelled()
        await getattr(trigger, after)()

    asyncio.run(waits("cleanup"))
    assert cluster.pods, "a triggerer that goes down ends no pod"
    assert run_of(store, mlflow).info.status == "RUNNING"
    cluster.failing = [("DELETE", "/pods/", 500)]
    asyncio.run(waits("on_kill"))
    [(_, grace)] = cluster.removed
    assert grace is not None and grace < 30
    assert not cluster.pods
    run = run_of(store, mlflow)
    assert (run.info.status, run.data.tags["wt.failure"]) == ("KILLED", "cancelled")
    assert run.data.metrics["windtunnel.cost"] == pytest.approx(1.0, abs=0.2), "half an hour of one core"
    objects, run_id = FolderObjects(tmp_path / "store"), store["windtunnel_pod"]["run_id"]
    assert "a person" in str(Depot(objects, run_id).wish(1)), "what its pod is told"
    evidence = json.loads(objects.get_bytes(f"runs/{run_id}/attempts/1/evidence.json") or b"{}")
    assert evidence["kind"] == "cancelled" and evidence["pod"]["status"]["startTime"] == began


@pytest.mark.parametrize("person", [True, False], ids=["a person's act", "the triggerer goes down"])
def test_airflows_own_runner_tells_a_cancel_from_a_shutdown(
    person: bool, train: Callable[..., Any], store: Store, cluster: Cluster, mlflow: str
) -> None:
    """DEMAND TRN-7: the trigger inside the triggerer's real runner; only a person's act ends the pod."""
    from airflow.jobs.triggerer_job_runner import TriggerRunner

    from windtunnel_airflow.pods.trigger import TrainingPodTrigger

    cluster.script = [RUNNING]
    at = deferred(lambda: train().execute(context(store)))
    reopened(store, mlflow)
    trigger = TrainingPodTrigger(**at.trigger.serialize()[1])

    async def go() -> None:
        runner = TriggerRunner()
        task = asyncio.create_task(runner.run_trigger(1, trigger))
        runner.triggers[1] = {"task": task, "name": "train", "events": 0, "is_watcher": False}
        for _ in range(600):
            if ("GET", f"/api/v1/namespaces/training/pods/{next(iter(cluster.pods))}/log") in cluster.requests:
                break
            await asyncio.sleep(0.05)
        assert not task.done(), "it follows the pod"
        if person:
            runner.to_cancel.append(1)
            await runner.cancel_triggers()
        else:
            task.cancel()
        await asyncio.wait({task}, timeout=60)
        assert task.cancelled() and not runner.events

    asyncio.run(go())
    assert len(cluster.pods) == (0 if person else 1)
    assert run_of(store, mlflow).info.status == ("KILLED" if person else "RUNNING")


def test_what_ended_well_stays_so_when_its_task_is_cleared(
    train: Callable[..., Any], store: Store, cluster: Cluster, mlflow: str
) -> None:
    from mlflow.tracking import MlflowClient

    cluster.script = [RUNNING]
    deferred(lambda: train().execute(context(store)))
    before = store["windtunnel_pod"]["run_id"]
    MlflowClient(tracking_uri=mlflow).set_terminated(before, "FINISHED")
    cluster.pods.clear()
    deferred(lambda: train().execute(context(store, cleared=1)))
    assert MlflowClient(tracking_uri=mlflow).get_run(before).info.status == "FINISHED"


@pytest.mark.parametrize(
    ("state", "error", "left"), [("failed", AirflowFailException, 0), ("running", TransientError, 1)]
)
def test_a_signal_while_the_pod_is_made(
    state: str, error: type[Exception], left: int, train: Callable[..., Any], store: Store, cluster: Cluster,
    mlflow: str,
) -> None:  # fmt: skip
    """DEMAND TRN-7: a person's act ends the pod, a worker that goes down does not."""
    cluster.script = [RUNNING]
    operator = train()

    def signal(pod: Any) -> None:
        reopened(store, mlflow)
        operator.on_kill()

    cluster.made = signal
    with pytest.raises(error):
        operator.execute(context(store, state=state))
    assert len(cluster.pods) == left
    assert run_of(store, mlflow).info.status == ("RUNNING" if left else "KILLED")


def test_a_cleared_task_is_a_new_run(train: Callable[..., Any], store: Store, cluster: Cluster) -> None:
    cluster.script = [RUNNING]
    deferred(lambda: train().execute(context(store)))
    before = store["windtunnel_pod"]["run_id"]
    deferred(lambda: train().execute(context(store, cleared=1)))
    assert store["windtunnel_pod"]["run_id"] != before
    [pod] = cluster.pods.values()
    assert pod["metadata"]["labels"][naming.RUN] != before, "the old run's pod is removed"


def test_another_task_that_is_cleared_costs_no_training(
    train: Callable[..., Any], store: Store, cluster: Cluster
) -> None:
    """DEMAND PIP-5: Airflow counts clearings for the DAG run; the run that was waited for is the answer."""
    cluster.script = [RUNNING]
    at = deferred(lambda: train().execute(context(store)))
    before = dict(store["windtunnel_pod"])
    deferred(lambda: train().execute(context(store, beside=1, tries=2)))
    [name] = cluster.pods
    cluster.scripts[name] = [over(65)]
    event = event_of(at.trigger)
    with pytest.raises(DataError, match="exit code 65"):
        train().resume_pod(context(store, beside=2), event)
    assert store["windtunnel_pod"] == before


def test_a_task_that_was_cleared_while_its_worker_ran_is_a_new_run(
    train: Callable[..., Any], store: Store, cluster: Cluster
) -> None:
    """DEMAND TRN-7: Airflow says so by nothing but the end that it asked for, which is no answer."""
    from windtunnel.tracking.pods.depot import Depot

    cluster.script = [RUNNING]
    deferred(lambda: train().execute(context(store)))
    before = store["windtunnel_pod"]["run_id"]
    Depot(train().hook.objects, before).ask_to_end(1, "a person cleared the task")
    deferred(lambda: train().execute(context(store, tries=2)))
    assert store["windtunnel_pod"]["run_id"] != before
    [pod] = cluster.pods.values()
    assert pod["metadata"]["labels"][naming.RUN] == store["windtunnel_pod"]["run_id"]


def test_what_was_trained_by_an_older_description_is_no_answer_to_the_new_one(
    train: Callable[..., Any], store: Store, cluster: Cluster
) -> None:
    """DEMAND TRK-8: the try goes on with a run of its own, and ends neither as lost nor with the wrong parameters."""
    cluster.script = [RUNNING]
    at = deferred(lambda: train().execute(context(store)))
    before = store["windtunnel_pod"]["run_id"]
    [name] = cluster.pods
    cluster.scripts[name] = [over(0, "Completed", "Succeeded")]
    event = event_of(at.trigger)
    deferred(lambda: train("bad_data").resume_pod(context(store), event))
    assert store["windtunnel_pod"]["run_id"] != before and store["windtunnel_pod"]["made"]
    assert name not in cluster.pods and len(cluster.pods) == 1


@pytest.mark.parametrize(("tries", "left", "said"), [(3, 1, "goes on by itself"), (4, 0, "no try is left")])
def test_a_pod_that_no_trigger_can_follow(
    tries: int, left: int, said: str, train: Callable[..., Any], store: Store, cluster: Cluster
) -> None:
    """DEMAND TRN-2, PIP-5: it is not ended for the triggerer's troubles, unless nobody would come back for it."""
    cluster.script = [RUNNING]
    deferred(lambda: train().execute(context(store)))
    [name] = cluster.pods
    # As after the provider has tried three times more.
    event = {"status": "error", "message": "no kubeconfig here", "name": name, "namespace": "training",
             "_redefer_count": 3}  # fmt: skip
    with pytest.raises(TransientError, match=f"no kubeconfig here.*{said}"):
        train().resume_pod(context(store, tries=tries), event)
    assert len(cluster.pods) == left


def test_a_preempted_pod_that_had_come_further_costs_no_try(
    train: Callable[..., Any], store: Store, cluster: Cluster, tmp_path: Path
) -> None:
    """DEMAND TRN-3: spot nodes may go as often as they like, as long as the training comes on between."""
    from windtunnel.tracking.pods.depot import Depot

    gone = over(143, conditions=[{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler"}])
    cluster.script = [RUNNING]
    at = deferred(lambda: train().execute(context(store)))
    (tmp_path / "run" / "checkpoint").mkdir(parents=True)
    (tmp_path / "run" / "checkpoint" / "epoch").write_text("1")
    depot = Depot(train().hook.objects, store["windtunnel_pod"]["run_id"])
    depot.save_checkpoint(tmp_path / "run", "0001-000000")
    [name] = cluster.pods
    cluster.scripts[name] = [gone]
    event = event_of(at.trigger)
    at = deferred(lambda: train().resume_pod(context(store), event))
    [(second, pod)] = cluster.pods.items()
    assert second != name and pod["metadata"]["labels"][naming.ATTEMPT] == "2"
    assert depot.objects.get_bytes(f"{depot.key}/attempts/1/evidence.json"), "why the first one ended is kept"
    cluster.scripts[second] = [gone]
    event = event_of(at.trigger)
    with pytest.raises(TransientError, match="PreemptionByScheduler"):
        train().resume_pod(context(store), event)
    assert not cluster.pods, "no checkpoint in between: that is the task's to try again"


def test_the_tasks_own_time_ends_a_pod_too(
    train: Callable[..., Any], store: Store, cluster: Cluster, mlflow: str
) -> None:
    """DEMAND TRN-8: Airflow leaves it to the trigger while a task is deferred, in a queue, too."""

    def operator() -> Any:
        made = train()
        made.execution_timeout = timedelta(minutes=30)
        return made

    gated = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "by its queue"}
    cluster.script = [{"phase": "Pending", "conditions": [gated]}]
    at = deferred(lambda: operator().execute(context(store)))
    event = event_of(at.trigger)
    assert (event["status"], event["late"]) == ("timeout", True)
    reopened(store, mlflow)
    with pytest.raises(ResourceError, match=r"execution_timeout \(0:30:00\) is over"):
        operator().resume_pod(context(store), event)
    assert not cluster.pods
    assert run_of(store, mlflow).info.status == "FAILED"


def a_worker(monkeypatch: pytest.MonkeyPatch, ahead: float) -> None:
    """From here on another worker's turn: its clock is ahead of the API's by so many seconds."""
    from windtunnel_airflow.operators import podded
    from windtunnel_airflow.pods import flight

    for module in (podded, flight):
        monkeypatch.setattr(module, "time", SimpleNamespace(time=lambda: time.time() + ahead))


def test_a_try_has_one_end_whoever_goes_on_with_it(
    train: Callable[..., Any], store: Store, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow says when a try began by the clock of the worker that began it; the next is another worker's."""

    def operator() -> Any:
        made = train()
        made.execution_timeout = timedelta(minutes=30)
        return made

    def when(ahead: float, **more: Any) -> dict[str, Any]:
        """What Airflow gives a try that began just now, by the clock of the worker that began it."""
        given = context(store, **more)
        given["ti"].start_date = datetime.now(UTC) + timedelta(seconds=ahead)
        return given

    cluster.script = [{"phase": "Pending"}]
    early: dict[str, Any] = {"status": "timeout", "message": "not yet"}
    a_worker(monkeypatch, ahead=600.0)
    at = deferred(lambda: operator().execute(when(600.0)))
    assert abs(at.trigger.until - time.time() - 1800.0) < 300.0
    for ahead in (-600.0, 600.0, 0.0):
        a_worker(monkeypatch, ahead)
        again = deferred(lambda: operator().resume_pod(when(600.0), early))
        assert again.trigger.until == at.trigger.until
    a_worker(monkeypatch, ahead=-600.0)
    store["windtunnel_pod"]["began"]["at"] -= 1200.0
    second = deferred(lambda: operator().execute(when(-600.0, tries=2)))
    assert abs(second.trigger.until - time.time() - 1800.0) < 300.0, "another try has a time of its own"


def test_nodes_are_no_answer_where_an_autoscaler_cannot_be_heard(
    train: Callable[..., Any], store: Store, cluster: Cluster
) -> None:
    """DEMAND TRN-5: who may not read events waits for all of ``start_within``."""
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
    cluster.age, cluster.script = timedelta(seconds=90), [{"phase": "Pending", "conditions": [unscheduled]}]
    cluster.nodes = [{"metadata": {"name": "a"}, "spec": {}, "status": {"allocatable": {"cpu": "8", "memory": "1Gi"}}}]
    at = deferred(lambda: train().execute(context(store)))
    event = {"status": "timeout", "message": "m", "name": at.trigger.pod_name, "namespace": "training"}
    cluster.failing = [("GET", "/events", 403)]
    deferred(lambda: train().resume_pod(context(store), event))
    assert len(cluster.pods) == 1


def test_a_conflict_that_is_no_pod_is_tried_again(train: Callable[..., Any], store: Store, cluster: Cluster) -> None:
    """DEMAND PIP-3: the API answers so, too, where many pods at once are counted in one quota."""
    cluster.failing = [("POST", "/pods", 409)] * 12
    with pytest.raises(UnavailableError, match="was not made"):
        train().execute(context(store))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (403, TrainingError),
        (422, TrainingError),
        (401, TrainingError),
        (500, UnavailableError),
        (429, UnavailableError),
    ],
)
def test_what_the_api_refuses(
    status: int, error: type[Exception], train: Callable[..., Any], store: Store, cluster: Cluster
) -> None:
    """DEMAND PIP-3: told by whether another try can help."""
    cluster.failing = [("POST", "/pods", status)] * 12
    with pytest.raises(error, match=str(status)) as found:
        train().execute(context(store))
    assert type(found.value) is error
    assert not cluster.pods


def test_a_run_that_somebody_cancelled_is_told_as_such(
    train: Callable[..., Any], store: Store, cluster: Cluster
) -> None:
    cluster.script = [over(130)]
    with pytest.raises(AirflowFailException, match="cancelled"):
        through(train, store)
    assert not cluster.pods


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What operators say in their tasks' logs."""
    from windtunnel_airflow import SweepPodsOperator, TrainOperator

    said: list[str] = []

    def say(text: str, *parts: Any) -> None:
        said.append(text % parts)

    for kind in (SweepPodsOperator, TrainOperator):
        monkeypatch.setattr(kind, "log", SimpleNamespace(info=say, warning=say, error=say, debug=say))
    return said


@pytest.fixture
def moved(train: Callable[..., Any]) -> Callable[..., Any]:
    """The same task after its description has moved to another namespace, or to several nodes."""

    def make(namespace: str | None = "elsewhere", nodes: int = 1) -> Any:
        operator = train(**({"namespace": namespace} if namespace else {}))
        training = operator.model.training.model_copy(update={"nodes": nodes})
        operator.model = operator.model.model_copy(update={"training": training})
        return operator

    return make


def paths_of(cluster: Cluster, method: str) -> list[str]:
    return [path for verb, path in cluster.requests if verb == method]


@pytest.mark.parametrize(
    "place", [{"namespace": "elsewhere"}, {"namespace": None, "nodes": 4}], ids=["namespace", "nodes"]
)
def test_a_pod_is_found_where_it_was_begun(
    place: dict[str, Any], train: Callable[..., Any], moved: Callable[..., Any], store: Store, cluster: Cluster,
    heard: list[str],
) -> None:  # fmt: skip
    """DEMAND PIP-5: whoever edits its namespace, or makes a set of it, while it trains: it is attached to, and that is
    told; so is its end; a retry begins in the new place, and a clear removes it from the old one."""
    cluster.script = [RUNNING]
    at = deferred(lambda: train().execute(context(store)))
    [name] = cluster.pods
    deferred(lambda: moved(**place).execute(context(store, tries=2)))
    assert paths_of(cluster, "POST") == ["/api/v1/namespaces/training/pods"], "attached to, not made again"
    assert any("looked for where it was begun, as a pod in namespace training" in line for line in heard)
    cluster.scripts[name] = [over(65)]
    event = event_of(at.trigger)
    with pytest.raises(DataError, match="exit code 65"):
        moved(**place).resume_pod(context(store), event)
    assert not cluster.pods, "and removed where it was"
    cluster.script = [RUNNING]
    store.clear()
    deferred(lambda: train().execute(context(store, tries=2)))
    assert list(cluster.pods) == [name]
    cluster.scripts[name] = [RUNNING]
    if "nodes" in place:
        with pytest.raises(TrainingError, match="knows no JobSets"):
            moved(**place).execute(context(store, cleared=1))
    else:
        deferred(lambda: moved(**place).execute(context(store, cleared=1)))
        assert paths_of(cluster, "POST")[-1] == "/api/v1/namespaces/elsewhere/pods"
    assert name not in cluster.pods, "the old run's pod is removed from where it was"


def test_the_next_attempt_begins_where_the_description_says_now(
    train: Callable[..., Any], moved: Callable[..., Any], store: Store, cluster: Cluster
) -> None:
    """DEMAND TRN-3: also where nothing was made in the former place, and where that may not be looked into any more."""
    cluster.script = [over(143)]
    with pytest.raises(TransientError):
        through(train, store)
    cluster.script = [RUNNING]
    deferred(lambda: moved().execute(context(store, tries=2)))
    assert paths_of(cluster, "POST")[-1] == "/api/v1/namespaces/elsewhere/pods"
    assert store["windtunnel_pod"]["where"]["namespace"] == "elsewhere"
    # A namespace that was wrong from the first: refused, mended by its people, and cleared.
    cluster.pods.clear()
    store.clear()
    cluster.failing = [("GET", "/training/pods", 403)]
    with pytest.raises(TrainingError, match="403"):
        train().execute(context(store))
    cluster.failing = [("GET", "/training/pods", 403)]
    deferred(lambda: moved().execute(context(store, cleared=1)))
    assert not cluster.failing and paths_of(cluster, "POST")[-1] == "/api/v1/namespaces/elsewhere/pods"


def test_a_pod_may_be_waited_for_in_the_worker(
    train: Callable[..., Any], store: Store, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEMAND TRN-2, TRN-7: ``deferrable=False``: the same watch, the same ends; a signal is obeyed meanwhile."""
    from windtunnel_airflow.operators import podded

    monkeypatch.setattr(podded, "QUOTA_EVERY", 0.01)

    def here() -> Any:
        operator = train()
        operator.deferrable = False
        return operator

    cluster.refusals = [f'pods "x" is forbidden: {FULL.format(used=7)}limits.memory=8Gi,pods=9']
    cluster.script = [{"phase": "Pending"}, RUNNING, over(65)]
    with pytest.raises(DataError, match="exit code 65"):
        here().execute(context(store))
    assert not cluster.pods and cluster.requests.count(("POST", "/api/v1/namespaces/training/pods")) == 2
    for state, error, left in (("running", TransientError, 1), ("failed", AirflowFailException, 0)):
        store.clear()
        operator = here()

        def running(operator: Any = operator) -> Status:
            operator.on_kill()
            return RUNNING

        cluster.script = [RUNNING, running, RUNNING]
        for name in cluster.scripts:
            cluster.scripts[name] = list(cluster.script)
        with pytest.raises(error):
            operator.execute(context(store, state=state))
        assert len(cluster.pods) == left


def test_pods_nobody_came_back_for_are_swept(
    train: Callable[..., Any], cluster: Cluster, heard: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEMAND TRN-2: whatever happened to its task, no pod stays for ever; one whose task may come back, or is ending it
    just now, is left alone. In every namespace where pods were made; one that may not be listed is told, and no more.
    """
    from windtunnel_airflow import SweepPodsOperator, steward_dag
    from windtunnel_airflow.pods import sweeping
    from windtunnel_airflow.pods.sweeping import installation

    monkeypatch.setattr(sweeping, "PAUSE_S", 0.0)

    def put(
        name: str, status: Status, ended: str | None = None, *, spec: Any = None, namespace: str = "training",
        task: str | None = None, of: str = "", within: str = "600", **labels: str,
    ) -> None:  # fmt: skip
        if ended is not None:
            status["containerStatuses"][0]["state"]["terminated"]["finishedAt"] = ended
        whose = {"airflow": of or installation(swept.hook), "dag": "sea.train", "run": "r", "task": task, "index": "-1"}
        notes = {naming.TASK: json.dumps(whose)} if task else {}
        notes |= {naming.START_WITHIN: within, "windtunnel.dev/run-id": f"step-{name}"}
        meta = {"name": name, "namespace": namespace, "labels": {**naming.COMMON, naming.ATTEMPT: "1", **labels},
                "annotations": notes, "creationTimestamp": "2020-01-01T00:00:00Z"}  # fmt: skip
        cluster.pods[name] = {
            "metadata": meta,
            "spec": {"containers": [{"name": "training", "image": "x"}], **(spec or {})},
        }
        cluster.scripts[name] = [status]

    swept = steward_dag(kubernetes_conn_id="kubernetes_default").task_dict["pods"]
    assert isinstance(swept, SweepPodsOperator)
    gated, pending = {"schedulingGates": [{"name": "kueue.x-k8s.io/admission"}]}, {"phase": "Pending"}
    queue = {naming.QUEUE: "team"}
    put("old", over(0, "Completed", "Succeeded"), "2020-01-01T00:00:00Z")
    put("old-and-bad", over(137, "OOMKilled"), "2020-01-01T00:00:00Z")
    put("new", over(0, "Completed", "Succeeded"), "2099-01-01T00:00:00Z")
    put("runs-over", RUNNING, spec={"nodeName": "n"}, task="failed")
    put("runs-alive", RUNNING, spec={"nodeName": "n"}, task="deferred")
    put("runs-again", RUNNING, spec={"nodeName": "n"}, task="cleared")
    put("runs-of-others", RUNNING, spec={"nodeName": "n"}, task="failed", of="another Airflow")
    put("other", over(0, "Completed", "Succeeded"), "2020-01-01T00:00:00Z", **{naming.COMPONENT: "serving"})
    put("queued-over", pending, spec=gated, task="failed", **queue)
    put("queued-gone", pending, spec=gated, task="unknown", **queue)
    put("queued-alive", pending, spec=gated, task="deferred", **queue)
    put("queued-of-others", pending, spec=gated, task="failed", of="another Airflow", **queue)
    put("pending-alive", pending, task="none")
    put("pending-of-others", pending, task="failed", of="another Airflow")
    put("pending-patient", pending, task="failed", of="another Airflow", within="1e9")
    put("elsewhere", pending, task="success", namespace="elsewhere")
    objects = swept.hook.objects
    from windtunnel.tracking.pods import namespaces

    for name in ("elsewhere", "forbidden"):
        namespaces.note(objects, "kubernetes_default", name)
    states = {"failed": "failed", "deferred": "deferred", "none": None, "success": "success"}

    cleared = iter(["failed", "scheduled"])  # between two looks

    def asked(*, task_ids: list[str], **_: Any) -> dict[str, Any]:
        if task_ids == ["cleared"]:
            return {"r": {"cleared": next(cleared)}}
        return {"r": {name: states[name] for name in task_ids if name in states}}

    now = {"ti": SimpleNamespace(get_task_states=asked)}
    cluster.failing = [("GET", "/forbidden/pods", 403)]
    removed = ["old", "old-and-bad", "queued-over", "queued-gone", "pending-of-others", "elsewhere", "runs-over"]
    assert sorted(swept.execute(now)) == sorted(removed)
    [told] = [line for line in heard if line.startswith("Namespace forbidden was not looked into")]
    assert "list and delete on pods" in told
    written = json.loads(objects.get_bytes("runs/step-queued-over/attempts/1/evidence.json") or b"{}")
    assert "task sea.train/r/failed is over" in written["message"] and written["failure"] == "transient"
    written = json.loads(objects.get_bytes("runs/step-runs-over/attempts/1/evidence.json") or b"{}")
    assert written["message"] == "it was running, and task sea.train/r/failed is over"
    assert (written["kind"], written["failure"], written["pod"]["metadata"]["name"]) == (
        "deleted",
        "transient",
        "runs-over",
    )
    waiting = ["pending-alive", "pending-patient", "queued-alive", "queued-of-others"]
    assert sorted(cluster.pods) == ["new", "other", *waiting, "runs-again", "runs-alive", "runs-of-others"]
    cluster.failing = [("GET", "/pods", 403)] * 3
    with pytest.raises(ForbiddenError, match="no namespace was looked into"):
        swept.execute(now)
    assert "pods" not in steward_dag().task_dict


def test_a_dag_file_may_ask_for_pods(describe: Callable[..., Any]) -> None:
    """DEMAND PIP-1: what cannot fly is refused when the file is parsed."""
    from windtunnel_airflow import lifecycle

    def training(**more: Any) -> dict[str, Any]:
        return {"entry_point": "sea.model:train", "target": "kubernetes", **more}

    dags = lifecycle(describe(training=training(pod={"image": "here"})))
    assert dags["small.train"].task_dict["train"].kubernetes_conn_id == "kubernetes_default"
    with pytest.raises(DescriptionError, match=r"training\.pod\.image"):
        lifecycle(describe(training=training()))
    lifecycle(describe(target="kubernetes", training=training(pod={"image": "here"})))


def test_a_team_has_its_share_by_a_pool_and_priorities(describe: Callable[..., Any]) -> None:
    """DEMAND TRN-8"""
    from windtunnel_airflow import lifecycle

    given = {"entry_point": "sea.model:train", "pool": "tides", "pool_slots": 2, "priority": 7}
    task = lifecycle(describe(training=given))["small.train"].task_dict["train"]
    assert (task.pool, task.pool_slots, task.priority_weight) == ("tides", 2, 7)
    assert "absolute" in str(task.weight_rule).lower()
    plain = lifecycle(describe())["small.train"].task_dict["train"]
    assert (plain.pool, plain.pool_slots, plain.priority_weight) == ("default_pool", 1, 1)


FULL = "exceeded quota: team, requested: limits.memory=3Gi,pods=1, used: limits.memory={used}Gi,pods=2, limited: "


def test_a_full_quota_is_waited_for_and_told(
    train: Callable[..., Any], store: Store, cluster: Cluster, mlflow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEMAND TRN-8: each change once; the pod is made when there is room; a person's cancel closes the run."""
    from windtunnel_airflow.operators import podded

    monkeypatch.setattr(podded, "QUOTA_EVERY", 0.01)
    said: list[str] = []
    cluster.script = [RUNNING]
    cluster.refusals = [
        f'pods "x" is forbidden: {FULL.format(used=used)}limits.memory=8Gi,pods=9' for used in (7, 7, 6)
    ]

    def operator() -> Any:
        made = train()
        monkeypatch.setattr(type(made), "log", SimpleNamespace(
            info=lambda text, *parts: said.append(text % parts), warning=lambda text, *parts: None,
        ))  # fmt: skip
        return made

    def again(work: Callable[[], Any]) -> TaskDeferred:
        with pytest.raises(TaskDeferred) as found:
            work()
        return found.value

    at = again(lambda: operator().execute(context(store)))
    for _ in range(2):
        assert at.method_name == "resume_quota"
        at = again(lambda: operator().resume_quota(context(store), {"status": "again"}))
    assert [text.partition(" waits for ")[2] for text in said if " waits for " in text] == [
        f"quota team of namespace training: limits.memory: asked 3Gi, used {used}Gi of 8Gi; pods: asked 1, used 2 of 9"
        for used in (7, 6)
    ]
    path, arguments = at.trigger.serialize()
    assert path == "windtunnel_airflow.pods.trigger.QuotaTrigger"
    reopened(store, mlflow)
    asyncio.run(type(at.trigger)(**arguments).on_kill())
    assert run_of(store, mlflow).info.status == "KILLED"
    at = again(lambda: operator().resume_quota(context(store), {"status": "again"}))
    assert at.method_name == "resume_pod" and len(cluster.pods) == 1


def test_a_full_quota_is_waited_for_by_the_apis_clock(
    train: Callable[..., Any], store: Store, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEMAND TRN-8: for ``start_within`` and no other time, whose clocks the workers of its tries have."""

    def operator() -> Any:
        made = train(start_within="10m")
        made.execution_timeout = timedelta(hours=3)
        return made

    def waits(ahead: float, *, begins: bool = False, tries: int = 1) -> None:
        a_worker(monkeypatch, ahead)
        cluster.refusals = [f'pods "x" is forbidden: {FULL.format(used=7)}limits.memory=8Gi,pods=9']
        with pytest.raises(TaskDeferred) as found:
            if begins:
                operator().execute(context(store, tries=tries))
            else:
                operator().resume_quota(context(store, tries=tries), {"status": "again"})
        assert found.value.method_name == "resume_quota"

    for ahead in (3600.0, -3600.0, 3600.0):
        waits(ahead, begins=ahead > 0)
    record = store["windtunnel_pod"]
    assert abs(record["full_since"] - time.time()) < 300.0
    record["full_since"] -= 601.0
    with pytest.raises(ResourceError, match="found no room for 600 s"):
        waits(-3600.0)
    waits(3600.0, begins=True)
    store["windtunnel_pod"]["began"]["at"] -= 2.5 * 3600.0
    with pytest.raises(ResourceError, match=r"execution_timeout \(3:00:00\) is over; it waits for quota team"):
        waits(-3600.0)
    cluster.script = [RUNNING]
    waits(0.0, begins=True, tries=2)
    deferred(lambda: operator().resume_quota(context(store, tries=2), {"status": "again"}))
    assert "full_since" not in store["windtunnel_pod"], "a pod that is taken away hours later waits anew"


def test_a_quota_that_can_never_hold_it_is_told_at_once(
    train: Callable[..., Any], store: Store, cluster: Cluster
) -> None:
    """DEMAND TRN-5"""
    cluster.refusals = [f'pods "x" is forbidden: {FULL.format(used=0)}limits.memory=2Gi,pods=9']
    with pytest.raises(ResourceError, match="asks for more than quota team"):
        train().execute(context(store))
    cluster.refusals = [f'pods "x" is forbidden: {FULL.format(used=7)}limits.memory=8Gi,pods=9']
    with pytest.raises(ResourceError, match="found no room for 0 s"):
        train(start_within="0s").execute(context(Store()))


def test_pods_run_where_airflow_does_unless_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DEMAND TRN-2: as KubernetesPodOperator has it; ``default`` is rarely a place where Airflow may make pods."""
    from windtunnel.kube import access
    from windtunnel_airflow.hook import WindtunnelHook

    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps({"conn_type": "kubernetes", "extra": {}}))
    monkeypatch.setattr(access, "_ACCOUNT", tmp_path)
    assert WindtunnelHook().namespace_of("kubernetes_default") == "default"
    (tmp_path / "namespace").write_text("airflow\n")
    assert WindtunnelHook().namespace_of("kubernetes_default") == "airflow"
    told = {"conn_type": "kubernetes", "extra": {"namespace": "training"}}
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps(told))
    assert WindtunnelHook().namespace_of("kubernetes_default") == "training"


def test_workers_reach_the_store_by_their_own_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """DEMAND OPS-6, OPS-13: pods are told where the store is, never who we are."""
    from windtunnel_airflow.hook import WindtunnelHook

    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        aws = {"conn_type": "aws", "login": "a-key", "password": "a-secret",
               "extra": {"endpoint_url": endpoint, "region_name": "eu-central-1"}}  # fmt: skip
        ours = {"conn_type": "windtunnel", "extra": {"store": "s3://workers/team", "store_conn_id": "minio"}}
        monkeypatch.setenv("AIRFLOW_CONN_MINIO", json.dumps(aws))
        monkeypatch.setenv("AIRFLOW_CONN_WINDTUNNEL_DEFAULT", json.dumps(ours))
        hook = WindtunnelHook()
        hook._store_client.create_bucket(
            Bucket="workers", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
        )
        hook.objects.put_bytes("a/b", b"1")
        assert hook.objects.get_bytes("a/b") == b"1"
        told = hook.store_environment
        assert told == {
            "WINDTUNNEL_STORE": "s3://workers/team", "AWS_DEFAULT_REGION": "eu-central-1",
            "AWS_ENDPOINT_URL_S3": endpoint,
        }  # fmt: skip
    finally:
        server.stop()


@pytest.mark.parametrize("conn_id", ["aws_default", ""])
def test_workers_reach_the_store_by_their_role(conn_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DEMAND OPS-13: on EKS, by the amazon provider's connection without a key, or by no connection at all."""
    from windtunnel_airflow.hook import WindtunnelHook

    with roles.cloud() as cloud:
        arn = cloud.role("airflow", "steps")
        roles.be(monkeypatch, cloud.service_account(tmp_path, arn))
        aws = {"conn_type": "aws", "extra": {"endpoint_url": cloud.url, "region_name": roles.REGION}}
        ours = {"conn_type": "windtunnel", "extra": {"store": f"s3://{cloud.bucket}/steps", "store_conn_id": conn_id}}
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(aws))
        monkeypatch.setenv("AIRFLOW_CONN_WINDTUNNEL_DEFAULT", json.dumps(ours))
        hook = WindtunnelHook()
        hook.objects.put_bytes("a/b", b"1")
        assert hook.objects.get_bytes("a/b") == b"1" and set(cloud.presented) == set(cloud.trusted)
        told = hook.store_environment
        assert told.pop("WINDTUNNEL_STORE") == f"s3://{cloud.bucket}/steps"
        assert told == ({"AWS_DEFAULT_REGION": roles.REGION, "AWS_ENDPOINT_URL_S3": cloud.url} if conn_id else {})
        roles.be(monkeypatch, cloud.service_account(tmp_path, cloud.role("another")))
        with pytest.raises(DataError, match=r"asked by role arn:aws:iam::\d+:role/another"):
            hook.objects.put_bytes("a/b", b"1")


def test_no_store_is_said(
    train: Callable[..., Any], store: Store, monkeypatch: pytest.MonkeyPatch, mlflow: str
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WINDTUNNEL_DEFAULT", json.dumps({"conn_type": "windtunnel", "host": mlflow}))
    with pytest.raises(DescriptionError, match="store"):
        train().execute(context(store))
