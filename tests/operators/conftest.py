"""A small model's description, and where Airflow keeps its things while these tests run."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Before anything imports Airflow: it reads its configuration at import and would write into the user's home.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="wt-airflow-"))

CASES = Path(__file__).parent / "cases"


@pytest.fixture
def describe() -> Callable[..., Any]:
    """A description with as little as one needs; keywords replace parts of it."""
    from windtunnel import Model

    def make(**parts: Any) -> Model:
        given: dict[str, Any] = {
            "name": "small",
            "owner": "tests",
            "data": {"source": "rows.csv", "time": "t", "target": "y", "features": ["a", "b"]},
            "training": {"entry_point": "wt_small:train", "params": {"slope": 2.0}},
            "evaluation": {"metrics": [{"name": "rmse", "maximum": 1.0}], "benchmark": None},
        }
        return Model.model_validate({**given, **parts})

    return make
