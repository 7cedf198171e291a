"""Which pods and sets that wait for a node are removed, and which never: a table."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from windtunnel.spec import Pod
from windtunnel.tracking.contract import RunSpec
from windtunnel.tracking.pods import gang, naming, orphans
from windtunnel.tracking.pods.manifest import Place, training_pod

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
WHERE = {"dag_id": "sea.train", "dag_run_id": "manual__2026", "task_id": "train", "map_index": "3", "try_number": "2"}
SPEC = RunSpec(run_id="r", model="sea", entry_point="a:b", context=WHERE, resources={"memory": 2**30}, time_limit=60.0)
PLACE = Place(["python"], airflow="here")


def thing(*, age: float = 0.0, count: int = 1, gates: bool = False, place: Place = PLACE, **pod: Any) -> dict[str, Any]:
    given = Pod(image="x", **pod)
    made = training_pod(SPEC, given, place) if count == 1 else gang.job_set(SPEC, given, place, count)
    made["metadata"]["creationTimestamp"] = (NOW - timedelta(seconds=age)).isoformat()
    if gates:
        made["spec"]["schedulingGates"] = [{"name": "kueue.x-k8s.io/admission"}]
    return made


def test_a_pod_says_whose_it_is() -> None:
    found = orphans.task_of(thing())
    assert found == orphans.Task("here", "sea.train", "manual__2026", "train", 3)
    assert found.words == "task sea.train/manual__2026/train[3]"
    assert orphans.task_of(thing(count=2)) == found
    assert orphans.task_of(thing(place=Place(["python"]))) is None
    for strange in ("", "[]", "{", json.dumps({"airflow": "here"})):
        made = thing()
        made["metadata"]["annotations"][naming.TASK] = strange
        assert orphans.task_of(made) is None


@pytest.mark.parametrize(
    ("states", "word"),
    [
        ({}, "gone"),
        ({"manual__2026": {}}, "gone"),
        ({"manual__2026": {"train": "running", "train_2": "running"}}, "gone"),
        ({"manual__2026": {"train_3": None}}, "living"),
        *(({"manual__2026": {"train_3": one}}, "living") for one in (
            "deferred", "running", "queued", "scheduled", "restarting", "up_for_retry", "up_for_reschedule", "new")),
        *(({"manual__2026": {"train_3": one}}, "over") for one in (
            "failed", "success", "skipped", "upstream_failed", "removed")),
    ],
)  # fmt: skip
def test_what_airflow_says(states: dict[str, Any], word: str) -> None:
    task = orphans.task_of(thing())
    assert task is not None and orphans.word_of(states, task) == word


@pytest.mark.parametrize("count", [1, 2], ids=["pod", "set"])
@pytest.mark.parametrize(
    ("word", "age", "queue", "said"),
    [
        ("over", 0, None, "is over"),
        ("over", 0, "team", "is over"),
        ("gone", 0, "team", "not in Airflow any more"),
        ("living", 1e9, None, None),
        ("living", 1e9, "team", None),
        (None, 600 + 899, None, None),
        (None, 600 + 900, None, "waited 1500 s for a node"),
        (None, 1e9, "team", None),
    ],
)
def test_why_it_goes(count: int, word: orphans.Word, age: float, queue: str | None, said: str | None) -> None:
    """DEMAND TRN-2: never one whose task may come back; without Airflow's word, by its own time alone."""
    found = orphans.why(thing(age=age, count=count, queue=queue), word, NOW.timestamp())
    assert (found is None) if said is None else (found is not None and said in found)
    assert orphans.why(thing(age=1e9, gates=True), None, NOW.timestamp()) is None, "whoever gates it says how long"


def test_only_what_has_no_node_is_looked_at() -> None:
    """DEMAND TRN-2: what has one ends by its deadline."""
    pending, placed = thing(), thing()
    placed["spec"]["nodeName"] = "n"
    ended = {**thing(), "status": {"phase": "Failed"}}
    leaving = thing()
    leaving["metadata"]["deletionTimestamp"] = "2026-11-22T10:00:00Z"
    assert [orphans.waits(one) for one in (pending, placed, ended, leaving)] == [True, False, False, False]
    whole = thing(count=2)
    assert orphans.waits(whole) and orphans.waits(whole, [pending, pending])
    assert not orphans.waits(whole, [pending, placed]) and not orphans.waits(whole, [ended])
    for kind in ("Completed", "Failed"):
        over = {**whole, "status": {"conditions": [{"type": kind, "status": "True"}]}}
        assert not orphans.waits(over)


def test_when_it_ended() -> None:
    ends = [{"state": {"terminated": {"finishedAt": f"2026-11-22T0{hour}:00:00Z"}}} for hour in (8, 9)]
    over = {**thing(age=3600), "status": {"phase": "Succeeded", "containerStatuses": ends}}
    assert orphans.ended_at(over) == (NOW - timedelta(hours=1)).timestamp()
    assert orphans.ended_at({**over, "status": {"phase": "Failed"}}) == (NOW - timedelta(hours=1)).timestamp()
    assert orphans.ended_at({**over, "status": {"phase": "Running"}}) is None
