"""The trigger that waits for training pods: real Kubernetes client, real provider hook, an API over HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from windtunnel.tracking.pods import naming

pytest.importorskip("kmock")
from fakecluster import over
from kubeapi import Cluster, Fault


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    kueue = "/apis/kueue.x-k8s.io/v1beta2"
    with Cluster({"pods": ("/api/v1", None), "events": ("/api/v1", None), "workloads": (kueue, None)}) as found:
        extra = {"kube_config_path": found.kubeconfig(tmp_path / "kubeconfig")}
        monkeypatch.setenv("AIRFLOW_CONN_KUBERNETES_DEFAULT", json.dumps({"conn_type": "kubernetes", "extra": extra}))
        yield found


RUNNING = {"containerStatuses": [{"name": "training", "state": {"running": {}}}], "phase": "Running"}


def pod(name: str, status: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    meta = {"name": name, "namespace": "models", "labels": dict(naming.COMMON)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec, "status": status or {"phase": "Pending"}}


def becomes(api: Cluster, name: str, status: dict[str, Any]) -> None:
    api.edit("pods", name, lambda thing: thing.update(status=status))


def trigger(name: str, **more: Any) -> Any:
    import time

    from windtunnel_airflow.pods.trigger import TrainingPodTrigger

    made = TrainingPodTrigger(name, "models", time.time(), "kubernetes_default", **more)
    path, arguments = made.serialize()
    assert path == "windtunnel_airflow.pods.trigger.TrainingPodTrigger"
    again = TrainingPodTrigger(**json.loads(json.dumps(arguments)))
    again._log = logging.getLogger("tests.trigger")  # Airflow's own goes to the task's log
    return again


async def first(waiting: Any) -> dict[str, Any]:
    async for event in waiting.run():
        return dict(event.payload)
    raise AssertionError("the trigger said nothing")


def asked(api: Cluster) -> Counter[str]:
    """Requests by what they are."""
    out: Counter[str] = Counter()
    for one in api.requests:
        watch = "watch" if one.query.get("watch") else one.method
        out[f"{watch} {re.sub(r'/pods/[^/]+', '/pods/NAME', one.path).rpartition('/models/')[2]}"] += 1
    return out


async def until(what: Callable[[], Any]) -> None:
    for _ in range(600):
        if what():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("not within 30 s")


@pytest.mark.parametrize("count", [1, 50])
def test_however_many_wait_the_api_is_asked_once(count: int, api: Cluster) -> None:
    """The issue's numbers: at most 6 requests a minute and running task without start and logs."""
    names = [f"wt-{at}" for at in range(count)]
    for name in names:
        api.put("pods", pod(name, RUNNING, nodeName="n"))

    async def go() -> list[dict[str, Any]]:
        waiting = [asyncio.create_task(first(trigger(name, log_every=1000))) for name in names]
        await until(lambda: asked(api)["GET pods/NAME/log"] == count)
        assert not any(one.done() for one in waiting)
        # Each change of each pod is heard by the same watch.
        for at in range(3):
            for name in names:
                api.edit("pods", name, lambda thing, at=at: thing["metadata"].update(annotations={"beat": str(at)}))
        for name in names:
            becomes(api, name, over(0, "Completed", "Succeeded"))
        return await asyncio.gather(*waiting)

    told = asyncio.run(asyncio.wait_for(go(), 120))
    assert [one["status"] for one in told] == ["success"] * count
    assert sorted(one["name"] for one in told) == sorted(names)
    counted = asked(api)
    logs = counted.pop("GET pods/NAME/log")
    assert logs == 2 * count, "once while it runs, once when it has ended"
    assert counted == {"GET pods": 1, "watch pods": 1}


def test_a_pod_made_after_the_list_is_found_by_the_watch(api: Cluster) -> None:
    async def go() -> dict[str, Any]:
        waiting = asyncio.create_task(first(trigger("late")))
        await until(lambda: asked(api)["watch pods"])
        api.put("pods", pod("late", over(3)))
        return await waiting

    assert asyncio.run(asyncio.wait_for(go(), 60))["status"] == "failed"
    assert asked(api)["GET pods/NAME"] == 0


