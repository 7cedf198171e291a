"""The guard, and commands by hand, know an image and a registry: what was deployed stays as it was."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fakecore2
import fakeseldon
import pytest
from waiting import until

from windtunnel.kube.access import Access
from windtunnel.kube.client import Client
from windtunnel.serving.backend import Arm, Release
from windtunnel.serving.place import Place, in_cluster, of_command
from windtunnel.serving.seldon import Seldon

#: What only whoever releases says of the cluster.
MORE = {
    "images": {"gpu": "gpu:1"},
    "labels": {"seldon.io/controller-id": "ours"},
    "registry_secret": "readers",
    "registry_ca": "authority",
    "service_account": "models",
    "pull_secrets": ["pull"],
    "collector": "http://collector:8080",
}


def arm(n: int, weight: int = 0) -> Arm:
    return Arm(str(n), f"sha256:{n:064x}", f"models:/visits/{n}", weight)


def release(champion: int, *candidates: Arm, token: int = 1, **more: Any) -> Release:
    one = {
        "warmup": [{"age": 30.0}],
        "serving": {"environment": "gpu", "maximum": 4, "timeout": "2s", "drain": "1s", "ready_within": "30s"},
    }
    return Release(
        "visits", arm(1, champion), candidates, token=token, settings=dict.fromkeys("123", one), rollout_id="r", **more
    )


class World:
    """A cluster with one of the APIs."""

    def __init__(self, api: str, folder: Path, running: ExitStack) -> None:
        self.api, self.folder = api, folder
        fake = fakecore2 if api == "core2" else fakeseldon
        self.cluster = running.enter_context(fake.cluster())
        made = fakecore2.Core2(self.cluster) if api == "core2" else fakeseldon.Seldon(self.cluster)
        running.enter_context(made)
        self.config = self.cluster.kubeconfig(folder / "kubeconfig")

    def settings(self, **more: Any) -> Seldon:
        plain = {"image": "i:1", "registry": "http://registry:5000", "api": self.api, "kubeconfig": self.config}
        return Seldon.of({**plain, "poll_s": 0.02, **more})

    def releases(self) -> Place:
        return in_cluster(self.settings(**MORE), self._client())

    def guards(self) -> Place:
        """As ``windtunnel guard`` and ``windtunnel rollout`` make it of the file that the docs show."""
        file = self.folder / "seldon.toml"
        plain = {"image": "i:2", "registry": "http://registry:5000", "api": self.api, "kubeconfig": self.config}
        file.write_text("".join(f'{name} = "{text}"\n' for name, text in plain.items()))
        return of_command(None, "visits", file)  # type: ignore[arg-type]

    def _client(self) -> Client:
        return Client(Access(self.config), patience_s=5.0)

    def deployed(self) -> dict[str, Any]:
        """What pods are made of, and what operators select by: everything but weights and our notes."""
        found: dict[str, Any] = {}
        for plural in self.cluster.kinds:
            for one in self.cluster.all(plural):
                if plural not in ("pods", "experiments"):
                    found[f"{plural} {one['metadata']['name']}"] = copy.deepcopy(one["spec"])
                if plural in ("seldondeployments", "experiments"):
                    found[f"labels of {plural}"] = one["metadata"]["labels"]
        for one in found.get("seldondeployments visits", {}).pop("predictors", []):
            one.pop("traffic")
            found[f"predictor {one['name']}"] = one
        return found


@pytest.fixture(params=["core1", "core2"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as running:
        yield World(request.param, tmp_path, running)


def without(deployed: dict[str, Any], version: int) -> dict[str, Any]:
    names = (f"predictor v{version}", f"models visits-v{version}", f"servers visits-v{version}")
    return {name: what for name, what in deployed.items() if name not in names}


Act = Callable[[Any], object]
ACTS: dict[str, Act] = {
    "aborts": lambda backend: backend.abort("visits", "lease ended", "guard"),
    "finishes": lambda backend: backend.apply(release(100, stage=9)),
    "renews": lambda backend: backend.renew("visits", 1, 2e9),
}


@pytest.mark.parametrize("act", ACTS)
def test_what_is_deployed_stays_as_it_is(world: World, act: str) -> None:
    world.releases().backend.apply(release(75, arm(2, 25), lease_until=1e9, lease_s=60.0))
    before = world.deployed()
    guard = world.guards().backend
    ACTS[act](guard)
    for _ in range(3):
        guard.sweep(4e9)
    left = before if act == "renews" else without(before, 2)
    until(lambda: world.deployed().keys() == left.keys(), 20, 0.05)
    assert world.deployed() == left
    weights = {version: one.weight for version, one in guard.observe("visits").arms.items() if one.weight}
    assert weights == ({"1": 75, "2": 25} if act == "renews" else {"1": 100})


def test_whoever_releases_still_changes_what_is_deployed(world: World) -> None:
    """The settings of the connection hold for what is released later, and on Core 1 for what serves already."""
    world.releases().backend.apply(release(100))
    world.guards().backend.sweep(4e9)
    more = {**MORE, "images": {"gpu": "gpu:2"}}
    in_cluster(world.settings(**more), world._client()).backend.apply(release(75, arm(2, 25), stage=1))
    found = world.deployed()
    names = ["predictor v1", "predictor v2"] if world.api == "core1" else ["servers visits-v2"]
    assert all("gpu:2" in str(found[name]) and "gpu:1" not in str(found[name]) for name in names)
