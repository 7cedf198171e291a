"""DAGs from a description: ``lifecycle(model)`` gives ``MODEL.train``, ``MODEL.release`` and ``MODEL.watch``.

Nothing here does any work: each DAG is its operators, their order and the assets between them. A DAG file is read every
few seconds, so nothing heavy is imported and nothing is asked of any server.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import (
    DAG,
    Asset,
    AssetAlias,
    AssetOrTimeSchedule,
    CronTriggerTimetable,
    DeltaTriggerTimetable,
    Param,
    TaskGroup,
    TriggerRule,
)
from airflow.sdk.definitions.timetables.simple import ContinuousTimetable

from windtunnel.errors import DescriptionError
from windtunnel.names import asset_uri, dag_id
from windtunnel.spec import Model
from windtunnel.spec.base import parse_duration
from windtunnel_airflow.base import describe
from windtunnel_airflow.hook import WindtunnelHook
from windtunnel_airflow.pods.queueing import queueing
from windtunnel_airflow.retry import default_args
from windtunnel_airflow.wiring import Wiring, wire

#: Time schedules count from here; nothing before a DAG's creation is ever made up for (catchup is off).
EPOCH = datetime(2024, 1, 1, tzinfo=UTC)


def lifecycle(
    model: Model | Mapping[str, Any] | str | Path,
    *,
    windtunnel_conn_id: str = WindtunnelHook.default_conn_name,
    deferrable: bool = True,
    **dag_args: Any,
) -> dict[str, DAG]:
    """The three DAGs of one model; in a DAG file the call is enough, Airflow finds them by itself.

    Airflow reads only files that hold the words ``airflow`` and ``dag`` (or ``asset``) unless its safe mode is off; a
    docstring such as ``\"\"\"DAGs of the visits model.\"\"\"`` is enough.

    Args:
        model: a ``windtunnel.Model``, its plain values, or the path of a YAML file.
        windtunnel_conn_id: connection to the MLflow server with the governed registry.
        deferrable: pods, gates, policy and servers that come up in a cluster are waited for in the triggerer; False
            holds a worker slot each.
        dag_args: further arguments of every ``DAG``, e.g. ``is_paused_upon_creation``, ``access_control``.

    Returns:
        the DAGs by id.

    Raises:
        DescriptionError: the description says something that cannot be done; it names what, and what was expected.
    """
    found = describe(model)
    common = {"windtunnel_conn_id": windtunnel_conn_id, **dag_args}
    dags = [
        train_dag(found, deferrable=deferrable, **common),
        release_dag(found, deferrable=deferrable, **common),
        watch_dag(found, **common),
    ]
    return {dag.dag_id: dag for dag in dags}


def asset(model: Model, kind: str) -> Asset:
    """The asset that carries events of ``kind`` for ``model``."""
    return Asset(name=asset_uri(model.name, kind), uri=asset_uri(model.name, kind), group="windtunnel")


def train_dag(
    model: Model,
    *,
    windtunnel_conn_id: str = WindtunnelHook.default_conn_name,
    deferrable: bool = True,
    **dag_args: Any,
) -> DAG:
    """``MODEL.train``: data -> check -> train -> evaluate -> register, the team's own steps between.

    Runs on drift, on new data (``windtunnel://MODEL/data``), on ``model.schedule``, and by hand with parameters:
    ``reason``, ``params`` (overrides of ``training.params``), ``recipe``, ``entry_point``, ``source``.
    """
    wiring = wire(model)
    params = {
        "reason": Param("", type="string", description="Why this run; empty for scheduled and triggered ones"),
        "params": Param({}, type="object", description="Overrides of the description's training parameters"),
        "recipe": Param("", type="string", description="Name of this way of training; another is a MINOR version"),
        "entry_point": Param("", type="string", description="Train by this package.module:function instead"),
        "source": Param("", type="string", description="Read the data from here instead"),
    }
    with _dag(model, "train", schedule=train_schedule(model), params=params, **dag_args) as dag:
        common = {"model": model, "windtunnel_conn_id": windtunnel_conn_id}
        tasks = _training_tasks(model, wiring, common, {"deferrable": deferrable})
        _order(model, wiring, tasks, windtunnel_conn_id)
    return dag


def train_schedule(model: Model) -> Any:
    """Assets, or assets and a time: drift, new data, and ``model.schedule`` (cron or a duration)."""
    assets = asset(model, "drift") | asset(model, "data")
    if model.schedule is None:
        return assets
    return AssetOrTimeSchedule(assets=assets, timetable=timetable(model.schedule))


def timetable(schedule: str) -> Any:
    """``"6h"``, ``"0 3 * * *"`` or a preset such as ``"@daily"`` as a timetable.

    Raises:
        DescriptionError: it is neither.
    """
    try:
        return DeltaTriggerTimetable(parse_duration(schedule))
    except ValueError:
        pass
    if schedule == "@continuous":
        return ContinuousTimetable()
    if schedule.startswith("@") or len(schedule.split()) == 5:
        return CronTriggerTimetable(schedule, timezone="UTC")
    raise DescriptionError(
        f"schedule {schedule!r} is neither a duration nor cron", hint="use '6h', '1d' or '0 3 * * *'"
    )


def _training_tasks(model: Model, wiring: Wiring, common: dict[str, Any], of_pods: dict[str, Any]) -> dict[str, Any]:
    """Step -> its task. References between tasks are what they return.

    Args:
        of_pods: arguments of those that may run in pods.
    """
    from windtunnel_airflow.operators.data import DataCheckOperator, DataSnapshotOperator
    from windtunnel_airflow.operators.evaluate import EvaluateOperator
    from windtunnel_airflow.operators.extra import ExtraStepOperator
    from windtunnel_airflow.operators.register import RegisterOperator
    from windtunnel_airflow.operators.train import TrainOperator

    own = {step.name: step for step in model.steps}
    tasks: dict[str, Any] = {}

    def returned(step: str) -> Any:
        return tasks[step].output

    for name in wiring.order:
        if name == "data":
            tasks[name] = DataSnapshotOperator(task_id=name, source="{{ params.source }}", **common)
        elif name == "check":
            tasks[name] = DataCheckOperator(task_id=name, data=returned("data"), **common)
        elif name == "train":
            tasks[name] = TrainOperator(
                task_id=name,
                data=returned("data"),
                extra={output: returned(who) for output, who in wiring.for_training.items()} or None,
                params_override="{{ params.params | tojson }}",
                recipe="{{ params.recipe }}",
                entry_point="{{ params.entry_point }}",
                **queueing(model),
                **of_pods,
                **common,
            )
        elif name == "evaluate":
            tasks[name] = EvaluateOperator(task_id=name, data=returned("data"), trained=returned("train"), **common)
        elif name == "register":
            tasks[name] = RegisterOperator(
                task_id=name,
                data=returned("data"),
                trained=returned("train"),
                evaluated=returned("evaluate"),
                outlets=[asset(model, "version")],
                **common,
            )
        else:
            step = own[name]
            arguments = {
                "task_id": name,
                "run": step.run,
                "inputs": {item: returned(who) for item, who in wiring.inputs[name].items()} or None,
                "outputs": step.outputs,
                "when": step.when,
                "time_limit": step.time_limit.total_seconds(),
                **of_pods,
                **common,
            }
            if step.over is None:
                tasks[name] = ExtraStepOperator(**arguments)
            else:
                tasks[name] = ExtraStepOperator.partial(**arguments).expand(item=list(step.over))
    return tasks


def _order(model: Model, wiring: Wiring, tasks: dict[str, Any], windtunnel_conn_id: str) -> None:
    """Edges and trigger rules.

    Behind a step that is not critical stands a task that goes on whatever became of it; who waits for the step waits
    for that one, and for what the step itself waits for, so that a failure before it still stops everything after. A
    step that may be skipped (``when``) must not skip what follows: that runs when nothing before it failed.
    """
    from windtunnel_airflow.operators.extra import GoOnOperator

    own = {step.name: step for step in model.steps}
    stands_for: dict[str, list[Any]] = {}
    for name in wiring.order:
        step = own.get(name)
        if step is not None and not step.critical:
            onward = GoOnOperator(
                task_id=f"{name}_done",
                step=name,
                model=model,
                windtunnel_conn_id=windtunnel_conn_id,
                trigger_rule=TriggerRule.ALL_DONE,
            )
            tasks[name] >> onward
            stands_for[name] = [onward, *(task for other in sorted(wiring.waits[name]) for task in stands_for[other])]
        else:
            stands_for[name] = [tasks[name]]
    for name in wiring.order:
        for other in sorted(wiring.waits[name]):
            for before in stands_for[other]:
                before >> tasks[name]
        if any(other in own and own[other].when for other in wiring.waits[name]):
            _set_rule(tasks[name], TriggerRule.NONE_FAILED)


def _set_rule(task: Any, rule: TriggerRule) -> None:
    if hasattr(task, "partial_kwargs"):
        task.partial_kwargs["trigger_rule"] = rule
    else:
        task.trigger_rule = rule


def release_dag(
    model: Model,
    *,
    windtunnel_conn_id: str = WindtunnelHook.default_conn_name,
    deferrable: bool = True,
    policy_timeout: timedelta = timedelta(days=7),
    **dag_args: Any,
) -> DAG:
    """``MODEL.release``: claim -> policy -> deploy -> first release, or step by step behind gates -> champion.

    The steps are the strategy's (``Rollout.exposures``): those of a canary, one switch for blue-green, copies for
    shadow, none for all at once.

    Woken by ``windtunnel://MODEL/version``; the registry says which version is due. By hand, ``version`` names one.
    Whatever fails, or is ended by a person, ends with the candidate at 0 % (``rollback``, ``withdraw``), and the last
    task, ``outcome``, is green only when the version became champion. ``policy`` waits for people's approvals, and asks
    for them in Airflow where nothing else is missing.

    Args:
        policy_timeout: for how long it waits for policy.
    """
    from windtunnel_airflow.operators.release import (
        ClaimReleaseOperator,
        DeployOperator,
        OutcomeOperator,
        PromoteOperator,
        RollbackOperator,
        RouteOperator,
        SetWeightOperator,
        WithdrawOperator,
    )
    from windtunnel_airflow.sensors import GateSensor, PolicySensor

    common = {"model": model, "windtunnel_conn_id": windtunnel_conn_id}
    params = {
        "version": Param(
            "", type=["string", "integer"], description="Release this version; empty: the one that is due"
        ),
        "beside": Param([], type="array", description="Numbers of versions that fly beside it (strategy ab only)"),
    }
    # Between two tries nobody renews the lease: tries follow each other well within it.
    pause = min(timedelta(seconds=30), model.rollout.lease / 4)
    quick = default_args(first=pause, last=pause)
    # A way back has moved the traffic with its first try; after that it may wait for a registry that is down.
    patient = {**default_args(), "retries": 10}
    with _dag(model, "release", schedule=[asset(model, "version")], params=params, args=quick, **dag_args) as dag:
        claim = ClaimReleaseOperator(
            task_id="claim",
            version="{{ params.version }}",
            beside="{{ params.beside | tojson }}",
            deferrable=deferrable,
            policy_timeout=policy_timeout,
            **common,
        )
        # As text, not as a reference: that would draw an edge from claim to every task, and into their trigger rules.
        given: dict[str, Any] = {"claim": "{{ ti.xcom_pull(task_ids='claim') | tojson }}", **common}
        policy = PolicySensor(
            task_id="policy",
            deferrable=deferrable,
            poke_interval=10,
            timeout=policy_timeout,
            mode="reschedule",
            # A question whose evidence has changed is asked again by another try, and so is one that was answered
            # before Airflow 3.3's scheduler knew that it was asked.
            **{**quick, "retries": 20},
            **given,
        )
        deploy = DeployOperator(task_id="deploy", deferrable=deferrable, **given)
        steps = model.rollout.exposures(model.serving.replicas)
        # A plan without steps (all at once) goes straight to promotion.
        onward = f"{steps[0].name}.set_weight" if steps else "promote"
        route = RouteOperator(task_id="route", first="first.promote", canary=onward, **given)
        claim >> policy >> deploy >> route

        with TaskGroup("first", tooltip="No champion yet: 100 % on evaluation evidence, watched against the limits"):
            first_promote = PromoteOperator(task_id="promote", outlets=[asset(model, "champion")], **given)
            first_watch = GateSensor(task_id="watch", step=0, deferrable=deferrable, **given)
            withdraw = WithdrawOperator(
                task_id="withdraw",
                **patient,
                trigger_rule=TriggerRule.ONE_FAILED,
                outlets=[asset(model, "rollback")],
                **given,
            )
            route >> first_promote >> first_watch
            [first_promote, first_watch] >> withdraw

        before: Any = route
        exposed: list[Any] = []
        for index, step in enumerate(steps):
            with TaskGroup(step.name, tooltip=f"{step.words} for {step.hold}"):
                weight = SetWeightOperator(
                    task_id="set_weight", weight=step.weight, mirror=step.mirror or 0, step=index, **given
                )
                gate = GateSensor(task_id="gate", step=index, deferrable=deferrable, **given)
                before >> weight >> gate
            before = gate
            exposed += [weight, gate]
        promote = PromoteOperator(task_id="promote", outlets=[asset(model, "champion")], **given)
        before >> promote
        rollback = RollbackOperator(
            task_id="rollback",
            **patient,
            trigger_rule=TriggerRule.ONE_FAILED,
            outlets=[asset(model, "rollback")],
            **given,
        )
        [claim, policy, deploy, route, *exposed, promote] >> rollback
        outcome = OutcomeOperator(
            task_id="outcome",
            trigger_rule=TriggerRule.ALL_DONE,
            promoted=[promote.output, first_promote.output],
            undone=[rollback.output, withdraw.output],
            watched=first_watch.output,
            outlets=[AssetAlias(f"{asset_uri(model.name, 'champion')}/late")],
            **patient,
            **given,
        )
        [promote, first_watch, withdraw, rollback] >> outcome
    return dag


def watch_dag(model: Model, *, windtunnel_conn_id: str = WindtunnelHook.default_conn_name, **dag_args: Any) -> DAG:
    """``MODEL.watch``: the next closed window -> drift, performance -> report -> react.

    Runs every ``monitoring.every`` (a window's length unless told), and at once where more windows wait than one, as
    after a downtime. ``react`` wakes ``MODEL.train`` when it says so.
    """
    from windtunnel_airflow.operators.watch import (
        WatchDriftOperator,
        WatchPerformanceOperator,
        WatchReactOperator,
        WatchReportOperator,
        WatchWindowOperator,
    )

    common = {"model": model, "windtunnel_conn_id": windtunnel_conn_id}
    every = model.monitoring.every or model.monitoring.window
    again = asset(model, "behind")
    schedule = AssetOrTimeSchedule(assets=again, timetable=DeltaTriggerTimetable(every))
    with _dag(model, "watch", schedule=schedule, **dag_args) as dag:
        window = WatchWindowOperator(
            task_id="window", outlets=[asset(model, "window"), AssetAlias(f"{again.uri}/next")], **common
        )
        given: dict[str, Any] = {"window": window.output, **common}
        judges = [
            WatchDriftOperator(task_id="drift", **given),
            WatchPerformanceOperator(task_id="performance", **given),
        ]
        report = WatchReportOperator(
            task_id="report",
            verdicts=[judge.output for judge in judges],
            # A judge that the description does not ask for is skipped; a window that is not due skips everything.
            trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS,
            **given,
        )
        react = WatchReactOperator(task_id="react", reported=report.output, outlets=[asset(model, "drift")], **given)
        window >> judges >> report >> react
    return dag


def steward_dag(
    *,
    every: timedelta = timedelta(minutes=15),
    windtunnel_conn_id: str = WindtunnelHook.default_conn_name,
    kubernetes_conn_id: str | None = None,
    **dag_args: Any,
) -> DAG:
    """``windtunnel.steward``: the house's own work, one DAG for all models.

    Args:
        kubernetes_conn_id: where models train in pods, their cluster: task ``pods`` removes those nobody came back for,
            ``store`` what the object store need not keep any more.
    """
    from windtunnel_airflow.operators.steward import (
        AgreementOperator,
        CloseAbandonedRunsOperator,
        CollectOperator,
        IntegrityOperator,
        PurgeOperator,
        RetentionOperator,
        StatisticsOperator,
        SweepOperator,
    )
    from windtunnel_airflow.operators.storekeeping import StoreRetentionOperator
    from windtunnel_airflow.operators.sweeping import SweepPodsOperator

    with DAG(
        dag_id="windtunnel.steward",
        description="Abandoned runs, versions past their time, retention, database statistics, integrity, agreement",
        schedule=DeltaTriggerTimetable(every),
        start_date=EPOCH,
        catchup=False,
        max_active_runs=1,
        default_args=default_args(),
        tags=["windtunnel", "steward"],
        **dag_args,
    ) as dag:
        CloseAbandonedRunsOperator(task_id="abandoned_runs", windtunnel_conn_id=windtunnel_conn_id)
        SweepOperator(task_id="keep_warm", windtunnel_conn_id=windtunnel_conn_id)
        RetentionOperator(task_id="retention", windtunnel_conn_id=windtunnel_conn_id)
        StatisticsOperator(task_id="statistics", windtunnel_conn_id=windtunnel_conn_id)
        IntegrityOperator(task_id="integrity", windtunnel_conn_id=windtunnel_conn_id)
        PurgeOperator(task_id="deleted_versions", windtunnel_conn_id=windtunnel_conn_id)
        CollectOperator(task_id="orphans", windtunnel_conn_id=windtunnel_conn_id)
        AgreementOperator(task_id="agreement", windtunnel_conn_id=windtunnel_conn_id)
        if kubernetes_conn_id is not None:
            SweepPodsOperator(
                task_id="pods", kubernetes_conn_id=kubernetes_conn_id, windtunnel_conn_id=windtunnel_conn_id
            )
            StoreRetentionOperator(task_id="store", windtunnel_conn_id=windtunnel_conn_id)
    return dag


def _dag(model: Model, stage: str, *, args: Mapping[str, Any] | None = None, **given: Any) -> DAG:
    """A DAG of one model with what all of them share.

    Raises:
        DescriptionError: the model asks for something that cannot be done where it trains.
    """
    if model.training_target == "kubernetes" and (model.training.pod is None or model.training.pod.image is None):
        raise DescriptionError(
            f"model {model.name}: training.target is kubernetes, but training.pod.image is not given",
            hint="name a container image that holds the training code, best by digest: name@sha256:...",
        )
    shown = model.display_name or model.name
    tags = given.pop("tags", [])
    return DAG(
        dag_id=dag_id(model.name, stage),
        dag_display_name=f"{shown} · {stage}",
        description=model.description or f"{stage} of {shown}",
        start_date=EPOCH,
        catchup=False,
        max_active_runs=1,
        default_args={**(args or default_args()), "owner": model.owner},
        tags=sorted({"windtunnel", stage, f"model:{model.name}", *tags}),
        **given,
    )
