"""How far apart two samples are, and whether chance alone would put them there. Counts in, numbers out.

Numeric samples come as counts over ``cells``: for edges ``e0 < e1 < ...`` the cells are
``(-inf, e0)``, ``{e0}``, ``(e0, e1)``, ``{e1}``, ... ``(ek, inf)``. Each edge is a cell of its own, so
an atom (all zeros, say) is told from what lies just beside it, and the Kolmogorov distance over
cells is the distance of the full samples but for what happens inside one open cell.

Every test here is meant for very small levels: a month of windows shares one small budget of
false alarms. So the tests are the ones whose tails stay honest there (tests/stats/test_distance.py):

* ``kolmogorov_p``: Massart's constant in the Dvoretzky-Kiefer-Wolfowitz inequality (Ann. Probab. 18,
  1990), with the effective sample size of two samples; merging values into cells only lowers the distance.
* ``counts_p``: Pearson's statistic alone gives up to ten times the stated false alarms at 2e-5
  with expected counts of five, the likelihood ratio G up to twice; the larger of the two p-values
  keeps the level. Rare categories are pooled, by their pooled count, never by which side they are
  on, and tested exactly (hypergeometric).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Expected count, in the smaller sample, from which a category stands by itself in a chi-squared test (Cochran 1954).
DENSE = 5.0

Counts = Sequence[int] | NDArray[np.int64] | NDArray[np.float64]


def _pair(a: Counts, b: Counts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    left, right = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if left.shape != right.shape or left.ndim != 1:
        raise ValueError(f"two samples over the same cells are needed, found shapes {left.shape} and {right.shape}")
    if left.size and (left.min() < 0 or right.min() < 0):
        raise ValueError("counts cannot be negative")
    return left, right


def _shares(a: Counts, b: Counts, smooth: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    left, right = _pair(a, b)
    if left.sum() == 0 or right.sum() == 0:
        raise ValueError("a distance needs at least one observation on each side")
    left, right = left + smooth, right + smooth
    return left / left.sum(), right / right.sum()


# -- distances


def kolmogorov(a: Counts, b: Counts) -> float:
    """Largest difference of the two distribution functions at any cell's bound, 0 to 1."""
    p, q = _shares(a, b, 0.0)
    return float(min(1.0, np.abs(np.cumsum(p) - np.cumsum(q)).max()))


def total_variation(a: Counts, b: Counts) -> float:
    """Share of the observations that would have to change their cell, 0 to 1."""
    p, q = _shares(a, b, 0.0)
    return float(min(1.0, 0.5 * np.abs(p - q).sum()))


def psi(a: Counts, b: Counts) -> float:
    """Population stability index of ``b`` against ``a``; 0.1 and 0.25 are the customary bounds over about ten cells.

    Half an observation is added to each cell, so that an empty cell gives a large, finite number.
    """
    p, q = _shares(a, b, 0.5)
    return float(((q - p) * np.log(q / p)).sum())


def kullback_leibler(a: Counts, b: Counts) -> float:
    """Divergence of ``b`` from ``a`` in bits, half an observation added to each cell."""
    p, q = _shares(a, b, 0.5)
    return float((q * np.log2(q / p)).sum())


def jensen_shannon(a: Counts, b: Counts) -> float:
    """Jensen-Shannon distance (the square root of the divergence in bits), 0 to 1."""
    p, q = _shares(a, b, 0.0)
    mid = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(p > 0, p * np.log2(p / mid), 0.0).sum()
        right = np.where(q > 0, q * np.log2(q / mid), 0.0).sum()
    return float(math.sqrt(min(1.0, max(0.0, (left + right) / 2))))


def wasserstein(edges: Sequence[float], a: Counts, b: Counts) -> float:
    """Area between the two distribution functions from the first edge to the last, in the values' own unit.

    What lies outside the edges counts as lying at the nearest one: a lower bound of the full distance there.
    """
    p, q = _shares(a, b, 0.0)
    if p.size != 2 * len(edges) + 1:
        raise ValueError(f"{len(edges)} edges make {2 * len(edges) + 1} cells, found {p.size}")
    gap = np.abs(np.cumsum(p) - np.cumsum(q))[1:-1]
    # Inside an open cell the difference goes from its value at the left edge to its value at the right edge.
    after, before = gap[0:-1:2], gap[1::2]
    return float((np.diff(np.asarray(edges, dtype=np.float64)) * (after + before) / 2).sum())


def merge_cells(reference: Counts, groups: int) -> NDArray[np.int64]:
    """For each cell the number of its group: neighbours joined until a group holds about 1/groups of ``reference``."""
    counts = np.asarray(reference, dtype=np.float64)
    total = counts.sum()
    if total == 0:
        return np.zeros(counts.size, dtype=np.int64)
    middle = (np.cumsum(counts) - counts / 2) / total
    raw = np.minimum((middle * groups).astype(np.int64), groups - 1)
    return np.unique(raw, return_inverse=True)[1].astype(np.int64)


