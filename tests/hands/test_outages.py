"""DEMAND PIP-5, ROL-6, ROL-7: the Kubernetes API, or Prometheus, goes away for three minutes at any request of a
release, on both of Seldon's APIs. That is longer than the lease, the patience of a request and most tasks' tries.

A release that this befalls ends as one that nothing befell, or goes back; it never stops between the two, and leaves
nothing behind. What does harm and could not be taken back goes back when the API answers again.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import pytest
from airborne import LEASE_S, Died, Flight, hooked
from outages import How, Outage, deployed, wrong
from seldonsky import ClusterSky, agree, canary, cluster_dag, core1_world, harm, worlds_of

from windtunnel.serving.seldon import record

_spec = importlib.util.spec_from_file_location("hands_on_core2", Path(__file__).with_name("test_on_core2.py"))
assert _spec is not None and _spec.loader is not None
core2 = importlib.util.module_from_spec(_spec)
sys.modules.setdefault(_spec.name, core2)
_spec.loader.exec_module(core2)

WORLDS = {"core1": core1_world, "core2": core2.core2_world}
Make = Callable[..., ClusterSky]


@pytest.fixture(scope="module")
def dag() -> Any:
    return cluster_dag()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[[str], Make]]:
    with ExitStack() as running:
        yield lambda api: running.enter_context(worlds_of(tmp_path, WORLDS[api]))


def befallen(
    skies: Make, dag: Any, *, harmful: bool, first: bool = False, **outage: Any
) -> tuple[ClusterSky, Flight, Outage]:
    """A release of version 2 beside champion 1, or the first one of the model."""
    sky = skies(follow=False)
    if first:
        sky.register("1")
    else:
        canary(sky, dag, guarded=False)
    if harmful:
        harm(sky, "1" if first else "2")
    weather = Outage(sky, **outage)
    return sky, weather.fly(dag), weather


def every(
    make: Any, dag: Any, api: str, how: How, harmful: bool, sample: Callable[[int], range], *, first: bool = False
) -> dict[Any, Any]:
    """What went wrong, by the request that the outage began with."""
    skies, found, begun = make(api), {}, 0
    sky, calm, weather = befallen(skies, dag, harmful=harmful, first=first, at=None)
    assert not wrong(sky, calm, weather, harmful=harmful)
    for number in (numbers := sample(weather.asked)):
        sky, flight, weather = befallen(skies, dag, harmful=harmful, first=first, at=number, how=how)
        begun += weather.first is not None  # the tests' own threads make some releases shorter than the first
        if bad := wrong(sky, flight, weather, harmful=harmful):
            found[number, weather.first] = bad, flight.run.states, flight.run.why
    assert found or begun >= len(numbers) * 0.7
    return found


@pytest.mark.parametrize(("api", "how", "harmful"), [("core1", "lost", True)])
def test_an_outage_at_some_requests(make: Any, dag: Any, api: str, how: How, harmful: bool) -> None:
    assert not every(make, dag, api, how, harmful, lambda asked: range(asked // 3, asked - asked // 4, asked // 3))


@pytest.mark.parametrize(("api", "how", "harmful"), [("core1", "503", True)])
def test_an_outage_at_some_requests_of_a_first_release(make: Any, dag: Any, api: str, how: How, harmful: bool) -> None:
    """DEMAND ROL-10: while it is promoted, and when its watch has found harm."""
    numbers = every(
        make, dag, api, how, harmful, lambda asked: range(asked // 4, asked * 2 // 3, asked // 3), first=True
    )
    assert not numbers


def waited_out(make: Any, api: str, how: How, seconds: float = 180.0) -> None:
    """The outage begins when the triggerer waits for version 2, and is shorter than the version may take."""
    dag = cluster_dag(ready_within="10m")
    sky, flight, weather = befallen(make(api), dag, harmful=False, at="deploy", how=how, seconds=seconds)
    assert weather.first == "deploy" and not wrong(sky, flight, weather, harmful=False)
    assert (flight.run.states["outcome"], flight.run.tries) == ("success", {}), flight.run.why


@pytest.mark.parametrize(("api", "how"), [("core1", "401")])
def test_a_version_is_waited_for_as_long_as_it_may_take(make: Any, api: str, how: How) -> None:
    """DEMAND SRV-2, PIP-5: no try of the task is spent on it."""
    waited_out(make, api, how, seconds=40.0)


@pytest.mark.parametrize(("api", "how"), [("core1", 401), ("core2", "cut")])
def test_the_guard_alone_takes_back_when_the_api_answers_again(make: Any, dag: Any, api: str, how: int | str) -> None:
    """DEMAND ROL-6: Airflow is gone for good, and the lease ends while the API is away. Nothing that was tried in vain
    is forgotten: the first round of the guard that is answered takes the candidate back."""
    sky = canary(make(api)(follow=False), dag)
    with hooked(lambda: sky):
        flight = Flight(sky, dag)
        while not flight.run.watches:
            flight._task(flight.run.ready(sky.now())[0])
        assert sky.weights() == {"1": 90, "2": 10}
        sky.cluster.away, flight.tick_s = how, LEASE_S
        flight.wait(3 * LEASE_S)
        assert sky.weights() == {"1": 90, "2": 10}, "nobody can write"
        sky.cluster.away, began = "", len(sky.cluster.requests)
        sky.guard.watch()
        assert sky.weights() == {"1": 100} and "lease" in sky.notes()[record.ABORTED]
        assert sum(one.method == "PATCH" for one in sky.cluster.requests[began:]) == 1
        flight.tick_s = 1.0
        flight.wait(20.0)
    assert [one.state for one in sky.registry.rollouts_] == ["promoted", "rolled_back"] and agree(sky) == []


@pytest.mark.parametrize(("api", "how"), [("core1", "cut")])
def test_the_guard_alone_takes_a_first_release_back_when_the_api_answers_again(
    make: Any, dag: Any, api: str, how: int | str
) -> None:
    """DEMAND ROL-6, ROL-10: Airflow is gone for good, between the traffic and the registry's commit."""
    sky = make(api)(follow=False)
    sky.register("1")

    def die(*_: Any, **__: Any) -> None:
        raise Died

    sky.registry.promote = die  # type: ignore[method-assign]
    with hooked(lambda: sky):
        flight = Flight(sky, dag, away=0.0)
        while not flight.run.tries:
            flight._task(flight.run.ready(sky.now())[0])
        assert sky.weights() == {"1": 100} and flight.run.tries == {"first.promote": 1}
        sky.cluster.away, flight.tick_s = how, LEASE_S
        flight.wait(3 * LEASE_S)
        assert sky.weights() == {"1": 100}, "nobody can write"
        sky.cluster.away, began = "", len(sky.cluster.requests)
        sky.guard.watch()
        assert sky.weights() == {} and "lease" in sky.notes()[record.ABORTED]
        assert sum(one.method == "PATCH" for one in sky.cluster.requests[began:]) == 1
        flight.tick_s = 1.0
        flight.wait(20.0)
    assert [one.state for one in sky.registry.rollouts_] == ["withdrawn"] and agree(sky) == []


