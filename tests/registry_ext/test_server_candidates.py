"""DEMAND ROL-7, ROL-14: one rollout of several versions against one champion, in the registry over real HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel.errors import RefusedError, RegistryError
from windtunnel.registry.client import RegistryClient

pytestmark = pytest.mark.real


@pytest.fixture
def race(service: RegistryClient, hands: Any, helpers: Any) -> tuple[str, list[str]]:
    """A model with a champion, and three judged versions after it."""
    model = hands.model()
    helpers.crown(service, hands, model)
    versions = []
    for _ in range(3):
        record = helpers.enter(service, hands, model)
        helpers.judge(service, record, "data-check", "evaluation")
        versions.append(str(record.version))
    return model, versions


def open_it(service: RegistryClient, model: str, version: str, *beside: Any, holder: str = "a") -> Any:
    plan = {"strategy": "ab", "beside": list(beside)}
    return service.open_rollout(model, version, plan=plan, holder=holder, correlation_id=None)


def states(service: RegistryClient, model: str, versions: list[str]) -> list[str]:
    return [service.version(model, version).state for version in versions]


def test_one_of_several_becomes_champion_and_the_others_are_taken_back(
    service: RegistryClient, hands: Any, helpers: Any, race: tuple[str, list[str]]
) -> None:
    model, (a, b, c) = race
    before = service.champion(model)
    assert before is not None
    opened = open_it(service, model, a, b, c)
    assert opened.beside == (b, c) and states(service, model, [a, b, c]) == ["releasing"] * 3
    assert open_it(service, model, a, b, c).token == opened.token, "the same holder finds it again"
    with pytest.raises(RefusedError, match=f"version {a} and {b} and {c}"):
        open_it(service, model, a, b)
    with pytest.raises(RefusedError, match="is open"):
        open_it(service, model, b)
    lacking = {v: service.explain(model, v).missing for v in (a, b, c)}
    assert len({tuple(missing) for missing in lacking.values()}) == 1, "each is inside the rollout"
    gone = hands.http.request("DELETE", "/api/2.0/mlflow/model-versions/delete", json={"name": model, "version": c})
    assert gone.status_code >= 400 and "is open" in gone.text, "no candidate is deleted while it flies"
    helpers.judge(service, service.version(model, b), "rollout")
    with pytest.raises(RegistryError, match="not said which one won"):
        service.promote(opened.id, opened.token, before.version)
    with pytest.raises(RegistryError, match="none of them"):
        service.promote(opened.id, opened.token, before.version, version=before.version)
    with pytest.raises(RefusedError) as refused:
        service.promote(opened.id, opened.token, before.version, version=c)
    assert any("rollout" in one for one in refused.value.missing), "its own evidence, not another's"
    assert service.promote(opened.id, opened.token, before.version, version=b).version == b
    assert service.promote(opened.id, opened.token, before.version, version=b).version == b, "asking again is harmless"
    assert states(service, model, [a, b, c]) == ["rolled_back", "champion", "rolled_back"]
    assert service.rollout(opened.id).state == "promoted"


def test_rolled_back_takes_all_of_them(service: RegistryClient, race: tuple[str, list[str]]) -> None:
    model, (a, b, c) = race
    opened = open_it(service, model, a, b, c)
    taken = open_it(service, model, a, b, c, holder="b")
    assert taken.id == opened.id and taken.token > opened.token
    service.update_rollout(taken.id, taken.token, state="rolled_back", reason="all harmful")
    assert states(service, model, [a, b, c]) == ["rolled_back"] * 3


def test_candidates_that_cannot_fly_are_refused(
    service: RegistryClient, hands: Any, helpers: Any, race: tuple[str, list[str]]
) -> None:
    model, (a, b, _) = race
    champion = service.champion(model)
    assert champion is not None
    for beside, words in (
        ([b, b], "each once"),
        ([a], "each once"),
        (["x"], "each once"),
        (["99"], "no version 99"),
        ([str(champion.version)], "is the champion"),
    ):
        with pytest.raises(RegistryError, match=words):
            open_it(service, model, a, *beside)
    assert service.rollouts(model, limit=1)[0].version == str(champion.version), "none was opened"
    first = hands.model()
    one, two = (helpers.enter(service, hands, first) for _ in range(2))
    with pytest.raises(RegistryError, match="need a champion"):
        open_it(service, first, str(one.version), str(two.version))
