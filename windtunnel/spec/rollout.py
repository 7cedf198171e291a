"""How a version is released: steps, gates, limits, and what to do when nothing can be said."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Literal

from pydantic import Field, model_validator

from windtunnel.spec.base import Duration, Part


class Step(Part):
    """One exposure of the candidate.

    Attributes:
        weight: percent of the traffic.
        hold: how long, at least.
        min_requests: requests the candidate must have answered in this step before it may pass.
    """

    weight: int = Field(gt=0, le=100)
    hold: Duration
    min_requests: int = Field(100, ge=0)


class Gate(Part):
    """One comparison of candidate with champion in the same window.

    Attributes:
        metric: ``errors`` (difference of error rates), ``latency`` (share of requests slower than the
            champion's own quantile), ``quality`` (mean loss per labelled row), ``prediction``
            (shift of the predictions' distribution).
        margin: how much worse is still not harm, in the metric's own unit (fractions; quality: fraction of
            the champion's loss; prediction: Kolmogorov distance).
        quantile: for ``latency``.
        loss: for ``quality``: a known per-row loss.
        required: False lets a step pass while this gate can say nothing.
    """

    metric: Literal["errors", "latency", "quality", "prediction"]
    margin: float = Field(ge=0)
    quantile: float = Field(0.95, gt=0, lt=1)
    loss: Literal["squared", "absolute", "poisson_deviance", "log", "zero_one"] = "absolute"
    required: bool = True


class Limits(Part):
    """Absolute limits on the candidate; the only guard of a first release (ROL-10).

    Attributes:
        error_rate: largest share of failed requests.
        p95_ms: slowest allowed 95th percentile of latency, milliseconds.
    """

    error_rate: float | None = Field(0.05, gt=0, le=1)
    p95_ms: float | None = Field(None, gt=0)


def _default_steps() -> list[Step]:
    minutes = [(5, 10), (25, 30), (50, 60), (75, 30)]
    return [Step(weight=w, hold=timedelta(minutes=m)) for w, m in minutes]


def _default_gates() -> list[Gate]:
    return [Gate(metric="errors", margin=0.005), Gate(metric="latency", margin=0.05)]


class Rollout(Part):
    """The plan of a release. The default is ROL-1's canary.

    Attributes:
        strategy: how exposure grows.
        steps: exposures in order; after the last the candidate gets everything.
        gates: comparisons that must hold in every step.
        limits: absolute limits, in every step and for a first release.
        alpha: chance, over the whole rollout, to roll back a version that is no worse.
        beta: chance to promote a version worse than a margin.
        first_watch: how long a first release is watched against the limits.
        on_inconclusive: ``extend`` the step, ``hold`` it, or ``roll_back`` at once; after ``patience`` it is
            rolled back anyway.
        patience: how long inconclusive evidence is borne; one step's length unless told.
        lease: a rollout nobody renews for this long is taken to 0 by the guard.
        keep_warm: the former champion stays loaded this long (ROL-12).
        look_every: pause between two looks at the gate.
    """

    strategy: Literal["canary"] = "canary"
    steps: list[Step] = Field(default_factory=_default_steps, min_length=1)
    gates: list[Gate] = Field(default_factory=_default_gates)
    limits: Limits = Limits()
    alpha: float = Field(0.05, gt=0, lt=0.5)
    beta: float = Field(0.2, gt=0, lt=0.5)
    first_watch: Duration = timedelta(minutes=5)
    on_inconclusive: Literal["extend", "hold", "roll_back"] = "hold"
    patience: Duration | None = None
    lease: Duration = timedelta(seconds=120)
    keep_warm: Duration = timedelta(hours=24)
    look_every: Duration = timedelta(seconds=10)

    @model_validator(mode="after")
    def _steps_rise(self) -> Rollout:
        weights = [step.weight for step in self.steps]
        if any(a >= b for a, b in pairwise(weights)):
            raise ValueError(f"steps must rise: expected each weight above the one before, found {weights}")
        if weights[-1] == 100:
            raise ValueError("the last step is below 100: promotion itself moves traffic to 100")
        if self.lease < 3 * self.look_every:
            raise ValueError(
                f"lease ({self.lease}) must be at least three times look_every ({self.look_every}), "
                "or one late look would end the rollout"
            )
        return self
