"""Where the pods of an operator's run are: as its description says it now, and as it was said when they were begun."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from windtunnel_airflow.operators.running import RunnerOperator
from windtunnel_airflow.pods.refusals import refused, said_of
from windtunnel_airflow.pods.whereabouts import Whereabouts

if TYPE_CHECKING:
    from windtunnel.spec import Pod
    from windtunnel_airflow.pods.flight import PodFlight


class PlacedOperator(RunnerOperator):
    """Base of operators whose run may be a pod somewhere.

    Args:
        kubernetes_conn_id: Airflow connection to the cluster.
        deferrable: it waits in the triggerer; False: in this worker, whose slot it holds until the pod has ended. It
            does not follow ``operators.default_deferrable``, which is off unless told, and would hold slots for hours.
    """

    def __init__(
        self, *, kubernetes_conn_id: str = "kubernetes_default", deferrable: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.kubernetes_conn_id = kubernetes_conn_id
        self.deferrable = deferrable

    @property
    def nodes(self) -> int:
        """How many pods train together."""
        return 1

    @property
    def _where(self) -> Whereabouts:
        """Where an attempt begins that begins now."""
        namespace = self._pod.namespace or self.hook.namespace_of(self.kubernetes_conn_id)
        return Whereabouts.said(self.kubernetes_conn_id, namespace, self.nodes, self._pod)

    def _begun(self, record: Mapping[str, Any]) -> Whereabouts:
        """Where this attempt was begun."""
        return Whereabouts.kept(record) or self._where

    def _tell_place(self, flight: PodFlight, record: Mapping[str, Any]) -> None:
        """Say where it is looked for, where one would not think so."""
        before, now = self._begun(record), self._where
        if before != now:
            self.log.warning("Run %s is looked for where it was begun, as %s; the description says %s, which holds "
                             "for its next attempt", record["run_id"], before.words, now.words)  # fmt: skip
        if (api := record.get("api")) and api != flight.address:
            self.log.warning("Run %s was begun at the Kubernetes API %s; connection %s leads to %s now: if that is "
                             "another cluster, what is left in the former one ends there by its deadline",
                             record["run_id"], api, before.connection, flight.address)  # fmt: skip

    def _look_for(self, flight: PodFlight, record: Mapping[str, Any], *, kindly: bool) -> Any:
        """The attempt's pod or set; None where there is none.

        Args:
            kindly: a former place that may not be looked into is told, and no error.
        """
        try:
            return flight.find(str(record["run_id"]), int(record["attempt"]))
        except Exception as error:
            if not kindly or self._begun(record) == self._where or not refused(error):
                raise
            self.log.warning("Run %s cannot be looked for as %s: %s. If it is there, it ends by its deadline",
                             record["run_id"], self._begun(record).words, said_of(error))  # fmt: skip
            return None

    @property
    def _pod(self) -> Pod:
        from windtunnel.spec import Pod

        return self.description.training.pod or Pod()
