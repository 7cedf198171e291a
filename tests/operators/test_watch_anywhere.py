"""Tasks of ``MODEL.watch`` on workers that share an object store and no disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import fakeseldon
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from airflow.sdk import AssetAlias
from airflow.sdk.exceptions import AirflowSkipException

from windtunnel.data.objects import FolderObjects
from windtunnel.data.steps import step_folder
from windtunnel.evidence import Kind, Outcome, Verdict
from windtunnel.home import Home
from windtunnel.monitoring import keeping, windows
from windtunnel.serving.collector.places import connect
from windtunnel.serving.predictions import publish, watermark
from windtunnel.serving.predictions.labelstore import hand_in
from windtunnel.serving.predictions.watermark import Mark
from windtunnel.tracking.pods.keeping import tidy
from windtunnel_airflow import (
    DataCheckOperator,
    RegisterOperator,
    WatchDriftOperator,
    WatchPerformanceOperator,
    WatchReactOperator,
    WatchReportOperator,
    WatchWindowOperator,
    WindtunnelHook,
    places,
)

DIGEST = "sha256:" + "ab" * 32


class Registry:
    """What the tasks ask of the registry and tell it."""

    def __init__(self) -> None:
        self.posted: list[Any] = []

    def champion(self, model: str) -> Any:
        return SimpleNamespace(version="1", digest=DIGEST)

    def post_verdict(self, verdict: Any) -> str:
        self.posted.append(verdict)
        return str(verdict.id)

    def pending(self, model: str) -> None:
        return None

    def rollouts(self, model: str, limit: int) -> list[Any]:
        return []


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    made = Registry()
    monkeypatch.setattr(WindtunnelHook, "connected", lambda self, timeout: made)
    return made


@pytest.fixture
def work_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """From now on this process is the worker of that name: its home is its own, the connections are everybody's."""
    with fakeseldon.cluster() as cluster:
        seldon = {"image": "i", "registry": "r", "kubeconfig": cluster.kubeconfig(tmp_path / "c"),
                  "predictions": (tmp_path / "log").as_uri()}  # fmt: skip
        plain = {"conn_type": "windtunnel_seldon", "extra": seldon}
        monkeypatch.setenv("AIRFLOW_CONN_WINDTUNNEL_SELDON", json.dumps(plain))

        def at(name: str) -> Path:
            extra = {"home": str(tmp_path / name), "store": (tmp_path / "store").as_uri()}
            ours = {"conn_type": "windtunnel", "host": "http://127.0.0.1", "port": 9, "extra": extra}
            monkeypatch.setenv("AIRFLOW_CONN_WINDTUNNEL_DEFAULT", json.dumps(ours))
            return tmp_path / name

        yield at
        places.forget()


def collected(log: Path, start: float, frame: pd.DataFrame) -> None:
    """Rows over the minute from ``start`` on, as a collector writes them."""
    n = len(frame)
    moments = pd.to_datetime(((start + np.arange(n) * 60 / n) * 1e6).astype("int64"), unit="us", utc=True)
    names = [f"p{i}" for i in range(n)]
    columns = {"prediction_id": names, "request_id": names, "time": moments, "model": "small", "version": "1",
               "arm": "champion", "status": 200, "instance": "0", "shadow": False}  # fmt: skip
    columns |= {f"feature_{name}": frame[name] for name in frame} | {"prediction": frame["a"]}
    table = pa.Table.from_pandas(pd.DataFrame(columns), preserve_index=False)
    at = table.schema.get_field_index("time")
    connect(log.as_uri()).rows(
        "small", "1-0-000001", table.set_column(at, "time", table.column("time").cast(pa.timestamp("us", tz="UTC")))
    )


def context(task: str) -> dict[str, Any]:
    where = {"dag_id": "small.watch", "run_id": "r1"}
    return {"ti": SimpleNamespace(**where, task_id=task), "dag_run": SimpleNamespace(**where, conf={})}


