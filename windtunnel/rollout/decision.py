"""What the brain says after a look."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from windtunnel.evidence import Outcome
from windtunnel.rollout.state import Action, RolloutState


@dataclass(frozen=True, slots=True)
class Decision:
    """One look's result.

    Attributes:
        action: what the hands shall do: ``hold`` (look again later), ``advance`` (to ``state.step``), ``promote``,
            ``roll_back``, or ``withdraw`` (a first release).
        outcome: PASS with advance and promote, FAIL when harm or a breached limit was shown, else INCONCLUSIVE.
        row: the row of the decision table that applied, a stable name (see docs/explanation/gates.md).
        reason: one sentence with the numbers that decided.
        numbers: of the step, each gate and each limit; JSON values.
        state: what to hand to the next look.
    """

    action: Action
    outcome: Outcome
    row: str
    reason: str
    state: RolloutState
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def ends(self) -> bool:
        """Whether the rollout is over with this decision."""
        return self.action in ("promote", "roll_back", "withdraw")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "action": self.action,
            "outcome": str(self.outcome),
            "row": self.row,
            "reason": self.reason,
            "numbers": self.numbers,
            "state": self.state.to_dict(),
        }

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Decision:
        """The inverse of ``to_dict``."""
        return cls(
            plain["action"],
            Outcome(plain["outcome"]),
            plain["row"],
            plain["reason"],
            RolloutState.from_dict(plain["state"]),
            plain["numbers"],
        )
