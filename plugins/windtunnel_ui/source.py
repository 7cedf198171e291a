"""Where the pages get their facts: the governed registry, found as every other part finds it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from windtunnel.errors import WindtunnelError
from windtunnel.home import ENV_HOME, Home

if TYPE_CHECKING:
    from collections.abc import Iterable

    from windtunnel.registry.client import RegistryClient
    from windtunnel.registry.records import RolloutRecord

CONNECTION_ID = "windtunnel_default"


def registry() -> RegistryClient:
    """The embedded stack's registry when this server belongs to one, else Airflow's connection ``windtunnel_default``.

    Raises:
        windtunnel.errors.StackError: the home this server belongs to has no stack.
        airflow.exceptions.AirflowNotFoundException: there is no such connection.
    """
    if os.environ.get(ENV_HOME):
        from windtunnel.registry.connect import from_home

        return from_home(Home.find())
    from airflow.models.connection import Connection

    from windtunnel.registry.client import RegistryClient

    connection = Connection.get_connection_from_secrets(CONNECTION_ID)
    scheme = connection.schema or "http"
    return RegistryClient(
        f"{scheme}://{connection.host}:{connection.port}", connection.login or "", connection.password or ""
    )


def said(home: Home, running: Iterable[RolloutRecord]) -> dict[str, str]:
    """By rollout, the sentence of its last look; a look log that is elsewhere or cannot be read says nothing."""
    from windtunnel.serving.looklog import LookLog

    found: dict[str, str] = {}
    for rollout in running:
        try:
            looks = LookLog(home, rollout.model).tail(rollout.id)
            if looks:
                found[rollout.id] = str(looks[-1]["decision"]["reason"])
        except (OSError, KeyError, TypeError, WindtunnelError):
            continue
    return found


def waits(client: RegistryClient, running: Iterable[RolloutRecord]) -> dict[str, list[str]]:
    """By rollout, what its release waits for before it gets any traffic."""
    from windtunnel.serving import overview

    return {rollout.id: found for rollout in running if (found := overview.waits(client, rollout))}
