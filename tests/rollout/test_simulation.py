"""Whole releases one by one, with seeds: ``decide`` over counters and rows as a router and a log would give them.

A sample only. What the rules do in thousands of releases is shown in batches: ``test_studies.py``, ``bench/gates.py``.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

import numpy as np
import pytest

from windtunnel.rollout import Plan
from windtunnel.rollout.simulate import Behaviour, Run, Scenario, simulate
from windtunnel.spec.rollout import Gate, Rollout, Step

#: Seconds for minutes: the demo's plan.
LAPSE = Plan.from_spec(
    Rollout(
        steps=[Step(weight=w, hold="12s", min_requests=20) for w in (5, 25, 50, 75)],
        gates=[
            Gate(metric="errors", margin=0.02),
            Gate(metric="latency", margin=0.05),
            Gate(metric="quality", margin=0.1),
            Gate(metric="prediction", margin=0.15),
        ],
        prove="no_harm",  # there is no time to prove anything
        look_every="2s",
        lease="30s",
    ),
    False,
)
#: Members answer with 1 % errors; labels follow after two seconds.
GOOD = Behaviour(errors=0.01)
HARMS = {
    "errors 1 % -> 30 %": Behaviour(errors=0.3),
    "latency x5": Behaviour(errors=0.01, latency_ms=40.0),
    "loss x1.5": Behaviour(errors=0.01, loss=1.5),
    "loss x2": Behaviour(errors=0.01, loss=2.0),
    "predictions x3": Behaviour(errors=0.01, prediction=3.0),
    "crash (all errors)": Behaviour(errors=1.0),
}


#: ROL-1's canary, looked at each minute.
ORDINARY = Plan.from_spec(Rollout(look_every="60s", lease="180s"), False)


@dataclass(frozen=True)
class Study:
    name: str
    runs: list[Run]

    def share(self, action: str) -> float:
        return sum(run.decision.action == action for run in self.runs) / len(self.runs)

    @property
    def harm(self) -> float:
        return sum(run.decision.row in ("harm", "limit") for run in self.runs) / len(self.runs)

    def show(self) -> Study:
        ended = [r for r in self.runs if r.decision.action == "roll_back"] or self.runs
        print(
            f"\n{self.name}: {len(self.runs)} runs, promoted {self.share('promote'):.4f}, rolled back "
            f"{self.share('roll_back'):.4f} (harm shown {self.harm:.4f}); median "
            f"{statistics.median(r.seconds for r in ended):.0f} s, candidate answered "
            f"{statistics.median(r.exposed for r in ended):.0f} requests (95 %: "
            f"{np.quantile([r.exposed for r in ended], 0.95):.0f})"
        )
        return self


def study(name: str, plan: Plan, scenario: Scenario, runs: int, seed: int = 0) -> Study:
    return Study(name, [simulate(plan, scenario, np.random.default_rng([seed, i])) for i in range(runs)]).show()


def test_time_lapse_an_equal_version_passes() -> None:
    """40 requests/s, so 2 a second reach the candidate at 5 %."""
    found = study("time-lapse, equal", LAPSE, Scenario(40.0, GOOD, GOOD, label_delay_s=2.0), 20)
    assert found.share("promote") >= 0.9
    assert found.harm <= 0.1


@pytest.mark.parametrize("name", HARMS)
def test_time_lapse_harm_is_rolled_back(name) -> None:
    found = study(f"time-lapse, {name}", LAPSE, Scenario(40.0, GOOD, HARMS[name], label_delay_s=2.0), 10)
    # At the end of this short plan 744 requests have met a loss half as high again: about the least that can be seen.
    assert found.harm >= (0.5 if name == "loss x1.5" else 0.8)
    if name.startswith(("crash", "latency", "errors")):
        assert found.harm == 1.0
    if name.startswith("crash"):
        assert max(run.exposed for run in found.runs) <= 20


@pytest.mark.parametrize(
    ("scenario", "row"),
    [
        (Scenario(20.0, swing=0.5), "pass-last"),
        (Scenario(20.0, candidate=Behaviour(errors=0.05)), "harm"),
        (Scenario(20.0, candidate=Behaviour(errors=0.016)), "harm"),
    ],
    ids=["equal", "5 %", "twice the errors"],
)
def test_ordinary_scale(scenario, row) -> None:
    """The default plan at 20 requests/s; thousands of them are flown in batches (test_studies.py, bench/gates.py)."""
    found = study("ordinary", ORDINARY, scenario, 3)
    assert [run.decision.row for run in found.runs] == [row] * 3
