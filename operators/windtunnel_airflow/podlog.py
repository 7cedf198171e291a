"""The log of a container that runs, read piece by piece and each line once.

The API gives whole seconds only (``sinceSeconds``), and the kubelet's clock is not ours: what was read before is known
by the time that the container's runtime wrote before each line.
"""

from __future__ import annotations

import math
import re
import time

#: ``2026-11-21T10:00:00.123456789Z text``, as the runtime writes it (CRI logging format).
_LINE = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?(Z|[+-]\d\d:\d\d) ?(.*)", re.DOTALL)


class Reader:
    """Which lines are new."""

    def __init__(self) -> None:
        self._last: tuple[bytes, int] | None = None
        self._same = 0
        self._at: float | None = None

    def since(self) -> int | None:
        """For the next request: seconds that surely hold all that is new; None: everything."""
        if self._at is None:
            return None
        return math.ceil(time.monotonic() - self._at) + 5

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
            self._last = key
            out.append(found[4].decode("utf-8", "backslashreplace"))
        return out
