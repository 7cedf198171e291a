"""The pure parts: stories, retries, policy, claims, samples, benchmark bounds, references to step data."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import RetryAction

import windtunnel.errors as errors
import windtunnel_airflow
from windtunnel.evidence import Outcome
from windtunnel.home import Home
from windtunnel.names import asset_uri
from windtunnel.registry.records import RolloutRecord, VersionRecord
from windtunnel.spec import Benchmark
from windtunnel_airflow import steps
from windtunnel_airflow.code import import_roots
from windtunnel_airflow.operators.evaluate import judge_benchmark
from windtunnel_airflow.operators.steward import analyze, databases
from windtunnel_airflow.operators.train import parse_params
from windtunnel_airflow.plain import plain
from windtunnel_airflow.retry import WindtunnelRetryPolicy
from windtunnel_airflow.rollouts import (
    desired,
    make_claim,
    need_claim,
    read_claim,
    sentence,
    stage_of,
    watch_of,
    withdrawn,
)
from windtunnel_airflow.samples import keep_sample, settings_for
from windtunnel_airflow.story import Story, story_of

# -- stories


def context(*, conf: Any = None, params: Any = None, events: Any = None, run_type: str = "manual") -> dict[str, Any]:
    run = SimpleNamespace(dag_id="small.train", run_id="run-1", conf=conf, run_type=run_type)
    return {"dag_run": run, "params": params or {}, "triggering_asset_events": events or {}}


def event(at: float, uri: str = "windtunnel://small/drift", **extra: Any) -> Any:
    return SimpleNamespace(timestamp=at, extra=extra, asset=SimpleNamespace(uri=uri))


def test_a_story_is_the_same_in_every_task_and_try() -> None:
    """DEMAND PIP-7"""
    first, again = story_of(context()), story_of(context())
    assert first == again
    assert len(first.correlation_id) == 32
    assert story_of({**context(), "dag_run": SimpleNamespace(dag_id="small.train", run_id="run-2")}) != first


def test_the_newest_event_with_a_payload_tells_the_story() -> None:
    """DEMAND PIP-7"""
    ours = {"model": "small", "correlation_id": "b" * 32, "cause": "drift: lncoins"}
    older = {"model": "small", "correlation_id": "a" * 32, "cause": "drift: older"}
    events = {"drift": [event(1, **older), event(2, **ours)], "data": [event(3, "windtunnel://small/data")]}
    assert story_of(context(events=events)) == Story("b" * 32, "drift: lncoins")


@pytest.mark.parametrize(
    ("given", "cause"),
    [
        ({"events": {"data": [event(3, "windtunnel://small/data")]}}, "event of windtunnel://small/data"),
        ({"params": {"reason": "a better recipe"}}, "a better recipe"),
        ({"conf": {"cause": "drift", "correlation_id": "d" * 32}}, "drift"),
        ({"run_type": "scheduled"}, "scheduled"),
    ],
)
def test_why_a_run_exists(given: dict[str, Any], cause: str) -> None:
    found = story_of(context(**given))
    assert found.cause == cause
    if "conf" in given:
        assert found.correlation_id == "d" * 32


# -- retries


def concrete(base: type[BaseException]) -> list[type[BaseException]]:
    return [base, *(found for sub in base.__subclasses__() for found in concrete(sub))]


@pytest.mark.parametrize(
    "kind",
    [kind for kind in concrete(errors.WindtunnelError) if kind.__module__ == "windtunnel.errors"],
    ids=lambda kind: kind.__name__,
)
def test_retry_by_kind_of_failure(kind: type[errors.WindtunnelError]) -> None:
    """DEMAND PIP-3: only what failed outside is tried again."""
    decision = WindtunnelRetryPolicy().evaluate(kind("it failed"), 1, 3)
    retried = issubclass(kind, (errors.TransientError, errors.UnavailableError))
    assert decision.action is (RetryAction.RETRY if retried else RetryAction.FAIL)


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (ConnectionResetError(), RetryAction.RETRY),
        (TimeoutError(), RetryAction.RETRY),
        (RuntimeError("a bug"), RetryAction.DEFAULT),
    ],
)
def test_errors_that_are_not_ours(error: Exception, action: RetryAction) -> None:
    assert WindtunnelRetryPolicy().evaluate(error, 1, 3).action is action


def test_pauses_double_from_30_to_300_seconds() -> None:
    """DEMAND PIP-3"""
    policy = WindtunnelRetryPolicy.deserialize(WindtunnelRetryPolicy().serialize())
    pauses = [policy.evaluate(errors.TransientError("x"), n, 9).retry_delay for n in range(1, 7)]
    assert pauses == [timedelta(seconds=s) for s in (30, 60, 120, 240, 300, 300)]


# -- claims


def version(number: str) -> VersionRecord:
    return VersionRecord(
        "small", number, f"1.{number}.0", "READY", "candidate", "runs:/x", 1.0, digest=f"sha256:{number}"
    )


def claim_of(describe: Callable[..., Any], champion: str | None) -> dict[str, Any]:
    record = RolloutRecord("r1", "small", "2", champion, 7, "airflow:small.release:run", "running", 50.0, 50.0)
    found = version(champion) if champion else None
    return make_claim(describe(), version("2"), found, record, story=Story("c" * 32, "test"))


def test_a_claim_travels_as_json(describe: Callable[..., Any]) -> None:
    claim = claim_of(describe, "1")
    assert read_claim(json.dumps(claim)) == claim
    assert read_claim("null") is None
    assert read_claim(None) is None
    with pytest.raises(errors.DescriptionError, match="no claim"):
        need_claim("null")
    with pytest.raises(errors.DescriptionError, match="no JSON"):
        read_claim("{")


@pytest.mark.parametrize("champion", ["1", None])
@pytest.mark.parametrize("weight", [0, 5, 100])
def test_desired_states_are_whole(describe: Callable[..., Any], champion: str | None, weight: int) -> None:
    claim = claim_of(describe, champion)
    wanted = desired(claim, weight, {}, now=100.0, stage=0)
    assert sum(arm.weight for arm in wanted.arms()) == (100 if champion else weight)
    assert wanted.lease_until == (100.0 + claim["lease_s"] if weight else None)
    assert (wanted.token, wanted.rollout_id) == (7, "r1")


def test_after_promotion_the_candidate_is_the_champion(describe: Callable[..., Any]) -> None:
    claim = claim_of(describe, "1")
    after = desired(claim, 100, {}, now=None, stage=stage_of(claim, "promoted"), promoted=True)
    assert [(arm.version, arm.weight) for arm in after.arms()] == [("2", 100)]
    assert after.lease_until is None
    assert after.keep_warm_s == 86_400.0
    first = claim_of(describe, None)
    assert [(arm.version, arm.weight) for arm in withdrawn(first).arms()] == [("2", 0)]
    assert withdrawn(first, gone=True).arms() == ()


def test_stages_of_a_release_rise(describe: Callable[..., Any]) -> None:
    """DEMAND ROL-7: a write of an earlier stage is refused, so each stage must be above the one before."""
    claim = claim_of(describe, "1")
    steps = list(range(len(claim["weights"])))
    stages = [stage_of(claim, what) for what in ("deploy", *steps, "promote", "promoted", "withdrawn", "gone")]
    assert stages == sorted(set(stages))
    assert stages[0] == 0


def test_a_first_release_holds_no_lease_while_it_is_watched(describe: Callable[..., Any], tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert watch_of(claim_of(describe, None), step=0, home=home).lease_s == 0
    assert watch_of(claim_of(describe, "1"), step=0, home=home).lease_s == 120


def test_one_sentence_on_the_whole_release(describe: Callable[..., Any]) -> None:
    claim = claim_of(describe, "1")
    assert sentence(claim, {"champion": "2"}, None) == (True, "small 1.2.0 (version 2) is champion")
    well, words = sentence(claim, None, {"done": "was rolled back", "reason": "errors 40 %"})
    assert not well
    assert words == "small 1.2.0 (version 2) was rolled back: errors 40 %"
    assert not sentence(claim, None, None)[0]
    assert not sentence(None, None, None)[0]


# -- what is kept for a version


def test_warm_up_rows_come_back(describe: Callable[..., Any], tmp_path: Path) -> None:
    import numpy as np

    home, model = Home(tmp_path), describe()
    rows = [{"a": np.float64(n), "b": math.nan, "y": 1.0} for n in range(50)]
    keep_sample(home, model, "2", rows)
    found = settings_for(home, model, claim_of(describe, "1"))
    assert len(found["2"]["warmup"]) == 32
    assert found["2"]["warmup"][3] == {"a": 3.0, "b": None}
    assert found["1"]["warmup"] == []  # registered elsewhere
    assert found["1"]["features"] == found["2"]["features"]
    json.dumps(found, allow_nan=False)


# -- benchmark


@pytest.mark.parametrize(
    ("numbers", "bounds", "outcome", "word"),
    [
        ({"p99_ms": 40.0}, {"p99_ms": 50}, Outcome.PASS, "within"),
        ({"p99_ms": 60.0}, {"p99_ms": 50}, Outcome.FAIL, "above"),
        ({"p99_ms": None}, {"p99_ms": 50}, Outcome.INCONCLUSIVE, "p99_ms"),
        ({"p99_ms": math.nan}, {"p99_ms": 50}, Outcome.INCONCLUSIVE, "p99_ms"),
        ({"p99_ms": 60.0, "memory_mb": None}, {"p99_ms": 50, "memory_mb": 10}, Outcome.FAIL, "above"),
        ({"errors": 2, "requests": 9, "p99_ms": 1.0}, {"p99_ms": 50}, Outcome.FAIL, "2 of 9"),
        ({"p99_ms": 4.0}, {}, Outcome.PASS, "no bounds"),
    ],
)
def test_benchmark_bounds(numbers: dict[str, Any], bounds: dict[str, Any], outcome: Outcome, word: str) -> None:
    """DEMAND EVL-2"""
    found, reason = judge_benchmark(numbers, Benchmark(**bounds))
    assert found is outcome
    assert word in reason


@pytest.mark.parametrize(
    ("target", "benchmark", "stack", "goes_without"),
    [
        ("kubernetes", {}, False, True),
        ("kubernetes", {}, True, False),
        ("local", {}, False, False),
        ("kubernetes", {"p99_ms": 50}, False, None),
    ],
)
def test_a_worker_of_a_cluster_has_no_model_servers_to_measure(
    target: str, benchmark: dict[str, Any], stack: bool, goes_without: bool | None, describe: Callable[..., Any],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The description's own default must not end the first training on a cluster; a bound is not passed over."""
    from airflow.sdk.exceptions import AirflowFailException

    from windtunnel_airflow import EvaluateOperator

    extra = {"conn_type": "windtunnel", "host": "http://127.0.0.1:9", "extra": {"home": str(tmp_path)}}
    monkeypatch.setenv("AIRFLOW_CONN_WINDTUNNEL_DEFAULT", json.dumps(extra))
    if stack:
        (tmp_path / "stack.json").write_text("{}")
    model = describe(target=target, evaluation={"metrics": [{"name": "rmse", "maximum": 1.0}], "benchmark": benchmark})
    task = EvaluateOperator(task_id="evaluate", model=model, data={}, trained={})
    if goes_without is None:
        with pytest.raises(AirflowFailException, match="benchmark asks for p99_ms"):
            task._unmeasurable(model.evaluation.benchmark)
    else:
        assert task._unmeasurable(model.evaluation.benchmark) is goes_without


