"""What one flush does, settled on the disk before any of it is done. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Plan:
    """A flush that is repeated after a kill does the same by it, also where collectors came or went meanwhile.

    Attributes:
        cutoff: halves that came before it have waited enough (seconds since the epoch).
        handed: keys of halves that go to their home.
        gone: keys of halves that their home has taken.
        back: keys of halves that were to be handed over, and are published here.
    """

    cutoff: float
    handed: frozenset[bytes] = frozenset()
    gone: tuple[bytes, ...] = ()
    back: tuple[bytes, ...] = ()

    @property
    def moves(self) -> bool:
        """Whether halves go from one state to another."""
        return bool(self.handed or self.gone or self.back)

    def plain(self) -> dict[str, Any]:
        """JSON-ready values; ``of`` reads them."""
        told: dict[str, Any] = {"cutoff": self.cutoff}
        for name in ("handed", "gone", "back") if self.moves else ():
            told[name] = sorted(key.hex() for key in getattr(self, name))
        return told

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> Plan:
        handed, gone, back = (
            tuple(bytes.fromhex(key) for key in plain.get(name, ())) for name in ("handed", "gone", "back")
        )
        return cls(float(plain["cutoff"]), frozenset(handed), gone, back)
