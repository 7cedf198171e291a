"""Release: claim a version, deploy it, move its weight step by step, promote it, or take it back.

Every one of these writes a desired state under the claim's fencing token and reads back what is; run again, it ends
in the same place. Traffic comes before the registry wherever users are at stake: a registry that is down delays a
promotion but never a rollback.

Each has its module; these are their names together.
"""

from __future__ import annotations

from windtunnel_airflow.operators.claim import ClaimReleaseOperator
from windtunnel_airflow.operators.outcome import OutcomeOperator
from windtunnel_airflow.operators.promote import PromoteOperator
from windtunnel_airflow.operators.traffic import DeployOperator, RouteOperator, SetWeightOperator
from windtunnel_airflow.operators.undo import RollbackOperator, WithdrawOperator

__all__ = [
    "ClaimReleaseOperator",
    "DeployOperator",
    "OutcomeOperator",
    "PromoteOperator",
    "RollbackOperator",
    "RouteOperator",
    "SetWeightOperator",
    "WithdrawOperator",
]
