"""Structure of the DAGs: tasks, edges, schedules, trigger rules, what Airflow makes of them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from windtunnel.errors import DescriptionError
from windtunnel.registry.orders import CONTROL_DAG
from windtunnel_airflow import control_dag, lifecycle, steward_dag
from windtunnel_airflow.factory import timetable


def edges(dag: Any) -> set[tuple[str, str]]:
    return {(task.task_id, other) for task in dag.tasks for other in task.downstream_task_ids}


def rule(task: Any) -> str:
    return str(getattr(task.trigger_rule, "value", task.trigger_rule))


def test_three_dags_with_one_run_at_a_time(describe: Callable[..., Any]) -> None:
    dags = lifecycle(describe())
    assert sorted(dags) == ["small.release", "small.train", "small.watch"]
    assert {dag.max_active_runs for dag in dags.values()} == {1}
    assert not any(dag.catchup for dag in dags.values())
    assert {dag.default_args["owner"] for dag in dags.values()} == {"tests"}


def test_training_in_order(describe: Callable[..., Any]) -> None:
    dag = lifecycle(describe())["small.train"]
    chain = ["data", "check", "train", "evaluate", "register"]
    assert sorted(dag.task_dict) == sorted(chain)
    assert set(pairwise(chain)) <= edges(dag)
    assert [outlet.uri for outlet in dag.task_dict["register"].outlets] == ["windtunnel://small/version"]
    # A failed check must not be passed by: everything waits for success.
    assert {rule(task) for task in dag.tasks} == {"all_success"}


@pytest.mark.parametrize(
    ("schedule", "kind"),
    [
        ("6h", "DeltaTriggerTimetable"),
        ("0 3 * * *", "CronTriggerTimetable"),
        ("@daily", "CronTriggerTimetable"),
        ("@continuous", "ContinuousTimetable"),
    ],
)
def test_training_runs_on_drift_or_data_or_time(describe: Callable[..., Any], schedule: str, kind: str) -> None:
    """DEMAND PIP-6"""
    wanted = {"windtunnel://small/drift", "windtunnel://small/data"}
    plain = lifecycle(describe())["small.train"].schedule
    assert type(plain).__name__ == "AssetAny"
    assert {asset.uri for asset in plain.objects} == wanted
    timed = lifecycle(describe(schedule=schedule))["small.train"].timetable
    assert type(timed).__name__ == "AssetOrTimeSchedule"
    assert type(timed.timetable).__name__ == kind
    assert {asset.uri for asset in timed.asset_condition.objects} == wanted


def test_a_schedule_nobody_understands() -> None:
    with pytest.raises(DescriptionError, match="every morning"):
        timetable("every morning")


def test_release_follows_a_version_event(describe: Callable[..., Any]) -> None:
    """DEMAND PIP-6"""
    dag = lifecycle(describe())["small.release"]
    assert [asset.uri for asset in dag.schedule] == ["windtunnel://small/version"]
    found = edges(dag)
    steps = [f"step_{weight:02d}.{part}" for weight in (5, 25, 50, 75) for part in ("set_weight", "gate")]
    path = ["claim", "policy", "deploy", "route", *steps, "promote", "outcome"]
    assert set(pairwise(path)) <= found
    assert {("route", "first.promote"), ("first.promote", "first.watch"), ("first.watch", "outcome")} <= found
    # Both endings say so to whoever listens.
    assert [outlet.uri for outlet in dag.task_dict["promote"].outlets] == ["windtunnel://small/champion"]
    assert [outlet.uri for outlet in dag.task_dict["first.promote"].outlets] == ["windtunnel://small/champion"]
    assert [outlet.uri for outlet in dag.task_dict["rollback"].outlets] == ["windtunnel://small/rollback"]


STRATEGIES = [
    ({}, ["step_05", "step_25", "step_50", "step_75"]),
    ({"preset": "fast"}, ["step_10", "step_50", "step_100"]),
    ({"bake": "5m", "steps": [{"weight": 20, "hold": "1m"}]}, ["step_20", "step_100"]),
    ({"strategy": "blue_green"}, ["step_100"]),
    ({"strategy": "shadow"}, ["mirror_100"]),
    ({"strategy": "rolling"}, ["step_25", "step_50", "step_75"]),
    ({"strategy": "ab", "gates": [{"metric": "errors", "margin": 0.01, "superior": 0.0}]}, ["step_50"]),
    ({"strategy": "all_at_once"}, []),
    ({"strategy": "all_at_once", "bake": "5m"}, ["step_100"]),
    ({"steps": [{"weight": 0, "mirror": 50, "hold": "1m"}, {"weight": 10, "hold": "1m"}]}, ["mirror_50", "step_10"]),
]


@pytest.mark.parametrize(
    ("rollout", "groups"), STRATEGIES, ids=[str(row[0].get("strategy", i)) for i, row in enumerate(STRATEGIES)]
)
def test_a_release_has_the_steps_of_its_strategy(
    describe: Callable[..., Any], rollout: dict[str, Any], groups: list[str]
) -> None:
    """DEMAND ROL-1: set weight and gate for each exposure, in order, then promotion."""
    dag = lifecycle(describe(rollout=rollout, serving={"replicas": 4, "sticky": "x-user"}))["small.release"]
    chain = ["route", *(f"{group}.{task}" for group in groups for task in ("set_weight", "gate")), "promote"]
    assert set(pairwise(chain)) <= edges(dag)
    assert {t.split(".")[0] for t in dag.task_dict if t.endswith(".gate")} == set(groups)
    assert all((f"{group}.gate", "rollback") in edges(dag) for group in groups)
    assert dag.task_dict["route"].canary == chain[1]
    weights = [dag.task_dict[f"{group}.set_weight"] for group in groups]
    assert [(task.step, f"mirror_{task.mirror}" if task.mirror else f"step_{task.weight:02d}") for task in weights] == [
        *enumerate(groups)
    ]


def test_whatever_fails_in_a_release_ends_in_rollback(describe: Callable[..., Any]) -> None:
    """DEMAND ROL-6: every task that can leave a candidate in traffic has a way back behind it."""
    dag = lifecycle(describe())["small.release"]
    rollback, withdraw = dag.task_dict["rollback"], dag.task_dict["first.withdraw"]
    assert rule(rollback) == rule(withdraw) == "one_failed"
    safe = {"rollback", "first.withdraw", "outcome"}
    covered = rollback.upstream_task_ids | withdraw.upstream_task_ids
    assert covered == set(dag.task_dict) - safe
    # A first release is undone by withdrawing; the two ways back never both run.
    assert not rollback.upstream_task_ids & withdraw.upstream_task_ids
    assert rule(dag.task_dict["outcome"]) == "all_done"
    assert dag.task_dict["outcome"].downstream_task_ids == set()
    leaves = [task.task_id for task in dag.tasks if not task.downstream_task_ids]
    assert leaves == ["outcome"]  # the run has the outcome's colour, not the rollback's


def test_tries_of_a_release_fit_into_its_lease(describe: Callable[..., Any]) -> None:
    rollout = {"lease": "20s", "look_every": "1s"}
    task = lifecycle(describe(rollout=rollout))["small.release"].task_dict["deploy"]
    assert task.retry_delay == timedelta(seconds=5)
    assert task.retry_policy.last == 5


def test_watch_judges_then_reports_then_reacts(describe: Callable[..., Any]) -> None:
    dag = lifecycle(describe(monitoring={"window": "30s", "every": "10s"}))["small.watch"]
    assert dag.timetable.timetable.delta == timedelta(seconds=10)
    assert dag.timetable.asset_condition.uri == "windtunnel://small/behind"
    found = edges(dag)
    path = {("window", "drift"), ("window", "performance"), ("drift", "report"), ("performance", "report")}
    assert path | {("report", "react")} <= found
    assert rule(dag.task_dict["report"]) == "none_failed_min_one_success"
    assert [outlet.uri for outlet in dag.task_dict["react"].outlets] == ["windtunnel://small/drift"]


def test_every_dag_survives_serialization(describe: Callable[..., Any]) -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    step = {"name": "split", "run": "wt_small:part", "over": [1, 2], "outputs": ["part"]}
    for dag in [*lifecycle(describe(steps=[step])).values(), steward_dag(), control_dag()]:
        plain = DagSerialization.to_dict(dag)
        back = DagSerialization.from_dict(plain)
        assert sorted(back.task_dict) == sorted(dag.task_dict)
        for task in back.task_dict.values():
            if not getattr(task, "is_mapped", False) and dag.dag_id != CONTROL_DAG:
                assert task.has_retry_policy or task.task_id == "outcome"


def test_the_steward_looks_after_the_house() -> None:
    dag = steward_dag()
    assert dag.dag_id == "windtunnel.steward"
    assert sorted(dag.task_dict) == [
        "abandoned_runs", "agreement", "deleted_versions", "integrity",
        "keep_warm", "orphans", "retention", "statistics",
    ]  # fmt: skip


def test_a_dag_file_needs_no_more_than_the_call(describe: Callable[..., Any], tmp_path: Path) -> None:
    """The DAG processor's own importer finds what lifecycle() made, as it finds any ``with DAG(...)``."""
    from airflow.dag_processing.importers.python_importer import PythonDagImporter

    (tmp_path / "small.json").write_text(describe().model_dump_json(by_alias=True))
    file = tmp_path / "small_dag.py"
    file.write_text(
        '"""DAGs of the small model."""\n'
        "import json, pathlib\n"
        "from windtunnel_airflow import lifecycle\n"
        "lifecycle(json.loads(pathlib.Path(__file__).with_name('small.json').read_text()))\n"
    )
    found = PythonDagImporter().import_file(file, bundle_path=tmp_path, bundle_name="tests", safe_mode=True)
    assert found.errors == []
    assert sorted(dag.dag_id for dag in found.dags) == ["small.release", "small.train", "small.watch"]
    assert {dag.fileloc for dag in found.dags} == {str(file)}


