"""DEMAND ROL-1, ROL-11: every strategy through the real DAG and operators: what users meet, in order, and dying."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from airborne import MODEL, Flight, Sky, end_of, hooked, release_dag, whole
from brain import scripted

from windtunnel.spec.policy import Policy

GATES = [{"metric": "errors", "margin": 0.02}]
BETTER = [{"metric": "errors", "margin": 0.02, "superior": 0.01}]
HOLD = {"hold": "10s", "min_requests": 5}
#: Strategy, and (weight, mirrored percent) that the candidate has one after the other.
STRATEGIES: dict[str, tuple[dict[str, Any], list[tuple[int, int]]]] = {
    "canary": ({"steps": [{"weight": 10, **HOLD}]}, [(0, 0), (10, 0), (100, 0)]),
    "canary with mirror and bake": (
        {"steps": [{"weight": 0, "mirror": 50, **HOLD}, {"weight": 10, **HOLD}], "bake": "10s"},
        [(0, 0), (0, 50), (10, 0), (100, 0)],
    ),
    "blue-green": ({"strategy": "blue_green", "steps": [{"weight": 100, **HOLD}]}, [(0, 0), (100, 0)]),
    "shadow": (
        {"strategy": "shadow", "steps": [{"weight": 0, "mirror": 100, **HOLD}]},
        [(0, 0), (0, 100), (100, 0)],
    ),
    "ab": (
        {"strategy": "ab", "steps": [{"weight": 50, **HOLD}], "gates": BETTER, "sticky": "x-user"},
        [(0, 0), (50, 0), (100, 0)],
    ),
    "all at once": ({"strategy": "all_at_once", "steps": []}, [(0, 0), (100, 0)]),
    "all at once with bake": ({"strategy": "all_at_once", "steps": [], "bake": "10s"}, [(0, 0), (100, 0)]),
}


@pytest.fixture(autouse=True)
def scripts() -> Iterator[None]:
    with scripted():
        yield


def world(*, errors: float = 0.0) -> Sky:
    sky = Sky()
    sky.registry.policy_ = Policy(champion=["data-check", "evaluation"])
    sky.register("1")
    sky.crown("1")
    sky.register("2", errors=errors)
    return sky


def fly(sky: Sky, dag: Any, **how: Any) -> tuple[Flight, list[tuple[int, int]]]:
    """The flight, and what the candidate had in the router, in order."""
    met: list[tuple[int, int]] = []
    noted = sky.serving.on_route

    def on_route(model: str) -> None:
        assert noted is not None
        noted(model)
        seen = (sky.serving.weights(model).get("2", 0), sky.serving.observe(model).mirror)
        if met[-1:] != [seen]:
            met.append(seen)

    sky.serving.on_route = on_route
    with hooked(lambda: sky):
        flight = Flight(sky, dag, **how)
        flight.fly()
        flight.quiet()
    return flight, met


@pytest.mark.parametrize("name", STRATEGIES)
def test_users_meet_the_plan_and_nothing_else(name: str) -> None:
    rollout, wanted = STRATEGIES[name]
    sky = world()
    flight, met = fly(sky, release_dag(**{"gates": GATES, **rollout}))
    # Deploying changes no route where the champion had all traffic before.
    assert [(0, 0), *(one for one in met if one != (0, 0))] == wanted
    assert flight.run.states["outcome"] == "success", flight.run.why
    assert sky.serving.weights(MODEL) == {"2": 100}
    assert whole(sky) == []


@pytest.mark.parametrize("name", [name for name in STRATEGIES if name != "all at once"])
def test_harm_ends_at_zero_in_every_strategy(name: str) -> None:
    rollout, _ = STRATEGIES[name]
    sky = world(errors=0.5)
    flight, met = fly(sky, release_dag(**{"gates": GATES, **rollout}))
    assert sky.serving.weights(MODEL) == {"1": 100}
    assert met[-1] == (0, 0)
    assert sky.registry.rollouts_[-1].state == "rolled_back"
    assert flight.run.states["outcome"] == "failed"


@pytest.mark.parametrize("name", ["canary with mirror and bake", "blue-green", "shadow", "all at once"])
def test_dying_anywhere_ends_in_the_same_place_in_every_strategy(name: str) -> None:
    rollout, _ = STRATEGIES[name]
    dag = release_dag(**{"gates": GATES, **rollout})
    flight, _ = fly(sky := world(), dag)
    wanted = end_of(sky, flight.run)
    for number, edge in enumerate(flight.passed):
        again, _ = fly(sky := world(), dag, die_at=number)
        assert again.died == edge
        assert end_of(sky, again.run) == wanted, (number, edge, again.run.why)
        assert whole(sky) == []


# -- refused before anything moves


def refused(sky: Sky, dag: Any, **conf: Any) -> str:
    """The reason of the claim; nothing has moved."""
    before = sky.serving.writes
    with hooked(lambda: sky):
        flight = Flight(sky, dag)
        flight.run.conf = conf
        flight.fly()
    assert sky.serving.writes == before, "something moved"
    assert flight.run.states["claim"] in ("failed", "skipped")
    assert sky.registry.versions_[MODEL, "2"].state == "candidate" or conf
    return flight.run.why["claim"]


def test_a_candidate_that_does_not_accept_the_champions_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """DEMAND ROL-11"""
    sky = world()
    monkeypatch.setattr(sky.serving, "refusals", lambda release: ["column 'a' became text"])
    why = refused(sky, release_dag())
    assert "column 'a' became text" in why
    assert "blue_green" in why
    assert sky.registry.rollouts_ == []
    flight, _ = fly(sky, release_dag(strategy="blue_green", steps=[{"weight": 100, **HOLD}]))
    assert flight.run.states["outcome"] == "success", "behind a switch of its own it may go"


def test_a_version_that_is_not_sealed() -> None:
    sky = world()
    sky.registry.register(MODEL, "3", "sha256:3", status="FAILED_REGISTRATION")
    assert "not READY" in refused(sky, release_dag(), version="3")


def test_the_champion_itself() -> None:
    assert "champion already" in refused(world(), release_dag(), version="1")


def test_a_version_that_nobody_registered() -> None:
    assert "has no version 7" in refused(world(), release_dag(), version="7")


def test_a_second_rollout_of_the_model() -> None:
    """DEMAND ROL-7"""
    sky = world()
    sky.register("3")
    sky.registry.open_rollout(MODEL, "3", plan={}, holder="somebody", correlation_id=None)
    assert "a rollout of version 3 is open" in refused(sky, release_dag(), version="2")


def test_all_at_once_where_the_policy_wants_evidence() -> None:
    sky = world()
    sky.registry.policy_ = Policy()
    assert "rollout.bake" in refused(sky, release_dag(strategy="all_at_once", steps=[]))
