"""What a rehearsal pretends: the traffic, the champion, and what is wrong with the candidate.

A ``Scenario`` is read from YAML like a description. ``world`` turns it, for one plan, into the probabilities that
``windtunnel.rehearsal.arrivals`` draws from. Latencies are log-normal, losses and predictions gamma distributed
(skewed, as amounts and counts are).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

import numpy as np
from pydantic import Field

from windtunnel.errors import DescriptionError
from windtunnel.rollout.plan import Plan, PlanGate
from windtunnel.spec.base import Duration, Part
from windtunnel.stats import binning
from windtunnel.stats.betting import FloatArray

#: Objectives of the compared tools lie this far above what the champion does (0.8 % errors: 1 %).
OBJECTIVE = 1.25
#: More users than these differ from requests by lot by less than a rehearsal can show.
MAX_USERS = 100_000


class Harm(Part):
    """What is wrong with the candidate.

    Attributes:
        errors: factor on the champion's error rate.
        errors_plus: added to it (0.01 is one point).
        latency: factor on latencies.
        loss: factor on losses of labelled rows.
        prediction: factor on predictions; of categories: share that becomes the most frequent one, plus 1.
        share: share of the requests that are harmed; with segments in the plan: the first segment's, whole.
    """

    errors: float = Field(1.0, gt=0)
    errors_plus: float = Field(0.0, ge=-1, le=1)
    latency: float = Field(1.0, gt=0)
    loss: float = Field(1.0, gt=0)
    prediction: float = Field(1.0, gt=0)
    share: float = Field(1.0, gt=0, le=1)

    @property
    def any(self) -> bool:
        """Whether anything gets worse."""
        return (self.errors, self.latency, self.loss, self.prediction) != (1, 1, 1, 1) or self.errors_plus > 0


class Outage(Part):
    """Something both versions need is broken for a while.

    Attributes:
        after, lasts: since the start of the rollout.
        errors: both versions' error rate meanwhile.
    """

    after: Duration = timedelta(minutes=15)
    lasts: Duration = timedelta(minutes=10)
    errors: float = Field(0.5, gt=0, le=1)


class Silence(Part):
    """Numbers do not come.

    Attributes:
        after, lasts: since the start of the rollout; without ``lasts`` for good.
        of: the ``source`` of all numbers is down, or no request reaches the ``candidate`` (the ``champion``).
    """

    after: Duration = timedelta(minutes=2)
    lasts: Duration | None = None
    of: Literal["source", "candidate", "champion"] = "source"


class Scenario(Part):
    """The traffic of a rehearsal and the two versions it meets.

    Attributes:
        errors: the champion's share of failed requests.
        latency_ms, latency_sigma: median and spread (of the logarithm) of its latencies.
        loss: mean loss of its labelled rows.
        label_delay: labels come this late.
        label_share: share of the requests that get a label.
        day_traffic: the traffic rises and falls by this share over a day; each run starts at another hour.
        day_errors: so does the error rate of both versions.
        drift: the logarithm of both versions' error rate walks by this much (standard deviation) in an hour.
        users: so many, each of whom stays with one version (``serving.sticky``); None: each request goes by lot.
        users_differ: coefficient of variation of the users' own error rates and shares of slow requests.
        users_stay: after this time others have taken their places; None: they stay to the end.
        start: day and time at which the rollout starts, by the clock of the plan's ``hours``; None: no calendar.
        objective_errors, objective_p95_ms: what the compared tools hold the candidate against; 25 % above the
            champion's unless told.
        harm: what is wrong with the candidate; nothing unless told.
        outage, silence: what goes wrong beside it.
    """

    errors: float = Field(0.008, ge=0, lt=1)
    latency_ms: float = Field(8.0, gt=0)
    latency_sigma: float = Field(0.5, gt=0, le=3)
    loss: float = Field(1.0, gt=0)
    label_delay: Duration = timedelta(minutes=1)
    label_share: float = Field(1.0, ge=0, le=1)
    day_traffic: float = Field(0.0, ge=0, le=1)
    day_errors: float = Field(0.0, ge=0, le=1)
    drift: float = Field(0.0, ge=0, le=2)
    users: int | None = Field(None, ge=2, le=MAX_USERS)
    users_differ: float = Field(1.0, ge=0, le=100)
    users_stay: Duration | None = None
    start: str | None = Field(None, pattern=r"^(mon|tue|wed|thu|fri|sat|sun) ([01]\d|2[0-3]):[0-5]\d$")
    objective_errors: float | None = Field(None, gt=0, lt=1)
    objective_p95_ms: float | None = Field(None, gt=0)
    harm: Harm = Harm()
    outage: Outage | None = None
    silence: Silence | None = None

    @property
    def harmful(self) -> bool:
        """The candidate should be rolled back."""
        return self.harm.any

    @property
    def harmless(self) -> Scenario:
        """The same traffic with a candidate as good as the champion, and numbers that come."""
        return self.model_copy(update={"harm": Harm(), "silence": None})


#: Scenarios by name. ``silent`` harms as ``errors`` does, and the numbers that would show it stop after two minutes.
NAMED: dict[str, Scenario] = {
    "none": Scenario(),
    "errors": Scenario(harm=Harm(errors=2.0)),
    "slow": Scenario(harm=Harm(latency=1.5)),
    "wrong": Scenario(harm=Harm(loss=1.5)),
    "shift": Scenario(harm=Harm(prediction=1.5)),
    "partial": Scenario(harm=Harm(errors=5.0, share=0.2)),
    "outage": Scenario(outage=Outage()),
    "silent": Scenario(harm=Harm(errors=2.0), silence=Silence()),
}
_FACTOR = re.compile(r"(errors|slow|wrong|shift|partial):x?(\d+(?:\.\d+)?)")
_HARMS = {"errors": "errors", "slow": "latency", "wrong": "loss", "shift": "prediction", "partial": "errors"}


def named(text: str) -> Scenario | None:
    """The scenario of that name, ``errors:x5`` for one with another factor; None when it is no name.

    Raises:
        DescriptionError: the factor is of no use.
    """
    if text in NAMED:
        return NAMED[text]
    found = _FACTOR.fullmatch(text)
    if not found:
        return None
    return scaled(NAMED[found[1]], _HARMS[found[1]], float(found[2]))


def scaled(scenario: Scenario, harm: str, factor: float) -> Scenario:
    """The scenario with another factor of its harm (``errors``, ``latency``, ``loss``, ``prediction``).

    Raises:
        DescriptionError: the factor is not above 0.
    """
    if factor <= 0:
        raise DescriptionError(f"expected a factor above 0, found {factor:g}", hint="errors:x2 doubles the error rate")
    return scenario.model_copy(update={"harm": scenario.harm.model_copy(update={harm: factor})})


def main_harm(scenario: Scenario) -> tuple[str, float] | None:
    """The first harm of a scenario and its factor, for a power curve; None without one that is a factor."""
    for name in ("errors", "latency", "loss", "prediction"):
        factor = getattr(scenario.harm, name)
        if factor != 1:
            return name, float(factor)
    return None


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the champion did, by block of minutes, to draw from again; see ``recorded.blocks``.

    Attributes:
        rate: (R,) requests per second. clock: (R,) seconds of the day of each block. block_s: length of a block.
        errors: (R,) share of failed requests.
        tails_a, tails_b: (R, L) share slower than each threshold, as recorded and with the scenario's harm.
    """

    rate: FloatArray
    clock: FloatArray
    block_s: float
    errors: FloatArray
    tails_a: FloatArray
    tails_b: FloatArray


