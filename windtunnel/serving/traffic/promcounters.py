"""Many processes' counters as one that only grows: increments are added up per series, never sums compared.

A sum over pods falls when a pod goes and jumps when one comes that had counted before; neither happened to a user.
Here each series has its own last value:

- what it grew by is added; a series whose process is gone keeps what it had;
- of a series that is new, all counts that it did not have at the first reading (``earlier``): a process that began
  since, or had no such series yet, had none;
- a series that went back, or whose process began anew, was reset: counting goes on from zero, in a new *epoch*, since
  nobody knows what was lost.

Pure: no clock, no network.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Labels = tuple[tuple[str, str], ...]
#: Seconds after which a series that is gone is forgotten; its counts stay.
FORGET_AFTER_S = 3600.0
#: Starts that differ by less (seconds) are the same start, written down by another clock.
_SAME_START_S = 2.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One series at the reading's instant: whose count it is (``cell``), which process counts, its value."""

    series: Labels
    instance: Labels
    cell: tuple[str, ...]
    value: float


@dataclass(slots=True)
class _Series:
    instance: Labels
    cell: tuple[str, ...]
    last: float
    seen: float


@dataclass(slots=True)
class Accumulator:
    """Totals by cell since the epoch.

    Attributes:
        epoch: name of the epoch; ``resets`` counts those of this object.
        began: time of the first reading, since which everything is counted (and before, what was there at it).
        totals: by cell; never less than before.
    """

    epoch: str
    resets: int = 0
    began: float | None = None
    totals: dict[tuple[str, ...], float] = field(default_factory=dict)
    _series: dict[Labels, _Series] = field(default_factory=dict)
    _starts: dict[Labels, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.epoch}.{self.resets}"

    @property
    def instances(self) -> set[Labels]:
        """Processes whose series are remembered."""
        return {series.instance for series in self._series.values()}

    def strangers(self, samples: Sequence[Sample]) -> bool:
        """Whether a series is there that no reading has seen, so that ``take`` needs to know what it had before."""
        return self.began is not None and any(sample.series not in self._series for sample in samples)

    def take(
        self, samples: Sequence[Sample], starts: Mapping[Labels, float], at: float, earlier: Mapping[Labels, float]
    ) -> bool:
        """Add a reading.

        Args:
            starts: when each process began, where it is known.
            at: the reading's instant, seconds since the epoch.
            earlier: what series had at the time ``began``, where they had anything.

        Returns:
            Whether something was reset, so that a new epoch has begun.
        """
        began = at if self.began is None else self.began
        again = {i for i, start in starts.items() if abs(start - self._starts.get(i, start)) > _SAME_START_S}
        reset = False
        for sample in samples:
            before = self._series.get(sample.series)
            if before is not None:
                had = before.last
                back = sample.value < had or sample.instance in again
                reset = reset or back
            else:
                had = earlier.get(sample.series, 0.0) if self.began is not None else 0.0
                back = sample.value < had or starts.get(sample.instance, -math.inf) > began
            self.totals[sample.cell] = self.totals.get(sample.cell, 0.0) + sample.value - (0.0 if back else had)
            self._series[sample.series] = _Series(sample.instance, sample.cell, sample.value, at)
        self.began = began
        self._starts |= starts
        self._forget(at)
        self.resets += reset
        return reset

    def _forget(self, at: float) -> None:
        for key in [key for key, series in self._series.items() if at - series.seen > FORGET_AFTER_S]:
            del self._series[key]
        kept = self.instances
        self._starts = {instance: start for instance, start in self._starts.items() if instance in kept}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "v": 1,
            "epoch": self.epoch,
            "resets": self.resets,
            "began": self.began,
            "totals": [[list(cell), total] for cell, total in self.totals.items()],
            "series": [[k, s.instance, list(s.cell), s.last, s.seen] for k, s in self._series.items()],
            "starts": [[list(instance), start] for instance, start in self._starts.items()],
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Accumulator:
        """The inverse of ``to_dict``."""

        def labels(pairs: list[list[str]]) -> Labels:
            return tuple((name, value) for name, value in pairs)

        return cls(
            epoch=str(plain["epoch"]),
            resets=int(plain["resets"]),
            began=plain["began"],
            totals={tuple(cell): float(total) for cell, total in plain["totals"]},
            _series={
                labels(key): _Series(labels(instance), tuple(cell), float(last), float(seen))
                for key, instance, cell, last, seen in plain["series"]
            },
            _starts={labels(instance): float(start) for instance, start in plain["starts"]},
        )
