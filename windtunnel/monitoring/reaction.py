"""What a finding leads to. Pure, and damped: drift must not retrain in a loop (MON-7)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from windtunnel.evidence import Kind, Outcome, Verdict
from windtunnel.spec import Retrain


@dataclass(frozen=True, slots=True)
class Reaction:
    """``react`` is what to do now; ``cause`` says why, or why not, in one sentence."""

    react: Literal["retrain"] | None
    cause: str


def decide(
    policy: Retrain | None,
    verdicts: Sequence[Verdict],
    *,
    now: float,
    retrain_at: float | None,
    pending: bool = False,
) -> Reaction:
    """Retrain, or not.

    Args:
        policy: None never retrains.
        verdicts: of one window.
        retrain_at: when a retraining was last asked for.
        pending: a version newer than the champion is being trained or released and was not yet decided.
    """
    wanted = {Kind.DRIFT: "drift", Kind.PERFORMANCE: "performance"}
    failed = [verdict for verdict in verdicts if verdict.outcome is Outcome.FAIL]
    if not failed:
        return Reaction(None, "nothing failed")
    if policy is None:
        return Reaction(None, "the description asks for no retraining")
    causes = [verdict for verdict in failed if wanted.get(verdict.kind) in policy.on]
    if not causes:
        return Reaction(
            None, f"{failed[0].kind} failed, but retraining is only for {', '.join(policy.on) or 'nothing'}"
        )
    cause = "; ".join(f"{verdict.kind}: {verdict.reason}" for verdict in causes)
    if pending:
        return Reaction(None, f"held back, a retrained version is not decided yet ({cause})")
    if retrain_at is not None and now - retrain_at < policy.cooldown.total_seconds():
        left = policy.cooldown.total_seconds() - (now - retrain_at)
        return Reaction(None, f"held back, {left:.0f} s of the cooldown are left ({cause})")
    return Reaction("retrain", cause)
