"""Where the pages get their facts: the governed registry, found as every other part finds it, and what lies beside the
traffic: in the home, or in the cluster."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from windtunnel.errors import WindtunnelError
from windtunnel.home import ENV_HOME, Home
from windtunnel_ui.cluster import CLUSTER, REGISTRY_CONNECTION, Cluster

if TYPE_CHECKING:
    from windtunnel.registry.client import RegistryClient
    from windtunnel.registry.records import RolloutRecord


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

    connection = Connection.get_connection_from_secrets(REGISTRY_CONNECTION)
    scheme = connection.schema or "http"
    return RegistryClient(
        f"{scheme}://{connection.host}:{connection.port}", connection.login or "", connection.password or ""
    )


@dataclass(frozen=True, slots=True)
class Looks:
    """Last looks of running rollouts.

    Attributes:
        said: by rollout, the sentence of its last decision.
        unsaid: by rollout, why that is not known.
    """

    said: Mapping[str, str] = field(default_factory=dict)
    unsaid: Mapping[str, str] = field(default_factory=dict)


def looks(home: Home, running: Sequence[RolloutRecord], cluster: Cluster = CLUSTER) -> Looks:
    """The last looks, of the home and, for what is not served there, of the cluster; a look log that is elsewhere or
    cannot be read says nothing."""
    said = _at_home(home, running)
    elsewhere = [
        rollout
        for rollout in running
        # What has no traffic yet was never looked at.
        if rollout.id not in said and rollout.weight is not None and not _served(home, rollout.model)
    ]
    told = cluster.told() if elsewhere else None
    if told is None:
        return Looks(said)
    said |= {rollout.id: told.said[rollout.id] for rollout in elsewhere if rollout.id in told.said}
    if told.problem is None:
        return Looks(said)
    why = f"its last look is not known: {told.problem}"
    return Looks(said, {rollout.id: why for rollout in elsewhere if rollout.id not in said})


def _served(home: Home, model: str) -> bool:
    return (home.serving_model(model) / "desired.json").is_file()


def _at_home(home: Home, running: Iterable[RolloutRecord]) -> dict[str, str]:
    from windtunnel.serving.release.looklog import LookLog

    found: dict[str, str] = {}
    for rollout in running:
        try:
            kept = LookLog(home, rollout.model).tail(rollout.id)
            if kept:
                found[rollout.id] = str(kept[-1]["decision"]["reason"])
        except (OSError, KeyError, TypeError, WindtunnelError):
            continue
    return found


def waits(client: RegistryClient, running: Iterable[RolloutRecord]) -> dict[str, list[str]]:
    """By rollout, what its release waits for before it gets any traffic."""
    from windtunnel.serving.release import overview

    return {rollout.id: found for rollout in running if (found := overview.waits(client, rollout))}
