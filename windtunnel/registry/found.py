"""Cards, comments and found versions as the registry answers them. Unknown keys are ignored."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from windtunnel.registry.plain import Plain


@dataclass(frozen=True, slots=True)
class CardVersion(Plain):
    """One card that was set.

    Attributes:
        version: None for the model's card.
        layer: ``person``, or ``description``: what the model's DAGs passed on.
        number: counts per model or version and layer.
        at: seconds since the epoch.
    """

    model: str
    version: str | None
    layer: str
    number: int
    card: dict[str, Any]
    actor: str
    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class CommentRecord(Plain):
    """What somebody said about a version; ``seq`` grows with every comment of the registry."""

    seq: int
    model: str
    version: str
    text: str
    actor: str
    at: float


@dataclass(frozen=True, slots=True)
class FoundVersion(Plain):
    """A version as a search tells it.

    Attributes:
        stage: MLflow's stage.
        state: candidate, releasing, champion, archived, rolled_back or withdrawn.
        owner, risk: of the card in force.
        aliases: MLflow's, ``champion`` and ``challenger`` among them.
        metrics: those that the query or the order named.
    """

    model: str
    version: str
    semver: str
    status: str
    state: str
    stage: str | None
    created_at: float
    digest: str | None = None
    run_id: str | None = None
    actor: str | None = None
    owner: str | None = None
    risk: str | None = None
    aliases: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FoundPage:
    """One page of a search; ``cursor`` asks for the next one, None on the last."""

    versions: tuple[FoundVersion, ...]
    cursor: str | None

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> FoundPage:
        """From the server's JSON."""
        rows = ({**row, "aliases": tuple(row.get("aliases") or ())} for row in plain["versions"])
        return cls(tuple(FoundVersion.from_dict(row) for row in rows), plain.get("cursor"))
