"""The local backend keeps the contract (DEMAND SRV-1)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

_path = Path(__file__).parents[1] / "conformance" / "serving_backend.py"
_spec = importlib.util.spec_from_file_location("conformance_serving_backend", _path)
assert _spec is not None and _spec.loader is not None
_suite = importlib.util.module_from_spec(_spec)
sys.modules.setdefault(_spec.name, _suite)
_spec.loader.exec_module(_suite)

pytestmark = pytest.mark.real


class TestLocal(_suite.ServingBackendConformance):  # type: ignore[misc, name-defined]
    pass
