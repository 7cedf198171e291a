"""Rows of a rollout read once: the same numbers as from reading everything, whatever arrives and whenever (ROL-2)."""

from __future__ import annotations

import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from windtunnel.evaluation.metrics import row_loss
from windtunnel.home import Home
from windtunnel.rollout import prediction_numbers, quality_numbers
from windtunnel.serving.predictions import PredictionLog, publish
from windtunnel.serving.predictions import labels as labels_module
from windtunnel.serving.predictions.labels import Labels
from windtunnel.serving.release import rows

MODEL = "visits"
START = float(round(time.time()) - 7200)


class Log:
    """Writes files of the prediction log as the writer publishes them."""

    def __init__(self, home: Home) -> None:
        self.home, self.files = home, 0
        self.ids: dict[str, list[str]] = {"1": [], "2": []}

    def add(
        self,
        version: str,
        predictions: list[Any],
        *,
        at: float,
        shadow: bool = False,
        error: int = 0,
        arm: str | None = None,
    ) -> None:
        """One file; its first ``error`` rows have failed."""
        self.files += 1
        names = [f"{version}-{self.files}-{n}" for n in range(len(predictions))]
        self.ids[version] += names
        count = len(predictions)
        table = pa.table(
            {
                "prediction_id": names,
                "time": pa.array([round((at + n / 100) * 1e6) for n in range(count)], pa.timestamp("us", tz="UTC")),
                "version": [version] * count,
                "error": pa.array(["boom" if n < error else None for n in range(count)], pa.string()),
                "shadow": pa.array([shadow] * count, pa.bool_()),
                "arm": pa.array([arm] * count, pa.string()),
                "prediction": pa.array(predictions),
            }
        )
        publish.publish(self.home.predictions, MODEL, f"{version}-0-{self.files:06d}", [table])


def label(name: str, value: Any, *, at: float = START + 60, revision: int = 0) -> dict[str, Any]:
    return {"prediction_id": name, "label": value, "label_time": at, "revision": revision}


def found(home: Home, edges: Any = None, rollout: str = "r", **more: Any) -> dict[str, Any]:
    """What a look would be told."""
    with rows.of(home, MODEL, rollout, ("1", "2"), START, **more) as read:
        told: dict[str, Any] = {"prediction": read.predictions(edges)}
        for figure in (None, "revenue"):
            both = read.joined(figure)
            if both is None:
                told[str(figure)] = None
                continue
            losses = [np.sort(row_loss("absolute", arm.label, arm.prediction)) for arm in both]
            numbers = quality_numbers(*losses, 10.0, loss="absolute")
            told[str(figure)] = numbers.to_dict() if numbers else None
    told["prediction"] = told["prediction"].to_dict() if told["prediction"] else None
    return told


def from_everything(home: Home, edges: Any = None) -> dict[str, Any]:
    """The same, from the whole log and all labels with the plain readers."""
    table = PredictionLog(home.predictions).table(MODEL, START, START + 10**7, versions=["1", "2"])
    keep = [
        error is None and not shadow and prediction is not None
        for error, shadow, prediction in zip(
            *(table.column(name).to_pylist() for name in ("error", "shadow", "prediction")), strict=True
        )
    ]
    frame = table.filter(pa.array(keep, pa.bool_())).to_pandas()
    arms = [frame[frame["version"] == version] for version in ("1", "2")]
    told: dict[str, Any] = {}
    numbers = prediction_numbers(*(arm["prediction"].to_numpy() for arm in arms), edges)
    told["prediction"] = numbers.to_dict() if numbers else None
    for figure in (None, "revenue"):
        known = Labels(home.labels).read(MODEL, START, figure=figure)[["prediction_id", "label"]]
        both = [arm.merge(known, on="prediction_id") for arm in arms]
        if not any(map(len, both)):
            told[str(figure)] = None
            continue
        losses = [np.sort(row_loss("absolute", arm["label"].to_numpy(), arm["prediction"].to_numpy())) for arm in both]
        quality = quality_numbers(*losses, 10.0, loss="absolute")
        told[str(figure)] = quality.to_dict() if quality else None
    return told


