"""What is decided about whose turn it is, without a database: times, names of sessions, what servers said."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from windtunnel.errors import StackError

#: What servers say on the channel: that they took the lock, and that they ended.
TAKEN, ENDED = "taken", "ended"
#: What a server's sessions are called in ``pg_stat_activity``: that with the lock, and those it serves with.
HOLDER, SERVING = "wtlock", "wtserve"
#: Seconds that a lease may be.
SHORTEST, LONGEST = 1.0, 300.0


def clock() -> float:
    """Seconds that go on while this process is stopped, and while its machine sleeps."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if boot is None else time.clock_gettime(boot)


@dataclass(frozen=True, slots=True)
class Times:
    """All from one number: seconds after which a leader without an answer from PostgreSQL ends itself."""

    lease: float = 10.0

    def __post_init__(self) -> None:
        if not SHORTEST <= self.lease <= LONGEST:
            raise StackError(
                f"a lease of {self.lease:g} s", hint=f"expected {SHORTEST:g} to {LONGEST:g}; the default is 10"
            )

    @property
    def beat(self) -> float:
        """Between two questions of the leader."""
        return self.lease / 5

    @property
    def idle(self) -> float:
        """After which PostgreSQL ends a session that asked nothing."""
        return self.lease * 1.5

    @property
    def grace(self) -> float:
        """That a new leader waits, unless the former one said that it ended."""
        return self.lease * 1.2

    @property
    def poll(self) -> float:
        """Between two tries for the lock."""
        return min(1.0, self.lease / 5)

    @property
    def milliseconds(self) -> int:
        """Of the lease, as the sessions show it."""
        return round(self.lease * 1000)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One server that would serve.

    Attributes:
        address: HOST:PORT where the others reach it.
        token: of this process; names in PostgreSQL have 63 characters, so it is short.
        times: by which it ends itself.
    """

    address: str
    token: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    times: Times = field(default_factory=Times)

    @property
    def holder(self) -> str:
        """Name of its session with the lock."""
        return f"{HOLDER} {self.token} {self.address}"

    @property
    def serving(self) -> str:
        """Name of its other sessions; its lease is in it, for they may be there when that with the lock is not."""
        return f"{SERVING} {self.token} {self.times.milliseconds}"


@dataclass(frozen=True, slots=True)
class Leader:
    """Who holds the lock.

    Attributes:
        address: where it answers.
        lease: seconds; None where its session does not show it.
    """

    address: str
    lease: float | None


def lease_of(name: str) -> float | None:
    """Seconds of the lease that a serving session's name shows; None for what is none of ours."""
    kind, _, rest = name.partition(" ")
    shown = rest.rpartition(" ")[2]
    return int(shown) / 1000 if kind == SERVING and " " in rest and shown.isdecimal() else None


@dataclass(frozen=True, slots=True)
class Word:
    """What a server said to all others: ``TAKEN`` or ``ENDED``, and its token."""

    kind: str
    token: str


def word(payload: str) -> Word | None:
    """A notification's payload; None for what is none of ours."""
    kind, _, token = payload.partition(" ")
    return Word(kind, token) if kind in (TAKEN, ENDED) and token else None


def must_wait(heard: Sequence[Word]) -> bool:
    """Whether a former leader may still be at work, for a server that has the lock now.

    Args:
        heard: everything that was said, in order, until it took the lock. Empty for one that came too late to hear.
    """
    return not heard or heard[-1].kind != ENDED


def expired(now: float, answered: float, times: Times) -> bool:
    """Whether a leader may not go on: the last question that was answered was asked too long ago."""
    return now - answered >= times.lease


def longest(own: Times, seen: Iterable[float | None]) -> Times:
    """The times to wait by for a former leader: of the longest lease seen, if it is longer than this server's own."""
    return Times(max([own.lease, *(min(one, LONGEST) for one in seen if one is not None)]))


def differs(own: Times, leader: Leader) -> str:
    """What is to be said when a leader's lease is another than this server's; empty when it is the same."""
    if leader.lease is None or leader.lease == own.milliseconds / 1000:
        return ""
    return (
        f"; its lease is {leader.lease:g} s, this server's {own.lease:g} s: after it, this one waits by the longer; "
        "start all servers of a registry with the same --lease"
    )
