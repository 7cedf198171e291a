"""The backend for Seldon Core 2 where things go wrong, and how many requests it needs (DEMAND ROL-3, ROL-6, ROL-7,
PIP-5)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fakecore2
import pytest
from kubeapi import Cluster, Fault
from waiting import until

from windtunnel.errors import FencedError, IntegrityError, NotReadyError, ServingError, UnavailableError
from windtunnel.kube.access import Access
from windtunnel.kube.client import Client
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.core2 import Core2, Core2Backend
from windtunnel.serving.seldon import record

ROW = {"age": 30.0}
BASE = "/apis/mlops.seldon.io/v1alpha1/namespaces/models"
EXPERIMENT = f"{BASE}/experiments/visits"
NOBODY = {"visits-nothing": 100}


@dataclass
class World:
    cluster: Cluster
    core: fakecore2.Core2
    settings: Core2
    fates: dict[str, str]

    def backend(self, **more: Any) -> Core2Backend:
        """Another process' backend: it has seen nothing yet."""
        settings = replace(self.settings, **more)
        return Core2Backend(settings, Client(settings.access, timeout_s=(5.0, 20.0), patience_s=2.0))

    def live(self) -> dict[str, Any]:
        found = self.cluster.get("experiments", "visits")
        assert found is not None
        return found

    def candidates(self) -> dict[str, int]:
        return {one["name"]: one["weight"] for one in self.live()["spec"]["candidates"]}

    def names(self, plural: str) -> list[str]:
        return [one["metadata"]["name"] for one in self.cluster.all(plural)]

    def served(self) -> dict[str, int]:
        """As the mesh has it."""
        route = self.core.routes.get("visits.experiment")
        return dict(route.clusters) if route else {}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    fates: dict[str, str] = {}
    with fakecore2.cluster() as cluster, fakecore2.Core2(cluster, lambda name: fates.get(name, "ready")) as core:
        settings = Core2(
            image="i",
            registry="r",
            access=Access(cluster.kubeconfig(tmp_path / "config")),
            gateway=core.url,
            split_requests=40,
            prometheus=core.url,
            poll_s=0.02,
            route_within_s=20,
        )
        yield World(cluster, core, settings, fates)


def arm(n: int, weight: int = 0) -> Arm:
    return Arm(str(n), f"sha256:{n:064x}", f"models:/visits/{n}", weight)


def release(champion: int | None, *candidates: Arm, token: int = 1, **more: Any) -> Release:
    one = {"warmup": [ROW], "serving": {"timeout": "2s", "drain": "1s", "ready_within": "5s"}}
    first = arm(1, champion) if champion is not None else None
    more.setdefault("rollout_id", f"r{token}")
    return Release("visits", first, candidates, token=token, settings={v: dict(one) for v in "123"}, **more)


def impatient(asked: Release, version: str) -> Release:
    asked.settings[version]["serving"] = {"timeout": "2s", "ready_within": "1s"}
    return asked


def test_the_rollback_is_one_write_and_the_candidates_go_after_it(world: World) -> None:
    """DEMAND ROL-6: one API call from decision to rollback sent."""
    backend = world.backend()
    backend.apply(release(75, arm(2, 25), lease_until=time.time() + 60))
    backend.observe("visits")
    began = len(world.cluster.requests)
    seen = backend.abort("visits", "too many errors", "gate")
    sent = world.cluster.asked(began)
    assert sent[0] == f"PATCH {EXPERIMENT}"
    assert [line for line in sent if not line.startswith("GET")][1:] == [f"DELETE {BASE}/models/visits-v2"]
    assert {v: one.weight for v, one in seen.arms.items() if one.weight} == {"1": 100}
    assert world.candidates() == {"visits-v1": 100}
    assert world.names("models") == ["visits-v1"]


def test_another_process_takes_back_by_one_look_and_one_write(world: World) -> None:
    world.backend().apply(release(75, arm(2, 25)))
    began = len(world.cluster.requests)
    world.backend().abort("visits", "no", "guard")
    assert world.cluster.asked(began)[:2] == [f"GET {EXPERIMENT}", f"PATCH {EXPERIMENT}"]


