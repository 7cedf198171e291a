"""The backend for Seldon where things go wrong, and how many requests it needs (DEMAND ROL-3, ROL-6, ROL-7, PIP-5)."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fakeseldon
import pytest
from kubeapi import Cluster, Fault
from waiting import until

from windtunnel.errors import (
    DescriptionError,
    FencedError,
    IntegrityError,
    NotReadyError,
    ServingError,
    UnavailableError,
)
from windtunnel.kube.access import Access
from windtunnel.kube.client import Client
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.seldon import Seldon, SeldonBackend, record, split

ROW = {"age": 30.0}
SDEP = "/apis/machinelearning.seldon.io/v1/namespaces/models/seldondeployments"


@dataclass
class World:
    cluster: Cluster
    seldon: fakeseldon.Seldon
    settings: Seldon
    fates: dict[str, str]

    def backend(self, **more: Any) -> SeldonBackend:
        """Another process' backend: it has seen nothing yet."""
        settings = replace(self.settings, **more)
        return SeldonBackend(settings, Client(settings.access, timeout_s=(5.0, 20.0), patience_s=2.0))

    def live(self) -> dict[str, Any]:
        found = self.cluster.get("seldondeployments", "visits")
        assert found is not None
        return found

    def predictors(self) -> dict[str, int]:
        return {one["name"]: one["traffic"] for one in self.live()["spec"]["predictors"]}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    fates: dict[str, str] = {}
    with (
        fakeseldon.cluster() as cluster,
        fakeseldon.Seldon(cluster, lambda name: fates.get(name, "ready")) as seldon,
    ):
        settings = Seldon(
            image="i",
            registry="r",
            access=Access(cluster.kubeconfig(tmp_path / "config")),
            gateway=f"{seldon.url}/seldon/{{namespace}}/{{model}}",
            split_requests=40,
            prometheus=seldon.url,
            poll_s=0.02,
            route_within_s=20,
        )
        yield World(cluster, seldon, settings, fates)


def arm(n: int, weight: int = 0) -> Arm:
    return Arm(str(n), f"sha256:{n:064x}", f"models:/visits/{n}", weight)


def release(champion: int | None, *candidates: Arm, token: int = 1, **more: Any) -> Release:
    one = {"warmup": [ROW], "serving": {"timeout": "2s", "drain": "1s", "ready_within": "5s"}}
    first = arm(1, champion) if champion is not None else None
    more.setdefault("rollout_id", f"r{token}")
    return Release("visits", first, candidates, token=token, settings=dict.fromkeys("123", one), **more)


def test_the_rollback_is_one_write(world: World) -> None:
    """DEMAND ROL-6: one API call from decision to rollback sent."""
    backend = world.backend()
    backend.apply(release(75, arm(2, 25), lease_until=time.time() + 60))
    backend.observe("visits")
    began = len(world.cluster.requests)
    seen = backend.abort("visits", "too many errors", "gate")
    sent = world.cluster.asked(began)
    assert sent == [f"PATCH {SDEP}/visits"]
    assert {v: one.weight for v, one in seen.arms.items() if one.weight} == {"1": 100}
    assert world.predictors() == {"v1": 100}


def test_another_process_takes_back_by_one_look_and_one_write(world: World) -> None:
    world.backend().apply(release(75, arm(2, 25)))
    began = len(world.cluster.requests)
    world.backend().abort("visits", "no", "guard")
    assert world.cluster.asked(began) == [f"GET {SDEP}/visits", f"PATCH {SDEP}/visits"]


def test_a_rollback_is_sent_however_often_somebody_else_writes(world: World) -> None:
    backend = world.backend(gateway=None)
    backend.apply(release(75, arm(2, 25)))
    world.cluster.faults.append(Fault("PATCH", 409, times=4, reason="Conflict"))
    backend.abort("visits", "no", "gate")
    assert world.predictors() == {"v1": 100}


def test_a_candidate_that_crashed_holds_no_route(world: World) -> None:
    """Seldon's operator changes no route while any predictor's pods are unavailable: the predictor itself must go."""
    backend = world.backend()
    backend.apply(release(75, arm(2, 25)))
    world.fates["v2"] = "slow"  # its pods are not available any more
    until(lambda: "v2" not in world.seldon.available["visits"], every_s=0.02)
    until(lambda: backend.observe("visits").arms["2"].state == "down", every_s=0.02)
    backend.abort("visits", "it crashes", "gate")
    until(lambda: world.seldon.routes["visits"] == {"v1": 100}, every_s=0.02)


