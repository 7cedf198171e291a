"""The users the stack itself needs, from 0600 files, before the first request is served."""

from __future__ import annotations

import os
from typing import Any

from windtunnel.home import ENV_HOME, Home
from windtunnel.stackfile import read_secret
from windtunnel_mlflow.access import people
from windtunnel_mlflow.access.identity import SERVICE_USER

_ROLE = "windtunnel-service"
#: What the service may do in MLflow: its programs train, log and register for every model. It is no administrator,
#: so what a worker holds changes no user and no password.
_GRANTS = ("experiment", "registered_model", "prompt")


def prepare_environment() -> None:
    """Hand MLflow's auth app its secrets from ``HOME/secrets``; must run before ``mlflow.server.auth`` is imported.

    Without ``WINDTUNNEL_HOME`` nothing is done and MLflow's own settings apply.
    """
    if not os.environ.get(ENV_HOME):
        return
    home = Home.find()
    if not os.environ.get("MLFLOW_FLASK_SERVER_SECRET_KEY"):
        os.environ["MLFLOW_FLASK_SERVER_SECRET_KEY"] = read_secret(home, "mlflow-flask-key")
    if not os.environ.get("MLFLOW_AUTH_ADMIN_PASSWORD"):
        os.environ["MLFLOW_AUTH_ADMIN_PASSWORD"] = read_secret(home, "mlflow-admin")


def seed(auth_store: Any) -> None:
    """Create or update ``admin`` and ``service`` so that the passwords in the files are the ones that work."""
    if not os.environ.get(ENV_HOME):
        return
    home = Home.find()
    _ensure(auth_store, "admin", read_secret(home, "mlflow-admin"), is_admin=True)
    _ensure(auth_store, SERVICE_USER, read_secret(home, "mlflow-service"), is_admin=False)
    _grant(auth_store)
    people.seed(auth_store)


def _ensure(auth_store: Any, name: str, password: str, *, is_admin: bool) -> None:
    if not auth_store.has_user(name):
        auth_store.create_user(name, password, is_admin=is_admin)
    elif not auth_store.authenticate_user(name, password):
        auth_store.update_user(name, password=password)


def _grant(auth_store: Any) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME

    try:
        role = auth_store.get_role_by_name(DEFAULT_WORKSPACE_NAME, _ROLE)
    except MlflowException:
        role = auth_store.create_role(_ROLE, DEFAULT_WORKSPACE_NAME, "The stack's own programs")
    held = {(grant.resource_type, grant.resource_pattern) for grant in auth_store.list_role_permissions(role.id)}
    for resource in _GRANTS:
        if (resource, "*") not in held:
            auth_store.add_role_permission(role.id, resource, "*", "MANAGE")
    user = auth_store.get_user(SERVICE_USER)
    if role.id not in {mine.id for mine in auth_store.list_user_roles(user.id)}:
        auth_store.assign_role_to_user(user.id, role.id)
