"""Which window is next? Windows are laid end to end, close in order, and each closes once.

``decide`` is pure. A window closes when the prediction log is complete past its end and lateness; if
the log's writers have gone silent it closes by the clock and is *stale*: judged INCONCLUSIVE, never empty.
After a downtime the missed windows come in order, one per call; a stretch without a single row is one
window, so that a night without traffic is one verdict and not three thousand.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from windtunnel.home import Home
from windtunnel.monitoring import files
from windtunnel.spec import Monitoring


@dataclass(frozen=True, slots=True)
class Window:
    """``start <= time < end``, seconds since the epoch, UTC.

    Attributes:
        stale: the log's writers were silent when it closed: what it shows may not be all.
        empty: no row of the log lies in it; it may then be longer than one window.
        dropped: rows the log says were lost since the window before.
        reason: why it is stale.
    """

    start: float
    end: float
    stale: bool = False
    empty: bool = False
    dropped: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Closing:
    """What is remembered of a window that was judged.

    Attributes:
        version: the champion it was judged for.
        at: when the reaction was decided, seconds since the epoch.
        retrain: it asked for a retraining.
        finding: what its report is about, empty when nothing failed; None when it has no report.
    """

    window: Window
    version: str
    at: float
    retrain: bool = False
    finding: str | None = None


@dataclass(frozen=True, slots=True)
class WindowState:
    """What is known of the windows judged so far: ``HOME/monitoring/MODEL/windows.json``, or objects (``keeping``).

    Attributes:
        closed_end: end of the last window that was judged; None before the first.
        dropped: the log's counter of lost rows when it closed.
        retrain_at, retrain_version: when a retraining was last asked for, and the champion at that time.
        report_at, report_finding: when a report was last written, and of what.
        closed: the newest windows that were judged, ``[start, end, version]``.
    """

    closed_end: float | None = None
    dropped: int = 0
    retrain_at: float | None = None
    retrain_version: str | None = None
    report_at: float | None = None
    report_finding: str | None = None
    closed: tuple[tuple[float, float, str], ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        plain = asdict(self)
        plain["closed"] = [list(entry) for entry in self.closed]
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> WindowState:
        known = {key: plain[key] for key in cls.__dataclass_fields__ if key in plain}
        known["closed"] = tuple((float(a), float(b), str(c)) for a, b, c in known.get("closed", ()))
        return cls(**known)

    def is_closed(self, window: Window) -> bool:
        return self.closed_end is not None and window.end <= self.closed_end

    def close(self, window: Window, version: str, dropped: int | None = None) -> WindowState:
        """The state after ``window`` was judged; the same state when it already was."""
        if self.is_closed(window):
            return self
        return replace(
            self,
            closed_end=window.end,
            dropped=self.dropped + window.dropped if dropped is None else dropped,
            closed=(*self.closed, (window.start, window.end, version))[-KEPT:],
        )

    def after(self, closing: Closing) -> WindowState:
        """The state once a window is closed; the same state when it already was."""
        if self.is_closed(closing.window):
            return self
        state = self.close(closing.window, closing.version)
        if closing.retrain:
            state = replace(state, retrain_at=closing.at, retrain_version=closing.version)
        if closing.finding is not None:
            state = replace(state, report_at=closing.at, report_finding=closing.finding)
        return state


#: How long, at most, silent writers are waited for before a window closes by the clock.
GRACE_S = 60.0
#: Judged windows whose bounds are remembered in the state.
KEPT = 500


def decide(
    state: WindowState,
    spec: Monitoring,
    *,
    watermark: float | None,
    stale: bool,
    dropped: int,
    first_row: float | None,
    now: float,
    reason: str = "",
) -> Window | None:
    """The next window to judge, or None when it is too early.

    Args:
        watermark: event time up to which the log is complete; None when nobody ever wrote.
        stale: the writers are silent (``reason`` says why).
        dropped: rows lost so far, as the log counts them.
        first_row: time of the first row at or after the last closed end (of the whole log, before the
            first window); None when there is none.
        now: the clock.
    """
    length = spec.window.total_seconds()
    lateness = spec.lateness.total_seconds()
    if state.closed_end is None:
        if first_row is None:
            return None  # a model without traffic has no windows yet
        start = math.floor(first_row / length) * length
    else:
        start = state.closed_end
    complete = -math.inf if watermark is None else watermark - lateness
    # Silent writers get a little time to come back (a restarted server publishes what it had).
    by_clock = now - lateness - min(length, GRACE_S) if stale else -math.inf
    limit = max(complete, by_clock)
    if start + length > limit:
        return None
    end = start + length
    empty = first_row is None or first_row >= end
    if empty:
        # Nothing until first_row, or until where the log is complete: whole windows only.
        reach = complete if complete >= end else limit
        until = reach if first_row is None else min(reach, first_row)
        end = start + max(1, math.floor((until - start) / length)) * length
    return Window(
        start=start,
        end=end,
        stale=stale and complete < end,
        empty=empty,
        dropped=max(0, dropped - state.dropped),
        reason=reason if stale and complete < end else "",
    )


def load(home: Home, model: str) -> WindowState:
    """The state on disk; a fresh one when there is none.

    Raises:
        DataError: the file is damaged.
    """
    plain = files.read_json(files.windows_file(home, model))
    return WindowState() if plain is None else WindowState.from_dict(plain)


def save(home: Home, model: str, state: WindowState) -> None:
    """Write the state atomically."""
    files.write_json(files.windows_file(home, model), state.to_dict())
