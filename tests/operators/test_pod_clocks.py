"""Clocks of worker, triggerer and API server that are minutes apart: a pod, and a set, is as old as the API says."""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from kubeapi import Cluster

from windtunnel.kube.answers import Answer
from windtunnel.tracking.pods import gang, naming
from windtunnel_airflow.pods.gangflight import GangFlight
from windtunnel_airflow.pods.logs import READ

#: An hour: far more than any of the times that are held here.
HOUR = 3600.0
WITHIN = 600.0


class Api:
    """A Kubernetes API whose clock is ``ahead`` of this machine's by so many seconds; a pod of it."""

    def __init__(self, cluster: Cluster, ahead: float) -> None:
        self.cluster, self.ahead = cluster, ahead

    def now(self) -> float:
        return time.time() + self.ahead

    def pod(self, age: float, name: str = "sea") -> dict[str, Any]:
        """One that no node takes, as old as that by the API's clock."""
        made = datetime.fromtimestamp(self.now() - age, UTC).isoformat()
        waits = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
        labels = {**naming.COMMON, naming.RUN: "run", naming.ATTEMPT: "1"}
        meta = {"name": name, "namespace": "models", "labels": labels, "creationTimestamp": made}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": []},
               "status": {"phase": "Pending", "conditions": [waits]}}  # fmt: skip
        self.cluster.put("pods", pod)
        return pod


@pytest.fixture(params=[-HOUR, HOUR], ids=["behind", "ahead"])
def api(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    core = dict.fromkeys(("pods", "events"), ("/api/v1", None))
    kinds = core | {"jobsets": ("/apis/jobset.x-k8s.io/v1alpha2", None)}
    with Cluster(kinds) as cluster:
        found = Api(cluster, request.param)
        monkeypatch.setattr(
            BaseHTTPRequestHandler, "date_time_string",
            lambda self, timestamp=None: email.utils.formatdate(found.now(), usegmt=True),
        )  # fmt: skip
        extra = {"kube_config_path": cluster.kubeconfig(tmp_path / "kubeconfig")}
        monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps({"conn_type": "kubernetes", "extra": extra}))
        yield found


async def said(api: Api, **more: Any) -> dict[str, Any]:
    """What a trigger says of the pod: of one that it waits for, that it has ended, once it has ended."""
    from windtunnel_airflow.pods.trigger import TrainingPodTrigger

    # The worker that made it has yet another clock.
    trigger = TrainingPodTrigger("sea", "models", time.time() - 2 * api.ahead, "kubernetes_default",
                                 schedule_within=WITHIN, start_within=WITHIN, **more)  # fmt: skip
    # It asks for events of what waits, and has judged its time when it asks the API to go on watching.
    return await word_of(
        trigger, lambda: any(one.path.endswith("/events") for one in api.cluster.requests),
        lambda: api.cluster.edit("pods", "sea", lambda pod: pod["status"].update(phase="Failed")),
        moment=1.0,
    )  # fmt: skip


async def word_of(
    trigger: Any, judged: Callable[[], bool], end: Callable[[], None], moment: float = 0.0
) -> dict[str, Any]:
    """What a trigger says; of what it waits for on a moment after it has judged it, after its end."""

    async def first() -> dict[str, Any]:
        async for event in trigger.run():
            return dict(event.payload)
        raise AssertionError("the trigger said nothing")

    waiting = asyncio.create_task(first())
    patience = time.monotonic() + 60
    while not waiting.done() and time.monotonic() < patience:
        if judged():
            await asyncio.wait({waiting}, timeout=moment)
            break
        await asyncio.sleep(0.05)
    if not waiting.done():
        end()
    return await asyncio.wait_for(waiting, 60)


def test_the_trigger_counts_by_the_apis_clock(api: Api) -> None:
    """DEMAND TRN-5: neither given up at once nor an hour late."""
    api.pod(age=60.0)
    assert asyncio.run(said(api))["status"] == "failed"


def test_the_trigger_gives_up_by_the_apis_clock(api: Api) -> None:
    api.pod(age=WITHIN + 60.0)
    event = asyncio.run(said(api))
    assert event["status"] == "timeout" and "has not started" in event["message"]


def test_the_tasks_own_time_is_counted_by_the_apis_clock(api: Api) -> None:
    api.pod(age=60.0)
    assert asyncio.run(said(api, until=api.now() + 120.0))["status"] == "failed"


def test_the_tasks_own_time_ends_by_the_apis_clock(api: Api) -> None:
    api.pod(age=60.0)
    assert asyncio.run(said(api, until=api.now() - 1.0))["late"] is True


def test_a_worker_knows_how_old_a_pod_is(api: Api) -> None:
    """DEMAND TRN-5: what was looked at early is waited for on, or given up, in its own time."""
    from windtunnel_airflow.pods.flight import PodFlight

    flight = PodFlight("train", "kubernetes_default", api.pod(age=60.0), WITHIN)
    assert flight.goes_on() is not None
    assert abs(flight.now() - api.now()) < HOUR / 2
    api.pod(age=WITHIN + 60.0)
    assert flight.goes_on() is None


# -- trainings of several nodes


