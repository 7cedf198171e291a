"""Wait for a training of several nodes without a worker: one question about the set every ten seconds.

It tells, in the task's log, what the set waits for (its queue's words, nodes that do not run yet), and copies node 0's
log there. It judges nothing: when the set has ended, or does not run in its time, the task finds out why.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import quote

from airflow.triggers.base import BaseTrigger, TriggerEvent

from windtunnel.errors import AbsentError, UnavailableError, WindtunnelError
from windtunnel.tracking.pods import gang, naming
from windtunnel.tracking.pods.ends import classify, newest_first
from windtunnel.tracking.pods.manifest import CONTAINER
from windtunnel.tracking.pods.waiting import KUEUE_OF, admission, waits_for
from windtunnel_airflow.pods.logs import READ, Reader, read_of

Result = TypeVar("Result")

LOOK = 10.0
LOGS = 30.0
#: Within Airflow's own 30 s for a cancel, of which pods are left 20.
CANCEL_S = 25.0
#: Refusals in a row, a look apart, after which the task is told.
REFUSALS = 4
#: Of a set of many nodes, so many that wait are told one by one.
TOLD = 4
#: For a last word of a triggerer that goes down.
NOTE_WITHIN_S = 5.0
#: Looks at sets that one triggerer has under way at once. Python's own pool has as many threads as four and the machine
#: has cores, for every trigger of the process. With it, two cores and an API that takes half a second, 200 sets were
#: looked at every 17 s instead of every 10, and whatever else waited for a thread (a cancel) did so for up to 18 s.
LOOKS_AT_ONCE = 64
_POOL: list[ThreadPoolExecutor] = []


async def in_thread(work: Callable[[], Result]) -> Result:
    """Run what blocks in a thread for looks, with this trigger's log."""
    if not _POOL:
        _POOL.append(ThreadPoolExecutor(LOOKS_AT_ONCE, thread_name_prefix="windtunnel-sets"))
    context = contextvars.copy_context()
    return await asyncio.get_running_loop().run_in_executor(_POOL[0], lambda: context.run(work))


class GangTrigger(BaseTrigger):
    """Wait until a set has ended, or has not started in its time.

    Events: ``{"status", "message", "open"}``, status ``success``, ``failed``, ``timeout`` (not all of it runs) or
    ``error``; ``open`` is since when no queue holds it back; with ``late`` the task's time is over.

    Args:
        kubernetes_conn_id: connection to the cluster; read in the triggerer, never stored.
        namespace, name: of the set.
        labels: selector of its pods.
        start_within: seconds until all its pods must run; none count while a queue holds it back.
        look_every, log_every: seconds between two looks at the set, two readings of the log.
        grace: seconds that a person's cancel leaves each pod.
        run: whose it is: ``{"windtunnel_conn_id", "run_id", "attempt"}``; for a person's cancel.
        began: since when it is waited for; now unless told.
        kind: of the set: ``JobSet`` or ``TrainJob``.
        until: when the task's ``execution_timeout`` is over (seconds since the epoch, by the API's clock); None: it has
            none.
    """

    def __init__(
        self,
        kubernetes_conn_id: str,
        namespace: str,
        name: str,
        labels: str,
        start_within: float,
        look_every: float = LOOK,
        log_every: float = LOGS,
        grace: int = 20,
        run: dict[str, Any] | None = None,
        began: float | None = None,
        kind: str = "JobSet",
        until: float | None = None,
    ) -> None:
        super().__init__()
        self.kubernetes_conn_id = kubernetes_conn_id
        self.namespace = namespace
        self.name = name
        self.labels = labels
        self.start_within = start_within
        self.look_every = look_every
        self.log_every = log_every
        self.grace = grace
        self.run_of = dict(run or {})
        self.began = time.time() if began is None else began
        self.kind = kind
        self.until = until
        self._waits: _Wait | None = None

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = ("kubernetes_conn_id", "namespace", "name", "labels", "start_within", "look_every", "log_every")
        names += ("grace", "began", "kind", "until")
        told = {name: getattr(self, name) for name in names}
        return f"{type(self).__module__}.{type(self).__qualname__}", {**told, "run": self.run_of}

    # -- Airflow
    async def run(self) -> AsyncIterator[TriggerEvent]:
        wait, refused = _Wait(self), 0
        self._waits = wait
        while True:
            began = time.monotonic()
            try:
                event = await in_thread(wait.look)
            except UnavailableError as error:  # an API that is away answers later
                self.log.warning("%s", error)
                event = None
            except WindtunnelError as error:
                refused += 1  # may be a moment's: a token just renewed, a webhook that restarts
                self.log.warning("%s", error)
                event = {"status": "error", "message": str(error)} if refused >= REFUSALS else None
            except Exception as error:  # every exception becomes an event: a silent trigger would never end
                self.log.exception("Waiting for set %s", self.name)
                event = {"status": "error", "message": f"{type(error).__name__}: {error}"}
            else:
                refused = 0
            if event is None and self.until is not None and wait.client.now() >= self.until:
                event = {"status": "timeout", "message": f"it is still there: {wait.said}", "late": True}
            if event is not None:
                self._waits = None
                yield TriggerEvent({**event, "open": wait.open})
                return
            await asyncio.sleep(max(0.05, self.look_every - (time.monotonic() - began)))

    async def cleanup(self) -> None:
        """This triggerer goes down: how far the log was read is noted for the next."""
        if (wait := self._waits) is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(in_thread(lambda: wait.note(now=True)), NOTE_WITHIN_S)

    async def on_kill(self) -> None:
        """A person ended or cleared the task: the run is told to end as cancelled, and its pods go (TRN-7)."""
        from windtunnel_airflow.pods import cancelling

        self._waits = None
        told = asyncio.create_task(self._tell(cancelling.tell))
        # The pods read the word when they are told to stop; a store that hangs does not keep them alive.
        await asyncio.wait({told}, timeout=CANCEL_S / 3)
        pods: list[dict[str, Any]] = []
        try:
            pods = await asyncio.wait_for(asyncio.to_thread(_Wait(self).remove), CANCEL_S / 3)
            self.log.info("A person ended the task: set %s/%s is removed", self.namespace, self.name)
        except (TimeoutError, WindtunnelError) as error:
            self.log.error("Set %s/%s was not removed: %s", self.namespace, self.name, error)
        await asyncio.wait({asyncio.create_task(self._tell(cancelling.close, pods=pods))}, timeout=CANCEL_S / 3)

    async def _tell(self, what: Any, **more: Any) -> None:
        if not self.run_of:
            return
        try:
            await asyncio.to_thread(what, **self.run_of, **more)
        except Exception as error:  # the pods are removed all the same
            self.log.warning("%s: %s", what.__name__, error)


