"""The look log: records of looks, going on from the last one, and deciding them all over again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from windtunnel.rollout.decide import decide
from windtunnel.rollout.decision import Decision
from windtunnel.rollout.evidence import Evidence
from windtunnel.rollout.plan import Plan
from windtunnel.rollout.several import Several, decide_several, resumed
from windtunnel.rollout.state import RolloutState


def look_record(rollout_id: str, at: float, evidence: Evidence, decision: Decision) -> dict[str, Any]:
    """One line of the look log, plain JSON values."""
    return {"rollout_id": rollout_id, "at": at, "evidence": evidence.to_dict(), "decision": decision.to_dict()}


def resume(looks: Sequence[dict[str, Any]]) -> RolloutState | None:
    """The state after the last look; None when nobody has looked yet."""
    return Decision.from_dict(looks[-1]["decision"]).state if looks else None


def entered(state: RolloutState, step: int) -> RolloutState:
    """``state`` at ``step``: unchanged, or moved on when a person let the gates between pass without a look (ROL-8)."""
    if state.step >= step:
        return state
    return replace(
        state, step=step, entered_at=None, lost_s=0.0, inconclusive_since=None, step_requests=0, step_champion=0
    )


def replay(plan: Plan, looks: Sequence[dict[str, Any]]) -> list[Decision]:
    """Decide every look again from its evidence alone, in order.

    Only versions and start time are taken from the recorded states; the rest is computed anew. Of several candidates
    these are the decisions on the rollout as a whole (``several.replay_several`` has each candidate's).

    Raises:
        KeyError: a record is not a look.
    """
    if not looks:
        return []
    if "arms" in looks[0]:
        return [several.decision for several in replay_several(plan, looks)]
    first = RolloutState.from_dict(looks[0]["decision"]["state"])
    state = RolloutState.begin(champion=first.champion, candidate=first.candidate, at=first.started_at)
    decisions: list[Decision] = []
    for look in looks:
        if look.get("entered") is not None:
            state = entered(state, int(look["entered"]))
        decision = decide(plan, state, Evidence.from_dict(look["evidence"]), look["at"])
        decisions.append(decision)
        state = decision.state
    return decisions


def disagreements(plan: Plan, looks: Sequence[dict[str, Any]]) -> list[int]:
    """Positions of the looks whose replayed decision, on the whole or on a candidate, is not the recorded one."""
    if looks and "arms" in looks[0]:
        return [
            i for i, (look, s) in enumerate(zip(looks, replay_several(plan, looks), strict=True)) if _differs(look, s)
        ]
    return [
        i
        for i, (look, decision) in enumerate(zip(looks, replay(plan, looks), strict=True))
        if not same(decision.to_dict(), look["decision"])
    ]


def same(found: Any, recorded: Any) -> bool:
    """Whether two decisions are one, up to the last digits of measured numbers.

    A sum comes out differently in its last digit on another kind of processor (numpy's libraries add in another
    order there), and wealth is rounded down to a millionth of a nat, which may then be the next one.
    """
    if isinstance(found, Mapping) and isinstance(recorded, Mapping):
        return found.keys() == recorded.keys() and all(same(found[key], recorded[key]) for key in found)
    if isinstance(found, list | tuple) and isinstance(recorded, list | tuple):
        return len(found) == len(recorded) and all(map(same, found, recorded))
    numbers = (int, float)
    if isinstance(found, numbers) and isinstance(recorded, numbers) and float in (type(found), type(recorded)):
        return math.isclose(found, recorded, rel_tol=1e-5, abs_tol=2e-6)
    return bool(found == recorded)


def replay_several(plan: Plan, looks: Sequence[Mapping[str, Any]]) -> list[Several]:
    """Decide every look at several candidates again from its evidence alone, in order."""
    first = resumed(looks[0])
    states = {
        version: RolloutState.begin(champion=state.champion, candidate=version, at=state.started_at)
        for version, state in first.items()
    }
    found = []
    for look in looks:
        if look.get("entered") is not None:
            states = {v: s if s.ended else entered(s, int(look["entered"])) for v, s in states.items()}
        evidence = {v: Evidence.from_dict(arm["evidence"]) for v, arm in look["arms"].items() if arm["evidence"]}
        several = decide_several(plan, states, evidence, look["at"])
        found.append(several)
        states = several.states
    return found


def _differs(look: Mapping[str, Any], several: Several) -> bool:
    arms = {version: decision.to_dict() for version, decision in several.arms.items()}
    recorded = {version: arm["decision"] for version, arm in look["arms"].items()}
    return not same((several.decision.to_dict(), several.winner, arms), (look["decision"], look["winner"], recorded))