def test_a_former_version_that_crashed_holds_no_route_either(world: World) -> None:
    backend = world.backend(gateway=None)
    backend.apply(release(90, arm(3, 10)))
    backend.apply(release(75, arm(2, 25), token=2))  # version 3 drains
    assert set(world.predictors()) == {"v1", "v2", "v3"}
    until(lambda: world.seldon.routes["visits"].get("v2") == 25, every_s=0.02)
    world.fates["v3"] = "slow"
    until(lambda: "v3" not in world.seldon.available["visits"], every_s=0.02)
    until(lambda: not backend.observe("visits").arms["3"].ready, every_s=0.02)
    backend.abort("visits", "too many errors", "gate")
    assert world.predictors() == {"v1": 100}
    until(lambda: world.seldon.routes["visits"] == {"v1": 100}, every_s=0.02)


def test_a_step_writes_little_and_a_look_reads_once(world: World) -> None:
    backend = world.backend(gateway=None)
    backend.apply(release(100, arm(2)))
    began = len(world.cluster.requests)
    backend.apply(release(95, arm(2, 5), stage=1))
    # Read; written; read until it is ready, and asked; written; read back.
    assert [line.split()[0] for line in world.cluster.asked(began)] == ["GET", "PATCH", "GET", "POST", "PATCH", "GET"]
    began = len(world.cluster.requests)
    backend.observe("visits")
    assert world.cluster.asked(began) == [f"GET {SDEP}/visits"]
    began = len(world.cluster.requests)
    backend.renew("visits", 1, time.time() + 60)
    assert world.cluster.asked(began) == [f"PATCH {SDEP}/visits"]


def test_weights_that_are_set_but_not_served_are_taken_back(world: World) -> None:
    """seldon-core#4067, #5181: the answers are counted, not believed."""
    backend = world.backend(route_within_s=0.3)
    backend.apply(release(100, arm(2)))
    world.seldon.stuck = True
    with pytest.raises(ServingError, match=r"set and are not served: version 1 answered \d+ of 40"):
        backend.apply(release(50, arm(2, 50), stage=1))
    assert world.predictors() == {"v1": 100, "v2": 0}
    assert backend.counted("visits") == {"1": 40}
    world.seldon.stuck = False
    backend.apply(release(50, arm(2, 50), stage=1))
    assert set(backend.counted("visits")) == {"1", "2"}


def test_without_a_gateway_nobody_is_counted(world: World) -> None:
    backend = world.backend(gateway=None)
    backend.apply(release(100))
    with pytest.raises(ServingError, match="cannot be counted"):
        backend.counted("visits")
    with pytest.raises(UnavailableError, match="does not answer"):
        world.backend(gateway="http://127.0.0.1:1/{model}").counted("visits")


