"""Checkpoints of the audit: every now and then the tree's root is signed and published outside the database.

Whoever holds the database can write its whole history anew, hashes included. What was published before then says
otherwise. The key lies in ``HOME/secrets`` and never in the database.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from windtunnel.errors import StackError
from windtunnel.evidence import checkpoint, entry
from windtunnel.evidence.checkpoint import Checkpoint, SigningKey
from windtunnel.evidence.merkle import EMPTY, Frontier
from windtunnel.files import SHARED, write_bytes
from windtunnel.home import ENV_HOME, ENV_TEMPORARY, Home
from windtunnel.registry import auditfiles
from windtunnel.registry.auditfiles import Place
from windtunnel.registry.launch import ENV_AUDIT_EVERY, ENV_AUDIT_PLACE
from windtunnel.stackfile import read_secret
from windtunnel_mlflow import tables
from windtunnel_mlflow.ledger import audit

_logger = logging.getLogger(__name__)

SECRET = "audit-key"
#: Seconds between two looks; without new entries nothing is published.
EVERY = 60.0
_BATCH = 10_000

Sessions = Callable[[], AbstractContextManager[Session]]


class Contradiction(Exception):
    """The database does not hold the history that was signed before."""


class Publisher:
    """Signs and publishes; refuses for ever once the database contradicts what was published.

    Args:
        sessions: transactions on the primary database.
        key: signs.
        places: where to publish; the first is read at the start to go on from, and must be ours alone.
        clock: seconds since the epoch.
    """

    def __init__(
        self, sessions: Sessions, key: SigningKey, places: Sequence[Place], clock: Callable[[], float] = time.time
    ) -> None:
        self._sessions, self._key, self._places, self._clock = sessions, key, list(places), clock
        self._lock = threading.Lock()
        self._tree, self._seq = Frontier(), 0
        self._former: Checkpoint | None = None
        self._started = False
        self._unpublished: dict[int, str] = {}
        self._note: str | None = None
        self._problem: str | None = None

    def publish(self) -> dict[str, Any]:
        """Publish a checkpoint if there is anything new; returns ``state()``. Never raises for a place out of reach:
        what could not be published there is tried again the next time."""
        with self._lock:
            try:
                self._grow()
                self._problem = None
                if self._note is None or checkpoint.read(self._note).size != self._tree.size:
                    point = Checkpoint(self._key.name, self._tree.size, self._tree.root(), int(self._clock()))
                    self._note = checkpoint.sign(point, self._key)
                    for number in range(len(self._places)):
                        # Only the newest: it speaks for those before it.
                        self._unpublished[number] = self._note
                self._send()
            except Contradiction as error:
                self._problem = str(error)
                _logger.error("no checkpoint of the audit is signed any more: %s", error)
            except Exception as error:
                self._problem = f"{type(error).__name__}: {error}"
                _logger.warning("no checkpoint of the audit could be made", exc_info=True)
            return self._state()

    def state(self) -> dict[str, Any]:
        """``checkpoint`` (the newest note), ``key`` (public), ``problem``."""
        with self._lock:
            return self._state()

    def _state(self) -> dict[str, Any]:
        return {"checkpoint": self._note, "key": self._key.verifier.text(), "problem": self._problem}

    def _send(self) -> None:
        failed = []
        for number, note in sorted(self._unpublished.items()):
            where = self._places[number]
            try:
                where.put(auditfiles.name_of(checkpoint.read(note).size), note)
                where.put(f"{self._key.verifier.id.hex()}{auditfiles.KEY_SUFFIX}", self._key.verifier.text() + "\n")
                del self._unpublished[number]
            except FileExistsError as error:
                raise Contradiction(f"another history was published: {error}") from error
            except Exception as error:
                failed.append(f"place {number + 1}: {type(error).__name__}: {error}")
        if failed:
            self._problem = "; ".join(failed)
            _logger.warning("a checkpoint of the audit could not be published: %s", self._problem)

    def _grow(self) -> None:
        """Take in what was committed since. The first time everything, which is held against what was published."""
        if not self._started:
            self._former = auditfiles.newest(self._places[0])
            self._tree, self._seq, self._started = Frontier(), 0, True
            self._meet()
        with self._sessions() as session:
            until = audit.settled(session)
        table = tables.audit
        while self._seq < until:
            with self._sessions() as session:
                rows = session.execute(
                    select(table.c.seq, table.c.hash)
                    .where(table.c.seq > self._seq, table.c.seq <= until)
                    .order_by(table.c.seq)
                    .limit(_BATCH)
                ).all()
            if not rows:
                break
            for seq, hashed in rows:
                self._tree.append(entry.leaf(seq, hashed))
                self._meet()
            self._seq = rows[-1].seq
        if self._former is not None:
            self._started = False
            raise Contradiction(
                f"the audit has {self._tree.size} entries, a checkpoint was published at {self._former.size}"
            )
        if until < self._seq:
            raise Contradiction(f"the newest entry is {until}; {self._seq} was there before")

    def _meet(self) -> None:
        if self._former is None or self._former.size != self._tree.size:
            return
        if self._former.root != (self._tree.root() if self._tree.size else EMPTY):
            self._started = False
            raise Contradiction(f"the first {self._tree.size} entries are not those of the published checkpoint")
        self._former = None


def key_of(home: Home) -> SigningKey:
    """The installation's key for its audit, made when there is none; the public half beside the checkpoints."""
    path = home.secrets / SECRET
    if not path.exists():
        former = auditfiles.newest(auditfiles.place(home.audit / "checkpoints"))
        # A new key (rotation) goes on under the log's old name.
        name = former.origin if former else f"windtunnel-audit/{secrets.token_hex(6)}"
        write_bytes(path, (SigningKey(name, secrets.token_bytes(32)).text() + "\n").encode(), parents=True)
    key = SigningKey.parse(read_secret(home, SECRET))
    write_bytes(
        home.audit / f"{key.verifier.id.hex()}{auditfiles.KEY_SUFFIX}",
        (key.verifier.text() + "\n").encode(),
        mode=SHARED,
        parents=True,
    )
    return key


