"""A plan for a target, or what would do. DEMAND ROL-9."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from windtunnel.errors import DescriptionError
from windtunnel.rehearsal import scenarios
from windtunnel.rehearsal.recommend import LENGTHS, Target, family, harmed, parse_target, recommend
from windtunnel.rehearsal.runs import Ends, Variant, gather, jobs, run_chunk
from windtunnel.rehearsal.scenarios import Scenario
from windtunnel.rollout.plan import Plan
from windtunnel.spec import Gate, Rollout
from windtunnel.spec.load import dumps_part, load_part


@dataclass
class Here:
    """Flies in this process; counts the flights."""

    mean_rate: float
    flights: int = 0

    def fly(
        self,
        plan: Plan | None = None,
        scenario: Scenario | None = None,
        *,
        runs: int | None = None,
        rate: float | None = None,
        compare: tuple[str, ...] | None = None,
    ) -> Mapping[str, Mapping[Variant, Ends]]:
        assert plan is not None and scenario is not None
        self.flights += 1
        flow = self.mean_rate if rate is None else rate
        worlds: dict[Variant, scenarios.World] = {
            "scenario": scenarios.world(plan, scenario, flow),
            "harmless": scenarios.world(plan, scenario.harmless, flow),
        }
        return gather([(job, run_chunk(job)) for job in jobs(plan, worlds, runs or 100, 1)])


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("errors x2 within 1000 requests", ("errors", 2.0, 1000.0, "requests")),
        ("Latency +50% within 20 minutes", ("latency", 1.5, 20.0, "minutes")),
        ("quality +10 within 5000 requests", ("quality", 1.1, 5000.0, "requests")),
        (" prediction  x1.5   within 30 minutes ", ("prediction", 1.5, 30.0, "minutes")),
    ],
)
def test_targets_are_read(text: str, target: tuple[str, float, float, str]) -> None:
    found = parse_target(text)
    assert (found.metric, found.factor, found.within, found.unit) == target


@pytest.mark.parametrize(
    "text",
    ["", "errors", "errors x2", "errors x2 within 1000", "errors x2 in 1000 requests", "speed x2 within 10 minutes",
     "errors x1 within 10 minutes", "errors x0.5 within 10 minutes", "errors +0% within 10 minutes",
     "errors x2 within 0 requests", "errors -50% within 10 minutes", "errors x2 within 10 hours"],
)  # fmt: skip
def test_what_is_no_target_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(DescriptionError) as caught:
        parse_target(text)
    assert caught.value.hint and "within 1000 requests" in caught.value.hint


def test_every_plan_of_the_family_can_be_flown_and_read_back(tmp_path: Path) -> None:
    gates = [Gate(metric=m, margin=0.1) for m in ("errors", "latency", "quality", "prediction")]
    base = Rollout(gates=gates, patience="5m")
    for metric in ("errors", "latency", "quality", "prediction"):
        target = parse_target(f"{metric} x1.5 within 1000 requests")
        wanted = harmed(Scenario(), target)
        for minutes in LENGTHS[:2]:
            for made in family(base, wanted, target, 0.03, minutes, 20.0):
                assert made.alpha == 0.03 and made.patience == base.patience
                gate = next(gate for gate in made.gates if gate.metric == metric)
                assert gate.within is not None and gate.margin < gate.within
                Plan.from_spec(made, False)
                file = tmp_path / "plan.yaml"
                file.write_text(dumps_part(made, "rollout"))
                assert load_part(Rollout, file, "rollout") == made


def test_plenty_of_traffic_gets_the_shortest_plan_and_what_was_measured() -> None:
    flyer = Here(200.0)
    advice = recommend(Rollout(), Scenario(), parse_target("errors x5 within 2000 requests"), 0.02, flyer)
    assert advice.rollout is not None and advice.rollout.alpha == 0.02
    assert sum(step.hold.total_seconds() for step in advice.rollout.steps) <= 3600
    measured = advice.to_dict()["measured"]
    assert measured["found"] >= 0.8 and measured["promoted"] >= 0.8 and measured["false_rollback"] <= 0.04
    assert flyer.flights < 20


def test_too_few_requests_are_told_and_what_would_do() -> None:
    said: list[str] = []
    target = parse_target("errors x2 within 50 requests")
    advice = recommend(Rollout(), Scenario(), target, None, Here(20.0), say=said.append)
    assert advice.rollout is None and said
    assert advice.instead["within"] > 300
    assert "too thin" in advice.words[0] and any("what would do" in line for line in advice.words)


def test_too_little_time_asks_for_more_traffic() -> None:
    target = Target("errors", 3.0, 10.0, "minutes", "errors x3 within 10 minutes")
    advice = recommend(Rollout(), Scenario(), target, None, Here(2.0))
    assert advice.rollout is None
    needed = advice.instead["requests_per_second"]
    assert needed is not None and needed > 2.0
    again = recommend(Rollout(), Scenario(), target, None, Here(needed))
    assert again.rollout is not None  # what was said to do, does


def test_a_metric_without_a_gate_and_an_alpha_of_nothing_are_refused() -> None:
    with pytest.raises(DescriptionError, match="no quality gate"):
        recommend(Rollout(), Scenario(), parse_target("quality x2 within 10 minutes"), None, Here(20.0))
    with pytest.raises(DescriptionError, match="alpha between"):
        recommend(Rollout(), Scenario(), parse_target("errors x2 within 10 minutes"), 0.0, Here(20.0))
