"""The card of a model: what it is for, what it may be used for, what can go wrong, who answers for it (REG-14)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import Field, field_validator

from windtunnel.spec.base import Part

if TYPE_CHECKING:
    from windtunnel.spec.model import Model

Risk = Literal["low", "medium", "high"]

#: Parts of a card that policy can demand.
CardField = Literal["purpose", "uses", "risk", "owner", "limits", "text"]
FIELDS: tuple[CardField, ...] = get_args(CardField)

#: What a description's card is kept with.
FROM_DESCRIPTION = "the model's description"


class Card(Part):
    """What people need to know of a model before they use it.

    Attributes:
        purpose: what it is for, in a sentence or two.
        uses: what it may be used for; everything else is not approved.
        risk: how much harm a wrong answer does: low, medium or high.
        owner: the team or person who answers for it.
        limits: where it is known to be wrong, or was not tried.
        text: anything else, as Markdown.
    """

    purpose: str | None = Field(None, max_length=2000)
    uses: list[str] = Field(default_factory=list, max_length=50)
    risk: Risk | None = None
    owner: str | None = Field(None, max_length=200)
    limits: list[str] = Field(default_factory=list, max_length=50)
    text: str | None = Field(None, max_length=20_000)

    @field_validator("uses", "limits")
    @classmethod
    def _short(cls, value: list[str]) -> list[str]:
        for line in value:
            if not line.strip() or len(line) > 500:
                raise ValueError(f"expected lines of 1 to 500 characters, found one of {len(line)}")
        return value

    @property
    def said(self) -> dict[str, Any]:
        """The parts that say something."""
        plain = self.model_dump(mode="json")
        return {name: plain[name] for name in FIELDS if plain[name]}


def over(*cards: Mapping[str, Any] | None) -> dict[str, Any]:
    """Cards laid over each other, the last on top; a part that says nothing lets the one below be seen.

    Args:
        cards: ``Card.said`` of each, None where there is none.
    """
    made = {name: value for card in cards if card for name, value in card.items() if value}
    return {name: made[name] for name in FIELDS if name in made}


def of_description(model: Model) -> dict[str, Any]:
    """The card that a description means: its own, with its owner and its words where the card leaves them out."""
    plain = {"owner": model.owner[:200], "purpose": model.description[:2000]}
    return over(plain, model.card.said if model.card else None)
