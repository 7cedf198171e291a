"""DEMAND PIP-5, ROL-6, ROL-7, ROL-10: releases by the real DAG on Seldon, killed at requests to the API, and the guard.

The real operators, gate, backend, journal and guard, over HTTP to an API, an operator, a gateway and a Prometheus of
the tests' own; time, Airflow and the registry are those of ``airborne``. Each task is a process of its own: it has seen
nothing, and has no file of another one's.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fakeseldon
import pytest
import structlog
from airborne import LEASE_S, MODEL, Flight, Sky, description, hooked
from waiting import until

from windtunnel.data.objects import FolderObjects
from windtunnel.home import Home
from windtunnel.kube.access import Access
from windtunnel.kube.client import Client
from windtunnel.rollout import Plan, disagreements
from windtunnel.serving import lookout
from windtunnel.serving.abort import abort_release
from windtunnel.serving.guard import Guard
from windtunnel.serving.place import Place, in_cluster
from windtunnel.serving.seldon import Seldon, manifest, record

#: Requests of callers in a second.
RATE = 20
SDEP = f"/seldondeployments/{MODEL}"


class ClusterSky(Sky):
    """``Sky`` with Seldon where the fake of a serving backend was."""

    seldon_conn_id = "windtunnel_seldon"

    def __init__(self, folder: Path, cluster: Any, seldon: fakeseldon.Seldon, running: ExitStack) -> None:
        self.cluster, self.seldon, self.running = cluster, seldon, running
        self.main = threading.current_thread()
        super().__init__()
        self.home = Home(folder / "home")
        self.object_store = FolderObjects(folder / "store")  # type: ignore[assignment]
        self.settings = Seldon(
            image="i",
            registry="r",
            access=Access(cluster.kubeconfig(folder / "kubeconfig")),
            gateway=f"{seldon.url}/seldon/{{namespace}}/{{model}}",
            split_requests=20,
            prometheus=seldon.url,
            poll_s=0.01,
        )
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
            def _once(self, method: str, path: str, *args: Any, **more: Any) -> Any:
                if threading.current_thread() is not sky.main:
                    return super()._once(method, path, *args, **more)
                with sky.world.call(f"api {method} {path.rpartition('/namespaces/')[2]}"):
                    return super()._once(method, path, *args, **more)

        client = Edged(self.settings.access, timeout_s=(2.0, 10.0), patience_s=5.0)
        found = in_cluster(self.settings, client, store=self.object_store, read_mlmodel=lambda model, arm: MLMODEL)
        found.backend._clock = lambda: self.world.wall
        return found

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


@pytest.fixture(scope="module")
def dag() -> Any:
    from windtunnel import Model
    from windtunnel_airflow import release_dag

    plain = description().to_dict()
    plain["target"], plain["training"]["target"] = "kubernetes", "local"
    return release_dag(Model.model_validate(plain))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50), cache_logger_on_first_use=False)
    yield
    structlog.configure(**before)


@pytest.fixture
def skies(tmp_path: Path) -> Iterator[Callable[[], ClusterSky]]:
    """Worlds, one after the other; the former one ends with the next."""
    made = ExitStack()
    count = iter(range(1000))

    def make() -> ClusterSky:
        made.close()
        folder = tmp_path / str(next(count))
        folder.mkdir()
        cluster = made.enter_context(fakeseldon.cluster())
        seldon = made.enter_context(fakeseldon.Seldon(cluster, after_s=0.0))
        return ClusterSky(folder, cluster, seldon, made)

    with made:
        yield make


def fly(sky: ClusterSky, dag: Any, *, errors: str | None = None, **how: Any) -> Flight:
    """A release; ``errors``: the version that fails every other request as soon as callers reach it."""
    if errors:
        seldon, before, turn = sky.seldon, sky.seldon.direct, iter(range(10**9))

        def direct(model: str, predictor: str) -> tuple[int, dict[str, Any]]:
            if predictor == f"v{errors}" and seldon.routes.get(model, {}).get(predictor):
                seldon.failing = {predictor} if next(turn) % 2 else set()
            return before(model, predictor)

        seldon.direct = direct  # type: ignore[method-assign]
    with hooked(lambda: sky):
        flight = Flight(sky, dag, **how)
        flight.fly()
        flight.quiet(20.0)
    return flight


def canary(sky: ClusterSky, dag: Any) -> ClusterSky:
    """Version 1 is champion by a release of its own; version 2 waits."""
    sky.register("1")
    assert fly(sky, dag).run.states["outcome"] == "success"
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


def test_a_first_release_then_a_canary_then_harm(skies: Any, dag: Any) -> None:
    sky = canary(skies(), dag)
    assert agree(sky) == []
    flight = fly(sky, dag)
    assert flight.run.states["outcome"] == flight.run.states["step_50.gate"] == "success", flight.run.why
    assert sky.registry.champions[MODEL] == "2" and agree(sky) == []
    sky.register("3")
    began = len(sky.cluster.requests)
    flight = fly(sky, dag, errors="3")
    assert (flight.run.states["step_10.gate"], flight.run.states["rollback"]) == ("failed", "success"), flight.run.why
    assert sky.registry.champions[MODEL] == "2" and agree(sky) == []
    # DEMAND ROL-6: the request that writes the decision down is the one that takes the candidate back; none after it.
    writes = [one for one in sky.cluster.requests[began:] if one.method == "PATCH"]
    last = next(one for one in writes if "roll_back" in one.body["metadata"]["annotations"].get(record.SAID, ""))
    assert "v3" not in {one["name"] for one in last.body["spec"]["predictors"]}
    before = writes[writes.index(last) - 1].body["spec"]["predictors"]
    assert {one["name"]: one["traffic"] for one in before}["v3"] == 10
    gate, rollout = (
        next(
            p.verdict for p in sky.registry.posted.values() if str(p.verdict.kind) == kind and p.verdict.version == "3"
        )
        for kind in ("gate", "rollout")
    )
    assert str(gate.outcome) == str(rollout.outcome) == "FAIL" and rollout.reason in gate.reason


def test_a_first_release_that_does_harm_serves_nobody(skies: Any, dag: Any) -> None:
    """DEMAND ROL-10"""
    sky = skies()
    sky.register("1")
    flight = fly(sky, dag, errors="1")
    assert (flight.run.states["first.watch"], flight.run.states["first.withdraw"]) == ("failed", "success")
    assert sky.registry.champions.get(MODEL) is None and agree(sky) == []


def test_the_guard_alone_takes_back_what_nobody_watches(skies: Any, dag: Any) -> None:
    """DEMAND ROL-6: Airflow is gone for good, and the registry does not answer."""
    sky = canary(skies(), dag)
    with hooked(lambda: sky):
        flight = Flight(sky, dag)
        while not flight.run.watches:
            flight._task(flight.run.ready(sky.now())[0])
        until(lambda: sky.weights() == {"1": 90, "2": 10}, 10)
        sky.registry.down = True  # type: ignore[attr-defined]
        flight.wait(LEASE_S + 20)
        until(lambda: sky.weights() == {"1": 100}, 10)
        assert "lease" in sky.notes()[record.ABORTED]
        sky.registry.down = False  # type: ignore[attr-defined]
        flight.wait(60)
    assert [one.state for one in sky.registry.rollouts_] == ["promoted", "rolled_back"] and agree(sky) == []


def test_a_person_ends_it_with_one_write(skies: Any, dag: Any) -> None:
    """DEMAND ROL-6, ROL-8: as ``windtunnel rollout abort --seldon`` and the DAG ``windtunnel.control`` do it."""
    sky = canary(skies(), dag)
    with hooked(lambda: sky):
        flight = Flight(sky, dag)
        while not flight.run.watches:
            flight._task(flight.run.ready(sky.now())[0])
        began = len(sky.cluster.requests)
        observed, note = abort_release(sky.home, sky.place(), MODEL, "callers complain", by="ann", now=sky.now())
        mine = [str(one) for one in sky.cluster.requests[began:] if "watch" not in one.query]
        assert [line.split()[0] for line in mine if line.endswith(SDEP)] == ["GET", "PATCH"]
        assert observed.aborted == "callers complain" and note is not None and note.by == "ann"
        assert sky.weights() == {"1": 100}
        flight.fly()
        flight.quiet(20.0)
    assert flight.run.states["outcome"] == "failed" and agree(sky) == []


def killed(skies: Any, dag: Any, sample: Callable[[list[int]], list[int]], **how: Any) -> dict[Any, Any]:
    """Flights that die at requests to the API, before and after each that is sampled; what went wrong."""
    flight = fly(canary(skies(), dag), dag, **how)
    ends = dict(flight.run.states)
    edges = [number for number, edge in enumerate(flight.passed) if edge.startswith("api ")]
    assert len(edges) > 60
    wrong = {}
    for number in sample(edges):
        sky = canary(skies(), dag)
        again = fly(sky, dag, die_at=number, **how)
        assert again.died is not None
        champion = sky.registry.champions[MODEL]
        if agree(sky) or champion != ("1" if how.get("errors") else "2"):
            wrong[number, again.died] = agree(sky), champion, again.run.states, ends
    return wrong


def test_killed_at_some_requests_it_ends_in_the_same_place(skies: Any, dag: Any) -> None:
    assert not killed(skies, dag, lambda edges: edges[5 :: len(edges) // 4])


@pytest.mark.long
@pytest.mark.parametrize("errors", [None, "2"])
def test_killed_at_any_request_it_ends_in_the_same_place(skies: Any, dag: Any, errors: str | None) -> None:
    assert not killed(skies, dag, lambda edges: edges[::3], errors=errors)
