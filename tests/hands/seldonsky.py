"""``Sky`` with Seldon where the fake of a serving backend was, over real HTTP; the registry, Airflow and time stay."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import fakeseldon
from airborne import MODEL, Flight, Sky, description, hooked

from windtunnel.data.objects import FolderObjects
from windtunnel.home import Home
from windtunnel.kube.access import Access
from windtunnel.kube.client import Client
from windtunnel.rollout import Plan, disagreements
from windtunnel.serving.place import Place, in_cluster
from windtunnel.serving.release import lookout
from windtunnel.serving.release.guard import Guard
from windtunnel.serving.seldon import Seldon, manifest, record

#: Requests of callers in a second.
RATE = 20
SDEP = f"/seldondeployments/{MODEL}"


class ClusterSky(Sky):
    """``Sky`` with Seldon where the fake of a serving backend was."""

    seldon_conn_id = "windtunnel_seldon"

    def __init__(
        self,
        folder: Path,
        cluster: Any,
        seldon: fakeseldon.Seldon,
        running: ExitStack,
        access: Access | None = None,
        follow: bool = True,
        **settings: Any,
    ) -> None:
        self.cluster, self.seldon, self.running = cluster, seldon, running
        #: Told before each request of the test's own thread to the API; what it returns is the request's time-out.
        self.on_request: Callable[[str, tuple[float, float]], tuple[float, float]] = lambda _, timeout: timeout
        #: How a client waits before it tries again, by the time of this world.
        self.nap: Callable[[float], None] = lambda seconds: self.world.advance(seconds)
        self.main = threading.current_thread()
        super().__init__()
        self.home = Home(folder / "home")
        self.object_store = FolderObjects(folder / "store")  # type: ignore[assignment]
        given = {
            "image": "i",
            "registry": "r",
            "gateway": f"{seldon.url}/seldon/{{namespace}}/{{model}}",
            "split_requests": 20,
            "prometheus": seldon.url,
            "poll_s": 0.01,
        }
        where = access or Access(cluster.kubeconfig(folder / "kubeconfig"))
        self.settings = Seldon(access=where, **(given | settings))  # type: ignore[arg-type]
        seldon.clock = lambda: self.world.wall
        self.triggerer = self.place()
        self.serving, self.looks_ = self.triggerer.backend, self.triggerer.looks(MODEL)  # type: ignore[assignment]
        advance = self.world.advance

        def flow(seconds: float) -> None:
            advance(seconds)
            for _ in range(int(RATE * seconds) if self.seldon.routes.get(MODEL) else 0):
                self.seldon.ask(MODEL)

        self.world.advance = flow  # type: ignore[method-assign]
        guarding = self.place()
        if follow:
            running.enter_context(guarding.backend.following())
        self.guard = _Guard(
            self.home, guarding.backend, lambda: self.registry, clock=self.world.clock,
            intents=guarding.intents, looks=guarding.looks,
        )  # fmt: skip

    def new_guard(self) -> Any:
        return None

    def place(self) -> Place:
        """As another process makes it."""
        sky = self

        class Edged(Client):
            def _once(
                self, method: str, path: str, query: Any, body: Any, content_type: str, timeout: Any, *more: Any
            ) -> Any:
                if threading.current_thread() is not sky.main:
                    return super()._once(method, path, query, body, content_type, timeout, *more)
                name = f"api {method} {path.rpartition('/namespaces/')[2]}"
                with sky.world.call(name):
                    timeout = sky.on_request(name, timeout)
                    return super()._once(method, path, query, body, content_type, timeout, *more)

        client = Edged(
            self.settings.access, timeout_s=(2.0, 10.0), patience_s=5.0, sleep=self._sleep, monotonic=self._monotonic
        )
        found = in_cluster(self.settings, client, store=self.object_store, read_mlmodel=lambda model, arm: MLMODEL)
        found.backend._clock = lambda: self.world.wall
        return found

    def _sleep(self, seconds: float) -> None:
        self.nap(seconds) if threading.current_thread() is self.main else time.sleep(seconds)

    def _monotonic(self) -> float:
        return self.world.real if threading.current_thread() is self.main else time.monotonic()

    # -- the hook's side

    def backend(self) -> Any:
        return self.place().backend

    def looks(self, model: str) -> Any:
        return self.place().looks(model)

    def intents(self) -> Any:
        return self.place().intents

    def gather(self, watch: Any, backend: Any, state: Any) -> Any:
        return lookout.gather(self.home, watch, backend, state)

    # -- what there is

    def register(self, version: str, *, errors: float = 0.0, broken: bool = False) -> None:
        super().register(version, errors=errors, broken=broken)
        sample = {"warmup": [{"a": 1.0, "b": 2.0}]}
        self.object_store.put_bytes(f"samples/{MODEL}/{version}.json", json.dumps(sample).encode())

    def live(self) -> dict[str, Any]:
        return self.cluster.get("seldondeployments", MODEL) or {"metadata": {}, "spec": {}}

    def weights(self) -> dict[str, int]:
        return {version: n for version, n in manifest.weights(self.live()).items() if n}

    def notes(self) -> dict[str, str]:
        return {name: text for name, text in self.live()["metadata"].get("annotations", {}).items() if text}


MLMODEL = b'signature:\n  inputs: \'[{"name": "a", "type": "double"}, {"name": "b", "type": "double"}]\'\n'


class _Guard(Guard):
    def _beat(self) -> None:
        pass

    def _ship(self) -> None:
        pass


def harm(sky: ClusterSky, version: str) -> None:
    """It fails every other request as soon as callers reach it."""
    if hasattr(sky.seldon, "harm"):
        sky.seldon.harm = f"{MODEL}-v{version}"
        return
    seldon, before, turn = sky.seldon, sky.seldon.direct, iter(range(10**9))

    def direct(model: str, predictor: str) -> tuple[int, dict[str, Any]]:
        if predictor == f"v{version}" and seldon.routes.get(model, {}).get(predictor):
            seldon.failing = {predictor} if next(turn) % 2 else set()
        return before(model, predictor)

    seldon.direct = direct  # type: ignore[method-assign]


def fly(sky: ClusterSky, dag: Any, *, errors: str | None = None, **how: Any) -> Flight:
    """A release; ``errors``: the version that does ``harm``."""
    if errors:
        harm(sky, errors)
    with hooked(lambda: sky):
        flight = Flight(sky, dag, **how)
        flight.fly()
        flight.quiet(20.0)
    return flight


def canary(sky: ClusterSky, dag: Any, **how: Any) -> ClusterSky:
    """Version 1 is champion by a release of its own, flown so; version 2 waits."""
    sky.register("1")
    assert fly(sky, dag, **how).run.states["outcome"] == "success"
    sky.register("2")
    return sky


def agree(sky: ClusterSky) -> list[str]:
    """What is wrong when all is quiet."""
    champion, notes, wrong = sky.registry.champions.get(MODEL), sky.notes(), []
    if sky.weights() != ({champion: 100} if champion else {}):
        wrong.append(f"traffic {sky.weights()}, champion {champion}")
    if record.INTENT in notes or record.LEASE in notes:
        wrong.append(f"left: {notes.get(record.INTENT)} {notes.get(record.LEASE)}")
    if not all(one.ended for one in sky.registry.rollouts_):
        wrong.append(f"a rollout is open: {sky.registry.rollouts_}")
    looks = sky.place().looks(MODEL).all()
    if [look["number"] for look in looks] != list(range(1, len(looks) + 1)):
        wrong.append(f"looks are missing: {[look['number'] for look in looks]}")
    elif looks and disagreements(Plan.from_dict(looks[0]["plan"]), looks):
        wrong.append("looks do not follow from their evidence")
    return wrong


def cluster_dag(**serving: Any) -> Any:
    """The release DAG of a model that is served in a cluster, and so."""
    from windtunnel import Model
    from windtunnel_airflow import release_dag

    plain = description().to_dict()
    plain["target"], plain["training"]["target"] = "kubernetes", "local"
    plain["serving"] |= serving
    return release_dag(Model.model_validate(plain))


def core1_world(folder: Path, running: ExitStack, **more: Any) -> ClusterSky:
    """A world with Seldon Core 1, which ends with ``running``."""
    cluster = running.enter_context(fakeseldon.cluster())
    seldon = running.enter_context(fakeseldon.Seldon(cluster, after_s=0.0))
    return ClusterSky(folder, cluster, seldon, running, **more)


@contextmanager
def worlds_of(root: Path, world: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """Worlds below ``root``, one after the other; the former one ends with the next.

    Args:
        world: makes one in a folder and a stack of what ends with it, by the arguments of the call.
    """
    count = iter(range(1000))
    with ExitStack() as running:

        def make(*args: Any, **more: Any) -> Any:
            running.close()
            folder = root / str(next(count))
            folder.mkdir()
            return world(folder, running, *args, **more)

        yield make
