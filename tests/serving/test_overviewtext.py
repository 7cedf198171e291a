"""Evidence bars: empty says nothing, full is proof, and nothing is full before it is there."""

from __future__ import annotations

import math

import pytest

from windtunnel.serving.release.overviewtext import bar


@pytest.mark.parametrize(
    ("evidence", "goal", "filled"),
    [(0.01, 100, 0), (1, 100, 0), (10, 100, 10), (99.999, 100, 19), (100, 100, 20), (1e9, 100, 20)],
)
def test_the_bar_is_logarithmic(evidence: float, goal: float, filled: int) -> None:
    assert bar(evidence, goal) == "[" + "#" * filled + "." * (20 - filled) + "]"


@pytest.mark.parametrize(("evidence", "goal"), [(None, 100), (5, None), (math.nan, 100), (5, 1)])
def test_what_is_not_known_is_not_empty(evidence: float | None, goal: float | None) -> None:
    assert bar(evidence, goal) == "[" + "?" * 20 + "]"
