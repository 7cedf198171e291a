"""Labels that come late, partly, corrected (DEMAND MON-5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.errors import DataError
from windtunnel.serving.predictions import PredictionLog, PredictionWriter, labelstore
from windtunnel.serving.predictions import labels as labels_module
from windtunnel.serving.predictions.labels import Labels, joined

MODEL = "visits"


def label(name: str, value: Any = 1.0, at: float = 100.0, revision: int = 0, source: str = "claims") -> dict[str, Any]:
    return {"prediction_id": name, "label": value, "label_time": at, "revision": revision, "source": source}


def test_labels_come_back(tmp_path: Path) -> None:
    labels = Labels(tmp_path)
    assert len(labels.read(MODEL)) == 0
    assert labels.append(MODEL, [label("a", 2, at=10.5), label("b", 3.5)]) == 2
    found = labels.read(MODEL).set_index("prediction_id")
    assert found["label"].to_dict() == {"a": 2.0, "b": 3.5}
    assert found["label_time"]["a"] == pd.Timestamp(10.5, unit="s", tz="UTC")
    assert found["source"].tolist() == ["claims", "claims"]


def test_a_frame_does_as_well(tmp_path: Path) -> None:
    frame = pd.DataFrame([label("a"), label("b", 4.0)])
    frame["label_time"] = pd.to_datetime(frame["label_time"], unit="s", utc=True)
    Labels(tmp_path).append(MODEL, frame)
    assert sorted(Labels(tmp_path).read(MODEL)["label"]) == [1.0, 4.0]


def test_revision_and_source_may_be_left_out(tmp_path: Path) -> None:
    Labels(tmp_path).append(MODEL, [{"prediction_id": "a", "label": "yes", "label_time": 1.0}])
    row = Labels(tmp_path).read(MODEL).iloc[0]
    assert (row["label"], row["revision"], row["source"]) == ("yes", 0, "")


_DRAWN = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(0, 3), st.integers(0, 3), st.integers(0, 100)),
    min_size=1,
    max_size=25,
)


@given(_DRAWN, st.data())
@settings(max_examples=20, deadline=None)
def test_the_latest_revision_wins_in_any_order_of_arrival(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[str, int, int, int]], data: st.DataObject
) -> None:
    """Corrections may overtake what they correct; arriving twice changes nothing."""
    # Equal revision and time mean the same label: otherwise arrival decides, which is the next test.
    rows = {(name, revision, at): value for name, revision, at, value in drawn}
    sent = [label(name, float(value), float(at), revision) for (name, revision, at), value in rows.items()]
    order = data.draw(st.permutations([*sent, *data.draw(st.lists(st.sampled_from(sent), max_size=4))]))
    cut = data.draw(st.integers(0, len(order)))
    labels = Labels(tmp_path_factory.mktemp("labels"))
    labels.append(MODEL, order[:cut])
    labels.append(MODEL, order[cut:])
    expected = {name: rows[(name, *max((r, t) for n, r, t in rows if n == name))] for name, _, _ in rows}
    found = labels.read(MODEL)
    assert dict(zip(found["prediction_id"], found["label"], strict=True)) == expected
    labels._merge(labels.root / MODEL)
    assert labels.read(MODEL).equals(found)
    assert len(list((labels.root / MODEL).glob("*.parquet"))) == 1


def test_of_equal_revisions_the_last_to_arrive_wins(tmp_path: Path) -> None:
    labels = Labels(tmp_path)
    labels.append(MODEL, [label("a", 1.0)])
    labels.append(MODEL, [label("a", 2.0)])
    assert labels.read(MODEL)["label"].tolist() == [2.0]


def test_an_old_label_does_not_come_back_through_the_time_filter(tmp_path: Path) -> None:
    labels = Labels(tmp_path)
    labels.append(
        MODEL, [label("a", 1.0, at=200.0, revision=0), label("a", 9.0, at=100.0, revision=1), label("b", at=150.0)]
    )
    assert labels.read(MODEL, start=150.0)["prediction_id"].tolist() == ["b"]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"label": 1, "label_time": 1.0}, "no prediction_id"),
        (label(""), "no prediction_id"),
        (label("a", None), "no label"),
        (label("a", float("nan")), "no label"),
        (label("a", [1]), "expected a number"),
        (label("a", at="yesterday"), "yesterday"),  # type: ignore[arg-type]
        (label("a", at=pd.Timestamp("2026-01-01")), "zone"),  # type: ignore[arg-type]
        (label("a") | {"labl": 2}, "labl"),
        (label("a", "text"), "mix"),
    ],
)
def test_a_bad_label_is_named_and_nothing_is_added(tmp_path: Path, row: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=says):
        Labels(tmp_path).append(MODEL, [label("good"), row])
    assert len(Labels(tmp_path).read(MODEL)) == 0


def test_many_small_files_become_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels_module, "_MERGE_FILES", 5)
    labels = Labels(tmp_path)
    for i in range(14):
        labels.append(MODEL, [label(f"p{i}", float(i))])
    assert len(list((tmp_path / MODEL).glob("*.parquet"))) <= 5
    assert sorted(labels.read(MODEL)["label"]) == [float(i) for i in range(14)]


def test_joined_keeps_every_prediction_and_says_the_coverage(tmp_path: Path) -> None:
    """DEMAND MON-5: joined by prediction id, recomputed as labels come, with coverage."""
    now = 1_767_225_600.0
    writer = PredictionWriter(tmp_path / "log", MODEL, "1", "0", flush_s=5, features=["age"])
    for i in range(10):
        writer.write(f"r{i}", now + i, [f"p{i}"], [{"age": float(i)}], [float(i)], 1.0, 200)
    writer.close()
    log, labels = PredictionLog(tmp_path / "log"), Labels(tmp_path / "labels")
    nothing = joined(log, labels, MODEL, now, now + 10)
    assert (nothing.rows, nothing.labelled, nothing.coverage) == (10, 0, 0.0)
    labels.append(MODEL, [label(f"p{i}", 2.0 * i) for i in range(0, 10, 2)] + [label("stranger")])
    found = joined(log, labels, MODEL, now, now + 10)
    assert (found.rows, found.labelled, found.coverage) == (10, 5, 0.5)
    known = found.frame.dropna(subset=["label"])
    assert (known["label"] == 2 * known["prediction"]).all()
    labels.append(MODEL, [label("p0", -1.0, revision=1)])
    again = joined(log, labels, MODEL, now, now + 10, columns=["prediction"])
    assert list(again.frame.columns) == ["prediction_id", "prediction", "label", "label_time", "revision", "source"]
    assert again.frame["label"].iloc[0] == -1.0
    assert joined(log, labels, MODEL, 0, 1).coverage is None


# -- figures


def test_a_figure_lives_beside_the_labels(tmp_path: Path) -> None:
    """DEMAND MON-12: a business figure has its own name; labels and other figures do not see it."""
    labels = Labels(tmp_path)
    labels.append(MODEL, [label("a", "yes")])
    assert labels.append(MODEL, [label("a", 12.5), label("b", 0)], figure="revenue") == 2
    labels.append(MODEL, [label("a", True)], figure="stayed")
    assert labels.read(MODEL)["label"].tolist() == ["yes"]
    revenue = labels.read(MODEL, figure="revenue").set_index("prediction_id")["label"]
    assert revenue.to_dict() == {"a": 12.5, "b": 0.0}
    assert labels.read(MODEL, figure="stayed")["label"].tolist() == [True]
    assert len(labels.read(MODEL, figure="unheard_of")) == 0
    assert labels.figures(MODEL) == ["revenue", "stayed"]


def test_figures_are_corrected_and_merged_like_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DEMAND MON-12, MON-5"""
    monkeypatch.setattr(labels_module, "_MERGE_FILES", 4)
    labels = Labels(tmp_path)
    labels.append(MODEL, [label("a", 5.0, revision=1)], figure="revenue")
    labels.append(MODEL, [label("a", 99.0, at=200.0)], figure="revenue")  # late, but of an older revision
    for n in range(10):
        labels.append(MODEL, [label(f"p{n}", float(n))], figure="revenue")
        labels.append(MODEL, [label(f"p{n}", -1.0)])
    found = labels.read(MODEL, figure="revenue").set_index("prediction_id")["label"]
    assert found["a"] == 5.0
    assert len(found) == 11
    assert labels.read(MODEL)["label"].tolist() == [-1.0] * 10
    assert len(list((tmp_path / MODEL).glob("*.parquet"))) <= 8


