"""What the server's process needs, made of mounted secrets and the environment; the home is a volume, or temporary.

A mounted secret's files belong to root and may be read by the pod's group. The server wants its own, 0600, as in a
home: they are copied, and what the kubelet's ownership rules opened in the home is closed again.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from urllib.parse import urlsplit

from windtunnel import files
from windtunnel.errors import StackError
from windtunnel.home import ENV_HOME, ENV_TEMPORARY, Home
from windtunnel.registry import launch
from windtunnel.safety import keysecret
from windtunnel.safety.keys import KeyRing

#: Folder of the mounted secrets, one file each; beside ``launch.SECRETS`` the database's URL.
ENV_SECRETS, FOLDER = "WINDTUNNEL_SECRETS", "/etc/windtunnel/secrets"
DATABASE_URL = "database-url"
#: Its replica's, which may be absent: MLflow's own gets and searches go there. See ``replicas``.
REPLICA_URL, ENV_REPLICA = "database-replica-url", "MLFLOW_READ_REPLICA_BACKEND_STORE_URI"
#: Folder of a mounted secret with the keys that sign; unset: they are made in the home, which is a volume then.
ENV_KEYS = "WINDTUNNEL_KEYS_SECRET"
#: Where artifacts are: an object store, or a folder. Read by MLflow.
ENV_ARTIFACTS = "MLFLOW_ARTIFACTS_DESTINATION"


def folder() -> Path:
    """Where the secrets are mounted."""
    return Path(os.environ.get(ENV_SECRETS) or FOLDER)


def secret(name: str) -> str:
    """One mounted secret, without its newline.

    Raises:
        StackError: it is not there, or empty.
    """
    path = folder() / name
    try:
        found = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise StackError(
            f"the secret {name!r} cannot be read: {error.strerror or error}",
            hint=f"mount a secret with the key {name!r} at {path.parent}",
        ) from error
    if not found:
        raise StackError(f"the secret {name!r} is empty", hint=f"give the key {name!r} a value")
    return found


def database_url(key: str = DATABASE_URL) -> str:
    """SQLAlchemy URL of the registry's PostgreSQL database.

    Args:
        key: name of the secret; that of the replica is another.

    Raises:
        StackError: the secret is missing or names something else. The message never repeats the URL.
    """
    found = secret(key)
    try:
        parts = urlsplit(found)
        host, name = parts.hostname, parts.path.strip("/")
    except ValueError:
        host, name, parts = None, "", urlsplit("")
    if parts.scheme.split("+")[0] not in ("postgresql", "postgres") or not host or not name:
        raise StackError(
            f"the secret {key!r} names no PostgreSQL database",
            hint="expected postgresql://USER:PASSWORD@HOST:PORT/NAME; a password's special characters as %XX",
        )
    # Under SQLAlchemy 2.1 a bare postgresql:// means another driver than the one that is installed.
    return parts._replace(scheme="postgresql+psycopg2").geturl()


def prepare(home: Home, port: int) -> None:
    """Write the files the server reads, and set the environment it is started with.

    Raises:
        StackError: a secret is missing, or what has to stay has no place that does.
    """
    plan = launch.prepare(home, port, database_url=database_url())
    if (folder() / REPLICA_URL).exists():
        os.environ[ENV_REPLICA] = database_url(REPLICA_URL)
    given = {name: secret(name) for name in launch.SECRETS}
    for path in (home.secrets, *plan.folders):
        path.mkdir(parents=True, exist_ok=True)
    close(home.secrets)
    for name, value in given.items():
        files.write_bytes(home.secrets / name, (value + "\n").encode())
    keys = os.environ.get(ENV_KEYS)
    if keys:
        keysecret.install(Path(keys), KeyRing.of(home), home.secrets / keysecret.AUDIT)
    elif os.environ.get(ENV_TEMPORARY) and port:
        raise StackError(
            "the keys that sign versions would be gone with this server's temporary home",
            hint=f"mount a secret with them and name its folder in {ENV_KEYS}: windtunnel registry keys secret --help",
        )
    for file in plan.files:
        files.write_bytes(file.path, file.content.encode(), mode=file.mode)
    # What the pod's author set stands: the place of artifacts above all.
    os.environ |= {name: value for name, value in plan.env.items() if name == ENV_HOME or not os.environ.get(name)}


def close(secrets: Path) -> None:
    """Nobody else may read what is in the folder. With ``fsGroup`` the kubelet opens a volume's files to the group."""
    try:
        secrets.chmod(0o700)
        for path in secrets.iterdir():
            if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077:
                path.chmod(0o600)
    except PermissionError as error:
        raise StackError(
            f"{secrets} belongs to another user: {error}", hint="give the volume to the user this pod runs as"
        ) from error