def test_a_rollback_is_sent_whatever_else_fails(world: World) -> None:
    backend = world.backend(gateway=None)
    backend.apply(release(75, arm(2, 25)))
    world.cluster.faults.append(Fault("PATCH", 409, times=4, reason="Conflict"))
    world.cluster.denied.append("DELETE .*")
    assert backend.abort("visits", "no", "gate").aborted == "no"
    assert world.candidates() == {"visits-v1": 100}
    assert world.names("models") == ["visits-v1", "visits-v2"]
    world.cluster.denied.clear()
    world.backend().sweep()
    assert world.names("models") == ["visits-v1"]


def test_a_server_goes_when_its_model_is_gone(world: World) -> None:
    backend = world.backend(gateway=None)
    backend.apply(release(75, arm(2, 25)))

    def unloading(thing: dict[str, Any]) -> None:
        thing["metadata"]["deletionTimestamp"] = "now"

    world.cluster.edit("models", "visits-v2", unloading)
    backend.abort("visits", "no", "gate")
    world.backend().sweep()
    assert world.names("servers") == ["visits-v1", "visits-v2"]
    world.cluster.remove("models", "visits-v2")
    world.backend().sweep()
    assert world.names("servers") == ["visits-v1"]


def test_a_model_that_is_still_going_is_made_anew_when_it_is_gone(world: World) -> None:
    world.backend().apply(release(75, arm(2, 25)))
    world.cluster.edit("models", "visits-v2", lambda thing: thing["metadata"].update(deletionTimestamp="now"))
    world.backend(gateway=None).abort("visits", "no", "gate")
    threading.Timer(0.3, lambda: world.cluster.remove("models", "visits-v2")).start()
    world.backend().apply(release(75, arm(2, 25), token=2))
    assert world.served() == {"visits-v1": 75, "visits-v2": 25}


def test_a_sweep_that_saw_an_old_state_removes_nothing_new(world: World) -> None:
    """The guard's three watches are not of one moment."""
    world.backend().apply(release(100))
    guard = world.backend()
    old = guard._objects.state("visits", world.live())
    world.backend().apply(release(75, arm(2, 25), token=2))
    assert guard._parts.tidy(old, lambda: guard._now("visits")) == []
    assert world.names("models") == ["visits-v1", "visits-v2"]


def test_a_candidate_that_crashes_takes_no_request_of_the_champion(world: World) -> None:
    """The scheduler makes a route from its candidates up to the first that is not there: the champion comes first."""
    backend = world.backend()
    backend.apply(release(20, arm(2, 80)))
    world.fates["visits-v2"] = "slow"
    until(lambda: world.served() == {"visits-v1": 20}, every_s=0.02)
    assert backend.counted("visits") == {"1": 40}
    backend.abort("visits", "it crashes", "gate")
    until(lambda: world.served() == {"visits-v1": 100}, every_s=0.02)


def test_versions_come_up_while_nobody_waits_for_them(world: World) -> None:
    """DEMAND SRV-2: begun by a task, looked at by the triggerer, finished by another process; each has seen nothing."""
    world.backend().apply(release(100))
    world.fates["visits-v2"] = "slow"
    asked = release(100, arm(2), token=2)
    assert world.backend().begin(asked) == ["2"]
    assert world.names("models") == ["visits-v1", "visits-v2"]
    triggerer = world.backend()
    with triggerer.following():
        until(lambda: str(triggerer.unready("visits", 2)).startswith("version 2: "), every_s=0.02)
        world.fates["visits-v2"] = "ready"
        until(lambda: triggerer.unready("visits", 2) is None, every_s=0.02)
    assert world.backend().apply(asked, since=time.time() - 3600).arms["2"].ready
    assert world.candidates() == {"visits-v1": 100}


def test_what_has_no_traffic_is_no_candidate(world: World) -> None:
    """A version at 0 that is not available would take the route of all others with it."""
    backend = world.backend()
    backend.apply(release(100, arm(2)))
    assert world.candidates() == {"visits-v1": 100}
    assert backend.observe("visits").arms["2"].ready
    backend.apply(release(0, arm(2, 100), stage=1))
    assert world.candidates() == {"visits-v2": 100}


def test_a_release_for_the_other_api_is_refused_before_anything_is_written(world: World) -> None:
    """DEMAND ROL-14"""
    asked = release(100)
    asked.settings["1"]["serving"] = {"api": "core1"}
    with pytest.raises(ServingError, match=r"version 1: serving\.api says core1 \(Core 1\), .* api core2"):
        world.backend().apply(asked)
    assert not world.cluster.objects
    asked.settings["1"]["serving"]["api"] = "core2"
    world.backend(gateway=None).apply(asked)
    assert world.candidates() == {"visits-v1": 100}


