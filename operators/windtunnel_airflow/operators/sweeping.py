"""Pods, JobSets and TrainJobs that nobody comes back for, in every namespace where trainings were begun."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from windtunnel.errors import AbsentError, ForbiddenError, UnavailableError, WindtunnelError
from windtunnel_airflow.operators.steward import _Steward

if TYPE_CHECKING:
    from windtunnel.data.objects import Objects
    from windtunnel.tracking.pods.orphans import Task, Word

RIGHTS = (
    "the connection's identity needs list and delete on pods (and on jobsets, trainjobs) there: the chart's "
    "training.moreNamespaces, or docs/reference/kubernetes-permissions.md"
)


class SweepPodsOperator(_Steward):
    """Remove what no task comes back to remove: training pods and TrainJobs that ended, and pods and sets that go on,
    or wait for a node (in a queue, too), while Airflow says that their task is over, or has none such.

    A task removes its pod when it has read why it ended. This is for pods whose task was deleted, ended by hand while
    no triggerer ran or between two tries, or had no try left while the cluster did not answer. What has a node goes
    when Airflow says so twice, a minute apart. Why it goes is written beside its run first; cleared, the task goes on
    from the newest checkpoint.

    Args:
        kubernetes_conn_id: Airflow connection to the cluster.
        namespace: where to look, and nowhere else; unless told, the connection's own and every one that a description
            named for a pod that was made by this connection.
        older_than: an end longer ago than this is nobody's business any more.
    """

    def __init__(
        self,
        *,
        kubernetes_conn_id: str = "kubernetes_default",
        namespace: str | None = None,
        older_than: timedelta = timedelta(days=1),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kubernetes_conn_id = kubernetes_conn_id
        self.namespace = namespace
        self.older_than = older_than

    def execute(self, context: Any) -> list[str]:
        from windtunnel.tracking.pods import namespaces
        from windtunnel_airflow.pods import sweeping

        objects = self._objects()
        made = self._noted(objects)
        gone: list[str] = []
        failed: dict[str, WindtunnelError] = {}
        for namespace in self._namespaces(made):
            try:
                swept = sweeping.sweep(
                    self.kubernetes_conn_id, namespace, self.older_than.total_seconds(), self._word(context),
                    lambda thing, why, evidence: self._depart(objects, thing, why, evidence),
                )  # fmt: skip
            except WindtunnelError as error:
                failed[namespace] = error
                nothing = isinstance(error, (ForbiddenError, AbsentError))
            else:
                gone += swept.removed
                for one in swept.waiting:
                    self.log.info("Left in namespace %s: %s", namespace, one)
                nothing = not swept.left
            if nothing and objects is not None and time.time() - made.get(namespace, time.time()) > namespaces.FORGET_S:
                namespaces.forget(objects, self.kubernetes_conn_id, namespace)
        self.log.info("Removed %s trainings that nobody came back for: %s", len(gone), ", ".join(gone) or "none")
        self._tell(failed, whole=len(failed) == len(self._namespaces(made)))
        return gone

    # -- inside
    def _objects(self) -> Objects | None:
        try:
            return self.hook.object_store
        except WindtunnelError as error:
            self.log.warning("Evidence is not written: %s", error)
            return None

    def _noted(self, objects: Objects | None) -> dict[str, float]:
        """Namespace -> when the newest pod was made there, by this connection; of others' it is told."""
        from windtunnel.tracking.pods import namespaces

        try:
            found = namespaces.noted(objects) if objects is not None else {}
        except WindtunnelError as error:
            self.log.warning("Only the connection's own namespace is looked into: %s", error)
            return {}
        if others := sorted(set(found) - {self.kubernetes_conn_id}):
            self.log.info("Pods were made by %s, too: a SweepPodsOperator each looks after them", ", ".join(others))
        return found.get(self.kubernetes_conn_id, {})

    def _namespaces(self, made: Mapping[str, float]) -> Sequence[str]:
        if self.namespace is not None:
            return [self.namespace]
        return sorted({self.hook.namespace_of(self.kubernetes_conn_id), *made})

    def _tell(self, failed: Mapping[str, WindtunnelError], *, whole: bool) -> None:
        """
        Raises:
            ForbiddenError: no namespace may be looked into.
            UnavailableError: one could not be looked into just now.
        """
        for namespace, error in failed.items():
            self.log.warning("Namespace %s was not looked into: %s. %s", namespace, error.message, RIGHTS)
        said = "; ".join(f"namespace {name}: {error.message}" for name, error in failed.items())
        if any(isinstance(error, UnavailableError) for error in failed.values()):
            raise UnavailableError(f"not every namespace was looked into: {said}", hint="the next round looks again")
        if failed and whole:
            raise ForbiddenError(f"no namespace was looked into: {said}", hint=RIGHTS)

    def _word(self, context: Any) -> Callable[[Task], Word]:
        """What Airflow says of a task; nothing of other installations'."""
        from windtunnel.tracking.pods import orphans
        from windtunnel_airflow.pods.sweeping import installation

        mine, ti = installation(self.hook), context.get("ti")

        def word(task: Task) -> Word:
            if ti is None or task.airflow != mine:
                return None
            index = task.map_index if task.map_index >= 0 else None
            try:
                states = ti.get_task_states(
                    dag_id=task.dag_id, task_ids=[task.task_id], run_ids=[task.run_id], map_index=index
                )
            except Exception as error:  # whatever it is, nothing is known of the task
                self.log.warning("Airflow does not say what became of %s: %s", task.words, error)
                return None
            return orphans.word_of(states, task)

        return word

    def _depart(self, objects: Objects | None, thing: Mapping[str, Any], why: str, evidence: dict[str, Any]) -> bool:
        """Write down why it goes, beside its run and on it."""
        from windtunnel import canonical
        from windtunnel.tracking.pods import naming

        meta = thing["metadata"]
        run_id = (meta.get("annotations") or {}).get("windtunnel.dev/run-id")
        attempt = (meta.get("labels") or {}).get(naming.ATTEMPT, "1")
        self.log.info("%s %s: %s", thing["kind"], meta["name"], why)
        if objects is None or not run_id:
            return True
        # Transient: a task that is cleared goes on with this run, in another pod.
        plain = {"kind": "queued", "failure": "transient", "message": why, "exit_code": None, **evidence}
        try:
            objects.put_bytes(f"runs/{run_id}/attempts/{attempt}/evidence.json", canonical.dumps(plain))
        except WindtunnelError as error:
            self.log.warning("%s stays for now: why it goes cannot be written down: %s", meta["name"], error)
            return False
        self._close(str(run_id), why, str(plain["kind"]))
        return True

    def _close(self, run_id: str, why: str, kind: str) -> None:
        """Its MLflow run, where it has one: a step has none."""
        if run_id.startswith("step-"):
            return
        from windtunnel.tracking.server import connect

        hook = self.hook
        try:
            tracking = connect(hook.url, timeout=hook.timeout, env=hook.mlflow_env())
            tracking.log_batch(run_id, [], {}, {"wt.failure": "transient", "wt.reason": why, "wt.pod.end": kind})
            tracking.set_state(run_id, "FAILED", int(time.time() * 1000))
        except WindtunnelError as error:  # the reason is in the store as well
            self.log.warning("MLflow run %s does not say why it ended: %s", run_id, error)
