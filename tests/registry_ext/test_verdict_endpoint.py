"""The conformance suite of the verdict endpoint, against the governed MLflow server."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from windtunnel.registry.client import RegistryClient

_SUITE = Path(__file__).parent.parent / "conformance" / "verdict_endpoint.py"
_spec = importlib.util.spec_from_file_location("conformance_verdict_endpoint", _SUITE)
assert _spec
assert _spec.loader
suite = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(suite)


@pytest.mark.real
class TestGovernedServer(suite.VerdictEndpointConformance):  # type: ignore[name-defined, misc]
    @pytest.fixture
    def trusted(self, service: RegistryClient) -> RegistryClient:
        return service

    @pytest.fixture
    def other(self, person_client: RegistryClient) -> RegistryClient:
        return person_client

    @pytest.fixture
    def subject(self, service: RegistryClient, hands: Any, helpers: Any) -> tuple[str, str]:
        model = hands.model()
        return model, str(helpers.enter(service, hands, model).digest)
