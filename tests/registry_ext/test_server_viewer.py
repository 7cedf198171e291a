"""Somebody who may only read, at every door of a real server (DEMAND REG-10, REG-11)."""

from __future__ import annotations

import secrets
from typing import Any

import httpx
import pytest

from windtunnel.registry.client import PREFIX, RegistryClient

pytestmark = pytest.mark.real

MLFLOW, PAGES = "/api/2.0/mlflow", "/ajax-api/2.0/mlflow"


def test_a_viewer_reads_everything_and_changes_nothing(registry_server: Any, admin: RegistryClient, hands: Any) -> None:
    name, password = f"vera-{secrets.token_hex(3)}", secrets.token_urlsafe(18)
    admin.add_person(name, password)
    assert admin.grant(name, ["viewer"])["roles"] == ["viewer"]
    model, run = hands.model(), hands.run()
    # So that MLflow itself would let it.
    with registry_server.rest("admin") as http:
        for kind, resource in (("experiment", "0"), ("registered_model", model)):
            right = {"resource_type": kind, "resource_id": resource, "permission": "MANAGE"}
            answer = http.post("/api/3.0/mlflow/users/permissions/grant", json={"username": name, **right})
            assert answer.status_code == 200, answer.text
    files = "/api/2.0/mlflow-artifacts"
    with httpx.Client(base_url=registry_server.url, auth=(name, password), timeout=30, trust_env=False) as http:
        query = {"query": '{ mlflowGetExperiment(input: {experimentId: "0"}) { experiment { name } } }'}
        reads: list[tuple[str, str, dict[str, Any]]] = [
            ("POST", f"{MLFLOW}/experiments/search", {"json": {"max_results": 3}}),
            ("POST", f"{PAGES}/runs/search", {"json": {"experiment_ids": ["0"]}}),
            ("GET", f"{MLFLOW}/registered-models/get", {"params": {"name": model}}),
            ("POST", "/graphql", {"json": query}),
            ("GET", f"{files}/artifacts/0/{run}/artifacts/model/MLmodel", {}),
            ("GET", f"{PREFIX}/search", {}),
            ("GET", f"{PREFIX}/audit", {}),
            ("GET", f"{PREFIX}/metrics", {}),
            ("POST", f"{PREFIX}/policy/check", {"json": {"policy": {}}}),
        ]
        for method, path, more in reads:
            answer = http.request(method, path, **more)
            assert answer.status_code == 200, (path, answer.text)
        changes: list[tuple[str, str, dict[str, Any]]] = [
            ("POST", f"{MLFLOW}/experiments/create", {"json": {"name": "hers"}}),
            ("POST", f"{PAGES}/runs/create", {"json": {"experiment_id": "0"}}),
            ("POST", f"{MLFLOW}/registered-models/create", {"json": {"name": "hers"}}),
            ("PUT", f"{files}/artifacts/0/{run}/artifacts/more", {"content": b"x"}),
            ("DELETE", f"{files}/artifacts/0/{run}/artifacts/model", {}),
            ("POST", f"{PAGES}/upload-artifact", {"params": {"run_uuid": run, "path": "x"}, "content": b"x"}),
            ("POST", "/v1/traces", {"content": b"x", "headers": {"X-Mlflow-Experiment-Id": "0"}}),
            ("POST", f"{PREFIX}/models/{model}/versions", {"json": {"source": f"runs:/{run}/model"}}),
            ("PUT", f"{PREFIX}/models/{model}/card", {"json": {"card": {"risk": "low"}, "reason": "known"}}),
        ]
        for method, path, more in changes:
            answer = http.request(method, path, **more)
            assert answer.status_code == 403, (path, answer.status_code, answer.text)
            assert "WT_ROLE" in answer.text and "may only read" in answer.text, (path, answer.text)
        assert http.get(f"{files}/artifacts/0/{run}/artifacts/more").status_code == 404
        noted = [row for row in admin.audit(limit=100) if row.actor == name]
        assert [(row.action, row.code) for row in noted] == [("change", "WT_ROLE")] * len(changes)
        assert model in {row.model for row in noted}, "the model is told where the request names it"
        # One's own password is nobody else's business; another role counts from the next request on.
        fresh = {"username": name, "password": secrets.token_urlsafe(18), "current_password": password}
        assert http.patch(f"{MLFLOW}/users/update-password", json=fresh).status_code == 200
        http.auth = httpx.BasicAuth(name, fresh["password"])
        admin.grant(name, ["viewer", "data_scientist"])
        made = http.post(f"{MLFLOW}/registered-models/create", json={"name": f"hers-{secrets.token_hex(3)}"})
        assert made.status_code == 200, made.text
