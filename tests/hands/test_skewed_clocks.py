"""DEMAND ROL-6: clocks that differ. The guard's from the holder's: a lease is a length of time, so a guard that is
behind or ahead, by however much, harms no release that it sees begin, and keeps none. One that starts while a release
flies, and is ahead by the lease or more, takes the candidates back at once, and says by how much the lease is over.

Prometheus' from the triggerer's: numbers whose time is wrong show harm, and let nothing pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airborne import LEASE_S, MODEL, Flight, Sky, hooked
from seldonsky import ClusterSky, agree, canary, cluster_dag, core1_world, fly, worlds_of
from simulator import flying, simulate

from windtunnel.serving.release.lease import Clock, Sightings
from windtunnel.serving.seldon import record


@pytest.fixture(scope="module")
def dag() -> Any:
    return cluster_dag()


@pytest.fixture
def skies(tmp_path: Path) -> Iterator[Callable[..., ClusterSky]]:
    with worlds_of(tmp_path, core1_world) as make:
        yield make


def skewed(sky: ClusterSky, seconds: float) -> None:
    """The guard's clock on the wall is ahead by so much; what it counts seconds by is another clock."""
    true = sky.world.clock
    sky.guard._clock = lambda: Clock(true().wall + seconds, true().monotonic)


def watched(sky: ClusterSky, dag: Any) -> Flight:
    """A release whose candidate has its first callers."""
    flight = Flight(sky, dag, tick_s=4.0)
    while not flight.run.watches:
        flight._task(flight.run.ready(sky.now())[0])
    assert sky.weights() == {"1": 90, "2": 10}
    return flight


@pytest.mark.parametrize("ahead", [3600.0, *(pytest.param(n, marks=pytest.mark.long) for n in (-3600.0, LEASE_S / 2))])
def test_a_guard_whose_clock_differs_harms_no_release_and_keeps_none(skies: Any, dag: Any, ahead: float) -> None:
    sky = canary(skies(follow=False), dag)
    skewed(sky, ahead)
    with hooked(lambda: sky):
        flight = watched(sky, dag)
        flight.fly()
        flight.quiet(20.0)
        assert flight.run.states["outcome"] == "success" and agree(sky) == [], flight.run.why
        sky.register("3")
        flight = Flight(sky, dag, tick_s=4.0)
        while not flight.run.watches:
            flight._task(flight.run.ready(sky.now())[0])
        assert sky.weights() == {"2": 90, "3": 10}
        flight.wait(LEASE_S + 5.0)  # nobody looks any more
        assert sky.weights() == {"2": 100} and "lease" in sky.notes()[record.ABORTED]


def test_a_guard_that_starts_ahead_by_more_than_the_lease_takes_back_and_says_so(skies: Any, dag: Any) -> None:
    sky = canary(skies(follow=False), dag)
    skewed(sky, 5 * LEASE_S)
    with hooked(lambda: sky):
        flight = watched(sky, dag)
        flight.wait(1.0)
        assert sky.weights() == {"1": 90, "2": 10}
        sky.guard._sightings = Sightings()  # as one that has just started
        flight.wait(1.0)
        assert sky.weights() == {"1": 100}
        assert f"lease ended {4 * LEASE_S + 2:.1f} s ago" in sky.notes()[record.ABORTED]
        flight.fly()
        flight.quiet(20.0)
    assert flight.run.states["outcome"] == "failed" and agree(sky) == []


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("ahead", [LEASE_S / 2, 3600.0])
def test_no_invariant_breaks_whatever_else_happens(monkeypatch: pytest.MonkeyPatch, ahead: float) -> None:
    """Kills, pauses, outages, takeovers (``simulator.py``), by guards that are ahead: no candidate outlives its lease,
    and all ends with one champion. (One that is behind unloads late, which is told.)"""
    made = Sky.new_guard

    def new_guard(sky: Sky) -> Any:
        guard, true = made(sky), sky.world.clock
        guard._clock = lambda: Clock(true().wall + ahead, true().monotonic)
        return guard

    monkeypatch.setattr(Sky, "new_guard", new_guard)
    with flying() as dag:
        for seed in range(2_000):
            simulate(seed, dag)


@pytest.mark.parametrize(
    ("ahead", "harm", "said"),
    [
        pytest.param(4.0, False, "success", marks=pytest.mark.long),
        (600.0, False, "from 600 s in the future"),
        pytest.param(-600.0, False, "s old, more than 15 s", marks=pytest.mark.long),
        pytest.param(-600.0, True, "", marks=pytest.mark.long),
    ],
)
def test_prometheus_clock_differs(skies: Any, dag: Any, ahead: float, harm: bool, said: str) -> None:
    """By a little it is borne; by more nothing passes, and the look says why; harm is found all the same."""
    sky = canary(skies(follow=False), dag)
    sky.seldon.clock = lambda: sky.world.wall + ahead
    flight = fly(sky, dag, errors="2" if harm else None, tick_s=4.0)
    rollout = [p.verdict for p in sky.registry.posted.values() if str(p.verdict.kind) == "rollout"][-1]
    assert agree(sky) == [] and rollout.version == "2"
    if said == "success":
        assert (flight.run.states["outcome"], sky.registry.champions[MODEL]) == ("success", "2"), flight.run.why
        return
    assert (flight.run.states["outcome"], sky.registry.champions[MODEL]) == ("failed", "1")
    assert str(rollout.outcome) == ("FAIL" if harm else "INCONCLUSIVE")
    if not harm:
        looks = sky.place().looks(MODEL).all()
        assert said in str(looks), looks[-1]["decision"]
