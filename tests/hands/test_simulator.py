"""DEMAND ROL-6, ROL-7, PIP-5: whatever dies, stalls, comes twice or comes late, no invariant of a release breaks.

``simulator.py`` says what may happen and what must hold. That it would notice is shown with each guard of the code
taken out (``mutations.py``): all are found within 1,000 seeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from mutations import MUTATIONS, Mutation, without
from simulator import Violation, flying, simulate

#: Seeds of the ordinary run; those with which the long run goes on. The first find most guards that are taken out.
FEW, MANY, TO_FIND = 200, 100_000, 1_000


@pytest.fixture(scope="module")
def dag() -> Iterator[Any]:
    with flying() as made:
        yield made


def lived(seeds: range, dag: Any) -> int:
    for seed in seeds:
        simulate(seed, dag)
    return len(seeds)


@pytest.mark.timeout(300)
def test_no_invariant_breaks(dag: Any) -> None:
    assert lived(range(FEW), dag) == FEW


#: Worlds in which something was wrong once.
ONCE = (
    103_241,  # a late task gave an aborted candidate traffic, when another champion had got it meanwhile
    122_830,  # a promoted version's traffic was refused at the second try, when the guard had aborted it meanwhile
    107_448,  # the guard gave a first release its traffic back while it was being withdrawn
)


@pytest.mark.parametrize("seed", ONCE)
def test_what_was_wrong_once_stays_right(seed: int, dag: Any) -> None:
    simulate(seed, dag)


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_no_invariant_breaks_in_a_hundred_thousand_worlds(dag: Any) -> None:
    assert lived(range(100_000, 100_000 + MANY), dag) == MANY


def test_a_seed_is_one_story(dag: Any) -> None:
    """The same seed, the same story: what is found can be looked at."""
    stories = [simulate(seed, dag).story for seed in (5, 5, 6)]
    assert stories[0] == stories[1] != stories[2]
    assert len(stories[0]) > 20


def test_the_seeds_differ_in_what_happens(dag: Any) -> None:
    """Among few seeds: promoted, rolled back, finished by the guard, taken over, a registry that is down."""
    told = "\n".join(line for seed in range(100) for line in simulate(seed, dag).story)
    happened = (
        "champion 2", "registry.withdraw", "the registry is down", "Airflow is down", "is paused", "dies at",
        "gets no answer", "the clock jumps", "run-2 begins", "taken over",
        "guard-tend                   serving.accept",
    )  # fmt: skip
    for what in happened:
        assert what in told, what


def find(mutation: Mutation, seeds: range, dag: Any) -> int | None:
    """The first seed that shows that the guard is missing."""
    with without(mutation):
        for seed in seeds:
            try:
                simulate(seed, dag)
            except Violation:
                return seed
    return None


@pytest.mark.parametrize("mutation", MUTATIONS[::4], ids=lambda mutation: mutation.name)
@pytest.mark.timeout(300)
def test_a_guard_taken_out_is_found(mutation: Mutation, dag: Any) -> None:
    assert find(mutation, range(TO_FIND), dag) is not None


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_every_guard_taken_out_is_found(mutation: Mutation, dag: Any) -> None:
    assert find(mutation, range(TO_FIND), dag) is not None


def test_every_guard_is_where_the_table_says(dag: Any) -> None:
    for mutation in MUTATIONS:
        with without(mutation):
            pass
    with (
        pytest.raises(LookupError, match="no_such_guard"),
        without(Mutation("x", "windtunnel.serving.desired:accept", "no_such_guard", "False")),
    ):
        pass
