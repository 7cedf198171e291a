"""Who is asking: the name behind the verified credential of the request, and whether it may speak for the stack."""

from __future__ import annotations

import getpass
from contextvars import ContextVar
from dataclasses import dataclass

from flask import g, has_request_context, request

#: The MLflow user the stack's own programs (Airflow's tasks, the guard) log in as.
SERVICE_USER = "service"

#: Set by the ASGI middleware for routes that never enter Flask (artifact streaming).
asgi_user: ContextVar[str | None] = ContextVar("windtunnel_asgi_user", default=None)
asgi_correlation: ContextVar[str | None] = ContextVar("windtunnel_asgi_correlation", default=None)

#: What is known of the request that is being answered, shared by all its threads: ``audited``, ``user``.
request_notes: ContextVar[dict[str, object] | None] = ContextVar("windtunnel_request_notes", default=None)

#: Set while the server itself acts, not a client: sealing.
server_side: ContextVar[bool] = ContextVar("windtunnel_server_side", default=False)
SERVER = "windtunnel"

CORRELATION_HEADER = "X-Correlation-ID"


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody, as far as a credential proves it.

    Attributes:
        name: MLflow user; ``os:NAME`` where the store is opened directly, without a server.
        trusted: the service or an administrator.
    """

    name: str
    trusted: bool = False


@dataclass(frozen=True, slots=True)
class Known:
    """What MLflow's auth has of a user.

    Attributes:
        name: the user.
        admin: an administrator of MLflow's.
        roles: ours; the default one where none was given.
    """

    name: str
    admin: bool
    roles: frozenset[str]


def remember(known: Known) -> None:
    """Ask no more about this user while the present request is answered."""
    if has_request_context():
        g.windtunnel_known = known


def remembered(name: str) -> Known | None:
    """What ``remember`` was told in this request."""
    found = getattr(g, "windtunnel_known", None) if has_request_context() else None
    return found if isinstance(found, Known) and found.name == name else None


def actor() -> Actor:
    """The actor of the current request."""
    if server_side.get():
        return Actor(SERVER, trusted=True)
    name = getattr(g, "mlflow_authenticated_user", None) if has_request_context() else None
    name = name or asgi_user.get()
    if name is None:
        return Actor(f"os:{getpass.getuser()}")
    return Actor(name, name == SERVICE_USER or _is_admin(name))


def _is_admin(name: str) -> bool:
    found = remembered(name)
    if found is not None:
        return found.admin
    from mlflow.server.auth import store as auth_store

    return bool(auth_store.has_user(name) and auth_store.get_user(name).is_admin)


def correlation_id() -> str | None:
    """The correlation id the request carries in its header, if any."""
    found = request.headers.get(CORRELATION_HEADER) if has_request_context() else asgi_correlation.get()
    return found[:64] if found else None


def mark_audited() -> None:
    """Remember that this request's refusal is in the audit, so that it is not written twice."""
    if has_request_context():
        g.windtunnel_audited = True
    _note("audited", True)


def audited() -> bool:
    """Whether ``mark_audited`` was called in this request."""
    if has_request_context() and getattr(g, "windtunnel_audited", False):
        return True
    return bool((request_notes.get() or {}).get("audited"))


def mark_user(name: str | None) -> None:
    """Tell the outermost door whose credential was verified further inside."""
    if name:
        _note("user", name)


def _note(key: str, value: object) -> None:
    notes = request_notes.get()
    if notes is not None:
        notes[key] = value
