"""The spool: in order, once, and never held back by one bad value. DEMAND TRK-7"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from windtunnel.errors import TrainingError, UnavailableError
from windtunnel.tracking.contract import RunSpec
from windtunnel.tracking.run import Run
from windtunnel.tracking.server import MetricPoint, StoreTracking
from windtunnel.tracking.spool import Spool


class Wire:
    """A tracking server at the end of a bad line: keeps what arrives, fails as told."""

    def __init__(self) -> None:
        self.points: list[MetricPoint] = []
        self.facts: dict[str, str] = {}
        self.failures: list[Exception] = []
        self.lost_answers = 0

    def log_batch(
        self, run_id: str, metrics: Sequence[MetricPoint], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> None:
        assert len(metrics) <= 1000 and len(params) <= 100 and len(tags) <= 100
        if self.failures:
            raise self.failures.pop(0)
        self.points += metrics
        self.facts |= {**params, **tags}
        if self.lost_answers:
            self.lost_answers -= 1
            raise UnavailableError("stored, but the answer got lost")

    def set_state(self, run_id: str, state: object, end_time: int | None) -> None: ...

    def create_run(self, experiment: str, name: str, tags: Mapping[str, str], key: str) -> str:
        return "r"

    def artifacts(self, run_id: str, path: str) -> dict[str, int]:
        return {}


def run_in(folder: Path, **more: object) -> Run:
    return Run(RunSpec("r", "visits", "a:b"), folder, **more)  # type: ignore[arg-type]


def test_everything_arrives_in_order_over_many_batches(tmp_path: Path) -> None:
    run, wire = run_in(tmp_path), Wire()
    for step in range(2500):
        run.log(loss=float(step), step=step)
    wire.failures = [UnavailableError("down")]
    spool = Spool(tmp_path)
    with pytest.raises(UnavailableError):
        spool.ship(wire, "r")
    assert spool.pending()
    spool.ship(wire, "r")
    assert [point.step for point in wire.points] == list(range(2500))
    assert not spool.pending()
    spool.ship(wire, "r")
    assert len(wire.points) == 2500


def test_a_lost_answer_sends_the_very_same_values_again(tmp_path: Path, store: str) -> None:
    """At least once with the same times and steps: MLflow keeps one."""
    from mlflow.tracking import MlflowClient

    tracking = StoreTracking(store)
    run_id = tracking.create_run("visits", "spool", {}, "spool")
    run, spool = run_in(tmp_path), Spool(tmp_path)
    run.log(loss=0.5)
    run.log({"loss": math.nan})
    spool.ship(tracking, run_id)
    (tmp_path / "metrics.sent").unlink()  # the machine died before it was noted
    Spool(tmp_path).ship(tracking, run_id)
    found = MlflowClient(tracking_uri=store).get_metric_history(run_id, "loss")
    assert [(point.step, point.value) for point in found[:1]] == [(0, 0.5)]
    assert len(found) == 2


def test_what_is_refused_holds_back_nothing_and_is_noted(tmp_path: Path) -> None:
    run, wire, spool = run_in(tmp_path), Wire(), Spool(tmp_path)
    run.log(bad=1.0)
    spool.set_facts({"a": "1"}, {"b": "2"})
    wire.failures = [TrainingError("param a has another value already"), TrainingError("tag b is too long")]
    spool.ship(wire, "r")
    run.log(good=2.0)
    spool.ship(wire, "r")
    assert [point.key for point in wire.points] == ["bad", "good"]
    assert "param a has another value" in (tmp_path / "refused.log").read_text()


def test_a_torn_last_line_waits_for_its_end(tmp_path: Path) -> None:
    run, wire, spool = run_in(tmp_path), Wire(), Spool(tmp_path)
    run.log(loss=1.0)
    with (tmp_path / "metrics.jsonl").open("ab") as stream:
        stream.write(b'["loss", 2.0, 1')
    spool.ship(wire, "r")
    assert len(wire.points) == 1
    with (tmp_path / "metrics.jsonl").open("ab") as stream:
        stream.write(b', 1]\n["loss", NaN, 1, 2]\n')
    spool.ship(wire, "r")
    assert [point.step for point in wire.points] == [0, 1, 2]
    assert math.isnan(wire.points[2].value)


def test_facts_are_sent_again_only_when_they_have_changed(tmp_path: Path) -> None:
    wire, spool = Wire(), Spool(tmp_path)
    spool.set_facts({f"p{i}": "x" for i in range(250)}, {"t": "1"})
    spool.ship(wire, "r")
    assert len(wire.facts) == 251
    wire.failures = [UnavailableError("would be seen")]
    spool.ship(wire, "r")
    spool.set_facts({}, {"t": "2"})
    with pytest.raises(UnavailableError):
        spool.ship(wire, "r")
    spool.ship(wire, "r")
    assert wire.facts["t"] == "2"


def test_threads_that_log_at_once_lose_nothing(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    threads = [threading.Thread(target=lambda: [run.log(loss=1.0) for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [point.step for point in sorted(Spool(tmp_path).points()[0], key=lambda p: p.step)] == list(range(2000))


def test_a_second_attempt_goes_on_with_each_series(tmp_path: Path) -> None:
    run_in(tmp_path).log(loss=1.0)
    again = run_in(tmp_path, attempt=2)
    again.log(loss=0.5)
    assert Spool(tmp_path).last()["loss"].step == 1
    assert again.best("loss") == 0.5
    assert math.isnan(again.best("nothing"))


@pytest.mark.parametrize("values", [{"a\nb": 1.0}, {"": 1.0}, {"loss": "low"}, {"loss": None}])
def test_what_is_no_metric_is_refused_where_it_is_logged(values: dict[str, float], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="metric"):
        run_in(tmp_path).log(values)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_flush_gives_up_in_its_time_and_keeps_everything(tmp_path: Path) -> None:
    wire = Wire()
    run = run_in(tmp_path, tracking=wire)
    run.log(loss=1.0)
    wire.failures = [UnavailableError("down")] * 9
    with pytest.raises(UnavailableError):
        run.flush(timeout=0.1)
    assert Spool(tmp_path).pending()
    wire.failures = []
    run.flush()
    assert len(wire.points) == 1
    assert os.listdir(tmp_path)  # noqa: PTH208
