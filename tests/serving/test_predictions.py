"""The prediction log of the local model servers (DEMAND SRV-6)."""

from __future__ import annotations

import errno
import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import waiting
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.serving.predictions import PredictionLog, columns, publish, spool, watermark
from windtunnel.serving.predictions.writer import PredictionWriter, in_sample, new_prediction_ids

_SUITE = Path(__file__).parents[1] / "conformance" / "prediction_log.py"
_spec = importlib.util.spec_from_file_location("conformance_prediction_log", _SUITE)
assert _spec
assert _spec.loader
suite = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(suite)
MODEL = "visits"


def make(root: Path, version: str = "1", instance: str = "0", **more: Any) -> PredictionWriter:
    settings: dict[str, Any] = {"flush_s": 0.2, "features": ["age", "plan"], "lateness_s": 0.05} | more
    return PredictionWriter(root, MODEL, version, instance, **settings)


class TestConformance(suite.PredictionLogConformance):  # type: ignore[name-defined, misc]
    def make(self, root: Path, version: str = "1", instance: str = "0", **more: Any) -> PredictionWriter:
        return make(root, version, instance, flush_s=self.flush_s, **more)


def write(writer: PredictionWriter, key: str, at: float, **row: Any) -> None:
    writer.write(f"r-{key}", at, [f"p-{key}"], [row or {"age": 1.0, "plan": "a"}], [1.0], 1.0, 200)


# -- kill -9

_VICTIM = """
import sys, time
from pathlib import Path
from windtunnel.serving.predictions.writer import PredictionWriter
root, sent = Path(sys.argv[1]), open(sys.argv[2], "ab", buffering=0)
writer = PredictionWriter(root, "visits", "1", "0", flush_s=0.15, features=["age"], spool_s=0.05)
print("ready", flush=True)
i = 0
while True:
    now = time.time()
    name = f"{sys.argv[3]}-{i}"
    writer.write(name, now, [name], [{"age": float(i)}], [1.0], 1.0, 200)
    sent.write(f"{name} {now}\\n".encode())
    i += 1
    time.sleep(0.0005)
"""


def kill_after(root: Path, sent: Path, run: int, seconds: float) -> None:
    """Start a writing process, kill it with -9 after ``seconds``."""
    process = subprocess.Popen([sys.executable, "-c", _VICTIM, str(root), str(sent), str(run)], stdout=subprocess.PIPE)
    try:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        time.sleep(seconds)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout
        process.stdout.close()


def check_after_kills(root: Path, sent: Path, deaths: int, window_s: float) -> None:
    log = PredictionLog(root)
    lines = {name: float(at) for name, at in map(str.split, sent.read_text().splitlines())}
    # By the victim's own last row and not by the clock of its end: a machine may let it wait before it is killed.
    ended = {name.split("-")[0]: at for name, at in lines.items()}
    rows = log.read(MODEL, 0, time.time() + 10)
    ids = rows["prediction_id"].tolist()
    assert len(ids) == len(set(ids))
    raw = [i for path in root.rglob("*.parquet") for i in pq.read_table(path)["prediction_id"].to_pylist()]
    assert len(raw) == len(set(raw)), "published twice"
    mark = log.watermark(MODEL)
    lost = set(lines) - set(ids)
    # One write may have been counted and not noted down by the victim, per death.
    assert len(lost) <= mark.dropped <= len(lost) + deaths
    assert mark.rows == len(ids)
    for name in lost:
        assert ended[name.split("-")[0]] - lines[name] <= window_s, "a row older than the flush window was lost"


def test_killed_writers_and_their_successors(tmp_path: Path) -> None:
    """Each successor publishes what its predecessor left; the sweep what the last one left."""
    root, sent = tmp_path / "log", tmp_path / "sent"
    dice = random.Random(7)
    for run in range(3):
        kill_after(root, sent, run, dice.uniform(0.0, 0.5))
    assert spool.counts_files(root / MODEL / "_spool" / "1-0")
    assert publish.sweep(root) == 1
    assert publish.sweep(root) == 0
    check_after_kills(root, sent, 3, 0.15 + 0.25)
    assert watermark.read_all(root, MODEL)[0].closed


@pytest.mark.long
def test_many_kills(tmp_path: Path) -> None:
    root, sent = tmp_path / "log", tmp_path / "sent"
    dice = random.Random(11)
    for run in range(40):
        kill_after(root, sent, run, dice.uniform(0.0, 0.6))
        if dice.random() < 0.5:
            publish.sweep(root)
    publish.sweep(root)
    check_after_kills(root, sent, 40, 0.15 + 0.25)


