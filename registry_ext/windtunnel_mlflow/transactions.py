"""One change of one model: its transaction, its lock, its audit row and the audit of its refusal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy import text
from sqlalchemy.orm import Session

from windtunnel_mlflow.access import identity
from windtunnel_mlflow.ledger import audit, outbox
from windtunnel_mlflow.migrate import upgrade
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.together import Together


@dataclass
class Change:
    """An open change: its transaction, who asked, and what the audit will say."""

    session: Session
    actor: identity.Actor
    version: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    correlation_id: str | None = None
    # A call that turned out to change nothing (an idempotent repetition) leaves no audit row.
    silent: bool = False
    # The version is new, so nothing of it is in the tables yet that its events could tell.
    fresh: bool = False


class ChangingStore(SqlAlchemyStore):  # type: ignore[misc]
    """MLflow's SQL store whose methods can run inside one audited transaction.

    Every method of MLflow's that is called within ``change`` works in the change's transaction.
    """

    def __init__(self, db_uri: str, read_db_uri: str | None = None) -> None:
        super().__init__(db_uri, read_db_uri)
        if self.engine.dialect.name == "sqlite":
            with self.engine.connect() as connection:
                # Readers and the one writer do not wait for each other. Kept in the file itself.
                connection.execute(text("PRAGMA journal_mode = WAL"))
        upgrade(self.engine)
        self._refusals = Together(self._write_refusals)
        self._session: ContextVar[Session | None] = ContextVar("windtunnel_session", default=None)
        self._own_session: Any = self.ManagedSessionMaker  # type: ignore[has-type]
        self.ManagedSessionMaker = self._joining_session

    @contextmanager
    def _joining_session(self, read_only: bool = True) -> Iterator[Session]:
        """MLflow's methods, called inside a change, work in the change's transaction."""
        session = self._session.get()
        if session is not None:
            yield session
            return
        with self._own_session(read_only=read_only) as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session for reading, of the primary database; MLflow's methods called within read there as well."""
        with self.ManagedSessionMaker(read_only=False) as session:
            token = self._session.set(session)
            try:
                yield session
            finally:
                self._session.reset(token)

    def _lock(self, session: Session, model: str) -> None:
        """One change per model at a time (on SQLite: per database), from before the policy check to the commit."""
        if self.engine.dialect.name == "sqlite":
            session.execute(text("BEGIN IMMEDIATE"))
        else:
            session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:model, 7751))"), {"model": model})

    @contextmanager
    def change(
        self,
        model: str,
        action: str,
        *,
        version: str | int | None = None,
        correlation_id: str | None = None,
        **detail: Any,
    ) -> Iterator[Change]:
        """One audited transaction on one model.

        A ``Refusal`` raised inside undoes it and is audited in a transaction of its own.
        """
        opened: Change | None = None
        actor = identity.actor()
        correlation_id = correlation_id or identity.correlation_id()
        number = None if version is None else str(version)
        try:
            with self._own_session(read_only=False) as session:
                self._lock(session, model)
                token = self._session.set(session)
                try:
                    opened = Change(session, actor, number, dict(detail), correlation_id)
                    yield opened
                    session.flush()
                    if not opened.silent:
                        told: dict[str, Any] = {
                            "actor": actor.name,
                            "action": action,
                            "model": model,
                            "version": opened.version,
                            "detail": opened.detail,
                            "correlation_id": opened.correlation_id,
                        }
                        # One round trip for the entry's predecessor and both locks, one for the entry and its event.
                        noting = audit.prepared(session, also=(outbox.LOCK,), **told)
                        outbox.write(session, **told, noting=noting, fresh=opened.fresh)
                finally:
                    self._session.reset(token)
        except Refusal as refusal:
            self.note_refusal(
                model,
                action,
                refusal.code,
                version=opened.version if opened else number,
                detail={
                    **(opened.detail if opened else detail),
                    "message": refusal.plain,
                    "missing": list(refusal.missing),
                },
                correlation_id=correlation_id,
            )
            raise

    def note_refusal(
        self,
        model: str,
        action: str,
        code: str,
        *,
        version: str | int | None = None,
        detail: dict[str, Any] | None = None,
        correlation_id: str | None = None,
        actor: str | None = None,
    ) -> None:
        """Audit that something was refused, to the actor of the request unless told."""
        identity.mark_audited()
        self._refusals.add(
            audit.entry(
                actor=actor or identity.actor().name,
                action=action,
                model=model,
                version=version,
                outcome="refused",
                code=code,
                detail=detail,
                correlation_id=correlation_id or identity.correlation_id(),
            )
        )

    def _write_refusals(self, entries: list[dict[str, Any]]) -> list[bool]:
        """Refusals belong to no change, so several are one transaction; which of them were written."""
        with self._own_session(read_only=False) as session:
            own = {entries[0]["model"]}
            self._lock(session, entries[0]["model"])
            if self.engine.dialect.name == "sqlite":
                own |= {one["model"] for one in entries}
            else:
                # Not waited for: whoever waits for a lock while it holds another may wait for ever.
                others = sorted({one["model"] for one in entries} - own)
                tried = text(
                    "SELECT asked.model, pg_try_advisory_xact_lock(hashtextextended(asked.model, 7751)) AS taken "
                    "FROM unnest(CAST(:models AS text[])) AS asked(model)"
                )
                if others:
                    own |= {row.model for row in session.execute(tried, {"models": others}) if row.taken}
            written = [one["model"] in own for one in entries]
            audit.append_all(session, [one for one, now in zip(entries, written, strict=True) if now])
        return written
