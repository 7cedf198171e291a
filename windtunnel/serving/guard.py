"""The guard: takes a candidate nobody watches to 0, and settles a promotion whose holder died.

A process of its own, outside Airflow, so that a rollout cannot outlive those who watch it (ROL-6). Its only
powers: set candidates to 0 when their lease has ended, finish or undo a promoting intent, and let the backend
unload versions whose keep-warm time is over. It needs no registry and no Airflow for the first.

**Clocks.** A lease is written as wall time, because holder and guard are different processes. What it
means is a duration. So when the guard first sees a lease it notes how long it still has, and from then on
lets its own monotonic clock run: set the wall clock forward by hours and a live rollout is not harmed, set it
back and a dead one is not kept alive. Only a lease met for the first time is judged by the wall clock alone.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from windtunnel.errors import NotFoundError, RegistryError, UnavailableError
from windtunnel.home import Home
from windtunnel.names import MODEL_NAME
from windtunnel.serving import atomic, intent
from windtunnel.serving.backend import Observed
from windtunnel.serving.intent import Intent

log = logging.getLogger("windtunnel.guard")

BY = "guard"


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
    """When a lease with this end was first seen. A renewed lease is another one."""

    lease_until: float
    rollout_id: str | None
    at: Clock

    @property
    def remaining(self) -> float:
        """Seconds it still had then; negative when it had already ended."""
        return self.lease_until - self.at.wall


def sight(observed: Observed, now: Clock, before: Sighting | None) -> Sighting | None:
    """The sighting to keep: ``before`` while the lease is the same one, else a new one; None without lease."""
    if observed.lease_until is None or observed.aborted is not None:
        return None
    if before and (before.lease_until, before.rollout_id) == (observed.lease_until, observed.rollout_id):
        return before
    return Sighting(observed.lease_until, observed.rollout_id, now)


def overdue(observed: Observed, now: Clock, seen: Sighting | None = None) -> str | None:
    """Why the candidates of ``observed`` must go to 0 now; None when they need not.

    Args:
        seen: the first sighting of the present lease; without one the wall clock alone decides.
    """
    if observed.lease_until is None or observed.aborted is not None:
        return None
    seen = sight(observed, now, seen)
    assert seen is not None
    over = (now.monotonic - seen.at.monotonic) - seen.remaining
    if over < 0:
        return None
    return (
        f"lease ended {over:.1f} s ago and nobody renewed it"
        f" (rollout {observed.rollout_id or 'unknown'}, token {observed.token})"
    )


@dataclass(frozen=True, slots=True)
class Standing:
    """What the registry says of a promotion: ``candidate_state`` is the version's state there."""

    champion: str | None
    candidate_state: str


Settlement = Literal["wait", "finish", "undo", "drop"]

#: States of a version that was committed as champion, even if another one has followed it since.
_COMMITTED = frozenset({"champion", "archived"})


def settle(found: Intent, observed: Observed, lease_over: bool, standing: Standing | None) -> Settlement:
    """What to do with a promoting intent.

    - ``wait``: its holder is alive, or the registry cannot be asked. Traffic stays where it is: the candidate
      has passed every gate, and going back blindly could leave registry and traffic apart.
    - ``finish``: the registry has committed; the traffic becomes the candidate's for good.
    - ``undo``: the registry has not; rollout rolled back there first, then traffic.
    - ``drop``: the intent is of another rollout than the one that has the traffic; it means nothing any more.

    Args:
        lease_over: the holder's lease has ended, or there is none left.
        standing: None when the registry does not answer.
    """
    if observed.rollout_id is not None and (observed.rollout_id != found.rollout_id or observed.token > found.token):
        # A newer holder of the same rollout settles it by itself; an intent of an older rollout is void.
        return "wait" if observed.rollout_id == found.rollout_id and not lease_over else (
            "drop" if observed.rollout_id != found.rollout_id else _by_registry(standing)
        )
    if not lease_over and observed.aborted is None:
        return "wait"
    return _by_registry(standing)


def _by_registry(standing: Standing | None) -> Settlement:
    if standing is None:
        return "wait"
    return "finish" if standing.candidate_state in _COMMITTED else "undo"
