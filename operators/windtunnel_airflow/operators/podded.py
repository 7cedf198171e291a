"""Training in a pod, where the description's target is ``kubernetes``.

The same run ids, inputs and results as the detached runner's; between them a pod per attempt, and the object store
where both meet (``windtunnel.tracking.pods.depot``). What is known of the run is kept in Airflow's task state store
before anything starts, the pod's name follows from it, and the run says in the object store how it ended, so:

* a worker, scheduler or triggerer that dies at any time leaves a pod that the next try finds and goes on watching, or a
  result that it collects; nothing is trained twice;
* a pod that was taken away (preempted, evicted, node lost) is followed by one that goes on from the newest checkpoint;
* a pod is removed only after it was read why it ended.

A person's cancel ends the pod, and its run as cancelled: Airflow's triggerer tells the trigger (``pods.trigger``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, TaskDeferred

from windtunnel.errors import ResourceError, TransientError, WindtunnelError
from windtunnel_airflow.base import run_coordinates
from windtunnel_airflow.operators.placed import PlacedOperator
from windtunnel_airflow.operators.running import cleared, ended_by_person, failure
from windtunnel_airflow.pods import attempts
from windtunnel_airflow.pods.flight import CANCEL_GRACE, PodFlight
from windtunnel_airflow.pods.refusals import problem, said_of

if TYPE_CHECKING:
    from windtunnel.tracking.contract import RunSpec, RunStatus
    from windtunnel.tracking.pods.depot import Depot
    from windtunnel.tracking.pods.ends import PodEnd
    from windtunnel.tracking.pods.manifest import Place
    from windtunnel.tracking.pods.quota import OverQuota

#: Ends of a pod that explain why the run in it was told to stop.
_BY_CLUSTER = frozenset({"evicted", "preempted", "node-lost", "deadline", "disk-full"})

#: Seconds between two tries to make a pod that the namespace's quota has no room for.
QUOTA_EVERY = 20.0
#: What a record says of that: since when (by the API's clock), and what was said. The next wait is another.
_WAITED = frozenset({"full_since", "full"})

COMMAND = ("python", "-P", "-m", "windtunnel.tracking.pods.entry")


class PodOperator(PlacedOperator):
    """Base of operators whose run may be a pod; arguments are ``PlacedOperator``'s."""

    pod_state_key = "windtunnel_pod"

    # -- Airflow
    def execute(self, context: Any) -> Any:
        """In a process beside the worker. What is left in a cluster, from before the description said so, goes."""
        before = self._stored(context)
        if before is not None and not before.get("answered"):
            try:
                self._abandon(before, context)
            except WindtunnelError as error:
                self.log.warning("What was begun as %s may be there still: %s", self._begun(before).words, error)
            self._keep(context, {**before, "answered": True})
        return super().execute(context)

    def execute_in_pod(self, context: Any) -> Any:
        """Make the pod or find it, and wait for it; collect what an earlier try did not live to see."""
        self.stop_asked = False
        return self._waiting(context, lambda: self._execute(context))

    def resume_quota(self, context: Any, event: dict[str, Any]) -> Any:
        """Try again what the namespace's quota had no room for."""
        self.stop_asked = False
        with self.hook.mlflow_environment():
            return self._waiting(context, lambda: self._execute(context))

    def resume_pod(self, context: Any, event: dict[str, Any]) -> Any:
        """Go on when the trigger has seen the pod end, or has given it up."""
        self.stop_asked = False
        with self.hook.mlflow_environment():
            return self._waiting(context, lambda: self._resume(context, event))

    def _waiting(self, context: Any, work: Callable[[], Any]) -> Any:
        """Do it; where it has to wait and may not be deferred, wait here and go on."""
        from airflow.sdk.exceptions import AirflowTaskTimeout

        from windtunnel_airflow.pods.waiting import event_of

        while True:
            try:
                return work()
            except TaskDeferred as deferred:
                if self.deferrable:
                    raise
                try:
                    event = event_of(deferred.trigger, lambda: self.stop_asked)
                except AirflowTaskTimeout:  # as the trigger itself says it, a moment before or after
                    event = {"status": "timeout", "message": "it is still there", "late": True}
                if event is None:
                    record = self._record(context)
                    self._obey(self._flight(self._spec(record, context), record), context)
                again = deferred.method_name == "resume_quota"
                work = partial(self._execute, context) if again else partial(self._resume, context, event)

    def _execute(self, context: Any) -> Any:
        from windtunnel.tracking.pods import namespaces

        self.begin(context)
        record = self._record(context, begins=True)
        spec, depot = self._spec(record, context), self._depot(record)
        flight = self._flight(spec, record)
        with self._problems(flight, context):
            self._tell_place(flight, record)
            outcome = depot.outcome(record["attempt"])
            pod = self._look_for(flight, record, kindly=not record["made"])
            if outcome is None and pod is not None and not flight.end()[0].ended:
                self.log.info("Attached to pod %s of run %s", flight.name, spec.run_id)
                flight.watch(context, pod)
            if outcome is not None or pod is not None or record["made"]:
                status, end = self._over(flight, depot, record)
                if status.state == "succeeded" or status.failure != "transient":
                    return self._settle(context, flight, depot, record, status, end)
                # An earlier try ended here; this one goes on in another pod, from the newest checkpoint.
                record = self._next_attempt(context, flight, record, end)
                spec = self._spec(record, context)
                flight = self._flight(spec, record)
            elif self._begun(record) != (now := self._where):  # nothing was made yet in the place of before
                self._keep(context, record := {**record, "where": now.plain()})
                flight = self._flight(spec, record)
        with self._problems(flight, context):
            digest = depot.deposit(self.home, spec)
            flight = self._flight(spec, record, digest)
            self.log.info("Making pod %s/%s, attempt %s", flight.namespace, flight.name, record["attempt"])
            namespaces.note(self.hook.objects, self._begun(record).connection, flight.namespace)
            if why := flight.doubt():
                self.log.warning("Unless a node is added: %s", why)
            full = self._make(flight, context)
        self._wait_for_quota(flight, context, full)
        return None  # never: waiting is raised

    def _resume(self, context: Any, event: dict[str, Any]) -> Any:
        self.begin(context)
        before = self._stored(context)
        record = self._record(context)
        if before is not None and before["run_id"] != record["run_id"]:
            self.log.warning("Run %s trained with what the description said before: run %s begins with what it "
                             "says now", before["run_id"], record["run_id"])  # fmt: skip
            return self._execute(context)
        depot = self._depot(record)
        flight = self._flight(self._spec(record, context), record)
        with self._problems(flight, context):
            self._tell_place(flight, record)
            late = bool(event.get("late"))
            given_up = event.get("status") == "timeout" and not late
            if given_up and (pod := flight.goes_on(event.get("open"))) is not None:
                flight.watch(context, pod)
            flight.resume(context, event)
            status, end = self._over(flight, depot, record, given_up=given_up)
            if not end.ended and late:
                words = f"the task's execution_timeout ({self.execution_timeout}) is over; {event.get('message')}"
                status = replace(status, failure="resource", message=words)
            elif not end.ended and event.get("status") == "error":
                status = self._unheard(flight, event, status, context)
            if not attempts.taken_away(depot, record, status, end):
                return self._settle(context, flight, depot, record, status, end)
            self._next_attempt(context, flight, record, end)
        return self._execute(context)

    # -- inside
    def _stored(self, context: Any) -> dict[str, Any] | None:
        store = context.get("task_state_store")
        before = store.get(self.pod_state_key) if store is not None else None
        return dict(before) if isinstance(before, dict) else None

    def _record(self, context: Any, *, begins: bool = False) -> dict[str, Any]:
        """What is known of the run: its id, which attempt, whether that attempt's pod was made.

        Args:
            begins: a try begins. A run that a person ended is over then: its task was cleared while it ran, which
                Airflow tells by nothing else.
        """
        before = self._stored(context)
        now = {"inputs": self.inputs_digest(), "cleared": cleared(context)}
        if before is not None:
            if before["inputs"] == now["inputs"] and not (begins and attempts.unwanted(self._depot(before), before)):
                if before["cleared"] == now["cleared"]:
                    return before
                if begins and attempts.unanswered(self._depot(before), before):
                    self.log.info("Run %s goes on: its task failed, it did not", before["run_id"])
                    self._keep(context, after := {**before, **now, "again": True})
                    return after
            self._abandon(before, context)
        previous = before["run_id"] if before is not None else "first"
        where = run_coordinates(context)
        key = "{dag_id}/{dag_run_id}/{task_id}/{map_index}".format(**where) + f"/after:{previous}"
        run_id = self.make_run_id(key, context)
        record = {"run_id": run_id, "attempt": 1, "made": False, **now, "where": self._where.plain()}
        if before is not None and "began" in before:  # the try's, whichever run it goes on with
            record["began"] = before["began"]
        self._keep(context, record)
        return record

    def _keep(self, context: Any, record: Mapping[str, Any]) -> None:
        store = context.get("task_state_store")
        if store is not None:
            store.set(self.pod_state_key, dict(record))

    def _abandon(self, record: Mapping[str, Any], context: Any) -> None:
        """Somebody cleared the task, or its inputs are others now: the old pod's answer is not wanted."""
        flight = self._flight(self._spec(record, context), record)
        with self._problems(flight, context):
            if self._look_for(flight, record, kindly=True) is None:
                return
            if flight.end()[0].ended:
                flight.remove()
            else:
                self._cancel(flight, record)

    def _spec(self, record: Mapping[str, Any], context: Any) -> RunSpec:
        spec = self.run_spec(str(record["run_id"]), context)
        return replace(spec, tracking_uri=self.hook.cluster_url) if spec.tracking_uri else spec

    def _depot(self, record: Mapping[str, Any]) -> Depot:
        from windtunnel.tracking.pods.depot import Depot

        return Depot(self.hook.objects, str(record["run_id"]))

    def _flight(self, spec: RunSpec, record: Mapping[str, Any], digest: str = "") -> PodFlight:
        from windtunnel.tracking.pods.manifest import training_pod

        where = self._begun(record)
        pod = where.pinned(self._pod)
        manifest = training_pod(spec, pod, self._place(record, digest))
        return PodFlight(self.task_id, where.connection, manifest, pod.start_within.total_seconds())

    def _place(self, record: Mapping[str, Any], digest: str) -> Place:
        """Where an attempt runs, and what it finds there.

        Args:
            digest: of what is to be done; empty where the pod is only looked for.
        """
        from windtunnel.tracking.pods.manifest import Place
        from windtunnel_airflow.pods.sweeping import installation

        return Place(
            command=COMMAND,
            namespace=self._begun(record).namespace,
            attempt=int(record["attempt"]),
            airflow=installation(self.hook),
            variables={
                **self.hook.store_environment,
                "WINDTUNNEL_SPEC_DIGEST": digest,
                "WINDTUNNEL_CHECKPOINT_EVERY": f"{self._pod.checkpoint_every.total_seconds():g}",
            },
            authorities=self.hook.cluster_authorities,
        )

    @contextmanager
    def _problems(self, flight: PodFlight, context: Any) -> Iterator[None]:
        """Errors of the cluster as ours; a deferral comes back to us; a person's cancel in between is obeyed."""
        from airflow.sdk.exceptions import AirflowException
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            yield
        except TaskDeferred as deferred:
            self._obey(flight, context)
            record = self._began(self._record(context), flight, context)
            room = {name: value for name, value in record.items() if name not in _WAITED}
            self._keep(context, {**room, "made": True, "api": flight.address})
            trigger = self._trigger(deferred.trigger, record)
            if self.execution_timeout is not None:  # Airflow leaves it to triggers while a task is deferred
                trigger.until = record["began"]["at"] + self.execution_timeout.total_seconds()
            raise TaskDeferred(trigger=trigger, method_name="resume_pod", timeout=deferred.timeout) from None
        except (WindtunnelError, AirflowFailException, AirflowSkipException):
            raise
        except (ApiException, HTTPError, AirflowException, ConnectionError, TimeoutError) as error:
            raise problem(error, f"{flight.namespace}/{flight.name}") from error

    def _began(self, record: Mapping[str, Any], flight: PodFlight, context: Any) -> dict[str, Any]:
        """The record, with when this try began by the API's clock.

        Airflow says it by the clock of the worker that began it. That one tells here how long ago it is; to another
        worker, which goes on with the try after a deferral, it means nothing.
        """
        ti = context["ti"]
        if self.execution_timeout is None or (record.get("began") or {}).get("try") == ti.try_number:
            return dict(record)
        spent = time.time() - ti.start_date.timestamp()
        return {**record, "began": {"try": ti.try_number, "at": flight.now() - spent}}

    def _make(self, flight: PodFlight, context: Any) -> OverQuota:
        """Make the pod and wait for it; returns only where the namespace's quota has no room for it.

        Raises:
            TaskDeferred, Exception: as ``flight.watch``.
        """
        from kubernetes.client.exceptions import ApiException

        from windtunnel.tracking.pods.quota import over_quota

        try:
            flight.watch(context)
        except ApiException as error:
            if error.status != 403 or (found := over_quota(said_of(error))) is None:
                raise
            return found
        raise AssertionError("watching always raises")

    def _wait_for_quota(self, flight: PodFlight, context: Any, full: OverQuota) -> None:
        """Sleep, and try again: others' pods end, and free what they use.

        Raises:
            TaskDeferred: it waits.
            ResourceError: in vain: it asks for more than the quota, or its time is over.
        """
        from windtunnel_airflow.pods.trigger import QuotaTrigger

        record, now = self._began(self._record(context), flight, context), flight.now()
        # By the API's clock: each try of these may be another worker's.
        since = float(record.get("full_since") or now)
        said = f"quota {full.name} of namespace {flight.namespace}: {full.words}"
        if full.never:
            words = f"pod {flight.name} asks for more than {said}"
            self._no_room(context, record, words, "see training.resources")
        if now - since >= flight.start_within:
            words = f"pod {flight.name} found no room for {flight.start_within} s in {said}"
            self._no_room(context, record, words, "training.pod.start_within says how long it waits")
        if self.execution_timeout is not None and now >= record["began"]["at"] + self.execution_timeout.total_seconds():
            words = f"the task's execution_timeout ({self.execution_timeout}) is over; it waits for {said}"
            self._no_room(context, record, words, "the wait for room counts, too")
        if said != record.get("full"):
            self.log.info("Pod %s waits for %s", flight.name, said)
        self._keep(context, {**record, "full_since": since, "full": said})
        trigger = QuotaTrigger(QUOTA_EVERY, self._whose(record))
        raise TaskDeferred(trigger=trigger, method_name="resume_quota")

    def _no_room(self, context: Any, record: Mapping[str, Any], words: str, hint: str) -> NoReturn:
        from windtunnel.tracking.contract import RunStatus
        from windtunnel.tracking.pods.ends import PodEnd

        status = RunStatus(str(record["run_id"]), "failed", failure="resource", message=words)
        self._close_run(status, PodEnd("unschedulable", "resource", "fail", words), False)
        self._keep(context, {name: value for name, value in record.items() if name not in _WAITED})
        raise ResourceError(words, hint=hint)

    def _trigger(self, theirs: Any, record: Mapping[str, Any]) -> Any:
        """Ours instead of the provider's, which asks the API for each pod."""
        from windtunnel_airflow.pods.trigger import TrainingPodTrigger

        return TrainingPodTrigger.instead_of(theirs, grace=CANCEL_GRACE, run=self._whose(record))

    def _whose(self, record: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "windtunnel_conn_id": self.windtunnel_conn_id,
            "run_id": str(record["run_id"]),
            "attempt": int(record["attempt"]),
        }

    def _cancel(self, flight: PodFlight, record: Mapping[str, Any]) -> None:
        """End a pod whose answer nobody wants; its run ends as cancelled (TRN-7)."""
        from windtunnel_airflow.pods import cancelling

        whose = self._whose(record)
        self._try(cancelling.tell, whose)
        gone = flight.remove(CANCEL_GRACE)
        self._try(cancelling.close, {**whose, "pods": gone})

    def _try(self, what: Callable[..., None], whose: Mapping[str, Any]) -> None:
        """What is worth doing, and no reason to leave the rest undone."""
        try:
            what(**whose)
        except Exception as error:
            self.log.warning("Cancelling run %s: %s", whose["run_id"], error)

    def _obey(self, flight: PodFlight, context: Any) -> None:
        """What became of the task while no trigger watched: a person's act ends the pod, SIGTERM for any other reason
        does not.

        A worker is told at its next heartbeat, and Airflow takes no deferral of a task that is over: who waits without
        asking leaves the pod to nobody.
        """
        state = self._state_in_airflow(context)
        if ended_by_person(state):
            self._cancel(flight, self._record(context))
            raise AirflowFailException(f"pod {flight.name} was removed because the task was set to {state}")
        if not self.stop_asked:
            return
        raise TransientError(
            f"this worker is going down (task is {state or 'unknown'} in Airflow); pod {flight.name} goes on by itself",
            hint="the next try attaches to it",
        )

    def _over(
        self, flight: PodFlight, depot: Depot, record: Mapping[str, Any], *, given_up: bool = False
    ) -> tuple[RunStatus, PodEnd]:
        """How the attempt ended: by the run's own word, else by what the cluster says of the pod."""
        from windtunnel.tracking.contract import RunStatus

        end, evidence = flight.end(given_up=given_up)
        if evidence["pod"] is not None:
            self._write_down(depot, record, end, evidence)
        said = depot.outcome(int(record["attempt"]))
        told_to_stop = said is not None and said.failure == "transient"
        # A run that was told to stop does not know why; the cluster does, while there is a pod to ask about.
        if said is not None and not (told_to_stop and end.kind in _BY_CLUSTER):
            return said, end
        if end.kind == "succeeded":
            message = "the pod succeeded, but left no word in the object store"
            return RunStatus(depot.run_id, "failed", failure="transient", message=message), end
        if not end.ended:
            message = f"the pod is still there ({end.kind}: {end.message})"
            return RunStatus(depot.run_id, "failed", failure="transient", message=message), end
        state: Any = "cancelled" if end.failure == "cancelled" else "failed"
        return RunStatus(depot.run_id, state, failure=end.failure, message=f"{end.kind}: {end.message}"), end

    def _write_down(self, depot: Depot, record: Mapping[str, Any], end: PodEnd, evidence: Mapping[str, Any]) -> None:
        """Evidence first, then the pod may go: into the task's log and beside the run's log."""
        from windtunnel import canonical

        self.log.info("Pod: %s (%s): %s", end.kind, end.next, end.message)
        for event in evidence["events"]:
            self.log.info("Pod event: %s: %s", event.get("reason"), event.get("message"))
        plain = {
            "kind": end.kind,
            "failure": end.failure,
            "message": end.message,
            "exit_code": end.exit_code,
            **evidence,
        }
        depot.objects.put_bytes(f"{depot.key}/attempts/{record['attempt']}/evidence.json", canonical.dumps(plain))

    def _settle(
        self,
        context: Any,
        flight: PodFlight,
        depot: Depot,
        record: Mapping[str, Any],
        status: RunStatus,
        end: PodEnd,
    ) -> Any:
        """Remove the pod; return what the run made, or raise its failure."""
        if status.state == "succeeded":
            result = depot.collect(self.home)
            flight.remove()
            answer = self.finish(result, context)
            self._keep(context, {**record, "answered": True})
            return answer
        self._close_run(status, end, depot.outcome(int(record["attempt"])) is not None)
        flight.remove()
        raise failure(status)

    def _next_attempt(self, context: Any, flight: PodFlight, record: Mapping[str, Any], end: PodEnd) -> dict[str, Any]:
        """Remove the pod; the next goes on from the newest checkpoint."""
        self.log.info("Attempt %s ended (%s): %s", record["attempt"], end.kind, end.message)
        flight.remove()
        after = {**record, "attempt": int(record["attempt"]) + 1, "made": False, "where": self._where.plain()}
        self._keep(context, after)
        return after

    def _unheard(self, flight: PodFlight, event: Mapping[str, Any], status: RunStatus, context: Any) -> RunStatus:
        """A pod that no trigger can follow, and that goes on: the next try looks again, the last leaves none behind.

        Raises:
            TransientError: there is another try.
        """
        words = f"pod {flight.name} cannot be followed: {event.get('message')}"
        ti = context["ti"]
        if ti.try_number <= getattr(ti, "max_tries", 0):
            raise TransientError(f"{words}; it goes on by itself", hint="the next try attaches to it")
        return replace(status, message=f"{words}; no try is left, so it is removed")

    def _close_run(self, status: RunStatus, end: PodEnd, said: bool) -> None:
        """A pod that could not close its MLflow run itself is closed here, with the reason (TRK-8)."""
        import time

        from windtunnel.tracking.server import connect

        hook = self.hook
        tags = {
            "wt.failure": status.failure or "none",
            "wt.reason": status.message,
            "wt.pod.end": end.kind,
            "wt.pod.message": end.message,
        }
        try:
            tracking = connect(hook.url, timeout=hook.timeout)
            tracking.log_batch(status.run_id, [], {}, tags)
            if not said:
                state: Any = "KILLED" if status.failure == "cancelled" else "FAILED"
                tracking.set_state(status.run_id, state, int(time.time() * 1000))
        except WindtunnelError as error:  # the reason is in the task's log as well
            self.log.warning("The MLflow run does not say why it ended: %s", error)
