"""The spool: killed at every line, out of order, twice, on a full disk, into S3; nothing lost, nothing doubled.

DEMAND SRV-6
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import seldonevents
from collectors import START, Away, Clock, Killed, dead, event, logged, pair, steps
from s3 import bucket, environment

from windtunnel.errors import DataError, StackError, UnavailableError
from windtunnel.serving.collector import inbox, places
from windtunnel.serving.collector.keeper import IDLE_S, Keeper
from windtunnel.serving.collector.places import Folder
from windtunnel.serving.collector.writers import GONE_S, Writers, check_mark
from windtunnel.serving.predictions import PredictionLog
from windtunnel.serving.predictions.watermark import Mark


@pytest.fixture
def keep(tmp_path: Path) -> Iterator[Callable[..., Keeper]]:
    """Keepers of one spool and one log, one after the other."""
    made: list[Keeper] = []

    def make(**more: Any) -> Keeper:
        for one in made:
            dead(one)
        made.append(Keeper(tmp_path / "spool", more.pop("place", Folder(tmp_path / "log")), **more))
        return made[-1]

    yield make
    for one in made:
        dead(one)


def test_rows_come_out_as_they_were_sent(keep: Callable[..., Keeper], tmp_path: Path) -> None:
    clock = Clock()
    keeper = keep(clock=clock)
    halves = [half for number in range(20) for half in pair(number)]
    random.Random(1).shuffle(halves)
    for half in halves:
        assert keeper.take([half]) == [True]
    assert keeper.take(halves) == [False] * 40
    assert keeper.held_bytes > 0
    assert keeper.flush() == 20
    assert keeper.held_bytes == 0
    log = PredictionLog(tmp_path / "log")
    frame = log.read("visits", START - 60, START + 60, versions=["3"])
    assert sorted(frame["feature_age"]) == [float(n) for n in range(20)]
    assert (frame["prediction"] == 2 * frame["feature_age"]).all()
    assert (frame["prediction_id"] == frame["request_id"] + "-0").all()
    assert set(frame["latency_ms"].round(3)) == {10.0}
    assert set(frame["status"]) == {200} and not frame["shadow"].any()
    mark = log.watermark("visits", START)
    assert (mark.time, mark.stale, mark.rows, mark.writers) == (START - keeper.lateness_s, False, 20, 1)
    clock.now += 100
    assert keeper.flush() == 0
    assert log.watermark("visits", clock.now).time == clock.now - keeper.lateness_s
    assert log.watermark("visits", clock.now + 60).stale
    clock.now += IDLE_S + 1
    keeper.flush()
    assert log.watermark("visits", clock.now).writers == 0


def test_a_half_holds_the_watermark_until_it_is_given_up(keep: Callable[..., Keeper], tmp_path: Path) -> None:
    clock = Clock()
    keeper = keep(clock=clock, window_s=60)
    keeper.take(pair(1)[:1] + pair(2))
    clock.now += 30
    assert keeper.flush() == 1
    log = PredictionLog(tmp_path / "log")
    assert log.watermark("visits", clock.now).time == START
    clock.now += 31
    assert keeper.flush() == 1
    assert log.watermark("visits", clock.now).time == clock.now - keeper.lateness_s
    frame = log.read("visits", START - 1, START + 1).set_index("request_id")
    assert frame.loc["r1", "error"] == "no answer was logged" and frame["error"].isna().sum() == 1
    assert (keeper.tally.unanswered, keeper.tally.rows, keeper.waiting) == (1, 2, 0)


def test_two_hours_two_versions_two_models(keep: Callable[..., Keeper], tmp_path: Path) -> None:
    keeper = keep(clock=Clock())
    keeper.take(pair(1) + pair(2, START + 1800, predictor="v4") + pair(3, START - 3600, model="other"))
    assert keeper.flush() == 3
    names = sorted(path.relative_to(tmp_path / "log").parts[:-1] for path in (tmp_path / "log").rglob("*.parquet"))
    assert len(names) == 3 and {name[0] for name in names} == {"visits", "other"}
    assert PredictionLog(tmp_path / "log").count("visits", START, START + 3600, versions=["4"]) == 1


# -- killed


def _life(keeper: Keeper, clock: Clock, acknowledged: list[str]) -> None:
    """Two flushes: pairs, a half that waits over a flush, one that is given up, one that comes twice."""
    for batch in ([*pair(0), pair(1)[0]], [pair(2)[1], pair(9)[0]]):
        keeper.take(batch)
        acknowledged += [half.request_id for half, _ in batch]
    keeper.flush()
    keeper.take([pair(1)[1], *pair(3), pair(0)[0]])
    acknowledged += ["r1", "r3"]
    clock.now += 61
    keeper.flush()
    keeper.flush()


#: ``_life`` takes about so many steps on the disk; one more than there are is a life that was not killed.
STEPS = 130


def test_killed_before_every_step_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    """In place of each write, sync, rename and removal the process dies; its successor ends with the same rows."""
    ends = 0
    for step in range(STEPS):
        folder = tmp_path / str(step)
        clock, acknowledged = Clock(), list[str]()
        keeper = None
        with pytest.MonkeyPatch.context() as patch:
            place = Folder(folder / "log")
            folder.joinpath("spool").mkdir()
            steps(patch, step)
            try:
                keeper = Keeper(folder / "spool", place, clock=clock)
                _life(keeper, clock, acknowledged)
                ends += 1
            except Killed:
                pass
        if keeper is not None:
            dead(keeper)
        else:  # killed while it began: the lock went with the process
            for open_file in Path("/proc/self/fd").iterdir():
                with contextlib.suppress(OSError):
                    if open_file.readlink() == folder / "spool" / "lock":
                        os.close(int(open_file.name))
        clock.now += 1
        successor = Keeper(folder / "spool", Folder(folder / "log"), clock=clock)
        # Senders send again what was not acknowledged, and some of what was.
        again = [*pair(0), *pair(1), pair(2)[1], *pair(3), pair(9)[0]]
        successor.take(again)
        successor.flush()
        clock.now += 61
        successor.flush()
        assert logged(folder / "log") == ["r0-0", "r1-0", "r2-0", "r3-0", "r9-0"], f"killed before step {step}"
        assert set(acknowledged) <= {"r0", "r1", "r2", "r3", "r9"}
        assert successor.tally.rows == 5, f"killed before step {step}"
        assert PredictionLog(folder / "log").watermark("visits", clock.now).rows == 5
        assert not inbox.numbers(folder / "spool", "events")
        dead(successor)
        if ends:
            assert step > 60, "the disk is not watched any more"
            return
    pytest.fail(f"a life takes more than {STEPS} steps")


def test_acknowledged_events_need_nobody_to_send_them_again(tmp_path: Path) -> None:
    """Killed before each step, and what was acknowledged is not sent again: it is there all the same."""
    for step in range(0, STEPS, 3):
        folder = tmp_path / str(step)
        clock, acknowledged = Clock(), list[str]()
        folder.joinpath("spool").mkdir(parents=True)
        keeper = Keeper(folder / "spool", Folder(folder / "log"), clock=clock)
        with pytest.MonkeyPatch.context() as patch:
            steps(patch, step)
            with contextlib.suppress(Killed):
                _life(keeper, clock, acknowledged)
        dead(keeper)
        clock.now += 61
        successor = Keeper(folder / "spool", Folder(folder / "log"), clock=clock)
        successor.flush()
        found = logged(folder / "log")
        assert len(found) == len(set(found))
        assert {f"{one}-0" for one in acknowledged} <= set(found), f"killed before step {step}"
        dead(successor)


def test_a_torn_event_is_left_out(keep: Callable[..., Keeper], tmp_path: Path) -> None:
    keeper = keep(clock=Clock())
    keeper.take(pair(1))
    (path,) = (tmp_path / "spool").glob("*.events")
    with path.open("ab") as file:
        file.write(pair(2)[0][1][:-3])
    assert keep(clock=Clock()).flush() == 1
    assert logged(tmp_path / "log") == ["r1-0"]


def test_a_second_collector_does_not_get_the_spool(keep: Callable[..., Keeper], tmp_path: Path) -> None:
    keep()
    with pytest.raises(StackError, match="another collector"):
        Keeper(tmp_path / "spool", Folder(tmp_path / "log"))


def test_a_new_spool_writes_over_nothing(keep: Callable[..., Keeper], tmp_path: Path) -> None:
    """The volume was lost: numbers begin again, names do not."""
    clock = Clock()
    for number in range(2):
        keeper = Keeper(tmp_path / f"spool{number}", Folder(tmp_path / "log"), clock=clock)
        keeper.take(pair(number))
        keeper.flush()
        dead(keeper)
        clock.now += 1
    assert logged(tmp_path / "log") == ["r0-0", "r1-0"]


# -- trouble with the disk and the place


def test_a_full_disk_acknowledges_nothing_and_loses_nothing(
    keep: Callable[..., Keeper], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = keep(clock=Clock())
    keeper.take(pair(1))
    real = os.pwrite

    def full(descriptor: int, data: bytes, offset: int) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    def half_full(descriptor: int, data: bytes, offset: int) -> int:
        monkeypatch.setattr(os, "pwrite", full)
        return real(descriptor, data[: len(data) // 2], offset)

    monkeypatch.setattr(os, "pwrite", half_full)
    with pytest.raises(OSError, match="No space"):
        keeper.take(pair(2))
    monkeypatch.setattr(os, "pwrite", real)
    assert keeper.take(pair(3)) == [True, True]
    assert keep(clock=Clock()).flush() == 2
    assert logged(tmp_path / "log") == ["r1-0", "r3-0"]


def test_while_the_store_is_away_events_are_kept_and_published_after(
    keep: Callable[..., Keeper], tmp_path: Path
) -> None:
    place, clock = Away(tmp_path / "log"), Clock()
    keeper = keep(place=place, clock=clock)
    keeper.take(pair(1))
    for _ in range(3):
        with pytest.raises(UnavailableError):
            keeper.flush()
        keeper.take(pair(2))
    assert keeper.error is not None and keeper.held_bytes > 1000
    keeper = keep(place=place, clock=clock)
    with pytest.raises(UnavailableError):
        keeper.flush()
    place.away = False
    assert keeper.flush() == 2
    assert keeper.error is None
    assert logged(tmp_path / "log") == ["r1-0", "r2-0"]


def test_a_hundred_thousand_rows(keep: Callable[..., Keeper], tmp_path: Path) -> None:
    keeper = keep(clock=Clock())
    body, answer = seldonevents.asks(*(float(n) for n in range(50)), names=("a", "b")), seldonevents.answers(*range(50))
    for batch in range(20):
        halves = []
        for number in range(batch * 100, batch * 100 + 100):
            halves.append(event("request", f"r{number}", body))
            halves.append(event("response", f"r{number}", answer))
        keeper.take(halves)
        if batch % 7 == 6:
            keeper.flush()
    keeper.flush()
    log = PredictionLog(tmp_path / "log")
    table = log.table("visits", START - 60, START + 60, columns=["prediction_id", "feature_b", "prediction"])
    assert table.num_rows == 100_000
    assert log.watermark("visits", START).rows == 100_000
    assert sum(table.column("prediction").to_pylist()) == 2000 * sum(range(50))


# -- S3


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of a real S3 API on loopback."""
    with bucket() as (client, name):
        for variable, value in environment(client).items():
            monkeypatch.setenv(variable, value)
        yield f"s3://{name}/log"


