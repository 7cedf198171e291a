"""What counts as a change for who may only read: every route of MLflow's and of ours (DEMAND REG-10, REG-11)."""

from __future__ import annotations

import re

import pytest

from windtunnel_mlflow.access.viewers import MLFLOW_READS, open_to_viewers
from windtunnel_mlflow.api.openapi import ENDPOINTS, PREFIX

MLFLOW = "/api/2.0/mlflow"


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", f"{MLFLOW}/runs/get", True),
        ("HEAD", "/", True),
        ("POST", f"{MLFLOW}/runs/search", True),
        ("POST", "/ajax-api/2.0/mlflow/runs/search", True),
        ("POST", "/ajax-api/2.0mlflow/experiments/search-datasets", True),  # as MLflow has it
        ("POST", "/graphql", True),
        ("PATCH", f"{MLFLOW}/users/update-password", True),
        ("POST", f"{PREFIX}/policy/check", True),
        ("POST", f"{PREFIX}/models/sea/policy/check", True),
        ("POST", f"{MLFLOW}/runs/create", False),
        ("POST", f"{MLFLOW}/runs/search/", False),
        ("DELETE", f"{MLFLOW}/runs/search", False),
        ("PATCH", f"{MLFLOW}/users/update-admin", False),
        ("POST", f"{PREFIX}/models/sea/rollback", False),
        # Names that end like a read's.
        ("POST", "/api/2.0/mlflow-artifacts/mpu/create/0/r/artifacts/api/2.0/mlflow/runs/search", False),
        ("PUT", "/api/2.0/mlflow-artifacts/artifacts/0/r/artifacts/graphql", False),
        ("POST", f"{PREFIX}/models/a/b/policy/check", False),
        ("POST", "/v1/traces", False),
        ("POST", "/gateway/mlflow/v1/chat/completions", False),
        ("TRACE", "/", False),
    ],
)
def test_what_is_open(method: str, path: str, expected: bool) -> None:
    assert open_to_viewers(method, path) is expected


def test_every_route_of_mlflow_that_reads_by_post_is_known() -> None:
    """A newer MLflow's shows up here: it is refused to viewers until it is in the list."""
    from mlflow.server import app, handlers  # noqa: F401  (its routes)

    changing = {
        (method, rule.rule) for rule in app.url_map.iter_rules() for method in rule.methods - {"GET", "HEAD", "OPTIONS"}
    }
    assert len(changing) > 200
    passed = {rule for method, rule in changing if open_to_viewers(method, re.sub(r"<[^>]*>", "x", rule))}
    calls = {rule.partition("mlflow/")[2] for rule in passed} - {""}
    assert calls == MLFLOW_READS
    assert {rule for rule in passed if "mlflow/" not in rule} == {"/graphql"}
    reads = {
        rule
        for method, rule in changing
        if method == "POST" and re.search(r"/(search|get|list|batchGet)[-A-Z\w]*$", rule)
    }
    # Makes a queue for whoever asks.
    assert {rule for rule in reads - passed if not rule.endswith("review-queues/get-or-create-user")} == set()


def test_of_ours_only_the_checks_of_a_policy_are_open() -> None:
    passed = {
        route
        for method, route, *_ in ENDPOINTS
        if method != "get" and open_to_viewers(method.upper(), PREFIX + re.sub(r"<[^>]*>", "1", route))
    }
    assert passed == {"/policy/check", "/models/<model>/policy/check"}
