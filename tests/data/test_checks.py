"""Data checks by Great Expectations: each bad input is named with its column and count (DEMAND MON-10)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from windtunnel.data import checks
from windtunnel.errors import DataError, DescriptionError
from windtunnel.evidence import Outcome
from windtunnel.spec import Check, Data

ROWS = 400


def describe(**more: Any) -> Data:
    return Data.model_validate(
        {
            "source": "x.csv",
            "time": "when",
            "target": "y",
            "min_rows": 100,
            "features": [
                {"name": "age", "minimum": 0, "maximum": 120},
                {"name": "plan", "kind": "categorical", "categories": ["free", "paid"]},
                {"name": "ill", "kind": "boolean", "nullable": True},
                {"name": "income"},
            ],
            **more,
        }
    )


def good() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": generator.uniform(0, 90, ROWS),
            "plan": generator.choice(["free", "paid"], ROWS),
            "ill": [True, False, None, False] * (ROWS // 4),
            "income": generator.lognormal(size=ROWS),
            "y": generator.poisson(3, ROWS).astype(float),
            "when": pd.date_range("2026-01-01", periods=ROWS, freq="h").astype(str),
        }
    )


def spoil(column: str, values: dict[int, Any]) -> pd.DataFrame:
    frame = good()
    series = frame[column].astype(object)
    for row, value in values.items():
        series.iloc[row] = value
    frame[column] = series.infer_objects() if column in ("age", "income", "y") else series
    return frame


def test_good_rows_pass_and_are_reported(tmp_path: Path) -> None:
    found = checks.check(describe(), good(), report_dir=tmp_path / "report")
    assert found.outcome is Outcome.PASS, found.reason
    assert found.report_path == tmp_path / "report" / "data-check.html"
    assert "expect_column_values_to_be_between" in found.report_path.read_text(encoding="utf-8")
    plain = json.loads((tmp_path / "report" / "data-check.json").read_text(encoding="utf-8"))
    assert plain["outcome"] == "PASS"
    assert all(entry["success"] for entry in plain["results"])
    assert found.thresholds["features"]["age"]["maximum"] == 120
    json.dumps(found.numbers)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (good().drop(columns="y"), "column 'y' is missing"),
        (good().drop(columns="income"), "column 'income' is missing"),
        (good().drop(columns="when"), "column 'when' is missing"),
        (spoil("y", {3: None, 9: None}), "y: 2 of 400 values are missing"),
        (spoil("y", {3: float("inf")}), "y: 1 of 400 values are not finite, e.g. inf"),
        (spoil("income", {0: float("nan")}), "income: 1 of 400 values are missing"),
        (spoil("income", {0: float("-inf")}), "income: 1 of 400 values are not finite"),
        (spoil("age", {1: -1.0, 2: 130.0, 3: 200.0}), "age: 3 of 400 values are not between 0 and 120, e.g. -1.0"),
        (spoil("age", {7: "old"}), "age: expected numbers, found other things (1 of 400 values, e.g. 'old')"),
        (good().assign(age="old"), "age: expected numbers, found text (400 of 400 values"),
        (spoil("plan", {5: "gold"}), "plan: 1 of 400 values are not one of 2 known categories, e.g. 'gold'"),
        (good().assign(ill="maybe"), "ill: expected true or false, found text"),
        (spoil("when", {5: "soon"}), "the time column: 1 of 400 values have no readable time"),
        (good().head(40), "40 rows, at least 100 are needed"),
        (good().head(0), "0 rows, at least 100 are needed"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_bad_rows_fail_and_say_why(frame: pd.DataFrame, message: str) -> None:
    found = checks.check(describe(), frame)
    assert found.outcome is Outcome.FAIL, found.reason
    assert message in found.reason
    json.dumps(found.numbers)


@pytest.mark.parametrize(
    "frame",
    [
        good().convert_dtypes(),
        good().convert_dtypes(dtype_backend="pyarrow"),
        good().assign(plan=good()["plan"].astype("category")),
        good().assign(when=pd.date_range("2026-01-01", periods=ROWS, freq="h", tz="UTC")),
        good().assign(when=np.arange(ROWS) * 3600.0),
        good().assign(ill=[1.0, 0.0, None, 0.0] * (ROWS // 4)),
        good().assign(age=np.arange(ROWS) % 100),
    ],
    ids=["nullable", "arrow", "category", "datetime", "epoch", "booleans as numbers", "integers"],
)
def test_the_same_rows_in_another_form_pass(frame: pd.DataFrame) -> None:
    found = checks.check(describe(), frame)
    assert found.outcome is Outcome.PASS, found.reason


def test_own_checks_count_and_may_be_no_more_than_a_warning() -> None:
    wrong = {"expect": "expect_column_mean_to_be_between", "column": "age", "with": {"max_value": 1}}
    found = checks.check(describe(checks=[wrong]), good())
    assert found.outcome is Outcome.FAIL
    assert "age: expect_column_mean_to_be_between does not hold, observed" in found.reason
    found = checks.check(describe(checks=[{**wrong, "critical": False}]), good())
    assert found.outcome is Outcome.PASS
    assert "1 not critical" in found.reason
    assert found.numbers["warnings"][0]["column"] == "age"


def test_what_cannot_be_evaluated_is_inconclusive() -> None:
    broken = Check(expect="expect_column_mean_to_be_between", column="nowhere", with_={"max_value": 1})
    found = checks.check(describe(), good(), suite_extra=[broken])
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "nowhere" in found.reason


def test_a_wrong_description_is_told_with_a_hint() -> None:
    with pytest.raises(DescriptionError, match="expect_column_mean_to_be_betwen") as caught:
        checks.check(describe(checks=[{"expect": "expect_column_mean_to_be_betwen", "column": "age"}]), good())
    assert "expect_column_mean_to_be_between" in str(caught.value.hint)
    with pytest.raises(DescriptionError, match="does not take"):
        own = {"expect": "expect_column_mean_to_be_between", "column": "age", "with": {"least": 1}}
        checks.check(describe(checks=[own]), good())


def test_files(tmp_path: Path) -> None:
    good().to_parquet(tmp_path / "rows.parquet")
    good().to_csv(tmp_path / "rows.csv", index=False)
    assert checks.check(describe(), tmp_path / "rows.parquet").outcome is Outcome.PASS
    assert checks.check(describe(), tmp_path / "rows.csv").outcome is Outcome.PASS
    with pytest.raises(DataError, match="no data file at"):
        checks.check(describe(), tmp_path / "nowhere.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(DataError, match=r"torn\.parquet cannot be read"):
        checks.check(describe(), tmp_path / "torn.parquet")


def test_windows_have_features_only() -> None:
    """DEMAND MON-10: the same expectations on live rows, without target, time and a minimum of rows."""
    own = {"expect": "expect_column_mean_to_be_between", "column": "y", "with": {"max_value": 1}}
    live = good()[["age", "plan", "ill", "income"]].head(20)
    found = checks.check(describe(checks=[own]), live, part="window")
    assert found.outcome is Outcome.PASS, found.reason
    found = checks.check(describe(), live.assign(age=-1.0), part="window")
    assert found.outcome is Outcome.FAIL
    assert "age: 20 of 20" in found.reason


def test_nothing_leaves_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a data check opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert checks.check(describe(), good()).outcome is Outcome.PASS
