"""The reference: what it keeps, and that it comes back as it was."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from windtunnel.errors import DataError
from windtunnel.home import Home
from windtunnel.monitoring import profile, reference
from windtunnel.spec import Model


def describe(*features: Any) -> Model:
    return Model.model_validate(
        {
            "name": "m",
            "owner": "o",
            "data": {"source": "x.csv", "time": "t", "target": "y", "features": list(features)},
            "training": {"entry_point": "a:b"},
        }
    )


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "a": np.where(generator.uniform(size=7_000) < 0.1, np.nan, generator.normal(size=7_000)),
            "c": generator.choice(["x", "y"], 7_000),
            "y": generator.normal(size=7_000),
        }
    )
    model = describe("a", {"name": "c", "kind": "categorical"})
    made = reference.build(
        model, "3", rows, rows["y"].to_numpy(), {"metrics": {"mae": {"value": 1.5}, "rmse": float("nan")}}, "sha256:x"
    )
    home = Home(tmp_path)
    path = reference.save(home, made)
    assert path == tmp_path / "monitoring" / "m" / "reference-3.json"
    again = reference.load(home, "m", "3")
    assert again == made
    assert again.loss("mae") == 1.5
    assert again.loss("rmse") is None
    sample = reference.load_sample(home, "m", "3")
    assert len(sample) == reference.SAMPLE_ROWS
    assert list(sample.columns) == ["a", "c", "y", "prediction"]
    assert (sample["prediction"] == sample["y"]).all()  # rows and predictions of equal length stay paired
    assert path.stat().st_size < 100_000
    assert not list(path.parent.glob(".*"))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing: a"):
        reference.build(describe("a"), "1", pd.DataFrame({"b": [1.0]}), None, {}, "d")
    with pytest.raises(DataError, match="feature 'a'"):
        reference.build(describe("a"), "1", pd.DataFrame({"a": ["x", "z"]}), None, {}, "d")
    with pytest.raises(DataError, match="no reference for m version 9"):
        reference.load(Home(tmp_path), "m", "9")


values = st.lists(st.one_of(st.floats(allow_nan=True, allow_infinity=True, width=32), st.just(0.0)), min_size=1)


@given(values, values, values)
def test_every_value_is_counted_once_and_counts_add(own: list[float], left: list[float], right: list[float]) -> None:
    """DEMAND MON-1: mergeable summaries."""
    if not np.isfinite(own).any():
        return
    cells = profile.summarize(np.array(own), "numeric")
    a, b = profile.count(np.array(left), cells), profile.count(np.array(right), cells)
    whole = profile.count(np.array([*left, *right]), cells)
    assert sum(whole.counts) + whole.missing == len(left) + len(right)
    assert (a + b).counts == whole.counts
    assert (a + b).missing == whole.missing
    assert (a + b).minimum == whole.minimum


@given(st.lists(st.integers(-3, 3), min_size=1), st.lists(st.integers(-5, 5), min_size=1))
def test_cells_give_the_full_kolmogorov_distance_of_atoms(own: list[int], other: list[int]) -> None:
    from scipy.stats import ks_2samp

    from windtunnel.stats.distance import kolmogorov

    cells = profile.summarize(np.array(own, float), "numeric")
    found = kolmogorov(cells.counts, profile.count(np.array(other, float), cells).counts)
    assert found == pytest.approx(ks_2samp(own, other).statistic)


def test_too_many_categories_are_one_other() -> None:
    own = profile.summarize(pd.Series([f"id{i}" for i in range(3_000)]), "categorical")
    assert len(own.categories) == profile.CATEGORIES + 1
    other = profile.count(pd.Series(["nobody"] * 5), own)
    assert other.categories[profile.OTHER] == 5


def test_ten_million_rows_are_one_small_summary() -> None:
    """DEMAND MON-3: bounded memory, by chunks."""
    generator = np.random.default_rng(0)
    cells = profile.summarize(generator.normal(size=10_000), "numeric")
    total = profile.count(np.empty(0), cells)
    for _ in range(10):
        total = total + profile.count(generator.normal(size=100_000), cells)
    assert total.n == 1_000_000
    assert len(total.counts) == 2 * len(cells.edges) + 1


def test_importing_monitoring_is_cheap() -> None:
    """Heavy libraries are imported by the steps that need them."""
    import subprocess
    import sys

    assert importlib.util.find_spec("evidently")
    heavy = (
        "[m for m in ('evidently', 'great_expectations', 'mlflow', 'pandas', 'scipy', 'sklearn') if m in sys.modules]"
    )
    code = f"import sys; import windtunnel.monitoring.watch, windtunnel.data.checks; print({heavy})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
