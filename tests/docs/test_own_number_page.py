"""The page about gates on a number of one's own: its code is run, its gate is fed by it."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from windtunnel.home import ENV_HOME, Home
from windtunnel.rollout import Plan
from windtunnel.serving.predictions import PredictionWriter
from windtunnel.serving.predictions.labels import Labels
from windtunnel.serving.release import values
from windtunnel.serving.release.values import Context, Functions, values_of
from windtunnel.spec import Gate, Rollout

ROOT = Path(__file__).parents[2]


@pytest.fixture
def page(blocks: Callable[[Path], list[Any]]) -> list[Any]:
    return blocks(ROOT / "docs" / "how-to" / "gate-on-your-own-number.md")


def test_the_figure_arrives_and_the_gate_is_on_it(
    page: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEMAND MON-12"""
    monkeypatch.setenv(ENV_HOME, str(tmp_path))
    told: dict[str, Any] = {}
    for block in page[:2]:
        exec(compile(block.code, block.page, "exec"), told)
    rows = Labels(Home(tmp_path).labels).read("visits", figure="revenue")
    assert rows["label"].tolist() == [12.5]
    rollout: Rollout = told["rollout"]
    (value,) = values_of(rollout, Plan.from_spec(rollout, False))
    assert (value.figure, value.low, value.high, value.better) == ("revenue", 0.0, 200.0, "higher")


def test_the_function_is_called_with_the_window_and_gives_numbers(
    page: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DEMAND MON-12"""
    gate = next(block for block in page if "visits.numbers:sureness" in block.code and "Gate(" in block.code)
    code = next(block for block in page if block.file == "visits/numbers.py")
    told: dict[str, Any] = {}
    exec(compile(gate.code, gate.page, "exec"), told)
    module = ModuleType("visits.numbers")
    exec(compile(code.code, code.page, "exec"), vars(module))
    monkeypatch.setitem(sys.modules, "visits", ModuleType("visits"))
    monkeypatch.setitem(sys.modules, "visits.numbers", module)
    monkeypatch.setattr(values, "functions", Functions())
    home, now = Home(tmp_path), time.time()
    for version, sure in (("1", 0.9), ("2", 0.5)):
        writer = PredictionWriter(home.predictions, "visits", version, "0", flush_s=5, features=["age"])
        for n in range(4):
            writer.write(
                f"r{version}{n}", now - 10 + n, [f"p{version}{n}"], [{"age": 1.0}], [1.0], 1.0, 200, confidence=[sure]
            )
        writer.close()
    declared: Gate = told["gate"]
    rollout = Rollout(gates=[declared])
    (value,) = values_of(rollout, Plan.from_spec(rollout, False))
    numbers = values.functions.ask("key", value, Context("visits", "1", "2", now - 60, now, home))
    assert (numbers.champion.n, numbers.candidate.n) == (4, 4)
    assert numbers.champion.total == pytest.approx(4 * 0.1)
    assert numbers.candidate.total == pytest.approx(4 * 0.5)
