"""A plan for a target: the shortest of a small family that keeps alpha and finds the harm in time, by rehearsing each.

    errors x2 within 1000 requests       METRIC xFACTOR|+PERCENT within N requests|minutes

Requests are the candidate's. "In time" means in a share of ``1 - beta`` of the rollouts; an innocent version must be
promoted in as large a share. Flying is the caller's, so this room stays pure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Literal, Protocol

import numpy as np

from windtunnel.errors import DescriptionError
from windtunnel.rehearsal.peers import PROMOTED, ROLLED_BACK
from windtunnel.rehearsal.runs import OURS, Ends, Variant, plan_seconds
from windtunnel.rehearsal.scenarios import Scenario, scaled, world
from windtunnel.rehearsal.summary import share
from windtunnel.rollout.plan import Plan
from windtunnel.spec import Gate, Rollout, Step

_TARGET = re.compile(
    r"\s*(errors|latency|quality|prediction)\s+(?:x\s*(\d+(?:\.\d+)?)|\+\s*(\d+(?:\.\d+)?)\s*%?)"
    r"\s+within\s+(\d+(?:\.\d+)?)\s*(requests|minutes)\s*",
    re.IGNORECASE,
)
Metric = Literal["errors", "latency", "quality", "prediction"]
Unit = Literal["requests", "minutes"]
METRICS: tuple[Metric, ...] = ("errors", "latency", "quality", "prediction")
_HARM: dict[Metric, str] = {"errors": "errors", "latency": "latency", "quality": "loss", "prediction": "prediction"}

#: Weights of the family's steps, from careful to bold.
SHAPES: tuple[tuple[int, ...], ...] = ((5, 25, 50), (10, 50), (25, 50), (50,))
#: How the time is shared out: later steps take longer, as more is asked of them.
_GROWTH = 3.0
#: (margin, within), as shares of the harm that must be found. A low margin finds it soon, a wide ``within`` clears an
#: equal version soon; below 1 it still keeps the harm out.
MARGINS = ((0.0, 0.4), (0.0, 0.75), (0.25, 0.75))
#: Lengths of the whole plan, minutes.
LENGTHS = (30.0, 60.0, 120.0, 240.0, 480.0)
#: Runs of each kind while searching, and to confirm.
SEARCH, CONFIRM = 200, 1000
_NO_BETTER = 0.05
#: Looks while searching, seconds apart: coarser than a gate's, which costs a little power and much time.
_LOOK_S = 30.0
#: More traffic that is tried when there is too little.
_MORE = (2, 5, 10, 20, 50, 100)


class Flyer(Protocol):
    """Flies plans: ``windtunnel.rehearsal.flight.Flight``."""

    @property
    def mean_rate(self) -> float: ...

    def fly(
        self,
        plan: Plan | None = None,
        scenario: Scenario | None = None,
        *,
        runs: int | None = None,
        rate: float | None = None,
        compare: tuple[str, ...] | None = None,
    ) -> Mapping[str, Mapping[Variant, Ends]]: ...


@dataclass(frozen=True, slots=True)
class Target:
    """What a plan must find, and how soon."""

    metric: Metric
    factor: float
    within: float
    unit: Unit
    text: str


@dataclass(frozen=True, slots=True)
class Tried:
    """One plan of the family, rehearsed.

    Attributes:
        found: share of harmful runs found in time; promoted: of innocent runs; accused: innocent runs rolled back.
        needs: requests (minutes) after which ``1 - beta`` of the harmful runs are found; infinite if never.
        promote_minutes: median, infinite if more than half never are.
    """

    rollout: Rollout
    found: float
    promoted: float
    accused: float
    needs: float
    promote_minutes: float

    def meets(self, alpha: float, power: float, runs: int) -> bool:
        """Whether it does all that is asked; alpha by the lower end of its interval, as alpha holds by construction."""
        low = share(round(self.accused * runs), runs).low
        return self.found >= power and self.promoted >= power and (low is None or low <= alpha)


@dataclass(frozen=True, slots=True)
class Advice:
    """The plan, or why there is none; ``words`` are for a person.

    Attributes:
        instead: what would do: ``requests_per_second``, ``within``, ``tried`` plans.
    """

    rollout: Rollout | None
    words: tuple[str, ...]
    instead: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        plain = self.rollout.model_dump(mode="json", exclude_defaults=True) if self.rollout is not None else None
        return {"rollout": plain, "words": list(self.words), **dict(self.instead)}


def parse_target(text: str) -> Target:
    """Read a target.

    Raises:
        DescriptionError: it is none.
    """
    found = _TARGET.fullmatch(text)
    hint = "errors x2 within 1000 requests; latency +50% within 20 minutes"
    if not found:
        raise DescriptionError(f"expected METRIC xFACTOR|+PERCENT within N requests|minutes, found {text!r}", hint=hint)
    times, percent, within = found[2], found[3], found[4]
    metric: Metric = next(name for name in METRICS if name == found[1].lower())
    unit: Unit = "minutes" if found[5].lower() == "minutes" else "requests"
    factor = float(times) if times is not None else 1 + float(percent) / 100
    if factor <= 1 or float(within) <= 0:
        raise DescriptionError(f"expected harm that is more than none, in more than no time, found {text!r}", hint=hint)
    return Target(metric, factor, float(within), unit, " ".join(text.split()))


def recommend(
    base: Rollout,
    scenario: Scenario,
    target: Target,
    alpha: float | None,
    flyer: Flyer,
    *,
    say: Callable[[str], None] = lambda line: None,
) -> Advice:
    """Search the family.

    Args:
        base: whose gates, limits, beta and proof are kept; steps, the metric's margins and alpha are found.
        scenario: traffic and champion; its own harm is replaced by the target's.
        alpha: None: the base's.

    Raises:
        DescriptionError: alpha is of no use, or the base has no gate for the metric.
    """
    wanted = harmed(scenario, target)
    kept = base.alpha if alpha is None else alpha
    if not 0 < kept < 0.5:
        raise DescriptionError(f"expected alpha between 0 and 0.5, found {kept:g}", hint="--target-alpha 0.05")
    power = 1 - base.beta
    best: Tried | None = None
    reached = -1.0
    for minutes in LENGTHS:
        before = reached
        for made in family(base, wanted, target, kept, minutes, flyer.mean_rate):
            tried = fly(made, wanted, target, power, flyer, SEARCH, None)
            reached = max(reached, tried.found if tried.promoted >= power else -1.0)
            if tried.meets(kept, power, SEARCH):
                sure = fly(made, wanted, target, power, flyer, CONFIRM, None)
                if sure.meets(kept, power, CONFIRM):
                    return _advise(sure, target, kept)
                tried = sure
            best = _nearer(best, tried, power)
        say(f"no plan of {minutes:.0f} minutes does")
        if 0 <= reached <= before + _NO_BETTER:
            break  # what is lacking is not time
    assert best is not None
    return _too_thin(best, wanted, target, kept, power, flyer)


def harmed(scenario: Scenario, target: Target) -> Scenario:
    """The scenario with the target's harm and nothing else wrong."""
    return scaled(scenario.harmless, _HARM[target.metric], target.factor)


