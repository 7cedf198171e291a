"""DEMAND PIP-5, ROL-6, ROL-7, ROL-10: releases by the real DAG on Seldon, killed at requests to the API, and the guard.

The real operators, gate, backend, journal and guard, over HTTP to an API, an operator, a gateway and a Prometheus of
the tests' own; time, Airflow and the registry are those of ``airborne``. Each task is a process of its own: it has seen
nothing, and has no file of another one's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airborne import LEASE_S, MODEL, Flight, hooked, look
from seldonsky import SDEP, ClusterSky, agree, canary, cluster_dag, core1_world, fly, harm, worlds_of
from waiting import until

from windtunnel.serving.release.abort import abort_release
from windtunnel.serving.release.settling import HEED_EVERY_S
from windtunnel.serving.seldon import record


@pytest.fixture(scope="module")
def dag() -> Any:
    return cluster_dag()


@pytest.fixture
def skies(tmp_path: Path) -> Iterator[Callable[[], ClusterSky]]:
    with worlds_of(tmp_path, core1_world) as make:
        yield make


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


def test_a_model_that_somebody_else_serves_is_refused_by_the_first_task(skies: Any, dag: Any) -> None:
    """Made by hand, with an explainer, a router and weights of its own: it stays as it is, and nothing is begun."""
    sky = skies()
    sky.register("1")
    component = {"metadata": {"name": "x"}, "spec": {"containers": []}}
    main = {"name": "main", "labels": {}, "traffic": 100, "explainer": {"type": "T"}, "componentSpecs": [component]}
    theirs = {
        "apiVersion": "machinelearning.seldon.io/v1",
        "kind": "SeldonDeployment",
        "metadata": {"name": MODEL},
        "spec": {"protocol": "v2", "predictors": [main]},
    }
    sky.cluster.put("seldondeployments", theirs)
    flight = fly(sky, dag)
    assert flight.run.states["claim"] == "failed" and sky.registry.rollouts_ == []
    assert "nothing was changed" in flight.run.why["claim"] and "not Windtunnel's" in flight.run.why["claim"]
    assert sky.live()["spec"] == theirs["spec"]


def test_a_first_release_that_does_harm_serves_nobody(skies: Any, dag: Any) -> None:
    """DEMAND ROL-10"""
    sky = skies()
    sky.register("1")
    flight = fly(sky, dag, errors="1")
    assert (flight.run.states["first.watch"], flight.run.states["first.withdraw"]) == ("failed", "success")
    assert sky.registry.champions.get(MODEL) is None and agree(sky) == []
    # The request that writes the decision down is the one that takes the traffic: it may be the last for minutes.
    writes = [one.body for one in sky.cluster.requests if one.method == "PATCH"]
    last = next(one for one in writes if "withdraw" in one["metadata"]["annotations"].get(record.SAID, ""))
    assert [one["replicas"] for one in writes[writes.index(last) - 1]["spec"]["predictors"]] == [1]
    assert [one["replicas"] for one in last["spec"]["predictors"]] == [0]


def test_the_guard_alone_ends_what_a_first_watch_has_found(skies: Any, dag: Any) -> None:
    """DEMAND ROL-10: Airflow is gone for good with the look that says so."""
    sky = skies()
    sky.register("1")
    harm(sky, "1")
    with hooked(lambda: sky):
        flight = Flight(sky, dag)
        while not flight.run.watches:
            flight._task(flight.run.ready(sky.now())[0])
        (watch,) = flight.run.watches.values()
        while look(sky, watch) is None:
            flight.wait(5.0)
        assert sky.weights() == {} and sky.registry.champions[MODEL] == "1"
        flight.wait(90.0)
    assert sky.registry.champions.get(MODEL) is None and agree(sky) == []
    assert [one.state for one in sky.registry.rollouts_] == ["withdrawn"]


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


def test_a_release_that_began_while_the_guard_asked_the_registry_keeps_its_traffic(skies: Any, dag: Any) -> None:
    """The guard asked when there was no release, and was held up until there was one."""
    sky = canary(skies(), dag)
    asked = sky.registry.champion
    with hooked(lambda: sky):
        flight = Flight(sky, dag, guarded=False)

        def late(model: str) -> Any:
            sky.registry.champion = asked  # type: ignore[method-assign]
            found = asked(model)
            while not flight.run.watches:
                flight._task(flight.run.ready(sky.now())[0])
            return found

        sky.registry.champion = late  # type: ignore[method-assign]
        flight.wait(2 * HEED_EVERY_S)
        sky.guard.tend()
        assert flight.run.watches and sky.weights() == {"1": 90, "2": 10}
        flight.guarded = True
        flight.fly()
        flight.quiet(20.0)
    assert flight.run.states["outcome"] == "success" and agree(sky) == [], flight.run.why


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
    assert len(edges) > 40
    wrong, dead = {}, 0
    for number in sample(edges):
        sky = canary(skies(), dag)
        again = fly(sky, dag, die_at=number, **how)
        dead += again.died is not None  # threads and chance make some flights shorter than the first
        champion = sky.registry.champions[MODEL]
        if agree(sky) or champion != ("1" if how.get("errors") else "2"):
            wrong[number, again.died] = agree(sky), champion, again.run.states, ends
    assert dead >= len(sample(edges)) * 0.8
    return wrong


def test_killed_at_some_requests_it_ends_in_the_same_place(skies: Any, dag: Any) -> None:
    assert not killed(skies, dag, lambda edges: edges[5 :: len(edges) // 4])


@pytest.mark.long
@pytest.mark.parametrize("errors", [None, "2"])
def test_killed_at_any_request_it_ends_in_the_same_place(skies: Any, dag: Any, errors: str | None) -> None:
    assert not killed(skies, dag, lambda edges: edges[::3], errors=errors)
