"""Shares of runs with their Wilson intervals."""

from __future__ import annotations

import math


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval for ``hits`` of ``n``."""
    if n <= 0:
        return 0.0, 1.0
    p = hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def share(hits: int, n: int, digits: int = 1) -> str:
    """``1.5 % (1.3 to 1.8)``."""
    low, high = wilson(hits, n)
    return f"{100 * hits / n:.{digits}f} % ({100 * low:.{digits}f} to {100 * high:.{digits}f})"