@dataclass(frozen=True, slots=True)
class World:
    """Probabilities of everything a look counts, for one plan and one scenario.

    Attributes:
        rate: requests per second; None: as recorded.
        look_s: seconds between two looks.
        shares: (S,) share of the requests in each segment; harmed: (S,) whether the candidate harms it.
        names: S names; None for requests of no segment the plan judges.
        errors: of the champion; tails_a, tails_b: (L,) share slower than threshold l, ascending thresholds, without
            and with harm.
        latency_of: index of the threshold of a latency gate's quantile, of ``limit_p95_ms`` and ``objective``.
        cells: gate name to (champion's, candidate's) probabilities of its cells, for gates on rows.
        objective_errors: largest error rate by the compared tools' objective.
        recorded: what is drawn from again, instead of rates and errors of the scenario.
        ordered: predictions are numbers, not categories.
        start_s: when the rollout starts, seconds since the epoch; None: whenever, and hours are left out.
    """

    scenario: Scenario
    rate: float | None
    look_s: float
    names: tuple[str | None, ...]
    shares: FloatArray
    harmed: tuple[bool, ...]
    errors: float
    tails_a: FloatArray
    tails_b: FloatArray
    latency_of: dict[str, int]
    cells: dict[str, tuple[FloatArray, FloatArray]]
    objective_errors: float
    recorded: Recorded | None = None
    ordered: bool = True
    start_s: float | None = None


def starts_at(plan: Plan, scenario: Scenario) -> float | None:
    """Seconds since the epoch of ``scenario.start`` by the clock of the plan's hours, in an ordinary week."""
    if scenario.start is None:
        return None
    day, _, clock = scenario.start.partition(" ")
    hour, minute = (int(part) for part in clock.split(":"))
    zone = ZoneInfo(plan.windows[0].timezone if plan.windows else "UTC")
    days = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
    return datetime(2026, 1, 12 + days.index(day), hour, minute, tzinfo=zone).timestamp()  # the 12th was a Monday