@pytest.mark.long
@pytest.mark.parametrize("api", WORLDS)
def test_a_former_champion_that_could_not_be_removed_goes_later(make: Any, dag: Any, api: str) -> None:
    sky = canary(make(api)(follow=False), dag)
    assert Outage(sky, at=None).fly(dag).run.states["outcome"] == "success"
    assert deployed(sky) == {"1", "2"}
    sky.world.wall += 25 * 3600.0
    sky.cluster.away = 503
    sky.guard.tend()
    assert deployed(sky) == {"1", "2"}
    sky.cluster.away = ""
    for _ in range(3):  # on Core 2 the record, the Model, then its Server
        sky.guard.tend()
    assert deployed(sky) == {"2"} and agree(sky) == []


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("harmful", [False, True], ids=["well", "harmful"])
@pytest.mark.parametrize("how", get_args(How))
@pytest.mark.parametrize("api", WORLDS)
def test_an_outage_at_any_request(make: Any, dag: Any, api: str, how: How, harmful: bool) -> None:
    assert not every(make, dag, api, how, harmful, lambda asked: range(1, asked, 3))


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("harmful", [False, True], ids=["well", "harmful"])
@pytest.mark.parametrize("how", get_args(How))
@pytest.mark.parametrize("api", WORLDS)
def test_an_outage_at_any_request_of_a_first_release(make: Any, dag: Any, api: str, how: How, harmful: bool) -> None:
    assert not every(make, dag, api, how, harmful, lambda asked: range(1, asked, 3), first=True)


@pytest.mark.long
@pytest.mark.parametrize("how", [how for how in get_args(How) if how != "prometheus"])
@pytest.mark.parametrize("api", WORLDS)
def test_a_version_is_waited_for_through_any_outage(make: Any, api: str, how: How) -> None:
    waited_out(make, api, how)