def family(
    base: Rollout, scenario: Scenario, target: Target, alpha: float, minutes: float, rate: float
) -> Iterator[Rollout]:
    """Plans of one length, from careful to bold."""
    size = effect(base, scenario, target)
    for shape in SHAPES:
        for margin, within in MARGINS:
            bounds = _rounded(margin * size), _rounded(within * size)
            yield plan_of(base, target, alpha, shape, minutes, bounds, rate)


def effect(base: Rollout, scenario: Scenario, target: Target) -> float:
    """The harm in the unit of the metric's margin.

    Raises:
        DescriptionError: the base has no gate for it.
    """
    gate = next((gate for gate in base.gates if gate.metric == target.metric), None)
    if gate is None:
        have = ", ".join(sorted({gate.metric for gate in base.gates})) or "none"
        raise DescriptionError(
            f"the plan has no {target.metric} gate that could find {target.text!r}; it has {have}",
            hint=f"add a gate with metric: {target.metric}",
        )
    if target.metric == "errors":
        return scenario.errors * (target.factor - 1)
    if target.metric == "quality":
        return target.factor - 1
    plan = Plan.from_spec(Rollout(gates=[gate]), False)
    name = plan.gates[0].name
    there = world(plan, scenario, 1.0)
    if target.metric == "latency":
        index = there.latency_of[name]
        return float(there.tails_b[index] - there.tails_a[index])
    a, b = there.cells[name]
    return float(np.abs(np.cumsum(a) - np.cumsum(b)).max())


def plan_of(
    base: Rollout,
    target: Target,
    alpha: float,
    shape: tuple[int, ...],
    minutes: float,
    bounds: tuple[float, float],
    rate: float,
) -> Rollout:
    """One plan of the family; a step may pass after half its time, when all that is needed is shown.

    Args:
        minutes: of all steps; bounds: the metric's ``margin`` and ``within``.
    """
    parts = [_GROWTH**i for i in range(len(shape))]
    steps = []
    for weight, part in zip(shape, parts, strict=True):
        seconds = max(60.0, round(minutes * part / sum(parts)) * 60.0)
        expected = rate * weight / 100 * seconds
        steps.append(
            Step(
                weight=weight,
                hold=timedelta(seconds=seconds),
                at_least=timedelta(seconds=seconds / 2),
                min_requests=max(20, _down(0.5 * expected)),
            )
        )
    gates = [_bounded(gate, *bounds) if gate.metric == target.metric else gate for gate in base.gates]
    changes = {"strategy": "canary", "preset": None, "steps": steps, "gates": gates, "alpha": alpha}
    return Rollout(**{**{name: getattr(base, name) for name in base.model_fields_set}, **changes})


