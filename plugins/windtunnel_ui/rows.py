"""From the registry's summaries to what the page shows. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from windtunnel import names

if TYPE_CHECKING:
    from windtunnel.registry.records import ModelSummary, RolloutRecord

#: How each kind of state is coloured: the page has three colours and no more.
TONES = {"PASS": "good", "FAIL": "bad", "INCONCLUSIVE": "unsure"}


@dataclass(frozen=True, slots=True)
class Row:
    """One model on the page. ``None`` is shown as a dash: unknown is not good, and not bad either."""

    name: str
    champion: str | None
    champion_since: str | None
    rollout: str | None
    drift: str | None
    drift_tone: str
    drift_reason: str | None
    drift_when: str | None
    release_url: str
    watch_url: str

    def to_dict(self) -> dict[str, Any]:
        return {field: getattr(self, field) for field in self.__slots__}


def when(seconds: float | None) -> str | None:
    """Seconds since the epoch as a UTC time to the minute."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC") if seconds else None


def rollout_text(rollout: RolloutRecord | None) -> str | None:
    """``version 3 at 25 %`` while one runs."""
    if rollout is None or rollout.ended:
        return None
    at = f" at {rollout.weight:g} %" if rollout.weight is not None else ""
    return f"version {rollout.version}{at}" + ("" if rollout.state == "running" else f" ({rollout.state})")


def since(summary: ModelSummary) -> float | None:
    """When the champion became champion, where the newest rollout is the one that made it so."""
    rollout = summary.rollout
    if rollout and summary.champion and rollout.version == summary.champion.version and rollout.state == "promoted":
        return rollout.ended_at
    return None


def rows(summaries: Iterable[ModelSummary], visible: Iterable[str]) -> list[Row]:
    """One row per model the reader may see, by name."""
    allowed = set(visible)
    made = []
    for summary in sorted(summaries, key=lambda s: s.name):
        if summary.name not in allowed:
            continue
        champion = summary.champion
        posted = summary.verdicts.get("drift")
        drift = posted.verdict if posted else None
        made.append(
            Row(
                name=summary.name,
                champion=(champion.semver or f"version {champion.version}") if champion else None,
                champion_since=when(since(summary)),
                rollout=rollout_text(summary.rollout),
                drift=str(drift.outcome) if drift else None,
                drift_tone=TONES.get(str(drift.outcome), "unsure") if drift else "unsure",
                drift_reason=drift.reason if drift else None,
                drift_when=when(drift.created_at) if drift else None,
                release_url=f"/dags/{names.dag_id(summary.name, 'release')}",
                watch_url=f"/dags/{names.dag_id(summary.name, 'watch')}",
            )
        )
    return made
