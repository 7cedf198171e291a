"""DEMAND PIP-5, ROL-6, ROL-7, ROL-10: releases by the real DAG on Seldon Core 2; see ``test_on_seldon``, whose world it
is but for the objects, the scheduler and the mesh."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import fakecore2
import pytest
from airborne import LEASE_S, MODEL, Flight, description, hooked
from seldonsky import worlds_of
from waiting import until

from windtunnel.serving.core2 import Core2, manifest
from windtunnel.serving.release.abort import abort_release
from windtunnel.serving.seldon import record

_spec = importlib.util.spec_from_file_location("hands_on_seldon", Path(__file__).with_name("test_on_seldon.py"))
assert _spec is not None and _spec.loader is not None
core1 = importlib.util.module_from_spec(_spec)
sys.modules.setdefault(_spec.name, core1)
_spec.loader.exec_module(core1)
dag = core1.dag
EXPERIMENT = f"/experiments/{MODEL}"


class Mesh(fakecore2.Core2):
    """Callers ask by the model's name; ``harm`` fails every other request as soon as callers reach it."""

    harm: str | None = None
    direct: Any = None  # where the world of Core 1 puts its harm
    _turn = 0

    def ask(self, model: str) -> tuple[int, dict[str, Any]]:
        return self.infer(f"/v2/models/{model}/infer", f"{model}.experiment")

    def _push(self) -> None:
        super()._push()
        self.routes |= {
            name.removesuffix(".experiment"): route
            for name, route in self.routes.items()
            if name.endswith(".experiment")
        }

    def _server_of(self, model: str, path: str) -> tuple[int, dict[str, Any]]:
        route = self.routes.get(MODEL)
        if self.harm == model and route is not None and model in dict(route.clusters):
            self._turn += 1
            self.failing = {model} if self._turn % 2 else set()
        return super()._server_of(model, path)


class Core2Sky(core1.ClusterSky):  # type: ignore[misc, name-defined]
    seldon: Mesh

    @property
    def settings(self) -> Core2:
        return self._settings

    @settings.setter
    def settings(self, given: Any) -> None:
        """Those of the world, for the other API."""
        url = self.seldon.url
        self._settings = Core2(
            image="i", registry="r", access=given.access, gateway=url, split_requests=20, prometheus=url, poll_s=0.01
        )

    def live(self) -> dict[str, Any]:
        return self.cluster.get("experiments", MODEL) or {"metadata": {"name": MODEL}, "spec": {}}

    def weights(self) -> dict[str, int]:
        return manifest.weights(self.live())


def core2_world(folder: Path, running: ExitStack, **more: Any) -> Core2Sky:
    cluster = running.enter_context(fakecore2.cluster())
    return Core2Sky(folder, cluster, running.enter_context(Mesh(cluster, after_s=0.0)), running, **more)


@pytest.fixture
def skies(tmp_path: Path) -> Iterator[Callable[[], Core2Sky]]:
    with worlds_of(tmp_path, core2_world) as make:
        yield make


def fly(sky: Core2Sky, dag: Any, *, errors: str | None = None) -> Flight:
    sky.seldon.harm = f"{MODEL}-v{errors}" if errors else None
    flight: Flight = core1.fly(sky, dag)
    return flight


def test_a_first_release_then_a_canary_then_harm(skies: Any, dag: Any) -> None:
    sky = core1.canary(skies(), dag)
    assert core1.agree(sky) == []
    flight = fly(sky, dag)
    assert flight.run.states["outcome"] == flight.run.states["step_50.gate"] == "success", flight.run.why
    assert sky.registry.champions[MODEL] == "2" and core1.agree(sky) == []
    sky.register("3")
    began = len(sky.cluster.requests)
    flight = fly(sky, dag, errors="3")
    assert (flight.run.states["step_10.gate"], flight.run.states["rollback"]) == ("failed", "success"), flight.run.why
    assert sky.registry.champions[MODEL] == "2" and core1.agree(sky) == []
    # DEMAND ROL-6: the request that writes the decision down is the one that takes the candidate back; none after it.
    writes = [one for one in sky.cluster.requests[began:] if one.method == "PATCH" and one.path.endswith(EXPERIMENT)]
    last = next(one for one in writes if "roll_back" in one.body["metadata"]["annotations"].get(record.SAID, ""))
    assert last.body["spec"]["candidates"] == [{"name": f"{MODEL}-v2", "weight": 100}]
    before = {one["name"]: one["weight"] for one in writes[writes.index(last) - 1].body["spec"]["candidates"]}
    assert before == {f"{MODEL}-v2": 90, f"{MODEL}-v3": 10}
    for _ in range(2):  # the Model, then its Server
        sky.triggerer.backend.sweep()
    names = {one["metadata"]["name"] for plural in ("models", "servers") for one in sky.cluster.all(plural)}
    assert f"{MODEL}-v2" in names and f"{MODEL}-v3" not in names


