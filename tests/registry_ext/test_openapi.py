"""The description of the API names every route there is, and what it says can be read by a machine."""

from __future__ import annotations

import inspect
import re
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.openapi.models import OpenAPI

from windtunnel_mlflow.api import openapi
from windtunnel_mlflow.api.routes import create_api


@pytest.fixture(scope="module")
def api() -> Any:
    return create_api(SimpleNamespace(store=SimpleNamespace()), None)  # type: ignore[arg-type]


def test_every_route_is_described_and_nothing_else(api: Any) -> None:
    there = {
        (method.lower(), rule.rule)
        for rule in api.url_map.iter_rules()
        if rule.endpoint != "static"
        for method in rule.methods - {"HEAD", "OPTIONS"}
    }
    told = [(method, route) for method, route, *_ in openapi.ENDPOINTS]
    assert len(told) == len(set(told))
    assert set(told) == there


def test_what_an_endpoint_demands_of_a_body_is_described(api: Any) -> None:
    """``web.body("source")`` in the endpoint is ``source!`` in the description."""
    told = {(method, route): body for method, route, _, _, body in openapi.ENDPOINTS}
    looked = 0
    for rule in api.url_map.iter_rules():
        if rule.endpoint == "static":
            continue
        source = inspect.getsource(api.view_functions[rule.endpoint])
        for call in re.findall(r"web\.body\(([^)]*)\)", source):
            demanded = set(re.findall(r'"(\w+)"', call))
            (method,) = (name.lower() for name in rule.methods - {"HEAD", "OPTIONS"})
            needed = {name for name, _, needed in openapi._fields(told[method, rule.rule]) if needed}
            assert demanded <= needed, f"{method} {rule.rule}"
            looked += 1
    assert looked > 20


def test_it_is_valid_openapi() -> None:
    document = openapi.document("1.2.3")
    OpenAPI.model_validate(document)
    ids = [op["operationId"] for path in document["paths"].values() for op in path.values()]
    assert len(ids) == len(set(ids)) == len(openapi.ENDPOINTS)
    for path, operations in document["paths"].items():
        for operation in operations.values():
            named = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert named == set(re.findall(r"{(\w+)}", path))


@pytest.mark.real
def test_the_server_tells_it_to_whoever_may_ask(service: Any, registry_server: Any) -> None:
    import httpx

    assert service._call("GET", "/openapi.json")["info"]["title"].startswith("Windtunnel")
    assert httpx.get(f"{registry_server.url}{openapi.PREFIX}/openapi.json", timeout=20).status_code == 401
