"""Clocks of worker, triggerer and API server that are minutes apart: a pod is as old as the API says."""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from kubeapi import Cluster

from windtunnel.kube.answers import Answer
from windtunnel.tracking.pods import naming

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
    with Cluster({"pods": ("/api/v1", None), "events": ("/api/v1", None)}) as cluster:
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

    async def first() -> dict[str, Any]:
        async for event in trigger.run():
            return dict(event.payload)
        raise AssertionError("the trigger said nothing")

    waiting = asyncio.create_task(first())
    end = time.monotonic() + 60
    # It asks for events of what waits, and has judged its time when it asks the API to go on watching.
    while not waiting.done() and time.monotonic() < end:
        if any(one.path.endswith("/events") for one in api.cluster.requests):
            await asyncio.wait({waiting}, timeout=1.0)
            break
        await asyncio.sleep(0.05)
    if not waiting.done():
        api.cluster.edit("pods", "sea", lambda pod: pod["status"].update(phase="Failed"))
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