# -- small things


def test_values_for_xcom_hold_no_nan() -> None:
    import numpy as np

    given = {"a": np.float64("nan"), "b": [np.int64(3), math.inf], "c": (np.array([1.0, 2.0]),), "d": Path("x")}
    assert plain(given) == {"a": "nan", "b": [3, "inf"], "c": [[1.0, 2.0]], "d": "x"}


@pytest.mark.parametrize(
    ("given", "found"),
    [(None, {}), ("", {}), ("{}", {}), ("null", {}), ('{"a": 1}', {"a": 1}), ({"a": 1}, {"a": 1})],
)
def test_parameters_from_a_form(given: Any, found: dict[str, Any]) -> None:
    assert parse_params(given) == found


@pytest.mark.parametrize("given", ["{", "[1]", "3"])
def test_parameters_that_are_none(given: str) -> None:
    with pytest.raises(errors.DescriptionError, match="params"):
        parse_params(given)


def test_a_changed_input_is_refused_before_work_starts(tmp_path: Path) -> None:
    """DEMAND PIP-2"""
    home = Home(tmp_path / "home")
    where = {
        "dag_id": "small.train",
        "dag_run_id": "manual__2026-01-01T00:00:00+00:00",
        "task_id": "data",
        "map_index": -1,
    }
    source = tmp_path / "rows"
    source.write_text("1,2,3")
    result = {"outputs": steps.publish(home, where, {"rows": source})}
    found = steps.take(json.loads(json.dumps(result)), "rows")
    assert found.path == home.pipelines / "small.train/runs" / where["dag_run_id"] / "steps/data/outputs/rows"
    found.path.write_text("1,2,4")
    with pytest.raises(errors.DataError, match="rows"):
        steps.take(result, "rows")
    found.path.unlink()
    with pytest.raises(errors.DataError, match="missing"):
        steps.take(result, "rows")
    with pytest.raises(errors.DataError, match="holdout"):
        steps.take(result, "holdout")
    assert steps.reference(None, "rows") is None
    assert steps.step_name("split", 3) == "split.3"


