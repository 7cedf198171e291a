"""Performance on labelled rows: proven loss, suspicion, and what cannot be said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from windtunnel.evidence import Outcome
from windtunnel.monitoring import performance
from windtunnel.spec import Performance

RULE = Performance(metric="mae", tolerance=0.2, min_coverage=0.5)


def mae(name: str, y: Any, p: Any) -> float:
    assert name == "mae"
    return float(np.abs(np.asarray(y, float) - np.asarray(p, float)).mean())


def frame(n: int, error: float, *, labelled: float = 1.0, seed: int = 1) -> pd.DataFrame:
    """Rows whose mean absolute error is about ``error``."""
    generator = np.random.default_rng(seed)
    truth = generator.normal(0, 1, n)
    rows = pd.DataFrame({"prediction": truth + error * generator.laplace(0, 1, n), "label": truth})
    rows.loc[int(labelled * n) :, "label"] = np.nan
    return rows


def judge(frames: list[pd.DataFrame], reference: float | None = 1.0, **more: Any) -> Any:
    return performance.judge(reference, frames, RULE, 100, compute=mae, **more)


@pytest.mark.parametrize(
    ("name", "frames", "outcome", "words"),
    [
        ("as at evaluation", [frame(2_000, 1.0)], Outcome.PASS, "within the limit 1.2"),
        ("a proven loss", [frame(2_000, 1.6)], Outcome.FAIL, "worse than the limit 1.2"),
        ("beyond, not proven", [frame(300, 1.32)], Outcome.INCONCLUSIVE, "not for sure"),
        ("proven over a longer span", [frame(150, 1.0), frame(5_000, 1.5)], Outcome.FAIL, "5000 labelled rows"),
        ("too few labels", [frame(2_000, 1.6, labelled=0.01)], Outcome.INCONCLUSIVE, "20 of 2000 rows have a label"),
        ("too little coverage", [frame(2_000, 1.6, labelled=0.3)], Outcome.INCONCLUSIVE, "30% of 2000 rows"),
        ("the longer span has the labels", [frame(50, 1.0), frame(2_000, 1.0)], Outcome.PASS, "2000 labelled rows"),
        ("no rows", [frame(0, 1.0)], Outcome.INCONCLUSIVE, "0 of 0"),
    ],
)
def test_judgement(name: str, frames: list[pd.DataFrame], outcome: Outcome, words: str) -> None:
    """DEMAND MON-5: late and partial labels, coverage and intervals."""
    found = judge(frames)
    assert found.outcome is outcome, f"{name}: {found.reason}"
    assert words in found.reason


def test_nothing_to_compare_with_is_inconclusive() -> None:
    assert judge([frame(1_000, 1.0)], None).outcome is Outcome.INCONCLUSIVE


def test_a_metric_that_breaks_is_inconclusive() -> None:
    rows = frame(500, 1.0)
    rows["prediction"] = ["a"] * 500
    found = judge([rows])
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "cannot be computed" in found.reason


def test_the_same_rows_give_the_same_verdict() -> None:
    assert judge([frame(500, 1.2)]) == judge([frame(500, 1.2)])


def test_limits_point_the_right_way() -> None:
    assert performance.limit("rmse", 2.0, 0.1) == pytest.approx(2.2)
    assert performance.limit("roc_auc", 0.9, 0.1) == pytest.approx(0.81)
    assert performance.limit("r2", -0.5, 0.1) == pytest.approx(-0.55)  # worse, though the value is negative


def test_false_alarms_and_power() -> None:
    """At the very limit at most one window in twenty fails; well beyond it nearly all do."""
    quiet = [judge([frame(400, 1.2, seed=s)]).outcome for s in range(200)]
    assert quiet.count(Outcome.FAIL) <= 21  # binomial(200, 0.05), one time in 1,000
    loud = [judge([frame(400, 1.7, seed=s)]).outcome for s in range(30)]
    assert loud.count(Outcome.FAIL) >= 29


def test_spread_is_the_standard_error() -> None:
    rows = frame(1_000, 1.0)
    errors = np.abs(rows["prediction"] - rows["label"])
    span = judge([rows]).numbers["spans"][0]
    assert span["standard_error"] == pytest.approx(errors.std(ddof=1) / np.sqrt(1_000), rel=0.15)
