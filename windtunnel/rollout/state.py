"""What a rollout remembers between two looks: small, plain, and enough to go on in another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from windtunnel.rollout.evidence import ArmCounters, Counters
from windtunnel.stats.compare import OneSample, TwoSample
from windtunnel.stats.shift import ShiftTest

Action = Literal["hold", "advance", "promote", "roll_back", "withdraw"]


@dataclass(frozen=True, slots=True)
class Reading:
    """The router's cumulative counts of both arms at one instant of one epoch."""

    epoch: str
    at: float
    champion: ArmCounters
    candidate: ArmCounters

    @classmethod
    def of(cls, counters: Counters, champion: str | None, candidate: str) -> Reading:
        return cls(counters.epoch, counters.at, counters.arm(champion), counters.arm(candidate))

    def to_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "at": self.at,
            "champion": self.champion.to_dict(),
            "candidate": self.candidate.to_dict(),
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Reading:
        return cls(
            plain["epoch"],
            plain["at"],
            ArmCounters.from_dict(plain["champion"]),
            ArmCounters.from_dict(plain["candidate"]),
        )


@dataclass(frozen=True, slots=True)
class GateState:
    """What one gate has seen.

    Attributes:
        test: the comparison's state (``ShiftTest`` for predictions).
        threshold_ms: for latency: what counts as slow, from the champion's own quantile; None until it is known.
        taken: for quality and predictions: cumulative counts (champion, candidate) already tested.
    """

    test: TwoSample | ShiftTest
    threshold_ms: float | None = None
    taken: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": "shift" if isinstance(self.test, ShiftTest) else "two-sample",
            "test": self.test.to_dict(),
            "threshold_ms": self.threshold_ms,
            "taken": [list(arm) for arm in self.taken] if self.taken else None,
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> GateState:
        kind = ShiftTest if plain["kind"] == "shift" else TwoSample
        taken = plain["taken"]
        return cls(
            kind.from_dict(plain["test"]),
            plain["threshold_ms"],
            (tuple(taken[0]), tuple(taken[1])) if taken else None,
        )


@dataclass(frozen=True, slots=True)
class RolloutState:
    """State of one rollout; ``decide`` gives the next. Start with ``begin``.

    Attributes:
        champion: the version compared with; None for a first release.
        candidate: the version being released.
        step: index into the plan's steps.
        entered_at: when the router was first seen with this step's weight; None until then.
        lost_s: seconds of this step that do not count (plan ``extend``).
        inconclusive_since: since when nothing can be said; None while all is well.
        down_since: since when the candidate has had users' requests and no server; None while it has one.
        last_look: time of the last look.
        requests, errors: the candidate's, since the rollout's start.
        step_requests, step_champion: requests of candidate and champion since this step was entered.
        origin: counters at the rollout's first look.
        base: counters at the start of the block still open (a block closes when both arms have requests).
        segments: the same for each judged segment.
        last: counters at the last look.
        gates, limits: state of each gate and absolute limit, by name.
        loss_bound, prediction_edges: fixed at the first look that could make them; hand them to ``numbers``.
        ended, ended_outcome, ended_row, ended_reason: the decision that ended the rollout.
    """

    champion: str | None
    candidate: str
    started_at: float
    step: int = 0
    entered_at: float | None = None
    lost_s: float = 0.0
    inconclusive_since: float | None = None
    last_look: float | None = None
    down_since: float | None = None
    requests: int = 0
    errors: int = 0
    step_requests: int = 0
    step_champion: int = 0
    origin: Reading | None = None
    base: Reading | None = None
    segments: Mapping[str, Reading] = field(default_factory=dict)
    last: Reading | None = None
    testers: ArmCounters | None = None
    gates: Mapping[str, GateState] = field(default_factory=dict)
    limits: Mapping[str, OneSample] = field(default_factory=dict)
    loss_bound: float | None = None
    prediction_edges: tuple[float, ...] | tuple[str, ...] | None = None
    ended: Action | None = None
    ended_outcome: str | None = None
    ended_row: str | None = None
    ended_reason: str | None = None

    @classmethod
    def begin(cls, *, champion: str | None, candidate: str, at: float) -> RolloutState:
        """A rollout that nobody has looked at yet.

        Args:
            champion: version compared with; None for a first release.
            candidate: version being released.
            at: now, seconds since the epoch.

        Raises:
            ValueError: the candidate is the champion.
        """
        if champion == candidate:
            raise ValueError(f"version {candidate} is already champion: there is nothing to release")
        return cls(champion=champion, candidate=candidate, started_at=at)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "champion": self.champion,
            "candidate": self.candidate,
            "started_at": self.started_at,
            "step": self.step,
            "entered_at": self.entered_at,
            "lost_s": self.lost_s,
            "inconclusive_since": self.inconclusive_since,
            "last_look": self.last_look,
            "requests": self.requests,
            "errors": self.errors,
            "step_requests": self.step_requests,
            "step_champion": self.step_champion,
            "origin": self.origin.to_dict() if self.origin else None,
            "base": self.base.to_dict() if self.base else None,
            "segments": {name: reading.to_dict() for name, reading in self.segments.items()},
            "last": self.last.to_dict() if self.last else None,
            # Absent where nobody tests, so that histories from before there were testers are decided as they were.
            **({"testers": self.testers.to_dict()} if self.testers else {}),
            **({"down_since": self.down_since} if self.down_since is not None else {}),
            "gates": {name: gate.to_dict() for name, gate in self.gates.items()},
            "limits": {name: limit.to_dict() for name, limit in self.limits.items()},
            "loss_bound": self.loss_bound,
            "prediction_edges": list(self.prediction_edges) if self.prediction_edges else None,
            "ended": self.ended,
            "ended_outcome": self.ended_outcome,
            "ended_row": self.ended_row,
            "ended_reason": self.ended_reason,
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> RolloutState:
        """The inverse of ``to_dict``."""
        kept = dict(plain)
        for key in ("origin", "base", "last"):
            kept[key] = Reading.from_dict(plain[key]) if plain[key] else None
        kept["testers"] = ArmCounters.from_dict(plain["testers"]) if plain.get("testers") else None
        kept["segments"] = {name: Reading.from_dict(r) for name, r in plain.get("segments", {}).items()}
        kept["gates"] = {name: GateState.from_dict(gate) for name, gate in plain["gates"].items()}
        kept["limits"] = {name: OneSample.from_dict(limit) for name, limit in plain["limits"].items()}
        kept["prediction_edges"] = tuple(plain["prediction_edges"]) if plain["prediction_edges"] else None
        return cls(**kept)