def test_the_guard_alone_takes_back_what_nobody_watches(skies: Any, dag: Any) -> None:
    """DEMAND ROL-6: Airflow is gone for good, and the registry does not answer."""
    sky = core1.canary(skies(), dag)
    with hooked(lambda: sky):
        flight = Flight(sky, dag)
        while not flight.run.watches:
            flight._task(flight.run.ready(sky.now())[0])
        until(lambda: sky.weights() == {"1": 90, "2": 10}, 10)
        sky.registry.down = True
        flight.wait(LEASE_S + 20)
        until(lambda: sky.weights() == {"1": 100}, 10)
        assert "lease" in sky.notes()[record.ABORTED]
        sky.registry.down = False
        flight.wait(60)
    assert [one.state for one in sky.registry.rollouts_] == ["promoted", "rolled_back"] and core1.agree(sky) == []


def test_a_person_ends_it_with_one_write(skies: Any, dag: Any) -> None:
    """DEMAND ROL-6, ROL-8: as ``windtunnel rollout abort --seldon`` and the DAG ``windtunnel.control`` do it."""
    sky = core1.canary(skies(), dag)
    with hooked(lambda: sky):
        flight = Flight(sky, dag)
        while not flight.run.watches:
            flight._task(flight.run.ready(sky.now())[0])
        began = len(sky.cluster.requests)
        observed, note = abort_release(sky.home, sky.place(), MODEL, "callers complain", by="ann", now=sky.now())
        mine = [str(one) for one in sky.cluster.requests[began:] if "watch" not in one.query]
        assert [line.split()[0] for line in mine if line.endswith(EXPERIMENT)][:2] == ["GET", "PATCH"]
        assert sum(line.startswith("PATCH") for line in mine) == 1
        assert observed.aborted == "callers complain" and note is not None and note.by == "ann"
        assert sky.weights() == {"1": 100}
        flight.fly()
        flight.quiet(20.0)
    assert flight.run.states["outcome"] == "failed" and core1.agree(sky) == []


def test_killed_at_some_requests_it_ends_in_the_same_place(skies: Any, dag: Any) -> None:
    assert not core1.killed(skies, dag, lambda edges: edges[5 :: len(edges) // 2])


@pytest.mark.long
@pytest.mark.parametrize("errors", [None, "2"])
def test_killed_at_any_request_it_ends_in_the_same_place(skies: Any, dag: Any, errors: str | None) -> None:
    def harmed() -> Core2Sky:
        sky: Core2Sky = skies()
        sky.seldon.harm = f"{MODEL}-v{errors}" if errors else None
        return sky

    assert not core1.killed(harmed, dag, lambda edges: edges[::3], errors=errors)


@pytest.mark.parametrize(
    ("serving", "says"),
    [
        ({"api": "core1"}, ["the description says core1 (Core 1)", "api core2 (Core 2)"]),
        ({"maximum": 3, "scale": {"cpu": 50}}, ["serving.scale: Core 2 scales by"]),
        ({"environment": "torch"}, ["serving.environment: no image is named for"]),
        ({"log": True}, ["serving.log: nobody would collect", "set collector"]),
    ],
)
def test_what_this_cluster_cannot_do_is_refused_by_the_first_task(
    skies: Any, serving: dict[str, Any], says: list[str]
) -> None:
    """DEMAND ROL-14: nothing is left of it, in the registry or in the cluster."""
    from windtunnel import Model
    from windtunnel_airflow import release_dag

    plain = description().to_dict()
    plain["target"], plain["training"]["target"] = "kubernetes", "local"
    plain["serving"] |= serving
    sky = skies()
    sky.register("1")
    flight = core1.fly(sky, release_dag(Model.model_validate(plain)))
    assert flight.run.states["claim"] == flight.run.states["outcome"] == "failed"
    assert flight.run.states["rollback"] == flight.run.states["first.withdraw"] == "skipped"
    for words in ("'windtunnel_seldon'; nothing was changed", *says):
        assert words in flight.run.why["claim"]
    assert sky.registry.rollouts_ == [] and sky.registry.champions.get(MODEL) is None
    assert not sky.cluster.objects and not [one for one in sky.cluster.requests if one.method != "GET"]