def test_one_connection_that_is_cut_takes_no_step_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of some hundred requests to the gateway; one that stays silent does."""
    world.backend().apply(release(100, arm(2)))
    count, cut = split.count, iter([True])

    def cutting(*asked: Any) -> Any:
        if next(cut, False):
            raise UnavailableError("the gateway does not answer: cut")
        return count(*asked)

    monkeypatch.setattr(split, "count", cutting)
    world.backend().apply(release(75, arm(2, 25), stage=1))
    assert world.predictors() == {"v1": 75, "v2": 25} and next(cut, None) is None
    silent = world.backend(gateway="http://127.0.0.1:1/{model}", route_within_s=0.1)
    with pytest.raises(UnavailableError, match="does not answer"):
        silent.apply(release(50, arm(2, 50), stage=2))
    assert world.predictors() == {"v1": 75, "v2": 25}


def test_a_gateway_that_no_version_answers_at_proves_nothing(world: World) -> None:
    """A wrong path, or one that wants credentials, answers each request, and says nothing of the weights."""
    world.backend().apply(release(100, arm(2)))
    wrong = world.backend(gateway=f"{world.seldon.url}/elsewhere/{{model}}", route_within_s=0.1)
    with pytest.raises(UnavailableError, match=r"no version answers at .*/elsewhere/visits/.*: 40 times 404") as told:
        wrong.apply(release(75, arm(2, 25), stage=1))
    assert "without credentials" in str(told.value.hint)
    assert world.predictors() == {"v1": 100, "v2": 0}
    world.backend().apply(release(75, arm(2, 25), stage=1))
    world.seldon.failing |= {"v1", "v2"}  # all versions fail: that is no reason to keep traffic with a candidate
    world.backend().apply(release(100, token=2))
    assert world.predictors()["v1"] == 100


def test_what_the_api_says_for_the_moment_is_no_answer_of_the_version(world: World) -> None:
    """It has too much to do, it is restarted, the token was renewed: the version is asked again."""
    backend = world.backend(gateway=None)
    backend.apply(release(100))
    faults = [Fault("/proxy/", status) for status in (429, 500, 401)]
    world.cluster.faults += faults
    backend.apply(release(90, arm(2, 10), stage=1))
    assert world.predictors() == {"v1": 90, "v2": 10} and not any(one.times for one in faults)


def test_a_version_is_ready_by_its_own_answer(world: World) -> None:
    """DEMAND SRV-2: available pods that answer for another version, or fail, take no traffic."""
    backend = world.backend()
    backend.apply(release(100))
    world.seldon.failing.add("v2")
    with pytest.raises(NotReadyError, match="version 2 answered 500"):
        backend.apply(release(90, arm(2, 10), stage=1))
    assert world.predictors() == {"v1": 100}


def test_a_service_that_answers_for_another_version_is_not_ready(world: World) -> None:
    backend = world.backend(direct=f"{world.seldon.url}/direct/visits/v1")
    backend.apply(release(100))
    with pytest.raises(NotReadyError, match="answers for version 1, not 2"):
        backend.apply(release(90, arm(2, 10), stage=1))


def test_a_version_may_be_asked_past_the_api(world: World) -> None:
    backend = world.backend(direct=f"{world.seldon.url}/direct/visits/v1", gateway=None)
    backend.apply(release(100))
    assert world.seldon.probes["v1"] == 1
    assert not any("/proxy/" in line for line in world.cluster.asked())
    world.seldon.failing.add("v1")
    with pytest.raises(NotReadyError, match="answered 500"):
        world.backend(direct=f"{world.seldon.url}/direct/visits/v1").apply(release(100, arm(2), token=2))
    asked = release(100, arm(3), token=3)
    asked.settings["3"] = {**asked.settings["3"], "serving": {"ready_within": "1s"}}
    with pytest.raises(NotReadyError, match="does not answer at http://127"):
        world.backend(direct="http://127.0.0.1:1").apply(asked)


def test_what_is_not_there_in_time_is_not_ready(world: World) -> None:
    backend = world.backend()
    backend.apply(release(100))
    world.fates["v2"] = "slow"
    asked = release(90, arm(2, 10), stage=1)
    asked.settings["2"] = {**asked.settings["2"], "serving": {"ready_within": "1s"}}
    with pytest.raises(NotReadyError, match="was not ready within 1 s"):
        backend.apply(asked)
    assert world.predictors() == {"v1": 100}


def test_pods_that_nobody_may_make_are_told_apart_from_slow_ones(world: World) -> None:
    """A quota or a LimitRange refuses the ReplicaSet's controller: neither a pod nor Seldon's operator says so."""
    world.backend().apply(release(100))
    world.fates["v2"] = "slow"
    world.backend().begin(release(100, arm(2), token=2))
    until(lambda: world.cluster.get("pods", "visits-v2-pod") is not None, every_s=0.02)
    assert "no pod of it" not in str(world.backend().unready("visits", 2))
    world.fates["v2"] = "forbidden"
    until(lambda: "no pod of it is there" in str(world.backend().unready("visits", 2)), every_s=0.02)
    assert "'kubectl -n models get events' tells" in str(world.backend().unready("visits", 2))


def test_versions_come_up_while_nobody_waits_for_them(world: World) -> None:
    """DEMAND SRV-2: begun by a task, looked at by the triggerer, finished by another process; each has seen nothing."""
    world.backend().apply(release(100))
    world.fates["v2"] = "slow"
    asked = release(100, arm(2), token=2)
    assert world.backend().begin(asked) == ["2"]
    assert world.predictors() == {"v1": 100, "v2": 0}
    triggerer = world.backend()
    assert str(triggerer.unready("visits", 2)).startswith("version 2: ")
    assert "has not told" in str(triggerer.unready("visits", 3))
    with pytest.raises(FencedError, match="no longer holds"):
        triggerer.unready("visits", 1)
    assert world.backend().begin(asked) == ["2"]  # another try of the task
    # A token ends, and is renewed while it is waited for.
    refused = [Fault("GET .*/visits$", 401, times=2), Fault("/proxy/", 401, times=2)]
    world.cluster.faults += refused
    with pytest.raises(UnavailableError, match="credentials"):
        triggerer.unready("visits", 2)
    world.fates["v2"] = "ready"
    until(lambda: triggerer.unready("visits", 2) is None, every_s=0.02)
    assert not any(one.times for one in refused)
    seen = world.backend().apply(asked, since=time.time() - 3600)
    assert seen.arms["2"].ready
    assert world.backend().begin(asked) == []


def test_time_that_was_waited_counts(world: World) -> None:
    world.backend().apply(release(100))
    world.fates["v2"] = "slow"
    asked, began = release(100, arm(2), token=2), time.time() - 4.9
    world.backend().begin(asked)
    with pytest.raises(NotReadyError, match="was not ready within 5 s"):
        world.backend().apply(asked, since=began)
    assert time.time() - began < 9.9, "it waited all of its 5 s again"
    world.backend().abort("visits", "not ready", "task", token=2)
    assert world.predictors() == {"v1": 100}


def test_a_deployment_that_another_process_began_is_given_up_as_a_whole(world: World) -> None:
    """A candidate that never answers would hold every change of routes while it is there, and nobody may be left to
    take it out."""
    world.backend().apply(release(100))
    world.fates["v2"] = "slow"
    asked = release(100, arm(2), token=2)
    world.backend().begin(asked)
    assert world.predictors() == {"v1": 100, "v2": 0}
    with pytest.raises(NotReadyError):
        world.backend().apply(asked, since=time.time() - 3600)
    assert world.predictors() == {"v1": 100}
    wanted = world.backend().asked("visits")
    assert wanted is not None and wanted.candidates == () and wanted.lease_until is None
    assert (wanted.token, wanted.champion) == (2, arm(1, 100)), "the token stays spent"
    assert world.backend().abort("visits", "not ready", "task", token=2).aborted is None, "nothing is left to abort"
    world.fates["v2"] = "ready"
    assert world.backend().apply(asked).arms["2"].ready, "another try begins anew"


def test_a_champion_that_never_comes_up_gets_nothing_whoever_asked_first(world: World) -> None:
    """What follows the registry was begun by a process that died, and tried again: users stay where they are."""
    world.backend().apply(release(100))
    world.fates["v3"] = "slow"
    asked = replace(release(None, arm(2), token=2), champion=arm(3, 100))
    world.backend().begin(asked)
    with pytest.raises(NotReadyError):
        world.backend().apply(asked, since=time.time() - 3600)
    assert {name: weight for name, weight in world.predictors().items() if weight} == {"v1": 100}


@pytest.mark.parametrize("finds", [False, True], ids=["the one that wrote it", "one that found it written"])
def test_what_the_registry_has_committed_is_not_given_up(
    world: World, monkeypatch: pytest.MonkeyPatch, finds: bool
) -> None:
    """DEMAND ROL-7: two tries of a promotion's last write; one reaches it, the other fails after that. What was before
    it, the candidate with its lease, must not come back: the guard would take the registry's champion to 0."""
    world.backend(gateway=None).apply(release(0, arm(2, 100), lease_until=time.time() + 60, stage=5))
    promoted = replace(release(None, stage=6), champion=arm(2, 100))
    failing, other = world.backend(gateway=None), world.backend(gateway=None)
    begin = failing._begin

    def beside(asked: Release) -> Any:
        if finds:
            other.apply(promoted)
            return begin(asked)
        found = begin(asked)
        other.apply(promoted)
        return found

    def silent(*_: Any) -> None:
        raise UnavailableError("the gateway does not answer")

    monkeypatch.setattr(failing, "_begin", beside)
    monkeypatch.setattr(failing._gateway, "wait", silent)
    with pytest.raises(UnavailableError):
        failing.apply(promoted)
    seen = world.backend().observe("visits")
    assert seen.lease_until is None and {v: one.weight for v, one in seen.arms.items() if one.weight} == {"2": 100}
    wanted = world.backend().desired("visits")
    assert wanted is not None and wanted.champion == arm(2, 100) and not wanted.candidates


