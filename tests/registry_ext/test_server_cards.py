"""Cards, comments, searching and comparing over real HTTP (DEMAND REG-14, REG-15)."""

from __future__ import annotations

import base64
import json
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from windtunnel.cli import person as credential
from windtunnel.cli.app import app
from windtunnel.errors import NotFoundError, RefusedError, RegistryError
from windtunnel.registry.client import RegistryClient
from windtunnel.spec import Model
from windtunnel.stackfile import read_secret

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def shelf(registry_server: Any, helpers: Any) -> Iterator[dict[str, Any]]:
    """Two models: one with a champion and a version 2, one that nobody has judged."""
    with registry_server.client() as client, registry_server.rest() as http:
        hands = helpers.Hands(http)
        mark = uuid.uuid4().hex[:8]
        model, other = hands.model(), hands.model()
        helpers.crown(client, hands, model)
        second = helpers.enter(client, hands, model, params={"depth": 4}, data="sha256:d2")
        third = helpers.enter(client, hands, other)
        for name, number, value in ((model, "2", mark), (other, "1", mark)):
            body = {"name": name, "version": number, "key": "shelf", "value": value}
            hands.call("POST", "/model-versions/set-tag", body)
        for record, value in ((second, 1.5), (third, 2.5)):
            body = {"run_id": record.run_id, "key": "rmse", "value": value, "timestamp": 1, "step": 0}
            hands.call("POST", "/runs/log-metric", body)
        yield {"model": model, "other": other, "mark": mark, "digest": client.version(model, 1).digest}


def code(error: pytest.ExceptionInfo[Any]) -> str:
    return str(error.value.code)


def test_a_card_is_kept_in_every_version_and_shown_by_mlflow(
    shelf: dict[str, Any], admin: RegistryClient, service: RegistryClient, hands: Any
) -> None:
    model = shelf["model"]
    assert admin.card(model)["card"] == {}
    service.set_card(model, {"purpose": "as described", "owner": "sea-team", "risk": "low"}, "x")
    admin.set_card(model, {"risk": "high", "uses": ["a", "b"]}, "looked at again")
    admin.set_card(model, {"limits": ["not in storms"]}, "this one differs", version=2)
    assert admin.card(model)["card"] == {
        "purpose": "as described", "uses": ["a", "b"], "risk": "high", "owner": "sea-team",
    }  # fmt: skip
    assert admin.card(model, 1)["card"] == admin.card(model)["card"]
    assert admin.card(model, 2)["card"]["limits"] == ["not in storms"]
    service.set_card(model, {"purpose": "as described", "owner": "tide-team", "risk": "low"}, "x")
    assert admin.card(model, 2)["card"]["owner"] == "tide-team", "what lies below shows through"
    assert admin.card(model, 2)["card"]["risk"] == "high", "what people set stays on top"
    kept = admin.card_history(model, 2)
    assert [(one.layer, one.version, one.number, one.actor) for one in kept] == [
        ("description", None, 2, "service"),
        ("person", "2", 1, "admin"),
        ("person", None, 1, "admin"),
        ("description", None, 1, "service"),
    ]
    assert kept[2].reason == "looked at again"
    newest = admin.audit(model, limit=1)[0]
    assert (newest.action, newest.actor, newest.detail["card"]["owner"]) == ("set-card", "service", "tide-team")
    seq = newest.seq
    service.set_card(model, {"purpose": "as described", "owner": "tide-team", "risk": "low"}, "x")
    assert admin.audit(model, limit=1)[0].seq == seq, "the same again is no new card"
    tags = {tag["key"]: tag["value"] for tag in _registered(hands, model)["tags"]}
    assert (tags["windtunnel.card.owner"], tags["windtunnel.card.uses"]) == ("tide-team", "a; b")
    body = {"name": model, "key": "windtunnel.card.risk", "value": "low"}
    assert hands.http.post("/api/2.0/mlflow/registered-models/set-tag", json=body).status_code == 403
    found = hands.call("GET", "/model-versions/get", params={"name": model, "version": "2"})["model_version"]
    assert {"key": "windtunnel.card.limits", "value": "not in storms"} in found["tags"]
    admin.set_card(model, {}, "not any more", version=2)
    assert admin.card(model, 2)["card"] == admin.card(model)["card"]
    found = hands.call("GET", "/model-versions/get", params={"name": model, "version": "2"})["model_version"]
    assert not [tag for tag in found.get("tags", []) if tag["key"].startswith("windtunnel.card")]


