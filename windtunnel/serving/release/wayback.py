"""The way back, checked beside a running release: a look asks what is known and never waits (ROL-12).

A check reads the champion's copy and makes one real inference, so it takes as long as that takes. It runs in a thread
of its own, again a minute after the last has begun, and never for more than a twentieth of the time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from windtunnel.errors import WindtunnelError

if TYPE_CHECKING:
    from windtunnel.home import Home
    from windtunnel.serving.backend import ServingBackend

log = logging.getLogger(__name__)

#: Seconds between the beginnings of two checks of one release.
EVERY_S = 60.0
#: A check that takes long is made more rarely: it has this share of the time at most.
SHARE = 0.05
#: What was known of a release that nobody has asked about for so long is forgotten (seconds).
FORGET_S = 3600.0


@dataclass(slots=True)
class _Known:
    problems: tuple[str, ...] = ()
    busy: bool = False
    due: float = 0.0
    asked: float = 0.0


class WayBack:
    """What is known of the way back of each release this process watches. Usable from many threads.

    Args:
        run: runs a check somewhere else and returns at once; a pool of two threads unless told.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        run: Callable[[Callable[[], None]], object] | None = None,
        *,
        every_s: float = EVERY_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._run = run or ThreadPoolExecutor(max_workers=2, thread_name_prefix="windtunnel-wayback").submit
        self._every_s = every_s
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], _Known] = {}

    def problems(self, key: tuple[str, str], check: Callable[[], list[str]]) -> tuple[str, ...]:
        """Why the way back did not work when it was last checked; empty when it did, or nobody has checked yet.

        Begins a check when one is due.

        Args:
            key: home and rollout.
            check: ``ServingBackend.check_target`` of the model.
        """
        now = self._clock()
        with self._lock:
            known = self._known.setdefault(key, _Known())
            known.asked = now
            begin = not known.busy and now >= known.due
            if begin:
                known.busy = True
                self._forget(now)
        if begin:
            self._run(lambda: self._check(known, check))
        return known.problems

    def _check(self, known: _Known, check: Callable[[], list[str]]) -> None:
        began = self._clock()
        try:
            found = tuple(check())
        except WindtunnelError as error:
            found = (f"it cannot be checked: {error.message}",)
        except Exception as error:  # a check that cannot be made has not succeeded
            log.exception("the way back cannot be checked")
            found = (f"it cannot be checked: {type(error).__name__}: {error}",)
        took = self._clock() - began
        with self._lock:
            known.problems = found
            known.due = began + max(self._every_s, took / SHARE)
            known.busy = False

    def _forget(self, now: float) -> None:
        for key in [key for key, one in self._known.items() if not one.busy and now - one.asked > FORGET_S]:
            del self._known[key]


_here = WayBack()


def known(home: Home, backend: ServingBackend, model: str, rollout_id: str) -> str | None:
    """Why the champion could not take over, as far as it is known in this process; None when it could, or when that
    is not known yet (a release checks it before its first step)."""
    found = _here.problems((str(home.root), rollout_id), lambda: backend.check_target(model))
    return "; ".join(found) or None