def test_a_model_of_somebody_elses_with_our_label_is_left_alone(world: World) -> None:
    theirs = {"metadata": {"name": "visits-own", "labels": {record.MODEL: "visits"}}, "spec": {"storageUri": "gs://x"}}
    world.cluster.put("models", theirs)
    backend = world.backend(gateway=None)
    backend.apply(release(100, arm(2)))
    backend.apply(release(0, arm(2, 100), stage=1))
    assert set(backend.observe("visits").arms) == {"1", "2"}
    with backend.following():
        assert set(backend.observe("visits").arms) == {"1", "2"} and backend.sweep() == []
    assert "visits-own" in world.names("models")


def test_nothing_may_serve_is_no_weights_of_nothing(world: World) -> None:
    """Envoy would refuse weights that sum to 0, and with them the routes of every model."""
    backend = world.backend()
    backend.apply(release(100))
    backend.apply(release(0, arm(2), token=2))
    assert world.candidates() == NOBODY
    assert world.names("models") == []
    until(lambda: world.served() == {} and not world.core.poisoned, every_s=0.02)
    assert world.live()["metadata"]["annotations"][record.TOKEN] == "2"
    backend.apply(release(100, token=3))
    assert world.served() == {"visits-v1": 100}


def test_a_first_release_serves_nobody_before_it_has_answered(world: World) -> None:
    world.fates["visits-v2"] = "slow"
    with pytest.raises(NotReadyError, match="was not ready within 1 s"):
        world.backend().apply(impatient(release(None, arm(2, 100)), "2"))
    assert world.candidates() == NOBODY
    assert world.served() == {}


def test_a_step_writes_little_and_a_look_reads_twice(world: World) -> None:
    backend = world.backend(gateway=None)
    backend.apply(release(100, arm(2)))
    began = len(world.cluster.requests)
    backend.apply(release(95, arm(2, 5), stage=1))
    # Read; written; what follows is there; read until it is ready, and asked; written; nothing left over; read back.
    verbs = "GET PATCH GET GET GET GET POST PATCH GET GET GET GET"
    assert [line.split()[0] for line in world.cluster.asked(began)] == verbs.split()
    began = len(world.cluster.requests)
    backend.observe("visits")
    assert world.cluster.asked(began) == [f"GET {EXPERIMENT}", f"GET {BASE}/models"]
    began = len(world.cluster.requests)
    backend.renew("visits", 1, time.time() + 60)
    assert world.cluster.asked(began) == [f"PATCH {EXPERIMENT}"]


def test_weights_that_are_set_but_not_served_are_taken_back(world: World) -> None:
    """seldon-core#4067, #5181: the answers are counted, not believed."""
    backend = world.backend(route_within_s=0.3)
    backend.apply(release(100, arm(2)))
    world.core.stuck = True
    with pytest.raises(ServingError, match=r"set and are not served: version 1 answered \d+ of 40"):
        backend.apply(release(50, arm(2, 50), stage=1))
    assert world.candidates() == {"visits-v1": 100}
    assert backend.counted("visits") == {"1": 40}
    world.core.stuck = False
    backend.apply(release(50, arm(2, 50), stage=1))
    assert set(backend.counted("visits")) == {"1", "2"}


def test_a_version_is_ready_by_its_own_answer(world: World) -> None:
    """DEMAND SRV-2: a Model that is available and answers for another version, or fails, takes no traffic."""
    backend = world.backend()
    backend.apply(release(100))
    world.core.failing.add("visits-v2")
    with pytest.raises(NotReadyError, match="version 2 answered 500"):
        backend.apply(release(90, arm(2, 10), stage=1))
    world.core.failing.clear()
    world.core.wrong["visits-v2"] = "1"
    with pytest.raises(NotReadyError, match="answers for version 1, not 2"):
        backend.apply(release(90, arm(2, 10), stage=1))
    assert world.candidates() == {"visits-v1": 100}


def test_a_version_may_be_asked_past_the_api(world: World) -> None:
    world.backend(direct=world.core.url, gateway=None).apply(release(100))
    assert world.core.probes["visits-v1"] == 1
    assert not any("/proxy/" in line for line in world.cluster.asked())
    with pytest.raises(NotReadyError, match="mesh's visits-v3 does not answer at http://127"):
        world.backend(direct="http://127.0.0.1:1").apply(impatient(release(100, arm(3), token=3), "3"))