def _registered(hands: Any, model: str) -> dict[str, Any]:
    return dict(hands.call("GET", "/registered-models/get", params={"name": model})["registered_model"])


def test_a_descriptions_card_is_passed_on_once(hands: Any, service: RegistryClient) -> None:
    model = hands.model()

    def described(**more: Any) -> Model:
        data = {"source": "s", "time": "t", "target": "y", "features": ["x"]}
        plain = {"name": model, "owner": "sea-team", "data": data, "training": {"entry_point": "a.b:c"}}
        return Model.model_validate({**plain, **more})

    service.pass_on_card(described(description="Tides"))
    assert service.card(model)["card"] == {"purpose": "Tides", "owner": "sea-team"}
    service.pass_on_card(described(description="Tides"))
    service.pass_on_card(described(description="Tides", card={"purpose": "Tides at noon", "risk": "low"}))
    assert service.card(model)["card"] == {"purpose": "Tides at noon", "risk": "low", "owner": "sea-team"}
    assert [one.number for one in service.card_history(model)] == [2, 1]


@pytest.mark.parametrize(
    "card",
    [{"risk": "dangerous"}, {"purpos": "x"}, {"uses": "planning"}, {"limits": [""]}, ["x"], {"owner": "x" * 300}],
)
def test_what_is_no_card(shelf: dict[str, Any], admin: RegistryClient, card: Any) -> None:
    with pytest.raises(RegistryError) as told:
        admin._call("PUT", f"/models/{shelf['other']}/card", json={"card": card, "reason": "because"})
    assert code(told) == "WT_REQUEST"


def test_a_card_of_what_is_not_there(shelf: dict[str, Any], admin: RegistryClient, service: RegistryClient) -> None:
    for version in (0, 99):
        with pytest.raises(NotFoundError):
            admin.set_card(shelf["other"], {"risk": "low"}, "because", version=version)
        with pytest.raises(NotFoundError):
            admin.comment(shelf["other"], version, "hello")
    with pytest.raises(NotFoundError):
        admin.set_card("no-such-model", {"risk": "low"}, "because")
    with pytest.raises(RegistryError, match="a sentence"):
        admin.set_card(shelf["other"], {"risk": "low"}, " ")
    with pytest.raises(RegistryError, match="the model's, not a version's"):
        service.set_card(shelf["other"], {"risk": "low"}, "because", version=1)


def test_policy_demands_parts_of_the_card(
    helpers: Any, admin: RegistryClient, service: RegistryClient, hands: Any
) -> None:
    model = hands.model()
    record = helpers.enter(service, hands, model)
    helpers.judge(service, record, "data-check", "evaluation")
    admin.set_policy_document({"first": {"card": ["purpose", "risk"]}}, "known before used", model=model)
    admin.set_card(model, {"purpose": "tides"}, "first words")
    assert service.explain(model, 1).missing == ("a card that says: risk",)
    rollout = service.open_rollout(model, 1, plan={}, holder="h1", correlation_id=None)
    with pytest.raises(RefusedError) as told:
        service.promote(rollout.id, rollout.token, None)
    assert (code(told), told.value.missing) == ("WT_POLICY", ("a card that says: risk",))
    admin.set_card(model, {"risk": "low"}, "of this one", version=1)
    assert service.explain(model, 1).missing == ()
    assert service.promote(rollout.id, rollout.token, None).state == "champion"


def test_comments_are_added_and_nothing_else(
    shelf: dict[str, Any], admin: RegistryClient, person_client: RegistryClient, registry_server: Any
) -> None:
    model = shelf["model"]
    person_client.comment(model, 1, "the slow answers were the network")
    admin.comment(model, 1, "  seen  ")
    said = admin.comments(model, 1)
    assert [(one.actor, one.text) for one in said] == [("ada", "the slow answers were the network"), ("admin", "seen")]
    assert [one.text for one in admin.comments(model, 1, limit=1)] == ["seen"]
    assert admin.audit(model, limit=1)[0].detail == {"text": "seen"}
    for bad in ("", " ", "x" * 5001, "a\x00b"):
        with pytest.raises(RegistryError, match=r"a comment of 1 to 5000 characters|NUL character"):
            admin.comment(model, 1, bad)
    database = registry_server.home.mlflow / "mlflow.db"
    for statement in ("UPDATE wt_comments SET text = 'x'", "DELETE FROM wt_comments"):
        with sqlite3.connect(database, timeout=30) as raw, pytest.raises(sqlite3.IntegrityError, match="append-only"):
            raw.execute(statement)


