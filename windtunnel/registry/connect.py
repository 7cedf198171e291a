"""The registry client of the stack in a home folder."""

from __future__ import annotations

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
