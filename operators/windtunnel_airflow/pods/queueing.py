"""Where the train task stands in Airflow's own queue."""

from __future__ import annotations

from typing import Any

from windtunnel.spec import Model


def queueing(model: Model) -> dict[str, Any]:
    """Arguments of the train task for pool and priority; what the description does not say stays Airflow's."""
    training, out = model.training, dict[str, Any]()
    if training.pool is not None:
        out["pool"] = training.pool
    if training.pool_slots != 1:
        out["pool_slots"] = training.pool_slots
    if training.priority != 1:
        # As it is written, not summed over the tasks that follow, which is Airflow's default.
        out |= {"priority_weight": training.priority, "weight_rule": "absolute"}
    return out
