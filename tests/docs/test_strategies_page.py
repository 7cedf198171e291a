"""docs/how-to/choose-a-strategy.md is true: each part of a description is read, each claim about it is asked."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from windtunnel.rollout import Plan
from windtunnel.serving.backend import Capability
from windtunnel.serving.local import LocalBackend
from windtunnel.spec.load import loads
from windtunnel.spec.rollout import Rollout, Strategy

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "choose-a-strategy.md"
BASE = """name: visits
owner: me
data: {source: x.csv, time: t, target: y, features: [{name: a}]}
training: {entry_point: "visits.train:train"}
"""


def table(head: str) -> list[list[str]]:
    """Cells of the page's table whose first column is called ``head``."""
    text = PAGE.read_text(encoding="utf-8").split(f"| {head} |")[1].split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines()[2:]]


def test_every_part_is_a_description(blocks: Callable[[Path], list[Any]]) -> None:
    parts = [loads(BASE + block.code, str(block.line)) for block in blocks(PAGE)]
    named = {part.rollout.strategy for part in parts}
    assert named == set(get_args(Strategy)), "each strategy has an example"
    assert [part.rollout.audience.header for part in parts if part.rollout.audience] == ["x-tester"]
    assert [part.rollout.segments.values for part in parts if part.rollout.segments] == [["de", "us"]]
    for part in parts:
        Plan.from_spec(part.rollout, False, replicas=part.serving.replicas)


def test_the_steps_are_those_of_the_plans() -> None:
    told = {}
    for name, steps, *_ in table("strategy"):
        asked: dict[str, Any] = {"strategy": re.findall(r"`(\w+)`", name)[0]}
        if "preset" in name:
            asked["preset"] = "fast"
        if asked["strategy"] == "ab":
            gate = {"metric": "value", "figure": "revenue", "low": 0, "high": 500, "margin": 1.0, "superior": 0.5}
            asked["gates"] = [gate]
        plan = Plan.from_spec(Rollout.model_validate(asked), False, replicas=4)
        told[name] = (steps, ", ".join(step.words for step in plan.steps) or "no step")
    assert len(told) == 7
    for name, (page, code) in told.items():
        assert page == code, name


def test_capabilities_are_all_named_and_the_local_backend_has_them() -> None:
    named = {row[0].strip("`") for row in table("capability")}
    assert named == set(get_args(Capability)) == LocalBackend.capabilities