def test_changed_bytes_are_told_by_the_first_step(world: World) -> None:
    backend = world.backend()
    backend.apply(release(100))
    world.fates["v2"] = "changed"
    with pytest.raises(IntegrityError, match="the files are not the sealed ones"):
        backend.apply(release(90, arm(2, 10), stage=1))


def test_a_version_never_changes(world: World) -> None:
    backend = world.backend()
    backend.apply(release(90, arm(2, 10)))
    other = replace(arm(2, 20), digest="sha256:ff")
    with pytest.raises(IntegrityError, match="a version never changes"):
        backend.apply(release(80, other, stage=1))


def test_an_object_of_somebody_else_is_left_alone(world: World) -> None:
    theirs = {
        "apiVersion": "machinelearning.seldon.io/v1",
        "kind": "SeldonDeployment",
        "metadata": {"name": "visits"},
        "spec": {"protocol": "v2", "predictors": []},
    }
    world.cluster.put("seldondeployments", theirs)
    for act in (
        lambda: world.backend().apply(release(100)),
        lambda: world.backend().observe("visits"),
        lambda: world.backend().abort("visits", "no", "me"),
    ):
        with pytest.raises(ServingError, match="not Windtunnel's"):
            act()
    assert record.DESIRED not in (world.live()["metadata"].get("annotations") or {})


