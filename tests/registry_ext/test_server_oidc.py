"""DEMAND REG-10, REG-11: people of an identity provider at a real server, through every door of MLflow."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from identity_provider import Provider

from windtunnel.errors import RefusedError, RegistryError
from windtunnel.registry.client import RegistryClient
from windtunnel.registry.signin import SignIn

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    found = Provider()
    yield found
    found.close()


@pytest.fixture(scope="module")
def server(
    provider: Provider, tmp_path_factory: pytest.TempPathFactory, registry_server: Any, helpers: Any
) -> Iterator[Any]:
    """After the session's own server, whose tables it starts with."""
    told = SignIn(
        issuer=provider.issuer, audience="windtunnel", provision=True, passwords=False,
        roles={"ml-approvers": "approver", "ml-admins": "admin"},
    )  # fmt: skip
    found = helpers.RegistryServer(tmp_path_factory.mktemp("oidc") / "home", oidc=told)
    found.start()
    yield found
    found.stop()


def client(server: Any, provider: Provider, **claims: Any) -> RegistryClient:
    return RegistryClient(server.url, token=provider.token(**claims))


def test_somebody_new_is_a_user_with_the_roles_of_the_groups(server: Any, provider: Provider) -> None:
    eve = client(server, provider, groups=["ml-approvers"])
    assert eve.models() == []
    people = {entry["name"]: entry["roles"] for entry in server.client("admin").people()}
    assert people["eve@example.org"] == ["approver"]
    client(server, provider, groups=[]).models()
    people = {entry["name"]: entry["roles"] for entry in server.client("admin").people()}
    assert people["eve@example.org"] == ["data_scientist"], "no longer in the group"
    done = [row.action for row in server.client("admin").audit("", limit=10)]
    assert done.count("add-person") == 1 and done.count("grant-roles") == 2, done


def test_the_token_is_the_person_at_every_door(server: Any, provider: Provider) -> None:
    token = provider.token(email="ann@example.org")
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=30) as http:
        assert http.get("/api/2.0/mlflow/users/current").json()["user"]["username"] == "ann@example.org"
        made = http.post("/api/2.0/mlflow/registered-models/create", json={"name": "hers"})
        assert made.status_code == 200
        assert http.get("/ajax-api/2.0/mlflow/registered-models/get", params={"name": "hers"}).status_code == 200
        # A route of MLflow's FastAPI side, which knows passwords only by itself.
        assert http.get("/ajax-api/3.0/mlflow/server-info").status_code in (200, 404)
    rows = server.client("admin").audit("hers", limit=10)
    assert {(row.action, row.actor) for row in rows} >= {("create-model", "ann@example.org")}


@pytest.mark.parametrize(
    ("claims", "said"),
    [
        ({"aud": "grafana"}, "somebody else"),
        ({"exp": 1}, "expired"),
        ({"email_verified": False}, "verified"),
        ({"email": "service"}, "stack's own"),
        ({"email": "admin"}, "stack's own"),
    ],
)
def test_other_tokens_are_told_why_and_are_in_the_audit(
    server: Any, provider: Provider, claims: dict[str, Any], said: str
) -> None:
    with pytest.raises(RegistryError, match=said) as refused:
        client(server, provider, **claims).models()
    assert refused.value.code == "WT_CREDENTIAL"
    for path in ("/api/2.0/mlflow/experiments/search", "/ajax-api/2.0/mlflow/registered-models/search"):
        headers = {"Authorization": f"Bearer {provider.token(**claims)}"}
        answer = httpx.get(server.url + path, headers=headers, timeout=30)
        assert answer.status_code == 401 and 'error="invalid_token"' in answer.headers["WWW-Authenticate"]
    newest = server.client("admin").audit("", limit=1)[0]
    assert (newest.action, newest.code) == ("log-in", "WT_CREDENTIAL")


def test_passwords_are_the_stacks_own_users_where_people_have_tokens(server: Any, provider: Provider) -> None:
    admin = server.client("admin")
    admin.add_person("carl", "a-long-password-1")
    with pytest.raises(RegistryError, match="identity provider"):
        RegistryClient(server.url, "carl", "a-long-password-1").models()
    assert server.client("service").models() is not None


def test_commands_take_a_token(
    server: Any, provider: Provider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from windtunnel.cli.app import app

    monkeypatch.setenv("WINDTUNNEL_REGISTRY_URL", server.url)
    monkeypatch.setenv("WINDTUNNEL_TOKEN", provider.token(email="boss@example.org", groups=["ml-admins"]))
    said = CliRunner().invoke(app, ["--home", str(tmp_path), "registry", "people", "list"])
    assert said.exit_code == 0 and "boss@example.org" in said.output


def test_an_approver_of_the_provider_decides_and_a_data_scientist_does_not(server: Any, provider: Provider) -> None:
    boss = client(server, provider, email="boss@example.org", groups=["ml-admins"])
    boss.set_policy_document({"first": {"approvals": 1}}, reason="two pairs of eyes")
    ann = client(server, provider, email="ann@example.org")
    with pytest.raises(RefusedError) as refused:
        ann.set_policy_document({"first": {"approvals": 0}}, reason="fewer")
    assert refused.value.code == "WT_ROLE"
