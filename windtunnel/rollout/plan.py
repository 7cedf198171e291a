"""The plan as the brain reads it: seconds instead of durations, one name per gate, alpha already shared out."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from itertools import chain, count
from typing import TYPE_CHECKING, Any, Literal

from windtunnel.errors import DescriptionError
from windtunnel.rollout.hours import Window
from windtunnel.spec.rollout import Gate, Rollout, Step, Strategy
from windtunnel.stats.betting import bonferroni

if TYPE_CHECKING:
    from windtunnel.spec import Model

#: Fewest labelled rows (predictions) per arm on which a quality (prediction) gate may speak.
ENOUGH_ROWS = 20

Metric = Literal["errors", "latency", "quality", "prediction", "value"]


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One exposure: percent of traffic, least seconds, least requests answered by the candidate.

    Attributes:
        at_least_s: it may pass this early when everything that must be proven is; None: not before ``hold_s``.
        at_most_s: it waits no longer than this for requests and proof; None: ``hold_s`` and the plan's patience.
        max_requests: nor for more requests than these.
        mirror: percent of the champion's requests that are copied to the candidate; then ``weight`` is 0.
    """

    weight: int
    hold_s: float
    min_requests: int
    at_least_s: float | None = None
    at_most_s: float | None = None
    max_requests: int | None = None
    mirror: int | None = None

    @property
    def name(self) -> str:
        """``step_05``; ``mirror_100`` for a mirrored one."""
        return f"mirror_{self.mirror:02d}" if self.mirror else f"step_{self.weight:02d}"

    @property
    def words(self) -> str:
        """``25 %``, ``10 % mirrored``."""
        return f"{self.mirror} % mirrored" if self.mirror else f"{self.weight} %"

    @property
    def alone(self) -> bool:
        """The candidate has everything: there is no champion's traffic to compare with."""
        return self.weight == 100


@dataclass(frozen=True, slots=True)
class PlanGate:
    """One comparison; see ``windtunnel.spec.rollout.Gate``.

    Attributes:
        name: unique in the plan, e.g. ``errors``, ``latency_p95``, ``errors@eu`` for segment ``eu``.
        alpha: this gate's share of the plan's alpha.
        min_rows: labelled rows, predictions or values per arm needed by the gates on them.
        non_inferior: evidence that the candidate is within ``bound_safe`` must be there before it is promoted.
        bound_safe: what must be shown: no worse than by this, or, from 0 down, better by its absolute; None: the
            margin. In the unit of the test (a value's is scaled to [0, 1]).
        segment: of this segment's requests alone.
        scale: width of a value's range; 1 for all others. Divides the margin.
        low, better: a value's least, and which way is better; for the words.
    """

    name: str
    metric: Metric
    margin: float
    quantile: float
    loss: str
    required: bool
    alpha: float
    min_rows: int
    non_inferior: bool = False
    bound_safe: float | None = None
    segment: str | None = None
    scale: float = 1.0
    low: float = 0.0
    better: Literal["higher", "lower"] = "lower"

    @property
    def rates(self) -> bool:
        """It compares shares of requests, counted by the router."""
        return self.metric in ("errors", "latency")

    @property
    def superior(self) -> float | None:
        """By how much the candidate must be better, in the unit people know; None where that was not asked."""
        return None if self.bound_safe is None or self.bound_safe > 0 else -self.bound_safe * self.scale

    @property
    def safe_margin(self) -> float:
        """``bound_safe``, or the margin where nothing else was asked."""
        return self.margin if self.bound_safe is None else self.bound_safe


