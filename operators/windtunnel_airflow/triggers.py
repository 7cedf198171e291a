"""Triggers: what waits without holding a worker.

Their arguments are plain data. Their looks are synchronous library calls and run in threads, so that the triggerer's
loop stays free. Every branch ends in a typed event; an exception becomes one. A trigger that dies and starts again,
here or in another triggerer, goes on from what is on the disk (the look log) or in the registry.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from airflow.triggers.base import BaseTrigger, TriggerEvent

from windtunnel.errors import FencedError, UnavailableError, WindtunnelError, may_pass
from windtunnel_airflow.gatekeeping import Answer, Watch

if TYPE_CHECKING:
    from windtunnel.registry.waiting import Next

T = TypeVar("T")

#: Looks have threads of their own, more than a loop's own few: a router that hangs for some rollouts must not keep the
#: others, nor anybody else's triggers, from looking.
_LOOKS = ThreadPoolExecutor(max_workers=64, thread_name_prefix="windtunnel-look")

#: A gate looks on while the place where traffic flows is away, or refuses its credentials, and gives its try up after
#: so long, in seconds. Its task has few tries: without this four short outages would end a rollout of days.
AWAY_S = 300.0


async def _in_thread(call: Callable[[], T]) -> T:
    """``asyncio.to_thread`` with our threads; the context goes along, by which Airflow finds the trigger's log."""
    return await asyncio.get_running_loop().run_in_executor(_LOOKS, copy_context().run, call)


class GateTrigger(BaseTrigger):
    """Look at a running release until its gate has an answer.

    Events: ``{"status": "answer", "answer": {...}}``, ``{"status": "fenced", "message"}`` when another holder, the
    guard or a person took over, ``{"status": "error", "message", "transient"}``.

    Args:
        watch: ``windtunnel_airflow.gatekeeping.Watch`` as a dictionary.
        look_every: seconds between two looks.
        windtunnel_conn_id: connection to the registry, where people order; its credentials are read in the
            triggerer, never stored.
    """

    def __init__(
        self, watch: dict[str, Any], look_every: float, windtunnel_conn_id: str = "windtunnel_default"
    ) -> None:
        super().__init__()
        self.watch = watch
        self.look_every = look_every
        self.windtunnel_conn_id = windtunnel_conn_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {"watch": self.watch, "look_every": self.look_every, "windtunnel_conn_id": self.windtunnel_conn_id},
        )

    def place(self) -> Any:
        """Where the watched model is served; one cluster's is fed by one watch for all gates of this process."""
        conn_id = self.watch.get("seldon_conn_id")
        if conn_id is not None:
            from windtunnel_airflow.places import cluster

            return cluster(self.windtunnel_conn_id, conn_id, follow=True)
        from windtunnel.home import Home
        from windtunnel.serving.place import at_home

        return at_home(Home.find(self.watch["home"]))

    def backend(self) -> Any:
        """The serving backend."""
        return self.place().backend

    def orders(self) -> Any:
        """What people ordered of this rollout, as far as it is known; blocking for two seconds at most."""
        from windtunnel.home import Home
        from windtunnel_airflow.orderbook import book

        home = Home.find(self.watch["home"])
        return book(self.windtunnel_conn_id, home).standing(self.watch["rollout_id"], self.watch["model"])

    def look(self) -> Answer:
        """One look; blocking, called in a thread."""
        from windtunnel_airflow import gatekeeping

        watch = Watch.from_dict(self.watch)
        log = self.place().looks(watch.model)
        # Orders are asked for first, so that the time of the look is that of its evidence.
        orders = self.orders()
        return gatekeeping.look(watch, self.backend(), log, time.time(), orders=orders)

    @property
    def phase(self) -> float:
        """Share of the first pause that this gate waits, in (0, 1], the same after each restart. Gates that a triggerer
        takes over all at once must not look all at once for ever: they would keep everybody else from the processor."""
        name = f"{self.watch['model']}/{self.watch['rollout_id']}".encode()
        return (zlib.crc32(name) + 1) / 2**32

    async def run(self) -> AsyncIterator[TriggerEvent]:
        share = self.phase
        heard = time.monotonic()
        while True:
            started = time.monotonic()
            try:
                answer = await _in_thread(self.look)
            except FencedError as error:
                yield TriggerEvent({"status": "fenced", "message": error.message})
                return
            except Exception as error:  # every exception becomes an event: a silent trigger would never end
                if not may_pass(error) or time.monotonic() - heard > AWAY_S:
                    yield TriggerEvent(_error(error))
                    return
                self.log.warning("No look could be made, the next one may: %s", error)
                await asyncio.sleep(max(0.05, self.look_every - (time.monotonic() - started)))
                continue
            heard = time.monotonic()
            self.log.info("%s: %s", answer.action, answer.reason)
            if answer.over:
                yield TriggerEvent({"status": "answer", "answer": answer.to_dict()})
                return
            # Looks keep their rhythm whatever a look costs, and never pile up.
            await asyncio.sleep(max(0.05, self.look_every * share - (time.monotonic() - started)))
            share = 1.0

    async def on_kill(self) -> None:
        """A person ended or cleared the gate: shorten the lease, so that the guard acts soon unless somebody goes on.

        A cleared gate renews it with its first look; after a cancel the rollback task moves traffic at once, and if
        the whole run was ended, so that no task follows, the guard does.
        """
        soon = time.time() + max(15.0, 2 * self.look_every)

        def shorten() -> None:
            self.backend().renew(self.watch["model"], self.watch["token"], soon)

        try:
            await asyncio.to_thread(shorten)
        except Exception as error:
            self.log.warning("The lease of %s was not shortened: %s", self.watch["model"], error)