def test_others_fields_survive_a_release(world: World) -> None:
    backend = world.backend()
    backend.apply(release(100, arm(2)))

    def theirs(thing: dict[str, Any]) -> None:
        thing["metadata"].setdefault("annotations", {})["team"] = "risk"
        thing["spec"]["annotations"] = {"seldon.io/rest-timeout": "5000"}
        thing["spec"]["predictors"][0]["explainer"] = {"type": "TreeShap"}

    world.cluster.edit("seldondeployments", "visits", theirs)
    backend.apply(release(90, arm(2, 10), stage=1))
    backend.abort("visits", "no", "me")
    live = world.live()
    assert live["metadata"]["annotations"]["team"] == "risk"
    assert live["spec"]["annotations"] == {"seldon.io/rest-timeout": "5000"}
    assert live["spec"]["predictors"][0]["explainer"] == {"type": "TreeShap"}


def test_an_object_that_is_deleted_meanwhile(world: World) -> None:
    backend = world.backend()
    backend.apply(release(90, arm(2, 10)))
    world.cluster.edit("seldondeployments", "visits", lambda thing: thing["metadata"].update(deletionTimestamp="now"))
    with pytest.raises(ServingError, match="is being deleted"):
        backend.apply(release(80, arm(2, 20), stage=1))
    world.cluster.remove("seldondeployments", "visits")
    # Decided by what was seen last, which is no more: it does not make it anew.
    assert backend.abort("visits", "no", "me").arms == {}
    assert world.cluster.get("seldondeployments", "visits") is None
    assert backend.observe("visits").arms == {}
    assert backend.abort("visits", "no", "me").arms == {}
    backend.apply(release(90, arm(2, 10), token=2))
    assert world.predictors() == {"v1": 90, "v2": 10}


def test_a_cluster_without_seldon_says_so(world: World) -> None:
    del world.cluster.kinds["seldondeployments"]
    with pytest.raises(ServingError, match="install Seldon Core 1"):
        world.backend().apply(release(100))


def test_a_release_for_the_other_api_is_refused_before_anything_is_written(world: World) -> None:
    """DEMAND ROL-14: whoever asks. What serves already is not asked about: the way back to it stays open."""
    others = {"serving": {"api": "core2"}}
    asked = release(90, arm(2, 10), stage=1)
    asked.settings["2"] = asked.settings["2"] | others
    with pytest.raises(ServingError, match=r"visits version 2: serving\.api says core2"):
        world.backend().apply(asked)
    assert not world.cluster.all("seldondeployments")
    world.backend(gateway=None).apply(release(100))
    began = len(world.cluster.requests)
    with pytest.raises(ServingError, match=r"version 2: serving\.api says core2"):
        world.backend().apply(asked)
    assert world.cluster.asked(began) == [f"GET {SDEP}/visits"]
    back = release(100, stage=2)
    back.settings["1"] = back.settings["1"] | others
    world.backend().apply(back)