EDGES = (0.0, 1.0, 2.0, 5.0)
_NUMBERS = st.lists(st.one_of(st.none(), st.floats(0, 10), st.just(math.nan)), min_size=1, max_size=6)
_HAPPENINGS = st.lists(
    st.one_of(
        st.tuples(st.just("rows"), st.sampled_from(["1", "2"]), _NUMBERS, st.floats(-60, 7000), st.integers(0, 2)),
        st.tuples(st.sampled_from(["labels", "figures"]), st.just(0), st.integers(0, 3), st.floats(-100, 100)),
        st.tuples(st.sampled_from(["look", "merge", "erase", "restart", "twice"])),
    ),
    min_size=3,
    max_size=14,
)


@given(_HAPPENINGS, st.integers(0, 10**6))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_looks_find_the_same_as_reading_everything(
    tmp_path_factory: pytest.TempPathFactory, happenings: list[tuple[Any, ...]], seed: int
) -> None:
    """Late rows, late labels, corrections, merged files, erased rows, a process that died."""
    home = Home(tmp_path_factory.mktemp("rows"))
    log, store, dice = Log(home), Labels(home.labels), np.random.default_rng(seed)
    rows._known.clear()
    for what, *how in happenings:
        if what == "rows":
            version, predictions, after, errors = how
            numbers = [None if p is None else float(p) for p in predictions]
            log.add(version, numbers, at=START + after, error=errors)
        elif what in ("labels", "figures"):
            ids = log.ids["1"] + log.ids["2"] + ["stranger"]
            names = [ids[i] for i in dice.integers(0, len(ids), 5)]
            sent = [label(n, float(dice.integers(0, 9)), at=START + how[2], revision=how[1]) for n in names]
            store.append(MODEL, sent, figure=None if what == "labels" else "revenue")
        elif what == "merge":
            for figure in (None, "revenue"):
                if store.files(MODEL, figure):
                    store._merge(home.labels / MODEL, figure)
        elif what == "erase":
            for path in sorted((home.predictions / MODEL).rglob("*.parquet"))[:1]:
                path.unlink()
        elif what == "twice":  # rows published under two names count once
            for path in sorted((home.predictions / MODEL).rglob("*.parquet"))[-1:]:
                shutil.copy(path, path.with_name(path.name.replace(".parquet", "9.parquet")))
        elif what == "restart":
            rows._known.clear()
        assert found(home, EDGES) == from_everything(home, EDGES)


def test_bins_are_made_of_all_rows_and_then_kept(tmp_path: Path) -> None:
    home = Home(tmp_path)
    log = Log(home)
    log.add("1", [float(n) for n in range(19)], at=START + 1)
    log.add("2", [1.0], at=START + 1)
    assert found(home)["prediction"] is None  # too few to make bins of
    log.add("1", [40.0], at=START + 2)
    first = found(home)["prediction"]
    assert first == from_everything(home)["prediction"]
    log.add("1", [3.0] * 50, at=START + 3)
    edges = tuple(first["edges"])
    assert found(home, edges)["prediction"] == from_everything(home, edges)["prediction"]
    assert sum(found(home, edges)["prediction"]["champion"]) == 70


def test_classes_and_numbers_that_become_text(tmp_path: Path) -> None:
    home = Home(tmp_path)
    log = Log(home)
    log.add("1", ["cat", "dog"] * 12, at=START + 1)
    log.add("2", ["cat", "cow"], at=START + 1)
    assert found(home)["prediction"] == from_everything(home)["prediction"]
    log.add("2", [1.0, 2.0], at=START + 5)  # a candidate that answers numbers where classes were
    told = found(home, ("cat", "dog"))
    assert told["prediction"] == from_everything(home, ("cat", "dog"))["prediction"]
    assert told["prediction"]["candidate"] == [1, 0, 3]


def test_an_answer_that_is_not_a_number_is_seen(tmp_path: Path) -> None:
    """DEMAND ROL-3: NaN is an answer, and a bad one; no answer at all is something else."""
    home = Home(tmp_path)
    log = Log(home)
    log.add("1", [1.0] * 20, at=START + 1)
    log.add("2", [math.nan, 1.0, None], at=START + 1)
    assert found(home, EDGES)["prediction"]["invalid"] == [0, 1]