class DeployTrigger(BaseTrigger):
    """Wait until the versions of a release in a cluster have answered for themselves.

    Events: ``{"status": "over", "began"}`` when they have, when they never will, when somebody else took over or when
    the time is up: the task's own ``apply`` finds which, and takes back what was begun; ``{"status": "error",
    "message", "transient"}``.

    Args:
        model, token: whose versions, and by which holder they were asked for.
        began: when they were asked for, seconds since the epoch.
        within_s: end so many seconds later.
        windtunnel_conn_id, seldon_conn_id: connections to the registry and the cluster; their credentials are read in
            the triggerer, never stored.
        poll: seconds between two looks; each is one request to the API at most.
    """

    def __init__(
        self,
        model: str,
        token: int,
        began: float,
        within_s: float,
        windtunnel_conn_id: str,
        seldon_conn_id: str,
        poll: float = 10.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.token = token
        self.began = began
        self.within_s = within_s
        self.windtunnel_conn_id = windtunnel_conn_id
        self.seldon_conn_id = seldon_conn_id
        self.poll = poll

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = ("model", "token", "began", "within_s", "windtunnel_conn_id", "seldon_conn_id", "poll")
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in names}

    def backend(self) -> Any:
        """The serving backend, fed by one watch for all triggers of this process."""
        from windtunnel_airflow.places import cluster

        return cluster(self.windtunnel_conn_id, self.seldon_conn_id, follow=True).backend

    def look(self) -> str | None:
        """Why it is not over yet; blocking, called in a thread."""
        try:
            return cast("str | None", self.backend().unready(self.model, self.token))
        except UnavailableError as error:  # an API that is away answers later
            return error.message
        except WindtunnelError as error:
            self.log.info("Nothing more to wait for: %s", error.message)
            return None

    async def run(self) -> AsyncIterator[TriggerEvent]:
        told: str | None = None
        until = self.began + self.within_s
        while True:
            try:
                why = await _in_thread(self.look)
            except Exception as error:
                yield TriggerEvent(_error(error))
                return
            if why is None or time.time() >= until:
                yield TriggerEvent({"status": "over", "began": self.began})
                return
            if why != told:
                self.log.info("Waits: %s", why)
                told = why
            await asyncio.sleep(max(0.05, min(self.poll, until - time.time())))


