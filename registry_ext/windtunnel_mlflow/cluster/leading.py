"""The registry's server as one of several: it stands by, and serves when it is its turn. See ``election``."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from windtunnel.errors import WindtunnelError
from windtunnel_mlflow.cluster.doors import App, Doors, Forward
from windtunnel_mlflow.cluster.election import Session, Term, end_at_once
from windtunnel_mlflow.cluster.rules import Candidate, Times

#: Where the other servers reach this one (in a pod its IP), and what the certificates of all are made out to.
ENV_ADDRESS, ENV_NAME = "WINDTUNNEL_ADDRESS", "WINDTUNNEL_SERVER_NAME"
#: MLflow's: the values of the header Host that are answered.
ENV_HOSTS = "MLFLOW_SERVER_ALLOWED_HOSTS"
#: Seconds that the last checkpoint may take when the server ends.
_LAST_WORDS = 10.0


@dataclass(frozen=True, slots=True)
class Made:
    """What a turn made.

    Attributes:
        app: answers.
        quiet: whether nothing is being written any more.
        close: the last thing to do before the next one serves.
    """

    app: App
    quiet: Callable[[], bool]
    close: Callable[[], None]


def registry() -> Made:
    """The registry's own app: MLflow's with the governed store."""
    from windtunnel_mlflow.app import create_app

    served = create_app()
    parts = served.windtunnel
    return Made(served, lambda: parts.store.writes.quiet, parts.publisher.publish if parts.publisher else lambda: None)


def warm() -> None:
    """Import what a turn needs, so that it begins sooner. Makes nothing and asks nobody."""
    from windtunnel_mlflow.access import users

    users.prepare_environment()
    import mlflow.server.auth
    import mlflow.server.fastapi_app  # noqa: F401

    from windtunnel_mlflow import app, service, store  # noqa: F401


def serve(
    database: str,
    host: str,
    port: int,
    tls: Path | None = None,
    *,
    address: str | None = None,
    times: Times | None = None,
    limit: float = 300.0,
    make: Callable[[], Made] = registry,
    before: Callable[[], object] = lambda: None,
    prepare: Callable[[], None] = warm,
) -> None:
    """Answer until a signal ends the process; passes requests on until it is this server's turn.

    Args:
        database: SQLAlchemy URL; its lock says whose turn it is.
        address: HOST or HOST:PORT where the others reach this server; ``WINDTUNNEL_ADDRESS`` unless told.
        limit: seconds that ``make`` and ``before`` may take together, before the next one is let.
        make: makes the app, in this server's turn; ``before`` runs ahead of it.
        prepare: whatever may be done while standing by.
    """
    from windtunnel_mlflow import serve as server

    times = times or Times()
    mine = Candidate(_address(address or os.environ.get(ENV_ADDRESS) or "127.0.0.1", port), times=times)
    # The sessions that this process serves with have a name of their own: the next leader ends them by it.
    os.environ["PGAPPNAME"] = mine.serving
    made: list[Made] = []

    def turn() -> None:
        late = threading.Timer(limit, end_at_once, [f"it was not ready within {limit:g} s of its turn"])
        late.daemon = True
        late.start()
        try:
            warming.join()
            before()
            ours = make()
        except BaseException as error:
            _give_up("its turn came, and it could not serve", error)
            return
        late.cancel()
        made.append(ours)
        doors.app = ours.app
        print(f"serving at {mine.address}", flush=True)

    _known_by(mine.address)
    term = Term(Session(database, mine), times, turn)
    doors = Doors(term, Forward(tls, os.environ.get(ENV_NAME), own=mine.address))
    _watch_database(term.check)

    def stand() -> None:
        try:
            term.run()
        except BaseException as error:
            _give_up("it cannot stand for its turn", error)

    def told(*_: Any) -> None:
        # Before the web server listens, for its own handler comes later: there is nothing to end in order yet. After
        # it has stopped, for it raises the signal again: what follows has to be done first.
        if not doors.listening:
            os._exit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, told)
    warming = threading.Thread(target=prepare, name="windtunnel-warming", daemon=True)
    warming.start()
    standing = threading.Thread(target=stand, name="windtunnel-election", daemon=True)
    standing.start()
    server.listen(doors, host, port, tls)
    _end(term, doors, made, standing)


def _end(term: Term, doors: Doors, made: list[Made], standing: threading.Thread) -> None:
    """In order: nothing under way, the last checkpoint, the word that it ended, and no thread that goes on after it."""
    clean = not term.serving
    if made:
        last = threading.Thread(target=made[0].close, daemon=True)
        last.start()
        last.join(_LAST_WORDS)
        clean = not last.is_alive() and not doors.cut and made[0].quiet()
    term.leave(clean)
    standing.join(_LAST_WORDS)
    sys.stdout.flush()
    sys.stderr.flush()
    # A seal that is under way begins again in the next server; waiting for it here would hold that one up.
    os._exit(0)


def _give_up(what: str, error: BaseException) -> None:
    if isinstance(error, WindtunnelError):
        end_at_once(f"{what}: {error.message}" + (f"\n  -> {error.hint}" if error.hint else ""))
    sys.excepthook(type(error), error, error.__traceback__)
    end_at_once(f"{what}: {type(error).__name__}: {error}")


def _known_by(address: str) -> None:
    """Prometheus asks each server by its own address: that, too, is a Host that MLflow answers. Before MLflow is
    imported; where no hosts are named its own rule holds."""
    if hosts := os.environ.get(ENV_HOSTS):
        os.environ[ENV_HOSTS] = f"{hosts},{address}"


def _address(told: str, port: int) -> str:
    host, colon, number = told.rpartition(":")
    if colon and number.isdigit() and (":" not in host or host.startswith("[")):
        return told
    return f"[{told}]:{port}" if ":" in told else f"{told}:{port}"


def _watch_database(check: Callable[[], None]) -> None:
    """No connection is used, and nothing is committed, by a server whose turn may be over."""
    from sqlalchemy import Engine, Pool, event

    def checked(*_: Any) -> None:
        check()

    event.listen(Pool, "checkout", checked)
    event.listen(Engine, "commit", checked)
