"""A team's own steps in pods: real operators, client and provider, a Kubernetes API over HTTP. DEMAND PIP-2, PIP-9"""

from __future__ import annotations

import asyncio
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred
from pydantic import ValidationError

from windtunnel.data import steps
from windtunnel.data.objects import connect
from windtunnel.errors import IntegrityError, TrainingError
from windtunnel.home import Home
from windtunnel.tracking.pods import outputs

pytest.importorskip("kmock")
from fakecluster import Cluster, Kubelet

CASES = Path(__file__).parents[1] / "kube" / "cases"
WHERE = "pipelines/sea.train/runs/run/steps/enrich/outputs"


class Store(dict[str, Any]):
    """Airflow's task state store, as far as it is used."""

    def set(self, key: str, value: Any) -> None:
        self[key] = value


@pytest.fixture
def fly(tmp_path: Path, describe: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """One try of a step in a pod that runs as a process; what its task returns."""
    from windtunnel_airflow import ExtraStepOperator
    from windtunnel_airflow.pods.trigger import TrainingPodTrigger

    home = Home(tmp_path / "home")
    frame = pd.DataFrame({"t": range(20), "a": range(20), "y": range(20)})
    frame.to_parquet(tmp_path / "rows.parquet")
    rows = steps.write_output(home, "sea.train", "run", "data", "rows", tmp_path / "rows.parquet")

    def context() -> dict[str, Any]:
        ti = SimpleNamespace(
            dag_id="sea.train", run_id="run", task_id="enrich", map_index=-1, try_number=1, stats_tags={},
            get_task_states=lambda **_: {"run": {"enrich": "running"}}, xcom_push=lambda key, value: None,
        )  # fmt: skip
        run = SimpleNamespace(dag_id="sea.train", run_id="run", conf={}, run_type="manual", clear_number=0)
        return {"ti": ti, "dag_run": run, "dag": SimpleNamespace(), "run_id": "run", "params": {},
                "task_state_store": store}  # fmt: skip

    async def first(trigger: Any) -> dict[str, Any]:
        _, arguments = trigger.serialize()
        async for event in TrainingPodTrigger(**json.loads(json.dumps(arguments))).run():
            return dict(event.payload)
        raise AssertionError("the trigger said nothing")

    store = Store()
    with Cluster() as cluster:
        extra = {"kube_config_path": str(cluster.kubeconfig(tmp_path / "kubeconfig")), "namespace": "training"}
        ours = {"home": str(home.root), "store": (tmp_path / "store").as_uri()}
        for name, given in (
            ("KUBERNETES", {"conn_type": "kubernetes", "extra": extra}),
            ("WINDTUNNEL", {"conn_type": "windtunnel", "host": "http://127.0.0.1:9", "extra": ours}),
        ):
            monkeypatch.setenv(f"AIRFLOW_CONN_{name}_DEFAULT", json.dumps(given))
        kubelet = Kubelet(cluster, tmp_path / "node", CASES)

        def go(function: str = "enrich", **more: Any) -> Any:
            given: dict[str, Any] = {
                "name": "enrich", "run": f"wt_pod_cases:{function}", "inputs": ["rows"], "target": "kubernetes",
                "outputs": ["enriched", "parts"], "pod": {"image": "here"}, "resources": {"memory": "1Gi"},
            }  # fmt: skip
            model = describe(name="sea", steps=[{**given, **more}],
                             data={"source": "rows.csv", "time": "t", "target": "y", "features": ["a"]})  # fmt: skip
            wired = {"rows": {"outputs": {"rows": rows.to_dict()}}}

            def task() -> Any:
                return ExtraStepOperator(
                    task_id="enrich", model=model, run=f"wt_pod_cases:{function}", inputs=wired,
                    outputs=given["outputs"], when=more.get("when"),
                )  # fmt: skip

            with pytest.raises(TaskDeferred) as at:
                task().execute(context())
            [pod] = cluster.pods.values()
            asked = pod["spec"]["containers"][0]["resources"]["limits"]["memory"]
            assert int(asked) == 2**30 + 256 * 2**20, "the step's own resources, not the training's"
            event = asyncio.run(asyncio.wait_for(first(at.value.trigger), 100))
            try:
                return task().resume_execution(at.value.method_name, {"event": event}, context())
            finally:
                assert not cluster.pods, "no pod is left"

        try:
            yield go
        finally:
            kubelet.stop()


def test_what_a_step_writes_in_its_pod_is_where_the_next_one_looks(fly: Callable[..., Any], tmp_path: Path) -> None:
    """DEMAND PIP-2, PIP-9: by name in the store, with digest and size, and on the worker as if it had run there."""
    answer = fly()
    store, home = connect((tmp_path / "store").as_uri()), Home(tmp_path / "home")
    assert {key for key in store.sizes(WHERE) if not key.endswith(".json")} == {
        f"{WHERE}/enriched/enriched", f"{WHERE}/parts/one.txt", f"{WHERE}/parts/two.txt"
    }  # fmt: skip
    for name in ("enriched", "parts"):
        told = steps.Output.from_dict(answer["outputs"][name])
        steps.verify_input(told)
        assert told.path == home.root / WHERE / name
        assert steps.read_output(home, "sea.train", "run", "enrich", name) == told
    assert list(pd.read_parquet(home.root / WHERE / "enriched")["more"][:3]) == [0, 2, 4]
    # Changed on its way back: nothing takes its place.
    [run] = {key.split("/")[1] for key in store.sizes("runs/")}
    before = (home.root / WHERE / "enriched").read_bytes()
    store.put_bytes(f"{WHERE}/enriched/enriched", b"x" * len(before))
    with pytest.raises(IntegrityError, match="corrupt"):
        outputs.collect(store, f"runs/{run}", home)
    assert (home.root / WHERE / "enriched").read_bytes() == before
    store.put_bytes(f"runs/{run}/outputs.json", b'{"evil":{"key":"pipelines/../../evil","folder":false}}')
    with pytest.raises(IntegrityError, match="outside"):
        outputs.collect(store, f"runs/{run}", home)


def test_a_step_that_forgets_an_output_fails_as_it_does_on_the_worker(fly: Callable[..., Any]) -> None:
    with pytest.raises(TrainingError, match="did not write parts"):
        fly("forgets")


def test_a_step_that_is_not_wanted_is_skipped(fly: Callable[..., Any]) -> None:
    """DEMAND PIP-9: its condition is asked in the pod, where its code is."""
    with pytest.raises(AirflowSkipException, match="not_today"):
        fly(when="wt_pod_cases:not_today")


def test_a_step_in_a_pod_needs_an_image(describe: Callable[..., Any]) -> None:
    """DEMAND PIP-1: found when the file is read; the training's pod will do."""
    step = {"name": "enrich", "run": "a:b", "target": "kubernetes"}
    with pytest.raises(ValidationError, match=r"steps\[0\]\.target: a step in a pod needs an image"):
        describe(steps=[step])
    training = {"entry_point": "a:b", "target": "kubernetes", "pod": {"image": "here"}}
    assert describe(steps=[step], training=training).steps[0].target == "kubernetes"
    with warnings.catch_warnings():  # used by the step, though the model trains on this machine
        warnings.simplefilter("error")
        describe(steps=[step], training={**training, "target": "local"})
