"""One voice for all triggers of a triggerer on one connection, so that a thousand sensors do not ask at once.

The same question asked by many is asked once; runs of known experiments are asked about by the hundred; and
no connection is asked more than ``RATE`` times a second, whoever waits.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

from windtunnel_airflow.tracking_server import conditions
from windtunnel_airflow.tracking_server.conditions import Question

#: Requests a second to one connection, from one triggerer.
RATE = 20.0
#: Seconds for which an answer serves everybody who asks the same.
FRESH = 1.0
#: Events of the registry in one answer.
PAGE = 200
#: Runs in one request, and runs whose experiment is remembered.
_BATCH, _REMEMBERED = 100, 10_000

_THREADS = ThreadPoolExecutor(max_workers=16, thread_name_prefix="windtunnel-mlflow")
_POLLERS: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Poller]] = WeakKeyDictionary()


async def in_thread(call: Callable[..., Any], *given: Any) -> Any:
    """``call`` in one of our own threads; the context goes along, by which Airflow finds the trigger's log."""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, copy_context().run, call, *given)


def poller_of(mlflow_conn_id: str) -> Poller:
    """The poller of a connection in the running loop."""
    mine = _POLLERS.setdefault(asyncio.get_running_loop(), {})
    return mine.setdefault(mlflow_conn_id, Poller(mlflow_conn_id))


class Poller:
    """Asks one server for everybody.

    Args:
        mlflow_conn_id: the connection; read when the first question comes, and again after an error.
        rest: a client to use instead of the connection's, for tests.
        rate: requests a second.
    """

    def __init__(self, mlflow_conn_id: str, rest: Any = None, rate: float = RATE) -> None:
        self.mlflow_conn_id = mlflow_conn_id
        self.rate = rate
        self._given = self._rest = rest
        self._queue: deque[Question] = deque()
        self._waiting: dict[Question, asyncio.Future[Any]] = {}
        self._answers: dict[Question, tuple[float, Any]] = {}
        self._experiments: dict[str, str] = {}
        self._worker: asyncio.Task[None] | None = None

    async def ask(self, question: Question, fresh: float = FRESH) -> Any:
        """The server's answer; raises what the request raised.

        Args:
            fresh: an answer this many seconds old will do.
        """
        known = self._answers.get(question)
        if known is not None and time.monotonic() - known[0] < fresh:
            return known[1]
        future = self._waiting.get(question)
        if future is None:
            future = asyncio.get_running_loop().create_future()
            # Nobody may be left to hear of an error: the trigger that asked was cancelled.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._waiting[question] = future
            self._queue.append(question)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work(), name=f"windtunnel poller {self.mlflow_conn_id}")
        return await asyncio.shield(future)

    async def _work(self) -> None:
        while self._queue:
            began = time.monotonic()
            batch = self._next()
            try:
                found = await in_thread(self._ask, batch)
            except BaseException as error:
                self._rest = self._given
                for question in batch:
                    future = self._waiting.pop(question)
                    if isinstance(error, Exception) and not future.done():
                        future.set_exception(error)
                    else:
                        future.cancel()
                if not isinstance(error, Exception):
                    raise
            else:
                self._tell(found)
            await asyncio.sleep(max(0.0, 1 / self.rate - (time.monotonic() - began)))

    def _next(self) -> list[Question]:
        """The next question, and with it all others that fit into one request."""
        first = self._queue.popleft()
        if first[0] != "run" or first[1] not in self._experiments:
            return [first]
        alike = [q for q in self._queue if q[0] == "run" and q[1] in self._experiments][: _BATCH - 1]
        taken = set(alike)
        self._queue = deque(q for q in self._queue if q not in taken)
        return [first, *alike]

    def _ask(self, batch: list[Question]) -> dict[Question, Any]:
        if self._rest is None:
            self._rest = client(self.mlflow_conn_id)
        found: dict[Question, Any] = {}
        if len(batch) > 1:
            ids = [question[1] for question in batch]
            runs = conditions.ask_runs(self._rest, ids, sorted({self._experiments[run] for run in ids}))
            found = {("run", run_id): run for run_id, run in runs.items()}
        for question in batch:
            if question not in found:
                found[question] = self.one(question)
        return found

    def one(self, question: Question) -> Any:
        """One question, one request."""
        if question[0] == "events":
            return self._rest.call("GET", "/api/windtunnel/v1/events", params={"after": question[1], "limit": PAGE})
        return conditions.ask(self._rest, question)

    def _tell(self, found: dict[Question, Any]) -> None:
        now = time.monotonic()
        for question, answer in found.items():
            self._answers[question] = (now, answer)
            if question[0] == "run" and answer is not None:
                self._experiments[question[1]] = answer["experiment_id"]
            future = self._waiting.pop(question, None)
            if future is not None and not future.done():
                future.set_result(answer)
        self._answers = {q: kept for q, kept in self._answers.items() if now - kept[0] < 60.0}
        while len(self._experiments) > _REMEMBERED:
            self._experiments.pop(next(iter(self._experiments)))


def client(mlflow_conn_id: str) -> Any:
    """A REST client of the connection for a poller: its credentials are read here, never stored with a trigger."""
    from windtunnel_airflow.tracking_server.hook import MlflowHook
    from windtunnel_airflow.tracking_server.rest import MlflowRest

    # A question that finds no answer is asked again at the next look: no need to keep the others waiting.
    return MlflowRest(replace(MlflowHook(mlflow_conn_id).address, attempts=1))