def test_code_is_found_where_it_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wt_team").mkdir()
    (tmp_path / "wt_team" / "__init__.py").write_text("raise RuntimeError('looking must not import')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert import_roots(["wt_team.models:train", "json:loads", "pytest:main", "wt_nobody:train"]) == [str(tmp_path)]


def test_statistics_are_kept_fresh(tmp_path: Path) -> None:
    import sqlite3
    from contextlib import closing

    home = Home(tmp_path)
    home.mlflow.mkdir()
    path = home.mlflow / "mlflow.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("create table t (a integer)")
        database.execute("create index i on t (a)")
        database.executemany("insert into t values (?)", [(n,) for n in range(1000)])
        database.commit()
    assert databases(home) == [path]
    assert analyze(path)
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("select count(*) from sqlite_stat1").fetchone()[0] >= 1


@pytest.mark.parametrize("name", [name for name in windtunnel_airflow.__all__ if name.endswith(("Operator", "Sensor"))])
def test_every_operator_is_documented_and_templated(name: str) -> None:
    found = getattr(windtunnel_airflow, name)
    assert found.__doc__ and len(found.__doc__.splitlines()[0]) > 20
    assert {"windtunnel_conn_id", "mlflow_conn_id"} & set(found.template_fields)
    assert len(set(found.template_fields)) == len(found.template_fields)


def test_asset_kinds_are_the_shared_ones() -> None:
    assert asset_uri("small", "version") == "windtunnel://small/version"
