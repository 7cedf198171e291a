"""A person's cancel of a training in a pod: the run ends as cancelled, not as failed (TRN-7).

Two steps around the pod's removal. Before: a word in the object store, which the pod looks for when it is told to stop,
so that what runs in it ends as cancelled by itself. After: what was there is written down, the MLflow run is closed
from here, for a pod that never ran or could not say so, and told what it cost.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from windtunnel.errors import WindtunnelError

log = logging.getLogger(__name__)

REASON = "a person ended the task in Airflow"


def tell(windtunnel_conn_id: str, run_id: str, attempt: int, **_: Any) -> None:
    """Leave the word for the pod; blocking."""
    from windtunnel.tracking.pods.depot import Depot
    from windtunnel_airflow.hook import WindtunnelHook

    Depot(WindtunnelHook(windtunnel_conn_id).objects, run_id).ask_to_end(attempt, REASON)


def close(
    windtunnel_conn_id: str,
    run_id: str,
    attempt: int,
    pods: Sequence[Mapping[str, Any]] = (),
    bill: Mapping[str, Any] | None = None,
) -> None:
    """Close the MLflow run as KILLED, where it has one: a team's own step has none; blocking.

    Args:
        pods: those that were removed, as the API had them last.
        bill: what the run is charged by, as ``charging.bill_of`` says; None: there are no prices.
    """
    from windtunnel_airflow.hook import WindtunnelHook

    hook = WindtunnelHook(windtunnel_conn_id)
    try:
        _write_down(hook, run_id, attempt, pods)
    except WindtunnelError as error:  # papers are not worth an open run
        log.warning("What was cancelled is not written down: %s", error)
    if run_id.startswith("step-"):
        return
    from windtunnel.tracking.server import connect

    tracking = connect(hook.url, timeout=5.0, env=hook.mlflow_env())
    tracking.log_batch(run_id, [], {}, {"wt.failure": "cancelled", "wt.reason": REASON, "wt.attempt": str(attempt)})
    tracking.set_state(run_id, "KILLED", int(time.time() * 1000))
    if bill is not None:
        from windtunnel.tracking.pods.depot import Depot
        from windtunnel_airflow.pods.charging import charge

        charge(tracking, bill, Depot(hook.objects, run_id), attempt)


def _write_down(hook: Any, run_id: str, attempt: int, pods: Sequence[Mapping[str, Any]]) -> None:
    """The attempt's evidence, as for any other end."""
    from windtunnel import canonical
    from windtunnel.tracking.pods.depot import Depot

    if not pods:
        return
    depot = Depot(hook.objects, run_id)
    told = {"kind": "cancelled", "failure": "cancelled", "message": REASON, "exit_code": None}
    plain = {**told, "pod": pods[0], "pods": list(pods), "events": []}
    depot.objects.put_bytes(f"{depot.key}/attempts/{attempt}/evidence.json", canonical.dumps(plain))
