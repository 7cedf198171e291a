"""Two hundred training pods followed by one triggerer, and what our train task costs beside a bare pod operator.

The real triggers in one event loop, with the provider's real hook and Kubernetes client; the API is ``bench.podapi`` in
a process of its own, whose pods live by the clock.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bench import rig
from bench.pairs import paired
from bench.table import Table

PODS = 200
LIVES = (30.0, 60.0)
#: Seconds of training of each pod in the pairs.
LIFE = 30.0
PAIRS = 3
CONNECTION = "kubernetes_default"
NAMESPACE = "training"


@dataclass
class Api:
    """The running API."""

    url: str

    def begin(self, life: float) -> None:
        import httpx

        httpx.post(f"{self.url}/begin", params={"life": str(life)}).raise_for_status()

    def told(self) -> dict[str, Any]:
        import httpx

        found: dict[str, Any] = httpx.get(f"{self.url}/told").raise_for_status().json()
        return found

    def make(self, lives: Mapping[str, float]) -> None:
        """Pods by name, each with the seconds that it trains."""
        import httpx

        from windtunnel.tracking.pods import naming

        path = f"{self.url}/api/v1/namespaces/{NAMESPACE}/pods"
        with httpx.Client() as client:
            for name, life in lives.items():
                pod = {
                    "apiVersion": "v1", "kind": "Pod",
                    "metadata": {"name": name, "namespace": NAMESPACE, "labels": dict(naming.COMMON)},
                    "spec": {"containers": [{"name": "training", "image": "x"}]},
                }  # fmt: skip
                client.post(path, json=pod, params={"life": str(life)}).raise_for_status()


@contextmanager
def api(folder: Path) -> Iterator[Api]:
    """Airflow's connection leads there."""
    file = folder / "port"
    with rig.process([sys.executable, "-m", "bench.podapi", str(file)], cwd=rig.ROOT):
        rig.wait_until(lambda: file.exists() and file.read_text(), 30, "the API")
        found = Api(f"http://127.0.0.1:{file.read_text()}")
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": found.url}}],
            "users": [{"name": "u", "user": {"token": "t"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }  # fmt: skip
        (folder / "kubeconfig").write_text(json.dumps(config))
        extra = {"kube_config_path": str(folder / "kubeconfig"), "namespace": NAMESPACE}
        os.environ["AIRFLOW_CONN_KUBERNETES_DEFAULT"] = json.dumps({"conn_type": "kubernetes", "extra": extra})
        yield found


def ours(name: str) -> Any:
    from windtunnel_airflow.pods.trigger import TrainingPodTrigger

    return TrainingPodTrigger(name, NAMESPACE, time.time(), CONNECTION)


async def event_of(trigger: Any) -> dict[str, Any]:
    async for event in trigger.run():
        return dict(event.payload)
    raise RuntimeError("the trigger said nothing")


@dataclass
class Followed:
    """What following so many pods was like: seconds from each end to its event, requests, processor seconds."""

    late: list[float]
    missed: int
    asked: dict[str, int]
    minutes: float
    processor_s: float

    def quantile(self, share: float) -> float:
        found = sorted(self.late)
        return found[min(len(found) - 1, int(share * len(found)))]

    def per_minute(self, *without: str) -> float:
        """Requests per pod and minute."""
        total = sum(count for kind, count in self.asked.items() if kind not in ("create", *without))
        return total / self.minutes / PODS


def follow(place: Api, make: Callable[[str], Any]) -> Followed:
    """Two hundred at once, each its own life."""
    dice = random.Random(7)
    names = [f"wt-{at:03d}" for at in range(PODS)]
    place.begin(0.0)
    place.make({name: dice.uniform(*LIVES) for name in names})
    at: dict[str, float] = {}

    async def one(name: str) -> None:
        event = await event_of(make(name))
        if event["status"] == "success":
            at[name] = time.time()

    async def everyone() -> None:
        await asyncio.wait_for(asyncio.gather(*map(one, names)), 300)

    began, used = time.monotonic(), time.process_time()
    asyncio.run(everyone())
    minutes, used = (time.monotonic() - began) / 60, time.process_time() - used
    told = place.told()
    late = [at[name] - told["ended"][name] for name in names if name in at]
    return Followed(late, PODS - len(at), told["asked"], minutes, used)


# -- a whole task
class Store(dict[str, Any]):
    """Airflow's task state store, as far as it is used."""

    def set(self, key: str, value: Any) -> None:
        self[key] = value


def context(number: int) -> dict[str, Any]:
    ti = SimpleNamespace(
        dag_id="bench.train", run_id=f"run{number}", task_id="train", map_index=-1, try_number=1, stats_tags={},
        start_date=datetime.now(UTC), get_task_states=lambda **_: {}, xcom_push=lambda key, value: None,
    )  # fmt: skip
    run = SimpleNamespace(dag_id="bench.train", run_id=ti.run_id, conf={}, run_type="manual", clear_number=0)
    return {
        "ti": ti, "dag_run": run, "dag": SimpleNamespace(), "run_id": ti.run_id, "params": {},
        "task_state_store": Store(),
    }  # fmt: skip


def through(make: Callable[[], Any], number: int) -> float:
    """Seconds of one deferrable task from its start to its answer, Airflow's own way between its parts left out."""
    from airflow.sdk.exceptions import TaskDeferred

    began, now = time.monotonic(), context(number)
    waits: TaskDeferred | None = None
    try:
        make().execute(now)
    except TaskDeferred as deferred:
        waits = deferred
    while waits is not None:
        _, arguments = waits.trigger.serialize()
        event = asyncio.run(event_of(type(waits.trigger)(**arguments)))
        try:
            make().resume_execution(waits.method_name, {**(waits.kwargs or {}), "event": event}, now)
            waits = None
        except TaskDeferred as deferred:
            waits = deferred
    return time.monotonic() - began


def bare() -> Any:
    """A pod operator as its documentation has it, deferrable."""
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

    return KubernetesPodOperator(
        task_id="train", name="bare", image="x", namespace=NAMESPACE, kubernetes_conn_id=CONNECTION, deferrable=True,
        on_finish_action="delete_pod", base_container_name="training",
    )  # fmt: skip


def training(folder: Path) -> Callable[[], Any]:
    """Our train operator, with real inputs, store and MLflow; the pod's own work happens while it lives."""
    import pandas as pd

    from windtunnel import Model
    from windtunnel.data import steps
    from windtunnel.home import Home
    from windtunnel_airflow import TrainOperator

    home = Home(folder / "home")
    uri = f"sqlite:///{folder}/mlflow.db"
    for_us = {"home": str(home.root), "store": (folder / "store").as_uri()}
    os.environ["AIRFLOW_CONN_WINDTUNNEL_DEFAULT"] = json.dumps(
        {"conn_type": "windtunnel", "host": uri, "extra": for_us}
    )
    pd.DataFrame({"t": range(1000), "a": range(1000), "y": range(1000)}).to_parquet(folder / "rows.parquet")
    rows = steps.write_output(home, "bench.train", "run", "data", "rows", folder / "rows.parquet")
    model = Model.model_validate(
        {
            "name": "bench", "owner": "bench",
            "data": {"source": "rows.csv", "time": "t", "target": "y", "features": ["a"]},
            "training": {"entry_point": "a:b", "target": "kubernetes", "pod": {"image": "here"}},
            "evaluation": {"metrics": [{"name": "rmse", "maximum": 1.0}], "benchmark": None},
        }
    )  # fmt: skip

    class Train(TrainOperator):
        def execute(self, context: Any) -> Any:
            from airflow.sdk.exceptions import TaskDeferred

            try:
                return super().execute(context)
            except TaskDeferred:
                record = context["task_state_store"][self.pod_state_key]
                threading.Thread(target=trained, args=(folder, record["run_id"])).start()
                raise

    data = {"outputs": {"rows": rows.to_dict()}, "digest": rows.digest}
    return lambda: Train(task_id="train", model=model, data=data)


def trained(folder: Path, run_id: str) -> None:
    """What a pod leaves in the object store."""
    from windtunnel.data.objects import FolderObjects
    from windtunnel.evidence import manifest
    from windtunnel.tracking.contract import RunResult, RunStatus
    from windtunnel.tracking.pods.depot import Depot

    work = folder / run_id
    (work / "model").mkdir(parents=True)
    (work / "model" / "weights").write_bytes(b"1" * 2**20)
    found = manifest.build(work / "model")
    result = RunResult(run_id, "train", model_uri=f"runs:/{run_id}/model", model_path="/windtunnel/runs/x/model",
                       digest=found.content, manifest=found.to_dict(), metrics={"loss": 0.5})  # fmt: skip
    (work / "result.json").write_text(json.dumps(result.to_dict()))
    (work / "trained.json").write_text("{}")
    Depot(FolderObjects(folder / "store"), run_id).leave(work, 1, RunStatus(run_id, "succeeded", attempt=1))


def run() -> Table:
    os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="wtb-airflow-"))
    os.environ.pop("KUBECONFIG", None)
    table = Table(
        f"Training pods: {PODS} at once in one triggerer",
        ("ends heard", "from end to event, p50", "p95", "longest", "requests per pod and minute",
         "without start and logs", "processor seconds"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="wtb-") as made, api(Path(made)) as place:
        mine = follow(place, ours)
        steady = mine.per_minute("log", "events")
        table.add(
            f"{PODS - mine.missed} of {PODS}", *(f"{mine.quantile(q):.2f} s" for q in (0.5, 0.95, 1.0)),
            f"{mine.per_minute():.2f}", f"{steady:.3f}", f"{mine.processor_s:.1f}",
        )  # fmt: skip
        table.demand(f"{PODS} pods watched by one triggerer, no end missed", f"{mine.missed} missed", not mine.missed)
        table.demand("API requests per pod and minute <= 6 without start and logs", f"{steady:.3f}", steady <= 6)
        place.begin(LIFE)
        train, number = training(Path(made)), iter(range(1000))
        pair = paired(lambda: through(train, next(number)), lambda: through(bare, next(number)), PAIRS)
        table.demand(
            f"overhead over a bare KubernetesPodOperator < 5 % (a pod of {LIFE:.0f} s, {PAIRS} pairs in turn)",
            f"{pair.a:.1f} s against {pair.b:.1f} s, ratio {pair.ratio:.3f} ({pair.low:.3f}-{pair.high:.3f})",
            pair.ratio < 1.05,
        )
    table.note = (
        f"Pods that train {LIVES[0]:.0f} to {LIVES[1]:.0f} s, after two seconds of scheduling and starting; the API is "
        "a process beside, its clock the same. Processor seconds are the triggerer's, imports included. "
        "Logs are read every 30 s. The task is ours with its inputs, "
        "object store and MLflow (SQLite), against a deferrable pod operator with its own defaults. Airflow's own time "
        "between a task's parts is in neither."
    )
    return table