def found(client: RegistryClient, text: str, **more: Any) -> list[tuple[str, str]]:
    return [(one.model, one.version) for one in client.search(text, **more).versions]


def test_search(shelf: dict[str, Any], admin: RegistryClient) -> None:
    model, other, mark = shelf["model"], shelf["other"], shelf["mark"]
    mine = f"tag.shelf = '{mark}'"
    both = [(model, "2"), (other, "1")]
    assert found(admin, mine, order_by="created asc") == both
    assert found(admin, f"{mine} and metric.rmse < 2") == both[:1]
    assert found(admin, f"{mine} and not metric.rmse < 2") == both[1:]
    assert found(admin, f"{mine} and evidence.evaluation = 'NONE'", order_by="metric.rmse desc") == both[::-1]
    assert found(admin, f"name = '{model}' and alias = 'champion' and stage = 'Production'") == [(model, "1")]
    assert found(admin, f"name like '{model}%' and evidence.evaluation = 'PASS'") == [(model, "1")]
    assert found(admin, f"name = '{model}' and evidence.data-check = 'PASS'") == [(model, "1")]
    assert found(admin, f"name in ('{model}', '{other}') and created > '2999-01-01'") == []
    admin.set_card(other, {"limits": ["Größe", "storms"]}, "to be found")
    assert found(admin, f"{mine} and text ~ 'Größe' and text ~ 'STORM'") == both[1:]
    assert found(admin, f"{mine} and text ~ 'limits'") == [], "keys are not what it says"
    one = admin.search(f"{mine} and metric.rmse < 2").versions[0]
    assert (one.metrics, one.stage, one.aliases) == ({"rmse": 1.5}, "None", ())


def test_pages_hold_together_while_versions_come(
    shelf: dict[str, Any], helpers: Any, admin: RegistryClient, service: RegistryClient, hands: Any
) -> None:
    model = hands.model()
    for _ in range(3):
        helpers.enter(service, hands, model)
    text = f"name = '{model}'"
    first = admin.search(text, limit=2)
    assert [one.version for one in first.versions] == ["3", "2"]
    helpers.enter(service, hands, model)
    second = admin.search(text, limit=2, cursor=first.cursor)
    assert ([one.version for one in second.versions], second.cursor) == (["1"], None)
    assert [one.version for one in admin.find(text, order_by="name")] == ["1", "2", "3", "4"]
    forged = base64.urlsafe_b64encode(json.dumps(["x", 1.0, "a", 1]).encode()).decode().rstrip("=")
    for cursor in (first.cursor, forged, "nonsense!", "AAAA"):
        with pytest.raises(RegistryError) as told:
            admin.search(f"name = '{shelf['model']}'", cursor=cursor)
        assert code(told) == "WT_QUERY"


def test_a_mistake_is_told_with_its_place(admin: RegistryClient) -> None:
    with pytest.raises(RegistryError) as told:
        admin.search("name = 'a' and metrics.rmse < 1")
    assert code(told) == "WT_QUERY"
    assert "at character 16: there is no field 'metrics'" in told.value.message
    assert ">>>metrics.rmse < 1<<<" in str(told.value.hint)
    with pytest.raises(RegistryError, match="order by created"):
        admin.search("", order_by="colour")


