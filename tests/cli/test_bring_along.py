"""After an emergency rollback the command brings the traffic along at once (DEMAND REG-9, ROL-6)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fakeseldon
import pytest
from kubeapi import Cluster

from windtunnel.cli.registry_traffic import bring_along
from windtunnel.errors import UnavailableError
from windtunnel.home import Home
from windtunnel.kube.access import Access
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.seldon import Seldon, SeldonBackend


@dataclass
class Registry:
    """Its one answer that is asked for."""

    version: str | None

    def champion(self, model: str) -> Any:
        if self.version == "away":
            raise UnavailableError("the registry does not answer")
        return None if self.version is None else SimpleNamespace(version=self.version, digest=digest(self.version))


@dataclass
class World:
    cluster: Cluster
    backend: SeldonBackend
    home: Home

    def bring(self, champion: str | None) -> str:
        return bring_along(self.home, Registry(champion), "visits", "emergency rollback: harm")  # type: ignore[arg-type]

    def weights(self) -> dict[str, int]:
        return {version: one.weight for version, one in self.backend.observe("visits").arms.items() if one.weight}


def digest(version: str) -> str:
    return f"sha256:{int(version):064x}"


def arm(n: int, weight: int = 0) -> Arm:
    return Arm(str(n), digest(str(n)), f"models:/visits/{n}", weight)


def release(champion: int, *candidates: Arm, **more: Any) -> Release:
    one = {"warmup": [{"age": 30.0}], "serving": {"timeout": "2s", "drain": "1s", "ready_within": "5s"}}
    settings = dict.fromkeys("12", one)
    return Release("visits", arm(1, champion), candidates, token=1, rollout_id="r1", settings=settings, **more)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    with fakeseldon.cluster() as cluster, fakeseldon.Seldon(cluster, lambda name: "ready"):
        config = cluster.kubeconfig(tmp_path / "config")
        path = tmp_path / "seldon.toml"
        path.write_text(f'image = "i"\nregistry = "r"\npoll_s = 0.02\nkubeconfig = "{config}"\n')
        monkeypatch.setenv("WINDTUNNEL_SELDON", str(path))
        backend = SeldonBackend(Seldon(image="i", registry="r", access=Access(config), poll_s=0.02))
        yield World(cluster, backend, Home(tmp_path / "home"))


def test_a_release_under_way_is_ended_and_the_champion_has_everything(world: World) -> None:
    world.backend.apply(release(60, arm(2, 40), lease_until=time.time() + 60))
    assert world.bring("1") == "version 1 has all requests now"
    seen = world.backend.observe("visits")
    assert world.weights() == {"1": 100} and seen.lease_until is None
    assert seen.aborted == "emergency rollback: harm"
    assert world.bring("1") == "version 1 had all requests already"


def test_a_former_champion_that_is_warm_comes_back(world: World) -> None:
    world.backend.apply(release(100))
    world.backend.apply(release(0, arm(2, 100), lease_until=time.time() + 60, stage=1))
    world.backend.apply(replace(release(0, stage=2), champion=arm(2, 100)))
    assert world.weights() == {"2": 100}
    assert world.bring("1") == "version 1 has all requests now"
    assert world.weights() == {"1": 100}


def test_a_candidate_that_becomes_champion_by_hand_is_followed(world: World) -> None:
    """The release is ended first, then its candidate gets everything: the registry is the law."""
    world.backend.apply(release(60, arm(2, 40), lease_until=time.time() + 60))
    assert world.bring("2") == "version 2 has all requests now"
    assert world.weights() == {"2": 100} and world.backend.observe("visits").lease_until is None


def test_what_cannot_be_done_here_is_said_and_left_to_the_guard(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.backend.apply(release(60, arm(2, 40), lease_until=time.time() + 60))
    said = world.bring("away")
    assert said == "the traffic could not be moved now, the guard goes on trying: the registry does not answer"
    assert world.weights() == {"1": 100}, "users first: the candidate is at 0 before the registry is asked"
    assert world.bring(None) == "visits has no champion"
    world.cluster.denied.append("GET .*/seldondeployments/visits$")
    assert "the guard goes on trying" in world.bring("1")
    monkeypatch.delenv("WINDTUNNEL_SELDON")
    assert world.bring("1") == "nothing of visits is served from this home; where it is, the guard follows"
    assert not (world.home.root / "serving").exists(), "and nothing is made by asking"