def test_a_recovery_killed_at_any_step_is_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recovery stops after each of its writes in turn; whoever comes next ends in the same place."""
    root, sent = tmp_path / "log", tmp_path / "sent"
    kill_after(root, sent, 0, 0.4)
    real_publish, real_write, real_unlink = publish.publish, watermark.write, Path.unlink
    steps = 0

    class Killed(BaseException):
        pass

    for stop_at in range(1, 8):
        steps = 0

        def counted(function: Any, stop_at: int = stop_at) -> Any:
            def wrapped(*args: Any, **more: Any) -> Any:
                nonlocal steps
                steps += 1
                if steps >= stop_at:
                    raise Killed
                return function(*args, **more)

            return wrapped

        with monkeypatch.context() as patch:
            patch.setattr(publish, "publish", counted(real_publish))
            patch.setattr(watermark, "write", counted(real_write))
            patch.setattr(Path, "unlink", counted(real_unlink))
            try:
                publish.sweep(root)
            except Killed:
                continue
        break
    assert steps >= 2
    publish.sweep(root)
    check_after_kills(root, sent, 1, 0.4)


def test_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    writer = make(tmp_path, flush_s=30)
    write(writer, "a", time.time())
    time.sleep(0.4)
    assert spool.spool_files(tmp_path / MODEL / "_spool" / "1-0")
    assert publish.sweep(tmp_path) == 0
    assert spool.spool_files(tmp_path / MODEL / "_spool" / "1-0")
    writer.close()
    assert PredictionLog(tmp_path).watermark(MODEL).rows == 1


def test_two_writers_of_one_name_do_not_meet(tmp_path: Path) -> None:
    """The new server of a version starts while the old one drains."""
    now = time.time()
    first, second = make(tmp_path), make(tmp_path)
    write(first, "a", now)
    write(second, "b", now)
    first.close()
    second.close()
    rows = PredictionLog(tmp_path).read(MODEL, now - 1, now + 1)
    assert dict(zip(rows["prediction_id"], rows["instance"], strict=True)) == {"p-a": "0", "p-b": "0_2"}


# -- trouble with the disk


def test_disk_full_is_retried_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = True
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    writer = make(tmp_path)
    monkeypatch.setattr(os, "fsync", fsync)
    now = time.time()
    for i in range(20):
        write(writer, str(i), now)
        time.sleep(0.02)
    waiting.until(lambda: "No space left" in (writer.error or ""), every_s=0.05)
    assert PredictionLog(tmp_path).count(MODEL, now - 1, now + 9) == 0
    assert (PredictionLog(tmp_path).watermark(MODEL).time or 0) <= now
    full = False
    writer.close()
    assert PredictionLog(tmp_path).count(MODEL, now - 1, now + 9) == 20
    assert PredictionLog(tmp_path).watermark(MODEL).dropped == 0


def test_a_spool_that_cannot_be_written_fills_the_buffer_then_drops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pwrite(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = make(tmp_path, buffer_rows=30)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        now = time.time()
        for i in range(50):
            write(writer, str(i), now)
        waiting.until(lambda: writer.counts["dropped"] == 20, every_s=0.05)
        time.sleep(0.3)
        assert writer.counts["dropped"] == 20
    writer.close()
    assert PredictionLog(tmp_path).count(MODEL, now - 1, now + 1) == 30
    assert PredictionLog(tmp_path).watermark(MODEL).dropped == 20


def test_a_root_that_cannot_be_made_does_not_stop_the_server(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("not a folder")
    writer = make(tmp_path / "log")
    now = time.time()
    write(writer, "a", now)
    waiting.until(lambda: writer.error, every_s=0.05)
    (tmp_path / "log").unlink()
    time.sleep(0.6)
    writer.close()
    assert PredictionLog(tmp_path / "log").count(MODEL, now - 1, now + 1) == 1


def test_a_request_is_never_slowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that hangs for a second is not felt: the dearest of a thousand writes stays far below it."""
    real = os.fsync

    def slow(descriptor: int) -> None:
        time.sleep(1.0)
        real(descriptor)

    writer = make(tmp_path, flush_s=0.05)
    monkeypatch.setattr(os, "fsync", slow)
    worst = 0.0
    for i in range(1000):
        begin = time.perf_counter()
        write(writer, str(i), time.time())
        worst = max(worst, time.perf_counter() - begin)
        time.sleep(0.0005)
    monkeypatch.setattr(os, "fsync", real)
    writer.close()
    assert worst < 0.5


