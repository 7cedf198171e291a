"""Windtunnel in Airflow: ``lifecycle(model)`` and every step of it as an operator of its own.

Names are loaded when first used (PEP 562), so that a DAG file pays for ``airflow.sdk`` and for what it names,
and for nothing else: no MLflow, pandas, Evidently, Great Expectations, Kubernetes or scikit-learn at parse time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

_HOME = {
    "lifecycle": "windtunnel_airflow.factory",
    "train_dag": "windtunnel_airflow.factory",
    "release_dag": "windtunnel_airflow.factory",
    "watch_dag": "windtunnel_airflow.factory",
    "steward_dag": "windtunnel_airflow.factory",
    "control_dag": "windtunnel_airflow.controls",
    "ChooseControlOperator": "windtunnel_airflow.controls",
    "EvidenceOperator": "windtunnel_airflow.controls",
    "OrderOperator": "windtunnel_airflow.controls",
    "WindtunnelHook": "windtunnel_airflow.hook",
    "WindtunnelRetryPolicy": "windtunnel_airflow.retry",
    "DataSnapshotOperator": "windtunnel_airflow.operators.data",
    "DataCheckOperator": "windtunnel_airflow.operators.data",
    "TrainOperator": "windtunnel_airflow.operators.train",
    "ExtraStepOperator": "windtunnel_airflow.operators.extra",
    "GoOnOperator": "windtunnel_airflow.operators.extra",
    "EvaluateOperator": "windtunnel_airflow.operators.evaluate",
    "RegisterOperator": "windtunnel_airflow.operators.register",
    "ClaimReleaseOperator": "windtunnel_airflow.operators.claim",
    "DeployOperator": "windtunnel_airflow.operators.traffic",
    "RouteOperator": "windtunnel_airflow.operators.traffic",
    "SetWeightOperator": "windtunnel_airflow.operators.traffic",
    "PromoteOperator": "windtunnel_airflow.operators.promote",
    "WithdrawOperator": "windtunnel_airflow.operators.undo",
    "RollbackOperator": "windtunnel_airflow.operators.undo",
    "OutcomeOperator": "windtunnel_airflow.operators.outcome",
    "PolicySensor": "windtunnel_airflow.sensors",
    "GateSensor": "windtunnel_airflow.sensors",
    "PolicyTrigger": "windtunnel_airflow.triggers",
    "GateTrigger": "windtunnel_airflow.triggers",
    "WatchWindowOperator": "windtunnel_airflow.operators.watch",
    "WatchDriftOperator": "windtunnel_airflow.operators.watch",
    "WatchPerformanceOperator": "windtunnel_airflow.operators.watch",
    "WatchReportOperator": "windtunnel_airflow.operators.watch",
    "WatchReactOperator": "windtunnel_airflow.operators.watch",
    "CloseAbandonedRunsOperator": "windtunnel_airflow.operators.steward",
    "SweepOperator": "windtunnel_airflow.operators.steward",
    "RetentionOperator": "windtunnel_airflow.operators.steward",
    "StatisticsOperator": "windtunnel_airflow.operators.steward",
}

__all__ = [
    "ChooseControlOperator",
    "ClaimReleaseOperator",
    "CloseAbandonedRunsOperator",
    "DataCheckOperator",
    "DataSnapshotOperator",
    "DeployOperator",
    "EvaluateOperator",
    "EvidenceOperator",
    "ExtraStepOperator",
    "GateSensor",
    "GateTrigger",
    "GoOnOperator",
    "OrderOperator",
    "OutcomeOperator",
    "PolicySensor",
    "PolicyTrigger",
    "PromoteOperator",
    "RegisterOperator",
    "RetentionOperator",
    "RollbackOperator",
    "RouteOperator",
    "SetWeightOperator",
    "StatisticsOperator",
    "SweepOperator",
    "TrainOperator",
    "WatchDriftOperator",
    "WatchPerformanceOperator",
    "WatchReactOperator",
    "WatchReportOperator",
    "WatchWindowOperator",
    "WindtunnelHook",
    "WindtunnelRetryPolicy",
    "WithdrawOperator",
    "control_dag",
    "lifecycle",
    "release_dag",
    "steward_dag",
    "train_dag",
    "watch_dag",
]

if TYPE_CHECKING:
    from windtunnel_airflow.controls import ChooseControlOperator, EvidenceOperator, OrderOperator, control_dag
    from windtunnel_airflow.factory import lifecycle, release_dag, steward_dag, train_dag, watch_dag
    from windtunnel_airflow.hook import WindtunnelHook
    from windtunnel_airflow.operators.data import DataCheckOperator, DataSnapshotOperator
    from windtunnel_airflow.operators.evaluate import EvaluateOperator
    from windtunnel_airflow.operators.extra import ExtraStepOperator, GoOnOperator
    from windtunnel_airflow.operators.register import RegisterOperator
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
    from windtunnel_airflow.operators.steward import (
        CloseAbandonedRunsOperator,
        RetentionOperator,
        StatisticsOperator,
        SweepOperator,
    )
    from windtunnel_airflow.operators.train import TrainOperator
    from windtunnel_airflow.operators.watch import (
        WatchDriftOperator,
        WatchPerformanceOperator,
        WatchReactOperator,
        WatchReportOperator,
        WatchWindowOperator,
    )
    from windtunnel_airflow.retry import WindtunnelRetryPolicy
    from windtunnel_airflow.sensors import GateSensor, PolicySensor
    from windtunnel_airflow.triggers import GateTrigger, PolicyTrigger


def __getattr__(name: str) -> Any:
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'windtunnel_airflow' has no attribute {name!r}")