def test_copied_requests_count_when_the_plan_copies(tmp_path: Path) -> None:
    home = Home(tmp_path)
    log = Log(home)
    log.add("1", [1.0] * 20, at=START + 1)
    log.add("2", [1.0] * 5, at=START + 1, shadow=True)
    assert sum(found(home, EDGES)["prediction"]["candidate"]) == 0
    assert sum(found(home, EDGES, rollout="mirrored", shadow=True)["prediction"]["candidate"]) == 5


def test_testers_who_chose_the_candidate_are_not_compared(tmp_path: Path) -> None:
    """DEMAND ROL-14: an audience's rows are the candidate's, but no lot drew them."""
    home = Home(tmp_path)
    log = Log(home)
    log.add("1", [1.0] * 20, at=START + 1)
    log.add("2", [1.0] * 5, at=START + 1)
    log.add("2", [2.0] * 7, at=START + 1, arm="audience")
    assert sum(found(home, EDGES)["prediction"]["candidate"]) == 5


def test_a_look_opens_only_files_that_are_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    log, store = Log(home), Labels(home.labels)
    opened: list[str] = []
    real_read, real_load = rows.RolloutRows._read, labels_module.load
    monkeypatch.setattr(rows.RolloutRows, "_read", lambda self, path: (opened.append(path), real_read(self, path))[1])
    monkeypatch.setattr(labels_module, "load", lambda paths: (opened.extend(map(str, paths)), real_load(paths))[1])
    for n in range(6):
        log.add("1", [1.0, 2.0], at=START + n)
        store.append(MODEL, [label(f"1-{n + 1}-0", 1.0)])
        opened.clear()
        found(home)
        assert len(opened) == 2
    opened.clear()
    found(home)
    assert opened == []
    rows._known.clear()
    assert found(home)["None"]["champion"]["n"] == 6
    assert len(opened) == 12


def test_memory_is_bounded_and_what_was_let_go_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows._known.clear()
    monkeypatch.setattr(rows, "MAX_ROWS", 100)
    told = []
    for n in range(5):
        home = Home(tmp_path / str(n))
        Log(home).add("1", [float(n)] * 40, at=START + 1)
        told.append(found(home, EDGES))
        assert sum(kept.held for kept in rows._known.values()) <= 100
    assert len(rows._known) == 2
    assert found(Home(tmp_path / "0"), EDGES) == told[0]
    monkeypatch.setattr(rows, "FORGET_AFTER_S", 0.0)
    found(Home(tmp_path / "4"), EDGES)
    assert len(rows._known) == 1


def test_a_file_nobody_can_read_is_an_error_and_not_remembered(tmp_path: Path) -> None:
    """DEMAND ROL-3"""
    home = Home(tmp_path)
    log = Log(home)
    log.add("1", [1.0] * 20, at=START + 1)
    found(home, EDGES)
    log.add("2", [1.0], at=START + 2)
    (newest,) = (home.predictions / MODEL).rglob("2-0-*.parquet")
    whole = newest.read_bytes()
    newest.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(pa.ArrowException):
        found(home, EDGES)
    newest.write_bytes(whole)
    assert found(home, EDGES) == from_everything(home, EDGES)


def test_rows_before_the_start_and_rows_published_twice_do_not_count(tmp_path: Path) -> None:
    """Both arms over the same window, each answer once."""
    home = Home(tmp_path)
    log = Log(home)
    log.add("1", [1.0] * 20, at=START - 5)
    log.add("1", [1.0] * 30, at=START + 1)
    assert sum(found(home, EDGES)["prediction"]["champion"]) == 30
    newest = max((home.predictions / MODEL).rglob("*.parquet"))
    shutil.copy(newest, newest.with_name(newest.name.replace(".parquet", "9.parquet")))
    assert sum(found(home, EDGES)["prediction"]["champion"]) == 30
    rows._known.clear()
    assert sum(found(home, EDGES)["prediction"]["champion"]) == 30
