"""From the registry's summaries to what the page shows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from windtunnel import names

if TYPE_CHECKING:
    from windtunnel.registry.orders import OrdersPage
    from windtunnel.registry.records import ModelSummary, RolloutRecord
    from windtunnel_ui.source import Looks

#: How each kind of state is coloured: the page has three colours and no more.
TONES = {"PASS": "good", "FAIL": "bad", "INCONCLUSIVE": "unsure"}


@dataclass(frozen=True, slots=True)
class Row:
    """One model on the page. ``None`` is shown as a dash: unknown is not good, and not bad either."""

    name: str
    champion: str | None
    champion_since: str | None
    rollout: str | None
    rollout_step: str | None
    rollout_held: list[str]
    rollout_said: str | None
    rollout_unsaid: str | None
    drift: str | None
    drift_tone: str
    drift_reason: str | None
    drift_when: str | None
    release_url: str
    watch_url: str
    actions: list[str]

    def to_dict(self) -> dict[str, Any]:
        return {field: getattr(self, field) for field in self.__slots__}


def when(seconds: float | None) -> str | None:
    """Seconds since the epoch as a UTC time to the minute."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC") if seconds else None


def rollout_text(rollout: RolloutRecord | None) -> str | None:
    """``version 3 at 25 %`` while one runs."""
    if rollout is None or not rollout.live:
        return None
    at = f" at {rollout.weight:g} %" if rollout.weight is not None else ""
    state = "watched" if rollout.watching else rollout.state
    return f"version {rollout.version}{at}" + ("" if state == "running" else f" ({state})")


def step_text(rollout: RolloutRecord | None) -> str | None:
    """``step 2 of 4`` while one runs and has begun."""
    if rollout is None or not rollout.live or rollout.step is None:
        return None
    steps = len(rollout.plan.get("steps") or ())
    return f"step {rollout.step + 1}" + (f" of {steps}" if steps else "")


def held(rollout: RolloutRecord | None, page: OrdersPage | None) -> list[str]:
    """What people ordered that stands over a running rollout: freezes, a pause, orders the gates will obey."""
    from windtunnel.registry.orders import standing

    if rollout is None or not rollout.live or page is None:
        return []
    frozen = [freeze.sentence for freeze in page.freezes if freeze.holds(rollout.model, rollout.plan.get("owner"))]
    holds = standing((order for order in page.orders if order.rollout_id == rollout.id), frozen)
    said = [f"frozen: {sentence}" for sentence in holds.frozen]
    if holds.paused:
        said.append(f"paused by {holds.paused.sentence}")
    if holds.abort:
        said.append(f"abort ordered by {holds.abort.sentence}")
    elif holds.promote:
        said.append(f"promotion ordered by {holds.promote.sentence}")
    return said


def _waits(rollout: RolloutRecord | None, waits: Mapping[str, Sequence[str]] | None) -> list[str]:
    return [] if rollout is None else [f"waits for: {one}" for one in (waits or {}).get(rollout.id, ())]


def actions(rollout: RolloutRecord | None, page: OrdersPage | None) -> list[str]:
    """What may be ordered of a running rollout as it stands, as ``windtunnel.control`` calls it.

    Only what makes sense now is offered; the registry decides all the same.
    """
    from windtunnel.registry.orders import standing

    if rollout is None or not rollout.live or page is None:
        return []
    holds = standing(order for order in page.orders if order.rollout_id == rollout.id)
    frozen = [freeze for freeze in page.freezes if freeze.holds(rollout.model, rollout.plan.get("owner"))]
    mine = any((freeze.scope, freeze.target) == ("model", rollout.model) for freeze in frozen)
    if holds.abort:
        return []
    found = ["resume" if holds.paused else "pause"]
    if not (rollout.watching or frozen or holds.paused or holds.promote):
        found += ["skip", "promote"]
    return [*found, "abort", "thaw" if mine else "freeze"]


def since(summary: ModelSummary) -> float | None:
    """When the champion became champion, where the newest rollout is the one that made it so."""
    rollout = summary.rollout
    if rollout and summary.champion and rollout.version == summary.champion.version and rollout.state == "promoted":
        return rollout.ended_at
    return None


def rows(
    summaries: Iterable[ModelSummary],
    visible: Iterable[str],
    orders: OrdersPage | None = None,
    looks: Looks | None = None,
    waits: Mapping[str, Sequence[str]] | None = None,
    *,
    may_order: bool = False,
) -> list[Row]:
    """One row per model the reader may see, by name.

    Args:
        orders: what stands of people's orders; None when it is not known.
        looks: last looks of running rollouts.
        waits: by rollout, what its release waits for before it gets any traffic.
        may_order: the reader may trigger ``windtunnel.control``.
    """
    allowed = set(visible)
    said, unsaid = (looks.said, looks.unsaid) if looks else ({}, {})
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
                rollout_step=step_text(summary.rollout),
                rollout_held=[*_waits(summary.rollout, waits), *held(summary.rollout, orders)],
                rollout_said=said.get(summary.rollout.id) if summary.rollout else None,
                rollout_unsaid=unsaid.get(summary.rollout.id) if summary.rollout else None,
                drift=str(drift.outcome) if drift else None,
                drift_tone=TONES.get(str(drift.outcome), "unsure") if drift else "unsure",
                drift_reason=drift.reason if drift else None,
                drift_when=when(drift.created_at) if drift else None,
                release_url=f"/dags/{names.dag_id(summary.name, 'release')}",
                watch_url=f"/dags/{names.dag_id(summary.name, 'watch')}",
                actions=actions(summary.rollout, orders) if may_order else [],
            )
        )
    return made
