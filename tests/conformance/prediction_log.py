"""What every prediction log must do, whoever wrote it (DEMAND SRV-6).

Derive from ``PredictionLogConformance``, say how to make a writer and how to read, and name the class
``Test...``. Times are seconds since the epoch.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import pytest

from windtunnel.serving.predictions import PredictionLog

MODEL = "visits"
FEATURES = ["age", "plan"]


class Writer(Protocol):
    def write(self, request_id: str, time: float, prediction_ids: Any, rows: Any, outputs: Any,
              latency_ms: Any, status: int, **more: Any) -> None: ...  # fmt: skip

    def close(self) -> None: ...


class PredictionLogConformance:
    """The suite. ``make`` returns an open writer of one version into ``root``."""

    flush_s = 0.2

    def make(self, root: Path, version: str = "1", instance: str = "0", **more: Any) -> Writer:
        raise NotImplementedError

    def log(self, root: Path) -> PredictionLog:
        return PredictionLog(root)

    # -- helpers

    def one(self, writer: Writer, key: str, at: float, **more: Any) -> None:
        fields: dict[str, Any] = {"rows": [{"age": 40.0, "plan": "free"}], "outputs": [1.5], "latency_ms": 2.0,
                                  "status": 200}  # fmt: skip
        fields |= more
        writer.write(f"r-{key}", at, [f"p-{key}"], **fields)

    def wait(self, condition: Any, limit: float = 5.0) -> None:
        end = time.monotonic() + limit
        while not condition():
            assert time.monotonic() < end, "did not happen in time"
            time.sleep(0.02)

    # -- rows

    def test_what_was_written_is_read(self, tmp_path: Path) -> None:
        now = time.time()
        writer = self.make(tmp_path)
        writer.write(
            "req", now, ["p1", "p2"], [{"age": 40, "plan": "free"}, {"age": 41, "plan": "cost"}], [1.5, 2.5], 3.25, 200,
            arm="candidate", correlation_id="c" * 32, client="load", segment="testers",
            queue_ms=0.5, confidence=[0.5, 0.75],
        )  # fmt: skip
        writer.close()
        rows = self.log(tmp_path).read(MODEL, now - 1, now + 1)
        assert rows["prediction_id"].tolist() == ["p1", "p2"]
        assert rows["feature_age"].tolist() == [40.0, 41.0]
        assert rows["feature_plan"].tolist() == ["free", "cost"]
        assert rows["prediction"].tolist() == [1.5, 2.5]
        assert rows["confidence"].tolist() == [0.5, 0.75]
        for column, value in {"request_id": "req", "model": MODEL, "version": "1", "arm": "candidate", "client": "load",
                              "correlation_id": "c" * 32, "segment": "testers", "instance": "0", "latency_ms": 3.25,
                              "queue_ms": 0.5, "status": 200, "shadow": False}.items():  # fmt: skip
            assert rows[column].tolist() == [value, value], column
        assert rows["error"].isna().all()
        assert rows["time"].dt.tz is not None
        assert abs(rows["time"].iloc[0].timestamp() - now) < 1e-5

    def test_a_failed_request_is_logged_too(self, tmp_path: Path) -> None:
        now = time.time()
        writer = self.make(tmp_path)
        self.one(writer, "bad", now, outputs=None, status=500, error="the model raised ValueError")
        writer.close()
        row = self.log(tmp_path).read(MODEL, now - 1, now + 1).iloc[0]
        assert (row["status"], row["error"]) == (500, "the model raised ValueError")
        assert pd.isna(row["prediction"])

    def test_rows_lie_in_the_hour_of_their_event_time(self, tmp_path: Path) -> None:
        """Around midnight UTC, in one flush: two files in two days, and each window reads its own."""
        midnight = 1_767_225_600.0  # 2026-01-01T00:00:00Z
        writer = self.make(tmp_path)
        self.one(writer, "before", midnight - 0.001)
        self.one(writer, "at", midnight)
        writer.close()
        folders = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("*.parquet")}
        assert folders == {f"{MODEL}/date=2025-12-31/hour=23", f"{MODEL}/date=2026-01-01/hour=00"}
        log = self.log(tmp_path)
        assert log.read(MODEL, midnight - 60, midnight)["prediction_id"].tolist() == ["p-before"]
        assert log.read(MODEL, midnight, midnight + 60)["prediction_id"].tolist() == ["p-at"]

    def test_windows_are_half_open_and_tile(self, tmp_path: Path) -> None:
        start = 1_767_225_600.0
        writer = self.make(tmp_path)
        for i in range(50):
            self.one(writer, str(i), start + i * 0.1)
        writer.close()
        log = self.log(tmp_path)
        parts = [log.count(MODEL, start + i, start + i + 1) for i in range(5)]
        assert parts == [10] * 5
        assert log.count(MODEL, start, start + 5) == 50

    def test_versions_columns_and_nothing(self, tmp_path: Path) -> None:
        now = time.time()
        for version in ("1", "2"):
            writer = self.make(tmp_path, version)
            self.one(writer, version, now)
            writer.close()
        log = self.log(tmp_path)
        assert log.read(MODEL, now - 1, now + 1, versions=["2"])["prediction_id"].tolist() == ["p-2"]
        assert list(log.read(MODEL, now - 1, now + 1, columns=["prediction", "time"]).columns) == ["prediction", "time"]
        nothing = log.read(MODEL, 0, 1)
        assert len(nothing) == 0
        assert "prediction_id" in nothing.columns
        assert len(log.read("nobody", now - 1, now + 1)) == 0

    # -- completeness

    def test_published_within_the_flush_window(self, tmp_path: Path) -> None:
        writer = self.make(tmp_path)
        now = time.time()
        self.one(writer, "soon", now)
        self.wait(lambda: self.log(tmp_path).count(MODEL, now - 1, now + 1) == 1, limit=self.flush_s + 2)
        writer.close()

    def test_the_watermark_never_runs_ahead_of_the_rows(self, tmp_path: Path) -> None:
        """Whatever is before the watermark when it is read is in the log when it is read after it."""
        writer = self.make(tmp_path)
        log = self.log(tmp_path)
        sent: list[float] = []
        passed = 0
        end = time.time() + 1.2
        while time.time() < end:
            sent.append(time.time())
            self.one(writer, str(len(sent)), sent[-1])
            mark = log.watermark(MODEL).time
            assert mark is not None
            due = sum(at < mark for at in sent)
            if due > passed:
                assert log.count(MODEL, sent[0] - 1, mark) == due
                passed = due
            time.sleep(0.01)
        writer.close()
        assert passed > 10
        assert log.count(MODEL, sent[0] - 1, end + 1) == len(sent)

    def test_the_watermark_moves_when_nothing_happens(self, tmp_path: Path) -> None:
        writer = self.make(tmp_path)
        begin = time.time()
        self.wait(lambda: (self.log(tmp_path).watermark(MODEL).time or 0.0) > begin)
        assert not self.log(tmp_path).watermark(MODEL).stale
        writer.close()

    def test_the_slowest_writer_holds_the_watermark(self, tmp_path: Path) -> None:
        first = self.make(tmp_path, "1")
        second = self.make(tmp_path, "2")
        begin = time.time()
        self.wait(lambda: (self.log(tmp_path).watermark(MODEL).time or 0.0) > begin)
        first.close()
        before = self.log(tmp_path).watermark(MODEL).time
        assert before is not None
        self.wait(lambda: (self.log(tmp_path).watermark(MODEL).time or 0.0) > before)
        second.close()
        assert self.log(tmp_path).watermark(MODEL).writers == 0

    def test_silence_is_stale_not_empty(self, tmp_path: Path) -> None:
        """DEMAND MON-9: a log that stopped, or never was, says so."""
        log = self.log(tmp_path)
        never = log.watermark(MODEL)
        assert never.stale
        assert never.time is None
        writer = self.make(tmp_path)
        self.wait(lambda: log.watermark(MODEL).time is not None)
        later = log.watermark(MODEL, now=time.time() + 3600)
        assert later.stale
        assert later.reason
        writer.close()
        assert not log.watermark(MODEL).stale
        assert log.watermark(MODEL, now=time.time() + 3600).stale

    # -- never twice, losses counted

    def test_equal_ids_are_read_once(self, tmp_path: Path) -> None:
        now = time.time()
        for instance in ("0", "1"):
            writer = self.make(tmp_path, instance=instance)
            self.one(writer, "same", now)
            writer.close()
        assert self.log(tmp_path).read(MODEL, now - 1, now + 1)["prediction_id"].tolist() == ["p-same"]

    def test_a_full_buffer_drops_and_counts(self, tmp_path: Path) -> None:
        now = time.time()
        writer = self.make(tmp_path, buffer_rows=50, spool_s=0.5)
        for i in range(200):
            self.one(writer, str(i), now)
        writer.close()
        log = self.log(tmp_path)
        kept = log.count(MODEL, now - 1, now + 1)
        dropped = log.watermark(MODEL).dropped
        assert kept + dropped == 200
        assert dropped > 0

    def test_sampling_takes_whole_requests_by_id(self, tmp_path: Path) -> None:
        now = time.time()
        taken = {}
        for version in ("1", "2"):
            writer = self.make(tmp_path, version, sample=0.3)
            for i in range(1000):
                writer.write(
                    f"r-{i}", now, [f"{version}-{i}a", f"{version}-{i}b"], [{"age": 1.0}] * 2, [1.0] * 2, 1.0, 200
                )
            writer.close()
            rows = self.log(tmp_path).read(MODEL, now - 1, now + 1, versions=[version])
            assert (rows.groupby("request_id").size() == 2).all()
            taken[version] = set(rows["request_id"])
        assert taken["1"] == taken["2"]
        assert 230 < len(taken["1"]) < 370
        assert self.log(tmp_path).watermark(MODEL).dropped == 0

    @pytest.mark.parametrize("value", [object(), {"a": 1}, [1, 2], b"\xff", "\ud800", 10**400, float("inf")])
    def test_no_value_can_break_a_request_or_the_log(self, tmp_path: Path, value: Any) -> None:
        now = time.time()
        writer = self.make(tmp_path)
        self.one(writer, "odd", now, rows=[{"age": value, "plan": value}], outputs=[value])
        self.one(writer, "good", now)
        writer.close()
        log = self.log(tmp_path)
        assert log.count(MODEL, now - 1, now + 1) + log.watermark(MODEL).dropped == 2
        assert "p-good" in log.read(MODEL, now - 1, now + 1)["prediction_id"].tolist()