class _Wait:
    """One trigger's waiting; its looks block, in threads."""

    def __init__(self, trigger: GangTrigger) -> None:
        from windtunnel_airflow.pods.gangflight import client_of, kind_of

        self.trigger, self.log, self.kind = trigger, trigger.log, kind_of(trigger.kind)
        self.client = client_of(trigger.kubernetes_conn_id, trigger.namespace)
        self.reader = Reader()
        self.next_log = 0.0
        self.open: float | None = None
        self.runs = False
        self.first: str | None = None  # the pod of node 0
        self.container = CONTAINER
        self.said: str | None = None

    def look(self) -> dict[str, Any] | None:
        """The event, where there is one."""
        from windtunnel.kube.kinds import POD

        found = self.client.get(self.kind, self.trigger.name)
        if found is None:
            return {"status": "failed", "message": "the set is gone"}
        if gang.completed(found):
            self._log(last=True)
            return {"status": "success", "message": "every node is done"}
        if (failed := gang.condition(found, "Failed")) is not None:
            self._log(last=True)
            return {"status": "failed", "message": str(failed.get("message") or "the set failed")}
        if gang.suspended(found):
            # Its queue has not let it go, or has taken it back; its pods will be others.
            self.runs, self.open, self.first = False, None, None
            self._say(self._queue(found))
            return None
        if self.open is None:
            queued = naming.QUEUE in (found["metadata"].get("labels") or {})
            made = found["metadata"].get("creationTimestamp")
            # By the API's clock: the worker that made it may have had another time than this triggerer.
            since = datetime.fromisoformat(str(made)).timestamp() if made else self.trigger.began
            self.open = self.client.now() if queued else since
        if not self.runs:
            return self._starting(found, list(self.client.list(POD, labels=self.trigger.labels).get("items") or []))
        if time.monotonic() >= self.next_log:
            self._log()
        return None

    def remove(self) -> list[dict[str, Any]]:
        """The set and its pods, within a person's patience; how these were."""
        from windtunnel.kube.kinds import POD

        self.client.delete(self.kind, self.trigger.name)
        pods = list(self.client.list(POD, labels=self.trigger.labels).get("items") or [])
        for pod in pods:
            self.client.delete(POD, str(pod["metadata"]["name"]), grace_s=self.trigger.grace)
        return pods

    def _starting(self, found: Mapping[str, Any], pods: list[dict[str, Any]]) -> dict[str, Any] | None:
        count, nodes = gang.size(found), gang.newest(pods)
        ends = {rank: classify(pod) for rank, pod in nodes.items()}
        bad = next(((rank, end) for rank, end in sorted(ends.items()) if end.ended and end.next != "done"), None)
        if bad is not None:
            return {"status": "failed", "message": f"node {bad[0]}: {bad[1].kind}: {bad[1].message}"}
        waiting = {rank: words for rank, pod in sorted(nodes.items()) if (words := waits_for(pod)) is not None}
        self.runs = len(nodes) >= count and not waiting
        if self.runs:
            self._speaks(nodes.get(0))
            self._say(f"runs: {count} nodes")
            return None
        told = [f"node {rank} waits for {words}" for rank, words in list(waiting.items())[:TOLD]]
        if len(waiting) > TOLD:
            told.append(f"and {len(waiting) - TOLD} more")
        if not nodes and (why := self._troubles()):
            told.append(why)
        self._say(f"{len(nodes) - len(waiting)} of {count} nodes run" + "".join(f"; {text}" for text in told))
        assert self.open is not None
        if self.client.now() - self.open >= self.trigger.start_within:
            return {"status": "timeout", "message": f"not all of it runs: {self.said}"}
        return None

    def _troubles(self) -> str:
        """Why nothing has come of the set, as whoever makes pods of it says in events; empty where nobody says."""
        from windtunnel.kube.kinds import EVENT

        try:
            found = self.client.list(EVENT, fields=f"involvedObject.name={self.trigger.name}").get("items") or []
        except WindtunnelError:  # may not be read
            return ""
        last = next((one for one in newest_first(found) if one.get("type") == "Warning"), None)
        return " ".join(f"{last.get('reason')}: {last.get('message')}".split()) if last is not None else ""

    def _queue(self, found: Mapping[str, Any]) -> str:
        """What a queue says of why it does not admit the set (TRN-8)."""
        from windtunnel.kube.kinds import WORKLOADS

        queue = (found["metadata"].get("labels") or {}).get(naming.QUEUE)
        if queue is None:
            return "is suspended by somebody"
        for kind in WORKLOADS:
            try:
                mine = self.client.list(kind, labels=f"{KUEUE_OF}={found['metadata'].get('uid')}")
            except AbsentError:
                continue
            except WindtunnelError:  # may not be read
                return f"waits for queue {queue} to admit it"
            said = admission(mine.get("items") or [])
            return f"waits for queue {queue} to admit it" + (f": {said}" if said else "")
        return f"waits for queue {queue}; this cluster knows no Kueue workloads: is Kueue installed?"

    def _log(self, *, last: bool = False) -> None:
        """What node 0 wrote since the last reading, into the task's log."""
        from windtunnel.kube.kinds import POD

        self.next_log = time.monotonic() + self.trigger.log_every
        try:
            if self.first is None and last:
                pods = list(self.client.list(POD, labels=self.trigger.labels).get("items") or [])
                self._speaks(gang.newest(pods).get(0))
            if self.first is None:
                return
            at, since = time.monotonic(), self.reader.since(self.client.now())
            path = POD.path(self.trigger.namespace, self.first, "log")
            more = "" if since is None else f"&sinceSeconds={since}"
            answer = self.client.look(f"{path}?container={quote(self.container)}&timestamps=true{more}")
        except WindtunnelError as error:
            self.log.info("The log of node 0 cannot be read just now: %s", error)
            return
        if answer.status != 200:
            return
        self.reader.asked(at)
        for line in self.reader.new(str(answer.body).encode()):
            if line:
                self.log.info("[node 0] %s", line)
        if not last:
            self.note()

    def note(self, *, now: bool = False) -> None:
        """Write down, on the pod, how far its log was read.

        Args:
            now: nobody reads on here.
        """
        from windtunnel.kube.kinds import POD

        if self.first is None or (position := self.reader.to_note(now=now)) is None:
            return
        try:
            self.client.patch(POD, self.first, {"metadata": {"annotations": {READ: position}}})
        except WindtunnelError as error:  # then some lines may be copied twice
            self.log.debug("How far the log was read is not noted: %s", error)

    def _speaks(self, pod: Mapping[str, Any] | None) -> None:
        """Whose log is read from now on, and from where: another triggerer may have read before."""
        self.first = str(pod["metadata"]["name"]) if pod is not None else None
        self.reader = Reader(read_of(pod))
        self.container = gang.container_name(pod) if pod is not None else CONTAINER

    def _say(self, text: str) -> None:
        """Each change once."""
        if text != self.said:
            self.said = text
            self.log.info("Set %s %s", self.trigger.name, text)
