"""DEMAND ROL-6, ROL-7: a promotion on Seldon that dies between any two of its calls, with nobody to try it again.

One guard runs on. In the end there is no lease and no intent on the object, traffic and registry tell one story, and
the next version can be released.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airborne import LEASE_S, MODEL, Died, Flight, attempt, hooked
from seldonsky import ClusterSky, agree, canary, cluster_dag, core1_world, worlds_of

#: The last that happened before the holder died (``!``: it was done), and the champion in the end: the candidate where
#: the registry has committed, else the one of before.
AROUND = {
    "registry.update_rollout!": "1",  # the registry says promoting; traffic is at 50 % still
    "registry.promote": "1",  # traffic is at 100 %, the registry has not committed
    "registry.promote!": "2",  # it has; on the object the version is a candidate under a lease
}


@pytest.fixture(scope="module")
def dag() -> Any:
    return cluster_dag()


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Callable[[], ClusterSky]]:
    with worlds_of(tmp_path, core1_world) as make:
        yield make


def cut(sky: ClusterSky, dag: Any, dies: Callable[[str, int], bool]) -> list[str]:
    """What a promotion called until it died; the guard has been alone for long after it.

    Args:
        dies: whether it does at a call (``!``: when it has been made), the how many-th of the promotion it is.
    """
    called: list[str] = []

    def on_edge(name: str) -> None:
        called.append(name)
        if dies(name, len(called)):
            raise Died

    with hooked(lambda: sky):
        flight = Flight(sky, dag)
        while "promote" not in (ready := flight.run.ready(sky.now())):
            flight._task(ready[0]) if ready else flight._looks()
        sky.world.on_edge = on_edge
        try:
            attempt(flight.run, "promote")
        except Died:
            pass
        finally:
            sky.world.on_edge = None
        callers = sky.world.__dict__.pop("advance")  # it takes long, and nobody counts their requests any more
        flight.wait(3 * LEASE_S)
        sky.world.advance = callers
    return called


def wrong(sky: ClusterSky, dag: Any) -> list[str]:
    """What is wrong when the guard has been alone, and with the next version's release."""
    found, champion = agree(sky), sky.registry.champions[MODEL]
    if sky.registry.rollouts_[-1].state != ("promoted" if champion == "2" else "rolled_back"):
        found.append(f"champion {champion}, rollout {sky.registry.rollouts_[-1].state}")
    sky.register("3")
    with hooked(lambda: sky):
        flight = Flight(sky, dag)
        while not flight.run.watches and not flight.run.over:
            ready = flight.run.ready(sky.now())
            flight._task(ready[0]) if ready else flight.wait(1.0)
    if sky.weights() != {champion: 90, "3": 10}:
        found.append(f"the next release: {sky.weights()}, {flight.run.states}, {flight.run.why}")
    return found


@pytest.mark.parametrize("last", AROUND)
def test_a_promotion_that_dies_around_the_commit_is_settled_by_the_guard(worlds: Any, dag: Any, last: str) -> None:
    sky = canary(worlds(), dag)
    assert cut(sky, dag, lambda name, number: name == last)[-1] == last
    assert (sky.registry.champions[MODEL], wrong(sky, dag)) == (AROUND[last], [])


@pytest.mark.long
def test_a_promotion_that_dies_anywhere_is_settled_by_the_guard(worlds: Any, dag: Any) -> None:
    whole = cut(canary(worlds(), dag), dag, lambda name, number: False)
    assert len(whole) > 20
    bad = {}
    for at in range(1, len(whole) + 1):
        sky = canary(worlds(), dag)
        called = cut(sky, dag, lambda name, number, at=at: number == at)  # type: ignore[misc]
        committed = "registry.promote!" in called
        found = wrong(sky, dag)
        if found or sky.registry.champions[MODEL] != ("2" if committed else "1"):
            bad[at, called[-1]] = found, sky.registry.champions[MODEL]
    assert not bad, f"{len(bad)} of {len(whole)}: {bad}"
