"""The audit of a running server: every refusal once, checked online and offline by the command (DEMAND REG-7)."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from windtunnel.cli.app import app
from windtunnel.evidence import checkpoint
from windtunnel.evidence.checkpoint import VerifierKey
from windtunnel.registry.client import RegistryClient
from windtunnel.stackfile import read_secret
from windtunnel_mlflow.refusals import UNKNOWN, Flood, claimed

pytestmark = pytest.mark.real

MLFLOW = "/api/2.0/mlflow"
WT = "/api/windtunnel/v1"
DENIED = "MLFLOW_403"
Windtunnel = Callable[..., Result]


@pytest.fixture
def windtunnel(registry_server: Any, monkeypatch: pytest.MonkeyPatch) -> Windtunnel:
    """The command, as the administrator of the server."""
    monkeypatch.setenv("WINDTUNNEL_HOME", str(registry_server.home.root))
    monkeypatch.setenv("WINDTUNNEL_REGISTRY_URL", registry_server.url)
    monkeypatch.setenv("WINDTUNNEL_USERNAME", "admin")
    monkeypatch.setenv("WINDTUNNEL_PASSWORD", read_secret(registry_server.home, "mlflow-admin"))

    def run(*words: str, code: int = 0) -> Result:
        found = CliRunner().invoke(app, [*words])
        assert found.exit_code == code, found.output + repr(found.exception)
        return found

    return run


@pytest.fixture
def sealed(service: RegistryClient, hands: Any, helpers: Any) -> Any:
    return helpers.enter(service, hands, hands.model())


def test_every_refusal_is_there_once(
    registry_server: Any, service: RegistryClient, hands: Any, person_http: httpx.Client, sealed: Any
) -> None:
    model, run_id = sealed.model, sealed.run_id
    alias = {"name": model, "alias": "champion", "version": "1"}
    weights = f"/api/2.0/mlflow-artifacts/artifacts/0/{run_id}/artifacts/model/weights"
    user = {"username": "eve", "password": "a-long-password-1"}
    mine = {"name": model, "description": "mine"}
    wrong = httpx.Client(base_url=registry_server.url, auth=("ada", "wrong"), timeout=20, trust_env=False)
    nobody = httpx.Client(base_url=registry_server.url, timeout=20, trust_env=False)
    stack = hands.http
    attempts: list[tuple[Callable[[], httpx.Response], int, str, str]] = [
        (lambda: stack.post(f"{MLFLOW}/registered-models/alias", json=alias), 403, "service", "WT_POLICY"),
        (lambda: stack.put(weights, content=b"harm"), 403, "service", "WT_SEALED"),
        (lambda: person_http.patch(f"{MLFLOW}/registered-models/update", json=mine), 403, "ada", DENIED),
        (lambda: person_http.put(f"{WT}/models/{model}/policy", json={"champion": []}), 403, "ada", "WT_ROLE"),
        (lambda: person_http.post(f"{WT}/audit/checkpoint", json={}), 403, "ada", "WT_ROLE"),
        (lambda: stack.post(f"{MLFLOW}/users/create", json=user), 403, "service", DENIED),
        (lambda: wrong.get(f"{WT}/models"), 401, UNKNOWN, "WT_CREDENTIAL"),
        (lambda: wrong.post(f"{MLFLOW}/registered-models/alias", json=alias), 401, UNKNOWN, "WT_CREDENTIAL"),
        (lambda: wrong.put(weights, content=b"harm"), 401, UNKNOWN, "WT_CREDENTIAL"),
    ]  # fmt: skip
    for attempt, status, actor, code in attempts:
        before = service.audit(limit=1)[0].seq
        response = attempt()
        assert response.status_code == status, response.text
        new = [row for row in service.audit(limit=5) if row.seq > before]
        assert [(row.actor, row.code, row.outcome) for row in new] == [(actor, code, "refused")], (response.url, new)
    assert new[0].detail["claimed"] == "ada"
    before = service.audit(limit=1)[0].seq
    assert nobody.get(f"{WT}/models").status_code == 401
    assert service.audit(limit=1)[0].seq == before, "who has not said a name yet is not refused"
    wrong.close()
    nobody.close()


def test_wrong_passwords_do_not_fill_the_disk() -> None:
    now = [0.0]
    flood = Flood(2, lambda: now[0])
    assert [flood.passes() for _ in range(5)] == [0, 0, None, None, None]
    now[0] = 61
    assert [flood.passes() for _ in range(2)] == [3, 0]
    assert claimed("Basic YWRhOnB3") == "ada"
    assert (claimed("Bearer x"), claimed("Basic ?"), claimed(None)) == ("", "", None)


def test_a_checkpoint_can_be_asked_for(registry_server: Any, service: RegistryClient, sealed: Any) -> None:
    state = service.publish_checkpoint()
    assert state["problem"] is None
    assert state["changeable"] is True, "on SQLite the server's own role can always change it"
    point = checkpoint.open_note(state["checkpoint"], [VerifierKey.parse(state["key"])])
    entries = list(service.audit_log())
    assert point.size <= len(entries)
    names = {path.name for path in (registry_server.home.audit / "checkpoints").iterdir()}
    assert f"{point.size:020d}.checkpoint" in names
    assert service.audit_state() == state


def test_online_and_offline(
    registry_server: Any, service: RegistryClient, sealed: Any, windtunnel: Windtunnel, tmp_path: Path
) -> None:
    service.publish_checkpoint()
    told = windtunnel("audit", "verify")
    assert told.stdout.startswith("PASS: ")
    report = json.loads(windtunnel("audit", "verify", "--json").stdout)
    assert (report["schema"], report["outcome"], report["broken"]) == ("windtunnel.audit-verify/1", "PASS", 0)
    # Elsewhere, with nothing but three files.
    file = tmp_path / "audit.jsonl"
    windtunnel("audit", "export", str(file))
    key = next(registry_server.home.audit.glob("*.vkey"))
    place = str(registry_server.home.audit / "checkpoints")
    offline = ("audit", "verify", str(file), "--checkpoints", place, "--home", str(tmp_path / "nothing"))
    windtunnel(*offline, "--key", str(key))
    assert "beside the checkpoints" in windtunnel(*offline).stderr
    windtunnel("audit", "verify", str(file), "--home", str(tmp_path / "nothing"), code=4)
    lines = file.read_bytes().splitlines(keepends=True)
    assert windtunnel("audit", "export", "-").stdout_bytes.startswith(b"".join(lines))
    file.write_bytes(b"".join(lines[:2] + lines[3:]))
    broken = windtunnel(*offline, "--key", str(key), code=3)
    assert "FAIL" in broken.stdout
    file.write_bytes(b"".join(lines).replace(b'"actor":"service"', b'"actor":"eve"', 1))
    assert "edited" in windtunnel(*offline, code=3).stdout


def test_the_database_and_the_export_hold_the_same(registry_server: Any, service: RegistryClient, sealed: Any) -> None:
    entries = list(service.audit_log())
    with sqlite3.connect(registry_server.home.mlflow / "mlflow.db") as connection:
        kept = connection.execute("SELECT seq, hash FROM wt_audit ORDER BY seq").fetchall()
    assert [(row["seq"], row["hash"]) for row in entries] == kept[: len(entries)]
    some = entries[len(entries) // 2]["seq"]
    assert [row["seq"] for row in service.audit_log(some)][: len(entries)] == [
        row["seq"] for row in entries if row["seq"] > some
    ]


def test_show_and_its_filters(service: RegistryClient, hands: Any, sealed: Any, windtunnel: Windtunnel) -> None:
    model = sealed.model
    alias = {"name": model, "alias": "champion", "version": "1"}
    headers = {"X-Correlation-ID": f"story-of-{model}"}
    hands.http.post(f"{MLFLOW}/registered-models/alias", json=alias, headers=headers)

    def shown(*words: str) -> list[dict[str, Any]]:
        return list(json.loads(windtunnel("audit", "show", "--model", model, "--json", *words).stdout)["entries"])

    everything = shown()
    assert [row["action"] for row in everything] == ["set-alias", "seal", "register", "create-model"]
    assert [row["action"] for row in shown("--outcome", "refused")] == ["set-alias"]
    assert [row["action"] for row in shown("--action", "seal")] == ["seal"]
    assert {row["actor"] for row in shown("--actor", "service")} == {"service"}
    assert [row["action"] for row in shown("--story", f"story-of-{model}")] == ["set-alias"]
    assert shown("--until", "2020-01-01") == []
    assert shown("--since", "2020-01-01T00:00") == everything
    assert len(shown("--limit", "2")) == 2
    table = windtunnel("audit", "show", "--model", model).stdout
    assert "WT_POLICY" in table.splitlines()[1]
    windtunnel("audit", "show", "--since", "yesterday", code=2)
    windtunnel("audit", "show", "--outcome", "good", code=2)
