"""Values to counts: summaries that add over time and are small enough to be stored at each look."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from windtunnel.stats.betting import FloatArray

LOSS_CELLS = 32


def loss_points() -> FloatArray:
    """Grid for losses scaled to [0, 1], finer near 0 where most losses are."""
    points: FloatArray = (np.arange(LOSS_CELLS + 1) / LOSS_CELLS) ** 2
    return points


def spread(values: FloatArray, points: FloatArray) -> FloatArray:
    """Each value shared between the two grid points around it so that the mean stays exact.

    Args:
        values: shape (n,), finite; values outside the grid are moved to its ends.
        points: shape (P,), rising.

    Returns:
        shape (P,), sums to n.
    """
    counts = np.zeros(len(points))
    if len(values) == 0:
        return counts
    inside = np.clip(values, points[0], points[-1])
    right = np.clip(np.searchsorted(points, inside, side="left"), 1, len(points) - 1)
    share = (inside - points[right - 1]) / (points[right] - points[right - 1])
    np.add.at(counts, right, share)
    np.add.at(counts, right - 1, 1 - share)
    return counts


def quantile_edges(values: FloatArray, cells: int = 10) -> tuple[float, ...]:
    """Upper edges of bins that hold about equally many of ``values``; two outer ones for what was never seen.

    Empty when there are no finite values. Bin i holds ``edges[i-1] < x <= edges[i]``; a last bin is open above.
    """
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if finite.size == 0:
        return ()
    inner = np.quantile(finite, np.arange(0, cells + 1) / cells, method="inverted_cdf")
    below = np.nextafter(inner[0], -np.inf)
    return tuple(float(x) for x in np.unique(np.concatenate([[below], inner])))


def count_numeric(values: FloatArray, edges: Sequence[float]) -> FloatArray:
    """Finite values per bin, shape (len(edges) + 1,)."""
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    places = np.searchsorted(np.asarray(edges, dtype=np.float64), finite, side="left")
    counts: FloatArray = np.bincount(places, minlength=len(edges) + 1).astype(np.float64)
    return counts


def count_categories(values: Sequence[str], categories: Sequence[str]) -> FloatArray:
    """Values per category, shape (len(categories) + 1,); the last counts what is none of them."""
    index = {name: i for i, name in enumerate(categories)}
    counts = np.zeros(len(categories) + 1)
    for value in values:
        counts[index.get(value, len(categories))] += 1
    return counts
