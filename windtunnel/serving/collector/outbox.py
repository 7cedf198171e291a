"""Halves on their way to the collector that is at home for their prediction. Pure; the keeper puts it on the disk.

A half is in one of these states:

- it is *young*: the flush that puts it here is not done, and a kill would bring it back to where it waited. Nothing
  is done about it;
- it waits for its home, which may be away;
- it is *flying*: it is being sent, and nothing is decided about it;
- *gone*: its home has it on its disk. The next flush takes it out, and a *hold* keeps the watermark back until the
  home's own watermark speaks of it;
- *back*: its home did not take it until the window had passed, or this collector is its home by now. The next flush
  takes it out, to be published here.

Where the home may have a half without having said so (the connection broke after it was sent, or this process was
killed), it is *unsure*: published here as well, it would be two rows. It waits ``unsure_s`` longer.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum

from windtunnel.serving.collector.events import Half


class Said(Enum):
    """What a try to hand something over came to."""

    TOOK = "took"  #: it is on the home's disk
    NOT = "not"  #: it certainly did not take it
    UNSURE = "unsure"  #: nobody knows


@dataclass(slots=True)
class _Kept:
    half: Half
    home: str
    young: bool = True
    tried: bool = False
    unsure: bool = False
    flying: bool = False
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Hold:
    """The watermark of ``model`` stays at ``at`` or before it until ``until`` (seconds since the epoch)."""

    model: str
    at: float
    until: float


class Outbox:
    """What one collector has to hand over."""

    def __init__(self) -> None:
        self._kept: dict[bytes, _Kept] = {}
        self._holds: list[Hold] = []

    def put(self, half: Half, home: str) -> None:
        """A young one."""
        self._kept[half.key] = _Kept(half, home)

    def found(self, half: Half, home: str) -> None:
        """One that a predecessor left, who may have sent it."""
        self._kept[half.key] = _Kept(half, home, young=False, unsure=True)

    def ready(self, keys: Iterable[bytes]) -> None:
        """The flush that put these here is done."""
        for key in keys:
            if key in self._kept:
                self._kept[key].young = False

    def pop(self, keys: Iterable[bytes]) -> list[Half]:
        """Take these out, those that are there."""
        return [self._kept.pop(key).half for key in keys if key in self._kept]

    def fly(self, home: str, count: int, size: int) -> list[Half]:
        """Halves to be sent to ``home`` next: up to ``count``, and ``size`` bytes beyond the first."""
        found: list[Half] = []
        for kept in self._kept.values():
            if kept.home != home or kept.young or kept.flying or kept.gone:
                continue
            size -= kept.half.size
            if found and size < 0:
                break
            kept.flying = True
            found.append(kept.half)
            if len(found) >= count:
                break
        return found

    def landed(self, keys: Iterable[bytes], said: Said, until: float) -> None:
        """What a try came to.

        Args:
            until: how long a hold is kept for what was taken.
        """
        oldest: dict[str, float] = {}
        for kept in [self._kept[key] for key in keys if key in self._kept]:
            kept.flying, kept.tried = False, True
            kept.unsure = kept.unsure or said is Said.UNSURE
            if said is Said.TOOK:
                kept.gone = True
                oldest[kept.half.model] = min(kept.half.at, oldest.get(kept.half.model, kept.half.at))
        self._holds += [Hold(model, at, until) for model, at in oldest.items()]

    def send_to(self, key: bytes, home: str, others: Collection[str]) -> None:
        """A half that waits for a home among ``others``, and certainly is not there, goes to ``home`` instead."""
        kept = self._kept[key]
        if kept.home in others and not (kept.unsure or kept.flying or kept.gone):
            kept.home = home

    def settle(self, cutoff: float, unsure: float, here: str) -> tuple[list[bytes], list[bytes]]:
        """Keys of those that are gone, and of those that come back.

        Args:
            cutoff: what came before it has waited enough for a home that did not take it.
            unsure: the same, for what the home may have.
            here: this collector's name.
        """
        resting = [kept for kept in self._kept.values() if not (kept.young or kept.flying or kept.gone)]
        back = [
            kept.half
            for kept in resting
            if kept.home == here or (kept.tried and kept.half.came < (unsure if kept.unsure else cutoff))
        ]
        # The other half of one that comes back comes along: here they meet.
        pairs, known = {half.pair for half in back}, {half.key for half in back}
        back += [one.half for one in resting if one.half.pair in pairs and one.half.key not in known and not one.unsure]
        return [key for key, kept in self._kept.items() if kept.gone], [half.key for half in back]

    def hold(self, hold: Hold) -> None:
        self._holds.append(hold)

    def release(self) -> None:
        """Forget the holds: what was handed over is in its home's watermark."""
        self._holds = []

    def holds(self, now: float) -> list[Hold]:
        """Those that are kept still."""
        self._holds = [hold for hold in self._holds if hold.until > now]
        return list(self._holds)

    def oldest(self, now: float) -> dict[str, float]:
        """Model -> the moment at which its watermark has to stay."""
        found: dict[str, float] = {}
        for model, at in [(kept.half.model, kept.half.at) for kept in self._kept.values() if not kept.gone] + [
            (hold.model, hold.at) for hold in self.holds(now)
        ]:
            found[model] = min(at, found.get(model, at))
        return found

    def halves(self) -> list[Half]:
        return [kept.half for kept in self._kept.values()]

    @property
    def waiting(self) -> int:
        """Halves that no home has taken yet."""
        return sum(not kept.gone for kept in list(self._kept.values()))

    @property
    def held_bytes(self) -> int:
        return sum(kept.half.size for kept in list(self._kept.values()))
