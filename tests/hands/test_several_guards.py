"""DEMAND OPS-9, ROL-6, ROL-7: several guards at once, each alone, killed and held up at any call: one rollback, one
record, nothing flaps (decision 0026)."""

from __future__ import annotations

import importlib.util
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from airborne import LEASE_S, Flight, hooked
from guards import Guards
from seldonsky import ClusterSky, agree, canary, cluster_dag, core1_world, worlds_of
from simulator import flying, simulate
from waiting import until

from windtunnel.serving.seldon import record

_spec = importlib.util.spec_from_file_location("hands_on_core2", Path(__file__).with_name("test_on_core2.py"))
assert _spec is not None and _spec.loader is not None
core2 = importlib.util.module_from_spec(_spec)
sys.modules.setdefault(_spec.name, core2)
_spec.loader.exec_module(core2)


FEW, MANY = 25, 20_000
#: Worlds in which something was wrong once, and how many guards there were.
ONCE = (
    (1539, 3),  # two judged the same rollout, each in its own words; the first one's word counts, so they are one
    (4318, 2),  # one asked for the champion before a release, woke up within it, and took its candidates away
    (12554, 2),  # one finished a first release by the registry's word of before it was withdrawn, and it kept serving
)


def test_no_invariant_breaks() -> None:
    """Two and three of them, all but one held up for minutes at times."""
    with flying() as dag:
        for seed in range(FEW):
            simulate(seed, dag, guards=2 + seed % 2)
        for seed, guards in ONCE:
            simulate(seed, dag, guards=guards)


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_no_invariant_breaks_in_many_worlds() -> None:
    with flying() as dag:
        for seed in range(1_000, 1_000 + MANY):
            simulate(seed, dag, guards=2 + seed % 2)


# -- on Seldon, over HTTP


@pytest.fixture(scope="module")
def dag() -> Any:
    return cluster_dag()


@pytest.fixture
def skies(tmp_path: Path) -> Iterator[Callable[[str, int], ClusterSky]]:
    """Worlds by API and seed, one after the other."""

    def world(folder: Path, running: ExitStack, api: str, seed: int) -> ClusterSky:
        sky: ClusterSky = (core2.core2_world if api == "core2" else core1_world)(folder, running)
        sky.guard = Guards(sky, 2 + seed % 2, seed)  # type: ignore[assignment]
        return sky

    with worlds_of(tmp_path, world) as make:
        yield make


def writes(sky: ClusterSky) -> list[dict[str, Any]]:
    """The model's own object after each change of what we say of it, oldest first."""
    found: list[dict[str, Any]] = []
    for _, _, plural, thing in sky.cluster.history:
        if plural in ("seldondeployments", "experiments"):
            ours = {"annotations": thing["metadata"].get("annotations", {}), "spec": thing["spec"]}
            if not found or found[-1] != ours:
                found.append(ours)
    return found


def wrong(sky: ClusterSky, began: int) -> list[str]:
    """What is wrong when all is quiet, of the writes from ``began`` on: a candidate is taken back once, and stays back;
    one verdict."""
    found = agree(sky)
    marks = [one["annotations"].get(record.ABORTED, "") for one in writes(sky)[began:]]
    begun = [mark for before, mark in zip(["", *marks], marks, strict=False) if mark and mark != before]
    if len(begun) > 1:
        found.append(f"taken back {len(begun)} times: {begun}")
    told = Counter(
        posted.verdict.version for posted in sky.registry.posted.values()
        if str(posted.verdict.kind) == "rollout" and str(posted.verdict.outcome) != "PASS"
    )  # fmt: skip
    if any(count > 1 for count in told.values()):
        found.append(f"judged more than once: {told}")
    return found


@pytest.mark.parametrize("api", ["core1", "core2"])
def test_a_lease_that_ends_while_the_registry_is_away_is_ended_once(skies: Any, dag: Any, api: str) -> None:
    """Airflow is gone for good."""
    sky = canary(skies(api, 7), dag)
    began = len(writes(sky))
    with hooked(lambda: sky):
        flight = Flight(sky, dag)
        while not flight.run.watches:
            flight._task(flight.run.ready(sky.now())[0])
        until(lambda: sky.weights() == {"1": 90, "2": 10}, 10)
        sky.registry.down = True  # type: ignore[attr-defined]
        flight.wait(LEASE_S + 20)
        until(lambda: sky.weights() == {"1": 100}, 10)
        sky.registry.down = False  # type: ignore[attr-defined]
        flight.wait(60)
    assert [one.state for one in sky.registry.rollouts_] == ["promoted", "rolled_back"] and wrong(sky, began) == []
