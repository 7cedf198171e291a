"""DEMAND PIP-5, TRN-2, TRN-7: tasks of a real Airflow ended in every phase of a training in a pod.

Scheduler, triggerer, workers and MLflow are the stack's own. The cluster is a Kubernetes API on loopback whose pods run
as processes, each held in a phase until the test lets it go. Rightly ended is: one pod per attempt at an MLflow run, no
pod and no process left, the MLflow run closed, and what was known of the pod beside it.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import psutil
import pytest
from waiting import until as within

from windtunnel.data import steps
from windtunnel.stack import airflow as configuration
from windtunnel.stack.stack import Stack
from windtunnel.stackfile import StackFile, read_secret

pytest.importorskip("kmock")
from fakecluster import Cluster
from heldnode import PHASES, HeldNode, dag_run_of, run_id

pytestmark = [pytest.mark.stack, pytest.mark.long, pytest.mark.timeout(1800)]

#: On a machine that does other things.
LONG_S = 600.0
until = functools.partial(within, limit_s=LONG_S)
#: What Airflow writes when it ends a task's process that a person has ended.
TOLD = "shouldn't be running anymore"
#: What a person does to a task in Airflow's page.
ACTS = ("failed", "success", "cleared")
CASES = Path(__file__).parents[1] / "kube" / "cases" / "wt_pod_cases.py"
DAG = '''
"""One training in a pod, on another cluster than the stack's."""
import json
from datetime import timedelta

from airflow.sdk import DAG
from windtunnel import Model
from windtunnel_airflow import TrainOperator
from windtunnel_airflow.retry import default_args

model = Model.model_validate(json.loads({model!r}))
again = default_args(first=timedelta(seconds=1), last=timedelta(seconds=2))
with DAG("ends", schedule=None, catchup=False, max_active_runs=16, default_args=again):
    TrainOperator(
        task_id="train", model=model, data=json.loads({data!r}), params_override="{{{{ dag_run.conf | tojson }}}}",
        windtunnel_conn_id="ends_registry", kubernetes_conn_id="ends_cluster",
    )
