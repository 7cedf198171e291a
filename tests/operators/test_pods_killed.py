"""A worker that dies before or after any of its calls to the cluster, the object store or Airflow's task state store.

DEMAND PIP-5, TRN-2: whatever call was the last, the next tries end with the same run, trained once, and no pod is left.
Death is an exception that nothing catches; the pod's work is that of a run that was trained once, for all cases.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from airflow.sdk.exceptions import TaskDeferred

from windtunnel.data import parcels, steps
from windtunnel.data.objects import FolderObjects
from windtunnel.evidence import manifest
from windtunnel.home import Home
from windtunnel.tracking.contract import RunResult, RunStatus
from windtunnel.tracking.pods import naming
from windtunnel.tracking.pods.depot import Depot

pytest.importorskip("kmock")
from fakecluster import RUNNING, Cluster, over

#: Calls of one training that nothing disturbs.
CALLS = 24
#: The pod's own door to the store: nobody kills it here.
PodObjects = type("PodObjects", (FolderObjects,), dict(vars(FolderObjects)))


class Killed(BaseException):
    """SIGKILL, as far as a process of one's own can have it: no handler of ours or the provider's catches it."""


class Death:
    """Counts calls; kills at one of them.

    Args:
        at: the call, from 0; None never.
        after: the call is made and its answer lost; else it is not made.
    """

    def __init__(self, at: int | None, after: bool) -> None:
        self.at, self.after, self.calls = at, after, 0
        self.names: list[str] = []
        self.died = False

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def made(*arguments: Any, **named: Any) -> Any:
            here, self.calls = self.calls, self.calls + 1
            self.names.append(name)
            if here == self.at and not self.after:
                self.died = True
                raise Killed(name)
            try:
                return call(*arguments, **named)
            finally:
                if here == self.at:
                    self.died = True
                    raise Killed(name)

        return made


class Store(dict[str, Any]):
    """Airflow's task state store, as far as it is used."""

    def set(self, key: str, value: Any) -> None:
        self[key] = value


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as found:
        yield found


def trained(pod: dict[str, Any], store: Path, folder: Path, count: list[str]) -> None:
    """What a pod does, at once: the run's words in the object store."""
    run_id = pod["metadata"]["annotations"]["windtunnel.dev/run-id"]
    attempt = int(pod["metadata"]["labels"][naming.ATTEMPT])
    count.append(f"{run_id}/{attempt}")
    work = folder / run_id
    (work / "model").mkdir(parents=True, exist_ok=True)
    (work / "model" / "weights").write_text("1")
    found = manifest.build(work / "model")
    result = RunResult(run_id, "train", model_uri=f"runs:/{run_id}/model", model_path="/windtunnel/runs/x/model",
                       digest=found.content, manifest=found.to_dict(), metrics={"loss": 0.5})  # fmt: skip
    (work / "result.json").write_text(json.dumps(result.to_dict()))
    (work / "trained.json").write_text("{}")
    depot = Depot(PodObjects(store), run_id)
    depot.leave(work, attempt, RunStatus(run_id, "succeeded", attempt=attempt))