class PolicyTrigger(BaseTrigger):
    """Ask the registry until there is something to do: policy lets the release go on, or a person must be asked.

    Events, by ``status``: ``allowed``; ``ask``, another question is due than the one that is open; ``answered`` with
    ``chosen_options`` and ``params_input``, where Airflow itself did not resume the task with them; ``end``, a person
    rejected the version or the release has ended; ``timeout`` with ``missing``; ``error`` with ``message`` and
    ``transient``.

    Args:
        model, version: what is to be promoted.
        windtunnel_conn_id: connection to the registry; its credentials are read in the triggerer, never stored.
        poll: seconds between two questions.
        end: give up then (seconds since the epoch).
        beside: the further candidates, which need the same.
        to: where they are to come.
        asked: ``windtunnel.registry.waiting.Asked`` of the question that is open in Airflow, as a dictionary.
        ti_id: of the task instance that asks it.
        asks: another question can be asked.
        rollout_id: its rollout, where it has one already: the waiting ends with it.
    """

    def __init__(
        self,
        model: str,
        version: str,
        windtunnel_conn_id: str,
        poll: float,
        end: float,
        beside: Sequence[str] = (),
        to: str = "champion",
        asked: dict[str, str] | None = None,
        ti_id: str | None = None,
        asks: bool = False,
        rollout_id: str | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.version = version
        self.windtunnel_conn_id = windtunnel_conn_id
        self.poll = poll
        self.end = end
        self.beside = list(beside)
        self.to = to
        self.asked = asked
        self.ti_id = ti_id
        self.asks = asks
        self.rollout_id = rollout_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        names = ("model", "version", "windtunnel_conn_id", "poll", "end", "beside", "to", "asked", "ti_id", "asks")
        names += ("rollout_id",)
        return f"{type(self).__module__}.{type(self).__qualname__}", {name: getattr(self, name) for name in names}

    def client(self) -> Any:
        """A registry client; called in a thread."""
        from windtunnel_airflow.hook import WindtunnelHook

        return WindtunnelHook(self.windtunnel_conn_id).registry

    def look(self, client: Any) -> Next:
        """What the release does now; blocking."""
        from windtunnel_airflow.policy import look

        return look(client, self.model, (self.version, *self.beside), self.to, self.rollout_id)[0]

    def answer(self) -> dict[str, Any] | None:
        """The answer to the question, where there is one; blocking. The API server resumes the task with it, but for an
        answer that came before the task was deferred, or that the registry could not be told yet."""
        from uuid import UUID

        from airflow.sdk.execution_time.hitl import get_hitl_detail_content_detail

        if self.ti_id is None:
            return None
        try:
            found = get_hitl_detail_content_detail(ti_id=UUID(self.ti_id))
        except Exception as error:  # the question of a try that is over is gone; nobody needs its answer
            self.log.info("The question cannot be read: %s", error)
            return None
        if not found.response_received:
            return None
        return {"chosen_options": list(found.chosen_options or ()), "params_input": dict(found.params_input or {})}

    def status(self, found: Next) -> str | None:
        """The event that ``found`` is; None while there is nothing to do."""
        if found.action in ("go", "end"):
            return "allowed" if found.action == "go" else "end"
        other = found.asked is not None and found.asked.to_dict() != self.asked
        return "ask" if other and self.asks else None

    async def run(self) -> AsyncIterator[TriggerEvent]:
        missing: tuple[str, ...] = ()
        client: Any = None
        while True:
            try:
                if client is None:
                    client = await _in_thread(self.client)
                found = await _in_thread(partial(self.look, client))
                if found.missing and found.missing != missing:
                    self.log.info("Waits for: %s", "; ".join(found.missing))
                missing = found.missing
                answer = await _in_thread(self.answer)
                if answer is not None:
                    yield TriggerEvent({"status": "answered", **answer})
                    return
                status = self.status(found)
                if status is not None:
                    yield TriggerEvent({"status": status})
                    return
            except UnavailableError as error:  # a registry that is down answers later
                self.log.warning("The registry does not answer: %s", error.message)
            except FencedError:
                yield TriggerEvent({"status": "end"})
                return
            except Exception as error:
                yield TriggerEvent(_error(error))
                return
            if time.time() >= self.end:
                yield TriggerEvent({"status": "timeout", "missing": list(missing)})
                return
            await asyncio.sleep(self.poll)


def _error(error: Exception) -> dict[str, Any]:
    transient = not isinstance(error, WindtunnelError) or isinstance(error, UnavailableError)
    return {"status": "error", "message": f"{type(error).__name__}: {error}", "transient": transient}
