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
    "SeldonHook": "windtunnel_airflow.seldon",
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
    "SweepPodsOperator": "windtunnel_airflow.operators.sweeping",
    "RetentionOperator": "windtunnel_airflow.operators.steward",
    "StatisticsOperator": "windtunnel_airflow.operators.steward",
    "MlflowHook": "windtunnel_airflow.tracking_server.hook",
    "CreateRegisteredModelOperator": "windtunnel_airflow.tracking_server.models",
    "DeleteModelAliasOperator": "windtunnel_airflow.tracking_server.models",
    "DeleteRegisteredModelOperator": "windtunnel_airflow.tracking_server.models",
    "GetRegisteredModelOperator": "windtunnel_airflow.tracking_server.models",
    "RenameRegisteredModelOperator": "windtunnel_airflow.tracking_server.models",
    "SearchRegisteredModelsOperator": "windtunnel_airflow.tracking_server.models",
    "SetModelAliasOperator": "windtunnel_airflow.tracking_server.models",
    "UpdateRegisteredModelOperator": "windtunnel_airflow.tracking_server.models",
    "CopyModelVersionOperator": "windtunnel_airflow.tracking_server.versions",
    "CreateModelVersionOperator": "windtunnel_airflow.tracking_server.versions",
    "DeleteModelVersionOperator": "windtunnel_airflow.tracking_server.versions",
    "GetLatestModelVersionsOperator": "windtunnel_airflow.tracking_server.versions",
    "GetModelVersionOperator": "windtunnel_airflow.tracking_server.versions",
    "SearchModelVersionsOperator": "windtunnel_airflow.tracking_server.versions",
    "TransitionModelVersionStageOperator": "windtunnel_airflow.tracking_server.versions",
    "UpdateModelVersionOperator": "windtunnel_airflow.tracking_server.versions",
    "CreateExperimentOperator": "windtunnel_airflow.tracking_server.runs",
    "CreateRunOperator": "windtunnel_airflow.tracking_server.runs",
    "LogToRunOperator": "windtunnel_airflow.tracking_server.runs",
    "SearchRunsOperator": "windtunnel_airflow.tracking_server.runs",
    "BatchPredictOperator": "windtunnel_airflow.tracking_server.predict",
    "CreateDeploymentOperator": "windtunnel_airflow.tracking_server.deployments",
    "DeleteDeploymentOperator": "windtunnel_airflow.tracking_server.deployments",
    "GetDeploymentOperator": "windtunnel_airflow.tracking_server.deployments",
    "ListDeploymentsOperator": "windtunnel_airflow.tracking_server.deployments",
    "PredictDeploymentOperator": "windtunnel_airflow.tracking_server.deployments",
    "ModelAliasSensor": "windtunnel_airflow.tracking_server.sensors",
    "ModelStageSensor": "windtunnel_airflow.tracking_server.sensors",
    "ModelVersionSensor": "windtunnel_airflow.tracking_server.sensors",
    "RunSensor": "windtunnel_airflow.tracking_server.sensors",
    "MlflowConditionTrigger": "windtunnel_airflow.tracking_server.triggers",
    "RegistryChangeTrigger": "windtunnel_airflow.tracking_server.watching",
    "registry_changes": "windtunnel_airflow.tracking_server.watching",
}

