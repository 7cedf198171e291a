"""The last looks of models that a cluster serves, for the models page: one list for all of them, by Airflow's
connection, asked beside the page. A cluster that is slow or gone costs a page a moment, never an error."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from windtunnel.errors import WindtunnelError

if TYPE_CHECKING:
    from windtunnel.serving.seldon import Seldon

log = logging.getLogger(__name__)

REGISTRY_CONNECTION, SELDON_CONNECTION = "windtunnel_default", "windtunnel_seldon"

#: Seconds that an answer is shown for; a cluster that did not answer, or is not there, is asked again later.
FRESH_S, AGAIN_S = 5.0, 30.0
#: After so long the connection is looked up again.
RELOAD_S = 60.0
#: For so long a page waits for an answer that is on its way.
WAIT_S = 1.5
#: Of the request: to connect, and between two bytes.
TIMEOUT_S = (1.0, 3.0)


@dataclass(frozen=True, slots=True)
class Told:
    """What a cluster says.

    Attributes:
        said: by rollout, the sentence of its last look.
        problem: why nobody can say; None where the cluster answered.
    """

    said: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = None


class Cluster:
    """What was told last, and one thread at most that asks anew; safe to share between threads.

    Args:
        read: asks the cluster; None: there is none. What it raises is a problem.
        monotonic: seconds, of a clock that nobody sets.
    """

    def __init__(
        self,
        read: Callable[[], Told | None],
        *,
        wait_s: float = WAIT_S,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read, self._wait_s, self._monotonic = read, wait_s, monotonic
        self._lock = threading.Lock()
        self._asking: threading.Event | None = None
        self._told: Told | None = None
        self._again = float("-inf")

    def told(self) -> Told | None:
        """What the cluster says; None where there is none. Returns within ``wait_s``."""
        with self._lock:
            if self._asking is None:
                if self._monotonic() < self._again:
                    return self._told
                self._asking = threading.Event()
                threading.Thread(target=self._ask, args=(self._asking,), name="last-looks", daemon=True).start()
            asking = self._asking
        if not asking.wait(self._wait_s):
            return Told(problem="the cluster has not answered yet")
        with self._lock:
            return self._told

    def _ask(self, done: threading.Event) -> None:
        try:
            told = self._read()
        except WindtunnelError as error:
            told = Told(problem=error.message)
        except Exception as error:  # whatever it is, the page goes on; its words are not for every reader
            log.warning("the cluster's models cannot be looked at", exc_info=True)
            told = Told(problem=f"{type(error).__name__}; the API server's log says more")
        with self._lock:
            good = told is not None and told.problem is None
            self._told, self._asking = told, None
            self._again = self._monotonic() + (FRESH_S if good else AGAIN_S)
        done.set()


class Connected:
    """Reads by the connection, which is looked up now and then; the client, and with it the way to the API, is kept
    while that says the same. For one thread at a time."""

    def __init__(
        self, settings: Callable[[], Seldon | None], *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._look_up, self._monotonic = settings, monotonic
        self._settings: Seldon | None = None
        self._until = float("-inf")
        self._known: tuple[Seldon, Any] | None = None

    def __call__(self) -> Told | None:
        if self._monotonic() >= self._until:
            self._settings = self._look_up()
            self._until = self._monotonic() + RELOAD_S
        settings = self._settings
        if settings is None:
            return None
        from windtunnel.kube.client import Client
        from windtunnel.serving.place import in_cluster
        from windtunnel.serving.seldon.journal import last_words

        if self._known is None or self._known[0] != settings:
            client = Client(settings.access, timeout_s=TIMEOUT_S, patience_s=0.0)
            self._known = settings, in_cluster(settings, client).backend
        return Told(last_words(self._known[1].journals().values()))


def settings() -> Seldon | None:
    """Of the connection that ``windtunnel_default`` names (``seldon_conn_id``), else of ``windtunnel_seldon``; None
    where there is no such connection.

    Raises:
        DescriptionError: it says what nobody knows, or lacks what is needed.
    """
    from windtunnel.serving.seldon import Seldon

    ours = _extra(REGISTRY_CONNECTION) or {}
    extra = _extra(str(ours.get("seldon_conn_id") or SELDON_CONNECTION))
    return None if extra is None else Seldon.of_form(extra)


def _extra(conn_id: str) -> dict[str, Any] | None:
    """A connection's extra; None where there is no such connection."""
    from airflow.exceptions import AirflowNotFoundException
    from airflow.models.connection import Connection

    try:
        return dict(Connection.get_connection_from_secrets(conn_id).extra_dejson or {})
    except AirflowNotFoundException:
        return None


#: Of this process; asked for the first time when a page needs it.
CLUSTER = Cluster(Connected(settings))
