"""The plan as the brain reads it: seconds instead of durations, one name per gate, alpha already shared out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from windtunnel.errors import DescriptionError
from windtunnel.spec.rollout import Rollout
from windtunnel.stats.betting import bonferroni

#: Fewest labelled rows (predictions) per arm on which a quality (prediction) gate may speak.
ENOUGH_ROWS = 20


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One exposure: percent of traffic, least seconds, least requests answered by the candidate."""

    weight: int
    hold_s: float
    min_requests: int


@dataclass(frozen=True, slots=True)
class PlanGate:
    """One comparison; see ``windtunnel.spec.rollout.Gate``.

    Attributes:
        name: unique in the plan, e.g. ``errors`` or ``latency_p95``.
        alpha: this gate's share of the plan's alpha.
        min_rows: labelled rows or predictions per arm needed by ``quality`` and ``prediction``.
        non_inferior: demand evidence that the candidate is within the margin before a step passes. Off today:
            no shown harm passes. The evidence is computed and recorded either way.
    """

    name: str
    metric: Literal["errors", "latency", "quality", "prediction"]
    margin: float
    quantile: float
    loss: str
    required: bool
    alpha: float
    min_rows: int
    non_inferior: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """A release plan.

    Attributes:
        steps: rising exposures; for a first release one step of 100 % and ``first_watch``.
        gates: comparisons with the champion; none for a first release.
        error_rate, p95_ms: absolute limits; None is no limit.
        limit_alpha: each absolute limit's share of alpha.
        patience_s: how long a step may stay inconclusive; None is the step's own length.
    """

    first: bool
    steps: tuple[PlanStep, ...]
    gates: tuple[PlanGate, ...]
    error_rate: float | None
    p95_ms: float | None
    alpha: float
    beta: float
    limit_alpha: float
    on_inconclusive: Literal["extend", "hold", "roll_back"]
    patience_s: float | None
    look_every_s: float

    @classmethod
    def from_spec(cls, rollout: Rollout, first: bool) -> Plan:
        """The plan behind a description.

        Args:
            rollout: the description.
            first: there is no champion yet: watch 100 % against the absolute limits only.

        Raises:
            DescriptionError: the plan has nothing to judge by.
        """
        limits = sum(limit is not None for limit in (rollout.limits.error_rate, rollout.limits.p95_ms))
        comparisons = [] if first else list(rollout.gates)
        tests = limits + len(comparisons)
        if tests == 0:
            what = "limits (a first release has no champion to compare with)" if first else "gates and limits"
            raise DescriptionError(
                f"rollout: expected {what}, found none",
                hint="set rollout.limits.error_rate or rollout.limits.p95_ms",
            )
        losses = sorted({gate.loss for gate in comparisons if gate.metric == "quality"})
        if len(losses) > 1:
            raise DescriptionError(
                f"rollout.gates: expected one loss for all quality gates, found {losses}",
                hint="keep the one that matters most to users; the others belong to the evaluation",
            )
        alpha = bonferroni(rollout.alpha, tests)
        least = min(step.min_requests for step in rollout.steps)
        rows = max(1, min(ENOUGH_ROWS, least))
        if first:
            steps: tuple[PlanStep, ...] = (PlanStep(100, rollout.first_watch.total_seconds(), rows),)
        else:
            steps = tuple(PlanStep(s.weight, s.hold.total_seconds(), s.min_requests) for s in rollout.steps)
        gates: list[PlanGate] = []
        for gate in comparisons:
            name = gate.metric if gate.metric != "latency" else f"latency_p{gate.quantile * 100:g}"
            taken = {other.name for other in gates}
            unique = next(n for n in (name, *(f"{name}_{i}" for i in range(2, 1000))) if n not in taken)
            gates.append(
                PlanGate(
                    unique, gate.metric, gate.margin, gate.quantile, gate.loss, gate.required, alpha, rows,
                )
            )  # fmt: skip
        return cls(
            first=first,
            steps=steps,
            gates=tuple(gates),
            error_rate=rollout.limits.error_rate,
            p95_ms=rollout.limits.p95_ms,
            alpha=rollout.alpha,
            beta=rollout.beta,
            limit_alpha=alpha,
            on_inconclusive=rollout.on_inconclusive,
            patience_s=rollout.patience.total_seconds() if rollout.patience is not None else None,
            look_every_s=rollout.look_every.total_seconds(),
        )

    @property
    def retreat(self) -> Literal["roll_back", "withdraw"]:
        """What undoes this release."""
        return "withdraw" if self.first else "roll_back"

    def patience(self, step: int) -> float:
        """Seconds step ``step`` may stay inconclusive."""
        return self.steps[step].hold_s if self.patience_s is None else self.patience_s

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        plain = asdict(self)
        plain["steps"] = list(plain["steps"])
        plain["gates"] = list(plain["gates"])
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Plan:
        """The inverse of ``to_dict``."""
        kept = dict(plain)
        kept["steps"] = tuple(PlanStep(**step) for step in plain["steps"])
        kept["gates"] = tuple(PlanGate(**gate) for gate in plain["gates"])
        return cls(**kept)