@dataclass(frozen=True, slots=True)
class Plan:
    """A release plan.

    Attributes:
        steps: rising exposures, mirrored ones first; for a first release one of 100 % and ``first_watch``.
        gates: comparisons with the champion; none for a first release.
        error_rate, p95_ms: absolute limits; None is no limit.
        limit_alpha: each absolute limit's share of alpha.
        patience_s: how long a step may stay inconclusive; None is the step's own length.
        windows: when exposure may grow; always when there are none.
        segments: names of the segments that are judged.
        audience: testers are sent to the candidate whatever its weight; their requests are held against the absolute
            limits on their own.
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
    strategy: Strategy = "canary"
    windows: tuple[Window, ...] = ()
    segments: tuple[str, ...] = ()
    audience: bool = False

    @classmethod
    def of(cls, model: Model, first: bool) -> Plan:
        """The plan of a model's releases, where they are served; see ``from_spec``."""
        return cls.from_spec(model.rollout, first, model.serving.replicas, in_cluster=model.target != "local")

    @classmethod
    def from_spec(cls, rollout: Rollout, first: bool, replicas: int = 1, *, in_cluster: bool = False) -> Plan:
        """The plan behind a description.

        Args:
            rollout: the description.
            first: there is no champion yet: watch 100 % against the absolute limits only.
            replicas: of the model's serving section; a rolling release has a step after each but the last.
            in_cluster: it is served in one, where looks that nobody timed come more seldom.

        Raises:
            DescriptionError: the plan has nothing to judge by, or cannot be flown.
        """
        steps = (_first_step(rollout),) if first else tuple(_step(step) for step in rollout.exposures(replicas))
        segments = tuple(rollout.segments.values) if rollout.segments and not first else ()
        comparisons = [] if first or all(step.alone for step in steps) else _named(rollout.gates)
        limits = sum(limit is not None for limit in (rollout.limits.error_rate, rollout.limits.p95_ms))
        by_segment = [
            (f"{name}@{segment}", gate, segment)
            for segment in segments
            for name, gate in comparisons
            if gate.metric in ("errors", "latency")
        ]
        everything: list[tuple[str, Gate, str | None]] = [(name, gate, None) for name, gate in comparisons]
        everything += by_segment
        audience = rollout.audience is not None and not first
        tests = (2 if audience else 1) * limits + len(everything)
        if tests == 0 and steps:
            what = "limits (a first release has no champion to compare with)" if first else "gates and limits"
            raise DescriptionError(
                f"rollout: expected {what}, found none",
                hint="set rollout.limits.error_rate or rollout.limits.p95_ms",
            )
        losses = sorted({gate.loss for _, gate in comparisons if gate.metric == "quality"})
        if len(losses) > 1:
            raise DescriptionError(
                f"rollout.gates: expected one loss for all quality gates, found {losses}",
                hint="keep the one that matters most to users; the others belong to the evaluation",
            )
        alpha = bonferroni(rollout.alpha, max(1, tests))
        rows = max(1, min([ENOUGH_ROWS, *(step.min_requests for step in steps)]))
        prove = rollout.prove == "non_inferior"
        return cls(
            first=first,
            steps=steps,
            gates=tuple(_gate(name, gate, segment, alpha, rows, prove) for name, gate, segment in everything),
            error_rate=rollout.limits.error_rate,
            p95_ms=rollout.limits.p95_ms,
            alpha=rollout.alpha,
            beta=rollout.beta,
            limit_alpha=alpha,
            on_inconclusive=rollout.on_inconclusive,
            patience_s=rollout.patience.total_seconds() if rollout.patience is not None else None,
            look_every_s=rollout.looks_every(in_cluster).total_seconds(),
            strategy=rollout.strategy,
            windows=tuple(Window.of(h.days, h.start, h.end, h.timezone) for h in rollout.hours),
            segments=segments,
            audience=audience,
        )

    @property
    def retreat(self) -> Literal["roll_back", "withdraw"]:
        """What undoes this release."""
        return "withdraw" if self.first else "roll_back"

    @property
    def proof_at(self) -> int:
        """The step that must show what promotion needs: the last in which there is a champion to compare with."""
        return max((i for i, step in enumerate(self.steps) if not step.alone), default=-1)

    def patience(self, step: int) -> float:
        """Seconds step ``step`` may stay inconclusive."""
        return self.steps[step].hold_s if self.patience_s is None else self.patience_s

    def longest(self, step: int) -> float:
        """Seconds after which step ``step`` no longer waits for requests or proof."""
        most = self.steps[step].at_most_s
        return self.steps[step].hold_s + self.patience(step) if most is None else most

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        plain = asdict(self)
        for name in ("steps", "gates", "windows", "segments"):
            plain[name] = list(plain[name])
        plain["windows"] = [{**window, "days": list(window["days"])} for window in plain["windows"]]
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Plan:
        """The inverse of ``to_dict``; what an older plan did not have gets its default, unknown keys are left out."""
        known = {field.name for field in fields(cls)}
        kept = {name: value for name, value in plain.items() if name in known}
        kept["steps"] = tuple(PlanStep(**step) for step in plain["steps"])
        kept["gates"] = tuple(PlanGate(**gate) for gate in plain["gates"])
        kept["windows"] = tuple(Window(**{**w, "days": tuple(w["days"])}) for w in plain.get("windows", ()))
        kept["segments"] = tuple(plain.get("segments", ()))
        return cls(**kept)


def _first_step(rollout: Rollout) -> PlanStep:
    least = min([ENOUGH_ROWS, *(step.min_requests for step in rollout.steps)])
    return PlanStep(100, rollout.first_watch.total_seconds(), max(1, least))


def _step(step: Step) -> PlanStep:
    return PlanStep(
        weight=step.weight,
        hold_s=step.hold.total_seconds(),
        min_requests=step.min_requests,
        at_least_s=None if step.at_least is None else step.at_least.total_seconds(),
        at_most_s=None if step.at_most is None else step.at_most.total_seconds(),
        max_requests=step.max_requests,
        mirror=step.mirror,
    )


def _named(gates: list[Gate]) -> list[tuple[str, Gate]]:
    """Each gate with a name of its own."""
    found: list[tuple[str, Gate]] = []
    for gate in gates:
        name = gate.metric if gate.metric != "latency" else f"latency_p{gate.quantile * 100:g}"
        if gate.metric == "value":
            name = gate.figure or str(gate.source).partition(":")[2]
        taken = {other for other, _ in found}
        unique = next(n for n in chain([name], (f"{name}_{i}" for i in count(2))) if n not in taken)
        found.append((unique, gate))
    return found


def _gate(name: str, gate: Gate, segment: str | None, alpha: float, rows: int, prove: bool) -> PlanGate:
    scale = (gate.high or 0.0) - gate.low if gate.metric == "value" else 1.0
    whole = segment is None  # a segment must show no harm; proof is asked of the whole
    superior = gate.superior if whole else None
    asked = -superior if superior is not None else gate.within
    return PlanGate(
        name=name,
        metric=gate.metric,
        margin=gate.margin / scale,
        quantile=gate.quantile,
        loss=gate.loss,
        required=gate.required and whole,
        alpha=alpha,
        min_rows=rows,
        non_inferior=whole and (superior is not None or (prove and gate.required)),
        bound_safe=None if asked is None else asked / scale,
        segment=segment,
        scale=scale,
        low=gate.low,
        better=gate.better if gate.metric == "value" else "lower",
    )
