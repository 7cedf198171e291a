"""What a collector has counted, over the life of its spool."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from windtunnel.serving.collector.pairing import Tally


@dataclass(slots=True)
class Totals:
    """What was counted up to the last flush that is done.

    Attributes:
        born: milliseconds since the epoch when this spool was made; part of file names, so that a new spool never
            writes over what an earlier one has published.
        rows, dropped, late, seen: by model: rows published, predictions refused, rows that came late, time of the last
            event.
    """

    born: int
    flush: int = 0
    tally: Tally = field(default_factory=Tally)
    rows: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    late: dict[str, int] = field(default_factory=dict)
    seen: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Totals:
        return cls(**{**plain, "tally": Tally(**plain["tally"])})
