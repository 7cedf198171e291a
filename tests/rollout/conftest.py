"""A release in miniature: plain values in, so each test says only what is special about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from windtunnel.rollout import Counters, Decision, Evidence, Plan, RolloutState, decide, look_record
from windtunnel.rollout.evidence import ArmCounters
from windtunnel.spec.rollout import Gate, Limits, Rollout, Step
from windtunnel.stats.histogram import Histogram, bucket


def seconds(s: float) -> timedelta:
    return timedelta(seconds=s)


def make_plan(*, first: bool = False, **changes: Any) -> Plan:
    """Two steps of 60 s, errors and latency compared, looks every 10 s."""
    settings: dict[str, Any] = {
        "steps": [Step(weight=weight, hold=seconds(60), min_requests=50) for weight in (10, 50)],
        "gates": [Gate(metric="errors", margin=0.01), Gate(metric="latency", margin=0.05)],
        "limits": Limits(error_rate=0.05),
        "first_watch": seconds(60),
        "look_every": seconds(10),
    }  # fmt: skip
    return Plan.from_spec(Rollout(**(settings | changes)), first)


def histogram(fast: int, slow: int) -> Histogram:
    counts = [0] * len(Histogram().counts)
    counts[bucket(8.0)], counts[bucket(80.0)] = fast, slow
    return Histogram(tuple(counts))


@dataclass
class World:
    """Counters that grow, a clock, and a brain that looks. ``look`` changes one thing at a time."""

    plan: Plan
    state: RolloutState
    now: float = 1_000_000.0
    epoch: str = "a"
    totals: dict[str, list[int]] = field(default_factory=dict)  # version: requests, errors, slow
    looks: list[dict[str, Any]] = field(default_factory=list)

    def serve(self, version: str, requests: int, errors: int = 0, slow: int = 0) -> None:
        before = self.totals.setdefault(version, [0, 0, 0])
        for i, more in enumerate((requests, errors, slow)):
            before[i] += more

    def traffic(self) -> Counters:
        arms = {v: ArmCounters(n, e, 0, histogram(n - s, s)) for v, (n, e, s) in self.totals.items()}
        return Counters(self.epoch, self.now, arms)

    def evidence(self) -> Evidence:
        return Evidence(
            traffic=self.traffic(),
            observed_weight=self.plan.steps[self.state.step].weight,
            ready=True,
            digest_ok=True,
        )

    def look(self, **changes: Any) -> Decision:
        """Look now; ``changes`` replace fields of healthy evidence."""
        evidence = replace(self.evidence(), **changes)
        decision = decide(self.plan, self.state, evidence, self.now)
        self.looks.append(look_record("r-1", self.now, evidence, decision))
        self.state = decision.state
        return decision

    def tick(self, seconds: float = 10.0, *, champion: int = 100, candidate: int = 20, **changes: Any) -> Decision:
        """Time passes, both versions answer well, and somebody looks."""
        self.now += seconds
        self.serve("1", champion, champion // 100, champion // 25)
        self.serve("2", candidate, candidate // 100, candidate // 25)
        return self.look(**changes)


@pytest.fixture
def world() -> Callable[..., World]:
    """``world(first=..., **changes to the plan)``: a release nobody has looked at yet; the champion has a history."""

    def build(*, first: bool = False, **changes: Any) -> World:
        plan = make_plan(first=first, **changes)
        made = World(plan, RolloutState.begin(champion=None if first else "1", candidate="2", at=1_000_000.0))
        if not first:
            made.serve("1", 5000, 40, 200)
        return made

    return build


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20_260_801)