def test_airflow_skips_files_without_its_words(describe: Callable[..., Any], tmp_path: Path) -> None:
    """Why lifecycle()'s docstring asks for a docstring: documented behaviour of Airflow, not of ours."""
    from airflow.utils.file import might_contain_dag

    file = tmp_path / "flight.py"
    file.write_text("from windtunnel_airflow import lifecycle\nlifecycle('m.yaml')\n")
    assert not might_contain_dag(str(file), safe_mode=True)
    file.write_text('"""DAGs of the small model."""\n' + file.read_text())
    assert might_contain_dag(str(file), safe_mode=True)


def test_a_yaml_file_is_a_description_too(tmp_path: Path) -> None:
    file = tmp_path / "small.yaml"
    file.write_text(
        "name: small\nowner: tests\n"
        "data: {source: rows.csv, time: t, target: y, features: [a, b]}\n"
        "training: {entry_point: 'wt_small:train'}\n"
    )
    assert sorted(lifecycle(file)) == ["small.release", "small.train", "small.watch"]
    file.write_text(file.read_text().replace("owner: tests", "owners: tests"))
    with pytest.raises(DescriptionError, match="owners"):
        lifecycle(str(file))


def test_something_else_is_refused() -> None:
    with pytest.raises(DescriptionError, match=r"windtunnel\.Model"):
        lifecycle(42)  # type: ignore[arg-type]
    with pytest.raises(DescriptionError, match="nobody"):
        lifecycle({"name": "nobody"})


