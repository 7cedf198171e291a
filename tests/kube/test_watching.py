"""A list that keeps itself up to date, through cuts and versions that are too old."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fakeseldon
import pytest
from kubeapi import Cluster, Fault
from waiting import until

from windtunnel.errors import ForbiddenError
from windtunnel.kube.access import Access
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import POD
from windtunnel.kube.watching import Event, Watch


class Followed:
    """A watch in a thread, and what it told."""

    def __init__(self, client: Client, **more: Any) -> None:
        self.watch = Watch(client, POD, **more)
        self.events: list[Event] = []
        self.error: Exception | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            for event in self.watch.events():
                self.events.append(event)
        except Exception as error:
            self.error = error

    def told(self) -> list[str]:
        return [f"{event.what} {','.join(event.objects)}" for event in self.events]


def pod(name: str, label: str = "a") -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": label}}}


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with fakeseldon.cluster() as found:
        yield found


@pytest.fixture
def client(cluster: Cluster, tmp_path: Path) -> Client:
    return Client(Access(cluster.kubeconfig(tmp_path / "config")))


@pytest.fixture
def follow(client: Client, cluster: Cluster) -> Iterator[Any]:
    made: list[Followed] = []

    def start(**more: Any) -> Followed:
        made.append(Followed(client, **more))
        until(lambda: made[-1].events or made[-1].error, every_s=0.01)
        return made[-1]

    yield start
    for one in made:
        one.watch.stop.set()
    cluster.put("pods", pod("the-end"))


def test_changes_come_as_they_happen_by_one_list_and_one_watch(cluster: Cluster, follow: Any) -> None:
    cluster.put("pods", pod("one"))
    seen = follow(labels="app=a")
    cluster.put("pods", pod("two"))
    cluster.put("pods", pod("other", "b"))
    cluster.edit("pods", "one", lambda thing: thing.update(status={"phase": "Running"}))
    cluster.remove("pods", "two")
    until(lambda: len(seen.events) == 4, every_s=0.01)
    assert seen.told() == ["LISTED one", "ADDED two", "MODIFIED one", "DELETED two"]
    assert list(seen.watch.objects) == ["one"]
    assert [one.query.get("watch") for one in cluster.requests] == [None, "1"]


def test_a_watch_that_is_cut_goes_on_where_it_was(cluster: Cluster, follow: Any) -> None:
    seen = follow()
    cluster.put("pods", pod("one"))
    until(lambda: len(seen.events) == 2, every_s=0.01)
    cluster.cut_watches.set()
    cluster.put("pods", pod("two"))
    until(lambda: "ADDED two" in seen.told(), every_s=0.01)
    cluster.cut_watches.clear()
    cluster.put("pods", pod("three"))
    until(lambda: "ADDED three" in seen.told(), every_s=0.01)
    assert [line for line in seen.told() if line.startswith("ADDED")] == ["ADDED one", "ADDED two", "ADDED three"]


def test_a_version_that_is_too_old_is_listed_anew(cluster: Cluster, follow: Any) -> None:
    """410 in the middle of a watch: what vanished meanwhile is noticed."""
    cluster.put("pods", pod("one"))
    seen = follow(for_s=1)
    with cluster.changed:  # while nobody may watch
        cluster.faults.append(Fault("watch=1", 410, times=1, reason="Expired"))
        cluster.remove("pods", "one")
        cluster.put("pods", pod("two"))
        cluster.forget_history()
    until(lambda: "two" in seen.watch.objects and "one" not in seen.watch.objects, every_s=0.02)
    cluster.put("pods", pod("three"))
    until(lambda: "three" in seen.watch.objects, every_s=0.02)
    assert set(seen.watch.objects) == {"two", "three"}


def test_an_api_that_restarts_is_waited_for(cluster: Cluster, follow: Any) -> None:
    seen = follow(for_s=1)
    cluster.faults += [Fault("watch=1", times=2), Fault("watch=1", 500, times=1)]
    cluster.put("pods", pod("one"))
    until(lambda: "one" in seen.watch.objects, every_s=0.02)
    until(lambda: not any(fault.times for fault in cluster.faults), every_s=0.02)
    cluster.put("pods", pod("two"))
    until(lambda: "two" in seen.watch.objects, every_s=0.02)
    assert seen.error is None


def test_a_watch_that_may_not_says_so(cluster: Cluster, follow: Any) -> None:
    cluster.denied.append("GET .*/pods")
    seen = follow()
    assert isinstance(seen.error, ForbiddenError)
