"""What the API's description says is so: every operation, asked by a machine that has read nothing else."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings

from windtunnel.stackfile import read_secret

#: Requests to each operation, made of its description: what it allows, and what it does not.
EXAMPLES = 6


def operations(document: dict[str, Any], url: str) -> dict[str, Any]:
    import schemathesis

    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=url + document["servers"][0]["url"])
    return {one.ok().label: one.ok() for one in schema.get_all_operations()}


@pytest.mark.real
@pytest.mark.parametrize(("role", "methods"), [("service", None), ("admin", {"get"})])
def test_every_answer_is_as_described(registry_server: Any, role: str, methods: set[str] | None) -> None:
    """No 5xx, no status, content type or body that the description does not know. An administrator only reads: what
    else it may do would change the server that other tests ask."""
    import schemathesis.checks
    from schemathesis.specs.openapi import checks

    held = [
        schemathesis.checks.not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]
    with registry_server.rest(role) as http:
        password = read_secret(registry_server.home, f"mlflow-{role}")
        basic = "Basic " + base64.b64encode(f"{role}:{password}".encode()).decode()
        document = http.get("/api/windtunnel/v1/openapi.json").json()
        found = operations(document, registry_server.url)
        assert len(found) == sum(len(path) for path in document["paths"].values())
        asked = 0
        for label, operation in found.items():
            if methods is not None and operation.method not in methods:
                continue
            statuses: set[int] = set()

            @settings(
                max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )  # fmt: skip
            @given(case=operation.as_strategy())
            def ask(case: Any) -> None:
                # A client takes dots out of the path before it asks; a line break leads past our routes.
                names = [unquote(str(value)) for value in (case.path_parameters or {}).values()]
                assume(not any(name in (".", "..") or "\n" in name for name in names))
                response = case.call(headers={"Authorization": basic})
                case.validate_response(response, checks=held)
                statuses.add(response.status_code)  # noqa: B023 - called in this very turn

            ask()
            assert statuses, label
            asked += 1
        assert asked > 20
