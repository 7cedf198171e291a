"""One training pod on a cluster, by KubernetesPodOperator: made once, watched by its trigger, looked at, removed.

The provider's operator is composed here, when a task runs, and nothing of it is imported before: a subclass would
double what a DAG file costs. It makes the pod and comes back when the trigger says so. That trigger is ours: it follows
all pods of a namespace in one watch (``trigger``). What else the provider does not do as we need it is done here by
its own client: finding the pod of a run by label, whatever task or try made it; reading why a pod ended before it is
gone; removing it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any

from windtunnel.errors import UnavailableError
from windtunnel.kube.answers import Answer
from windtunnel.tracking.pods import naming
from windtunnel.tracking.pods.capacity import compare
from windtunnel.tracking.pods.ends import PodEnd, classify
from windtunnel.tracking.pods.manifest import CONTAINER
from windtunnel_airflow.pods.refusals import said_of

log = logging.getLogger(__name__)

#: Seconds between two readings of the log while it runs.
LOGS = 30
#: A pod that no node of today can take is looked at after this many seconds: an autoscaler has spoken by then.
DOUBT = 90
#: A person's cancel is over within 30 s (TRN-7).
CANCEL_GRACE = 20


class PodFlight:
    """The pod of one attempt at a run.

    Args:
        manifest: as ``training_pod`` makes it.
        start_within: seconds until it must run.
    """

    def __init__(self, task_id: str, kubernetes_conn_id: str, manifest: Mapping[str, Any], start_within: float) -> None:
        self.task_id = task_id
        self.kubernetes_conn_id = kubernetes_conn_id
        self.manifest = dict(manifest)
        self.start_within = int(start_within)
        self.name = str(manifest["metadata"]["name"])
        self.namespace = str(manifest["metadata"]["namespace"])
        self._refused: Mapping[str, str] = {}  # the API's headers, where it did not take the pod

    @cached_property
    def operator(self) -> Any:
        """The provider's operator for this pod."""
        from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

        from windtunnel_airflow.pods.eks import Kubeconfig, eks_of

        labels = self.manifest["metadata"]["labels"]
        given: dict[str, Any] = {
            "task_id": self.task_id,
            "kubernetes_conn_id": self.kubernetes_conn_id,
            "namespace": self.namespace,
            "random_name_suffix": False,
            "pod_template_dict": self.manifest,
            "base_container_name": CONTAINER,
            "labels": {key: labels[key] for key in (naming.RUN, naming.ATTEMPT)},
            "automount_service_account_token": False,
            "termination_message_policy": "FallbackToLogsOnError",
            # Its own re-attachment deletes a pod that has ended and makes another: that would train twice.
            "durable": False,
            "deferrable": True,
            "startup_timeout_seconds": self.start_within,
            "schedule_timeout_seconds": self.start_within,
            "logging_interval": LOGS,
            # Removed here, after it was read why it ended.
            "on_finish_action": "keep_pod",
            "on_kill_action": "delete_pod",
            "log_pod_spec_on_failure": False,
            "do_xcom_push": False,
        }
        eks = eks_of(self.kubernetes_conn_id)
        if eks is None:
            return KubernetesPodOperator(name=self.name, **given)
        from airflow.providers.amazon.aws.operators.eks import EksPodOperator

        operator = EksPodOperator(
            cluster_name=eks.name, aws_conn_id=eks.aws_conn_id, region=eks.region, pod_name=self.name, **given
        )
        # Its own execute holds these only while it runs itself; here they are held as long as the operator is.
        operator.kubeconfig = Kubeconfig(eks, self.namespace)
        operator.config_file = operator.kubeconfig.path
        operator._credentials_file_path = operator.kubeconfig.credentials
        return operator

    @property
    def client(self) -> Any:
        return self.operator.client

    @property
    def address(self) -> str:
        """Of the API that this goes to."""
        return str(self.client.api_client.configuration.host)

    def now(self) -> float:
        """The API's own time when it answered last, in seconds since the epoch; this worker's, where it has not said.

        Times on a pod are the API's; a worker's clock may be minutes off.
        """
        last, now = getattr(self.client.api_client, "last_response", None), time.time()
        said = getattr(last, "urllib3_response", last)
        headers = self._refused or (said.headers if said is not None else {})
        return now + Answer.of(0, b"", headers).ahead(now)

    # -- with the provider's operator
    def watch(self, context: Any, found: Any = None) -> None:
        """Make the pod, or take the one that is there, and wait in the trigger; always raises.

        Args:
            found: the pod, where it is known to be there.

        Raises:
            TaskDeferred: it is waited for; ``resume`` goes on.
            Exception: what ``problem`` turns into one of ours.
        """
        from kubernetes.client.exceptions import ApiException

        if found is not None:
            self.operator.pod = found
        try:
            self.operator.execute_async(context)
        except ApiException as error:
            if error.status != 409:
                self._refused = error.headers or {}  # its client remembers only what was answered well
                raise
            # Made by a worker that died before it could say so: the same name is the same attempt.
            self.operator.pod = self._made_before(error)
            self.operator.execute_async(context)

    def _made_before(self, refusal: Any) -> Any:
        """The pod that stood in the way of making it.

        Raises:
            UnavailableError: there is none: the API was busy with others (a quota that many pods are counted in).
        """
        from kubernetes.client.exceptions import ApiException

        try:
            return self.client.read_namespaced_pod(self.name, self.namespace)
        except ApiException as error:
            if error.status != 404:
                raise
            text = f"pod {self.namespace}/{self.name} was not made (409): {said_of(refusal)}"
            raise UnavailableError(text, hint="the next try makes it") from refusal

    def resume(self, context: Any, event: dict[str, Any]) -> None:
        """Go on after the trigger: the rest of the log; returns when the pod has ended or is given up.

        Raises:
            TaskDeferred: it has not ended.
        """
        from airflow.sdk.exceptions import AirflowException

        self.operator.get_logs = not event.get("log_read")  # the trigger has read it, to its end
        # It would wait here, in a worker's slot, until the pod has ended: for ever where a sidecar goes on, or a pod
        # that the trigger could not follow. What else it does then is done by ``end`` and ``remove``.
        self.operator._clean = _nothing
        from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

        try:
            # By its class: that for EKS would make credentials of its own, and take them away again.
            KubernetesPodOperator.trigger_reentry(self.operator, context, event)
        except AirflowException as error:
            # Why it ended is read from the pod itself, below; the provider's words would be the whole object.
            log.info("KubernetesPodOperator: %s", str(error).splitlines()[0] if str(error) else type(error).__name__)

    # -- by its client
    def find(self, run_id: str, attempt: int) -> Any:
        """The pod of an attempt at a run, by label; None when there is none."""
        found = self.client.list_namespaced_pod(self.namespace, label_selector=naming.selector(run_id, attempt)).items
        return found[0] if found else None

    def end(self, *, given_up: bool = False) -> tuple[PodEnd, dict[str, Any]]:
        """How the pod stands, and the evidence: ``{"pod", "events"}`` as plain values."""
        from kubernetes.client.exceptions import ApiException

        try:
            pod = self._plain(self.client.read_namespaced_pod(self.name, self.namespace))
        except ApiException as error:
            if error.status != 404:
                raise
            pod = None
        said = self._events()
        events = said or []
        waiting = pod is not None and pod.get("status", {}).get("phase") == "Pending"
        waited = self._age(pod) if pod is not None else 0.0
        # Who may not read events does not hear an autoscaler that makes a node: today's nodes are no answer then.
        nodes = self._nodes() if waiting and (said is not None or given_up) else None
        found = classify(pod, events, nodes, waited=waited, given_up=given_up)
        return found, {"pod": pod, "events": events}

    def doubt(self) -> str | None:
        """Why no node of today can take the pod, in words; it is then looked at soon (TRN-5). None where one can."""
        nodes = self._nodes()
        found = compare(self.manifest, nodes) if nodes is not None else None
        if found is None or found.reason is None:
            return None
        self.operator.schedule_timeout_seconds = min(self.start_within, DOUBT)
        return f"{found.reason}; it asks for {found.asked}; {found.there}"

    def goes_on(self, opened: float | None = None) -> Any:
        """The pod, where it was looked at early and there is reason to wait on; None where there is none.

        Args:
            opened: when its queue let it go (seconds since the epoch, by the API's clock), where it had one.
        """
        end, evidence = self.end()
        if end.ended or evidence["pod"] is None:
            return None
        queued = naming.QUEUE in (evidence["pod"]["metadata"].get("labels") or {})
        waited = self.now() - opened if queued and opened is not None else self._age(evidence["pod"])
        if waited >= self.start_within:
            return None
        return self.client.read_namespaced_pod(self.name, self.namespace)

    def remove(self, grace: int | None = None) -> list[dict[str, Any]]:
        """Delete the pod; how it was then. One that is gone does not matter."""
        from kubernetes.client.exceptions import ApiException

        try:
            gone = self.client.delete_namespaced_pod(self.name, self.namespace, grace_period_seconds=grace)
        except ApiException as error:
            if error.status != 404:
                raise
            return []
        return [self._plain(gone)]

    def _age(self, pod: Mapping[str, Any]) -> float:
        made = (pod.get("metadata") or {}).get("creationTimestamp")
        return self.now() - datetime.fromisoformat(str(made)).timestamp() if made else 0.0

    def _plain(self, found: Any) -> dict[str, Any]:
        plain: dict[str, Any] = self.client.api_client.sanitize_for_serialization(found)
        return plain

    def _events(self) -> list[dict[str, Any]] | None:
        """Those of the pod; None where they cannot be read."""
        from kubernetes.client.exceptions import ApiException

        try:
            selector = f"involvedObject.name={self.name}"
            found = self.client.list_namespaced_event(self.namespace, field_selector=selector).items
        except ApiException as error:
            log.warning("Events of pod %s cannot be read: %s %s", self.name, error.status, error.reason)
            return None
        return [self._plain(event) for event in found]

    def _nodes(self) -> list[dict[str, Any]] | None:
        """Every node, where we may list them: it takes a cluster-wide permission."""
        from kubernetes.client.exceptions import ApiException

        try:
            return [self._plain(node) for node in self.client.list_node().items]
        except ApiException as error:
            log.info("Nodes cannot be listed (%s): what the cluster has is not told", error.status)
            return None


def _nothing(*_: Any, **__: Any) -> None:
    """Instead of a step of the provider's."""