__all__ = [
    "BatchPredictOperator",
    "ChooseControlOperator",
    "ClaimReleaseOperator",
    "CloseAbandonedRunsOperator",
    "CopyModelVersionOperator",
    "CreateDeploymentOperator",
    "CreateExperimentOperator",
    "CreateModelVersionOperator",
    "CreateRegisteredModelOperator",
    "CreateRunOperator",
    "DataCheckOperator",
    "DataSnapshotOperator",
    "DeleteDeploymentOperator",
    "DeleteModelAliasOperator",
    "DeleteModelVersionOperator",
    "DeleteRegisteredModelOperator",
    "DeployOperator",
    "EvaluateOperator",
    "EvidenceOperator",
    "ExtraStepOperator",
    "GateSensor",
    "GateTrigger",
    "GetDeploymentOperator",
    "GetLatestModelVersionsOperator",
    "GetModelVersionOperator",
    "GetRegisteredModelOperator",
    "GoOnOperator",
    "ListDeploymentsOperator",
    "LogToRunOperator",
    "MlflowConditionTrigger",
    "MlflowHook",
    "ModelAliasSensor",
    "ModelStageSensor",
    "ModelVersionSensor",
    "OrderOperator",
    "OutcomeOperator",
    "PolicySensor",
    "PolicyTrigger",
    "PredictDeploymentOperator",
    "PromoteOperator",
    "RegisterOperator",
    "RegistryChangeTrigger",
    "RenameRegisteredModelOperator",
    "RetentionOperator",
    "RollbackOperator",
    "RouteOperator",
    "RunSensor",
    "SearchModelVersionsOperator",
    "SearchRegisteredModelsOperator",
    "SearchRunsOperator",
    "SeldonHook",
    "SetModelAliasOperator",
    "SetWeightOperator",
    "StatisticsOperator",
    "SweepOperator",
    "SweepPodsOperator",
    "TrainOperator",
    "TransitionModelVersionStageOperator",
    "UpdateModelVersionOperator",
    "UpdateRegisteredModelOperator",
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
    "registry_changes",
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
    from windtunnel_airflow.operators.sweeping import SweepPodsOperator
    from windtunnel_airflow.operators.train import TrainOperator
    from windtunnel_airflow.operators.watch import (
        WatchDriftOperator,
        WatchPerformanceOperator,
        WatchReactOperator,
        WatchReportOperator,
        WatchWindowOperator,
    )
    from windtunnel_airflow.retry import WindtunnelRetryPolicy
    from windtunnel_airflow.seldon import SeldonHook
    from windtunnel_airflow.sensors import GateSensor, PolicySensor
    from windtunnel_airflow.tracking_server.deployments import (
        CreateDeploymentOperator,
        DeleteDeploymentOperator,
        GetDeploymentOperator,
        ListDeploymentsOperator,
        PredictDeploymentOperator,
    )
    from windtunnel_airflow.tracking_server.hook import MlflowHook
    from windtunnel_airflow.tracking_server.models import (
        CreateRegisteredModelOperator,
        DeleteModelAliasOperator,
        DeleteRegisteredModelOperator,
        GetRegisteredModelOperator,
        RenameRegisteredModelOperator,
        SearchRegisteredModelsOperator,
        SetModelAliasOperator,
        UpdateRegisteredModelOperator,
    )
    from windtunnel_airflow.tracking_server.predict import BatchPredictOperator
    from windtunnel_airflow.tracking_server.runs import (
        CreateExperimentOperator,
        CreateRunOperator,
        LogToRunOperator,
        SearchRunsOperator,
    )
    from windtunnel_airflow.tracking_server.sensors import (
        ModelAliasSensor,
        ModelStageSensor,
        ModelVersionSensor,
        RunSensor,
    )
    from windtunnel_airflow.tracking_server.triggers import MlflowConditionTrigger
    from windtunnel_airflow.tracking_server.versions import (
        CopyModelVersionOperator,
        CreateModelVersionOperator,
        DeleteModelVersionOperator,
        GetLatestModelVersionsOperator,
        GetModelVersionOperator,
        SearchModelVersionsOperator,
        TransitionModelVersionStageOperator,
        UpdateModelVersionOperator,
    )
    from windtunnel_airflow.tracking_server.watching import RegistryChangeTrigger, registry_changes
    from windtunnel_airflow.triggers import GateTrigger, PolicyTrigger


def __getattr__(name: str) -> Any:
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'windtunnel_airflow' has no attribute {name!r}")
