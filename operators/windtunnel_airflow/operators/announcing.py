"""What is told of a release through Airflow's assets, and the question every such word hangs on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import Asset, AssetAlias

from windtunnel.events import Event
from windtunnel.names import asset_uri
from windtunnel_airflow.rollouts import claim_story, led_by, versions_of


def is_champion(registry: Any, claim: Any) -> bool:
    """The registry has the claim's version as champion."""
    current = registry.champion(claim["model"])
    return current is not None and str(current.version) == claim["version"]


def champion_among(registry: Any, claim: Any) -> dict[str, Any] | None:
    """The claim with that of its candidates in the first place which the registry has as champion; None: none is."""
    current = registry.champion(claim["model"])
    version = None if current is None else str(current.version)
    return led_by(claim, version) if version in versions_of(claim) else None


def champion_event(claim: Any) -> Event:
    """What is announced when the claim's version has become champion."""
    story = claim_story(claim)
    return Event(claim["model"], story.correlation_id, story.cause, claim["version"], claim["digest"])


def announce(operator: Any, context: Any, kind: str, event: Event) -> None:
    """Put the event's payload on the outlet of ``kind``, when the task has it; nothing happens otherwise."""
    for outlet in getattr(operator, "outlets", None) or []:
        if getattr(outlet, "uri", None) == asset_uri(event.model, kind):
            context["outlet_events"][outlet].extra.update(event.extra())


def announce_by_alias(operator: Any, context: Any, model: str, kind: str, extra: Mapping[str, Any]) -> None:
    """An event of ``kind`` from each outlet that is an alias.

    A plain outlet tells of every success of its task; an alias only of what it is given.
    """
    uri = asset_uri(model, kind)
    for outlet in getattr(operator, "outlets", None) or []:
        if isinstance(outlet, AssetAlias):
            context["outlet_events"][outlet].add(Asset(name=uri, uri=uri, group="windtunnel"), extra=dict(extra))
