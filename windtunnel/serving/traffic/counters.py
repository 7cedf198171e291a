"""All that the meter knows: requests by model, version, audience, copy and segment. Pure, without clock or disk."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from windtunnel.serving.traffic.accesslog import SEGMENT, Entry, Tally, parse

#: Seconds of history for the eyes.
RECENT_S = 900
#: Beyond so many versions of a model, those that nobody has called for the longest are let go.
MAX_VERSIONS = 200
#: So many segments of a model that nobody named are counted; clients choose the header's value, not us.
MAX_SEGMENTS = 50
#: The segment of all others.
OTHER = "other"

Arms = dict[str, Tally]


@dataclass(slots=True)
class Counts:
    """One model's counts; each part as in ``backend.Traffic``."""

    arms: Arms = field(default_factory=dict)
    audience: Arms = field(default_factory=dict)
    shadow: Arms = field(default_factory=dict)
    segments: dict[str, Arms] = field(default_factory=dict)
    shadow_segments: dict[str, Arms] = field(default_factory=dict)

    def add(self, entry: Entry, named: frozenset[str] = frozenset()) -> None:
        """Count one request; ``named`` segments are counted however many others there are."""
        _tally({"split": self.arms, "audience": self.audience, "shadow": self.shadow}[entry.kind], entry)
        if entry.segment is None or entry.kind == "audience":
            return
        segments = self.shadow_segments if entry.kind == "shadow" else self.segments
        name = entry.segment
        plain = SEGMENT.fullmatch(name) is not None
        room = len(segments.keys() - named - {OTHER}) < MAX_SEGMENTS
        if not plain or not (name in segments or name in named or room):
            name = OTHER
        _tally(segments.setdefault(name, {}), entry)

    def forget(self) -> None:
        """Let go of versions that are long past."""
        for arms in self._all():
            for version in sorted(arms, key=lambda version: arms[version].last)[: max(0, len(arms) - MAX_VERSIONS)]:
                del arms[version]

    def _all(self) -> list[Arms]:
        return [
            self.arms,
            self.audience,
            self.shadow,
            *self.segments.values(),
            *self.shadow_segments.values(),
        ]

    def to_dict(self) -> dict[str, Any]:
        return {
            "arms": _plain(self.arms),
            "audience": _plain(self.audience),
            "shadow": _plain(self.shadow),
            "segments": {name: _plain(arms) for name, arms in self.segments.items()},
            "shadow_segments": {name: _plain(arms) for name, arms in self.shadow_segments.items()},
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Counts:
        return cls(
            arms=_arms(plain["arms"]),
            audience=_arms(plain["audience"]),
            shadow=_arms(plain["shadow"]),
            segments={str(name): _arms(arms) for name, arms in plain["segments"].items()},
            shadow_segments={str(name): _arms(arms) for name, arms in plain["shadow_segments"].items()},
        )


@dataclass(slots=True)
class Counters:
    """Counts of all models.

    Attributes:
        epoch: changes when counting starts again from zero.
        models: by model.
        malformed: lines that were no JSON object; other: lines that name no version.
        recent: model, version and second to requests and errors of what users got; for the eyes.
        named: by model, the segments that a release names (``Release.segments``).
    """

    epoch: str = field(default_factory=lambda: uuid.uuid4().hex)
    models: dict[str, Counts] = field(default_factory=dict)
    malformed: int = 0
    other: int = 0
    recent: dict[str, dict[str, dict[int, list[int]]]] = field(default_factory=dict)
    named: dict[str, frozenset[str]] = field(default_factory=dict)

    def add(self, line: str) -> None:
        """Count one line; a line nobody understands is counted as that."""
        try:
            entry = parse(line)
        except (ValueError, RecursionError):
            self.malformed += 1
            return
        if entry is None:
            self.other += 1
            return
        counts = self.models.get(entry.model)
        if counts is None:
            counts = self.models[entry.model] = Counts()
        counts.add(entry, self.named.get(entry.model, frozenset()))
        if entry.kind == "shadow":
            return
        pair = self.recent.setdefault(entry.model, {}).setdefault(entry.version, {}).setdefault(entry.second, [0, 0])
        pair[0] += 1
        pair[1] += entry.error

    def forget(self, now: float) -> None:
        """Let go of seconds and versions that are long past."""
        for versions in self.recent.values():
            for seconds in versions.values():
                for second in [second for second in seconds if second < now - RECENT_S]:
                    del seconds[second]
        for counts in self.models.values():
            counts.forget()

    def to_dict(self) -> dict[str, Any]:
        """Everything but ``recent`` and ``named``."""
        return {
            "v": 2,
            "epoch": self.epoch,
            "malformed": self.malformed,
            "other": self.other,
            "models": {model: counts.to_dict() for model, counts in self.models.items()},
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Counters:
        """The inverse of ``to_dict``; counts of an older meter, which knew arms only, go on.

        Raises:
            KeyError, TypeError, ValueError, IndexError, AttributeError: it is something else.
        """
        old = int(plain["v"]) == 1
        return cls(
            epoch=str(plain["epoch"]),
            malformed=int(plain["malformed"]),
            other=int(plain["other"]),
            models={
                model: Counts(arms=_arms(counts)) if old else Counts.from_dict(counts)
                for model, counts in plain["models"].items()
            },
        )


def _tally(arms: Arms, entry: Entry) -> None:
    tally = arms.get(entry.version)
    if tally is None:
        tally = arms[entry.version] = Tally()
    tally.add(entry)


def _plain(arms: Arms) -> dict[str, Any]:
    return {version: tally.to_dict() for version, tally in arms.items()}


def _arms(plain: dict[str, Any]) -> Arms:
    return {str(version): Tally.from_dict(tally) for version, tally in plain.items()}
