"""Leave out what was measured while somebody else used the machine."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

#: Cores that others may use while something is measured.
FOREIGN = 0.2


def _ours() -> float:
    """Processor seconds of this process and of everything it started, whether it has ended or not."""
    import psutil

    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        total += used.ru_utime + used.ru_stime
    for child in psutil.Process().children(recursive=True):
        try:
            total += sum(child.cpu_times()[:4])
        except psutil.Error:
            continue
    return total


def _busy() -> float:
    """Processor seconds the machine has worked, and those another machine on the same host took."""
    import psutil

    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


@dataclass(frozen=True, slots=True)
class Measured(Generic[T]):
    """What was measured in quiet; with too little of that, everything, and ``quiet`` is False.

    Attributes:
        left_out: measurements made while others used the machine.
    """

    values: list[T]
    left_out: int
    quiet: bool

    def shows(self, met: bool) -> bool | None:
        """What a comparison of these values is worth: nothing, when the machine was not quiet."""
        return met if self.quiet else None

    @property
    def note(self) -> str:
        if not self.quiet:
            return "the machine was not quiet: numbers of a shared machine"
        return f"{self.left_out} left out because others used the machine" if self.left_out else "none left out"


def measure(once: Callable[[int], T], rounds: int, limit_s: float) -> Measured[T]:
    """Call ``once(n)`` until ``rounds`` of its results were measured in quiet, or ``limit_s`` have passed."""
    values: list[T] = []
    everything: list[T] = []
    end = time.monotonic() + limit_s
    while len(values) < rounds and (len(everything) < rounds or time.monotonic() < end):
        began, busy, ours = time.monotonic(), _busy(), _ours()
        found = once(len(values))
        others = ((_busy() - busy) - (_ours() - ours)) / (time.monotonic() - began)
        everything.append(found)
        if os.environ.get("BENCH_TELL"):
            print(f"others: {others:.2f} cores", flush=True)
        if others <= FOREIGN:
            values.append(found)
    enough = len(values) >= min(3, rounds)
    return Measured(values if enough else everything, len(everything) - len(values) if enough else 0, enough)