def a_set(api: Api, age: float, *, queue: str | None = None) -> dict[str, Any]:
    """A set of two nodes of which one has no node of the cluster yet, as old as that by the API's clock."""
    pod = api.pod(age, "sea-node-0-1-abcde")
    pod["metadata"]["annotations"] = {gang.INDEX: "1"}
    api.cluster.put("pods", pod)
    first = api.pod(age, "sea-node-0-0-abcde")
    first["metadata"]["annotations"] = {gang.INDEX: "0"}
    first["status"] = {"phase": "Running", "containerStatuses": [{"name": "training", "state": {"running": {}}}]}
    api.cluster.put("pods", first)
    labels = {**pod["metadata"]["labels"], **({naming.QUEUE: queue} if queue else {})}
    meta = {"name": "sea", "namespace": "models", "labels": labels,
            "creationTimestamp": pod["metadata"]["creationTimestamp"]}  # fmt: skip
    job = {"name": "node", "template": {"spec": {"parallelism": 2, "template": {"spec": {"containers": []}}}}}
    made = {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": meta,
            "spec": {"suspend": queue is not None, "replicatedJobs": [job]}}  # fmt: skip
    api.cluster.put("jobsets", made)
    return made


def said_of_set(api: Api, looks: int = 3, **more: Any) -> dict[str, Any]:
    """What a trigger says of the set: of one that it waits for on after some looks, that it has ended."""
    from windtunnel_airflow.pods.gangtrigger import GangTrigger

    trigger = GangTrigger("kubernetes_default", "models", "sea", f"{naming.RUN}=run,{naming.ATTEMPT}=1", WITHIN,
                          look_every=0.05, began=time.time() - 2 * api.ahead, **more)  # fmt: skip
    over = [{"type": "Failed", "status": "True", "reason": "R", "message": "the set failed"}]
    return asyncio.run(word_of(
        trigger, lambda: sum("jobsets" in one.path for one in api.cluster.requests) > looks,
        lambda: api.cluster.edit("jobsets", "sea", lambda one: one.update(status={"conditions": over})),
    ))  # fmt: skip


def test_a_set_is_waited_for_by_the_apis_clock(api: Api) -> None:
    """DEMAND TRN-4, TRN-5: neither given up at once nor an hour late."""
    a_set(api, age=60.0)
    assert said_of_set(api)["message"] == "the set failed"


def test_a_set_is_given_up_by_the_apis_clock(api: Api) -> None:
    a_set(api, age=WITHIN + 60.0)
    event = said_of_set(api)
    assert event["status"] == "timeout" and "1 of 2 nodes run" in event["message"]


@pytest.mark.parametrize("left", [120.0, -1.0])
def test_the_tasks_own_time_is_the_apis_for_a_set_too(api: Api, left: float) -> None:
    a_set(api, age=60.0)
    event = said_of_set(api, until=api.now() + left)
    assert event.get("late", False) is (left < 0) and (event["message"] == "the set failed") is (left > 0)


def test_a_set_that_its_queue_let_go_has_its_time_from_then(api: Api) -> None:
    """DEMAND TRN-8: trigger and worker, each by another clock, say the same."""
    manifest = a_set(api, age=2 * HOUR, queue="team-a")
    api.cluster.edit("jobsets", "sea", lambda one: one["spec"].update(suspend=False))
    event = said_of_set(api)
    assert event["message"] == "the set failed" and abs(event["open"] - api.now()) < HOUR / 2
    api.cluster.edit("jobsets", "sea", lambda one: one.update(status={}))
    flight = GangFlight("kubernetes_default", manifest, WITHIN, dict)
    assert flight.goes_on(event["open"]) is not None
    assert flight.goes_on(event["open"] - WITHIN) is None
    assert abs(flight.now() - api.now()) < HOUR / 2


def test_a_worker_knows_how_old_a_set_is(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """DEMAND TRN-5: what no autoscaler has answered for long enough is told so, and not before."""
    waited: list[float] = []
    judge = gang.judge
    monkeypatch.setattr(gang, "judge", lambda *args, **more: waited.append(more["waited"]) or judge(*args, **more))
    GangFlight("kubernetes_default", a_set(api, age=60.0), WITHIN, dict).end()
    assert 0.0 < waited[0] < WITHIN


def test_a_log_is_read_on_by_the_apis_clock(api: Api) -> None:
    """What another triggerer has read ten minutes ago: those are asked for, whatever this one's clock says."""
    a_set(api, age=2 * HOUR)
    running = {"phase": "Running", "containerStatuses": [{"name": "training", "state": {"running": {}}}]}
    api.cluster.edit("pods", "sea-node-0-1-abcde", lambda one: one.update(status=running))
    read = datetime.fromtimestamp(api.now() - WITHIN, UTC).strftime("%Y-%m-%dT%H:%M:%S.000000000Z/1")
    api.cluster.edit("pods", "sea-node-0-0-abcde", lambda one: one["metadata"]["annotations"].update({READ: read}))
    said_of_set(api)
    asked = next(one.query for one in api.cluster.requests if one.path.endswith("/log"))
    assert WITHIN <= float(asked["sinceSeconds"]) < WITHIN + HOUR


def test_our_client_knows_the_apis_time(api: Api) -> None:
    from windtunnel.kube.kinds import POD
    from windtunnel_airflow.pods.gangflight import client_of

    client = client_of("kubernetes_default", "models")
    assert abs(client.now() - time.time()) < HOUR / 2, "nobody has said anything yet"
    client.list(POD)
    assert abs(client.now() - api.now()) < HOUR / 2


def test_what_a_header_cannot_tell_is_no_difference() -> None:
    def ahead(seconds: float, otherwise: float = 0.0) -> float:
        headers = {"date": email.utils.formatdate(1_000_000.0 + seconds, usegmt=True)}
        return Answer(200, {}, headers).ahead(1_000_000.0, otherwise)

    assert [ahead(0.0), ahead(-3.0), ahead(4.0)] == [0.0, 0.0, 0.0]
    assert (ahead(60.0), ahead(-60.0)) == (60.0, -60.0)
    assert ahead(0.0, otherwise=60.0) == 0.0, "a clock that was set right"
    assert Answer(200, {}, {}).ahead(1_000_000.0, 60.0) == 60.0