@pytest.mark.parametrize(
    ("fate", "error", "message"),
    [
        ("changed", IntegrityError, "the files are not the sealed ones"),
        ("broken", NotReadyError, "cannot be loaded: scripted"),
        ("slow", NotReadyError, "was not ready within 1 s: ModelProgressing: scripted"),
    ],
)
def test_a_version_that_does_not_load(world: World, fate: str, error: type[Exception], message: str) -> None:
    backend = world.backend()
    backend.apply(release(100))
    world.fates["visits-v2"] = fate
    with pytest.raises(error, match=message):
        backend.apply(impatient(release(90, arm(2, 10), stage=1), "2"))
    assert world.candidates() == {"visits-v1": 100}
    assert world.names("models") == ["visits-v1"]


def test_a_version_never_changes(world: World) -> None:
    backend = world.backend()
    backend.apply(release(90, arm(2, 10)))
    with pytest.raises(IntegrityError, match="a version never changes"):
        backend.apply(release(80, replace(arm(2, 20), digest="sha256:ff"), stage=1))


def test_a_model_of_other_content_is_not_ready(world: World) -> None:
    """Somebody went past us: what its Server has verified is not what the release names."""
    backend = world.backend()
    backend.apply(release(100, arm(2)))
    world.cluster.edit("models", "visits-v2", lambda it: it["metadata"]["annotations"].update({record.DIGEST: "x"}))
    assert not backend.observe("visits").arms["2"].ready
    backend.apply(release(90, arm(2, 10), stage=1))  # it is made what it shall be
    assert backend.observe("visits").arms["2"].ready


def test_before_2_9_a_model_tells_no_available_replicas(world: World) -> None:
    """Seldon Core 2.8: status has replicas and ModelReady; without another word no version would ever be ready."""
    world.core.before_2_9 = True
    backend = world.backend()
    backend.apply(release(100))
    backend.apply(release(90, arm(2, 10), stage=1))
    assert backend.observe("visits").arms["2"].ready
    backend.apply(release(0, arm(2, 100), stage=2))
    world.fates["visits-v2"] = "slow"  # all requests are its own: nobody is before it in the route
    until(lambda: backend.observe("visits").arms["2"].state == "down", every_s=0.02)


def test_a_server_that_has_traffic_is_not_started_anew(world: World) -> None:
    """Its pods would end before others are there: a StatefulSet has nobody in their place."""
    world.backend().apply(release(100))
    world.backend(image="newer").apply(release(90, arm(2, 10), stage=1))

    def image(name: str) -> str:
        found = world.cluster.get("servers", name)
        assert found is not None
        return str(found["spec"]["podSpec"]["containers"][1]["image"])

    assert (image("visits-v1"), image("visits-v2")) == ("i", "newer")


def test_objects_of_somebody_else_are_left_alone(world: World) -> None:
    theirs = {"apiVersion": "mlops.seldon.io/v1alpha1", "metadata": {"name": "visits"}}
    world.cluster.put("experiments", {**theirs, "kind": "Experiment", "spec": {"candidates": []}})
    for act in (
        lambda: world.backend().apply(release(100)),
        lambda: world.backend().observe("visits"),
        lambda: world.backend().abort("visits", "no", "me"),
    ):
        with pytest.raises(ServingError, match="Experiment of that name which is not Windtunnel's"):
            act()
    world.cluster.remove("experiments", "visits")
    spec = {"storageUri": "gs://theirs"}
    world.cluster.put("models", {**theirs, "kind": "Model", "spec": spec, "metadata": {"name": "visits-v1"}})
    with pytest.raises(ServingError, match="there is a Model visits-v1 which is not Windtunnel's"):
        world.backend().apply(release(100))
    found = world.cluster.get("models", "visits-v1")
    assert found is not None and found["spec"] == spec


def test_others_fields_survive_a_release(world: World) -> None:
    backend = world.backend()
    backend.apply(release(100, arm(2)))

    def theirs(thing: dict[str, Any]) -> None:
        thing["metadata"].setdefault("annotations", {})["team"] = "risk"
        thing["metadata"]["finalizers"] = ["seldon.experiment.finalizer"]

    world.cluster.edit("experiments", "visits", theirs)
    world.cluster.edit("servers", "visits-v1", lambda thing: thing["spec"].update(disableAutoUpdate=True))
    backend.apply(release(90, arm(2, 10), stage=1))
    backend.abort("visits", "no", "me")
    live, server = world.live()["metadata"], world.cluster.get("servers", "visits-v1")
    assert live["annotations"]["team"] == "risk" and live["finalizers"] == ["seldon.experiment.finalizer"]
    assert server is not None and server["spec"]["disableAutoUpdate"] is True


