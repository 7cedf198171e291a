"""Generated passwords and keys: one 0600 file each in a 0700 folder. Made once, then kept."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Callable

from windtunnel.home import Home
from windtunnel.stack import files
from windtunnel.stackfile import read_secret


def _password() -> str:
    return secrets.token_urlsafe(18)


def _fernet_key() -> str:
    """32 random bytes as Fernet wants them."""
    return base64.urlsafe_b64encode(os.urandom(32)).decode()


def _hex_key() -> str:
    return secrets.token_hex(32)


MAKERS: dict[str, Callable[[], str]] = {
    "airflow-admin": _password,
    "airflow-fernet": _fernet_key,
    "airflow-jwt": _hex_key,
    "airflow-api-key": _hex_key,
    "mlflow-admin": _password,
    "mlflow-service": _password,
    "mlflow-flask-key": _hex_key,
}


def ensure(home: Home) -> set[str]:
    """Make the secrets that are missing; returns the names of the new ones.

    Raises:
        StackError: one cannot be written, or can be read by others.
    """
    files.folder(home.secrets)
    made = set()
    for name, make in MAKERS.items():
        if not (home.secrets / name).exists():
            files.write(home.secrets / name, make() + "\n")
            made.add(name)
        read_secret(home, name)
    return made
