"""How long a first watch may last whose end nobody told."""

from __future__ import annotations

from typing import Any

import pytest

from windtunnel_mlflow.releases.firstwatch import longest


@pytest.mark.parametrize(
    ("plan", "seconds"),
    [
        ({"steps": [{"hold_s": 600.0}], "patience_s": None}, 1200.0),
        ({"steps": [{"hold_s": 600.0}], "patience_s": 30.0}, 630.0),
        ({"steps": [{"hold_s": 600.0}], "patience_s": 0.0}, 600.0),
        ({"steps": []}, 0.0),
        ({}, 0.0),
    ],
)
def test_its_time_and_its_patience(plan: dict[str, Any], seconds: float) -> None:
    assert longest(plan) == seconds