def test_what_one_may_not_read_is_not_found(
    shelf: dict[str, Any], registry_server: Any, admin: RegistryClient, person_client: RegistryClient, person: Any
) -> None:
    mine, other = f"tag.shelf = '{shelf['mark']}'", shelf["other"]
    assert len(found(person_client, mine)) == 2
    grant = {
        "username": person[0], "resource_type": "registered_model", "resource_id": other, "permission": "DENY",
    }  # fmt: skip
    with registry_server.rest("admin") as http:
        answer = http.post("/api/3.0/mlflow/users/permissions/grant", json=grant)
        assert answer.status_code == 200, answer.text
        try:
            page = person_client.search(mine, limit=1, order_by="created asc")
            assert [one.model for one in page.versions] == [shelf["model"]]
            assert page.cursor is None, "nor is there a trace of it"
            for ask in (
                lambda: person_client.card(other),
                lambda: person_client.comments(other, 1),
                lambda: person_client.comment(other, 1, "hello"),
                lambda: person_client.compare(other, 1, 1),
            ):
                with pytest.raises(RefusedError) as told:
                    ask()
                assert code(told) == "WT_ROLE"
        finally:
            http.post("/api/3.0/mlflow/users/permissions/revoke", json=grant)


def test_compare(shelf: dict[str, Any], admin: RegistryClient) -> None:
    told = admin.compare(shelf["model"], 1, 2)
    assert [one["semver"] for one in told["versions"]] == ["1.0.0", "1.1.0"]
    assert told["recipe"]["params"] == [{"name": "depth", "change": "changed", "left": 3, "right": 4}]
    assert told["data"]["same"] is False
    assert [one["path"] for one in told["files"]["changed"]] == ["weights"]
    assert told["signature"] == {"known": True, "inputs": [], "outputs": [], "params": []}
    (metric,) = told["metrics"]
    assert (metric["name"], metric["right"], metric["significance"]) == ("rmse", 1.5, "not known")
    assert told["environment"]["known"] is False
    with pytest.raises(NotFoundError):
        admin.compare(shelf["model"], 1, 99)


def test_the_commands(
    shelf: dict[str, Any], registry_server: Any, person: tuple[str, str], monkeypatch: Any, tmp_path: Path
) -> None:
    """What a person sees, as ada, who may read and not change."""
    monkeypatch.setenv(credential.ENV_URL, registry_server.url)
    monkeypatch.setenv(credential.ENV_USER, person[0])
    monkeypatch.setenv(credential.ENV_PASSWORD, person[1])
    model = shelf["model"]

    def run(*words: str, expected: int = 0) -> str:
        done = CliRunner().invoke(app, ["--home", str(tmp_path), "registry", *words])
        assert done.exit_code == expected, (words, done.output, done.exception)
        return f"{done.output}{getattr(done.exception, 'message', '')}"

    assert model in run("list")
    assert "champion: 1" in run("show", model)
    run("comment", model, "2", "not before the storm")
    shown = run("show", model, "2")
    assert "ada: not before the storm" in shown
    assert "missing for production: a PASS verdict of kind evaluation" in shown
    plain = json.loads(run("show", model, "1", "--json"))
    assert (plain["schema"], plain["champion"], plain["stage"]) == ("windtunnel.registry-show/1", True, "Production")
    table = run(
        "search", f"tag.shelf = '{shelf['mark']}' and metric.rmse < 9", "--order-by", "metric.rmse", "--limit", "1"
    )
    assert model in table
    assert "--cursor " in table
    assert "rmse (run): - -> 1.5; significance not known" in run("compare", model, "1", "2")
    assert "at character 1: there is no field 'nmae'" in run("search", "nmae = 'x'", expected=1)
    file = tmp_path / "card.yaml"
    file.write_text("purpose: tides\nrisks: low\n", encoding="utf-8")
    assert "card.yaml:2: risks: unknown key" in run("card", "set", model, str(file), "--reason", "x", expected=1)
    file.write_text("card:\n  purpose: tides\n", encoding="utf-8")
    assert "may not change model" in run("card", "set", model, str(file), "--reason", "x", expected=1)
    monkeypatch.setenv(credential.ENV_USER, "admin")
    monkeypatch.setenv(credential.ENV_PASSWORD, read_secret(registry_server.home, "mlflow-admin"))
    assert "purpose: tides" in run("card", "set", model, str(file), "--reason", "why not", "--version", "2")
    assert "purpose: tides" in run("card", "show", model, "--version", "2")
    assert "why not" in run("card", "history", model, "--version", "2")
    assert json.loads(run("card", "show", model, "--version", "2", "--json"))["card"]["purpose"] == "tides"
