"""A release on simulated traffic, decided by the very same brain. Pure: randomness comes in as a generator.

Traffic is Poisson, split at random by the step's weight. Errors are coin flips, latencies log-normal, predictions and
losses gamma distributed (skewed, as counts and amounts are). Labels follow after a delay.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from windtunnel.rollout.decide import decide
from windtunnel.rollout.decision import Decision
from windtunnel.rollout.evidence import ArmCounters, Counters, Evidence, PredictionNumbers, QualityNumbers
from windtunnel.rollout.numbers import prediction_numbers, quality_numbers
from windtunnel.rollout.plan import Plan
from windtunnel.rollout.state import RolloutState
from windtunnel.stats.betting import FloatArray
from windtunnel.stats.histogram import BOUNDS, Histogram


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How one version behaves.

    Attributes:
        errors: share of failed requests.
        latency_ms, latency_sigma: median and spread (of the logarithm) of latencies.
        loss: mean loss of a labelled row.
        prediction: factor on predictions (1: as the champion's).
    """

    errors: float = 0.008
    latency_ms: float = 8.0
    latency_sigma: float = 0.5
    loss: float = 1.0
    prediction: float = 1.0


@dataclass(frozen=True, slots=True)
class Scenario:
    """Traffic, and the two versions it meets.

    Attributes:
        rate: requests per second, all versions together.
        swing: both versions' error rates and the traffic rise and fall by this share over ``period_s``.
        label_delay_s: labels follow this late; None: no labels, no predictions.
        history: requests the champion had answered before.
    """

    rate: float
    champion: Behaviour = Behaviour()
    candidate: Behaviour = Behaviour()
    swing: float = 0.0
    period_s: float = 3600.0
    label_delay_s: float | None = None
    history: int = 2000


@dataclass(frozen=True, slots=True)
class Run:
    """How a simulated release ended.

    Attributes:
        decision: the last one.
        seconds: from the first look to the end.
        exposed: requests the candidate answered.
        looks: number of looks.
    """

    decision: Decision
    seconds: float
    exposed: int
    looks: int


class _Arm:
    """One version's counters and rows while they grow."""

    def __init__(self, behaviour: Behaviour, rng: np.random.Generator) -> None:
        self.behaviour = behaviour
        self.rng = rng
        edges = np.log(np.asarray(BOUNDS))
        middle, wide = math.log(behaviour.latency_ms), behaviour.latency_sigma
        below = np.array([0.5 * (1 + math.erf((x - middle) / (wide * math.sqrt(2)))) for x in edges])
        self.cells: FloatArray = np.diff(np.concatenate([[0.0], below, [1.0]]))
        self.requests = self.errors = 0
        self.slow = np.zeros(len(self.cells), dtype=np.int64)

    def serve(self, n: int, level: float) -> int:
        """Answer ``n`` requests; returns how many were answered without an error."""
        failed = int(self.rng.binomial(n, min(1.0, self.behaviour.errors * level)))
        self.requests += n
        self.errors += failed
        self.slow += self.rng.multinomial(n, self.cells)
        return n - failed

    def rows(self, n: int) -> tuple[FloatArray, FloatArray]:
        """Predictions and losses of ``n`` answered requests."""
        predictions = self.rng.gamma(2.0, 1.5, n) * self.behaviour.prediction
        losses = self.rng.gamma(0.7, self.behaviour.loss / 0.7, n)
        return predictions, losses

    def counters(self) -> ArmCounters:
        return ArmCounters(self.requests, self.errors, 0, Histogram(tuple(self.slow.tolist())))


def simulate(plan: Plan, scenario: Scenario, rng: np.random.Generator, *, max_looks: int = 100_000) -> Run:
    """Run one release from its first look to its end.

    Raises:
        RuntimeError: it did not end within ``max_looks``; a plan whose patience is finite always does.
    """
    a, b = _Arm(scenario.champion, rng), _Arm(scenario.candidate, rng)
    a.serve(scenario.history, 1.0)
    state = RolloutState.begin(champion=None if plan.first else "1", candidate="2", at=0.0)
    quality: QualityNumbers | None = None
    prediction: PredictionNumbers | None = None
    empty = np.zeros(0)
    waiting: list[tuple[float, FloatArray, FloatArray]] = []
    seen_a, seen_b = (empty, empty), (empty, empty)  # rows not yet in the numbers: (predictions, losses)
    needs_rows = scenario.label_delay_s is not None
    now = 0.0
    for look in range(1, max_looks + 1):
        evidence = Evidence(
            traffic=Counters("0", now, {"1": a.counters(), "2": b.counters()}),
            quality=quality,
            prediction=prediction,
            observed_weight=plan.steps[state.step].weight,
            ready=True,
            digest_ok=True,
        )
        decision = decide(plan, state, evidence, now)
        state = decision.state
        if decision.ends:
            return Run(decision, now, b.requests, look)
        now += plan.look_every_s
        level = 1 + scenario.swing * math.sin(2 * math.pi * now / scenario.period_s)
        arrived = int(rng.poisson(scenario.rate * level * plan.look_every_s))
        to_b = int(rng.binomial(arrived, plan.steps[state.step].weight / 100))
        answered_a, answered_b = a.serve(arrived - to_b, level), b.serve(to_b, level)
        if not needs_rows:
            continue
        rows_a, rows_b = a.rows(answered_a), b.rows(answered_b)
        waiting.append((now + (scenario.label_delay_s or 0.0), rows_a[1], rows_b[1]))
        ready = [batch for batch in waiting if batch[0] <= now]
        waiting = [batch for batch in waiting if batch[0] > now]
        seen_a = (
            np.concatenate([seen_a[0], rows_a[0]]),
            np.concatenate([seen_a[1], *(batch[1] for batch in ready)]),
        )
        seen_b = (
            np.concatenate([seen_b[0], rows_b[0]]),
            np.concatenate([seen_b[1], *(batch[2] for batch in ready)]),
        )
        more_q = quality_numbers(seen_a[1], seen_b[1], state.loss_bound)
        if more_q is not None:
            quality = more_q if quality is None else quality + more_q
            seen_a, seen_b = (seen_a[0], empty), (seen_b[0], empty)
        more_p = prediction_numbers(seen_a[0], seen_b[0], state.prediction_edges)
        if more_p is not None:
            prediction = more_p if prediction is None else prediction + more_p
            seen_a, seen_b = (empty, seen_a[1]), (empty, seen_b[1])
    raise RuntimeError(f"the release did not end within {max_looks} looks")
