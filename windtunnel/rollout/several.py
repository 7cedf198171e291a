"""Several candidates against one champion (A/B/n): each is a rollout of its own, and one small rule puts them together.

Every candidate is judged by the very same ``decide``, over the champion's same counters, with alpha and beta divided by
their number (Bonferroni's inequality), so that both hold for the whole rollout: the chance that *any* candidate that is
no worse is called harmful is at most alpha, the chance that one worse than its margin is promoted at most beta.

The rule: a candidate that is to be taken back goes to 0 and the others fly on, its share is the champion's again. When
none is left, the rollout is rolled back. At the first look at which some have proven what the plan asks, the one with
the most evidence wins and the others are taken back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from windtunnel.errors import DescriptionError
from windtunnel.evidence import Outcome
from windtunnel.rollout.decide import decide
from windtunnel.rollout.decision import Decision
from windtunnel.rollout.evidence import Evidence
from windtunnel.rollout.plan import Plan
from windtunnel.rollout.state import RolloutState

#: Row of a candidate that was neither harmful nor chosen.
PASSED_OVER = "passed-over"
_BACK = ("roll_back", "withdraw")


@dataclass(frozen=True, slots=True)
class Several:
    """One look at all candidates.

    Attributes:
        decision: on the rollout as a whole; its state is the winner's, else that of the first that still flies.
        arms: on each candidate, by version.
        winner: the candidate that goes on alone; None while nobody has won.
    """

    decision: Decision
    arms: dict[str, Decision]
    winner: str | None = None

    @property
    def states(self) -> dict[str, RolloutState]:
        """What to hand to the next look."""
        return {version: decision.state for version, decision in self.arms.items()}

    @property
    def out(self) -> tuple[str, ...]:
        """Candidates that are to have no traffic any more."""
        return tuple(version for version, decision in self.arms.items() if decision.action in _BACK)


def share(plan: Plan, candidates: int) -> Plan:
    """The plan as one of so many candidates is judged by it: its part of the weight, of alpha and of beta.

    A step's weight is that of all candidates together, divided into equal whole percents; what is left over is the
    champion's. A step of 100 % is the winner's alone.

    Raises:
        DescriptionError: the plan cannot be flown with so many.
    """
    if candidates == 1:
        return plan
    if plan.strategy != "ab" or plan.first:
        raise DescriptionError(
            f"rollout.strategy {plan.strategy} releases one candidate at a time, found {candidates}",
            hint="use strategy ab for several candidates",
        )
    small = [step.weight for step in plan.steps if not step.alone and step.weight < candidates]
    if small:
        raise DescriptionError(
            f"a step of {small[0]} % cannot be divided among {candidates} candidates: each needs 1 % at least",
            hint="raise the step's weight: it is that of all candidates together",
        )
    return replace(
        plan,
        steps=tuple(step if step.alone else replace(step, weight=step.weight // candidates) for step in plan.steps),
        gates=tuple(replace(gate, alpha=gate.alpha / candidates) for gate in plan.gates),
        alpha=plan.alpha / candidates,
        beta=plan.beta / candidates,
        limit_alpha=plan.limit_alpha / candidates,
    )


def begin(champion: str, candidates: Sequence[str], at: float) -> dict[str, RolloutState]:
    """States of candidates nobody has looked at.

    Raises:
        ValueError: one of them is the champion, or stands twice.
    """
    if len(set(candidates)) != len(candidates):
        raise ValueError(f"a candidate stands twice among {list(candidates)}")
    return {version: RolloutState.begin(champion=champion, candidate=version, at=at) for version in candidates}


def decide_several(
    plan: Plan, states: Mapping[str, RolloutState], evidence: Mapping[str, Evidence], now: float
) -> Several:
    """Judge one look at every candidate, and all of them together.

    Args:
        plan: of the whole rollout, undivided.
        states: by version, in the order in which ties are broken.
        evidence: by version, of the same moment; one that is over needs none.
        now: seconds since the epoch.
    """
    mine = share(plan, len(states))
    return combine(
        plan,
        {version: decide(mine, state, evidence.get(version, Evidence()), now) for version, state in states.items()},
    )


def combine(plan: Plan, arms: Mapping[str, Decision]) -> Several:
    """What becomes of the rollout when each candidate was judged."""
    passed = [version for version, decision in arms.items() if decision.action in ("advance", "promote")]
    if passed:
        winner = max(passed, key=lambda version: evidence_of(plan, arms[version]))  # the first of equals
        ended = {v: one if v == winner or one.action in _BACK else _passed_over(one, winner) for v, one in arms.items()}
        reason = _told({winner: arms[winner]}) + _others(ended, winner)
        return Several(_whole(replace(arms[winner], reason=reason), ended, winner), ended, winner)
    flying = {version: decision for version, decision in arms.items() if decision.action not in _BACK}
    if flying:
        speaker = next(iter(flying.values()))
        reason = _told(flying) + _others(arms, *flying)
        held = replace(speaker, outcome=Outcome.INCONCLUSIVE, reason=reason)
        return Several(_whole(held, arms, None), dict(arms))
    harmful = all(decision.outcome is Outcome.FAIL for decision in arms.values())
    speaker = next((one for one in arms.values() if one.row != PASSED_OVER), next(iter(arms.values())))
    whole = replace(speaker, outcome=Outcome.FAIL if harmful else Outcome.INCONCLUSIVE, reason=_told(arms))
    return Several(_whole(whole, arms, None), dict(arms))


def evidence_of(plan: Plan, decision: Decision) -> float:
    """How much speaks for a candidate: the log of the least of its e-values for what the plan asks to be shown.

    All candidates have the same share of the same time and are held against the same champion, so more evidence means a
    larger difference; and what is compared is what the promise of beta is about, not an estimate that may be lucky.
    """
    asked = [gate.name for gate in plan.gates if gate.superior is not None] or [
        gate.name for gate in plan.gates if gate.non_inferior
    ]
    numbers = decision.numbers.get("gates") or {}
    shown = [float((numbers.get(name) or {}).get("e_safe") or 0.0) for name in asked]
    least = min(shown, default=0.0)
    return math.log(least) if least > 0 else -math.inf


def _passed_over(decision: Decision, winner: str) -> Decision:
    reason = f"not promoted: version {winner} had more evidence; {decision.reason}"
    state = replace(
        decision.state,
        ended="roll_back",
        ended_outcome=str(Outcome.INCONCLUSIVE),
        ended_row=PASSED_OVER,
        ended_reason=reason,
    )
    return Decision("roll_back", Outcome.INCONCLUSIVE, PASSED_OVER, reason, state, decision.numbers)


def _whole(decision: Decision, arms: Mapping[str, Decision], winner: str | None) -> Decision:
    told = {
        version: {
            **one.numbers,
            "action": one.action,
            "outcome": str(one.outcome),
            "row": one.row,
            "reason": one.reason,
        }
        for version, one in arms.items()
    }
    return replace(decision, numbers={**decision.numbers, "arms": told, "winner": winner})


def _told(arms: Mapping[str, Decision]) -> str:
    return "; ".join(f"version {version}: {decision.reason}" for version, decision in arms.items())


def _others(arms: Mapping[str, Decision], *but: str) -> str:
    out = [f"version {v} is out ({one.row})" for v, one in arms.items() if v not in but]
    return f"; {', '.join(out)}" if out else ""


# -- the look log


def several_record(rollout_id: str, at: float, evidence: Mapping[str, Evidence], several: Several) -> dict[str, Any]:
    """One line of the look log, plain JSON values: of each candidate what it was judged by and what came of it."""
    arms = {
        version: {
            "evidence": evidence[version].to_dict() if version in evidence else None,
            "decision": decision.to_dict(),
        }
        for version, decision in several.arms.items()
    }
    return {
        "rollout_id": rollout_id,
        "at": at,
        "evidence": {},
        "decision": several.decision.to_dict(),
        "arms": arms,
        "winner": several.winner,
    }


def arms_of(look: Mapping[str, Any]) -> dict[str, Any]:
    """Of a look: by version ``evidence`` and ``decision`` of each candidate; of one candidate, the look's own."""
    if look.get("arms"):
        return dict(look["arms"])
    return {str(look["decision"]["state"]["candidate"]): {name: look[name] for name in ("evidence", "decision")}}


def resumed(look: Mapping[str, Any]) -> dict[str, RolloutState]:
    """States of all candidates after a look."""
    return {version: Decision.from_dict(arm["decision"]).state for version, arm in arms_of(look).items()}


def flying(look: Mapping[str, Any] | None, candidates: Sequence[str]) -> list[str]:
    """Those of ``candidates`` that may have traffic after a look; all of them when nobody has looked."""
    if look is None:
        return list(candidates)
    arms = arms_of(look)
    return [v for v in candidates if v not in arms or arms[v]["decision"]["action"] not in _BACK]
