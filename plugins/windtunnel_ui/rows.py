"""From the registry's summaries to what the page shows. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from windtunnel import names

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


def rollout_text(rollout: dict[str, Any] | None) -> str | None:
    """``1.2.0 at 25 %`` while one runs."""
    if not rollout:
        return None
    what = rollout.get("semver") or f"version {rollout.get('version')}"
    weight = rollout.get("weight")
    state = rollout.get("state", "running")
    at = f" at {weight} %" if weight is not None else ""
    return f"{what}{at}" + ("" if state == "running" else f" ({state})")


def rows(summaries: Iterable[Any], visible: Iterable[str]) -> list[Row]:
    """One row per model the reader may see, by name."""
    allowed = set(visible)
    made = []
    for summary in sorted(summaries, key=lambda s: s.name):
        if summary.name not in allowed:
            continue
        champion = summary.champion
        drift = summary.verdicts.get("drift")
        made.append(
            Row(
                name=summary.name,
                champion=(champion.semver or f"version {champion.version}") if champion else None,
                champion_since=when(getattr(summary, "champion_since", None)),
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
