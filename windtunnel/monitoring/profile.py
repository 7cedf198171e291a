"""Summaries of columns that add: a month of windows costs no more than a day (MON-1).

The reference fixes the cells (edges at its quantiles, its categories); each window is counted over
those cells. Two summaries over the same cells are added by adding their counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from windtunnel.errors import DataError

#: Edges of a numeric column: quantiles of the reference. A cell hides at most 1/QUANTILES of a Kolmogorov distance.
QUANTILES = 256
#: Categories kept by name; the rest of the reference is one, ``OTHER``.
CATEGORIES = 1_000
OTHER = "~other"

ColumnKind = Literal["numeric", "categorical"]


@dataclass(frozen=True, slots=True)
class Column:
    """What is known of one column of a set of rows.

    Attributes:
        edges: numeric only; increasing.
        counts: numeric only; ``2 * len(edges) + 1`` cells (see ``windtunnel.stats.distance``).
        categories: categorical only; category text to count.
        truncated: the reference had more categories than are kept; what is unknown counts as ``OTHER``.
        n: rows with a value; ``missing``: rows without one; ``invalid``: those of the missing that held
            something that is no number.
        minimum, maximum, total, squares: of the finite values.
    """

    kind: ColumnKind
    edges: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()
    categories: dict[str, int] = field(default_factory=dict)
    truncated: bool = False
    n: int = 0
    missing: int = 0
    invalid: int = 0
    minimum: float | None = None
    maximum: float | None = None
    total: float = 0.0
    squares: float = 0.0

    @property
    def rows(self) -> int:
        return self.n + self.missing

    @property
    def mean(self) -> float | None:
        return self.total / self.n if self.kind == "numeric" and self.n else None

    @property
    def std(self) -> float | None:
        if self.kind != "numeric" or self.n < 2:
            return None
        return math.sqrt(max(0.0, (self.squares - self.total**2 / self.n) / (self.n - 1)))

    def __add__(self, other: Column) -> Column:
        if self.kind != other.kind or self.edges != other.edges:
            raise ValueError("two summaries add only over the same cells")
        categories = dict(self.categories)
        for name, count in other.categories.items():
            categories[name] = categories.get(name, 0) + count
        return Column(
            kind=self.kind,
            edges=self.edges,
            counts=tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)),
            categories=categories,
            truncated=self.truncated,
            n=self.n + other.n,
            missing=self.missing + other.missing,
            invalid=self.invalid + other.invalid,
            minimum=_least(min, self.minimum, other.minimum),
            maximum=_least(max, self.maximum, other.maximum),
            total=self.total + other.total,
            squares=self.squares + other.squares,
        )

    def to_dict(self) -> dict[str, Any]:
        plain = asdict(self)
        plain["edges"], plain["counts"] = list(self.edges), list(self.counts)
        return plain

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Column:
        known = {key: plain[key] for key in cls.__dataclass_fields__ if key in plain}
        known["edges"] = tuple(float(edge) for edge in known.get("edges", ()))
        known["counts"] = tuple(int(count) for count in known.get("counts", ()))
        return cls(**known)


def _least(choose: Any, a: float | None, b: float | None) -> float | None:
    known = [value for value in (a, b) if value is not None]
    return float(choose(known)) if known else None


def cells_of(values: Any, kind: ColumnKind) -> Column:
    """An empty summary whose cells fit ``values`` (a Series or array): the reference's own cells.

    Raises:
        DataError: a numeric column holds no number at all.
    """
    import numpy as np

    if kind == "categorical":
        counts = _categories(values)
        kept = sorted(counts, key=lambda name: (-counts[name], name))[:CATEGORIES]
        return Column("categorical", categories=dict.fromkeys(sorted(kept), 0), truncated=len(counts) > len(kept))
    numbers, _ = _numbers(values)
    finite = numbers[np.isfinite(numbers)]
    if not finite.size:
        raise DataError("a numeric column of the reference holds no number", hint="check the feature's kind")
    # Quantiles that are values of the sample (no interpolation), so that atoms become edges.
    edges = np.unique(np.quantile(finite, np.linspace(0, 1, QUANTILES + 1), method="inverted_cdf"))
    return Column("numeric", edges=tuple(float(edge) for edge in edges), counts=(0,) * (2 * len(edges) + 1))


def count(values: Any, cells: Column) -> Column:
    """``values`` (a Series or array) counted over the cells of ``cells``, whose own counts do not matter."""
    import numpy as np

    if cells.kind == "categorical":
        counts = _categories(values)
        if cells.truncated:
            other = sum(number for name, number in counts.items() if name not in cells.categories)
            counts = {name: number for name, number in counts.items() if name in cells.categories}
            counts[OTHER] = counts.get(OTHER, 0) + other
        n = sum(counts.values())
        full = dict.fromkeys(cells.categories, 0) | counts
        return replace(cells, categories=full, n=n, missing=len(values) - n, invalid=0)
    numbers, invalid = _numbers(values)
    present = numbers[~np.isnan(numbers)]
    edges = np.asarray(cells.edges)
    left = np.searchsorted(edges, present, side="left")
    on_edge = edges[np.minimum(left, edges.size - 1)] == present
    counted = np.bincount(2 * left + on_edge, minlength=2 * edges.size + 1)
    finite = present[np.isfinite(present)]
    return replace(
        cells,
        counts=tuple(counted.tolist()),
        n=int(present.size),
        missing=int(numbers.size - present.size),
        invalid=invalid,
        minimum=float(finite.min()) if finite.size else None,
        maximum=float(finite.max()) if finite.size else None,
        total=float(finite.sum()),
        squares=float((finite**2).sum()),
    )


def summarize(values: Any, kind: ColumnKind) -> Column:
    """``values`` counted over their own cells."""
    return count(values, cells_of(values, kind))


def _numbers(values: Any) -> tuple[Any, int]:
    """Floats with NaN for what is missing or no number, and how many were no number."""
    import numpy as np
    import pandas as pd

    series = values if isinstance(values, pd.Series) else pd.Series(values)
    if series.dtype == np.float64:
        return series.to_numpy(), 0
    if pd.api.types.is_numeric_dtype(series.dtype):
        return series.to_numpy(dtype=np.float64, na_value=np.nan), 0
    numbers = pd.to_numeric(series, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    return numbers, int((np.isnan(numbers) & series.notna().to_numpy()).sum())


def _categories(values: Any) -> dict[str, int]:
    """Counts by category text; missing values are left out."""
    import pandas as pd

    series = values if isinstance(values, pd.Series) else pd.Series(values)
    counts: dict[str, int] = {}
    for value, number in series.value_counts(dropna=True).items():
        name = category(value)
        counts[name] = counts.get(name, 0) + int(number)
    return counts


def category(value: Any) -> str:
    """One text per category, whether a value came as True, 1, 1.0 or numpy's: a Parquet file may widen it."""
    if isinstance(value, (bool, int, float)) or hasattr(value, "dtype"):
        number = float(value)
        return str(int(number)) if number.is_integer() else repr(number)
    text = str(value)
    # A boolean column that was widened to text says "True".
    return {"true": "1", "false": "0"}.get(text.lower(), text)


def kind_of(values: Iterable[Any]) -> ColumnKind:
    """Numeric if a Series or array holds numbers (booleans are categories)."""
    import pandas as pd

    dtype = values.dtype if isinstance(values, pd.Series) else pd.Series(values).dtype
    numeric = pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype)
    return "numeric" if numeric else "categorical"
