"""How a version is released: strategy, steps, gates, limits, and what to do when nothing can be said."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from windtunnel.errors import DescriptionError
from windtunnel.spec.base import Code, Duration, Part

Strategy = Literal["canary", "blue_green", "rolling", "shadow", "ab", "all_at_once"]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]

#: Requests that a step of the plan's own making asks for.
ENOUGH = 20
#: The pause between two looks where nobody told it; in a cluster four writes a minute and the question after the way
#: back stay below the six requests that a task that runs may ask of the API.
LOOK_EVERY = timedelta(seconds=10)
LOOK_EVERY_IN_CLUSTER = timedelta(seconds=15)

_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")
_CLOCK = re.compile(r"([01]\d|2[0-3]):[0-5]\d|24:00")


class Step(Part):
    """One exposure of the candidate.

    Attributes:
        weight: percent of the traffic.
        mirror: percent of the champion's requests that are copied to the candidate, whose answers nobody gets;
            such a step has weight 0.
        hold: how long.
        min_requests: requests the candidate must have answered in this step before it may pass.
        at_least: the step may pass this early when every required gate has shown that the candidate is within its
            margin; ``hold`` unless told, so never early.
        at_most: a step that lacks requests or proof goes on until then; ``hold`` and ``patience`` unless told.
        max_requests: nor does it go on after this many requests to the candidate.
    """

    weight: int = Field(ge=0, le=100)
    mirror: int | None = Field(None, gt=0, le=100)
    hold: Duration
    min_requests: int = Field(20, ge=0)
    at_least: Duration | None = None
    at_most: Duration | None = None
    max_requests: int | None = Field(None, gt=0)

    @property
    def name(self) -> str:
        """``step_05``; ``mirror_100`` for a mirrored one."""
        return f"mirror_{self.mirror:02d}" if self.mirror else f"step_{self.weight:02d}"

    @property
    def words(self) -> str:
        """``25 %``, ``10 % mirrored``."""
        return f"{self.mirror} % mirrored" if self.mirror else f"{self.weight} %"

    @model_validator(mode="after")
    def _can_finish(self) -> Step:
        if self.weight == 0 and self.mirror is None:
            raise ValueError("a step needs a weight above 0, or mirror: what nobody calls proves nothing")
        if self.weight and self.mirror:
            raise ValueError(f"a mirrored step has weight 0, found weight {self.weight} and mirror {self.mirror}")
        if self.at_least is not None and self.at_least > self.hold:
            raise ValueError(f"at_least ({self.at_least}) must not be longer than hold ({self.hold})")
        if self.at_most is not None and self.at_most < self.hold:
            raise ValueError(f"at_most ({self.at_most}) must not be shorter than hold ({self.hold})")
        if self.max_requests is not None and self.max_requests < self.min_requests:
            raise ValueError(
                f"max_requests ({self.max_requests}) is below min_requests ({self.min_requests}): it could never pass"
            )
        return self


class Gate(Part):
    """One comparison of candidate with champion in the same window.

    Attributes:
        metric: ``errors`` (difference of error rates), ``latency`` (share of requests slower than the
            champion's own quantile), ``quality`` (mean loss per labelled row), ``prediction``
            (shift of the predictions' distribution), ``value`` (mean of a figure per prediction: a business figure
            joined by prediction id, or what a function of your own returns).
        margin: how much worse is still not harm, in the metric's own unit (fractions; quality: fraction of
            the champion's loss; prediction: Kolmogorov distance; value: the figure's unit).
        within: what must be shown before promotion: the candidate is not worse by more than this; ``margin`` unless
            told. A margin of 0 finds harm soonest, and something wider can still be shown to hold.
        superior: the candidate must be shown to be better by this much (same unit as ``margin``) before it is
            promoted.
        quantile: for ``latency``.
        loss: for ``quality``: a known per-row loss.
        figure: for ``value``: name of the figure among the labels.
        source: for ``value``: your function ``package.module:function`` instead of a figure.
        low, high: for ``value``: its bounds; what lies outside is counted as the bound.
        better: for ``value``: which way is better.
        required: False lets a step pass while this gate can say nothing.
    """

    metric: Literal["errors", "latency", "quality", "prediction", "value"]
    margin: float = Field(ge=0)
    within: float | None = Field(None, gt=0)
    superior: float | None = Field(None, ge=0)
    quantile: float = Field(0.95, gt=0, lt=1)
    loss: Literal["squared", "absolute", "poisson_deviance", "log", "zero_one"] = "absolute"
    figure: str | None = Field(None, pattern=r"^[a-z][a-z0-9_]{0,39}$")
    source: Code | None = None
    low: float = 0.0
    high: float | None = None
    better: Literal["higher", "lower"] = "higher"
    required: bool = True

    @model_validator(mode="after")
    def _value_is_whole(self) -> Gate:
        if self.metric == "value":
            if (self.figure is None) == (self.source is None):
                raise ValueError("a value gate needs a figure or a source, one of the two")
            if self.high is None or self.high <= self.low:
                raise ValueError(f"a value gate needs bounds low < high, found {self.low} and {self.high}")
        elif self.figure is not None or self.source is not None:
            raise ValueError(f"figure and source belong to value gates, this one is on {self.metric}")
        if self.within is not None and self.within < self.margin:
            raise ValueError(f"within ({self.within}) must not be less than margin ({self.margin})")
        if self.within is not None and self.superior is not None:
            raise ValueError("a gate asks for one thing: within, or superior")
        if self.superior is not None and self.metric == "prediction":
            raise ValueError("no distribution of predictions is better than another: superior is for other metrics")
        return self


class Limits(Part):
    """Absolute limits on the candidate; the only guard of a first release (ROL-10).

    Attributes:
        error_rate: largest share of failed requests.
        p95_ms: slowest allowed 95th percentile of latency, milliseconds.
    """

    error_rate: float | None = Field(0.05, gt=0, le=1)
    p95_ms: float | None = Field(None, gt=0)


class Segments(Part):
    """Groups of requests that must each be safe, told apart by a request header.

    Attributes:
        header: request header that names the segment.
        values: the segments that are judged; requests of others count for the whole only.
    """

    header: str = "x-segment"
    values: list[str] = Field(min_length=1, max_length=20)

    @field_validator("header")
    @classmethod
    def _is_header(cls, value: str) -> str:
        return _header(value)

    @field_validator("values")
    @classmethod
    def _are_names(cls, values: list[str]) -> list[str]:
        bad = [value for value in values if not re.fullmatch(r"[A-Za-z0-9_.-]{1,40}", value)]
        if bad or len(set(values)) != len(values):
            raise ValueError(f"expected different names of letters, digits, '_', '.' and '-', found {values}")
        if "other" in values:
            raise ValueError("'other' is where the requests of all unnamed segments are counted; choose another name")
        return values


class Audience(Part):
    """Whose requests go to the candidate whatever its weight: testers first.

    Attributes:
        header, value: a request with this header of this value.
    """

    header: str
    value: str = Field(min_length=1, max_length=200)

    @field_validator("header")
    @classmethod
    def _is_header(cls, value: str) -> str:
        return _header(value)


def _weekdays() -> list[Day]:
    return ["mon", "tue", "wed", "thu", "fri"]


class Hours(Part):
    """A weekly window in which exposure may grow; outside of it a release waits where it is.

    Attributes:
        days: days of the week.
        start, end: ``HH:MM``; the end is not part of the window.
        timezone: name in the IANA database.
    """

    days: list[Day] = Field(default_factory=_weekdays, min_length=1)
    start: str = "09:00"
    end: str = "17:00"
    timezone: str = "UTC"

    @model_validator(mode="after")
    def _is_window(self) -> Hours:
        from zoneinfo import ZoneInfo

        for text in (self.start, self.end):
            if not _CLOCK.fullmatch(text):
                raise ValueError(f"expected a time as HH:MM, found {text!r}")
        if self.start >= self.end:
            raise ValueError(f"start ({self.start}) must be before end ({self.end}); write a night as two windows")
        try:
            ZoneInfo(self.timezone)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"expected a time zone such as 'Europe/Berlin', found {self.timezone!r}") from None
        return self


def _header(value: str) -> str:
    if not _HEADER.fullmatch(value) or value.lower().startswith("x-windtunnel"):
        raise ValueError(f"expected the name of a request header of your own, found {value!r}")
    return value.lower()


def _steps(*pairs: tuple[int, float]) -> list[Step]:
    return [Step(weight=weight, hold=timedelta(minutes=minutes)) for weight, minutes in pairs]


def _default_gates() -> list[Gate]:
    return [Gate(metric="errors", margin=0.0, within=0.005), Gate(metric="latency", margin=0.05)]


#: Steps of each strategy that names none. ``rolling`` makes its own from the number of replicas.
_STEPS: dict[str, Callable[[], list[Step]]] = {
    "canary": lambda: _steps((5, 10), (25, 30), (50, 60), (75, 30)),
    "blue_green": lambda: _steps((100, 5)),
    "shadow": lambda: [Step(weight=0, mirror=100, hold=timedelta(hours=1))],
    "ab": lambda: _steps((50, 24 * 60)),
    "all_at_once": _steps,
    "rolling": _steps,
}


def _fast() -> dict[str, Any]:
    """ROL-13: under an hour also where every step takes its time twice."""
    shares = ((10, 3.0), (50, 10.0))
    steps = [
        Step(
            weight=weight,
            hold=timedelta(minutes=minutes),
            at_least=timedelta(minutes=minutes / 2),
            at_most=timedelta(minutes=2 * minutes),
        )
        for weight, minutes in shares
    ]
    return {"steps": steps, "bake": timedelta(minutes=5), "patience": timedelta(minutes=5)}


class Rollout(Part):
    """The plan of a release. The default is ROL-1's canary.

    Attributes:
        strategy: how exposure grows. ``canary``: by steps; ``blue_green``: all at once, watched, the former champion
            ready to take it back; ``rolling``: replica by replica; ``shadow``: requests are copied to the candidate and
            its answers thrown away, then all at once; ``ab``: a fixed split until the candidate is shown to be better;
            ``all_at_once``: for an emergency, watched by nobody but the limits' bake.
        preset: ``fast``: a canary that ends within an hour.
        steps: exposures in order; after the last the candidate gets everything.
        gates: comparisons that must hold in every step.
        limits: absolute limits, in every step and for a first release.
        segments: groups of requests in which errors and latency must be safe, each by itself.
        audience: requests that go to the candidate from the first step on.
        alpha: chance, over the whole rollout, to roll back a version that is no worse.
        beta: chance to promote a version worse than a margin.
        prove: what promotion needs: ``non_inferior``, every required gate has shown that the candidate is within its
            margin; ``no_harm``, none has shown harm (then ``beta`` is not kept).
        bake: how long the candidate has all traffic, under the limits' watch, before it becomes champion.
        hours: windows in which exposure may grow; always when there are none. Rollback needs no window.
        first_watch: how long a first release is watched against the limits.
        on_inconclusive: ``extend`` the step, ``hold`` it, or ``roll_back`` at once; after ``patience`` it is
            rolled back anyway.
        patience: how long inconclusive evidence is borne; one step's length unless told.
        lease: a rollout nobody renews for this long is taken to 0 by the guard.
        keep_warm: the former champion stays loaded this long (ROL-12).
        look_every: pause between two looks at the gate. Unless told 10 s; in a cluster, where each look is a request to
            its API and Prometheus seldom knows more, 15 s (a third of the lease at most).
    """

    strategy: Strategy = "canary"
    preset: Literal["fast"] | None = None
    steps: list[Step] = Field(default_factory=_STEPS["canary"])
    gates: list[Gate] = Field(default_factory=_default_gates)
    limits: Limits = Limits()
    segments: Segments | None = None
    audience: Audience | None = None
    alpha: float = Field(0.05, gt=0, lt=0.5)
    beta: float = Field(0.2, gt=0, lt=0.5)
    prove: Literal["non_inferior", "no_harm"] = "non_inferior"
    bake: Duration = timedelta(0)
    hours: list[Hours] = Field(default_factory=list)
    first_watch: Duration = timedelta(minutes=5)
    on_inconclusive: Literal["extend", "hold", "roll_back"] = "hold"
    patience: Duration | None = None
    lease: Duration = timedelta(seconds=120)
    keep_warm: Duration = timedelta(hours=24)
    look_every: Duration | None = None

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        """What strategy and preset say of things that were not told."""
        if not isinstance(given, dict):
            return given
        filled = dict(given)
        if filled.get("preset") == "fast":
            for name, value in _fast().items():
                filled.setdefault(name, value)
        strategy = filled.get("strategy", "canary")
        if "steps" not in filled and strategy in _STEPS:
            filled["steps"] = _STEPS[strategy]()
        return filled

    @model_validator(mode="after")
    def _can_be_flown(self) -> Rollout:
        if self.lease < 3 * self.looks_every():
            raise ValueError(
                f"lease ({self.lease}) must be at least three times look_every ({self.looks_every()}), "
                "or one late look would end the rollout"
            )
        if self.looks_every() <= timedelta(0):
            raise ValueError("look_every must be above 0")
        if self.preset is not None and self.strategy != "canary":
            raise ValueError(f"preset {self.preset} is a canary, the strategy is {self.strategy}")
        weights = [step.weight for step in self.steps if not step.mirror]
        mirrored = [step for step in self.steps if step.mirror]
        if mirrored and [bool(step.mirror) for step in self.steps] != sorted(
            (bool(step.mirror) for step in self.steps), reverse=True
        ):
            raise ValueError("mirrored steps come before those that give the candidate real traffic")
        if any(a >= b for a, b in pairwise(weights)):
            raise ValueError(f"steps must rise: expected each weight above the one before, found {weights}")
        self._strategy_fits(weights, len(mirrored))
        self._can_be_shown()
        return self

    def looks_every(self, in_cluster: bool = False) -> timedelta:
        """``look_every``, or what it is where nobody told it."""
        if self.look_every is not None:
            return self.look_every
        return min(LOOK_EVERY_IN_CLUSTER, self.lease / 3) if in_cluster else LOOK_EVERY

    def exposures(self, replicas: int = 1) -> list[Step]:
        """The strategy's steps in order, and the bake behind them.

        Args:
            replicas: of the model's serving section; a rolling release has a step after each but the last.

        Raises:
            DescriptionError: rolling with fewer than 2 replicas, or more than 100.
        """
        steps = list(self.steps)
        if self.strategy == "rolling":
            if not 2 <= replicas <= 100:
                raise DescriptionError(
                    f"rollout.strategy rolling goes replica by replica: expected 2 to 100 replicas, found {replicas}",
                    hint="set serving.replicas, or use strategy canary",
                )
            weights = sorted({round(100 * i / replicas) for i in range(1, replicas)})
            steps = [Step(weight=weight, hold=self.first_watch, min_requests=ENOUGH) for weight in weights]
        if self.bake and not any(step.weight == 100 for step in steps):
            steps.append(Step(weight=100, hold=self.bake, min_requests=ENOUGH))
        return steps

    def _can_be_shown(self) -> None:
        for gate in self.gates:
            asked = self.prove == "non_inferior" and gate.required and gate.superior is None
            if asked and (gate.within or gate.margin) == 0:
                raise ValueError(
                    f"the {gate.metric} gate has margin 0: that a candidate is not worse at all can never be shown, so "
                    "this plan could never finish; set 'within' beside it, or 'superior', or 'required: false'"
                )

    def _strategy_fits(self, weights: list[int], mirrored: int) -> None:
        match self.strategy:
            case "canary" if not self.steps:
                raise ValueError("a canary needs steps; all_at_once has none")
            case "canary" if weights[-1:] == [100]:
                raise ValueError("the last step is below 100: promotion itself moves traffic to 100 (see bake)")
            case "blue_green" if mirrored or weights != [100]:
                raise ValueError(f"blue_green has one step of weight 100, found {weights}")
            case "shadow" if not mirrored or weights:
                raise ValueError("shadow has mirrored steps only (weight 0, mirror); a canary may begin with some")
            case "ab" if mirrored or len(weights) != 1 or weights[0] == 100:
                raise ValueError(f"ab has one step below 100, found {weights}")
            case "ab" if not any(gate.superior is not None for gate in self.gates):
                raise ValueError("ab asks whether the candidate is better: give one gate a 'superior' margin")
            case "all_at_once" | "rolling" if self.steps:
                raise ValueError(f"{self.strategy} makes its own steps, found {weights}")
            case _:
                pass
        watched = self.limits.error_rate is not None or self.limits.p95_ms is not None
        if (self.strategy == "blue_green" or self.bake) and not watched:
            raise ValueError("at 100 % there is no champion to compare with: set limits.error_rate or limits.p95_ms")