def places_of(home: Home) -> list[Place]:
    """Where this server publishes; the first says what history it goes on from.

    Raises:
        StackError: the home is a temporary one, and no other place is named: each start would take any history.
    """
    named = os.environ.get(ENV_AUDIT_PLACE)
    if os.environ.get(ENV_TEMPORARY):
        if not named:
            raise StackError(
                "the audit's checkpoints would be gone with this server's temporary home",
                hint=f"name a place that stays: {ENV_AUDIT_PLACE}=s3://BUCKET/PREFIX",
            )
        return [auditfiles.place(named)]
    kept = auditfiles.place(home.audit / "checkpoints")
    return [kept, auditfiles.place(named)] if named else [kept]


def start(sessions: Sessions) -> Publisher | None:
    """Publish from now on, in a thread, and once more when Python ends (``app.publish_last`` where a signal ends it);
    None without a home to keep a key in."""
    if not os.environ.get(ENV_HOME):
        _logger.warning("no checkpoints of the audit are published: %s is not set", ENV_HOME)
        return None
    home = Home.find()
    publisher = Publisher(sessions, key_of(home), places_of(home))
    every = float(os.environ.get(ENV_AUDIT_EVERY) or EVERY)
    ended = threading.Event()

    def loop() -> None:
        while True:
            publisher.publish()
            if ended.wait(every):
                return

    threading.Thread(target=loop, name="windtunnel-checkpoints", daemon=True).start()

    def end() -> None:
        ended.set()
        publisher.publish()

    atexit.register(end)
    return publisher


def changeable(session: Session) -> bool:
    """Whether the database role that the server uses could itself change the audit: on SQLite always, on PostgreSQL
    unless it is another than the tables' owner (``windtunnel_mlflow.ledger.roles``)."""
    if session.get_bind().dialect.name == "sqlite":
        return True
    found = session.execute(
        text(
            "SELECT bool_or(has_table_privilege(current_user, 'wt_audit', right_)) "
            "OR pg_has_role(current_user, (SELECT relowner FROM pg_class WHERE oid = 'wt_audit'::regclass), 'MEMBER') "
            "FROM unnest(ARRAY['UPDATE', 'DELETE', 'TRUNCATE', 'TRIGGER']) AS right_"
        )
    )
    return bool(found.scalar())