# -- a team's own steps


def test_own_steps_stand_where_they_were_put(describe: Callable[..., Any]) -> None:
    """DEMAND PIP-9"""
    steps = [
        {"name": "enrich", "run": "wt_small:enrich", "after": ["data"], "before": ["check"],
         "inputs": ["rows"], "outputs": ["weights"]},
        {"name": "explain", "run": "wt_small:explain", "after": ["train"], "inputs": ["model", "holdout"],
         "critical": False},
        {"name": "maybe", "run": "wt_small:maybe", "after": ["train"], "before": ["evaluate"],
         "when": "wt_small:wanted"},
    ]  # fmt: skip
    dag = lifecycle(describe(steps=steps))["small.train"]
    found = edges(dag)
    assert {("data", "enrich"), ("enrich", "check"), ("train", "explain"), ("explain", "explain_done")} <= found
    assert {name: arg.operator.task_id for name, arg in dag.task_dict["explain"].inputs.items()} == {
        "model": "train",
        "holdout": "data",
    }
    assert rule(dag.task_dict["explain_done"]) == "all_done"
    # A skipped step does not skip what follows; a failed one stops it.
    assert rule(dag.task_dict["evaluate"]) == "none_failed"
    assert rule(dag.task_dict["train"]) == "all_success"


def test_outputs_before_training_reach_it(describe: Callable[..., Any]) -> None:
    """DEMAND PIP-9"""
    step = {"name": "weigh", "run": "wt_small:weigh", "before": ["train"], "inputs": ["rows"], "outputs": ["weights"]}
    train = lifecycle(describe(steps=[step]))["small.train"].task_dict["train"]
    assert {name: arg.operator.task_id for name, arg in train.extra.items()} == {"weights": "weigh"}


def test_uncritical_step_in_between_lets_the_rest_go_on(describe: Callable[..., Any]) -> None:
    """DEMAND PIP-9"""
    step = {"name": "note", "run": "wt_small:note", "after": ["check"], "before": ["train"], "critical": False}
    dag = lifecycle(describe(steps=[step]))["small.train"]
    waits = dag.task_dict["train"].upstream_task_ids
    # For the task that goes on, and still for check itself: a failed check stops training.
    assert {"note_done", "check"} <= waits
    assert "note" not in waits


def test_fan_out_and_fan_in(describe: Callable[..., Any]) -> None:
    """DEMAND PIP-9"""
    steps = [
        {"name": "split", "run": "wt_small:part", "inputs": ["rows"], "outputs": ["part"], "over": ["x", "y", "z"]},
        {"name": "gather", "run": "wt_small:gather", "after": ["split"], "before": ["train"], "inputs": ["part"],
         "outputs": ["all"]},
    ]  # fmt: skip
    dag = lifecycle(describe(steps=steps))["small.train"]
    assert dag.task_dict["split"].is_mapped
    assert ("split", "gather") in edges(dag)
    assert dag.task_dict["gather"].inputs["part"].operator.task_id == "split"


def test_needing_what_may_fail_is_refused(describe: Callable[..., Any]) -> None:
    step = {"name": "weigh", "run": "wt_small:weigh", "before": ["train"], "outputs": ["weights"], "critical": False}
    with pytest.raises(DescriptionError, match="'train' reads 'weights' of step 'weigh'"):
        lifecycle(describe(steps=[step]))