def test_the_log_may_lie_in_an_object_store(keep: Callable[..., Keeper], s3: str) -> None:
    from windtunnel.data import objects

    keeper = keep(place=places.connect(s3), clock=Clock())
    keeper.take(pair(1) + pair(2, START - 3600))
    assert keeper.flush() == 2
    keys = list(objects.connect(s3).sizes("visits/"))
    assert len([key for key in keys if key.endswith(".parquet")]) == 2
    assert "visits/_watermark/collector-0.json" in keys


@pytest.mark.parametrize("url", ["relative/folder", "ftp://x/y", "file://host/x"])
def test_no_log_lies_anywhere_else(url: str) -> None:
    with pytest.raises(DataError, match=r"no object store|no absolute folder"):
        places.connect(url)


# -- writers that send their own


def test_a_writer_that_went_is_closed_and_said(tmp_path: Path) -> None:
    clock, place = Clock(), Folder(tmp_path / "log")
    writers = Writers(tmp_path, place, clock)
    mark = Mark("visits", "3", "pod_1", flushed_through=START, at=START)
    writers.heard("visits/3-pod_1.json", mark)
    assert not writers.sweep() and writers.living == 1
    clock.now += GONE_S + 1
    again = Writers(tmp_path, place, clock)
    assert not again.sweep(), "it could not be heard of while nobody listened"
    clock.now += GONE_S + 1
    assert again.sweep() == ["visits/3-pod_1.json"]
    found = PredictionLog(tmp_path / "log").watermark("visits", time.time())
    assert (found.writers, again.living) == (0, 0)
    text = (tmp_path / "log/visits/_watermark/3-pod_1.json").read_bytes()
    assert check_mark("visits/3-pod_1.json", text).closed
    assert "may be lost" in text.decode()
