"""Every decision about a version, made again from the look log, and compared with what was decided then."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from windtunnel.rollout import disagreements, replay
from windtunnel.rollout.several import arms_of
from windtunnel.serving.release.overview import plan_of

if TYPE_CHECKING:
    from windtunnel.registry.records import RolloutRecord


@dataclass(frozen=True, slots=True)
class Difference:
    """The first look whose replayed decision is another one.

    Attributes:
        look: its number, from 1; ``at`` its time (seconds since the epoch).
        recorded, replayed: action, row and reason then and now.
    """

    look: int
    at: float
    recorded: dict[str, Any]
    replayed: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Replay:
    """One rollout, decided again.

    Attributes:
        agrees: every decision is the recorded one; None when it could not be replayed, ``problem`` says why.
    """

    rollout_id: str
    looks: int
    agrees: bool | None
    differing: int = 0
    first: Difference | None = None
    problem: str | None = None


def replays(
    log: Iterable[dict[str, Any]],
    version: str,
    record: Callable[[str], RolloutRecord | None] = lambda identifier: None,
) -> list[Replay]:
    """The rollouts of a version, in the order in which they began, each decided again from its looks.

    Args:
        log: all looks at the model, oldest first.
        record: the registry's record of a rollout; asked for where the look log does not hold the plan.
    """
    grouped: dict[str, list[dict[str, Any]]] = {}
    for look in log:
        if version in arms_of(look):
            grouped.setdefault(look["rollout_id"], []).append(look)
    return [_one(identifier, looks, record) for identifier, looks in grouped.items()]


def _one(identifier: str, looks: list[dict[str, Any]], record: Callable[[str], RolloutRecord | None]) -> Replay:
    plan = plan_of(looks, None) or plan_of([], record(identifier))
    if plan is None:
        return Replay(identifier, len(looks), None, problem="its plan is neither in the look log nor in the registry")
    if len(looks) < int(looks[-1].get("number") or 0):
        return Replay(
            identifier,
            len(looks),
            None,
            problem=f"only {len(looks)} of its {looks[-1]['number']} looks are kept: name the object store (--store)",
        )
    try:
        differing = disagreements(plan, looks)
    except (KeyError, TypeError, ValueError) as error:
        return Replay(identifier, len(looks), None, problem=f"a look cannot be read: {type(error).__name__}: {error}")
    if not differing:
        return Replay(identifier, len(looks), True)
    at = differing[0]
    again = replay(plan, looks[: at + 1])[-1].to_dict()
    return Replay(
        identifier,
        len(looks),
        False,
        len(differing),
        Difference(at + 1, float(looks[at]["at"]), _gist(looks[at]["decision"]), _gist(again)),
    )


def _gist(decision: dict[str, Any]) -> dict[str, Any]:
    return {name: decision[name] for name in ("action", "outcome", "row", "reason")}
