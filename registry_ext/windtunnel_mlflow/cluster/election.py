"""Which of several servers of one registry serves: whoever holds a lock of PostgreSQL, for as long as it can show it.

The lock is a session advisory lock on a connection of its own. PostgreSQL gives it to the next when the session ends:
at once when the process does, after ``Times.idle`` when a process says nothing any more (paused, its node lost). A
leader asks every ``Times.beat`` seconds and ends itself when there was no answer for ``Times.lease``; the next one
serves ``Times.grace`` after it got the lock, when a former one must have noticed. So no clock is compared with another
machine's. A leader that ends in order says so (NOTIFY), and nobody waits.

Servers may have been started with different times. A leader's sessions show its lease, so whoever comes after it waits
by the longest that it saw, not by its own.

Sources: PostgreSQL's documentation (advisory locks, idle_session_timeout, NOTIFY: in order of commits); the leases of
Kubernetes's client-go (leader election) for the relation of the three times.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

from windtunnel.errors import StackError, UnavailableError
from windtunnel_mlflow.cluster.rules import (
    ENDED,
    HOLDER,
    SERVING,
    TAKEN,
    Candidate,
    Leader,
    Times,
    Word,
    clock,
    differs,
    expired,
    lease_of,
    longest,
    must_wait,
    word,
)

#: The lock's two numbers, and the channel on which servers say that they took it and that they ended.
LOCK, CHANNEL = (0x77696E64, 0x6C656164), "windtunnel_registry"
#: First number of another lock, held by all who stand, shared; its second is the lease in milliseconds. Not in the
#: session's name, which is full with an IPv6 address.
LEASE = 0x77696E6C
#: The first PostgreSQL that ends silent sessions (idle_session_timeout).
_OLDEST = 140000


class LostError(UnavailableError):
    """The session with the lock is gone, or may be."""


class Session:
    """One connection to PostgreSQL on which no wait is without an end. For one thread, but for ``wake``.

    Args:
        url: SQLAlchemy URL, ``postgresql+psycopg2://...``. Directly to the server: a pooler that shares sessions
            between clients cannot keep a session's lock.
    """

    def __init__(self, url: str, mine: Candidate) -> None:
        self._url, self._mine, self._times = url, mine, mine.times
        self._connection: Any = None
        self._pid = 0
        self.heard: list[Word] = []
        self._ears, self._mouth = socket.socketpair()
        self._ears.setblocking(False)

    def open(self) -> None:
        """Connect anew. What was said meanwhile was not heard.

        Raises:
            LostError: there is no answer.
            StackError: PostgreSQL is too old.
        """
        import psycopg2  # type: ignore[import-untyped]
        from sqlalchemy import create_engine, make_url

        self.close()
        # The engine is never connected: it knows how the URL's parts are told to the driver.
        words, told = create_engine(self._url).dialect.create_connect_args(make_url(self._url))
        seconds = max(1, round(self._times.lease / 4))
        settings: dict[str, Any] = {
            **told,
            "application_name": self._mine.holder, "connect_timeout": max(2, round(self._times.lease / 2)),
            "keepalives": 1, "keepalives_idle": seconds, "keepalives_interval": seconds, "keepalives_count": 2,
            "tcp_user_timeout": round(self._times.lease * 1000),
        }  # fmt: skip
        try:
            self._connection = psycopg2.connect(*words, **settings, async_=True)
            self._wait(clock() + 2 * self._times.lease)
        except (psycopg2.Error, LostError) as error:
            self.close()
            why = error.message if isinstance(error, LostError) else str(error).strip()
            raise LostError(f"nobody can be asked who serves: {why}") from None
        if self._connection.server_version < _OLDEST:
            raise StackError(
                f"PostgreSQL {self._connection.server_version // 10000} ends no silent session", hint="14 or later"
            )
        limits = {
            "idle_session_timeout": self._times.idle, "statement_timeout": self._times.lease,
            # PostgreSQL's own side of a connection whose other end is gone with its node.
            "tcp_user_timeout": self._times.idle,
        }  # fmt: skip
        for name, value in limits.items():
            self._ask(f"SET {name} = {round(value * 1000)}")
        self._ask(f"SET tcp_keepalives_idle = {seconds}; SET tcp_keepalives_interval = {seconds}")
        self._ask("SET tcp_keepalives_count = 2")
        self._ask("SELECT pg_try_advisory_lock_shared(%s, %s)", (LEASE, self._times.milliseconds))
        self._ask(f"LISTEN {CHANNEL}")
        self._pid = int(self._ask("SELECT pg_backend_pid()")[0][0])

    def close(self) -> None:
        """End the session, and with it its lock."""
        self.heard = []
        if self._connection is not None:
            # Without a word of farewell: a driver that cannot say it would wait.
            with contextlib.suppress(Exception):
                self._connection.close()
            self._connection = None

    def take(self) -> bool:
        """Whether this session has the lock now. Never of a replica: there, too, locks are given."""
        rows = self._ask(
            "SELECT CASE WHEN pg_is_in_recovery() THEN false ELSE pg_try_advisory_lock(%s, %s) END", LOCK
        )  # fmt: skip
        return bool(rows[0][0])

    def leader(self) -> Leader | None:
        """Whoever holds the lock; None while nobody does."""
        rows = self._ask(
            "SELECT a.application_name, shown.objid::bigint FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
            "LEFT JOIN pg_locks shown ON shown.pid = l.pid AND shown.locktype = 'advisory' AND shown.objsubid = 2 "
            "AND shown.database = l.database AND shown.classid::bigint = %s "
            "WHERE l.locktype = 'advisory' AND l.classid::bigint = %s AND l.objid::bigint = %s AND l.objsubid = 2 "
            "AND l.granted AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())",
            (LEASE, *LOCK),
        )
        parts = str(rows[0][0] or "").split(" ") if rows else []
        if len(parts) != 3 or parts[0] != HOLDER:
            return None
        return Leader(parts[2], None if rows[0][1] is None else int(rows[0][1]) / 1000)

    def beat(self) -> float:
        """Ask whether the lock is still ours; the time at which it was asked.

        Raises:
            LostError: it is not, or nobody answers.
        """
        asked = clock()
        pid, replica = self._ask("SELECT pg_backend_pid(), pg_is_in_recovery()")[0]
        if pid != self._pid or replica:
            why = "became a replica" if replica else "answers by another session: is there a pooler before it?"
            raise LostError(f"PostgreSQL {why}")
        return asked

    def say(self, kind: str) -> None:
        """Tell all servers, in order with what others told."""
        self._ask("SELECT pg_notify(%s, %s)", (CHANNEL, f"{kind} {self._mine.token}"))

    def before(self) -> list[Word]:
        """Say that the lock is taken; everything that was said before it."""
        self.say(TAKEN)
        own = Word(TAKEN, self._mine.token)
        until = clock() + self._times.lease
        while own not in self.heard:
            if clock() > until:
                raise LostError("PostgreSQL passes on no notifications")
            self.rest(0.1)
        return self.heard[: self.heard.index(own)]

    def fence(self) -> list[float | None]:
        """End the sessions that other servers serve with, open transactions and all; the lease that each showed."""
        rows = self._ask(
            "SELECT application_name, pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = current_user "
            "AND datname = current_database() AND starts_with(application_name, %s) AND application_name <> %s",
            (f"{SERVING} ", self._mine.serving),
        )
        return [lease_of(str(name)) for name, _ in rows]

    def rest(self, seconds: float) -> None:
        """Wait, until ``wake`` at most, and hear what is said.

        Raises:
            LostError: the session ended.
        """
        until = clock() + seconds
        while (left := until - clock()) > 0:
            found, _, _ = select.select([self._connection, self._ears], [], [], left)
            if self._connection in found:
                self._wait(until + self._times.lease)
            if self._ears in found:
                with contextlib.suppress(BlockingIOError):
                    self._ears.recv(64)
                return

    def wake(self) -> None:
        """End a ``rest``; from any thread."""
        with contextlib.suppress(OSError):
            self._mouth.send(b"x")

    def _ask(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        import psycopg2

        if self._connection is None:
            raise LostError("there is no session")
        try:
            with self._connection.cursor() as cursor:
                cursor.execute(statement, tuple(values) or None)
                self._wait(clock() + self._times.lease)
                return list(cursor.fetchall()) if cursor.description else []
        except psycopg2.Error as error:
            raise LostError(f"PostgreSQL: {str(error).strip()}") from None

    def _wait(self, until: float) -> None:
        import psycopg2
        from psycopg2 import extensions

        try:
            while (state := self._connection.poll()) != extensions.POLL_OK:
                left = until - clock()
                if left <= 0:
                    raise LostError("PostgreSQL does not answer")
                reads = [self._connection] if state == extensions.POLL_READ else []
                writes = [self._connection] if state == extensions.POLL_WRITE else []
                select.select(reads, writes, [], left)
        except psycopg2.Error as error:
            raise LostError(f"PostgreSQL: {str(error).strip()}") from None
        while self._connection.notifies:
            found = word(self._connection.notifies.pop(0).payload)
            if found is not None:
                self.heard.append(found)


def end_at_once(why: str) -> None:
    """End this process, with every write that is under way in it."""
    with contextlib.suppress(OSError):
        os.write(2, f"the registry's server ends at once: {why}\n".encode())
    os._exit(70)


class Term:
    """This server's part in it: stands until it is its turn, then serves until it ends. One thread runs ``run``.

    Args:
        turn: called in a thread of its own when this server shall serve.
        end: called when it must not go on; does not return in a server.
    """

    def __init__(
        self,
        session: Session,
        times: Times,
        turn: Callable[[], None],
        end: Callable[[str], None] = end_at_once,
        say: Callable[[str], None] = lambda text: print(text, flush=True),
    ) -> None:
        self._session, self._times, self._turn, self._end, self._say = session, times, turn, end, say
        self._answered = 0.0
        # By which a former leader may go on: never shortened, for it may have been one before the last.
        self._longest = times
        self._told = ""
        self._leaving: bool | None = None
        #: Whether this server serves, or is about to.
        self.serving = False
        #: Address of who serves; None while nobody does, or nobody can be asked.
        self.leader: str | None = None

    def check(self) -> None:
        """End the process if it serves and can no longer show that it may: before every request, every piece of one,
        every use of a database connection and every commit."""
        if self.serving and expired(clock(), self._answered, self._times):
            self._end(f"PostgreSQL answered last {clock() - self._answered:.1f} s ago; another may serve now")

    def leave(self, clean: bool) -> None:
        """Give the lock up. From another thread than ``run``'s, which ends then.

        Args:
            clean: nothing is under way any more, so the next one need not wait.
        """
        self._leaving = clean
        self._session.wake()

    def run(self) -> None:
        """Stand for the lock, serve with it; ends after ``leave``."""
        while self._leaving is None:
            try:
                self._session.open()
                if self._stand():
                    self._hold()
            except LostError as error:
                if self.serving:
                    self._end(error.message)
                    return
                self.leader = None
                self._tell(f"standing by: {error.message}")
                time.sleep(self._times.poll)
        with contextlib.suppress(LostError):
            if self.serving and self._leaving:
                self._session.say(ENDED)
        self._session.close()

    def _stand(self) -> bool:
        """Wait for the lock, and for whoever had it; False when it is to leave."""
        while not self._session.take():
            if self._leaving is not None:
                return False
            found = self._session.leader()
            self.leader = found.address if found else None
            if found:
                self._saw([found.lease])
                self._tell(f"standing by: {found.address} serves{differs(self._times, found)}")
            self._session.rest(self._times.poll)
        self.leader = None
        self._answered = self._session.beat()
        wait = must_wait(self._session.before())
        self._saw(self._session.fence())
        if wait:
            grace = self._longest.grace
            self._tell(f"took the lock; serving in {grace:g} s, when a former server must have ended")
            until = clock() + grace
            while (left := until - clock()) > 0 and self._leaving is None:
                self._answered = self._session.beat()
                self._session.rest(min(left, self._times.beat))
            self._answered = self._session.beat()
            self._session.fence()
        return self._leaving is None

    def _saw(self, leases: Sequence[float | None]) -> None:
        self._longest = longest(self._longest, leases)

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            self._say(text)

    def _hold(self) -> None:
        from threading import Thread

        self.serving = True
        Thread(target=self._turn, name="windtunnel-turn", daemon=True).start()
        while self._leaving is None:
            self.check()
            self._answered = self._session.beat()
            self._session.rest(self._times.beat)
            self.check()
        # What it served is over by now; until the session ends nobody else begins.
