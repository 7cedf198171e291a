"""A person's cancel of a training in a pod: the run ends as cancelled, not as failed (TRN-7).

Two steps around the pod's removal. Before: a word in the object store, which the pod looks for when it is told to stop,
so that what runs in it ends as cancelled by itself. After: the MLflow run is closed from here, for a pod that never ran
or could not say so.
"""

from __future__ import annotations

import time

REASON = "a person ended the task in Airflow"


def tell(windtunnel_conn_id: str, run_id: str, attempt: int) -> None:
    """Leave the word for the pod; blocking."""
    from windtunnel.tracking.pods.depot import Depot
    from windtunnel_airflow.hook import WindtunnelHook

    Depot(WindtunnelHook(windtunnel_conn_id).objects, run_id).ask_to_end(attempt, REASON)


def close(windtunnel_conn_id: str, run_id: str, attempt: int) -> None:
    """Close the MLflow run as KILLED, where it has one: a team's own step has none; blocking."""
    if run_id.startswith("step-"):
        return
    from windtunnel.tracking.server import connect
    from windtunnel_airflow.hook import WindtunnelHook

    hook = WindtunnelHook(windtunnel_conn_id)
    tracking = connect(hook.url, timeout=5.0, env=hook.mlflow_env())
    tracking.log_batch(run_id, [], {}, {"wt.failure": "cancelled", "wt.reason": REASON, "wt.attempt": str(attempt)})
    tracking.set_state(run_id, "KILLED", int(time.time() * 1000))
