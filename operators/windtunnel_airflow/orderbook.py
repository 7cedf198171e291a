"""What people ordered, for every gate of this process: one question to the registry, at most every two seconds.

A thousand gates in one triggerer ask this book, the book asks the registry once for all of them. While the registry
does not answer, what was known last stands; it is kept on the disk, so that it stands after a restart, too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from windtunnel.errors import WindtunnelError
from windtunnel.registry.orders import OrderRecord, OrdersPage, Standing, standing
from windtunnel.serving.release import knownorders

if TYPE_CHECKING:
    from windtunnel.home import Home

log = logging.getLogger(__name__)

#: Seconds between two questions to the registry.
POLL_S = 2.0
#: Seconds after which everything is asked for anew, so that ended rollouts are forgotten.
RELOAD_S = 300.0
#: A gate must not wait for a registry that hangs.
TIMEOUT_S = 2.0


class Source(Protocol):
    """What is needed of ``windtunnel.registry.client.RegistryClient``."""

    def orders(self, since: int = 0) -> OrdersPage: ...


class OrderBook:
    """Orders of open rollouts and standing freezes, as far as they are known. Usable from many threads.

    Args:
        connect: makes a client; called when one is needed, in the thread that asks.
        kept: file in which what is known is kept; None keeps nothing.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        connect: Callable[[], Source],
        kept: Path | None = None,
        *,
        poll_s: float = POLL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connect = connect
        self._kept = kept
        self._poll_s = poll_s
        self._clock = clock
        self._source: Source | None = None
        self._asking = threading.Lock()
        self._asked_at: float | None = None
        self._reloaded_at: float | None = None
        self._page = (knownorders.read(kept) if kept else None) or OrdersPage(0, (), ())
        self._by_rollout = _by_rollout(self._page)
        #: Why the registry did not answer the last question; None when it did.
        self.error: str | None = None

    def standing(self, rollout_id: str, model: str) -> Standing:
        """What holds for one rollout now.

        The first to come when two seconds are over asks the registry; whoever comes meanwhile takes what is known.
        """
        self._refresh()
        frozen = [freeze.sentence for freeze in self._page.freezes if freeze.holds(model)]
        return standing(self._by_rollout.get(rollout_id, ()), frozen)

    def _refresh(self) -> None:
        if not self._due():
            return
        # Before anything is known, everybody waits for the first answer; later only the one who asks.
        if not self._asking.acquire(blocking=self._asked_at is None):
            return
        try:
            if self._due():
                self._ask()
        finally:
            self._asking.release()

    def _due(self) -> bool:
        return self._asked_at is None or self._clock() - self._asked_at >= self._poll_s

    def _ask(self) -> None:
        now = self._clock()
        anew = self._reloaded_at is None or now - self._reloaded_at >= RELOAD_S
        try:
            if self._source is None:
                self._source = self._connect()
            found = self._source.orders(0 if anew else self._page.seq)
        except Exception as error:  # whatever it is, what is known stands
            if self.error is None:
                log.warning("the registry does not tell orders, what is known stands: %s", error)
            self.error = error.message if isinstance(error, WindtunnelError) else f"{type(error).__name__}: {error}"
            self._source = None  # its address or password may be another one when it comes back
        else:
            self.error = None
            orders = found.orders if anew else (*self._page.orders, *found.orders)
            page = OrdersPage(found.seq, orders, found.freezes)
            if anew:
                self._reloaded_at = now
            if page != self._page:
                self._page, self._by_rollout = page, _by_rollout(page)
                self._write()
        finally:
            self._asked_at = self._clock()

    def _write(self) -> None:
        if self._kept is None:
            return
        try:
            knownorders.write(self._kept, self._page)
        except OSError as error:
            log.warning("orders cannot be kept in %s: %s", self._kept, error)


def _by_rollout(page: OrdersPage) -> dict[str, list[OrderRecord]]:
    found: dict[str, list[OrderRecord]] = {}
    for order in page.orders:
        found.setdefault(order.rollout_id, []).append(order)
    return found


_books: dict[tuple[str, str], OrderBook] = {}
_books_lock = threading.Lock()


def book(windtunnel_conn_id: str, home: Home) -> OrderBook:
    """The one book of this process for a connection and a home."""

    def connect() -> Source:
        from windtunnel_airflow.hook import WindtunnelHook

        return WindtunnelHook(windtunnel_conn_id).connected(TIMEOUT_S)

    with _books_lock:
        found = _books.get((windtunnel_conn_id, str(home.root)))
        if found is None:
            found = _books[windtunnel_conn_id, str(home.root)] = OrderBook(connect, knownorders.path(home))
        return found


def forget() -> None:
    """Drop every book of this process (for tests, and after a fork)."""
    with _books_lock:
        _books.clear()