def test_a_pod_that_is_not_there_is_asked_for_alone_and_then_told_as_gone(
    api: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    from windtunnel_airflow.pods import trigger as pod_trigger

    monkeypatch.setattr(pod_trigger, "APPEARS_S", 0.1)
    api.faults = [Fault("GET .*/pods/never", 500)]
    told = asyncio.run(asyncio.wait_for(first(trigger("never")), 60))
    assert (told["status"], told["message"]) == ("failed", "the pod is gone")
    assert asked(api)["GET pods/NAME"] == 2


def test_one_that_is_deleted_is_told_at_once(api: Cluster) -> None:
    api.put("pods", pod("a", RUNNING))

    async def go() -> dict[str, Any]:
        waiting = asyncio.create_task(first(trigger("a")))
        await until(lambda: asked(api)["GET pods/NAME/log"])
        api.remove("pods", "a")
        return await waiting

    assert asyncio.run(asyncio.wait_for(go(), 60))["message"] == "the pod is gone"


def test_cut_forgotten_and_refused_in_between_no_end_is_missed(api: Cluster) -> None:
    """Connection cut mid-watch, 410, 429 with Retry-After, 500; the pod ends while nobody hears."""
    api.put("pods", pod("a", RUNNING))
    api.faults = [Fault(r"GET .*/pods\?label", 429, headers={"Retry-After": "0"}), Fault("GET .*watch=", 500)]

    async def go() -> dict[str, Any]:
        waiting = asyncio.create_task(first(trigger("a", log_every=1000)))
        await until(lambda: asked(api)["GET pods/NAME/log"])
        api.cut_watches.set()
        becomes(api, "a", {**RUNNING, "message": "cut"})
        await until(lambda: asked(api)["watch pods"] >= 3)
        api.cut_watches.clear()
        api.faults += [Fault("GET .*watch=", 410)]
        becomes(api, "a", over(0, "Completed", "Succeeded"))
        api.forget_history()
        return await waiting

    assert asyncio.run(asyncio.wait_for(go(), 100))["status"] == "success"


def test_a_triggerer_that_dies_is_followed_by_one_that_lists_anew(api: Cluster) -> None:
    """DEMAND PIP-5: nothing is kept in the process that is needed."""
    api.put("pods", pod("a", RUNNING))
    made = trigger("a")

    async def dies() -> None:
        task = asyncio.create_task(first(made))
        await until(lambda: asked(api)["GET pods/NAME/log"])
        task.cancel()  # as asyncio ends everything when the process goes

    asyncio.run(dies())
    becomes(api, "a", over(137, "OOMKilled"))
    assert asyncio.run(asyncio.wait_for(first(type(made)(**made.serialize()[1])), 60))["status"] == "failed"
    assert asked(api)["GET pods"] == 2


def test_a_refusal_says_what_is_missing(api: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    from windtunnel.kube import following

    monkeypatch.setattr(following, "_pause", lambda tried: 0.0)
    api.put("pods", pod("a", RUNNING))
    api.denied = ["GET .*/pods"]
    told = asyncio.run(asyncio.wait_for(first(trigger("a")), 60))
    assert told["status"] == "error" and "cannot do this" in told["message"]


def test_a_connection_that_is_not_there_is_told_at_once() -> None:
    from windtunnel_airflow.pods.trigger import TrainingPodTrigger

    told = asyncio.run(asyncio.wait_for(first(TrainingPodTrigger("a", "models", 0.0, "nowhere")), 60))
    assert told["status"] == "error" and "nowhere" in told["message"]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [re.sub(r"^Pod \S+ ", "", one.getMessage()) for one in caplog.records if one.getMessage().startswith("Pod ")]


def test_a_waiting_run_says_what_it_waits_for(api: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    """DEMAND TRN-8: the queue, the scheduler's own words, the image; each once. A queue's time is not counted."""
    caplog.set_level(logging.INFO)
    queued = pod("a", schedulingGates=[{"name": "kueue.x-k8s.io/admission"}])
    queued["metadata"]["labels"][naming.QUEUE] = "tides"
    api.put("pods", queued)
    held = {"type": "QuotaReserved", "status": "False", "message": "insufficient quota for nvidia.com/gpu"}
    of = {"kueue.x-k8s.io/job-uid": api.objects["pods", "a"]["metadata"]["uid"]}
    api.put("workloads", {"metadata": {"name": "w", "labels": of}, "status": {"conditions": [held]}})

    def condition(message: str, reason: str = "Unschedulable") -> dict[str, Any]:
        told = {"type": "PodScheduled", "status": "False", "reason": reason, "message": message}
        return {"phase": "Pending", "conditions": [told]}

    def opened(thing: dict[str, Any]) -> None:
        del thing["spec"]["schedulingGates"]
        thing["status"] = condition("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.")

    def placed(thing: dict[str, Any]) -> None:
        thing["spec"]["nodeName"] = "n"
        thing["status"] = {"phase": "Pending", "containerStatuses": [waiting_for("ContainerCreating")]}

    def waiting_for(reason: str, message: str = "") -> dict[str, Any]:
        return {"name": "training", "state": {"waiting": {"reason": reason, "message": message}}}

    async def go() -> dict[str, Any]:
        waiting = asyncio.create_task(first(trigger("a", schedule_within=20.0, start_within=20.0)))
        await until(lambda: len(said(caplog)) == 1)
        for change, count in ((opened, 2), (placed, 3)):
            api.edit("pods", "a", change)
            await until(lambda count=count: len(said(caplog)) == count)
        event = {"metadata": {"name": "a.1"}, "reason": "Pulling", "message": 'Pulling image "big"',
                 "involvedObject": {"kind": "Pod", "name": "a"}}  # fmt: skip
        api.put("events", event)
        for beat in "12":
            api.edit("pods", "a", lambda thing, beat=beat: thing["metadata"].update(annotations={"beat": beat}))
        await until(lambda: len(said(caplog)) == 4)
        becomes(api, "a", {"phase": "Pending", "containerStatuses": [waiting_for("ErrImagePull", "manifest unknown")]})
        return await waiting

    told = asyncio.run(asyncio.wait_for(go(), 100))
    assert said(caplog) == [
        "waits for queue tides (Kueue) to admit it: insufficient quota for nvidia.com/gpu",
        "waits for a node (Unschedulable): 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
        "waits for node n to make its container",
        'waits for its image: Pulling image "big"',
        "waits for its image (ErrImagePull): manifest unknown",
    ]
    assert told["status"] == "timeout" and "manifest unknown" in told["message"]


def test_time_runs_from_when_the_queue_lets_it_go(api: Cluster) -> None:
    """DEMAND TRN-8"""
    queued = pod("a", schedulingGates=[{"name": "kueue.x-k8s.io/admission"}])
    queued["metadata"]["labels"][naming.QUEUE] = "tides"
    api.put("pods", queued)

    async def go() -> dict[str, Any]:
        waiting = asyncio.create_task(first(trigger("a", schedule_within=0.5)))
        await asyncio.sleep(1.5)
        assert not waiting.done()
        api.edit("pods", "a", lambda thing: thing["spec"].pop("schedulingGates"))
        return await waiting

    told = asyncio.run(asyncio.wait_for(go(), 60))
    assert (told["status"], told["message"]) == ("timeout", "it has not started: waits for the scheduler")


def test_a_pod_stuck_in_its_end_is_given_up(api: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    from windtunnel_airflow.pods import trigger as pod_trigger

    monkeypatch.setattr(pod_trigger, "STUCK_S", 0.3)
    stuck = pod("a", RUNNING, nodeName="n-7")
    stuck["metadata"] |= {"deletionTimestamp": "2026-11-21T10:00:00Z", "deletionGracePeriodSeconds": 0}
    api.put("pods", stuck)
    told = asyncio.run(asyncio.wait_for(first(trigger("a")), 60))
    assert told["status"] == "timeout" and "node n-7 does not answer" in told["message"]


def test_each_line_of_a_log_is_read_once() -> None:
    """DEMAND TRN-6"""
    from windtunnel_airflow.pods.logs import Reader

    reader = Reader()
    assert reader.since(0.0) is None

    def at(seconds: str, text: str) -> bytes:
        return f"2026-11-21T10:00:{seconds}Z {text}\n".encode()

    old = at("01.5", "one") + at("02.000000001", "two") + at("02.000000001", "three") + b"at their line's end\n"
    assert reader.new(old) == ["one", "two", "three", "at their line's end"]
    reader.asked(0.0)
    assert reader.since(0.0) is not None
    more = at("02.000000001", "four") + at("02.00000001", "five") + at("03", "") + at("03", "\u00fc")
    assert reader.new(old + more) == ["four", "five", "", "\u00fc"]
    assert reader.new(old + more) == []
    assert reader.new(at("03", "") + at("03", "\u00fc") + at("03", "six")) == ["six"]
    assert reader.new(b"2026-11-21T10:00:04Z \xff\n") == ["\\xff"]


def test_another_triggerer_goes_on_with_the_log_where_the_first_one_was(
    api: Cluster, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEMAND TRN-8: one that goes down in order says how far it was; one that dies had said so two minutes before."""
    from windtunnel_airflow.pods import logs

    caplog.set_level(logging.INFO)
    api.put("pods", pod("wt-1", RUNNING, nodeName="n"))
    path = "/api/v1/namespaces/models/pods/wt-1/log"
    api.pages[path] = "2026-11-21T10:00:00.5Z one\n2026-11-21T10:00:00.5Z two\n"

    def heard() -> list[str]:
        return [one.getMessage() for one in caplog.records if one.getMessage().startswith("[training]")]

    def position() -> str | None:
        return (api.all("pods")[0]["metadata"].get("annotations") or {}).get(logs.READ)

    async def waits(lines: int, *, orderly: bool) -> None:
        one = trigger("wt-1", log_every=0.05)
        waiting = asyncio.create_task(first(one))
        await until(lambda: len(heard()) >= lines)
        if not orderly:
            await until(lambda: position() == "2026-11-21T10:00:02.250000000Z/1")
        waiting.cancel()
        await asyncio.wait({waiting})
        if orderly:
            await one.cleanup()

    asyncio.run(asyncio.wait_for(waits(2, orderly=True), 60))
    assert position() == "2026-11-21T10:00:00.500000000Z/2"
    api.pages[path] += "2026-11-21T10:00:00.5Z three\n2026-11-21T10:00:02.25Z four\n"
    monkeypatch.setattr(logs, "NOTE_S", 0.0)
    asyncio.run(asyncio.wait_for(waits(4, orderly=False), 60))
    monkeypatch.setattr(logs, "NOTE_S", 1e9)
    becomes(api, "wt-1", over(0, "Completed", "Succeeded"))
    api.pages[path] += "2026-11-21T10:00:03Z five\n"
    assert asyncio.run(asyncio.wait_for(first(trigger("wt-1")), 60))["status"] == "success"
    assert [line.split()[1] for line in heard()] == ["one", "two", "three", "four", "five"]
    # It asks for what is new, and for five minutes more: the node's clock is not ours.
    asked_for = [one.query.get("sinceSeconds") for one in api.requests if one.path == path]
    assert asked_for[0] is None and all(int(seconds or 0) >= 5 for seconds in asked_for[-1:])


@pytest.mark.parametrize("noted", [None, "", "yesterday", "2026-13-01T10:00:00.000000000Z/1", "2026-11-21T10:00:00Z/1"])
def test_what_is_no_position_is_the_beginning(noted: str | None) -> None:
    from windtunnel_airflow.pods.logs import Reader

    reader = Reader(noted)
    assert reader.since(0.0) is None and reader.position is None
    assert reader.new(b"2026-11-21T10:00:00.5Z one\n") == ["one"]
    assert reader.to_note() is None, "not at once"
    position = reader.to_note(now=True)
    assert position == "2026-11-21T10:00:00.500000000Z/1" and reader.to_note(now=True) is None
    again = Reader(position)
    assert again.position == position and again.since(0.0) is not None
    assert again.new(b"2026-11-21T10:00:00.5Z one\n2026-11-21T10:00:00.5Z two\n") == ["two"]