def segments(plan: Plan, share: float) -> tuple[tuple[str | None, ...], FloatArray, tuple[bool, ...]]:
    """Names, shares and which are harmed. The plan's segments are as large as each other, and the rest."""
    if share >= 1:
        names: tuple[str | None, ...] = plan.segments or (None,)
        return names, np.full(len(names), 1 / len(names)), (True,) * len(names)
    if not plan.segments:
        return (None, None), np.array([share, 1 - share]), (True, False)
    others = len(plan.segments) - 1
    if others == 0:
        return (plan.segments[0], None), np.array([share, 1 - share]), (True, False)
    rest = np.full(others, (1 - share) / others)
    return plan.segments, np.concatenate([[share], rest]), (True, *(False,) * others)


def slow_share(median: float, sigma: float, threshold: float) -> float:
    """Of log-normal latencies."""
    return 0.5 * math.erfc(math.log(threshold / median) / (sigma * math.sqrt(2)))


def thresholds(plan: Plan, quantile_ms: dict[float, float], objective_ms: float) -> tuple[list[float], dict[str, int]]:
    """Ascending latency thresholds that anything looks at, and which is whose."""
    wanted = {g.name.partition("@")[0]: quantile_ms[g.quantile] for g in plan.gates if g.metric == "latency"}
    if plan.p95_ms is not None:
        wanted["limit_p95_ms"] = plan.p95_ms
    wanted["objective"] = objective_ms
    values = sorted(set(wanted.values()))
    return values, {name: values.index(value) for name, value in wanted.items()}


def world(plan: Plan, scenario: Scenario, rate: float) -> World:
    """The scenario under one plan.

    Raises:
        DescriptionError: the rate is not above 0.
    """
    if not (math.isfinite(rate) and rate > 0):
        raise DescriptionError(f"expected requests per second above 0, found {rate:g}", hint="--rate 20")
    harm, middle, sigma = scenario.harm, scenario.latency_ms, scenario.latency_sigma
    quantiles = {g.quantile: _log_normal(middle, sigma, g.quantile) for g in plan.gates if g.metric == "latency"}
    objective_ms = scenario.objective_p95_ms or OBJECTIVE * _log_normal(middle, sigma, 0.95)
    values, latency_of = thresholds(plan, quantiles, objective_ms)
    names, shares, harmed = segments(plan, harm.share)
    losses = _gamma(0.7, scenario.loss / 0.7)
    predictions = _gamma(2.0, 1.5)
    return World(
        scenario=scenario,
        rate=rate,
        look_s=plan.look_every_s,
        names=names,
        shares=shares,
        harmed=harmed,
        errors=scenario.errors,
        tails_a=np.array([slow_share(middle, sigma, v) for v in values]),
        tails_b=np.array([slow_share(middle * harm.latency, sigma, v) for v in values]),
        latency_of=latency_of,
        cells={g.name: cells(g, harm, losses, predictions) for g in plan.gates if not g.rates},
        objective_errors=scenario.objective_errors or OBJECTIVE * max(scenario.errors, 1e-6),
        start_s=starts_at(plan, scenario),
    )


def cells(gate: PlanGate, harm: Harm, losses: FloatArray, predictions: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Probabilities of a gate's cells for champion and candidate, from samples of the champion's rows.

    A value gate takes the losses for its figure: what is lost of the best value.
    """
    if gate.metric == "prediction":
        edges = binning.quantile_edges(predictions)
        moved = predictions * harm.prediction
        return mixed(binning.count_numeric(predictions, edges), binning.count_numeric(moved, edges), harm.share)
    bound = 2 * float(np.quantile(losses, 0.99)) or 1.0
    points = binning.loss_points()
    kept = binning.spread(np.clip(losses / bound, 0, 1), points)
    return mixed(kept, binning.spread(np.clip(losses * harm.loss / bound, 0, 1), points), harm.share)


def mixed(champion: FloatArray, harmed: FloatArray, share: float) -> tuple[FloatArray, FloatArray]:
    """Champion's and candidate's probabilities, of which ``share`` is harmed; they add up to 1 to the last digit."""
    a, b = champion / champion.sum(), harmed / harmed.sum()
    b = share * b + (1 - share) * a
    return a / a.sum(), b / b.sum()


def _log_normal(median: float, sigma: float, quantile: float) -> float:
    from statistics import NormalDist

    return median * math.exp(sigma * NormalDist().inv_cdf(quantile))


def _gamma(shape: float, scale: float) -> FloatArray:
    """A fixed, finely spaced sample: every quantile of the distribution in turn."""
    from scipy.special import gammaincinv

    levels = (np.arange(20_000) + 0.5) / 20_000
    sample: FloatArray = gammaincinv(shape, levels) * scale
    return sample
