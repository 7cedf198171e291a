"""How the MLflow server with the governed store is started: command, environment and files, as plain values.

Pure: it opens no file and starts no process. The stack writes ``Launch.files``, then runs
``Launch.argv`` with ``Launch.env`` on top of its own environment. No secret stands on the command line. The server
reads its secrets itself from ``HOME/secrets`` (``SECRETS`` must exist before it starts).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from windtunnel.home import ENV_HOME, Home
from windtunnel.registry.signin import ENV_OIDC, SignIn

#: Secrets the server reads from ``HOME/secrets`` at start; the stack creates them.
SECRETS = ("mlflow-admin", "mlflow-service", "mlflow-flask-key")

#: For the server: a second place for the audit's checkpoints (a folder or an fsspec URL), and seconds between two.
ENV_AUDIT_PLACE, ENV_AUDIT_EVERY = "WINDTUNNEL_AUDIT_PUBLISH", "WINDTUNNEL_AUDIT_EVERY_S"

#: For the server: the role of a user who was given none, and which it may be: no role that decides over others' work.
ENV_DEFAULT_ROLE = "WINDTUNNEL_DEFAULT_ROLE"
DEFAULT_ROLES = ("viewer", "data_scientist")

#: Prefix of a registry store URI that asks MLflow for the governed store.
SCHEME = "windtunnel+"

#: Seconds a verified password is remembered by one server process. Checking it anew costs about 0.4 s.
AUTH_CACHE_SECONDS = 300

# What MLflow's auth app calls to know who is asking.
_PASSWORD_DOOR = "mlflow.server.auth:authenticate_request_basic_auth"
_OIDC_DOOR = "windtunnel_mlflow.access.signin:authenticate"


@dataclass(frozen=True, slots=True)
class LaunchFile:
    """A file the server needs before it starts."""

    path: Path
    content: str
    mode: int = 0o600


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything needed to start the server.

    Attributes:
        argv: the command; holds no secret.
        env: to be added to the environment. Holds the database's password where PostgreSQL is used, so whatever
            stores it (a supervisor's configuration) must be 0600.
        files: to be written before the start.
        folders: to be made before the start, mode 0700.
        health: path that answers 200 without credentials once the server is ready.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    files: tuple[LaunchFile, ...]
    folders: tuple[Path, ...]
    health: str = "/health"


def auth_ini(home: Home, database_url: str | None = None, *, oidc: bool = False) -> str:
    """Configuration of MLflow's own auth app; holds no password of a user."""
    uri = database_url or f"sqlite:///{home.mlflow / 'auth.db'}"
    return (
        "[mlflow]\n"
        "default_permission = READ\n"
        f"database_uri = {uri.replace('%', '%%')}\n"
        "admin_username = admin\n"
        f"authorization_function = {_OIDC_DOOR if oidc else _PASSWORD_DOOR}\n"
        f"auth_cache_ttl_seconds = {AUTH_CACHE_SECONDS}\n"
    )


def server_environment(home: Home, database_url: str | None = None) -> dict[str, str]:
    """Environment of the MLflow server.

    Args:
        home: the stack's home.
        database_url: ``postgresql+psycopg2://...``; SQLite below the home when None.
    """
    uri = database_url or f"sqlite:///{home.mlflow / 'mlflow.db'}"
    return {
        ENV_HOME: str(home.root),
        # URIs may hold a password, so they travel here and not in argv.
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_REGISTRY_STORE_URI": SCHEME + uri,
        "MLFLOW_ARTIFACTS_DESTINATION": str(home.mlflow / "artifacts"),
        "MLFLOW_AUTH_CONFIG_PATH": str(home.mlflow / "auth.ini"),
        # A route without a decision of its own is refused, not open.
        "MLFLOW_BASIC_AUTH_FAIL_CLOSED": "true",
        # Otherwise eight processes of about 240 MB each, for features Windtunnel does not use.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }


def server_command(port: int, *, python: str | None = None) -> list[str]:
    """The command that runs the MLflow server on loopback, in one process.

    The same app runs under ``mlflow server --app-name windtunnel``, which keeps a second process of 260 MB that a
    supervised server does not need. Everything else it needs is in ``server_environment``.
    """
    return [python or sys.executable, "-m", "windtunnel_mlflow.serve", "--host", "127.0.0.1", "--port", str(port)]


def prepare(
    home: Home,
    port: int,
    *,
    database_url: str | None = None,
    python: str | None = None,
    oidc: SignIn | None = None,
    default_role: str | None = None,
) -> Launch:
    """Everything needed to start the MLflow server of ``home`` on ``port``.

    Args:
        home: the stack's home; ``SECRETS`` must exist in it when the server starts.
        port: TCP port on loopback.
        database_url: SQLAlchemy URL of a PostgreSQL database (``postgresql+psycopg2://...``); SQLite when None.
        python: interpreter of the main environment; this one when None.
        oidc: the identity provider whose tokens are taken; None: MLflow's own users and passwords alone.
        default_role: of ``DEFAULT_ROLES``, of a user who was given none; the server's own choice when None.
    """
    env = server_environment(home, database_url)
    if oidc is not None:
        env[ENV_OIDC] = oidc.model_dump_json()
    if default_role is not None:
        env[ENV_DEFAULT_ROLE] = default_role
    return Launch(
        argv=tuple(server_command(port, python=python)),
        env=env,
        files=(LaunchFile(home.mlflow / "auth.ini", auth_ini(home, database_url, oidc=oidc is not None)),),
        folders=(home.mlflow, home.mlflow / "artifacts"),
    )
