"""Cards shown and set, over our own API (REG-14)."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from windtunnel.spec.card import FROM_DESCRIPTION, Card
from windtunnel_mlflow import records
from windtunnel_mlflow.access import identity, permission
from windtunnel_mlflow.cards import book
from windtunnel_mlflow.part import not_found
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.releases.orderrules import check_reason
from windtunnel_mlflow.store import GovernedStore


class Cards:
    """The operations behind ``/models/M/card`` and ``/models/M/versions/N/card``; ``book.MODEL`` is the model's."""

    def __init__(self, store: GovernedStore) -> None:
        self.store = store

    def show(self, model: str, number: int = book.MODEL) -> dict[str, Any]:
        """What is in force, and what was last set of each kind."""
        with self.store.reading() as session:
            self._known(session, model, number)
            return {
                "model": model,
                "version": str(number) if number else None,
                "card": book.in_force(session, model, number),
                "layers": {
                    "description": book.newest(session, model, book.MODEL, book.DESCRIPTION),
                    "model": book.newest(session, model, book.MODEL, book.PERSON),
                    "version": book.newest(session, model, number, book.PERSON) if number else None,
                },
            }

    def history(self, model: str, number: int, limit: int) -> list[dict[str, Any]]:
        """Every card that was set, newest first."""
        with self.store.reading() as session:
            self._known(session, model, number)
            return book.history(session, model, number, limit)

    def set(self, model: str, number: int, plain: Any, reason: Any) -> dict[str, Any]:
        """Set the card of a model or of a version; the stack's own user sets what the description says.

        Raises:
            Refusal: WT_ROLE, or WT_REQUEST for what is no card.
        """
        version = number or None
        with self.store.change(model, "set-card", version=version, reason=str(reason or "")[:2000]) as change:
            permission.need(change.actor, "card", "write a card")
            self._known(change.session, model, number)
            said, why = _card(plain).said, check_reason(reason)
            layer = book.PERSON
            if change.actor.name == identity.SERVICE_USER:
                if number:
                    raise Refusal("WT_REQUEST", "a description's card is the model's, not a version's", status=400)
                layer, why = book.DESCRIPTION, FROM_DESCRIPTION
            former = book.newest(change.session, model, number, layer)
            if (former["card"] if former else {}) == said:
                change.silent = True
            else:
                kept = book.add(change.session, model, number, layer, said, change.actor.name, why)
                change.detail |= {
                    "layer": layer,
                    "number": kept["number"],
                    "former": former and former["number"],
                    "card": said,
                }
        return self.show(model, number)

    def _known(self, session: Any, model: str, number: int) -> None:
        self.store._get_registered_model(session, model)
        if number and records.version(session, model, number) is None:
            raise not_found(f"model {model!r} has no version {number}")


def _card(plain: Any) -> Card:
    try:
        return Card.model_validate(plain)
    except ValidationError as error:
        lines = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors(include_url=False))
        raise Refusal(
            "WT_REQUEST", f"this is not a card: {lines}", hint="docs/reference/card.md shows one", status=400
        ) from error