# -- spool frames


@given(cut=st.integers(0, 400), noise=st.binary(max_size=40))
@settings(max_examples=60, deadline=None)
def test_a_torn_spool_gives_its_whole_frames(tmp_path_factory: pytest.TempPathFactory, cut: int, noise: bytes) -> None:
    path = tmp_path_factory.mktemp("spool") / "1-1.spool"
    file = spool.SpoolFile(path)
    sizes = []
    for i in range(3):
        file.append(pa.table({"x": [i, i]}), upto=2 * (i + 1))
        sizes.append(file.size)
    file.close()
    keep = max(0, sizes[-1] - cut)
    path.write_bytes(path.read_bytes()[:keep] + noise)
    tables, upto = spool.read_spool(path)
    whole = sum(size <= keep for size in sizes)
    assert len(tables) == whole
    assert upto == 2 * whole
    path.unlink()


def test_a_failed_append_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = spool.SpoolFile(tmp_path / "1-1.spool")
    file.append(pa.table({"x": [1]}), 1)
    real = os.pwrite
    calls = 0

    def half(descriptor: int, data: bytes, offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            return real(descriptor, data[: len(data) // 2], offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", half)
        with pytest.raises(OSError):
            file.append(pa.table({"x": [2] * 100}), 101)
    file.append(pa.table({"x": [3]}), 2)
    tables, upto = spool.read_spool(file.path)
    assert [table["x"].to_pylist() for table in tables] == [[1], [3]]
    assert upto == 2


# -- columns


def test_a_declared_column_keeps_its_type(tmp_path: Path) -> None:
    now = time.time()
    writer = make(tmp_path, kinds={"age": "numeric", "plan": "categorical"})
    write(writer, "odd", now, age="forty", plan=3)
    write(writer, "good", now, age=40, plan="free")
    writer.close()
    rows = PredictionLog(tmp_path).table(MODEL, now - 1, now + 1).to_pydict()
    by_id = dict(zip(rows["prediction_id"], zip(rows["feature_age"], rows["feature_plan"], strict=True), strict=True))
    assert by_id == {"p-odd": (None, "3"), "p-good": (40.0, "free")}
    assert watermark.read_all(tmp_path, MODEL)[0].misfits == 1


def test_an_undeclared_column_widens(tmp_path: Path) -> None:
    """Files of one version may then differ; a reader sees one type, and no value is lost."""
    now = time.time()
    writer = make(tmp_path, flush_s=0.05)
    for i, value in enumerate([True, 2, 2.5, "three", None, float("nan")]):
        write(writer, str(i), now + i * 1e-3, age=value)
        time.sleep(0.15)
    writer.close()
    values = PredictionLog(tmp_path).table(MODEL, now - 1, now + 1)["feature_age"].to_pylist()
    assert values == ["true", "2", "2.5", "three", None, "nan"]


def test_nan_and_missing_are_told_apart(tmp_path: Path) -> None:
    now = time.time()
    writer = make(tmp_path)
    write(writer, "0", now, age=float("nan"))
    write(writer, "1", now + 0.001, age=None)
    writer.close()
    first, second = PredictionLog(tmp_path).table(MODEL, now - 1, now + 1)["feature_age"].to_pylist()
    assert first != first
    assert second is None


def test_numpy_and_columns_as_they_come_from_a_server(tmp_path: Path) -> None:
    import numpy as np

    now = time.time()
    writer = make(tmp_path)
    writer.write(
        "r", now, ["a", "b"], {"age": np.array([1, 2]), "plan": ["x", None]}, np.array([0.5, 1.5], dtype="float32"),
        np.float64(1.0), np.int64(200), confidence=np.array([0.1, 0.2]),
    )  # fmt: skip
    writer.close()
    rows = PredictionLog(tmp_path).table(MODEL, now - 1, now + 1)
    assert rows["feature_age"].to_pylist() == [1.0, 2.0]
    assert rows["feature_plan"].to_pylist() == ["x", None]
    assert rows["prediction"].to_pylist() == [0.5, 1.5]
    assert rows["status"].to_pylist() == [200, 200]


@given(st.lists(st.sampled_from(["null", "bool", "double", "string"]), min_size=1), st.data())
def test_the_widest_type_holds_all(kinds: list[str], data: st.DataObject) -> None:
    shuffled = data.draw(st.permutations(kinds))
    assert columns.widest(kinds) == columns.widest(shuffled)
    assert columns.widest([*kinds, columns.widest(kinds)]) == columns.widest(kinds)


# -- watermarks


def mark(**more: Any) -> watermark.Mark:
    return watermark.Mark(
        **({"model": MODEL, "version": "1", "instance": "0", "flushed_through": 100.0, "at": 101.0} | more)
    )


def test_closed_writers_do_not_hold_living_ones() -> None:
    found = watermark.combine([mark(closed=True, flushed_through=50.0, dropped=2), mark(version="2")], now=102.0)
    assert (found.time, found.stale, found.dropped, found.writers) == (100.0, False, 2, 1)


def test_a_silent_writer_is_named() -> None:
    found = watermark.combine([mark(), mark(version="2", at=50.0, error="No space left on device")], now=102.0)
    assert found.stale
    assert "2-0" in found.reason
    assert "No space left" in found.reason


@given(st.lists(st.tuples(st.floats(0, 1000), st.floats(0, 1000), st.booleans()), min_size=1, max_size=8))
def test_no_living_writer_is_ahead_of_the_watermark(drawn: list[tuple[float, float, bool]]) -> None:
    marks = [mark(flushed_through=f, at=a, closed=c) for f, a, c in drawn]
    found = watermark.combine(marks, now=1000.0)
    living = [m.flushed_through for m in marks if not m.closed]
    if living:
        assert found.time == min(living)
        assert found.stale == any(1000.0 - m.at > watermark.stale_after(m) for m in marks if not m.closed)


def test_a_request_in_flight_holds_the_watermark(tmp_path: Path) -> None:
    writer = make(tmp_path, flush_s=0.1)
    log = PredictionLog(tmp_path)
    began = time.time()
    ticket = writer.started(began)
    waiting.until(lambda: log.watermark(MODEL).time is not None, every_s=0.05)
    time.sleep(0.5)
    held = log.watermark(MODEL).time
    assert held is not None
    assert held <= began
    write(writer, "slow", began)
    writer.finished(ticket)
    waiting.until(lambda: (log.watermark(MODEL).time or 0) > began, every_s=0.02)
    assert log.count(MODEL, began - 1, began + 1) == 1
    assert log.watermark(MODEL).late == 0
    writer.close()


# -- once


@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from(["1", "2"])), max_size=40))
@settings(max_examples=15, deadline=None)
def test_each_prediction_of_a_version_once(
    tmp_path_factory: pytest.TempPathFactory, sent: list[tuple[int, str]]
) -> None:
    root = tmp_path_factory.mktemp("once")
    base = 1_767_225_600.0
    schema = columns.empty_schema()
    for n, (key, version) in enumerate(sent):
        row: dict[str, Any] = dict.fromkeys(schema.names)
        row |= {"prediction_id": f"p{key}", "version": version, "time": round((base + n) * 1e6)}
        table = pa.table({name: pa.array([row[name]], schema.field(name).type) for name in schema.names})
        publish.publish(root, MODEL, f"{version}-0-{n}", [table])
    rows = PredictionLog(root).read(MODEL, base, base + 100)
    assert sorted(zip(rows["prediction_id"], rows["version"], strict=True)) == sorted({(f"p{k}", v) for k, v in sent})
    firsts = {(f"p{k}", v): n for n, (k, v) in reversed(list(enumerate(sent)))}
    for name, version, at in zip(rows["prediction_id"], rows["version"], rows["time"], strict=True):
        assert round(at.timestamp() - base) == firsts[(name, version)]
    assert rows["time"].is_monotonic_increasing


def test_prediction_ids_are_fresh() -> None:
    ids = [one for _ in range(100) for one in new_prediction_ids(3)]
    assert len(set(ids)) == 300


@given(st.text(max_size=20))
def test_the_sampling_rule_nests(request_id: str) -> None:
    """Who is in a small sample is in every larger one."""
    taken = [in_sample(request_id, fraction) for fraction in (0.0, 0.1, 0.5, 0.9, 1.0)]
    assert taken == sorted(taken)
    assert taken[-1]
    assert not taken[0]
