"""The pods of a training of several nodes on a cluster, as one set: made once, found again, looked at, removed.

What ``flight`` is for one pod, with the same words. The provider has no operator for JobSets or TrainJobs, so the
set is a custom object, made by our own client of the API; a trigger of ours waits for it (``gangtrigger``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import TaskDeferred

from windtunnel.errors import (
    AbsentError,
    ClusterError,
    ConflictError,
    ForbiddenError,
    TrainingError,
    WindtunnelError,
)
from windtunnel.tracking.pods import gang, naming, trainjob
from windtunnel.tracking.pods.capacity import compare

if TYPE_CHECKING:
    from windtunnel.kube.client import Client
    from windtunnel.kube.kinds import Kind
    from windtunnel.spec import TrainJob
    from windtunnel.tracking.contract import RunStatus
    from windtunnel.tracking.pods.ends import PodEnd

log = logging.getLogger(__name__)

#: A set whose pods no node of today can take is looked at after this many seconds, as a pod is.
DOUBT = 90
#: Pods whose events are read: the first that do not run.
TOLD = 8
INSTALL = {
    "JobSet": "install JobSet (https://jobset.sigs.k8s.io, CRD jobsets.jobset.x-k8s.io) in the cluster, or set "
    "training.nodes: 1",
    "TrainJob": "install Kubeflow Trainer 2.2 or newer (CRD trainjobs.trainer.kubeflow.org) in the cluster, or leave "
    "training.pod.trainjob out: a JobSet is made without it",
}
RUNTIMES = "docs/how-to/train-on-several-nodes.md has one that fits"


def kind_of(name: str) -> Kind:
    """The kind of a set, by its name in manifests: ``JobSet`` or ``TrainJob``."""
    from windtunnel.kube.kinds import JOB_SET, TRAIN_JOB

    return {kind.name: kind for kind in (JOB_SET, TRAIN_JOB)}[name]


class Connected:
    """The way to a cluster by an Airflow connection, as ``windtunnel.kube`` takes it."""

    def __init__(self, kubernetes_conn_id: str, namespace: str) -> None:
        self.kubernetes_conn_id, self.namespace = kubernetes_conn_id, namespace

    def connect(self) -> tuple[Any, str]:
        """A client with fresh credentials, and the namespace.

        Raises:
            ForbiddenError: the connection leads nowhere.
        """
        from airflow.sdk.exceptions import AirflowException
        from kubernetes.config import ConfigException

        from windtunnel_airflow.pods import eks

        try:
            return eks.client_of(self.kubernetes_conn_id, self.namespace), self.namespace
        except (AirflowException, ConfigException, OSError) as error:
            raise ForbiddenError(
                f"no way to the cluster by connection {self.kubernetes_conn_id!r}: {error}",
                hint="its kubeconfig must be there for workers and triggerers",
            ) from error


def client_of(kubernetes_conn_id: str, namespace: str) -> Client:
    """Our client for a namespace, by an Airflow connection."""
    from windtunnel.kube.client import Client

    return Client(Connected(kubernetes_conn_id, namespace))  # type: ignore[arg-type]


class GangFlight:
    """The set of one attempt at a run.

    Args:
        manifest: as ``gang.job_set`` or ``trainjob.train_job`` makes it.
        start_within: seconds until all of it must run, once no queue holds it back.
        said: what the nodes have said of their ends, by rank.
        runtime: by which a TrainJob is made.
    """

    def __init__(
        self,
        kubernetes_conn_id: str,
        manifest: Mapping[str, Any],
        start_within: float,
        said: Callable[[], Mapping[int, RunStatus]],
        runtime: TrainJob | None = None,
    ) -> None:
        self.kubernetes_conn_id = kubernetes_conn_id
        self.manifest = dict(manifest)
        self.start_within = self.look_within = float(start_within)
        self.said, self.runtime = said, runtime
        self.kind = kind_of(str(manifest["kind"]))
        self.name = str(manifest["metadata"]["name"])
        self.namespace = str(manifest["metadata"]["namespace"])
        labels = manifest["metadata"]["labels"]
        self.labels = ",".join(f"{key}={labels[key]}" for key in (naming.RUN, naming.ATTEMPT))

    @cached_property
    def client(self) -> Client:
        return client_of(self.kubernetes_conn_id, self.namespace)

    @property
    def address(self) -> str:
        """Of the API that this goes to."""
        return self.client.address

    def now(self) -> float:
        """The API's own time."""
        return self.client.now()

    # -- making and waiting
    def watch(self, context: Any, found: Any = None) -> None:
        """Make the set, or take the one that is there, and wait in the trigger; always raises.

        Raises:
            TaskDeferred: it is waited for.
            TrainingError: the cluster knows no such sets, or does not take this one.
        """
        from windtunnel_airflow.pods.gangtrigger import GangTrigger

        if found is None:
            self._look_at_runtime()
            try:
                self.client.create(self.kind, self.manifest)
            except ConflictError:
                # Made by a worker that died before it could say so: the same name is the same attempt.
                log.info("Set %s is there already", self.name)
            except AbsentError as error:
                raise self._absent(error) from error
            except ForbiddenError as error:
                if "admission webhook" not in error.message:
                    raise
                hint = "a webhook of the cluster says so (JobSet's, Kueue's, Kubeflow Trainer's): training.pod"
                raise TrainingError(f"set {self.namespace}/{self.name}: {error.message}", hint=hint) from error
            except ClusterError as error:
                hint = "a TrainJob's fields are those of Kubeflow Trainer 2.2 and newer, a JobSet's those of v1alpha2"
                raise TrainingError(f"set {self.namespace}/{self.name}: {error.message}", hint=hint) from error
        trigger = GangTrigger(
            kubernetes_conn_id=self.kubernetes_conn_id,
            namespace=self.namespace,
            name=self.name,
            labels=self.labels,
            start_within=self.look_within,
            kind=self.kind.name,
        )
        raise TaskDeferred(trigger=trigger, method_name="resume_pod")

    def make(self, context: Any) -> Any:
        """Make the set and wait for it; always raises as ``watch`` does. A queue, not a quota, says when there is room:
        a namespace's quota is met by the Job's controller, and shows as a set that does not start."""
        self.watch(context)

    def resume(self, context: Any, event: Mapping[str, Any]) -> None:
        """Go on after the trigger, which has read the log of node 0."""
        log.info("Set %s: %s", self.name, event.get("message"))

    # -- looking
    def find(self, run_id: str, attempt: int) -> dict[str, Any] | None:
        """The set of this attempt; None when there is none.

        Raises:
            TrainingError: the cluster knows no such sets.
        """
        try:
            return self.client.get(self.kind, self.name)
        except AbsentError as error:
            raise self._absent(error) from error

    def end(self, *, given_up: bool = False) -> tuple[PodEnd, dict[str, Any]]:
        """How the set stands, and the evidence: ``{"gang", "pods", "pod", "events"}`` as plain values."""
        from windtunnel.kube.kinds import POD

        found = self.find("", 0)
        pods = list(self.client.list(POD, labels=self.labels).get("items") or [])
        said = self._events(pods)
        events = said or {}
        waited = max((self._age(pod) for pod in pods), default=0.0)
        waiting = any((pod.get("status") or {}).get("phase") == "Pending" for pod in pods)
        # Who may not read events does not hear an autoscaler that makes a node: today's nodes are no answer then.
        nodes = self._nodes() if waiting and (said is not None or given_up) else None
        end = gang.judge(found, pods, self.said(), events, nodes, waited=waited, given_up=given_up)
        for thing in (*pods, *([found] if found else [])):
            thing["metadata"].pop("managedFields", None)
        first = gang.newest(pods).get(0)
        flat = [event for name in sorted(events) for event in events[name]]
        return end, {"gang": found, "pods": pods, "pod": first or next(iter(pods), None), "events": flat}

    def doubt(self) -> str | None:
        """Why no node of today can take one of its pods, in words; it is then looked at soon (TRN-5)."""
        nodes = self._nodes()
        if self.kind.name == "TrainJob":
            one = trainjob.sized(self.manifest)
        else:
            one = self.manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
        found = compare(one, nodes) if nodes is not None else None
        if found is None or found.reason is None:
            return None
        self.look_within = min(self.start_within, DOUBT)
        return f"{found.reason}; each of {gang.size(self.manifest)} nodes asks for {found.asked}; {found.there}"

    def goes_on(self, opened: float | None = None) -> dict[str, Any] | None:
        """The set, where it was looked at early and there is reason to wait on; None where there is none.

        Args:
            opened: since when no queue held it back (seconds since the epoch, by the API's clock).
        """
        end, evidence = self.end()
        if end.ended or evidence["gang"] is None:
            return None
        since = opened if opened is not None else self.now()
        found: dict[str, Any] = evidence["gang"]
        return None if self.now() - since >= self.start_within else found

    def remove(self, grace: int | None = None) -> list[dict[str, Any]]:
        """Delete the set and with it its pods; with ``grace``, how these were then. What is gone does not matter.

        Args:
            grace: seconds that each pod is left, instead of its own.
        """
        from windtunnel.kube.kinds import POD

        self.client.delete(self.kind, self.name)
        if grace is None:
            return []
        pods = list(self.client.list(POD, labels=self.labels).get("items") or [])
        for pod in pods:
            self.client.delete(POD, str(pod["metadata"]["name"]), grace_s=grace)
        return pods

    # -- inside
    def _age(self, pod: Mapping[str, Any]) -> float:
        made = (pod.get("metadata") or {}).get("creationTimestamp")
        return self.now() - datetime.fromisoformat(str(made)).timestamp() if made else 0.0

    def _absent(self, error: Exception) -> TrainingError:
        text = f"set {self.namespace}/{self.name}: the cluster knows no {self.kind.name}s: {error}"
        return TrainingError(text, hint=INSTALL[self.kind.name])

    def _look_at_runtime(self) -> None:
        """What a TrainJob cannot say its runtime must; what is less than usual is told (0018).

        Raises:
            TrainingError: there is no such runtime, it may not be read, or does not do for a training of ours.
        """
        if self.runtime is None:
            return
        kind = trainjob.runtime_kind(self.runtime)
        what = f"{kind.name} {self.runtime.runtime}"
        try:
            found = self.client.get(kind, self.runtime.runtime)
        except AbsentError as error:
            raise self._absent(error) from error
        except ForbiddenError as error:
            raise TrainingError(
                f"{what} cannot be looked at: {error.message}",
                hint=f"the connection needs the right to get {kind.plural} ({kind.group}); with "
                "training.pod.trainjob.scope: namespace the chart's role has it",
            ) from error
        if found is None:
            where = "" if self.runtime.scope == "cluster" else f" in namespace {self.namespace}"
            raise TrainingError(f"there is no {what}{where}", hint=f"training.pod.trainjob names it; {RUNTIMES}")
        seen = trainjob.look(found, self.manifest)
        if seen.refused:
            raise TrainingError(f"{what} does not do: {'; '.join(seen.refused)}", hint=RUNTIMES)
        for one in seen.told:
            log.warning("%s: %s", what, one)

    def _events(self, pods: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]] | None:
        """Those of pods that do not run, by name; None where they cannot be read."""
        from windtunnel.kube.kinds import EVENT

        out: dict[str, list[dict[str, Any]]] = {}
        odd = [pod for pod in pods if (pod.get("status") or {}).get("phase") not in ("Running", "Succeeded")]
        for name in [str(pod["metadata"]["name"]) for pod in odd[:TOLD]]:
            try:
                found = self.client.list(EVENT, fields=f"involvedObject.name={name}")
            except WindtunnelError as error:
                log.warning("Events of pod %s cannot be read: %s", name, error)
                return None
            out[name] = list(found.get("items") or [])
        return out

    def _nodes(self) -> list[dict[str, Any]] | None:
        """Every node, where we may list them: it takes a cluster-wide permission."""
        from windtunnel.kube.kinds import NODE

        try:
            return list(self.client.list(NODE).get("items") or [])
        except WindtunnelError as error:
            log.info("Nodes cannot be listed (%s): what the cluster has is not told", error)
            return None