'''


class Ends:
    """A person at Airflow's API, somebody with ``kill -9``, and what became of it."""

    def __init__(self, stack: Stack, cluster: Cluster, node: HeldNode, store: Path) -> None:
        self.stack, self.cluster, self.node, self.store = stack, cluster, node, store
        self.urls, self.home = StackFile.read(stack.home).urls, stack.home
        login = {"username": "admin", "password": read_secret(stack.home, "airflow-admin")}
        token = httpx.post(f"{self.urls['airflow']}/auth/token", json=login, timeout=60).raise_for_status().json()
        headers = {"Authorization": f"Bearer {token['access_token']}"}
        self.airflow = httpx.Client(base_url=f"{self.urls['airflow']}/api/v2/dags", headers=headers, timeout=60)
        service = ("service", read_secret(stack.home, "mlflow-service"))
        self.mlflow = httpx.Client(base_url=f"{self.urls['mlflow']}/api/2.0/mlflow", auth=service, timeout=60)
        self._stops: dict[str, tuple[str, bool]] = {}
        self._stopped: dict[str, Any] = {}
        self.closing = False
        cluster.held = self._held

    def fly(self, name: str, phase: str = "running") -> str:
        """Begin a training that is held in ``phase``; its DAG run."""
        self.node.hold[name] = phase
        wall = {"wall": str(self.node.wall(name)), "until": "2"} if phase == "running" else {}
        body = {"dag_run_id": name, "logical_date": None, "conf": wall}
        # Where Airflow was busy (500), it is asked again; 409: it has it by then.
        until(lambda: self.airflow.post("/ends/dagRuns", json=body).status_code in (200, 409))
        return name

    def task(self, name: str) -> dict[str, Any]:
        found = self.airflow.get(f"/ends/dagRuns/{name}/taskInstances/train").raise_for_status().json()
        return dict(found)

    # -- one call of a training's worker that is not answered until the test says so
    def stop_at(self, name: str, call: str, done: bool) -> None:
        """The first such call about a pod of that DAG run waits; ``done``: after the API has done it."""
        self._stops[name] = (call, done)

    def stopped_at(self, name: str) -> bool:
        return name in self._stopped

    def go_on(self, name: str) -> None:
        """Its worker is answered. What was not done yet is not done any more: the connection is gone."""
        if self._stops[name][1]:
            del self._stops[name]

    def _held(self, request: Any, done: bool) -> bool:
        method, path = str(request.method).rpartition(".")[2].upper(), str(request.url.path)
        if method == "POST" and path.endswith("/pods"):
            name = dag_run_of(request.data)
        elif method == "DELETE" and (pod := self._made(path)) is not None:
            name = dag_run_of(pod)
        else:
            return False
        if self._stops.get(name) != (method, done) or self._stopped.setdefault(name, request) is not request:
            return False
        if self.closing:
            raise ConnectionAbortedError
        return True

    def _made(self, path: str) -> dict[str, Any] | None:
        return next((pod for pod in self.node.made if pod["metadata"]["name"] == path.rpartition("/")[2]), None)

    def log(self, name: str) -> str:
        """What Airflow wrote down of the task."""
        found = (self.home.logs / "airflow").rglob(f"*run_id={name}/task_id=train/*.log")
        return "".join(path.read_text() for path in found)

    def wait(self, *names: str) -> None:
        """Until each pod is where it is held, and its task in the triggerer's hands."""

        def late() -> list[str]:
            states = {name: (self.node.reached(name), self.task(name)["state"]) for name in names}
            return [f"{name}: {state}" for name, state in states.items() if state != (True, "deferred")]

        end = time.monotonic() + LONG_S
        while found := late():
            assert time.monotonic() < end, found
            time.sleep(0.2)

    def end(self, name: str, act: str) -> None:
        """What a person does in Airflow's page: mark as failed or success, or clear."""
        if act == "cleared":
            body = {"dry_run": False, "dag_run_id": name, "task_ids": ["train"], "only_failed": False}
            self.airflow.post("/ends/clearTaskInstances", json=body).raise_for_status()
            return
        path = f"/ends/dagRuns/{name}/taskInstances/train"
        self.airflow.patch(path, json={"new_state": act}).raise_for_status()

    def run(self, pod: dict[str, Any]) -> tuple[str, dict[str, str]]:
        """(status, tags) of a pod's MLflow run."""
        found = self.mlflow.get("/runs/get", params={"run_id": run_id(pod)}).raise_for_status().json()["run"]
        return str(found["info"]["status"]), {tag["key"]: tag["value"] for tag in found["data"]["tags"]}

    def evidence(self, pod: dict[str, Any], attempt: int = 1) -> dict[str, Any] | None:
        path = self.store / "runs" / run_id(pod) / "attempts" / str(attempt) / "evidence.json"
        return dict(json.loads(path.read_text())) if path.exists() else None

    def kill(self, program: str) -> None:
        """``kill -9``; the stack's supervisor starts it again."""
        states = self.stack.supervisor.states
        pid = states()[program].pid
        assert pid
        os.kill(pid, signal.SIGKILL)
        until(lambda: states()[program].pid not in (None, pid))

    def workers(self, name: str) -> dict[str, psutil.Process]:
        """The processes of a task that runs: ``supervisor``, LocalExecutor's worker, and its child, the ``task``."""
        mine, found = str(self.task(name)["id"]), {}
        for process in psutil.process_iter(["cmdline"]):
            title = " ".join(process.info["cmdline"] or ())
            if title.startswith("airflow worker -- ") and mine in title:
                found["supervisor" if "LocalExecutor" in title else "task"] = process
        return found

    def over(self, name: str, state: str = "success") -> bool:
        found = str(self.task(name)["state"])
        assert found == state or found not in ("success", "failed"), f"{name} is {found}"
        return found == state

    def landed(self, *names: str) -> None:
        """Each has trained once, in one pod, and nothing of it is left."""
        for name in names:
            until(lambda name=name: self.over(name))  # type: ignore[misc]
            [pod] = self.node.of(name)
            status, tags = self.run(pod)
            assert (status, tags["wt.failure"]) == ("FINISHED", "none"), name
        self.nothing_left()

    def nothing_left(self) -> None:
        until(lambda: not self.cluster.pods)
        until(lambda: not self.node.alive())


@pytest.fixture(scope="module")
def ends(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ends]:
    folder = tmp_path_factory.mktemp("ends")
    with Cluster() as cluster:
        word = read_secret(stack.home, "mlflow-service")
        secrets = {"mlflow/user": "service", "mlflow/password": word}
        node = HeldNode(cluster, folder / "node", folder / "code", [CASES], secrets)
        pd.DataFrame({"t": range(20), "a": range(20), "y": range(20)}).to_parquet(folder / "rows.parquet")
        rows = steps.write_output(stack.home, "ends", "before", "data", "rows", folder / "rows.parquet")
        connections = configuration.connections_path(stack.home)
        before = connections.read_text()
        known = json.loads(before)
        extra = {"store": (folder / "store").as_uri()}
        known["ends_registry"] = {**known[configuration.CONNECTION], "extra": extra}
        extra = {"kube_config_path": str(cluster.kubeconfig(folder / "kubeconfig")), "namespace": "training"}
        known["ends_cluster"] = {"conn_type": "kubernetes", "extra": extra}
        file = stack.home.dags / "ends.py"
        found = Ends(stack, cluster, node, folder / "store")
        try:
            connections.write_text(json.dumps(known))
            file.write_text(
                DAG.format(
                    model=json.dumps(description()),
                    data=json.dumps({"outputs": {"rows": rows.to_dict()}, "digest": rows.digest}),
                )
            )
            until(lambda: found.airflow.get("/ends").raise_for_status())
            yield found
        finally:
            found.closing = True
            file.unlink(missing_ok=True)
            connections.write_text(before)
            node.stop()


def dead(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def description() -> dict[str, Any]:
    secrets = {"MLFLOW_TRACKING_USERNAME": "mlflow/user", "MLFLOW_TRACKING_PASSWORD": "mlflow/password"}
    return {
        "name": "sea", "owner": "tests",
        "data": {"source": "rows.csv", "time": "t", "target": "y", "features": ["a"]},
        "training": {
            "entry_point": "wt_pod_cases:train", "target": "kubernetes", "time_limit": "20m",
            "resources": {"cpu": 1, "memory": "2Gi", "disk": "1Gi"}, "pod": {"image": "here", "secrets": secrets},
        },
        "evaluation": {"metrics": [{"name": "rmse", "maximum": 1.0}], "benchmark": None},
    }  # fmt: skip


@pytest.mark.parametrize("act", ACTS)
def test_a_person_ends_it_in_each_phase(ends: Ends, act: str) -> None:
    """The pod goes, its run ends as cancelled, and one that was cleared trains anew, as another run."""
    names = {phase: ends.fly(f"{act}-{phase}", phase) for phase in PHASES}
    ends.wait(*names.values())
    asked: dict[str, float] = {}
    for phase, name in names.items():
        asked[phase] = time.monotonic()
        ends.end(name, act)
    took: dict[str, float] = {}
    for phase, name in names.items():
        first = ends.node.of(name)[0]["metadata"]["name"]
        took[phase] = until(lambda first=first: ends.node.gone.get(first)) - asked[phase]  # type: ignore[misc]
        ends.node.free(name)
    print(f"{act}: pods gone after", {phase: f"{seconds:.1f} s" for phase, seconds in took.items()})
    for phase, name in names.items():
        if act == "cleared":
            until(lambda name=name: len(ends.node.of(name)) == 2 and ends.over(name))  # type: ignore[misc]
            first, second = ends.node.of(name)
            assert run_id(first) != run_id(second)
            assert ends.run(second)[0] == "FINISHED"
        else:
            [first] = ends.node.of(name)
            assert ends.task(name)["state"] == act
        _, tags = until(lambda first=first: (found := ends.run(first))[0] == "KILLED" and found)  # type: ignore[misc]
        assert tags["wt.failure"] == "cancelled" and tags["wt.reason"], phase
        evidence = ends.evidence(first)
        assert evidence is not None and evidence["kind"] == "cancelled", phase
        assert evidence["pod"]["metadata"]["name"] == first["metadata"]["name"]
    ends.nothing_left()


@pytest.mark.parametrize("program", ["airflow-triggerer", "airflow-scheduler"])
def test_what_waits_outlives_its_airflow(ends: Ends, program: str) -> None:
    """Killed with -9 while pods are in each phase: who comes after goes on with the same pods, in the same try."""
    names = {phase: ends.fly(f"{program}-{phase}", phase) for phase in PHASES}
    ends.wait(*names.values())
    tries = {name: ends.task(name)["try_number"] for name in names.values()}
    ends.kill(program)
    for name in names.values():
        ends.node.free(name)
    ends.landed(*names.values())
    assert {name: ends.task(name)["try_number"] for name in names.values()} == tries


@pytest.mark.parametrize("call", ["POST", "DELETE"], ids=["made", "removed"])
def test_a_worker_dies_at_a_call(ends: Ends, call: str) -> None:
    """Killed with -9 while it makes the pod or removes it, before the API has heard of it or before it has heard of the
    answer, the task alone or its supervisor too: the next try ends what was begun, in the same run."""
    names: dict[str, str] = {}
    tries: dict[str, int] = {}
    for who, done in itertools.product(("task", "both"), (False, True)):
        name = ends.fly(f"dies-{who}-{call.lower()}-{'answered' if done else 'asked'}", "")
        ends.stop_at(name, call, done)
        names[name] = who
    for name, who in names.items():
        until(lambda name=name: ends.stopped_at(name))  # type: ignore[misc]
        processes, tries[name] = ends.workers(name), ends.task(name)["try_number"]
        for found in [processes["task"]] if who == "task" else [processes["supervisor"], processes["task"]]:
            found.kill()
        until(lambda found=processes["task"]: dead(found))  # type: ignore[misc]
        ends.go_on(name)
    ends.landed(*names)
    assert all(ends.task(name)["try_number"] > tried for name, tried in tries.items())


def test_the_scheduler_dies_while_a_pod_is_made(ends: Ends) -> None:
    """Its workers outlive it, or not: the training is made once."""
    name = ends.fly("scheduler-made", "")
    ends.stop_at(name, "POST", True)
    until(lambda: ends.stopped_at(name))
    ends.kill("airflow-scheduler")
    ends.go_on(name)
    ends.landed(name)


@pytest.mark.parametrize("told", [False, True], ids=["before its worker is told", "after its worker is told"])
def test_a_person_ends_it_while_its_pod_is_made(ends: Ends, told: bool) -> None:
    """A worker hears of it at its next heartbeat: it has made the pod by then, or is about to wait for it."""
    names = {act: ends.fly(f"made-{act}-{'told' if told else 'untold'}") for act in ACTS}
    for name in names.values():
        ends.stop_at(name, "POST", True)
    workers = {}
    for act, name in names.items():
        until(lambda name=name: ends.stopped_at(name))  # type: ignore[misc]
        workers[act] = ends.workers(name)["task"]
        ends.end(name, act)
        if not told:
            ends.go_on(name)
    late = set(names.values()) if told else set()
    while late:  # each at once: a process that has not ended within 5 s of SIGTERM is killed
        for name in [name for name in late if TOLD in ends.log(name)]:
            ends.go_on(name)
            late.remove(name)
        time.sleep(0.05)
    for act, name in names.items():
        at = time.monotonic()
        first = ends.node.of(name)[0]
        gone = until(lambda first=first: ends.node.gone.get(first["metadata"]["name"]))  # type: ignore[misc]
        print(f"{name}: pod gone {gone - at:.1f} s after its worker heard that it is there")
        until(lambda act=act: dead(workers[act]))  # type: ignore[misc]
        ends.node.free(name)
        if act == "cleared":
            until(lambda name=name: len(ends.node.of(name)) == 2 and ends.over(name))  # type: ignore[misc]
            assert run_id(ends.node.of(name)[1]) != run_id(first)
            assert ends.run(ends.node.of(name)[1])[0] == "FINISHED"
        else:
            assert ends.task(name)["state"] == act and len(ends.node.of(name)) == 1
        until(lambda first=first: ends.run(first)[0] == "KILLED")  # type: ignore[misc]
        assert ends.run(first)[1]["wt.failure"] == "cancelled"
    ends.nothing_left()
