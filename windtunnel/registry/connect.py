"""The registry client of the stack in a home folder, or of a process that has none: a pod."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from windtunnel.errors import StackError
from windtunnel.home import Home
from windtunnel.registry.client import RegistryClient
from windtunnel.stackfile import StackFile, read_secret

_SECRET = {"service": "mlflow-service", "admin": "mlflow-admin"}


def from_home(home: Home, role: str = "service") -> RegistryClient:
    """Connect as ``service`` (the stack's programs) or ``admin`` (a person at the machine).

    Raises:
        StackError: no stack in this home, or its secret is missing or readable by others.
    """
    if role not in _SECRET:
        raise StackError(f"there is no role {role!r}", hint=f"expected one of {', '.join(_SECRET)}")
    return RegistryClient(StackFile.read(home).urls["mlflow"], role, read_secret(home, _SECRET[role]))


ENV_URL, ENV_USER, ENV_PASSWORD = "WINDTUNNEL_REGISTRY_URL", "WINDTUNNEL_USERNAME", "WINDTUNNEL_PASSWORD"


@dataclass(frozen=True, slots=True)
class Server:
    """Where the MLflow server is, and as whom it is asked.

    Attributes:
        remote: it is not the stack's own on loopback: proxies and certificates are those of the environment.
    """

    url: str
    user: str
    password: str = field(repr=False)
    remote: bool

    def client(self) -> RegistryClient:
        return RegistryClient(self.url, self.user, self.password)


def nearest(home: Home) -> Server:
    """The server of the stack in ``home``; where there is no stack, the one that ``WINDTUNNEL_REGISTRY_URL`` names, as
    ``WINDTUNNEL_USERNAME`` with ``WINDTUNNEL_PASSWORD``.

    Raises:
        StackError: neither.
    """
    url, user, password = (os.environ.get(name) for name in (ENV_URL, ENV_USER, ENV_PASSWORD))
    if url and user and password and not home.stack_file.is_file():
        return Server(url, user, password, remote=True)
    return Server(StackFile.read(home).urls["mlflow"], "service", read_secret(home, _SECRET["service"]), remote=False)
