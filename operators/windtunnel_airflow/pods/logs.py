"""The log of a container that runs, read piece by piece and each line once.

The API gives whole seconds only (``sinceSeconds``), and the kubelet's clock is not ours: what was read before is known
by the time that the container's runtime wrote before each line. How far it was read stands on the pod (an annotation),
so that whoever reads on, in another triggerer, does not copy all of it again.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

#: ``2026-11-21T10:00:00.123456789Z text``, as the runtime writes it (CRI logging format).
_LINE = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d) ?(.*)", re.DOTALL)

#: How far its log was read: ``2026-11-21T10:00:00.123456789Z/2``, the last line's time, and how many had that time.
READ = "windtunnel.dev/log-read"
_READ = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)\.(\d{9})(Z|[+-]\d\d:\d\d)/(\d+)")
#: Seconds between two notes of it on the pod: what a triggerer that dies would copy again.
NOTE_S = 120.0
#: Seconds that a node's clock may differ from the API's without a line being lost.
_SKEW_S = 300.0


def read_of(pod: Mapping[str, Any] | None) -> str | None:
    """How far a pod's log was read, by whoever read it before; None: nobody says."""
    found = (((pod or {}).get("metadata") or {}).get("annotations") or {}).get(READ)
    return str(found) if found else None


class Reader:
    """Which lines are new.

    Args:
        position: how far it was read before, as ``position`` said it then; what is none of these is nothing.
    """

    def __init__(self, position: str | None = None) -> None:
        self._last: tuple[bytes, int] | None = None
        self._same = 0
        self._at: float | None = None
        self._zone = b"Z"
        self._before: float | None = None
        self._noted, self._note_at = position, time.monotonic() + NOTE_S
        if (found := _READ.fullmatch(position or "")) is not None:
            try:
                self._before = datetime.fromisoformat(f"{found[1]}{found[3]}").timestamp()
            except ValueError:  # a thirteenth month
                return
            self._last, self._same = (found[1].encode(), int(found[2])), int(found[4])
            self._zone = found[3].encode()

    @property
    def position(self) -> str | None:
        """How far it was read; None: there was nothing yet."""
        if self._last is None:
            return None
        return f"{self._last[0].decode()}.{self._last[1]:09d}{self._zone.decode()}/{self._same}"

    def to_note(self, *, now: bool = False) -> str | None:
        """The position, where it is time to write it down; None: not yet, or nothing is new.

        Args:
            now: nobody reads on here.
        """
        if self.position == self._noted or not (now or time.monotonic() >= self._note_at):
            return None
        self._noted, self._note_at = self.position, time.monotonic() + NOTE_S
        return self._noted

    def since(self, now: float) -> int | None:
        """For the next request: seconds that surely hold all that is new; None: everything.

        Args:
            now: seconds since the epoch, by the API's clock: what was read before may have been read by another
                triggerer, and this one's clock may be minutes behind.
        """
        if self._at is not None:
            return math.ceil(time.monotonic() - self._at) + 5
        if self._before is not None:
            return math.ceil(max(0.0, now - self._before) + _SKEW_S)
        return None

    def asked(self, at: float) -> None:
        """The request whose answer was read began then (``time.monotonic``)."""
        self._at = at

    def new(self, raw: bytes) -> list[str]:
        """The lines of an answer that were in none before."""
        out: list[str] = []
        before, again = self._last, self._same
        lines = raw.split(b"\n")
        if lines and not lines[-1]:
            lines.pop()
        fresh = before is None
        for line in lines:
            found = _LINE.fullmatch(line)
            if found is None:  # not a line of the runtime's: goes with the one before it
                if fresh:
                    out.append(line.decode("utf-8", "backslashreplace"))
                continue
            # A node writes in one time zone: its own words sort as they are.
            key = (found[1], int((found[2] or b"0").ljust(9, b"0")[:9]))
            if before is not None and (key < before or (key == before and again > 0)):
                again -= 1 if key == before else 0
                fresh = False
                continue
            fresh = True
            self._same = self._same + 1 if key == self._last else 1
            self._last, self._zone = key, found[3]
            out.append(found[4].decode("utf-8", "backslashreplace"))
        return out
