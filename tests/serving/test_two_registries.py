"""Two Windtunnels with a registry each, in one namespace: neither touches what the other one releases.

Their tokens come from two registries and say nothing to each other; a rollout's id is known to its own registry alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakecore2
import fakeseldon
import pytest

from windtunnel.errors import NotFoundError, ServingError
from windtunnel.home import Home
from windtunnel.kube.access import Access
from windtunnel.kube.client import Client
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.place import Place, in_cluster
from windtunnel.serving.release.guard import Guard
from windtunnel.serving.release.lease import Clock
from windtunnel.serving.release.settling import HEED_EVERY_S
from windtunnel.serving.seldon import Seldon, record

OURS, THEIRS = "http://registry.a:5000", "http://registry.b:5000"


def arm(n: int, weight: int = 0) -> Arm:
    return Arm(str(n), f"sha256:{n:064x}", f"models:/visits/{n}", weight)


def release(champion: int, *candidates: Arm, token: int = 1, **more: Any) -> Release:
    one = {"warmup": [{"age": 30.0}], "serving": {"timeout": "2s", "drain": "1s", "ready_within": "30s"}}
    more.setdefault("rollout_id", "0ba1")
    return Release("visits", arm(1, champion), candidates, token=token, settings=dict.fromkeys("123", one), **more)


class World:
    """One namespace of a cluster with one of the APIs."""

    def __init__(self, api: str, folder: Path, running: ExitStack) -> None:
        self.api, self.folder = api, folder
        fake: Any = fakecore2 if api == "core2" else fakeseldon
        self.cluster = running.enter_context(fake.cluster())
        running.enter_context(fake.Core2(self.cluster) if api == "core2" else fake.Seldon(self.cluster))
        self.access = Access(self.cluster.kubeconfig(folder / "kubeconfig"))

    def place(self, registry: str, *, deploys: bool = True, **more: Any) -> Place:
        plain = {"image": "i", "registry": registry, "api": self.api, "poll_s": 0.02, **more}
        settings = Seldon.of({**plain, "kubeconfig": str(self.folder / "kubeconfig")})
        return in_cluster(settings, Client(self.access, patience_s=5.0), deploys=deploys)

    def live(self) -> dict[str, Any]:
        found = self.cluster.get("experiments" if self.api == "core2" else "seldondeployments", "visits")
        assert found is not None
        return {"annotations": found["metadata"]["annotations"], "labels": found["metadata"]["labels"]} | {
            "spec": found["spec"]
        }


@pytest.fixture(params=["core1", "core2"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as running:
        yield World(request.param, tmp_path, running)


class Registry:
    """Knows no rollout of the other one's, and has a champion of the same name."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def rollout(self, rollout_id: str) -> Any:
        raise NotFoundError(f"there is no rollout {rollout_id}")

    def champion(self, model: str) -> Any:
        return SimpleNamespace(version="2", digest=arm(2).digest)

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: self.told.append(name)


class Hours:
    """Both clocks, moved by hand."""

    def __init__(self) -> None:
        self.at = 1_000_000.0

    def __call__(self) -> Clock:
        return Clock(self.at, self.at)


def guard_of(place: Place, home: Path, registry: Registry, hours: Hours) -> Guard:
    (home / "serving").mkdir(parents=True)
    return Guard(Home(home), place.backend, lambda: registry, clock=hours, intents=place.intents, looks=place.looks)  # type: ignore[arg-type,return-value]


def rounds(guard: Guard, hours: Hours, seconds: float) -> None:
    for _ in range(10):
        hours.at += seconds / 10
        guard.watch()
        guard.tend()


def test_whoever_releases_by_another_registry_is_refused(world: World) -> None:
    """A higher token of another registry means nothing: the model, its rollout and its candidate stay."""
    ours, theirs = world.place(OURS).backend, world.place(THEIRS).backend
    ours.apply(release(75, arm(2, 25), token=3))
    before = copy.deepcopy(world.live())
    for act in (
        lambda: theirs.observe("visits"),  # the first thing that the first task of a release asks
        lambda: theirs.apply(release(100, arm(3), token=9, rollout_id="7bb0")),
        lambda: theirs.abort("visits", "its release failed", "airflow:b", token=9),
        lambda: theirs.renew("visits", 9, 2e9),
    ):
        with pytest.raises(ServingError, match=r"released by the registry http://registry\.a:5000") as caught:
            act()
        assert "formerly" in str(caught.value.hint)
    assert world.live() == before
    ours.apply(release(100, token=3, stage=1))