class Outlets(dict[Any, Any]):
    """``context["outlet_events"]``: what a task said by its aliases."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    def __missing__(self, outlet: Any) -> Any:
        return SimpleNamespace(add=lambda asset, extra: self.said.append({"uri": asset.uri, **extra}), extra={})


def test_one_that_is_behind_runs_again_at_once_until_it_has_caught_up(
    describe: Callable[..., Any], work_at: Callable[[str], Path], registry: Registry
) -> None:
    """DEMAND MON-1: after a downtime, or where a run takes longer than a window."""
    home = Home(work_at("one"))
    model = describe(monitoring={"window": "60s", "lateness": "5s"})
    start = time.time() // 60 * 60 - 600
    rows = [
        {"prediction_id": f"p{i}", "request_id": "r", "time": start + i, "model": "small", "version": "1",
         "arm": "champion", "status": 200, "instance": "0", "shadow": False, "prediction": 1.0}
        for i in range(0, 240, 5)
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows)
    at = table.schema.get_field_index("time")
    moments = pa.array([round(row["time"] * 1e6) for row in rows], pa.timestamp("us", tz="UTC"))
    publish.publish(home.predictions, "small", "1-0-000001", [table.set_column(at, "time", moments)])
    watermark.write(home.predictions, Mark("small", "1", "0", start + 250, time.time()), "1-0", durable=False)
    task = WatchWindowOperator(model=model, task_id="window", outlets=[AssetAlias("windtunnel://small/behind/next")])
    woken: list[Any] = []
    seen = []

    def run(*, close: bool) -> list[dict[str, Any]]:
        outlets = Outlets()
        found = task.execute(context("window") | {"outlet_events": outlets, "triggering_asset_events": {"a": woken}})
        seen.append((round(found["start"] - start), found["behind"]))
        state = windows.load(home, "small")
        window = windows.Window(found["start"], found["end"])
        if close:
            windows.save(home, "small", state.close(window, "1"))
        woken[:] = [SimpleNamespace(extra=extra, timestamp=0.0, asset=None) for extra in outlets.said]
        return outlets.said

    [first] = run(close=True)
    assert (first["uri"], first["cause"], first["window_end"]) == ("windtunnel://small/behind", "behind", start + 60)
    [second] = run(close=False)
    assert second["correlation_id"] != first["correlation_id"], "each window is a story of its own"
    assert run(close=False) == [], "what keeps a window open is not tried at once and for ever"
    assert len(run(close=True)) == 1, "the schedule tries again"
    assert len(run(close=True)) == 1
    assert run(close=True) == [], "it has caught up"
    assert seen == [(0, 3), (60, 2), (60, 2), (60, 2), (120, 1), (180, 0)]


def test_any_worker_runs_any_task(
    describe: Callable[..., Any],
    work_at: Callable[[str], Path],
    registry: Registry,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DEMAND MON-7, OPS-9"""
    model = describe(
        target="kubernetes",
        training={"entry_point": "wt_small:train", "target": "local"},
        serving={"log": True},
        monitoring={"window": "60s", "lateness": "5s", "min_rows": 100, "report": False,
                    "performance": {"metric": "rmse"}},
    )  # fmt: skip
    chance = np.random.default_rng(1)
    seen = pd.DataFrame({"t": range(600), "a": chance.normal(size=600), "b": chance.normal(size=600), "y": 1.0})
    rows, holdout = tmp_path / "rows.parquet", tmp_path / "holdout.parquet"
    for path in (rows, holdout):
        seen.to_parquet(path)
    monkeypatch.setattr("windtunnel_airflow.operators.register.predictor", lambda path: lambda frame: frame["a"])
    work_at("trainer")
    given: dict[str, Any] = {"model": model, "task_id": "t"}
    RegisterOperator(data={}, trained={}, evaluated={"numbers": {"rmse": 1.0}}, **given)._keep(
        model, SimpleNamespace(version="1", digest=DIGEST), tmp_path, rows, holdout
    )
    now = time.time()
    start = now // 60 * 60 - 240
    collected(tmp_path / "log", start, seen[["a", "b"]].iloc[:300].add([2.0, 0.0]))
    answers = [{"prediction_id": f"p{i}", "label": 9.0, "label_time": now} for i in range(300)]
    hand_in((tmp_path / "log").as_uri(), "small", answers)
    connect((tmp_path / "log").as_uri()).mark(Mark("small", "1", "0", now, now), "1-0")

    work_at("one")
    window = WatchWindowOperator(**given).execute(context("window"))
    assert (window["start"], window["end"], window["empty"]) == (start, start + 60, False)
    work_at("two")
    drift = WatchDriftOperator(window=window, **given).execute(context("drift"))
    assert drift is not None and (drift["outcome"], drift["numbers"]["rows"]) == ("FAIL", 300), drift
    work_at("three")
    performance = WatchPerformanceOperator(window=window, **given).execute(context("performance"))
    assert performance is not None and performance["outcome"] == "FAIL", performance
    reported = WatchReportOperator(window=window, verdicts=[drift, performance], **given).execute(context("report"))
    assert [str(verdict.kind) for verdict in registry.posted] == ["drift", "performance"]
    work_at("two")
    react = WatchReactOperator(window=window, reported=reported, **given)
    assert react.execute(context("react"))["react"] == "retrain"
    assert react.execute(context("react"))["react"] == "retrain"  # a try whose worker died after it had closed
    work_at("four")
    following = WatchWindowOperator(**given).execute(context("window"))
    assert (following["start"], following["empty"]) == (start + 60, True)
    judged = [WatchDriftOperator(window=following, **given).execute(context("drift"))]
    with pytest.raises(AirflowSkipException, match="nothing failed"):
        WatchReactOperator(window=following, reported={"verdicts": judged}, **given).execute(context("react"))
    for name in ("one", "two", "three", "four"):
        assert not (tmp_path / name / "monitoring").exists()


