"""Whose word a command brings to the registry."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from windtunnel.home import Home
    from windtunnel.registry.client import RegistryClient

ENV_URL, ENV_USER, ENV_PASSWORD = "WINDTUNNEL_REGISTRY_URL", "WINDTUNNEL_USERNAME", "WINDTUNNEL_PASSWORD"
#: A token of the identity provider, instead of both.
ENV_TOKEN = "WINDTUNNEL_TOKEN"


def own_credential() -> bool:
    """Whether the person has told a user of its own."""
    return bool(os.environ.get(ENV_USER) or os.environ.get(ENV_TOKEN))


def connect(home: Home) -> RegistryClient:
    """The registry, as the person.

    ``WINDTUNNEL_TOKEN``, or ``WINDTUNNEL_USERNAME`` with ``WINDTUNNEL_PASSWORD`` (asked for on a terminal), at
    ``WINDTUNNEL_REGISTRY_URL`` or the stack of ``home``. Without them: as administrator of the stack in ``home``, for
    whoever may read its secrets.

    Raises:
        StackError: no user, and no stack whose secrets can be read.
    """
    from windtunnel.errors import StackError
    from windtunnel.registry.client import RegistryClient
    from windtunnel.registry.connect import from_home
    from windtunnel.stackfile import StackFile

    if not own_credential():
        try:
            return from_home(home, "admin")
        except StackError as error:
            raise StackError(
                f"nobody to order as: {error.message}", hint=f"set {ENV_USER} and {ENV_PASSWORD} to a user of your own"
            ) from error
    url = os.environ.get(ENV_URL) or StackFile.read(home).urls["mlflow"]
    if os.environ.get(ENV_TOKEN):
        return RegistryClient(url, token=os.environ[ENV_TOKEN])
    password = os.environ.get(ENV_PASSWORD)
    if password is None and sys.stdin.isatty():
        import typer

        password = typer.prompt(f"password of {os.environ[ENV_USER]}", hide_input=True, err=True)
    if password is None:
        raise StackError(f"{ENV_USER} is set, {ENV_PASSWORD} is not", hint=f"set {ENV_PASSWORD} as well")
    return RegistryClient(url, os.environ[ENV_USER], password)


def connect_or_why(home: Home) -> tuple[RegistryClient | None, str | None]:
    """The registry as the person, or why there is none to ask."""
    from windtunnel.errors import WindtunnelError

    try:
        return connect(home), None
    except WindtunnelError as error:
        return None, error.message