def group(counts: Counts, groups: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum ``counts`` by the group numbers of ``merge_cells``."""
    sums = np.zeros(int(groups.max(initial=0)) + 1, dtype=np.float64)
    np.add.at(sums, groups, np.asarray(counts, dtype=np.float64))
    return sums


# -- tests


def effective(n: float, m: float) -> float:
    """Effective size of two samples: one sample of this size against a known distribution is as sure."""
    return n * m / (n + m) if n > 0 and m > 0 else 0.0


def kolmogorov_p(distance: float, n: float, m: float) -> float:
    """P-value of a Kolmogorov distance between samples of ``n`` and ``m``; ties and cells only raise it."""
    return min(1.0, 2.0 * math.exp(-2.0 * effective(n, m) * distance**2))


def detectable(level: float, n: float, m: float) -> float:
    """Smallest Kolmogorov distance whose p-value reaches ``level``; above 1 means: none can."""
    size = effective(n, m)
    return math.sqrt(math.log(2.0 / level) / (2.0 * size)) if size > 0 else math.inf


def counts_p(a: Counts, b: Counts) -> float:
    """P-value of two samples over the same unordered categories coming from one distribution.

    Args:
        a, b: counts by category, in the same order. Empty categories do not matter.

    Returns 1.0 where the pooled counts leave nothing to compare (one category only).
    """
    left, right = _pair(a, b)
    n, m = left.sum(), right.sum()
    if n == 0 or m == 0:
        raise ValueError("a test needs at least one observation on each side")
    pooled = left + right
    keep = pooled > 0
    left, right, pooled = left[keep], right[keep], pooled[keep]
    smaller = min(n, m) / (n + m)
    dense = pooled * smaller >= DENSE
    rare = float(pooled[~dense].sum())
    rare_left = float(left[~dense].sum())
    if rare * smaller >= DENSE:  # together the rare ones are one dense category
        left = np.append(left[dense], rare_left)
        right = np.append(right[dense], rare - rare_left)
        return _chi_squared_p(left, right)
    parts = []
    if dense.sum() > 1:
        parts.append(_chi_squared_p(left[dense], right[dense]))
    if rare > 0:
        parts.append(hypergeometric_p(int(rare_left), int(rare), int(n), int(m)))
    return min(1.0, len(parts) * min(parts)) if parts else 1.0


def _chi_squared_p(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    """The larger p-value of Pearson's statistic and the likelihood ratio."""
    from scipy.special import chdtrc

    n, m = left.sum(), right.sum()
    pooled = left + right
    if left.size < 2 or n == 0 or m == 0:
        return 1.0
    expected_left, expected_right = pooled * n / (n + m), pooled * m / (n + m)
    pearson = (((left - expected_left) ** 2) / expected_left + ((right - expected_right) ** 2) / expected_right).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (
            2.0
            * (
                np.where(left > 0, left * np.log(left / expected_left), 0.0)
                + np.where(right > 0, right * np.log(right / expected_right), 0.0)
            ).sum()
        )
    return float(chdtrc(left.size - 1, max(0.0, min(float(pearson), float(ratio)))))


def hypergeometric_p(found: int, total: int, n: int, m: int) -> float:
    """Exact two-sided p-value of ``found`` of ``total`` marked observations lying in the first sample.

    Twice the smaller tail of the hypergeometric distribution (Fisher's exact test, doubled): ``n`` and ``m``
    are the sizes of the samples.
    """
    from scipy.special import gammaln

    def log_choose(top: Any, bottom: Any) -> Any:
        return gammaln(top + 1.0) - gammaln(bottom + 1.0) - gammaln(top - bottom + 1.0)

    low, high = max(0, total - m), min(total, n)
    if not low <= found <= high:
        raise ValueError(f"{found} of {total} cannot lie in a sample of {n} beside one of {m}")
    where = np.arange(low, high + 1, dtype=np.float64)
    logs = log_choose(float(n), where) + log_choose(float(m), total - where) - log_choose(float(n + m), float(total))
    chances = np.exp(logs)
    cut = found - low
    return float(min(1.0, 2.0 * min(chances[: cut + 1].sum(), chances[cut:].sum())))


def benjamini_hochberg(p: Sequence[float], level: float) -> list[bool]:
    """Which of the p-values stand out when all are looked at together (Benjamini and Hochberg 1995).

    No p-value above ``level`` ever does, so each one alone keeps the level; and when nothing has
    changed, the chance that any does is at most ``level`` (Simes), however many there are.
    """
    order = sorted(range(len(p)), key=lambda i: p[i])
    last = 0
    for rank, i in enumerate(order, start=1):
        if p[i] <= level * rank / len(p):
            last = rank
    chosen = set(order[:last])
    return [i in chosen for i in range(len(p))]