def test_rows_are_fetched_for_a_report_that_is_due_and_for_no_other(
    describe: Callable[..., Any], work_at: Callable[[str], Path], registry: Registry, tmp_path: Path
) -> None:
    """DEMAND MON-7: a quiet model gets a page an hour; nobody fetches eight windows for the others."""
    model = describe(
        target="kubernetes",
        training={"entry_point": "wt_small:train", "target": "local"},
        serving={"log": True},
        monitoring={"window": "60s", "lateness": "5s", "performance": {"metric": "rmse"}},
    )
    now = time.time()
    start = now // 60 * 60 - 240
    collected(tmp_path / "log", start, pd.DataFrame({"a": [1.0, 2.0], "b": [1.0, 2.0]}))
    window = {"model": "small", "version": "1", "digest": DIGEST, "start": start, "end": start + 60, "empty": False}
    window |= {"stale": False, "dropped": 0, "reason": ""}
    kept = keeping.of(Home(work_at("one")), FolderObjects(tmp_path / "store"))
    before = windows.Window(start - 60, start, dropped=0)
    kept.close({**window, "start": start - 60, "end": start}, windows.Closing(before, "1", now, finding="1:drift:a"))

    def report(worker: str, drifted: str, window: dict[str, Any]) -> tuple[int, str]:
        """Files of the log that the worker has fetched, and what it says."""
        home = work_at(worker)
        verdict = Verdict(
            model="small", kind=Kind.DRIFT, outcome=Outcome.FAIL, reason="r", subject=DIGEST, version="1",
            numbers={"drifted": [drifted]},
        )  # fmt: skip
        task = WatchReportOperator(window=window, verdicts=[verdict.to_dict()], model=model, task_id="t")
        told = task.execute(context("report"))
        return len(list(home.rglob("*.parquet"))), told["reason"]

    assert report("two", "a", window) == (0, "nothing new since the last report")
    later = {**window, "end": start + 61}
    assert report("three", "b", later) == (1, "no sample of the reference was kept")
    assert report("four", "b", later) == (0, "no sample of the reference was kept"), "a second try finds the first's"
    assert len(registry.posted) == 3


def test_pages_of_a_data_check_are_beside_the_outputs_in_the_store(
    describe: Callable[..., Any],
    work_at: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DEMAND OPS-9: Airflow's API server shows them, whichever worker checked."""
    home = Home(work_at("one"))
    folder = step_folder(home, "small.train", "manual__2026-11-22T07:00:00+00:00", "check")
    folder.mkdir(parents=True)
    page = folder / "data-check.html"
    page.write_text("<p>fine</p>")
    page.with_suffix(".json").write_text("{}")

    def kept(target: str) -> tuple[str, str]:
        pod = {"pod": {"image": "i"}} if target == "kubernetes" else {}
        training = {"entry_point": "wt_small:train", "target": target, **pod}
        task = DataCheckOperator(task_id="t", model=describe(training=training), data={})
        uri = task._kept(folder, page)
        task.note_report(uri)
        return uri, task.links_found["report"].partition("/windtunnel/reports/")[2]

    assert kept("local")[0] == str(page)
    store = FolderObjects(tmp_path / "store")
    assert not store.sizes("")
    uri, link = kept("kubernetes")
    address = unquote(link)
    assert uri == f"{store.url}/{address}" and address.endswith("/steps/check/outputs/data-check/data-check.html")
    assert sorted(Path(key).name for key in store.sizes("")) == ["data-check.html", "data-check.json"]
    assert store.get_bytes(address) == b"<p>fine</p>"
    assert tidy(store, time.time() + 31 * 86400).removed["steps"] == 2, "they go when outputs do"
    extra = {"home": str(home.root), "store": "ftp://a/b"}
    broken = {"conn_type": "windtunnel", "host": "http://127.0.0.1", "port": 9, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_WINDTUNNEL_DEFAULT", json.dumps(broken))
    training = {"entry_point": "wt_small:train", "target": "kubernetes", "pod": {"image": "i"}}
    task = DataCheckOperator(task_id="t", model=describe(training=training), data={})
    assert task._kept(folder, page) == str(page), "a page costs no verdict"


def test_a_report_in_the_store_is_linked_to_our_pages(
    describe: Callable[..., Any], work_at: Callable[[str], Path], tmp_path: Path
) -> None:
    home = work_at("one")
    task = WatchReactOperator(task_id="t", model=describe(), window={}, reported={})
    store = FolderObjects(tmp_path / "store").url
    for uri, link in {
        f"{store}/monitoring/small/windows/1-2-v1/report.html": "/monitoring/small/windows/1-2-v1/report.html",
        str(home / "monitoring/small/a b.html"): "/monitoring/small/a%20b.html",
    }.items():
        task.note_report(uri)
        assert task.links_found["report"].endswith(f"/windtunnel/reports{link}")
    for uri in ("s3://other/report.html", "https://reports.example.com/1"):
        task.note_report(uri)
        assert task.links_found["report"] == uri
