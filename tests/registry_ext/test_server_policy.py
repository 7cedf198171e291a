"""``champion`` and everything that could be a way round it, over real HTTP (DEMAND REG-4, REG-5, REG-7)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import waiting

from windtunnel import canonical
from windtunnel.errors import FencedError, RefusedError, RegistryError
from windtunnel.evidence import Kind
from windtunnel.registry.client import RegistryClient
from windtunnel_mlflow.ledger import audit

pytestmark = pytest.mark.real

JSON = dict[str, Any]
Attempt = Callable[[httpx.Client, str, str], httpx.Response]


def call(method: str, path: str, **body: Any) -> Attempt:
    """One HTTP request; NAME and VERSION in its body stand for the model and the version that is not allowed."""

    def attempt(http: httpx.Client, model: str, version: str) -> httpx.Response:
        filled = {
            key: value.replace("NAME", model).replace("VERSION", version) if isinstance(value, str) else value
            for key, value in body.items()
        }
        return http.request(method, path, json=filled)

    return attempt


def both(method: str, path: str, **body: Any) -> list[Any]:
    return [
        pytest.param(
            call(method, f"/{api}/2.0/mlflow{path}", **body), id=f"{api} {method} {path} {sorted(body.items())}"
        )
        for api in ("api", "ajax-api")
    ]


ALIAS = "/registered-models/alias"
STAGE = "/model-versions/transition-stage"
MODEL_TAG, VERSION_TAG = "/registered-models/set-tag", "/model-versions/set-tag"
PROMPT = [{"key": "mlflow.prompt.is_prompt", "value": "true"}]
OURS = [{"key": "windtunnel.digest", "value": "x"}]

BYPASSES = [
    *both("POST", ALIAS, name="NAME", alias="champion", version="VERSION"),
    *both("POST", ALIAS, name="NAME", alias="Champion", version="VERSION"),
    *both("DELETE", ALIAS, name="NAME", alias="champion"),
    *both("POST", STAGE, name="NAME", version="VERSION", stage="Production", archive_existing_versions=True),
    *both("POST", STAGE, name="NAME", version="VERSION", stage="production", archive_existing_versions=False),
    *both("POST", STAGE, name="NAME", version="1", stage="Archived", archive_existing_versions=False),
    *both("POST", STAGE, name="NAME", version="1", stage="None", archive_existing_versions=False),
    *both("POST", "/registered-models/rename", name="NAME", new_name="free-name"),
    *both("DELETE", "/registered-models/delete", name="NAME"),
    *both("DELETE", "/model-versions/delete", name="NAME", version="1"),
    *both("POST", MODEL_TAG, name="NAME", key="windtunnel.champion", value="2"),
    *both("POST", MODEL_TAG, name="NAME", key="mlflow.prompt.is_prompt", value="true"),
    *both("POST", VERSION_TAG, name="NAME", version="VERSION", key="windtunnel.digest", value="sha256:x"),
    *both("POST", VERSION_TAG, name="NAME", version="VERSION", key=" WindTunnel.digest", value="sha256:x"),
    *both("DELETE", "/model-versions/delete-tag", name="NAME", version="VERSION", key="windtunnel.digest"),
    *both("DELETE", "/registered-models/delete-tag", name="NAME", key="windtunnel.digest"),
    *both("POST", "/model-versions/create", name="NAME", source="dummy-source", tags=PROMPT),
    *both("POST", "/model-versions/create", name="NAME", source="models:/NAME/VERSION", tags=OURS),
    *both("POST", "/model-versions/create", name="NAME", source="s3://elsewhere/model"),
]


@pytest.fixture(scope="module")
def arena(registry_server: Any, helpers: Any, person: tuple[str, str]) -> str:
    """A model with champion 1 and a version 2 that nobody has judged; ada may change its MLflow metadata."""
    with registry_server.client() as client, registry_server.rest() as http, registry_server.rest("admin") as root:
        hands = helpers.Hands(http)
        model: str = hands.model()
        helpers.crown(client, hands, model)
        helpers.enter(client, hands, model, code="sha256:c2")
        granted = root.post(
            "/api/3.0/mlflow/users/permissions/grant",
            json={
                "username": person[0],
                "resource_type": "registered_model",
                "resource_id": model,
                "permission": "MANAGE",
            },
        )
        assert granted.status_code == 200, granted.text
        return model


@pytest.mark.parametrize("role", ["admin", "service", "ada"])
@pytest.mark.parametrize("attempt", BYPASSES)
def test_no_way_round(
    attempt: Attempt, role: str, arena: str, registry_server: Any, person_http: httpx.Client, service: RegistryClient
) -> None:
    before = service.audit(arena, limit=1)[0].seq
    if role == "ada":
        response = attempt(person_http, arena, "2")
    else:
        with registry_server.rest(role) as http:
            response = attempt(http, arena, "2")
    assert response.status_code in (400, 403, 409), (response.status_code, response.text)
    newest = service.audit(arena, limit=1)[0]
    assert (newest.outcome, newest.actor) == ("refused", role), newest
    assert newest.seq > before, "the refusal is not in the audit"
    assert str(newest.code).startswith(("WT_", "MLFLOW_"))
    champion = service.champion(arena)
    assert champion is not None
    assert (champion.version, champion.stage, champion.state) == ("1", "Production", "champion")
    assert service.version(arena, 2).stage == "None"


def test_mlflow_answers_the_alias_of_the_true_champion(arena: str, hands: Any) -> None:
    found = hands.call("GET", "/registered-models/alias", params={"name": arena, "alias": "champion"})
    assert found["model_version"]["version"] == "1"


def test_the_refusal_says_what_is_missing(arena: str, hands: Any, service: RegistryClient) -> None:
    body = {"name": arena, "alias": "champion", "version": "2"}
    response = hands.http.post("/api/2.0/mlflow/registered-models/alias", json=body)
    answer = response.json()
    assert (response.status_code, answer["windtunnel_code"]) == (403, "WT_POLICY")
    assert "evaluation" in answer["message"]
    assert "rollout" in answer["message"]
    assert answer["missing"] == list(service.explain(arena, 2).missing)


def test_graphql_cannot_change_the_registry(hands: Any) -> None:
    query = "{ __schema { mutationType { fields { name } } } }"
    answer = hands.http.post("/graphql", json={"query": query})
    fields = answer.json()["data"]["__schema"]["mutationType"]["fields"]
    # Two searches that GraphQL calls mutations, and an echo.
    assert {field["name"] for field in fields} == {"mlflowSearchDatasets", "mlflowSearchRuns", "testMutation"}


def test_other_aliases_and_tags_are_free(arena: str, hands: Any) -> None:
    hands.call("POST", "/registered-models/alias", {"name": arena, "alias": "challenger", "version": "2"})
    hands.call("DELETE", "/registered-models/alias", {"name": arena, "alias": "challenger"})
    hands.call("POST", "/registered-models/set-tag", {"name": arena, "key": "team", "value": "a"})
    hands.call(
        "POST",
        "/model-versions/transition-stage",
        {"name": arena, "version": "2", "stage": "Staging", "archive_existing_versions": False},
    )
    hands.call(
        "POST",
        "/model-versions/transition-stage",
        {"name": arena, "version": "2", "stage": "None", "archive_existing_versions": False},
    )


def test_a_prompt_keeps_its_freedom(hands: Any) -> None:
    name = "prompt-" + hands.model()
    hands.call("POST", "/registered-models/create", {"name": name, "tags": PROMPT})
    hands.call("POST", "/model-versions/create", {"name": name, "source": "dummy-source", "tags": PROMPT})
    hands.call("POST", "/registered-models/alias", {"name": name, "alias": "champion", "version": "1"})


def test_with_all_verdicts_a_plain_alias_is_a_release(service: RegistryClient, hands: Any, helpers: Any) -> None:
    model = hands.model()
    helpers.crown(service, hands, model)
    second = helpers.enter(service, hands, model, data="sha256:d2")
    helpers.judge(service, second, "data-check", "evaluation", "rollout")
    hands.call("POST", "/registered-models/alias", {"name": model, "alias": "champion", "version": "2"})
    stages = {v.version: (v.stage, v.state) for v in service.versions(model)}
    assert stages == {"1": ("Archived", "archived"), "2": ("Production", "champion")}
    # The same through the stage.
    helpers.judge(service, service.version(model, 1), "rollout")
    body = {"name": model, "version": "1", "stage": "Production", "archive_existing_versions": True}
    assert (
        hands.call("POST", "/model-versions/transition-stage", body)["model_version"]["current_stage"] == "Production"
    )
    assert [row.version for row in service.champion_history(model)] == ["1", "2", "1"]


def test_an_older_pass_does_not_outweigh_a_newer_fail(service: RegistryClient, hands: Any, helpers: Any) -> None:
    from windtunnel.evidence import Outcome

    model = hands.model()
    record = helpers.enter(service, hands, model)
    helpers.judge(service, record, "data-check", "evaluation")
    assert service.explain(model, 1).allowed
    helpers.judge(service, record, "evaluation", outcome=Outcome.FAIL, reason="worse")
    assert service.explain(model, 1).missing == ("a PASS verdict of kind evaluation (the newest is FAIL: worse)",)


# -- forged words


def test_forged_verdicts_do_not_count(
    service: RegistryClient, person_client: RegistryClient, hands: Any, helpers: Any
) -> None:
    model = hands.model()
    record = helpers.enter(service, hands, model)
    helpers.judge(person_client, record, "data-check", "evaluation", "rollout")
    assert len(service.explain(model, 1).missing) == 2
    assert {kept.verdict.kind for kept in service.verdicts(model) if not kept.claimed} == {Kind.SCAN}, "its own word"
    (summary,) = (found for found in service.models() if found.name == model)
    assert set(summary.verdicts) == {"scan"}
    response = hands.http.post(
        "/api/2.0/mlflow/registered-models/alias", json={"name": model, "alias": "champion", "version": "1"}
    )
    assert response.status_code == 403


def test_only_the_stack_rolls_out_and_sets_policy(
    service: RegistryClient, person_client: RegistryClient, hands: Any, helpers: Any
) -> None:
    model = hands.model()
    helpers.crown(service, hands, model)
    second = helpers.enter(service, hands, model, data="sha256:d2")
    rollout = service.open_rollout(model, 2, plan={}, holder="h", correlation_id=None)
    attempts: list[Callable[[], Any]] = [
        lambda: person_client.set_policy(model, {"champion": [], "first": []}),
        lambda: person_client.open_rollout(model, 2, plan={}, holder="mine", correlation_id=None),
        lambda: person_client.update_rollout(rollout.id, rollout.token, state="rolled_back"),
        lambda: person_client.promote(rollout.id, rollout.token, "1"),
        lambda: person_client.withdraw(model, 1, "because"),
        lambda: person_client.register(
            model,
            source=second.source,
            run_id=second.run_id,
            key="new",
            recipe={},
            correlation_id=None,
            cause=None,
        ),
    ]
    for attempt in attempts:
        with pytest.raises(RefusedError) as refused:
            attempt()
        assert refused.value.code == "WT_ROLE"
        assert service.audit(model, limit=1)[0].actor == "ada"
    assert service.policy(model)["champion"] == ["data-check", "evaluation", "rollout"]


# -- rollouts


@pytest.fixture
def two(service: RegistryClient, hands: Any, helpers: Any) -> str:
    """Champion 1 and judged candidates 2 and 3."""
    model: str = hands.model()
    helpers.crown(service, hands, model)
    for number in (2, 3):
        record = helpers.enter(service, hands, model, data=f"sha256:d{number}")
        helpers.judge(service, record, "data-check", "evaluation")
    return model


def test_rollout_from_open_to_champion(service: RegistryClient, two: str, helpers: Any) -> None:
    pending = service.pending(two)
    assert pending is not None
    assert pending.version == "3"
    rollout = service.open_rollout(two, 2, plan={"steps": [5, 100]}, holder="run-a", correlation_id="c7")
    assert (rollout.champion, rollout.state, rollout.plan) == ("1", "running", {"steps": [5, 100]})
    assert service.open_rollout(two, 2, plan={}, holder="run-a", correlation_id="c7") == rollout
    assert service.version(two, 2).state == "releasing"
    resumed = service.pending(two)
    assert resumed is not None
    assert resumed.version == "2", "what was begun is finished first"
    with pytest.raises(RefusedError) as refused:
        service.open_rollout(two, 3, plan={}, holder="run-b", correlation_id=None)
    assert refused.value.code == "WT_ROLLOUT_RUNNING"
    moved = service.update_rollout(rollout.id, rollout.token, step=1, weight=25.0, reason="gate 0 passed")
    assert (moved.step, moved.weight, moved.state) == (1, 25.0, "running")
    with pytest.raises(RefusedError) as refused:
        service.promote(rollout.id, rollout.token, "1")
    assert refused.value.missing == ("a PASS verdict of kind rollout for this content",)
    with pytest.raises(RegistryError) as wrong:
        service.update_rollout(rollout.id, rollout.token, state="promoted")
    assert wrong.value.code == "WT_STATE"
    helpers.judge(service, service.version(two, 2), "rollout")
    service.update_rollout(rollout.id, rollout.token, state="promoting", weight=100)
    champion = service.promote(rollout.id, rollout.token, "1")
    assert (champion.version, champion.stage, champion.state) == ("2", "Production", "champion")
    assert service.promote(rollout.id, rollout.token, "1") == champion, "asking again is harmless"
    assert service.version(two, 1).stage == "Archived"
    history = service.champion_history(two)
    assert [(row.version, row.until is None, row.rollout_id is not None) for row in history] == [
        ("1", False, True),
        ("2", True, True),
    ]
    assert history[0].until == history[1].since
    assert service.open_rollout(two, 2, plan={}, holder="run-a", correlation_id=None).state == "promoted"


def test_a_new_holder_fences_the_old_one(service: RegistryClient, two: str) -> None:
    old = service.open_rollout(two, 2, plan={}, holder="run-a", correlation_id=None)
    new = service.open_rollout(two, 2, plan={}, holder="run-b", correlation_id=None)
    assert (new.id, new.token > old.token) == (old.id, True)
    with pytest.raises(FencedError):
        service.update_rollout(old.id, old.token, weight=50)
    with pytest.raises(FencedError):
        service.promote(old.id, old.token, "1")
    rolled_back = service.update_rollout(new.id, new.token, state="rolled_back", reason="errors 9 %")
    assert rolled_back.ended
    assert (service.version(two, 2).state, service.version(two, 2).stage) == ("rolled_back", "Archived")
    later = service.pending(two)
    assert later is not None
    assert later.version == "3"
    assert service.update_rollout(new.id, new.token, state="rolled_back").state == "rolled_back"
    with pytest.raises(RefusedError) as refused:
        service.update_rollout(new.id, new.token, state="running")
    assert refused.value.code == "WT_ENDED"


def test_of_two_promotions_one_wins_and_the_other_is_told(
    service: RegistryClient, two: str, helpers: Any, hands: Any
) -> None:
    rollout = service.open_rollout(two, 2, plan={}, holder="run-a", correlation_id=None)
    for number in (2, 3):
        helpers.judge(service, service.version(two, number), "rollout")
    # The same promotion twice at once (a retried task) is one promotion.
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: service.promote(rollout.id, rollout.token, "1").version, range(2)))
    assert found == ["2", "2"]
    # Somebody who still believes that 1 is champion loses, and hears who won.
    late = service.open_rollout(two, 3, plan={}, holder="run-c", correlation_id=None)
    with pytest.raises(RefusedError) as refused:
        service.promote(late.id, late.token, "1")
    assert refused.value.code == "WT_CONFLICT"
    assert "version 2" in str(refused.value)
    assert service.promote(late.id, late.token, "2").version == "3"


def test_withdrawal_of_a_first_release(service: RegistryClient, hands: Any, helpers: Any) -> None:
    model = hands.model()
    helpers.crown(service, hands, model)
    withdrawn = service.withdraw(model, 1, "p99 above 1 s")
    assert (withdrawn.state, withdrawn.stage) == ("withdrawn", "Archived")
    assert service.withdraw(model, 1, "again") == withdrawn
    assert service.champion(model) is None
    assert service.pending(model) is None
    response = hands.http.get("/api/2.0/mlflow/registered-models/alias", params={"name": model, "alias": "champion"})
    assert response.status_code == 400
    assert service.champion_history(model)[0].until is not None


def test_policy_of_a_model(service: RegistryClient, hands: Any, helpers: Any) -> None:
    model = hands.model()
    service.set_policy(model, {"champion": ["evaluation", "rollout"], "first": ["evaluation", "benchmark"]})
    record = helpers.enter(service, hands, model)
    helpers.judge(service, record, "evaluation")
    # An administrator of another test may have set a policy of the house: then the description's comes on top.
    missing = service.explain(model, 1).missing
    assert "a PASS verdict of kind benchmark for this content" in missing
    assert not any("evaluation" in line for line in missing)
    with pytest.raises(RegistryError) as wrong:
        service.set_policy(model, {"champion": ["astrology"]})
    assert wrong.value.code == "WT_REQUEST"


def test_summary(service: RegistryClient, two: str) -> None:
    service.open_rollout(two, 3, plan={}, holder="h", correlation_id=None)
    summary = next(found for found in service.models() if found.name == two)
    assert summary.champion is not None
    assert summary.rollout is not None
    assert (summary.champion.version, summary.rollout.version, summary.versions) == ("1", "3", 3)
    assert set(summary.verdicts) == {"scan", "data-check", "evaluation"}


def test_the_audit_tells_the_story_and_is_whole(service: RegistryClient, two: str, hands: Any) -> None:
    service.open_rollout(two, 2, plan={}, holder="h", correlation_id="story-1")
    hands.http.post(
        "/api/2.0/mlflow/registered-models/set-tag",
        json={"name": two, "key": "windtunnel.x", "value": "1"},
        headers={"X-Correlation-ID": "story-2"},
    )
    rows = service.audit(two, limit=500)
    assert (rows[0].code, rows[0].correlation_id) == ("WT_TAG", "story-2")
    assert (rows[1].action, rows[1].correlation_id) == ("open-rollout", "story-1")
    plain = [{name: getattr(row, name) for name in row.__slots__} | {"detail": row.detail} for row in reversed(rows)]
    for row in plain:
        row["detail"] = canonical.dumps(row["detail"]).decode()
    assert audit.broken(plain) is None


def test_the_way_back_is_kept_for_as_long_as_the_plan_says(
    service: RegistryClient, hands: Any, helpers: Any, two: str
) -> None:
    """DEMAND ROL-12: the former champion cannot be deleted while it is kept warm, by whatever client."""

    def fly(number: int, plan: dict[str, Any]) -> None:
        rollout = service.open_rollout(two, number, plan=plan, holder=f"run-{number}", correlation_id=None)
        helpers.judge(service, service.version(two, number), "rollout")
        service.update_rollout(rollout.id, rollout.token, state="promoting", weight=100)
        service.promote(rollout.id, rollout.token, rollout.champion)

    def delete(number: int) -> httpx.Response:
        body = {"name": two, "version": str(number)}
        return hands.http.request("DELETE", "/api/2.0/mlflow/model-versions/delete", json=body)

    fly(2, {"keep_warm_s": 8.0})
    refused = delete(1)
    assert refused.status_code == 403
    assert "WT_WAY_BACK" in refused.text and "goes back to" in refused.text
    waiting.until(lambda: delete(1).status_code == 200)
    fly(3, {})
    assert delete(2).status_code == 403
