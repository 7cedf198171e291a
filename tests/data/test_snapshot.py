"""Snapshots: same rows, same digest; time splits; every bad source is a clear error and leaves nothing half-done.

Issue, section 6: missing or unreadable data file; missing target; wrong types; empty window; NaN target.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.data import snapshot as snapshots
from windtunnel.data.snapshot import snapshot, split
from windtunnel.errors import DataError, IntegrityError, UnavailableError
from windtunnel.spec import Data, Evaluation, Metric

FEATURES = ["a", {"name": "c", "kind": "categorical"}, {"name": "b", "kind": "boolean", "nullable": True}]


def table(rows: int = 500) -> pd.DataFrame:
    random = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "t": pd.date_range("2026-01-01", periods=rows, freq="h"),
            "a": random.integers(0, 9, rows),
            "c": random.choice(["x", "y"], rows),
            "b": random.choice([True, False], rows),
            "y": random.poisson(2, rows),
            "other": 1,
        }
    )


def described(source: Any, **more: Any) -> Data:
    return Data.model_validate({"source": str(source), "time": "t", "target": "y", "features": FEATURES, **more})


def test_the_same_rows_give_the_same_digest_whatever_they_come_in(tmp_path: Path) -> None:
    frame = table()
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.sample(frac=1, random_state=1).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "parts").mkdir()
    frame[:200].to_csv(tmp_path / "parts" / "1.csv", index=False)
    frame[200:].to_csv(tmp_path / "parts" / "2.csv", index=False)
    sources = [
        tmp_path / "a.csv",
        tmp_path / "a.parquet",
        tmp_path / "parts" / "*.csv",
        (tmp_path / "a.csv").as_uri(),
        (tmp_path / "a.csv").as_uri().replace("a.csv", "a.parquet"),
    ]
    made = [snapshot(described(source), tmp_path / f"out{i}") for i, source in enumerate(sources)]
    by_sql = snapshot(
        described("SELECT *", connection="warehouse"), tmp_path / "sql", sql_reader=lambda connection, query: frame
    )
    assert {one.digest for one in [*made, by_sql]} == {made[0].digest}
    assert (made[0].rows, made[0].holdout_rows) == (400, 100)
    again = snapshot(described(sources[0]), tmp_path / "out0")
    assert again == made[0]
    assert snapshots.load(tmp_path / "out0") == made[0]


def test_another_row_is_another_digest(tmp_path: Path) -> None:
    frame = table()
    frame.to_parquet(tmp_path / "a.parquet")
    before = snapshot(described(tmp_path / "a.parquet"), tmp_path / "o")
    frame.loc[3, "a"] += 1
    frame.to_parquet(tmp_path / "a.parquet")
    assert snapshot(described(tmp_path / "a.parquet"), tmp_path / "o").digest != before.digest


def test_rows_are_typed_as_described_and_sorted_by_time(tmp_path: Path) -> None:
    frame = table().sample(frac=1, random_state=2)
    frame["b"] = frame["b"].map({True: "yes", False: "No"})
    frame.to_csv(tmp_path / "a.csv", index=False)
    made = snapshot(described(tmp_path / "a.csv"), tmp_path / "o")
    rows, holdout = pd.read_parquet(made.rows_path), pd.read_parquet(made.holdout_path)
    assert list(rows.columns) == ["t", "a", "c", "b", "y"]
    assert rows["a"].dtype == "float64"
    assert rows["b"].dtype == "bool"
    assert rows["t"].is_monotonic_increasing
    assert rows["t"].max() < holdout["t"].min()
    assert made.start == pd.Timestamp("2026-01-01", tz="UTC").timestamp()
    assert made.cut == holdout["t"].min().timestamp()


def test_since_and_newest_keep_the_newest(tmp_path: Path) -> None:
    table().to_parquet(tmp_path / "a.parquet")
    made = snapshot(described(tmp_path / "a.parquet", since="10d", min_rows=10), tmp_path / "o")
    assert made.rows + made.holdout_rows == 241
    made = snapshot(described(tmp_path / "a.parquet", newest=50, min_rows=10), tmp_path / "o")
    assert made.rows + made.holdout_rows == 50
    assert made.end == table()["t"].max().timestamp()


@given(st.lists(st.integers(0, 12), min_size=2, max_size=60), st.floats(0.01, 0.99))
@settings(deadline=None, max_examples=200)
def test_rows_of_one_time_are_never_torn_apart(times: list[int], fraction: float) -> None:
    frame = pd.DataFrame({"t": sorted(times)})
    if len(set(times)) == 1:
        with pytest.raises(DataError, match="the same 't'"):
            split(frame, "t", fraction)
        return
    old, new, cut = split(frame, "t", fraction)
    assert len(old) + len(new) == len(times)
    assert len(old) > 0
    assert old["t"].max() < cut == new["t"].min()


def edit(change: Callable[[pd.DataFrame], Any]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        frame = table()
        frame[["a", "b"]] = frame[["a", "b"]].astype("object")
        frame["t"] = frame["t"].astype("string")
        frame["y"] = frame["y"].astype("object")
        changed = change(frame)
        (frame if changed is None else changed).to_csv(folder / "a.csv", index=False)
        return folder / "a.csv"

    return make


def setting(column: str, value: Any, *rows: int) -> Callable[[Path], Path]:
    return edit(lambda frame: frame.loc.__setitem__((list(rows), column), value))


def text(content: bytes, name: str = "a.csv") -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return make


BAD: list[tuple[str, Callable[[Path], Path], dict[str, Any], list[str]]] = [
    ("no file", lambda folder: folder / "visits.csv", {}, ["there is no data file", "visits.csv"]),
    ("no match", lambda folder: folder / "*.csv", {}, ["no file matches"]),
    ("empty folder", lambda folder: folder, {"format": "csv"}, ["holds no files"]),
    ("empty file", text(b""), {}, ["is empty"]),
    ("header only", text(b"t,a,c,b,y\n"), {}, ["holds no rows"]),
    ("binary", text(b"\x00\xff\xfe" * 99), {}, ["a.csv"]),
    ("no parquet", text(b"t,a\n1,2\n", "a.parquet"), {}, ["no readable Parquet", "data.format"]),
    ("torn parquet", text(b"PAR1" + b"x" * 99, "a.parquet"), {}, ["no readable Parquet"]),
    ("no target", edit(lambda f: f.drop(columns="y")), {}, ["no column 'y'", "it has t, a, c, b, other"]),
    ("target's case", edit(lambda f: f.rename(columns={"y": "Y"})), {}, ["did you mean 'Y' for 'y'"]),
    ("no feature", edit(lambda f: f.drop(columns="c")), {}, ["no column 'c'"]),
    ("no time", edit(lambda f: f.rename(columns={"t": "tt"})), {}, ["no column 't'"]),
    ("NaN target", setting("y", None, 3, 7), {}, ["target 'y' is missing (NaN) in 2 rows (first: 4, 8)"]),
    ("infinite target", setting("y", float("inf"), 0), {}, ["target 'y' is infinite in 1 row (first: 1)"]),
    ("text target", setting("y", "many", 2), {}, ["target 'y' is no number in 1 row (first: 3): 'many'"]),
    ("text feature", setting("a", "tall", 5, 6), {}, ["feature 'a' is no number in 2 rows (first: 6, 7): 'tall'"]),
    ("infinite feature", setting("a", float("inf"), 5), {}, ["feature 'a' is infinite"]),
    ("odd boolean", setting("b", "maybe", 9), {}, ["neither true nor false in 1 row (first: 10): 'maybe'"]),
    ("no time in row", setting("t", None, 4), {}, ["time column 't' is missing in 1 row (first: 5)"]),
    ("odd time", setting("t", "soon", 4), {}, ["holds no time in 1 row (first: 5): 'soon'"]),
    ("future", setting("t", "2999-01-01 00:00:00", 4), {}, ["in the future"]),
    ("too few", edit(lambda f: f.head(20)), {}, ["20 rows", "min_rows asks for 100"]),
    ("empty window", edit(lambda f: None), {"since": "1h"}, ["2 rows after since and newest"]),
    ("one time", edit(lambda f: f.assign(t="2026-01-01")), {}, ["same 't'"]),
    ("sql by nobody", lambda folder: Path("SELECT 1"), {"connection": "w"}, ["nothing here can read it"]),
    ("no such store", lambda folder: Path("S3"), {"source": "gs://bucket/a.parquet"}, ["gcsfs"]),
    ("unknown store", lambda folder: Path("X"), {"source": "nope://bucket/a.parquet"}, ["nope"]),
]


@pytest.mark.parametrize(("make", "more", "words"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_bad_source_is_a_clear_error(
    make: Callable[[Path], Path], more: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    source = make(tmp_path)
    data = described(source, **more) if "source" not in more else described(**more)
    out = tmp_path / "out" / "deep"
    rules = Evaluation(metrics=[Metric(name="rmse")])
    with pytest.raises(DataError) as caught:
        snapshot(data, out, evaluation=rules, now=1_800_000_000.0)
    for word in words:
        assert word in str(caught.value)
    assert not out.exists() or not list(out.iterdir()), "nothing is left half-done"


def test_a_file_nobody_may_read(tmp_path: Path) -> None:
    table().to_csv(tmp_path / "a.csv", index=False)
    (tmp_path / "a.csv").chmod(0)
    if os.access(tmp_path / "a.csv", os.R_OK):
        pytest.skip("this user may read everything")
    with pytest.raises(DataError, match="may not be read"):
        snapshot(described(tmp_path / "a.csv"), tmp_path / "o")
    (tmp_path / "a.csv").chmod(stat.S_IRUSR | stat.S_IWUSR)


def test_a_database_s_troubles_are_told_apart(tmp_path: Path) -> None:
    data = described("SELECT *", connection="warehouse")

    def silent(connection: str, query: str) -> pd.DataFrame:
        raise ConnectionError("no route")

    def wrong(connection: str, query: str) -> pd.DataFrame:
        raise RuntimeError('relation "visits" does not exist')

    with pytest.raises(UnavailableError, match="no route"):
        snapshot(data, tmp_path, sql_reader=silent)
    with pytest.raises(DataError, match="does not exist"):
        snapshot(data, tmp_path, sql_reader=wrong)
    with pytest.raises(DataError, match="no column 'y'"):
        snapshot(data, tmp_path, sql_reader=lambda connection, query: table().drop(columns="y"))


def test_a_crash_or_a_change_is_seen_when_it_is_read(tmp_path: Path) -> None:
    table().to_parquet(tmp_path / "a.parquet")
    made = snapshot(described(tmp_path / "a.parquet"), tmp_path / "o")
    with made.rows_path.open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(IntegrityError, match=r"rows\.parquet"):
        snapshots.load(tmp_path / "o")
    (tmp_path / "o" / "meta.json").unlink()
    with pytest.raises(DataError, match="no finished snapshot"):
        snapshots.load(tmp_path / "o")


def test_a_missing_feature_is_the_data_check_s_business(tmp_path: Path) -> None:
    frame = table()
    frame.loc[[1, 2], "a"] = np.nan
    frame["b"] = frame["b"].astype("boolean")
    frame.loc[3, "b"] = pd.NA
    frame.to_parquet(tmp_path / "a.parquet")
    made = snapshot(described(tmp_path / "a.parquet"), tmp_path / "o")
    rows = pd.read_parquet(made.rows_path)
    assert rows["a"].isna().sum() == 2
    assert rows["b"].isna().sum() == 1


def test_numbers_may_be_times(tmp_path: Path) -> None:
    frame = table().assign(t=np.arange(500))
    frame.to_parquet(tmp_path / "a.parquet")
    made = snapshot(described(tmp_path / "a.parquet", since=timedelta(seconds=199)), tmp_path / "o")
    assert (made.rows + made.holdout_rows, made.start, made.end) == (200, 300.0, 499.0)
