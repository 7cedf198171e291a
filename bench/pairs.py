"""Measure two things in turn, A B A B ..., so that a machine that drifts slows both."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pair:
    """Medians of ``a`` and ``b`` in their own unit and the median of the ratios a/b, pair by pair, with its range."""

    a: float
    b: float
    ratio: float
    low: float
    high: float


def paired(a: Callable[[], float], b: Callable[[], float], rounds: int = 7) -> Pair:
    """One warm-up of each, then ``rounds`` pairs."""
    a(), b()
    got = [(a(), b()) for _ in range(rounds)]
    ratios = [x / y for x, y in got]
    return Pair(
        statistics.median(x for x, _ in got),
        statistics.median(y for _, y in got),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
    )


def process_seconds(code: str, env: dict[str, str] | None = None) -> float:
    """Wall seconds of a fresh interpreter that runs ``code``."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, env=env, capture_output=True)
    return time.perf_counter() - began
