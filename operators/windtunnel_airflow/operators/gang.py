"""Training on several nodes, where the description's ``training.nodes`` says so: all of them, or none (TRN-4).

The life of a run is that of a run in one pod (``podded``): found again by name, judged, collected, removed. Other
is what flies (a JobSet, a TrainJob), who is believed (the node that failed first), what is written down (every pod).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from windtunnel_airflow.operators.podded import PodOperator
from windtunnel_airflow.pods.flight import CANCEL_GRACE

if TYPE_CHECKING:
    from windtunnel.tracking.contract import RunSpec, RunStatus
    from windtunnel.tracking.pods.depot import Depot
    from windtunnel.tracking.pods.ends import PodEnd


class GangOperator(PodOperator):
    """Base of operators whose run may be a pod, or a set of them."""

    @property
    def nodes(self) -> int:
        """How many pods train together."""
        return int(self.description.training.nodes)

    def _flight(self, spec: RunSpec, record: Mapping[str, Any], digest: str = "") -> Any:
        where = self._begun(record)
        if where.nodes == 1:
            return super()._flight(spec, record, digest)
        from windtunnel.tracking.pods import gang, nodes, trainjob
        from windtunnel_airflow.pods.gangflight import GangFlight

        pod = where.pinned(self._pod)
        make = gang.job_set if pod.trainjob is None else trainjob.train_job
        manifest = make(spec, pod, self._place(record, digest), where.nodes)
        depot, attempt = self._depot(record), int(record["attempt"])
        within = pod.start_within.total_seconds()
        return GangFlight(where.connection, manifest, within, lambda: nodes.said(depot, attempt), pod.trainjob)

    def _trigger(self, theirs: Any, record: Mapping[str, Any]) -> Any:
        if self._begun(record).nodes == 1:
            return super()._trigger(theirs, record)
        theirs.run_of, theirs.grace = self._whose(record), CANCEL_GRACE
        return theirs

    def _over(
        self, flight: Any, depot: Depot, record: Mapping[str, Any], *, given_up: bool = False
    ) -> tuple[RunStatus, PodEnd]:
        if self._begun(record).nodes == 1:
            return super()._over(flight, depot, record, given_up=given_up)
        from windtunnel.tracking.contract import RunStatus

        end, evidence = flight.end(given_up=given_up)
        if evidence["gang"] is not None or evidence["pods"]:
            self._write_down(depot, record, end, evidence)
        said = depot.outcome(int(record["attempt"]))
        if said is not None and (said.state in ("succeeded", "cancelled") or end.kind == "succeeded"):
            if said.state == "succeeded" and end.ended and end.kind != "succeeded":
                self.log.warning("Node 0 delivered the model; the set ended otherwise: %s", end.message)
            return said, end
        if end.kind == "succeeded":
            message = "every node succeeded, but node 0 left no word in the object store"
            return RunStatus(depot.run_id, "failed", failure="transient", message=message), end
        if not end.ended:
            message = f"the set is still there ({end.kind}: {end.message})"
            return RunStatus(depot.run_id, "failed", failure="transient", message=message), end
        # Node 0's own word may only be what another node's failure looked like from there.
        state: Any = "cancelled" if end.failure == "cancelled" else "failed"
        return RunStatus(depot.run_id, state, failure=end.failure, message=f"{end.kind}: {end.message}"), end