@pytest.fixture
def world(
    tmp_path: Path, cluster: Cluster, describe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Death], dict[str, Any]]:
    """Fly one training, dying once; what became of it."""
    from windtunnel_airflow import TrainOperator
    from windtunnel_airflow.hook import WindtunnelHook
    from windtunnel_airflow.pods.trigger import TrainingPodTrigger

    extra = {"kube_config_path": str(cluster.kubeconfig(tmp_path / "kubeconfig")), "namespace": "training"}
    monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps({"conn_type": "kubernetes", "extra": extra}))
    ours = {"home": str(tmp_path / "home"), "store": (tmp_path / "store").as_uri()}
    monkeypatch.setenv("AIRFLOW_CONN_WINDTUNNEL_DEFAULT", json.dumps({"conn_type": "windtunnel", "extra": ours}))
    home = Home(tmp_path / "home")
    pd.DataFrame({"t": [1.0], "a": [1.0], "y": [1.0]}).to_parquet(tmp_path / "rows.parquet")
    rows = steps.write_output(home, "sea.train", "run", "data", "rows", tmp_path / "rows.parquet")
    model = describe(
        name="sea",
        data={"source": "rows.csv", "time": "t", "target": "y", "features": ["a"]},
        training={"entry_point": "sea.model:train", "target": "kubernetes", "pod": {"image": "here"}},
    )
    count: list[str] = []

    class Train(TrainOperator):
        """The MLflow run by its key, without a server: making it twice makes the same."""

        def make_run_id(self, key: str, context: Any) -> str:
            return f"run-{abs(hash(key))}"

        def finish(self, result: Any, context: Any) -> dict[str, Any]:
            return {"run_id": result.run_id, "digest": result.digest, "path": result.model_path}

    async def first(trigger: Any) -> dict[str, Any]:
        _, arguments = trigger.serialize()
        async for event in TrainingPodTrigger(**arguments).run():
            return dict(event.payload)
        raise AssertionError("the trigger said nothing")

    def fly(death: Death) -> dict[str, Any]:
        from kubernetes.client import ApiClient

        store = Store()
        cluster.script = [RUNNING, over(0, "Completed", "Succeeded")]
        cluster.made = lambda pod: trained(pod, tmp_path / "store", tmp_path / "work", count)
        monkeypatch.setattr(ApiClient, "call_api", death.around("cluster", ApiClient.call_api))
        for name in ("put", "put_bytes", "get_bytes", "get", "delete"):
            around = death.around(f"store.{name}", getattr(FolderObjects, name))
            monkeypatch.setattr(FolderObjects, name, around)
        store.set = death.around("airflow", store.set)  # type: ignore[method-assign]
        monkeypatch.setattr(
            WindtunnelHook, "mlflow_env", lambda self: {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}, raising=False
        )
        waiting: TaskDeferred | None = None
        for tries in range(1, 6):
            operator = Train(
                task_id="train", model=model, data={"outputs": {"rows": rows.to_dict()}, "digest": rows.digest}
            )
            now = context(store, tries)
            try:
                if waiting is None:
                    operator.execute(now)
                    raise AssertionError("neither done nor deferred")
                event = asyncio.run(asyncio.wait_for(first(waiting.trigger), 60))
                answer = operator.resume_execution(waiting.method_name, {"event": event}, now)
            except TaskDeferred as deferred:
                waiting = deferred
            except Killed:
                waiting = None  # Airflow finds a dead task and starts the next try
            except Answered as done:
                answer = done.answer
                return {"answer": answer, "trained": list(count), "left": list(cluster.pods), "tries": tries}
            else:
                return {"answer": answer, "trained": list(count), "left": list(cluster.pods), "tries": tries}
        raise AssertionError("five tries, and no end")

    class Answered(Exception):
        def __init__(self, answer: Any) -> None:
            self.answer = answer

    execute = TrainOperator.execute

    def told(self: Any, context: Any) -> Any:
        raise Answered(execute(self, context))

    monkeypatch.setattr(Train, "execute", told)
    return fly


def context(store: Store, tries: int) -> dict[str, Any]:
    ti = SimpleNamespace(
        dag_id="sea.train", run_id="run", task_id="train", map_index=-1, try_number=tries, stats_tags={},
        get_task_states=lambda **_: {"run": {"train": "running"}}, xcom_push=lambda key, value: None,
    )  # fmt: skip
    run = SimpleNamespace(dag_id="sea.train", run_id="run", conf={}, run_type="manual", clear_number=0)
    return {
        "ti": ti,
        "dag_run": run,
        "dag": SimpleNamespace(),
        "run_id": "run",
        "params": {},
        "task_state_store": store,
    }


def test_undisturbed(world: Callable[[Death], dict[str, Any]]) -> None:
    death = Death(None, after=False)
    told = world(death)
    assert told["left"] == [] and len(told["trained"]) == 1
    assert death.calls == CALLS, "the cases below are one per call"
    assert {"cluster", "airflow", "store.put", "store.put_bytes", "store.get", "store.get_bytes"} <= set(death.names)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("at", [at if at % 9 == 4 else pytest.param(at, marks=pytest.mark.long) for at in range(CALLS)])
def test_death_at_every_call(world: Callable[[Death], dict[str, Any]], at: int, after: bool) -> None:
    death = Death(at, after)
    told = world(death)
    assert death.died
    assert told["left"] == [], f"died {'after' if after else 'before'} call {at}, {death.names[at]}"
    assert len(told["trained"]) == 1, "trained twice"
    assert Path(told["answer"]["path"]).is_dir()
    assert parcels.contents(Path(told["answer"]["path"])).keys() == {"weights"}
    shutil.rmtree(told["answer"]["path"])
