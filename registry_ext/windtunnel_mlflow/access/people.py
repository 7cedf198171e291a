"""Our roles as roles of MLflow's own auth: who holds which, seeded at start, given by an administrator."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, cast

from mlflow.exceptions import MlflowException
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME
from sqlalchemy import and_, select

from windtunnel.errors import StackError
from windtunnel.registry.launch import DEFAULT_ROLES, ENV_DEFAULT_ROLE
from windtunnel_mlflow.access import identity, matrix
from windtunnel_mlflow.refusal import Refusal


def default() -> matrix.Role:
    """The role of a user who was given none: ``WINDTUNNEL_DEFAULT_ROLE``, else ``matrix.DEFAULT``.

    Raises:
        StackError: it is none that everybody may have.
    """
    told = os.environ.get(ENV_DEFAULT_ROLE) or matrix.DEFAULT
    if told not in DEFAULT_ROLES:
        raise StackError(
            f"{ENV_DEFAULT_ROLE} is {told!r}",
            hint=f"expected one that everybody may have: {' or '.join(DEFAULT_ROLES)}",
        )
    return cast("matrix.Role", told)


def roles_of(actor: identity.Actor) -> frozenset[str]:
    """The roles of an actor; one that has none of ours has the default one.

    Only the stack's own user is ``service``, whatever roles somebody was given in MLflow.
    """
    if actor.name == identity.SERVICE_USER or (actor.name == identity.SERVER and actor.trusted):
        return frozenset({"service"})
    found = identity.remembered(actor.name) or known(actor.name)
    held = frozenset() if found is None else found.roles
    return held | ({"admin"} if actor.trusted else frozenset()) or frozenset({default()})


def held_by(name: str) -> frozenset[str] | None:
    """The roles of a user, ``admin`` for MLflow's administrators; None for somebody whom MLflow does not know."""
    found = known(name)
    return None if found is None else found.roles


def known(name: str) -> identity.Known | None:
    """What MLflow's auth has of a user now; None for somebody whom it does not know."""
    store = _store()
    if store is None:
        return None
    from mlflow.server.auth.db.models import SqlRole, SqlUser, SqlUserRoleAssignment

    # One question: this is asked in most writes, within their transaction. MLflow's methods would ask five.
    in_ours = and_(SqlRole.id == SqlUserRoleAssignment.role_id, SqlRole.workspace == DEFAULT_WORKSPACE_NAME)
    asked = (
        select(SqlUser.is_admin, SqlRole.name)
        .outerjoin(SqlUserRoleAssignment, SqlUserRoleAssignment.user_id == SqlUser.id)
        .outerjoin(SqlRole, in_ours)
        .where(SqlUser.username == name)
    )
    with store.ManagedSessionMaker() as session:
        found = session.execute(asked).all()
    if not found:
        return None
    admin = bool(found[0][0])
    roles = frozenset({"service"}) if name == identity.SERVICE_USER else _held({role for _, role in found}, admin)
    return identity.Known(name, admin, roles)


def given(name: str) -> frozenset[str]:
    """Those of our roles that a user was given in MLflow, without what follows from anything else."""
    store = _need()
    return frozenset(_named(store, store.get_user(name)))


def seed(store: Any) -> None:
    """Make our roles in MLflow where they are missing; ``service`` is the stack's own user's."""
    for role in matrix.ROLES:
        _role(store, role)
    if store.has_user(identity.SERVICE_USER):
        _give(store, store.get_user(identity.SERVICE_USER).id, "service")


def everybody() -> list[dict[str, Any]]:
    """Users with their roles, by name."""
    store = _need()
    users = sorted(store.list_users(), key=lambda user: str(user.username))
    return [_person(store, user) for user in users]


def add(name: str, password: str) -> dict[str, Any]:
    """A new user of MLflow."""
    store = _need()
    if store.has_user(name):
        raise Refusal("WT_PERSON", f"there is a user {name!r} already", status=409)
    return _person(store, store.create_user(name, password))


def grant(name: str, wanted: Iterable[str]) -> dict[str, Any]:
    """Give a user exactly these of our roles; what MLflow itself lets the user do stays."""
    store, chosen = _need(), set(wanted)
    if unknown := sorted(chosen - set(matrix.ROLES)):
        raise Refusal(
            "WT_REQUEST", f"there is no role {unknown[0]!r}; expected some of {', '.join(matrix.ROLES)}", status=400
        )
    if not store.has_user(name):
        raise Refusal("WT_PERSON", f"there is no user {name!r}", hint="add the user first", status=409)
    if (name == identity.SERVICE_USER) != (chosen == {"service"}) and (
        name == identity.SERVICE_USER or "service" in chosen
    ):
        raise Refusal("WT_PERSON", "the role service is the stack's own user's, and its only one", status=409)
    user = store.get_user(name)
    for role in sorted(_named(store, user) - chosen):
        store.unassign_role_from_user(user.id, _role(store, role))
    for role in sorted(chosen):
        _give(store, user.id, role)
    return _person(store, user)


def _store() -> Any:
    """MLflow's auth; None in a process that serves no registry."""
    try:
        from mlflow.server.auth import store
    except Exception:  # its configuration is the server's
        return None
    return store if getattr(store, "ManagedSessionMaker", None) is not None else None


def _need() -> Any:
    store = _store()
    if store is None:
        raise Refusal("WT_SERVER", "people are known to the MLflow server alone", status=409)
    return store


def _named(store: Any, user: Any) -> set[str]:
    return {role.name for role in store.list_user_roles_for_workspace(user.id, DEFAULT_WORKSPACE_NAME)} & set(
        matrix.ROLES
    )


def _held(named: set[str], admin: bool) -> frozenset[str]:
    held = (named & set(matrix.ROLES)) - {"service"}
    return frozenset(held | ({"admin"} if admin else set()) or {default()})


def _person(store: Any, user: Any) -> dict[str, Any]:
    held = {"service"} if user.username == identity.SERVICE_USER else _held(_named(store, user), user.is_admin)
    return {"name": str(user.username), "roles": [role for role in matrix.ROLES if role in held]}


def _role(store: Any, role: str) -> int:
    try:
        found = store.get_role_by_name(DEFAULT_WORKSPACE_NAME, role)
    except MlflowException:
        found = store.create_role(role, DEFAULT_WORKSPACE_NAME, matrix.MEANING[role])
    return int(found.id)


def _give(store: Any, user_id: int, role: str) -> None:
    number = _role(store, role)
    if number not in {mine.id for mine in store.list_user_roles(user_id)}:
        store.assign_role_to_user(user_id, number)