def test_an_experiment_that_is_deleted_meanwhile(world: World) -> None:
    backend = world.backend()
    backend.apply(release(90, arm(2, 10)))
    world.cluster.edit("experiments", "visits", lambda thing: thing["metadata"].update(deletionTimestamp="now"))
    with pytest.raises(ServingError, match="its Experiment is being deleted"):
        backend.apply(release(80, arm(2, 20), stage=1))
    world.cluster.remove("experiments", "visits")
    assert backend.abort("visits", "no", "me").arms == {}
    assert world.cluster.get("experiments", "visits") is None
    backend.apply(release(90, arm(2, 10), token=2))
    assert world.served() == {"visits-v1": 90, "visits-v2": 10}


def test_a_cluster_without_core_2_says_so(world: World) -> None:
    del world.cluster.kinds["servers"]
    with pytest.raises(ServingError, match="install Seldon Core 2"):
        world.backend().apply(release(100))
    del world.cluster.kinds["experiments"]
    with pytest.raises(ServingError, match=r"serves no Experiments[\s\S]*install Seldon Core 2"):
        world.backend().apply(release(100))


def test_the_way_back_is_asked_for_an_inference(world: World) -> None:
    """DEMAND ROL-12"""
    backend = world.backend(gateway=None)
    assert "no version to go back to" in backend.check_target("visits")[0]
    backend.apply(release(0, arm(2, 100)))
    assert backend.check_target("visits") == []
    world.core.failing.add("visits-v1")
    assert "answered 500" in backend.check_target("visits")[0]
    world.fates["visits-v1"] = "slow"
    until(lambda: "visits-v1" not in world.core.live, every_s=0.02)
    until(lambda: "not available: ModelProgressing" in backend.check_target("visits")[0], every_s=0.02)
    world.cluster.remove("models", "visits-v1")
    assert backend.check_target("visits") == ["visits version 1 is not deployed"]


