"""What the server does for each cell of the matrix of roles, over real HTTP (DEMAND REG-11)."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from windtunnel.evidence import Kind, Outcome, Verdict
from windtunnel.registry.client import PREFIX, RegistryClient
from windtunnel.stackfile import read_secret
from windtunnel_mlflow.access import matrix

pytestmark = pytest.mark.real

MLFLOW = "/api/2.0/mlflow"
#: Actions that have no call of one model's: tested where they are, ``test_server_exchange.py`` and beside.
ELSEWHERE = {"restore", "clean", "exchange"}
#: Where no policy was set, these are named.
NAMED = {"approve": {"approver", "admin"}, "rollback": {"ml_engineer", "approver", "admin"}}


@dataclass(frozen=True)
class Scene:
    """A user of one role, and a model of its own that it may change in MLflow: versions 1 (judged), 2, 3 and 4.

    Attributes:
        review: an open one of somebody else's rollback.
    """

    http: httpx.Client
    model: str
    run_id: str
    review: str
    service: RegistryClient

    def ours(self, method: str, path: str, **body: Any) -> httpx.Response:
        return self.http.request(method, PREFIX + path, json=body or None)

    def mlflow(self, method: str, path: str, **body: Any) -> httpx.Response:
        return self.http.request(method, MLFLOW + path, json={"name": self.model, **body})


def _approve(on: Scene) -> httpx.Response:
    shown = on.service.explain(on.model, 1, "staging")
    said = {
        "decision": "approve",
        "to": "staging",
        "reason": "fine",
        "digest": shown.digest,
        "evidence": shown.evidence,
    }
    return on.ours("POST", f"/models/{on.model}/versions/1/approvals", **said)


def _verdict(on: Scene) -> httpx.Response:
    body = Verdict(
        model=on.model, kind=Kind.SCAN, outcome=Outcome.PASS, reason="clean", subject=f"sha256:{secrets.token_hex(8)}"
    ).to_dict()
    return on.ours("POST", "/verdicts", **body)


Attempt = Callable[[Scene], httpx.Response]
#: In this order, on the model of one role.
ATTEMPTS: dict[str, Attempt] = {
    "read": lambda on: on.ours("GET", f"/models/{on.model}/versions/1"),
    "register": lambda on: on.ours(
        "POST", f"/models/{on.model}/versions", source=f"runs:/{on.run_id}/model", run_id=on.run_id
    ),
    "describe": lambda on: on.mlflow("POST", "/registered-models/set-tag", key="team", value="x"),
    "card": lambda on: on.ours("PUT", f"/models/{on.model}/card", card={"risk": "low"}, reason="known"),
    "comment": lambda on: on.ours("POST", f"/models/{on.model}/versions/1/comments", text="seen"),
    "verdict": _verdict,
    "approve": _approve,
    "stage": lambda on: on.ours(
        "POST", f"/models/{on.model}/versions/2/transition", to="development", reason="not yet"
    ),
    "delete": lambda on: on.mlflow("DELETE", "/model-versions/delete", version="2"),
    "withdraw": lambda on: on.ours("POST", f"/models/{on.model}/versions/3/withdraw", reason="wrong"),
    "promote": lambda on: on.mlflow("POST", "/registered-models/alias", alias="champion", version="1"),
    "rollback": lambda on: on.ours("POST", f"/models/{on.model}/rollback", reason="complaints"),
    "review": lambda on: on.ours("POST", f"/reviews/{on.review}/close", note="looked at"),
    "rollout": lambda on: on.ours("POST", f"/models/{on.model}/rollouts", version="4", holder="h", plan={}),
    "describe-policy": lambda on: on.ours(
        "PUT", f"/models/{on.model}/policy", champion=["evaluation"], first=["evaluation", "scan"]
    ),
    "set-policy": lambda on: on.ours(
        "PUT", f"/models/{on.model}/policy/document", policy={"staging": {"approvals": 1}}, reason="stricter"
    ),
    "people": lambda on: on.ours(
        "POST", "/people", name=f"p-{secrets.token_hex(4)}", password=secrets.token_urlsafe(18)
    ),
    "adopt": lambda on: on.ours("POST", f"/models/{on.model}/adopt", after=0),
}
#: Allowed, and there was nothing to do it to.
NOTHING_TO_DO = {"rollback": "WT_NO_WAY_BACK"}


@pytest.fixture(scope="module")
def scene(registry_server: Any, helpers: Any) -> Iterator[Callable[[str], Scene]]:
    opened: list[Any] = []
    with registry_server.client("admin") as admin, registry_server.client() as service, registry_server.rest() as rest:
        hands = helpers.Hands(rest)
        flown: str = hands.model()
        for data in ("sha256:d1", "sha256:d2"):
            helpers.crown(service, hands, flown, data=data)
        password = secrets.token_urlsafe(18)
        roller = f"cell-roller-{secrets.token_hex(3)}"
        admin.add_person(roller, password)
        admin.grant(roller, ["ml_engineer"])

    def reviewed() -> str:
        with RegistryClient(registry_server.url, roller, password) as client:
            now = client.champion(flown)
            assert now is not None
            return client.rollback(flown, "complaints", to="1" if now.version == "2" else "2").id

    def build(role: str) -> Scene:
        admin, service, rest = registry_server.client("admin"), registry_server.client(), registry_server.rest()
        opened.extend((admin, service, rest))
        hands = helpers.Hands(rest)
        model: str = hands.model()
        record = helpers.enter(service, hands, model)
        helpers.judge(service, record, "data-check", "evaluation")
        for _ in range(3):
            helpers.enter(service, hands, model)
        name, password = role, ""
        if role in ("admin", "service"):
            password = read_secret(registry_server.home, f"mlflow-{role}")
        else:
            name, password = f"cell-{role}-{secrets.token_hex(3)}", secrets.token_urlsafe(18)
            admin.add_person(name, password)
            admin.grant(name, [role])
            right = {"resource_type": "registered_model", "resource_id": model, "permission": "MANAGE"}
            with registry_server.rest("admin") as http:
                answer = http.post("/api/3.0/mlflow/users/permissions/grant", json={"username": name, **right})
                assert answer.status_code == 200, answer.text
        http = httpx.Client(base_url=registry_server.url, auth=(name, password), timeout=30, trust_env=False)
        opened.append(http)
        return Scene(http, model, hands.run(), reviewed(), service)

    yield build
    for one in opened:
        one.close()


def did(action: str, on: Scene) -> bool:
    """Whether the server let it be done; anything but that and a refusal for the role is an error of the test."""
    answer = ATTEMPTS[action](on)
    plain = answer.json()
    code = plain.get("windtunnel_code") or plain.get("error_code")
    by_role = [line for line in plain.get("missing") or () if "one of the roles" in line]
    if answer.status_code == 403 and (code == "WT_ROLE" or (code == "WT_POLICY" and by_role)):
        return False
    assert answer.is_success or NOTHING_TO_DO.get(action) == code, (action, answer.status_code, answer.text)
    if action == "verdict":
        return plain["claimed"] is False
    if action == "describe-policy":
        return on.service.policy_history(on.model, limit=1)[0].layer == "description"
    return True


def test_every_action_is_attempted_here_or_named() -> None:
    assert set(ATTEMPTS) | ELSEWHERE == set(matrix.MATRIX)


@pytest.mark.parametrize("role", matrix.ROLES)
def test_the_server_does_what_the_matrix_says(role: matrix.Role, scene: Callable[[str], Scene]) -> None:
    """A ``policy`` cell is a yes for those whom the built-in policy names."""
    on = scene(role)
    told = {}
    for action in ATTEMPTS:
        cell = matrix.cell(role, action)  # type: ignore[arg-type]
        told[action] = cell == "yes" or (cell == "policy" and role in NAMED[action])
    assert {action: did(action, on) for action in ATTEMPTS} == told


def test_where_policy_does_not_name_the_role_it_is_no(scene: Callable[[str], Scene], admin: RegistryClient) -> None:
    on = scene("ml_engineer")
    assert did("rollback", on)
    admin.set_policy_document({"emergency": {"by": ["admin"]}}, "only they", model=on.model)
    assert not did("rollback", on)