def test_a_registry_that_has_moved_goes_on(world: World) -> None:
    world.place(OURS).backend.apply(release(100))
    moved = world.place(THEIRS, formerly=[OURS]).backend
    moved.apply(release(75, arm(2, 25), token=2))
    assert world.live()["annotations"][record.REGISTRY] == THEIRS
    with pytest.raises(ServingError, match="is released by the registry"):
        world.place(OURS).backend.observe("visits")


def test_what_nobody_has_signed_is_anybodys(world: World) -> None:
    """Models that were released before objects said whose they are."""
    world.place(OURS).backend.apply(release(100))
    plural = "experiments" if world.api == "core2" else "seldondeployments"
    world.cluster.edit(plural, "visits", lambda thing: thing["metadata"]["annotations"].pop(record.REGISTRY))
    world.place(THEIRS).backend.apply(release(75, arm(2, 25), token=2))
    assert world.live()["annotations"][record.REGISTRY] == THEIRS


@pytest.mark.parametrize(
    "other",
    ["https://registry.a:5000/", "http://registry.a.svc:5000", "http://user:word@REGISTRY.a.svc.cluster.local:5000"],
)
def test_another_way_to_write_an_address_is_no_other_registry(other: str) -> None:
    assert Seldon(image="i", registry=OURS).releases(other) and Seldon(image="i", registry=other).releases(OURS)


@pytest.mark.parametrize("other", [THEIRS, "http://registry.a:5001", "http://registry.a:5000/team", "http://a:5000"])
def test_another_place_is(other: str) -> None:
    assert not Seldon(image="i", registry=OURS).releases(other)


def test_no_password_of_an_address_stands_on_the_object(world: World) -> None:
    world.place("http://user:word@registry.a:5000").backend.apply(release(100))
    assert world.live()["annotations"][record.REGISTRY] == OURS


def test_the_others_guard_leaves_a_living_release_alone(world: World, tmp_path: Path) -> None:
    """Whatever its registry has of a model of that name."""
    hours, registry = Hours(), Registry()
    ours = world.place(OURS)
    ours.backend.apply(release(75, arm(2, 25), lease_until=hours.at + 600, lease_s=600.0))
    ours.intents.begin("visits", rollout_id="0ba1", token=1, candidate="2", champion="1")
    before = copy.deepcopy(world.live())
    guard = guard_of(world.place(THEIRS, deploys=False), tmp_path / "b", registry, hours)
    rounds(guard, hours, 300.0)
    assert world.live() == before and registry.told == []
    ours.intents.clear("visits", 1)
    ours.backend.apply(release(100, stage=1))  # version 2 stays warm
    before = copy.deepcopy(world.live())
    rounds(guard, hours, 5 * HEED_EVERY_S)
    assert world.live() == before and registry.told == []


def test_the_others_guard_does_not_follow_its_own_champion(world: World, tmp_path: Path) -> None:
    """A model that serves without a rollout: there is nothing that its registry would not know."""
    hours, registry = Hours(), Registry()
    ours = world.place(OURS).backend
    ours.apply(release(75, arm(2, 25), rollout_id=None))
    ours.apply(release(100, arm(2), rollout_id=None, stage=1))
    before = copy.deepcopy(world.live())
    rounds(guard_of(world.place(THEIRS, deploys=False), tmp_path / "b", registry, hours), hours, 5 * HEED_EVERY_S)
    assert world.live() == before
    rounds(guard_of(world.place(OURS, deploys=False), tmp_path / "a", registry, hours), hours, 5 * HEED_EVERY_S)
    assert world.live() != before, "its own guard does follow"


def test_a_lease_that_has_ended_ends_by_anybodys_guard(world: World, tmp_path: Path) -> None:
    """Users first. Whose release it is stays on the object, and its own registry is told by its own guard."""
    hours, registry = Hours(), Registry()
    world.place(OURS).backend.apply(release(75, arm(2, 25), lease_until=hours.at + 60, lease_s=60.0))
    guard = guard_of(world.place(THEIRS, deploys=False), tmp_path / "b", registry, hours)
    rounds(guard, hours, 200.0)
    seen = world.place(OURS).backend.observe("visits")
    assert {version: one.weight for version, one in seen.arms.items() if one.weight} == {"1": 100}
    assert "lease" in world.live()["annotations"][record.ABORTED] and registry.told == []
    assert world.live()["annotations"][record.REGISTRY] == OURS
