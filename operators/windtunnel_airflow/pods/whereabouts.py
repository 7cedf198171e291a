"""Where an attempt at a run in pods was begun: the description may say another place by the time it is looked for.

Namespace, connection and shape (a pod, a JobSet, a TrainJob) are no part of what a training is: whoever edits them
while it trains finds it again where it is, and the next attempt begins where the description says then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from windtunnel.spec import Pod


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """A place, as a task keeps it beside its run.

    Attributes:
        connection: Airflow connection to the cluster.
        namespace: in it.
        nodes: how many pods train together; 1 is a pod, more are a set.
        trainjob: values of ``training.pod.trainjob`` where the set is a TrainJob; None: it is a JobSet.
    """

    connection: str
    namespace: str
    nodes: int = 1
    trainjob: Mapping[str, Any] | None = None

    @classmethod
    def said(cls, connection: str, namespace: str, nodes: int, pod: Pod) -> Whereabouts:
        """As a description says it."""
        by = pod.trainjob.model_dump(mode="json") if pod.trainjob is not None and nodes > 1 else None
        return cls(connection, pod.namespace or namespace, nodes, by)

    @classmethod
    def kept(cls, record: Mapping[str, Any]) -> Whereabouts | None:
        """As a task kept it; None in records of former days."""
        found = record.get("where")
        return cls(**found) if found else None

    def plain(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @property
    def words(self) -> str:
        """For people."""
        kind = "TrainJob" if self.trainjob else "JobSet"
        what = "a pod" if self.nodes == 1 else f"a {kind} of {self.nodes} nodes"
        return f"{what} in namespace {self.namespace} (connection {self.connection})"

    def pinned(self, pod: Pod) -> Pod:
        """The description's pod, in this place."""
        from windtunnel.spec import TrainJob

        by = TrainJob.model_validate(self.trainjob) if self.trainjob else None
        return pod.model_copy(update={"namespace": self.namespace, "trainjob": by})
