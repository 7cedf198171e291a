"""What a run costs, by a price table. DEMAND TRN-6"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError
from waiting import until

from windtunnel.home import Home
from windtunnel.spec import Prices
from windtunnel.tracking.contract import RunSpec, RunStatus, run_dir
from windtunnel.tracking.cost import METRIC, Spell, cost, hourly, pod_seconds
from windtunnel.tracking.run import own_metrics
from windtunnel.tracking.server import connect
from windtunnel.tracking.spool import Spool

GIB = 2**30
GPUS = {"NVIDIA-H200": 4.0, "NVIDIA-H200/1g.18gb": 0.6, "2g.35gb": 1.1}
TABLE = Prices(currency="EUR", cpu=0.04, memory=0.005, gpu=GPUS, spot=0.6)


def given(cpu: float = 8, memory: int = 64, gpu: int = 0, **more: Any) -> dict[str, Any]:
    return {"cpu": cpu, "memory": memory * GIB, "gpu": gpu, **more}


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        (given(), 8 * 0.04 + 64 * 0.005),
        (given(cpu=0.5, memory=0), 0.02),
        (given(gpu=2, gpu_type="NVIDIA-H200"), 0.64 + 8.0),
        (given(gpu=3, gpu_type="NVIDIA-H200", mig="1g.18gb"), 0.64 + 1.8),
        (given(gpu=1, mig="2g.35gb"), 0.64 + 1.1),
        (given(shared_memory=16 * GIB), 0.64 + 16 * 0.005),
        (given(gpu=0, gpu_type="nobody's"), 0.64),
    ],
    ids=["cpu and memory", "half a core", "two GPUs", "slices of a GPU", "a slice of any", "shared memory", "no GPU"],
)
def test_an_hour(resources: dict[str, Any], expected: float) -> None:
    assert hourly(TABLE, resources) == pytest.approx(expected)


def test_a_gpu_without_a_price_is_told_and_not_free() -> None:
    found = cost(TABLE, given(gpu=1, gpu_type="NVIDIA-L4"), [Spell(1, 3600.0)])
    assert found.amount is None
    assert (
        found.tags()["wt.cost"]
        == "unknown: no price for GPU NVIDIA-L4; there is one for 2g.35gb, NVIDIA-H200, NVIDIA-H200/1g.18gb"
    )
    assert hourly(Prices(currency="EUR", gpu={"*": 2.0}), given(gpu=2, gpu_type="NVIDIA-L4")) == 4.0


@pytest.mark.parametrize(
    ("spells", "amount", "said"),
    [
        ([Spell(1, 3600.0)], 0.64, "0.6400 EUR for 1 attempt"),
        ([Spell(1, 1800.0), Spell(2, 5400.0)], 1.28, "1.2800 EUR for 2 attempts"),
        ([Spell(1, 3600.0, spot=True)], 0.256, "0.2560 EUR for 1 attempt"),
        ([Spell(1, 3600.0, spot=True), Spell(2, 3600.0)], 0.896, "0.8960 EUR for 2 attempts"),
        ([Spell(1, None), Spell(2, 3600.0)], 0.64,
         "0.6400 EUR for 1 attempt; not counted, for nobody knows how long they ran: 1"),
        ([Spell(1, 0.0)], 0.0, "0.0000 EUR for 1 attempt"),
    ],
    ids=["an hour", "a second attempt", "spot", "spot, then not", "one unknown", "never had a node"],
)  # fmt: skip
def test_attempts_are_added(spells: list[Spell], amount: float, said: str) -> None:
    found = cost(TABLE, given(), spells)
    assert found.amount == pytest.approx(amount)
    tags = found.tags()
    assert tags["wt.cost"] == said and tags["wt.cost.currency"] == "EUR"
    counted = [one.attempt for one in spells if one.seconds is not None]
    assert list(map(int, json.loads(tags["wt.cost.attempts"]))) == counted


def pod(scheduled: str | None, started: str | None, *ends: str) -> dict[str, Any]:
    conditions = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": scheduled}] if scheduled else []
    states = [{"name": "x", "state": {"terminated": {"finishedAt": end}}} for end in ends]
    return {"status": {"conditions": conditions, "startTime": started, "containerStatuses": states}}


@pytest.mark.parametrize(
    ("thing", "seconds"),
    [
        (pod("2026-11-21T10:00:00Z", "2026-11-21T10:00:05Z", "2026-11-21T10:30:00Z"), 1800.0),
        (pod(None, "2026-11-21T10:00:05Z", "2026-11-21T10:30:05Z"), 1800.0),
        (pod("2026-11-21T10:00:00Z", None), 3600.0),
        (pod(None, None), 0.0),
        ({"status": {"conditions": [{"type": "PodScheduled", "status": "False", "lastTransitionTime": "2026"}]}}, 0),
        (pod("2026-11-21T12:00:00Z", None), 0.0),
        ({**pod("2026-11-21T12:00:00Z", None), "metadata": {"deletionTimestamp": "2026-11-21T12:10:00Z"}}, 600.0),
    ],
    ids=["bound to ended", "by the kubelet's word", "goes on", "never bound", "unschedulable", "a clock ahead",
         "told to go, by a clock ahead"],
)  # fmt: skip
def test_a_pod_costs_while_it_has_a_node(thing: dict[str, Any], seconds: float) -> None:
    now = 1795258800.0  # 2026-11-21T11:00:00Z
    assert pod_seconds(thing, now) == seconds


@pytest.mark.parametrize(
    "wrong", [{"currency": "euro"}, {"currency": "EUR", "cpu": -1}, {"currency": "EUR", "gpu": {"L4": -2}},
              {"currency": "EUR", "spot": 1.0}, {"cpu": 1}, {"currency": "EUR", "disk": 1}]
)  # fmt: skip
def test_a_table_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Prices.model_validate(wrong)


def test_a_local_run_says_what_its_attempts_cost(
    spec: Callable[..., RunSpec], run: Callable[..., RunStatus], store: str, home: Home
) -> None:
    """DEMAND TRN-6: also of an attempt that failed."""
    from mlflow.tracking import MlflowClient

    run_id = connect(store).create_run("visits", "priced", {}, "priced")
    task = spec("priced", run_id=run_id, kind="step", tracking_uri=store, prices={"currency": "EUR", "cpu": 3600.0})
    assert run(task).failure == "transient"
    client = MlflowClient(tracking_uri=store)
    until(lambda: METRIC in client.get_run(run_id).data.metrics)  # the end is known before the server has all of it
    first = client.get_run(run_id)
    assert first.data.metrics[METRIC] >= 0.3, "a second of one core costs 1 EUR"
    assert run(task, restart=True).state == "succeeded"
    both = client.get_run(run_id)
    amounts = json.loads(both.data.tags["wt.cost.attempts"])
    assert sorted(amounts) == ["1", "2"]
    assert both.data.metrics[METRIC] == pytest.approx(sum(amounts.values()), abs=1e-3)
    # What it said last and what it had paid for when it ended lie some moments of this machine apart.
    assert amounts["1"] == pytest.approx(first.data.metrics[METRIC], abs=0.5, rel=0.4)
    assert both.data.tags["wt.cost"].endswith("EUR for 2 attempts")
    assert METRIC not in own_metrics(Spool(run_dir(home, run_id)))
