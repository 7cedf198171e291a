"""DEMAND PIP-5, ROL-6, ROL-7: a release that dies anywhere and is started again ends in the same place.

Every call that a release makes of the world is enumerated, first in an uninterrupted flight. Then whoever makes it
dies: before the call (nothing done), and after it (done, the answer lost). Airflow tries again, or comes too late.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from airborne import LEASE_S, MODEL, Flight, Sky, end_of, hooked, release_dag, whole

from windtunnel.spec.policy import Policy


@pytest.fixture(scope="module")
def dag() -> Any:
    return release_dag()


def canary(errors: float = 0.0, **more: Any) -> Sky:
    sky = Sky()
    sky.register("1")
    sky.crown("1")
    sky.register("2", errors=errors, **more)
    return sky


def first(errors: float = 0.0) -> Sky:
    sky = Sky()
    sky.register("1", errors=errors)
    return sky


def refused() -> Sky:
    """Policy asks for a scan from the moment in which traffic is the candidate's."""
    sky = canary()
    noted = sky.serving.on_route
    assert noted is not None

    def on_route(model: str) -> None:
        noted(model)
        if sky.serving.weights(model).get("2") == 100:
            sky.registry.policy_ = Policy(champion=["data-check", "evaluation", "rollout", "scan"])

    sky.serving.on_route = on_route
    return sky


SCENARIOS: dict[str, Callable[[], Sky]] = {
    "promoted": canary,
    "rolled back": lambda: canary(errors=0.5),
    "not ready": lambda: canary(broken=True),
    "refused by policy": refused,
    "first": first,
    "first withdrawn": lambda: first(errors=0.5),
}


def fly(make: Callable[[], Sky], dag: Any, **how: Any) -> tuple[Sky, Flight, dict[str, Any]]:
    sky = make()
    with hooked(lambda: sky):
        flight = Flight(sky, dag, **how)
        flight.fly()
        flight.quiet()
        return sky, flight, end_of(sky, flight.run)


def agree(sky: Sky) -> list[str]:
    """What is wrong when all is quiet, whatever the release came to."""
    wrong = whole(sky)
    champion, weights = sky.registry.champions.get(MODEL), sky.serving.weights(MODEL)
    if weights != ({champion: 100} if champion else {}):
        wrong.append(f"traffic {weights}, champion {champion}")
    if sky.intents_.found:
        wrong.append(f"an intent is left: {sky.intents_.found}")
    if MODEL in sky.serving.states and sky.serving.states[MODEL].release.lease_until is not None:
        wrong.append(f"a lease is left: {sky.serving.states[MODEL].release}")
    if not all(one.ended for one in sky.registry.rollouts_):
        wrong.append(f"a rollout is open: {sky.registry.rollouts_}")
    if len(sky.registry.commits) > len(set(sky.registry.commits)):
        wrong.append(f"promoted twice: {sky.registry.commits}")
    loaded = {version for _, version in sky.serving.up}
    if loaded - {champion} - {"1"}:
        wrong.append(f"still loaded: {loaded}, champion {champion}")
    return wrong


@pytest.mark.parametrize("name", SCENARIOS)
def test_dying_anywhere_and_tried_again_ends_in_the_same_place(name: str, dag: Any) -> None:
    sky, flight, wanted = fly(SCENARIOS[name], dag)
    assert agree(sky) == []
    edges = flight.passed
    assert len(edges) > 30
    wrong = {}
    for number, edge in enumerate(edges):
        sky, flight, found = fly(SCENARIOS[name], dag, die_at=number)
        assert flight.died == edge
        differs = {key: (found[key], wanted[key]) for key in wanted if found[key] != wanted[key]}
        if differs or agree(sky):
            wrong[number, edge] = (differs, agree(sky), flight.run.states)
    assert not wrong, f"{len(wrong)} of {len(edges)}: {next(iter(wrong.items()))}"


@pytest.mark.parametrize("name", SCENARIOS)
def test_airflow_that_comes_too_late_finds_all_settled(name: str, dag: Any) -> None:
    """The guard was alone for longer than any lease: rolled back, or finished, but never half."""
    _, flight, wanted = fly(SCENARIOS[name], dag)
    wrong = {}
    for number, edge in enumerate(flight.passed):
        sky, late, found = fly(SCENARIOS[name], dag, die_at=number, away=5 * LEASE_S)
        bad = agree(sky)
        if found["champion"] not in (wanted["champion"], "1", None):
            bad.append(f"champion {found['champion']}")
        if bad:
            wrong[number, edge] = (bad, late.run.states, late.run.why)
    assert not wrong, f"{len(wrong)} of {len(flight.passed)}: {next(iter(wrong.items()))}"


@pytest.mark.parametrize("name", SCENARIOS)
def test_airflow_that_never_comes_back(name: str, dag: Any) -> None:
    """ROL-6: the guard alone. A first release that was promoted stays: there is nothing to go back to."""
    _, flight, _ = fly(SCENARIOS[name], dag)
    wrong = {}
    for number, edge in enumerate(flight.passed):
        sky = SCENARIOS[name]()
        with hooked(lambda sky=sky: sky):  # type: ignore[misc]
            gone = Flight(sky, dag, die_at=number)
            gone.wait = _give_up  # type: ignore[method-assign]
            with pytest.raises(_Gone):
                gone.fly()
            del gone.wait  # type: ignore[attr-defined]
            gone.quiet(6 * LEASE_S)
        bad = [one for one in agree(sky) if not _may_stay(one, sky)]
        if bad:
            wrong[number, edge] = (bad, gone.run.states)
    assert not wrong, f"{len(wrong)} of {len(flight.passed)}: {next(iter(wrong.items()))}"


def _may_stay(what: str, sky: Sky) -> bool:
    """A rollout that never met a user: nobody has to act before somebody goes on with it."""
    exposed = any(version == "2" for version, _ in sky.exposed) or sky.registry.commits
    return not exposed and what.startswith(("a rollout is open", "still loaded"))


class _Gone(Exception):
    pass


def _give_up(seconds: float) -> None:
    raise _Gone