def test_a_refusal_of_the_api_is_told_as_one_of_the_backend(world: World) -> None:
    backend = world.backend(gateway=None)
    backend.apply(release(100))
    world.cluster.denied.append("PATCH .*/seldondeployments")
    with pytest.raises(ServingError, match=r"(?s)cannot do this.*docs/reference/seldon\.md"):
        backend.apply(release(90, arm(2, 10), stage=1))
    world.cluster.denied[:] = ["GET .*/pods"]
    world.fates["v2"] = "slow"
    asked = release(90, arm(2, 10), stage=1)
    asked.settings["2"] = {**asked.settings["2"], "serving": {"ready_within": "1s"}}
    with pytest.raises(NotReadyError, match="cannot list objects of kind Pod"):
        backend.apply(asked)
    world.cluster.namespaces = {"others"}
    with pytest.raises(ServingError, match="make the namespace first"):
        world.backend().apply(replace(release(100, token=2), model="another"))


def test_two_holders_at_once_never_mix(world: World) -> None:
    """DEMAND ROL-7: the later one wins, whoever writes last."""
    import threading

    world.backend().apply(release(100, arm(2)))
    ended: dict[int, str] = {}

    def hold(token: int, weight: int) -> None:
        try:
            world.backend(gateway=None).apply(release(100 - weight, arm(2, weight), token=token))
            ended[token] = "done"
        except FencedError:
            ended[token] = "fenced"

    threads = [threading.Thread(target=hold, args=(token, 5 * token)) for token in range(2, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert ended[7] == "done" and set(ended.values()) <= {"done", "fenced"}
    assert world.predictors() == {"v1": 65, "v2": 35}
    assert world.live()["metadata"]["annotations"][record.TOKEN] == "7"


class Killed(BaseException):
    """The process ends here."""


def dying(backend: SeldonBackend, at: int, done: bool) -> Callable[[], int]:
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


@pytest.mark.parametrize("done", [False, True], ids=["before", "after"])
def test_killed_at_any_request_it_ends_in_the_same_place(world: World, done: bool) -> None:
    """DEMAND PIP-5"""
    world.backend().apply(release(100))
    asked = release(70, arm(2, 30), token=2)
    at = 1
    while True:
        backend = world.backend(gateway=None)
        requests = dying(backend, at, done)
        try:
            backend.apply(asked)
        except Killed:
            pass
        seen = world.predictors()
        assert seen in ({"v1": 100}, {"v1": 100, "v2": 0}, {"v1": 70, "v2": 30}), f"at request {at}"
        world.backend(gateway=None).apply(asked)
        assert world.predictors() == {"v1": 70, "v2": 30}
        if requests() < at:
            break
        # Back to the beginning, as a new rollout would find it.
        world.backend(gateway=None).apply(release(100, token=asked.token, rollout_id="r2", stage=at))
        world.backend().sweep(time.time() + 100)
        at += 1
        asked = replace(asked, token=asked.token + 1, rollout_id=f"r{asked.token + 1}")
    assert at >= 6


def test_copies_are_counted_apart_and_a_new_epoch_begins_where_they_end(world: World) -> None:
    backend = world.backend(gateway=None)
    backend.apply(release(100, arm(2), mirror=100))
    until(lambda: world.seldon.mirrors["visits"] == ("v2", 100), every_s=0.02)
    for _ in range(5):
        world.seldon.ask("visits")
    first = backend.traffic("visits")
    assert (set(first.arms), set(first.shadow)) == ({"1"}, {"2"})
    backend.apply(release(90, arm(2, 10), stage=1))
    second = backend.traffic("visits")
    assert (set(second.arms), set(second.shadow)) == ({"1", "2"}, set())
    assert first.epoch != second.epoch


def test_two_hundred_rollouts_are_looked_at_by_one_list_and_one_watch(world: World) -> None:
    backend = world.backend(gateway=None)
    backend.apply(release(75, arm(2, 25)))
    one = world.live()
    for n in range(199):
        other = {**one, "metadata": {**one["metadata"], "name": f"visits-{n}"}}
        world.cluster.put("seldondeployments", other)
    names = ["visits", *(f"visits-{n}" for n in range(199))]
    began = len(world.cluster.requests)
    with backend.following():
        for _ in range(5):
            assert all(backend.observe(name).arms["2"].weight == 25 for name in names)
        until(lambda: len(world.cluster.asked(began)) == 2, every_s=0.01)  # the watch follows the list
        assert [line.split()[0] for line in world.cluster.asked(began)] == ["GET", "GET"]
        assert world.cluster.requests[-1].query["watch"] == "1"
        # Its own writes are seen at once, others' as they happen.
        assert backend.abort("visits", "no", "gate") == backend.observe("visits")
        world.cluster.remove("seldondeployments", "visits-7")
        until(lambda: backend.observe("visits-7").arms == {}, every_s=0.01)
        # Cut, it goes on where it was; what it cannot know is asked for.
        world.cluster.cut_watches.set()
        world.backend(gateway=None).abort("visits", "no", "guard")
        world.cluster.cut_watches.clear()
        world.backend(gateway=None).apply(release(60, arm(2, 40), token=9))
        until(lambda: backend.observe("visits").token == 9, every_s=0.01)
    began = len(world.cluster.requests)
    backend.observe("visits")
    assert world.cluster.asked(began) == [f"GET {SDEP}/visits"]


def test_a_look_reads_the_state_of_an_object_once_and_anew_when_it_has_changed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from windtunnel.serving.seldon import record

    backend = world.backend()
    backend.apply(release(75, arm(2, 25)))
    read, asked = record.state_of, []
    monkeypatch.setattr(record, "state_of", lambda live: asked.append(live) or read(live))
    for _ in range(3):
        assert backend.observe("visits").token == 1
    assert len(asked) <= 1
    world.backend().apply(release(60, arm(2, 40), token=9))
    assert backend.observe("visits").token == 9


def test_a_feed_that_is_silent_is_not_believed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """DEMAND ROL-3: silence is not news."""
    from windtunnel.serving.seldon import feed

    backend = world.backend(gateway=None)
    backend.apply(release(100))
    with backend.following():
        monkeypatch.setattr(feed, "SILENT_S", 0.0)
        began = len(world.cluster.requests)
        backend.observe("visits")
        assert f"GET {SDEP}/visits" in world.cluster.asked(began)
    world.cluster.denied.append("GET .*/seldondeployments$")
    with pytest.raises(UnavailableError, match="list and watch"), backend.following(0.3):
        pass


def test_it_is_known_how_old_what_a_feed_says_may_be(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """DEMAND ROL-6: the guard takes nothing for newer than it is."""
    from windtunnel.serving.seldon import feed

    backend = world.backend(gateway=None)
    backend.apply(release(75, arm(2, 25)))
    assert backend.silence() == 0.0, "it asks the API itself"
    with backend.following():
        until(lambda: backend.silence() > 0.2, every_s=0.01)
        before = backend.silence()
        world.backend(gateway=None).abort("visits", "no", "guard")
        until(lambda: backend.silence() < before, every_s=0.01)
        monkeypatch.setattr(feed, "SILENT_S", 0.0)
        assert backend.silence() == 0.0


def test_prometheus_is_asked_for_this_namespace_alone(world: World) -> None:
    """DEMAND ROL-2: a model of this name in another namespace is another model."""
    usual = world.backend()
    here = usual.client.namespace
    asked = usual._source("visits").names.select("visits")
    assert asked.endswith(f',namespace=~"|{here}",kubernetes_namespace=~"|{here}"')
    told = world.backend(
        prometheus_labels={"cluster": 'a"b\\c', "ns": "{namespace}"},
        prometheus_token_file="token",
        prometheus_stale_s=150,
    )
    source = told._source("visits")
    assert source.names.select("visits").endswith(f',cluster="a\\"b\\\\c",ns="{here}"')
    assert source._token_file == Path("token")
    assert (usual._source("visits").stale_after_s, source.stale_after_s) == (60, 150)
    istio = world.backend(prometheus_names={"requests": "istio_requests_total", "unit": "ms", "start": ""})
    names = istio._source("visits").names
    assert (names.requests, names.unit, names.start) == ("istio_requests_total", "ms", None)
    assert 'deployment_name="visits"' in names.query("visits") and "istio_requests_total" in names.query("visits")


def test_no_prometheus_is_no_answer(world: World) -> None:
    backend = world.backend(prometheus=None)
    backend.apply(release(100))
    with pytest.raises(UnavailableError, match="no Prometheus"):
        backend.traffic("visits")


def test_the_way_back_is_checked(world: World) -> None:
    """DEMAND ROL-12"""
    backend = world.backend()
    backend.apply(release(90, arm(2, 10)))
    assert backend.check_target("visits") == []
    world.seldon.failing.add("v1")
    assert "answered 500" in backend.check_target("visits")[0]
    world.fates["v1"] = "slow"
    until(lambda: "v1" not in world.seldon.available["visits"], every_s=0.02)
    until(lambda: "not available" in backend.check_target("visits")[0], every_s=0.02)
    assert "no version to go back to" in backend.check_target("never-deployed")[0]


def test_what_has_drained_is_swept_but_never_the_last(world: World) -> None:
    backend = world.backend(gateway=None)
    backend.apply(release(90, arm(2, 10)))
    backend.apply(release(None, token=2))  # nothing is wanted
    assert backend.sweep(time.time() + 1e6) == []
    backend.apply(release(100, token=3))
    assert backend.sweep(time.time()) == []
    assert backend.sweep(time.time() + 1e6) == ["visits.v2"]
    assert world.predictors() == {"v1": 100}
    assert backend.models() == ["visits"]


def test_the_guard_guards_a_model_served_by_seldon(world: World, tmp_path: Path) -> None:
    """DEMAND ROL-6: a lease that ended takes the candidate back; the guard is the one of the local backend."""
    from windtunnel.home import Home
    from windtunnel.serving.release.guard import Guard, heartbeat_path

    home = Home(tmp_path / "home")
    home.serving_model("visits").mkdir(parents=True)
    backend = world.backend()
    backend.apply(release(90, arm(2, 10), lease_until=time.time() - 1))

    def nobody() -> Any:
        raise UnavailableError("the registry is down")

    guard = Guard(home, backend, nobody)
    guard.watch()
    assert world.predictors() == {"v1": 100}
    assert backend.desired("visits") is not None and not backend.lagging("visits")
    # An API that does not answer is no reason to forget a model.
    world.cluster.faults.append(Fault("GET", 503, times=999))
    guard.watch()
    told = json.loads(heartbeat_path(home).read_text())
    assert told["models"]["visits"]["state"] == "unknown"
    assert "503" in told["errors"]["(models)"]


def test_the_guard_as_a_process_needs_settings_and_a_cluster_alone(world: World, tmp_path: Path) -> None:
    """DEMAND ROL-6: nobody renews; no registry, no Airflow, no folder of the model."""
    settings = tmp_path / "seldon.toml"
    settings.write_text(f'image = "i"\nregistry = "r"\nkubeconfig = "{world.settings.access.kubeconfig}"\n')
    backend = world.backend(gateway=None)
    backend.apply(release(90, arm(2, 10), lease_until=time.time() + 2))
    command = [sys.executable, "-c", "from windtunnel.cli import main; main()", "guard", "--seldon", str(settings)]
    with (tmp_path / "log").open("wb") as log:
        guard = subprocess.Popen([*command, "--home", str(tmp_path / "home"), "--tick", "0.1"], stdout=log, stderr=log)
        try:
            until(lambda: guard.poll() is not None or world.predictors() == {"v1": 100}, every_s=0.1)
        finally:
            guard.terminate()
            ended = guard.wait(60)
    assert world.predictors() == {"v1": 100}, (tmp_path / "log").read_text()
    assert "lease ended" in world.live()["metadata"]["annotations"][record.ABORTED]
    assert ended == 0


@pytest.mark.parametrize(
    ("text", "says"), [(None, "cannot be read"), ("image = ", "cannot be read"), ("a = 1", "unknown a")]
)
def test_settings_in_a_file_that_are_wrong_say_so(tmp_path: Path, text: str | None, says: str) -> None:
    path = tmp_path / "seldon.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DescriptionError, match=says):
        Seldon.read(path)