def test_two_holders_at_once_never_mix(world: World) -> None:
    """DEMAND ROL-7: the later one wins, whoever writes last."""
    world.backend().apply(release(100, arm(2)))
    ended: dict[int, str] = {}

    def hold(token: int, weight: int) -> None:
        try:
            world.backend(gateway=None).apply(release(100 - weight, arm(2, weight), token=token))
            ended[token] = "done"
        except FencedError:
            ended[token] = "fenced"

    threads = [threading.Thread(target=hold, args=(token, 5 * token)) for token in range(2, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert ended[5] == "done" and set(ended.values()) <= {"done", "fenced"}
    assert world.candidates() == {"visits-v1": 75, "visits-v2": 25}
    assert world.live()["metadata"]["annotations"][record.TOKEN] == "5"


#: Before a request is sent, or before its answer is heard.
DIES = ["by turns", *(pytest.param(name, marks=pytest.mark.long) for name in ("before", "after"))]


class Killed(BaseException):
    """The process ends here."""


def dying(backend: Core2Backend, at: int, done: bool) -> Callable[[], int]:
    """``backend`` dies at its ``at``-th request, before it is sent or before its answer is heard; returns a counter."""
    client: Any = backend.client
    real, count = client._once, [0]

    def once(*args: Any) -> Any:
        count[0] += 1
        if count[0] == at and not done:
            raise Killed
        answer = real(*args)
        if count[0] == at:
            raise Killed
        return answer

    client._once = once
    return lambda: count[0]


@pytest.mark.parametrize("dies", DIES)
def test_killed_at_any_request_of_a_release_it_ends_in_the_same_place(world: World, dies: str) -> None:
    """DEMAND PIP-5"""
    world.backend().apply(release(100))
    asked = release(70, arm(2, 30), token=2)
    at = 1
    while True:
        backend = world.backend(gateway=None)
        requests = dying(backend, at, done=dies == "after" or (dies == "by turns" and at % 2 == 0))
        try:
            backend.apply(asked)
        except Killed:
            pass
        assert world.candidates() in ({"visits-v1": 100}, {"visits-v1": 70, "visits-v2": 30}), f"at request {at}"
        world.backend(gateway=None).apply(asked)
        assert world.candidates() == {"visits-v1": 70, "visits-v2": 30}
        if requests() < at:
            break
        # Back to the beginning, as a new rollout would find it.
        world.backend(gateway=None).apply(release(100, token=asked.token, rollout_id="r2", stage=at))
        for _ in range(2):
            world.backend().sweep(time.time() + 100)
        assert world.names("models") == world.names("servers") == ["visits-v1"], f"at request {at}"
        at += 1
        asked = replace(asked, token=asked.token + 1, rollout_id=f"r{asked.token + 1}")
    assert at >= 14


@pytest.mark.parametrize("dies", DIES)
def test_killed_at_any_request_of_a_rollback_it_ends_in_the_same_place(world: World, dies: str) -> None:
    """DEMAND ROL-6, PIP-5"""
    at, token = 1, 1
    while True:
        world.backend(gateway=None).apply(release(70, arm(2, 30), token=token))
        backend = world.backend(gateway=None)
        requests = dying(backend, at, done=dies == "after" or (dies == "by turns" and at % 2 == 0))
        try:
            backend.abort("visits", "no", "guard")
        except Killed:
            pass
        assert world.candidates() in ({"visits-v1": 100}, {"visits-v1": 70, "visits-v2": 30}), f"at request {at}"
        world.backend(gateway=None).abort("visits", "no", "guard")
        assert world.candidates() == {"visits-v1": 100}
        for _ in range(2):
            world.backend().sweep()
        assert world.names("models") == world.names("servers") == ["visits-v1"], f"at request {at}"
        if requests() < at:
            break
        at, token = at + 1, token + 1
    assert at >= 6


def test_copies_are_counted_apart_and_a_new_epoch_begins_where_they_end(world: World) -> None:
    backend = world.backend(gateway=None)
    backend.apply(release(100, arm(2), mirror=100))
    until(lambda: world.core.routes["visits.experiment"].mirror == ("visits-v2", 100), every_s=0.02)
    for _ in range(5):
        world.core.infer("/v2/models/visits/infer", "visits.experiment")
    first = backend.traffic("visits")
    assert (set(first.arms), set(first.shadow)) == ({"1"}, {"2"})
    assert first.shadow["2"].requests >= 5
    backend.apply(release(90, arm(2, 10), stage=1))
    second = backend.traffic("visits")
    assert (set(second.arms), set(second.shadow)) == ({"1", "2"}, set())
    assert first.epoch != second.epoch
    assert "mirror" not in world.live()["spec"]


def test_many_rollouts_are_looked_at_by_one_list_and_one_watch_of_each_kind(world: World) -> None:
    backend = world.backend(gateway=None)
    backend.apply(release(75, arm(2, 25)))
    for plural in ("experiments", "models", "servers"):
        for one in world.cluster.all(plural):
            for n in range(30):
                name = one["metadata"]["name"].replace("visits", f"visits-{n}")
                text = {**one["metadata"]["labels"], record.MODEL: f"visits-{n}"}
                world.cluster.put(plural, {**one, "metadata": {**one["metadata"], "name": name, "labels": text}})
    names = ["visits", *(f"visits-{n}" for n in range(30))]
    began = len(world.cluster.requests)
    with backend.following():
        for _ in range(3):
            assert all(backend.observe(name).arms for name in names)
            assert backend.sweep() == []
        lists_and_watches = [f"GET {BASE}/{plural}" for plural in ("experiments", "models", "servers")] * 2
        until(lambda: sorted(world.cluster.asked(began)) == sorted(lists_and_watches), every_s=0.02)
        # Its own writes are seen at once, others' as they happen.
        seen = backend.abort("visits", "no", "gate")
        assert seen.aborted == backend.observe("visits").aborted == "no"
        world.cluster.remove("experiments", "visits-7")
        until(lambda: backend.observe("visits-7").arms == {}, every_s=0.01)


def test_a_dead_mesh_is_told(world: World) -> None:
    world.backend().apply(release(100))
    with pytest.raises(UnavailableError, match="does not answer"):
        world.backend(gateway="http://127.0.0.1:1").counted("visits")
    with pytest.raises(UnavailableError, match="scrapes the agents"):
        world.backend(prometheus=None).traffic("visits")
