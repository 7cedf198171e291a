"""What one look at a running release found: counters and sums since the start, never rows.

Everything is cumulative, so a look may be lost, repeated or made by another process without counting anything twice.
Router counters arrive as the serving backend's ``Traffic``; this room lies below the serving room and reads them by
shape (``TrafficLike``), or as its own ``Counters`` when they come back from the look log.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from windtunnel.stats.histogram import Histogram


class ArmLike(Protocol):
    """Cumulative counts of one version."""

    @property
    def requests(self) -> int: ...
    @property
    def errors(self) -> int: ...
    @property
    def client_errors(self) -> int: ...
    @property
    def latency(self) -> Histogram: ...


class TrafficLike(Protocol):
    """Router counters of all versions of a model at one instant (``windtunnel.serving.backend.Traffic``)."""

    @property
    def epoch(self) -> str: ...
    @property
    def at(self) -> float: ...
    @property
    def arms(self) -> Mapping[str, ArmLike]: ...


@dataclass(frozen=True, slots=True)
class ArmCounters:
    """Cumulative counts of one version since the epoch; latency in milliseconds."""

    requests: int = 0
    errors: int = 0
    client_errors: int = 0
    latency: Histogram = field(default_factory=Histogram)

    @classmethod
    def of(cls, arm: ArmLike | None) -> ArmCounters:
        """A version the router has not counted yet has zeros."""
        return cls(arm.requests, arm.errors, arm.client_errors, arm.latency) if arm else cls()

    def since(self, before: ArmCounters) -> ArmCounters | None:
        """What came after ``before``; None when any count went back, so the two are not of one counter."""
        latency = self.latency - before.latency
        counts = (
            self.requests - before.requests,
            self.errors - before.errors,
            self.client_errors - before.client_errors,
        )
        if min(counts) < 0 or min(latency.counts) < 0:
            return None
        return ArmCounters(*counts, latency)

    def to_dict(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "errors": self.errors,
            "client_errors": self.client_errors,
            "latency": self.latency.to_dict(),
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> ArmCounters:
        return cls(plain["requests"], plain["errors"], plain["client_errors"], Histogram.from_dict(plain["latency"]))


@dataclass(frozen=True, slots=True)
class Counters:
    """Router counters of all versions at one instant; ``epoch`` changes when they restarted from zero."""

    epoch: str
    at: float
    arms: Mapping[str, ArmCounters]

    @classmethod
    def of(cls, traffic: TrafficLike) -> Counters:
        return cls(traffic.epoch, traffic.at, {v: ArmCounters.of(arm) for v, arm in traffic.arms.items()})

    def arm(self, version: str | None) -> ArmCounters:
        """Zeros for a version the router has not counted (yet)."""
        return self.arms.get(version, ArmCounters()) if version is not None else ArmCounters()

    def to_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "at": self.at, "arms": {v: arm.to_dict() for v, arm in self.arms.items()}}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Counters:
        return cls(plain["epoch"], plain["at"], {v: ArmCounters.from_dict(a) for v, a in plain["arms"].items()})


@dataclass(frozen=True, slots=True)
class LossSums:
    """Losses of one arm's labelled rows since the rollout's start.

    Attributes:
        n, total, squares: number, sum, sum of squares of the losses, clipped to the bound.
        cells: the clipped losses spread over ``stats.binning.loss_points()`` times the bound; sums to n.
        invalid: rows whose loss is not a number (the model said NaN).
    """

    n: int
    total: float
    squares: float
    cells: tuple[float, ...]
    invalid: int = 0

    def __add__(self, other: LossSums) -> LossSums:
        return LossSums(
            self.n + other.n,
            self.total + other.total,
            self.squares + other.squares,
            tuple(a + b for a, b in zip(self.cells, other.cells, strict=True)),
            self.invalid + other.invalid,
        )


@dataclass(frozen=True, slots=True)
class QualityNumbers:
    """Losses of both arms on labelled rows since the rollout's start; made by ``numbers.quality_numbers``.

    ``bound`` is where a single loss is clipped; it must stay the same through a rollout (``RolloutState.loss_bound``).
    """

    loss: str
    bound: float
    champion: LossSums
    candidate: LossSums

    def __add__(self, later: QualityNumbers) -> QualityNumbers:
        """Of both sets of rows together; for a reader that goes through the log once instead of again at each look.

        Raises:
            ValueError: they were not made with the same loss and bound.
        """
        if (self.loss, self.bound) != (later.loss, later.bound):
            raise ValueError(f"cannot add {later.loss} up to {later.bound:g} to {self.loss} up to {self.bound:g}")
        return QualityNumbers(self.loss, self.bound, self.champion + later.champion, self.candidate + later.candidate)

    def to_dict(self) -> dict[str, Any]:
        def sums(arm: LossSums) -> dict[str, Any]:
            return {
                "n": arm.n, "total": arm.total, "squares": arm.squares, "cells": list(arm.cells),
                "invalid": arm.invalid,
            }  # fmt: skip

        return {
            "loss": self.loss,
            "bound": self.bound,
            "champion": sums(self.champion),
            "candidate": sums(self.candidate),
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> QualityNumbers:
        def sums(arm: dict[str, Any]) -> LossSums:
            return LossSums(arm["n"], arm["total"], arm["squares"], tuple(arm["cells"]), arm["invalid"])

        return cls(plain["loss"], plain["bound"], sums(plain["champion"]), sums(plain["candidate"]))


@dataclass(frozen=True, slots=True)
class PredictionNumbers:
    """Predictions of both arms, counted in bins, since the rollout's start; made by ``numbers.prediction_numbers``.

    Attributes:
        edges: upper edges of numeric bins (a last one is open above), or the categories (a last one is "other").
            They must stay the same through a rollout (``RolloutState.prediction_edges``).
        ordered: numeric bins, not categories.
        champion, candidate: counts, one more than ``edges``.
        champion_invalid, candidate_invalid: predictions that are not a number.
    """

    edges: tuple[float, ...] | tuple[str, ...]
    ordered: bool
    champion: tuple[int, ...]
    candidate: tuple[int, ...]
    champion_invalid: int = 0
    candidate_invalid: int = 0

    def __add__(self, later: PredictionNumbers) -> PredictionNumbers:
        """Of both sets of predictions together.

        Raises:
            ValueError: they were not counted in the same bins.
        """
        if (self.edges, self.ordered) != (later.edges, later.ordered):
            raise ValueError("cannot add predictions that were counted in other bins")
        return PredictionNumbers(
            self.edges,
            self.ordered,
            tuple(a + b for a, b in zip(self.champion, later.champion, strict=True)),
            tuple(a + b for a, b in zip(self.candidate, later.candidate, strict=True)),
            self.champion_invalid + later.champion_invalid,
            self.candidate_invalid + later.candidate_invalid,
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "edges": list(self.edges),
            "ordered": self.ordered,
            "champion": list(self.champion),
            "candidate": list(self.candidate),
            "invalid": [self.champion_invalid, self.candidate_invalid],
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> PredictionNumbers:
        return cls(
            tuple(plain["edges"]),
            plain["ordered"],
            tuple(plain["champion"]),
            tuple(plain["candidate"]),
            *plain["invalid"],
        )


@dataclass(frozen=True, slots=True)
class Order:
    """What a person ordered, for one step of one rollout.

    Attributes:
        kind: ``skip`` the rest of this step, or ``promote`` now.
        step: index of the step it was given in; it holds for no other.
        by, reason: who and why.
    """

    kind: Literal["skip", "promote"]
    step: int
    by: str
    reason: str

    @property
    def words(self) -> str:
        return f"by order of {self.by}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything one look found. What is None is not known, and not known is not good.

    Attributes:
        traffic: the router's counters, or None with ``traffic_error`` saying why they could not be read. In a
            mirrored step the candidate's are of its mirrored requests.
        quality, prediction: numbers for those gates; None when there are none (yet); ``*_error`` says why not.
        values: numbers of the value gates by gate name; ``values_error`` says why there are none.
        segments: the router's counters by segment.
        observed_weight: the candidate's percent of traffic as the router has it.
        observed_mirror: percent of requests copied to the candidate as the router has it.
        ready: the candidate's server says it is ready.
        digest_ok: the candidate's content is what was registered.
        aborted: why the rollout was taken to 0 by the guard or a person, if it was.
        frozen: why no step may begin, if rollouts are frozen.
        paused: who paused this rollout and why, if somebody did.
        order: what a person ordered.
        testers: the candidate's requests that the audience's header sent there, as cumulative as ``traffic`` and read
            with it; None where there is no audience.
        no_way_back: why the champion could not take over now, if it was found that it could not.
        down: users' requests go to the candidate, and it has no server at all. A router may count none of them: then
            no gate sees that they fail.
    """

    traffic: TrafficLike | None = None
    traffic_error: str | None = None
    quality: QualityNumbers | None = None
    quality_error: str | None = None
    prediction: PredictionNumbers | None = None
    prediction_error: str | None = None
    observed_weight: int | None = None
    ready: bool | None = None
    digest_ok: bool | None = None
    aborted: str | None = None
    values: Mapping[str, QualityNumbers] = field(default_factory=dict)
    values_error: Mapping[str, str] = field(default_factory=dict)
    segments: Mapping[str, TrafficLike] = field(default_factory=dict)
    observed_mirror: int | None = None
    frozen: str | None = None
    paused: str | None = None
    order: Order | None = None
    testers: ArmLike | None = None
    no_way_back: str | None = None
    down: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "traffic": Counters.of(self.traffic).to_dict() if self.traffic is not None else None,
            "traffic_error": self.traffic_error,
            "quality": self.quality.to_dict() if self.quality else None,
            "quality_error": self.quality_error,
            "prediction": self.prediction.to_dict() if self.prediction else None,
            "prediction_error": self.prediction_error,
            "observed_weight": self.observed_weight,
            "ready": self.ready,
            "digest_ok": self.digest_ok,
            "aborted": self.aborted,
            "values": {name: numbers.to_dict() for name, numbers in self.values.items()},
            "values_error": dict(self.values_error),
            "segments": {name: Counters.of(counters).to_dict() for name, counters in self.segments.items()},
            "observed_mirror": self.observed_mirror,
            "frozen": self.frozen,
            "paused": self.paused,
            "order": asdict(self.order) if self.order else None,
            "testers": ArmCounters.of(self.testers).to_dict() if self.testers is not None else None,
            "no_way_back": self.no_way_back,
            # Absent where it is not so, as in all looks from before it was asked.
            **({"down": True} if self.down else {}),
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Evidence:
        """The inverse of ``to_dict``; absent keys are not known."""
        traffic, quality, prediction = plain.get("traffic"), plain.get("quality"), plain.get("prediction")
        return cls(
            traffic=Counters.from_dict(traffic) if traffic else None,
            traffic_error=plain.get("traffic_error"),
            quality=QualityNumbers.from_dict(quality) if quality else None,
            quality_error=plain.get("quality_error"),
            prediction=PredictionNumbers.from_dict(prediction) if prediction else None,
            prediction_error=plain.get("prediction_error"),
            observed_weight=plain.get("observed_weight"),
            ready=plain.get("ready"),
            digest_ok=plain.get("digest_ok"),
            aborted=plain.get("aborted"),
            values={name: QualityNumbers.from_dict(q) for name, q in (plain.get("values") or {}).items()},
            values_error=dict(plain.get("values_error") or {}),
            segments={name: Counters.from_dict(c) for name, c in (plain.get("segments") or {}).items()},
            observed_mirror=plain.get("observed_mirror"),
            frozen=plain.get("frozen"),
            paused=plain.get("paused"),
            order=Order(**plain["order"]) if plain.get("order") else None,
            testers=ArmCounters.from_dict(plain["testers"]) if plain.get("testers") else None,
            no_way_back=plain.get("no_way_back"),
            down=bool(plain.get("down")),
        )