@pytest.mark.parametrize(
    ("figure", "value", "says"),
    [
        ("Revenue", 1.0, "no name of a figure"),
        ("../x", 1.0, "no name of a figure"),
        ("a.b", 1.0, "no name of a figure"),
        ("revenue", "12 EUR", "finite number, found '12 EUR'"),
        ("revenue", float("inf"), "finite number"),
        ("revenue", None, "finite number"),
    ],
)
def test_a_bad_figure_is_named_and_nothing_is_added(tmp_path: Path, figure: str, value: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        Labels(tmp_path).append(MODEL, [label("good"), label("bad", value)], figure=figure)
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize("figure", [None, "revenue"])
def test_labels_are_handed_in_where_every_worker_fetches_them(tmp_path: Path, figure: str | None) -> None:
    """DEMAND MON-5, MON-12: late and corrected ones too; each is fetched once, and none is lost to another."""
    url = (tmp_path / "log").as_uri()
    assert labelstore.bring(url, tmp_path / "a", MODEL) == 0
    assert labelstore.hand_in(url, MODEL, [label("p1"), label("p2", 2.0)], figure=figure) == 2
    assert labelstore.bring(url, tmp_path / "a", MODEL) == 1
    assert labelstore.hand_in(url, MODEL, [label("p1", 5.0, revision=1)], figure=figure) == 1
    with pytest.raises(DataError, match="has no prediction_id"):
        labelstore.hand_in(url, MODEL, [{"label": 1.0, "label_time": 1.0}], figure=figure)
    for worker, files in (("a", 1), ("b", 2)):
        assert labelstore.bring(url, tmp_path / worker, MODEL) == files
        assert labelstore.bring(url, tmp_path / worker, MODEL) == 0
        found = Labels(tmp_path / worker).read(MODEL, figure=figure).set_index("prediction_id")["label"]
        assert found.to_dict() == {"p1": 5.0, "p2": 2.0}
    assert labelstore.bring(url, tmp_path / "a", "other") == 0
