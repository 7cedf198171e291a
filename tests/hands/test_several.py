"""DEMAND ROL-14, PIP-5, ROL-6, ROL-7: several candidates in one release, through the real DAG and operators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from airborne import LEASE_S, MODEL, Flight, Sky, end_of, hooked, release_dag, whole
from brain import scripted

from windtunnel.spec.policy import Policy

HOLD = {"hold": "10s", "min_requests": 5}
AB = {
    "strategy": "ab",
    "steps": [{"weight": 60, **HOLD}],
    "gates": [{"metric": "errors", "margin": 0.02, "superior": 0.01}],
    "sticky": "x-user",
}


@pytest.fixture(autouse=True)
def scripts() -> Iterator[None]:
    with scripted():
        yield


@pytest.fixture(scope="module")
def dag() -> Any:
    return release_dag(**AB)


def world(errors: dict[str, float], *, policy: list[str] | None = None) -> Sky:
    sky = Sky()
    sky.registry.policy_ = Policy(champion=policy or ["data-check", "evaluation", "rollout"])
    sky.register("1")
    sky.crown("1")
    for version, rate in errors.items():
        sky.register(version, errors=rate)
    return sky


def fly(sky: Sky, dag: Any, *, beside: Any = ("3", "4"), version: str = "2", **how: Any) -> tuple[Flight, list[Any]]:
    """The flight, and the weights that users met, in order."""
    met: list[dict[str, int]] = []
    noted = sky.serving.on_route

    def on_route(model: str) -> None:
        assert noted is not None
        noted(model)
        if met[-1:] != [sky.serving.weights(model)]:
            met.append(sky.serving.weights(model))

    sky.serving.on_route = on_route
    with hooked(lambda: sky):
        flight = Flight(sky, dag, **how)
        flight.run.conf = {"version": version, "beside": list(beside)}
        flight.fly()
        flight.quiet()
    return flight, met


GOOD = {"2": 0.0, "3": 0.0, "4": 0.0}
ONE_BAD = {"2": 0.5, "3": 0.0, "4": 0.0}
ALL_BAD = dict.fromkeys(("2", "3", "4"), 0.5)


def test_users_are_divided_and_one_candidate_wins(dag: Any) -> None:
    sky = world(GOOD)
    flight, met = fly(sky, dag)
    assert {"1": 40, "2": 20, "3": 20, "4": 20} in met
    assert flight.run.states["outcome"] == "success", flight.run.why
    assert sky.serving.weights(MODEL) == {"2": 100}
    assert {v: r.state for (_, v), r in sky.registry.versions_.items()} == {
        "1": "archived", "2": "champion", "3": "rolled_back", "4": "rolled_back",
    }  # fmt: skip
    said = {(str(p.verdict.kind), p.verdict.version): str(p.verdict.outcome) for p in sky.registry.posted.values()}
    assert said["rollout", "2"] == "PASS" and said["rollout", "3"] == said["rollout", "4"] == "INCONCLUSIVE"
    assert whole(sky) == []


def test_a_harmful_candidate_loses_its_share_to_the_champion_and_another_wins(dag: Any) -> None:
    sky = world(ONE_BAD)
    flight, met = fly(sky, dag)
    assert {"1": 60, "3": 20, "4": 20} in met, met
    assert flight.run.states["outcome"] == "success", flight.run.why
    assert sky.registry.commits == [(MODEL, "3")] and sky.serving.weights(MODEL) == {"3": 100}
    said = {(str(p.verdict.kind), p.verdict.version): str(p.verdict.outcome) for p in sky.registry.posted.values()}
    assert (said["rollout", "2"], said["rollout", "3"], said["rollout", "4"]) == ("FAIL", "PASS", "INCONCLUSIVE")
    assert not any("2" in weights for weights in met[met.index({"1": 60, "3": 20, "4": 20}) :]), "it never comes back"
    assert whole(sky) == []


def test_all_harmful_goes_back_to_the_champion(dag: Any) -> None:
    sky = world(ALL_BAD)
    flight, _ = fly(sky, dag)
    assert sky.serving.weights(MODEL) == {"1": 100} and sky.registry.commits == []
    assert sky.registry.rollouts_[-1].state == "rolled_back" and flight.run.states["outcome"] == "failed"
    outcomes = {
        p.verdict.version: str(p.verdict.outcome)
        for p in sky.registry.posted.values()
        if str(p.verdict.kind) == "rollout"
    }
    assert outcomes == dict.fromkeys(("2", "3", "4"), "FAIL")
    assert whole(sky) == []


def test_the_winner_bakes_alone_before_it_is_champion() -> None:
    sky = world(ONE_BAD)
    flight, met = fly(sky, release_dag(**AB, bake="10s"))
    assert met[-1] == {"3": 100} and flight.run.states["outcome"] == "success", flight.run.why
    assert whole(sky) == []


@pytest.mark.parametrize("errors", [GOOD, ONE_BAD, ALL_BAD], ids=["good", "one harmful", "all harmful"])
def test_dying_anywhere_ends_in_the_same_place(errors: dict[str, float], dag: Any) -> None:
    """DEMAND PIP-5: before and after every call of the world."""
    flight, _ = fly(sky := world(errors), dag)
    wanted = end_of(sky, flight.run)
    wrong = {}
    for number, edge in enumerate(flight.passed):
        again, _ = fly(sky := world(errors), dag, die_at=number)
        assert again.died == edge
        found = end_of(sky, again.run)
        differs = {key: (found[key], wanted[key]) for key in wanted if found[key] != wanted[key]}
        if differs or whole(sky):
            wrong[number, edge] = (differs, whole(sky), again.run.why)
    assert not wrong, f"{len(wrong)} of {len(flight.passed)}: {next(iter(wrong.items()))}"


def test_airflow_that_comes_too_late_finds_all_settled(dag: Any) -> None:
    """DEMAND ROL-6: no candidate keeps traffic that nobody watches."""
    flight, _ = fly(world(ONE_BAD), dag)
    for number, edge in enumerate(flight.passed):
        fly(sky := world(ONE_BAD), dag, die_at=number, away=5 * LEASE_S)
        champion = sky.registry.champions[MODEL]
        assert champion in ("1", "3"), (number, edge)
        assert sky.serving.weights(MODEL) == {champion: 100}, (number, edge)
        assert all(one.ended for one in sky.registry.rollouts_) and not sky.intents_.found, (number, edge)
        assert whole(sky) == [], (number, edge)


def test_abort_takes_all_of_them(dag: Any) -> None:
    sky = world(GOOD)
    noted = sky.serving.on_route

    def on_route(model: str) -> None:
        assert noted is not None
        noted(model)
        if sky.serving.weights(model).get("3") == 20:
            sky.serving.on_route = noted
            sky.serving.abort(model, "by hand", "somebody")

    sky.serving.on_route = on_route
    with hooked(lambda: sky):
        flight = Flight(sky, dag)
        flight.run.conf = {"version": "2", "beside": ["3", "4"]}
        flight.fly()
        flight.quiet()
    assert sky.serving.weights(MODEL) == {"1": 100}
    assert sky.registry.rollouts_[-1].state == "rolled_back" and sky.registry.commits == []


# -- refused before anything moves


@pytest.mark.parametrize(
    ("rollout", "beside", "words"),
    [
        ({}, ["3"], "one candidate at a time"),
        (AB, ["3", "3"], "named twice"),
        (AB, ["2"], "named twice"),
        (AB, ["1"], "is the champion"),
        (AB, ["9"], "has no version 9"),
        (AB, ["x"], "expected version numbers"),
        ({**AB, "steps": [{"weight": 2, **HOLD}]}, ["3", "4"], "cannot be divided among 3"),
        ({**AB, "audience": {"header": "x-tester", "value": "yes"}}, ["3"], "rollout.audience"),
    ],
)
def test_what_cannot_be_released_together_is_refused(rollout: dict[str, Any], beside: list[str], words: str) -> None:
    sky = world(GOOD)
    before = sky.serving.writes
    flight, _ = fly(sky, release_dag(**rollout), beside=beside)
    assert words in flight.run.why["claim"]
    assert sky.serving.writes == before and sky.registry.rollouts_ == []


def test_a_candidate_that_is_not_sealed_or_does_not_accept_the_requests(
    dag: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sky = world({"2": 0.0, "4": 0.0})
    sky.registry.register(MODEL, "3", "sha256:3", status="FAILED_REGISTRATION")
    flight, _ = fly(sky, dag)
    assert "not READY" in flight.run.why["claim"]
    sky = world(GOOD)
    monkeypatch.setattr(
        sky.serving, "refusals", lambda release: ["column 'a'"] if release.candidates[0].version == "4" else []
    )
    flight, _ = fly(sky, dag)
    assert "version 4" in flight.run.why["claim"] and "column 'a'" in flight.run.why["claim"]
    assert sky.registry.rollouts_ == []


def test_evidence_before_the_release_is_asked_of_every_candidate(dag: Any) -> None:
    sky = world({"2": 0.0, "3": 0.0})
    sky.store.digests["4"] = "sha256:4"
    sky.store.errors["4"] = 0.0
    sky.registry.register(MODEL, "4", "sha256:4")  # nobody has evaluated it
    with hooked(lambda: sky):
        flight = Flight(sky, dag)
        flight.run.conf = {"version": "2", "beside": ["3", "4"]}
        with pytest.raises(AssertionError):
            flight.fly(60.0)
    assert flight.run.states.get("policy") not in ("success", "failed")
    assert all(weight == 0 or version == "1" for version, weight in sky.exposed)
