"""Weekly windows in which exposure may grow. Pure: the time comes in as an argument."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, slots=True)
class Window:
    """Minutes of the day ``[start, end)`` on some days of the week, by the clocks of a time zone."""

    days: tuple[int, ...]
    start: int
    end: int
    timezone: str

    @classmethod
    def of(cls, days: Iterable[str], start: str, end: str, timezone: str) -> Window:
        """From names of days and ``HH:MM``."""
        return cls(tuple(sorted(_DAYS.index(day) for day in days)), _minutes(start), _minutes(end), timezone)

    def holds(self, now: float) -> bool:
        """Whether ``now`` (seconds since the epoch) lies in it."""
        local = datetime.fromtimestamp(now, UTC).astimezone(ZoneInfo(self.timezone))
        return local.weekday() in self.days and self.start <= 60 * local.hour + local.minute < self.end

    def __str__(self) -> str:
        days = ", ".join(_DAYS[day] for day in self.days)
        return f"{days} {self.start // 60:02d}:{self.start % 60:02d} to {self.end // 60:02d}:{self.end % 60:02d}"


def is_open(windows: Sequence[Window], now: float) -> bool:
    """Whether exposure may grow at ``now``; always when there are no windows."""
    return not windows or any(window.holds(now) for window in windows)


def _minutes(text: str) -> int:
    hours, _, minutes = text.partition(":")
    return 60 * int(hours) + int(minutes)
