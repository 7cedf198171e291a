"""Leases: how long a candidate may be exposed without a word from its holder.

A lease is written as wall time, because holder and guard are different processes. What it means is a duration. So
when the guard first sees a lease it notes how long it still has, and from then on lets its own monotonic clock
run: set the wall clock forward by hours and a live rollout is not harmed, set it back and a dead one is not kept
alive. That it never lasts longer than it was given for (``Release.lease_s``) holds whatever the wall clock says.

Nor does it last shorter than the guard itself can know: a lease that has taken the place of another, or of none, was
written after the guard last knew that to be in place, and has its length from then on at least. So a guard whose wall
clock is ahead of the holder's, by however much, harms no release that it sees renewed; and keeps none for longer, for
it was not written before. Only what is met by a guard that has just started is judged by the wall clock alone.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from windtunnel.serving.backend import Observed, Release


@dataclass(frozen=True, slots=True)
class Clock:
    """One reading of both clocks, in seconds."""

    wall: float
    monotonic: float

    @classmethod
    def read(cls) -> Clock:
        return cls(time.time(), time.monotonic())


@dataclass(frozen=True, slots=True)
class Sighting:
    """When a lease with this end was first seen. A renewed lease is another one.

    Attributes:
        longest: seconds that it was given for.
        since: when what it took the place of was last known to be in place, by the clock that nobody sets; None:
            nothing is known of before.
    """

    lease_until: float
    rollout_id: str | None
    at: Clock
    longest: float | None = None
    since: float | None = None

    @property
    def remaining(self) -> float:
        """Seconds it still had then; negative when it had already ended."""
        said = self.lease_until - self.at.wall
        if self.longest is None:
            return said
        said = min(said, self.longest)
        return said if self.since is None else max(said, self.longest - max(0.0, self.at.monotonic - self.since))


class Sightings:
    """What a guard remembers of leases, by model. Usable from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: dict[str, tuple[float, Sighting | None]] = {}

    def of(self, observed: Observed, now: Clock, as_of: float, longest: float | None) -> Sighting | None:
        """The sighting of the lease that was just read; None without one.

        Args:
            now: before it was read.
            as_of: what was read is at least as new as this, by the clock that nobody sets.
            longest: seconds that no lease of this rollout lasts longer than.
        """
        with self._lock:
            since, before = self._last.get(observed.model, (None, None))
            if since is not None and as_of < since:  # somebody else here has read it later, or may have
                return sight(observed, now, before, longest)
            seen = sight(observed, now, before, longest, since)
            self._last[observed.model] = as_of, seen
            return seen


def sight(
    observed: Observed,
    now: Clock,
    before: Sighting | None,
    longest: float | None = None,
    since: float | None = None,
) -> Sighting | None:
    """The sighting to keep: ``before`` while the lease is the same one, else a new one; None without lease.

    Args:
        longest, since: as in ``Sighting``.
    """
    if observed.lease_until is None or observed.aborted is not None:
        return None
    if before and (before.lease_until, before.rollout_id) == (observed.lease_until, observed.rollout_id):
        return before
    return Sighting(observed.lease_until, observed.rollout_id, now, longest, since)


def over_by(observed: Observed, now: Clock, seen: Sighting | None = None) -> float | None:
    """Seconds since the lease ended; None while it lasts, and when there is none.

    Args:
        seen: the first sighting of the present lease; without one the wall clock alone decides.
    """
    seen = sight(observed, now, seen)
    if seen is None:
        return None
    over = (now.monotonic - seen.at.monotonic) - seen.remaining
    return None if over < 0 else over


def overdue(observed: Observed, now: Clock, seen: Sighting | None = None) -> str | None:
    """Why the candidates of ``observed`` must go to 0 now; None when they need not. Arguments as in ``over_by``."""
    over = over_by(observed, now, seen)
    if over is None:
        return None
    return (
        f"lease ended {over:.1f} s ago and nobody renewed it"
        f" (rollout {observed.rollout_id or 'unknown'}, token {observed.token})"
    )


def leased(model: str, release: Release | None) -> Observed:
    """The part of ``Observed`` that the lease is judged by, from the desired state.

    A rollout whose candidates no request can reach harms nobody: its lease is not looked at.
    """
    exposed = release is not None and release.exposed
    return Observed(
        model=model,
        arms={},
        token=release.token if release else 0,
        rollout_id=release.rollout_id if release else None,
        aborted=None,  # an abort takes the lease away
        lease_until=release.lease_until if release and exposed else None,
    )
