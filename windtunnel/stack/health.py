"""Healthy, degraded, unhealthy or unknown, and why. Decisions over plain values; asking is ``probes``'s part."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """From best to worst as far as an operator's sleep goes; unknown is not good."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    UNKNOWN = "unknown"
    UNHEALTHY = "unhealthy"


_ORDER = list(Level)


def worst(levels: Iterable[Level]) -> Level:
    """The worst of some levels; unknown when there is none."""
    found = list(levels)
    return max(found, key=_ORDER.index) if found else Level.UNKNOWN


@dataclass(frozen=True, slots=True)
class Limits:
    """Shares of a machine in percent, times in seconds."""

    cpu: tuple[float, float] = (70.0, 90.0)
    memory: tuple[float, float] = (80.0, 95.0)
    disk: tuple[float, float] = (80.0, 95.0)
    answer_s: float = 5.0
    beat_s: float = 30.0
    stale_s: float = 300.0
    grace_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a component said when asked.

    Attributes:
        ok: it answered, and said it is well.
        text: what it said instead.
        beat_age_s: age of its last heartbeat, where it has one.
    """

    ok: bool
    text: str = ""
    beat_age_s: float | None = None


def judge(
    state: str | None, message: str, uptime_s: float | None, answer: Answer | None, limits: Limits | None = None
) -> tuple[Level, str]:
    """Level and reason of one supervised program.

    Args:
        state: supervisord's word for it; None when supervisord cannot be asked.
        message: supervisord's explanation.
        uptime_s: how long the process has lived.
        answer: what it said itself; None when it has no way to be asked.
    """
    limits = limits or Limits()
    if state is None:
        return Level.UNKNOWN, message or "the supervisor does not know it"
    if state == "STARTING":
        return Level.DEGRADED, "starting"
    if state != "RUNNING":
        return Level.UNHEALTHY, f"{state.lower()}: {message}".rstrip(": ")
    if answer is None:
        return Level.HEALTHY, "running"
    young = uptime_s is not None and uptime_s < limits.grace_s
    age = answer.beat_age_s
    if age is not None and age > limits.stale_s and not young:
        return Level.UNKNOWN, f"last heartbeat {age:.0f} s ago"
    if not answer.ok:
        if young:
            return Level.DEGRADED, f"starting: {answer.text}"
        return Level.UNHEALTHY, answer.text
    if age is not None and age > limits.beat_s:
        return Level.DEGRADED, f"last heartbeat {age:.0f} s ago"
    return Level.HEALTHY, answer.text or "answers"


def share(what: str, percent: float | None, bounds: tuple[float, float]) -> tuple[Level, str]:
    """Level of a resource from the share in use."""
    if percent is None or percent != percent:
        return Level.UNKNOWN, f"{what} cannot be measured"
    if percent >= bounds[1]:
        return Level.UNHEALTHY, f"{what} {percent:.0f} % in use, limit {bounds[1]:.0f} %"
    if percent >= bounds[0]:
        return Level.DEGRADED, f"{what} {percent:.0f} % in use, warning from {bounds[0]:.0f} %"
    return Level.HEALTHY, f"{what} {percent:.0f} % in use"
