"""Wait for a training pod without a worker and nearly without requests.

Every trigger of a triggerer follows its pod in one shared list and watch (``watch``). It tells, in the task's log,
what a pod waits for, and copies the pod's log there. It judges nothing: when the pod has ended, or has not started in
its time, the task goes on and finds out why (``flight``).

A trigger that dies starts again, here or in another triggerer, and lists anew.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from windtunnel.errors import WindtunnelError
from windtunnel.kube.following import Cut, Followed, Refusal
from windtunnel.tracking.pods import naming
from windtunnel.tracking.pods.ends import classify, container_of
from windtunnel.tracking.pods.manifest import CONTAINER
from windtunnel.tracking.pods.waiting import gated, scheduled, unqueued, waits_for
from windtunnel_airflow.pods.logs import READ, Reader, read_of
from windtunnel_airflow.pods.watch import PodWatch, Where, shared

#: For a pod that was just made to appear in the list, before it is asked for alone.
APPEARS_S = 5.0
#: A pod that is being deleted, and is still there so long after its time: its node does not answer.
STUCK_S = 300.0
#: First and longest pause between two looks at the events of a pod that waits.
EVENTS_S, EVENTS_MOST_S = 10.0, 300.0
#: Within Airflow's own 30 s for a cancel.
CANCEL_S = 25.0
#: For a last word of a triggerer that goes down.
NOTE_WITHIN_S = 5.0

#: Ends of a pod whose container never ran.
_NEVER_RAN = frozenset({"image", "configuration"})


class TrainingPodTrigger(BaseTrigger):
    """Wait until a training pod has ended, or has not started in its time.

    Events, as the provider's trigger gives them: ``{"status", "name", "namespace", "message", "last_log_time",
    "log_read", "open"}``, status ``success``, ``failed``, ``timeout`` (it has not started, or does not end; with
    ``"late": True`` the task's time is over), ``error``.

    Args:
        pod_name, pod_namespace: the pod.
        began: when it was deferred first (seconds since the epoch), by the worker's clock: for a pod that does not say
            when it was made.
        kubernetes_conn_id: connection to the cluster; read in the triggerer, never stored.
        cluster_context, in_cluster: as the provider's operator has them.
        eks: name, AWS connection and region of an EKS cluster, where it is one.
        schedule_within: seconds until it must have a node; none count while a queue holds it back.
        start_within: seconds from there until its container must run.
        log_every: seconds between two readings of its log.
        grace: seconds that a person's cancel leaves it.
        run: whose run it is: ``{"windtunnel_conn_id", "run_id", "attempt"}``, with prices ``"bill"``; for a person's
            cancel.
        more: goes into the event as it is.
        until: when the task's ``execution_timeout`` is over (seconds since the epoch, by the API's clock); None: it has
            none.
    """

    def __init__(
        self,
        pod_name: str,
        pod_namespace: str,
        began: float,
        kubernetes_conn_id: str | None,
        cluster_context: str | None = None,
        in_cluster: bool | None = None,
        eks: Sequence[str | None] | None = None,
        schedule_within: float = 600.0,
        start_within: float = 600.0,
        log_every: float = 30.0,
        grace: int = 20,
        run: dict[str, Any] | None = None,
        more: dict[str, Any] | None = None,
        until: float | None = None,
    ) -> None:
        super().__init__()
        self.pod_name = pod_name
        self.pod_namespace = pod_namespace
        self.began = began
        self.kubernetes_conn_id = kubernetes_conn_id
        self.cluster_context = cluster_context
        self.in_cluster = in_cluster
        self.eks = list(eks) if eks else None
        self.schedule_within = schedule_within
        self.start_within = start_within
        self.log_every = log_every
        self.grace = grace
        self.run_of = dict(run or {})
        self.more = dict(more or {})
        self.until = until
        self._reads: Reader | None = None

    @classmethod
    def instead_of(cls, theirs: Any, *, grace: int, run: Mapping[str, Any]) -> TrainingPodTrigger:
        """Ours for the provider's trigger.

        A kubeconfig that lies in this worker is not sent along, as the provider would: it may hold credentials.

        Args:
            theirs: a ``KubernetesPodTrigger``.
        """
        return cls(
            pod_name=theirs.pod_name,
            pod_namespace=theirs.pod_namespace,
            began=theirs.trigger_start_time.timestamp(),
            kubernetes_conn_id=theirs.kubernetes_conn_id,
            cluster_context=theirs.cluster_context,
            in_cluster=theirs.in_cluster,
            eks=[theirs.eks_cluster_name, theirs._aws_conn_id, theirs.region] if _on_eks(theirs) else None,
            schedule_within=float(theirs.schedule_timeout),
            start_within=float(theirs.startup_timeout),
            log_every=float(theirs.logging_interval or 30),
            grace=grace,
            run=dict(run),
            more=dict(theirs.trigger_kwargs),
        )

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = ("pod_name", "pod_namespace", "began", "kubernetes_conn_id", "cluster_context", "in_cluster", "eks")
        names += ("schedule_within", "start_within", "log_every", "grace", "more", "until")
        told = {name: getattr(self, name) for name in names}
        return f"{type(self).__module__}.{type(self).__qualname__}", {**told, "run": self.run_of}

    @property
    def where(self) -> Where:
        return Where(
            self.kubernetes_conn_id, self.pod_namespace, self.cluster_context, self.in_cluster, tuple(self.eks or ())
        )

    # -- Airflow
    async def run(self) -> AsyncIterator[TriggerEvent]:
        try:
            async with shared(self.where) as watch:
                event = await _Wait(self, watch).over()
            self._reads = None  # read to its end, or no matter of this trigger any more
        except WindtunnelError as error:
            event = {"status": "error", "message": f"{error.message} ({error.hint})" if error.hint else error.message}
        except Exception as error:  # every exception becomes an event: a silent trigger would never end
            self.log.exception("Waiting for pod %s", self.pod_name)
            event = {"status": "error", "message": f"{type(error).__name__}: {error}"}
        yield TriggerEvent({"name": self.pod_name, "namespace": self.pod_namespace, **event, **self.more})

    async def cleanup(self) -> None:
        """This triggerer goes down: how far the log was read is noted for the next."""
        if self._reads is None or (position := self._reads.to_note(now=True)) is None:
            return
        async with shared(self.where) as watch:
            with suppress(Refusal, Cut, TimeoutError, WindtunnelError):
                await asyncio.wait_for(watch.door.annotate(self.pod_name, {READ: position}), NOTE_WITHIN_S)

    async def on_kill(self) -> None:
        """A person ended or cleared the task: the run is told to end as cancelled, and its pod goes (TRN-7).

        Airflow calls this for a person's act and for nothing else: not when this triggerer goes down.
        """
        from windtunnel_airflow.pods import cancelling

        self._reads = None
        async with shared(self.where) as watch:
            told = asyncio.create_task(self._tell(cancelling.tell))
            gone: dict[str, Any] | None = None
            # The pod reads the word when it is told to stop; a store that hangs does not keep it alive.
            await asyncio.wait({told}, timeout=CANCEL_S / 3)
            try:
                gone = await asyncio.wait_for(watch.door.remove(self.pod_name, self.grace), CANCEL_S / 3)
                self.log.info("A person ended the task: pod %s/%s is removed", self.pod_namespace, self.pod_name)
            except (Refusal, Cut, TimeoutError, WindtunnelError) as error:
                self.log.error("Pod %s/%s was not removed: %s", self.pod_namespace, self.pod_name, error)
            closed = asyncio.create_task(self._tell(cancelling.close, pods=[gone] if gone is not None else []))
            await asyncio.wait({closed}, timeout=CANCEL_S / 3)

    async def _tell(self, what: Any, **more: Any) -> None:
        if not self.run_of:
            return
        try:
            await asyncio.to_thread(what, **self.run_of, **more)
        except Exception as error:  # the pod is removed all the same
            self.log.warning("%s: %s", what.__name__, error)


class QuotaTrigger(BaseTrigger):
    """Sleep before a pod is tried again that the namespace's quota had no room for.

    Event: ``{"status": "again"}``.

    Args:
        seconds: how long.
        run: as ``TrainingPodTrigger``'s.
    """

    def __init__(self, seconds: float, run: dict[str, Any]) -> None:
        super().__init__()
        self.seconds = seconds
        self.run_of = dict(run)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        told = {"seconds": self.seconds, "run": self.run_of}
        return f"{type(self).__module__}.{type(self).__qualname__}", told

    async def run(self) -> AsyncIterator[TriggerEvent]:
        await asyncio.sleep(self.seconds)
        yield TriggerEvent({"status": "again"})

    async def on_kill(self) -> None:
        """A person ended or cleared the task: there is no pod, only a run to close."""
        from windtunnel_airflow.pods import cancelling

        try:
            await asyncio.to_thread(cancelling.close, **self.run_of)
        except Exception as error:  # nothing runs; the run is closed by hand
            self.log.warning("Run %s was not closed: %s", self.run_of.get("run_id"), error)


class _Wait:
    """One trigger's waiting."""

    def __init__(self, trigger: TrainingPodTrigger, watch: PodWatch) -> None:
        self.trigger, self.watch, self.log = trigger, watch, trigger.log
        self.reader = Reader()
        self.read_at: datetime | None = None
        self.next_log = 0.0
        self.next_events, self.events_every = 0.0, EVENTS_S
        self.placed: float | None = None  # since when it has a node, as far as was seen here
        self.open: float | None = None  # since when no queue holds it back, as far as was seen here
        self.events: list[dict[str, Any]] = []
        self.workloads: list[dict[str, Any]] = []  # Kueue's of this pod, while its queue holds it back
        self.version: Any = None
        self.whole = False  # its log was read to the end
        self.said: str | None = None
        self.trouble: str | None = None
        self.deleted: float | None = None

    async def over(self) -> dict[str, Any]:
        """Wait; the event."""
        name = self.trigger.pod_name
        with self.watch.following.follow(name) as pod:
            await self._first(pod)
            # Where another triggerer has read before.
            self.reader = self.trigger._reads = Reader(read_of(pod.thing))
            if pod.thing is not None and (why := unqueued(pod.thing)) is not None:
                self.log.warning("Pod %s: %s", name, why)
            while True:
                if pod.thing is None:
                    return {"status": "failed", "message": "the pod is gone"}
                if (event := await self._look(pod.thing)) is not None:
                    return event
                if self.trigger.until is not None and self.watch.door.now() >= self.trigger.until:
                    return {**self._event("timeout", f"it is still there: {self.said}"), "late": True}
                await pod.changed(self._pause(pod.thing))
                if self.watch.following.trouble != self.trouble:
                    self.trouble = self.watch.following.trouble
                    self.log.warning("%s", self.trouble or "The Kubernetes API answers again")

    async def _first(self, pod: Followed) -> None:
        """Until it is known whether there is such a pod: a list may be older than a pod that was just made."""
        await self.watch.following.listed.wait()
        end = time.monotonic() + APPEARS_S
        while not pod.seen and time.monotonic() < end:
            await pod.changed(end - time.monotonic())
        tried = 0
        while not pod.seen:
            tried += 1
            try:
                found = await self.watch.door.read(pod.name)
            except (Refusal, Cut) as error:
                self.log.info("Pod %s: %s", pod.name, error)
                await pod.changed(min(2.0**tried, 30.0))
                continue
            if not pod.seen and found is not None:
                pod.tell(found)
            elif not pod.seen:
                return

    async def _look(self, pod: Mapping[str, Any]) -> dict[str, Any] | None:
        status = pod.get("status") or {}
        state = container_of(status).get("state") or {}
        if status.get("phase") in ("Succeeded", "Failed") or "terminated" in state:
            await self._log(last=True)
            good = status.get("phase") == "Succeeded" or (state.get("terminated") or {}).get("exitCode") == 0
            return self._event("success" if good else "failed", "the pod has ended")
        if (stuck := self._stuck(pod)) is not None:
            return stuck
        if "running" in state:
            self._say("runs on node {}".format((pod.get("spec") or {}).get("nodeName") or "?"))
            if time.monotonic() >= self.next_log:
                await self._log()
                self.next_log = time.monotonic() + self.trigger.log_every
            return None
        return await self._pending(pod)

    async def _pending(self, pod: Mapping[str, Any]) -> dict[str, Any] | None:
        now = self.watch.door.now()
        if not gated(pod):
            # By the API's clock: the worker that made it may have had another time than this triggerer.
            self.open = self.open or (now if _queued(pod) else _made_at(pod) or self.trigger.began)
        if scheduled(pod):
            self.placed = self.placed or now
        await self._read_events(pod)
        if (words := waits_for(pod, self.events, self.workloads)) is not None:
            self._say(f"waits for {words}")
        end = classify(pod, self.events)
        if end.ended and end.kind in _NEVER_RAN:
            return self._event("timeout", end.message)
        left = self._left()
        if left is not None and left <= 0:
            return self._event("timeout", f"it has not started: {self.said}")
        return None

    async def _read_events(self, pod: Mapping[str, Any]) -> None:
        """After each change, and then ever more rarely."""
        version = pod["metadata"].get("resourceVersion")
        if version != self.version:
            self.version, self.next_events, self.events_every = version, 0.0, EVENTS_S
        if time.monotonic() < self.next_events:
            return
        try:
            self.events = await self.watch.door.events(self.trigger.pod_name)
            if _queued(pod) and gated(pod):
                self.workloads = await self.watch.door.workloads(str(pod["metadata"].get("uid")))
        except (Cut, WindtunnelError) as error:
            self.log.debug("Events: %s", error)
        self.next_events = time.monotonic() + self.events_every
        self.events_every = min(2 * self.events_every, EVENTS_MOST_S)

    def _left(self) -> float | None:
        """Seconds until it must have a node, or run; None while a queue holds it back."""
        now = self.watch.door.now()
        if self.placed is not None:
            return self.placed + self.trigger.start_within - now
        return self.open + self.trigger.schedule_within - now if self.open is not None else None

    def _stuck(self, pod: Mapping[str, Any]) -> dict[str, Any] | None:
        if not (pod.get("metadata") or {}).get("deletionTimestamp"):
            return None
        if self.deleted is None:
            grace = float((pod["metadata"]).get("deletionGracePeriodSeconds") or 0)
            self.deleted = time.monotonic() + grace + STUCK_S
            self._say("is being deleted, by somebody else than its task")
        if time.monotonic() < self.deleted:
            return None
        node = (pod.get("spec") or {}).get("nodeName")
        return self._event("timeout", f"it was deleted and does not end: node {node} does not answer")

    def _pause(self, pod: Mapping[str, Any]) -> float:
        now = time.monotonic()
        ends = [now + 60.0]
        state = container_of(pod.get("status") or {}).get("state") or {}
        if "running" in state:
            ends.append(self.next_log)
        else:
            ends.append(self.next_events)
            if (left := self._left()) is not None:
                ends.append(now + left)
        if self.deleted is not None:
            ends.append(self.deleted)
        if self.trigger.until is not None:
            ends.append(now + self.trigger.until - self.watch.door.now())
        return max(0.05, min(ends) - now)

    async def _log(self, *, last: bool = False) -> None:
        """What the pod wrote since the last reading, into the task's log."""
        at, clock = time.monotonic(), datetime.now(UTC)
        try:
            since = self.reader.since(self.watch.door.now())
            raw = await self.watch.door.log(self.trigger.pod_name, CONTAINER, since)
        except (Refusal, Cut, WindtunnelError) as error:
            self.log.info("The pod's log cannot be read just now: %s", error)
            self.whole = False
            return
        self.reader.asked(at)
        self.read_at, self.whole = clock, True
        await asyncio.to_thread(self._emit, self.reader.new(raw))
        if not last and (position := self.reader.to_note()) is not None:
            try:
                await self.watch.door.annotate(self.trigger.pod_name, {READ: position})
            except (Refusal, Cut, WindtunnelError) as error:  # then some lines may be copied twice
                self.log.debug("How far the log was read is not noted: %s", error)

    def _emit(self, lines: list[str]) -> None:
        for line in lines:
            if line:
                self.log.info("[%s] %s", CONTAINER, line)

    def _say(self, text: str) -> None:
        """Each change once."""
        if text != self.said:
            self.said = text
            self.log.info("Pod %s %s", self.trigger.pod_name, text)

    def _event(self, status: str, message: str) -> dict[str, Any]:
        return {
            "status": status,
            "message": message,
            "last_log_time": self.read_at,
            "log_read": status in ("success", "failed") and self.whole,
            "open": self.open,
        }


def _on_eks(theirs: Any) -> bool:
    return hasattr(theirs, "eks_cluster_name")


def _made_at(pod: Mapping[str, Any]) -> float | None:
    made = pod["metadata"].get("creationTimestamp")
    return datetime.fromisoformat(str(made)).timestamp() if made else None


def _queued(pod: Mapping[str, Any]) -> bool:
    return naming.QUEUE in (pod["metadata"].get("labels") or {})