def fly(
    rollout: Rollout,
    scenario: Scenario,
    target: Target,
    power: float,
    flyer: Flyer,
    runs: int,
    rate: float | None,
) -> Tried:
    """Rehearse one plan."""
    plan = Plan.from_spec(rollout, False)
    if runs == SEARCH:
        plan = replace(plan, look_every_s=max(plan.look_every_s, _LOOK_S))
    ends = flyer.fly(plan, scenario, runs=runs, rate=rate, compare=())[OURS]
    bad, good = ends["scenario"], ends["harmless"]
    after = bad.requests if target.unit == "requests" else bad.minutes
    after = np.sort(np.where(bad.how == ROLLED_BACK, after, np.inf))
    promoted = np.sort(np.where(good.how == PROMOTED, good.minutes, np.inf))
    return Tried(
        rollout=rollout,
        found=float((after <= target.within).mean()),
        promoted=float((good.how == PROMOTED).mean()),
        accused=float((good.how == ROLLED_BACK).mean()),
        needs=float(after[min(len(after) - 1, math.ceil(power * len(after)) - 1)]),
        promote_minutes=float(promoted[len(promoted) // 2]),
    )


def _advise(tried: Tried, target: Target, alpha: float) -> Advice:
    weights = ", ".join(f"{step.weight} %" for step in tried.rollout.steps)
    words = (
        f"{weights}: finds {target.text} in {100 * tried.found:.0f} % of {CONFIRM} rehearsed rollouts",
        f"an equal version is promoted in {100 * tried.promoted:.0f} % (median {tried.promote_minutes:.0f} minutes) "
        f"and rolled back for harm in {100 * tried.accused:.2g} % (alpha {100 * alpha:g} %)",
    )
    measured = {
        "found": tried.found,
        "promoted": tried.promoted,
        "false_rollback": tried.accused,
        "time_to_promote_p50": tried.promote_minutes,
    }
    return Advice(tried.rollout, words, {"measured": measured})


def _nearer(best: Tried | None, tried: Tried, power: float) -> Tried:
    """Which of two that do not do comes nearer: by what is lacking in all, then by how soon it finds."""

    def lacks(one: Tried) -> tuple[float, float]:
        return max(0.0, power - one.found) + max(0.0, power - one.promoted), one.needs

    return tried if best is None or lacks(tried) < lacks(best) else best


def _too_thin(best: Tried, scenario: Scenario, target: Target, alpha: float, power: float, flyer: Flyer) -> Advice:
    """No plan does: what the nearest one needs, and with how much more traffic one would do."""
    minutes = plan_seconds(Plan.from_spec(best.rollout, False)) / 60
    words = [
        f"{flyer.mean_rate:.3g} requests/s are too thin for {target.text} at alpha {100 * alpha:g} %: the nearest plan "
        f"({', '.join(f'{step.weight} %' for step in best.rollout.steps)}, {minutes:.0f} minutes) finds "
        f"{100 * best.found:.0f} % in time and promotes {100 * best.promoted:.0f} % of equal versions; "
        f"{100 * power:.0f} % of each are asked for"
    ]
    instead: dict[str, Any] = {"requests_per_second": None, "within": None}
    if math.isfinite(best.needs) and best.needs > target.within:
        instead["within"] = _up(best.needs)
        words.append(f"what would do: '... within {_up(best.needs):.0f} {target.unit}'")
    if target.unit == "requests" and best.found < power:
        words.append(
            "more traffic would only bring these requests sooner: ask for a larger harm, or allow more of them"
        )
        return Advice(None, tuple(words), instead)
    for times in _MORE:
        rate = flyer.mean_rate * times
        made = plan_of(
            best.rollout, target, alpha, tuple(step.weight for step in best.rollout.steps), minutes,
            _bounds(best.rollout, target), rate,
        )  # fmt: skip
        tried = fly(made, scenario, target, power, flyer, SEARCH, rate)
        if tried.meets(alpha, power, SEARCH):
            instead["requests_per_second"] = rate
            words.append(f"what would do: {rate:.3g} requests/s, or {times} times the time")
            break
    else:
        words.append(
            f"not even {_MORE[-1]} times the traffic would do with this plan: ask for a larger harm or more time"
        )
    return Advice(None, tuple(words), instead)


def _bounds(rollout: Rollout, target: Target) -> tuple[float, float]:
    gate = next(gate for gate in rollout.gates if gate.metric == target.metric)
    return gate.margin, gate.margin if gate.within is None else gate.within


def _bounded(gate: Gate, margin: float, within: float) -> Gate:
    """Where a gate asks for superiority, that stays what must be shown."""
    return gate.model_copy(update={"margin": margin, "within": None if gate.superior is not None else within})


def _rounded(value: float) -> float:
    """Two digits: a plan is read by people."""
    return float(f"{value:.2g}")


def _down(value: float) -> int:
    """Down to two digits."""
    size = 10 ** max(0, math.floor(math.log10(max(value, 1))) - 1)
    return int(value // size * size)


def _up(value: float) -> float:
    size = 10 ** max(0, math.floor(math.log10(max(value, 1))) - 1)
    return float(math.ceil(value / size) * size)
