"""The client's methods for cards, comments, searching and comparing; part of ``RegistryClient``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from windtunnel.registry.found import CardVersion, CommentRecord, FoundPage, FoundVersion
from windtunnel.spec.card import FROM_DESCRIPTION, of_description

if TYPE_CHECKING:
    from windtunnel.spec.model import Model


class FindCalls(ABC):
    """One method per endpoint."""

    @abstractmethod
    def _call(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        """One request; its JSON object."""

    # -- cards

    def card(self, model: str, version: str | int | None = None) -> dict[str, Any]:
        """The card in force of a model, or of a version: ``card``, and ``layers``, what was last set of each kind."""
        return self._call("GET", _card(model, version))

    def set_card(
        self, model: str, card: Mapping[str, Any], reason: str, *, version: str | int | None = None
    ) -> dict[str, Any]:
        """Set the card of a model or of a version (``windtunnel.spec.card.Card`` as a dict); as ``card`` answers.

        The user ``service`` sets what the model's description says; what people set lies over it.
        """
        return self._call("PUT", _card(model, version), json={"card": dict(card), "reason": reason})

    def pass_on_card(self, description: Model) -> None:
        """Set what a model's description says, where that is new; as the stack's own user."""
        said = of_description(description)
        kept = self.card(description.name)["layers"]["description"]
        if said != (kept["card"] if kept else {}):
            self.set_card(description.name, said, FROM_DESCRIPTION)

    def card_history(self, model: str, version: str | int | None = None, *, limit: int = 100) -> list[CardVersion]:
        """Every card that was set, newest first; of a version its own and the model's."""
        found = self._call("GET", f"{_card(model, version)}/history", params={"limit": str(limit)})["history"]
        return [CardVersion.from_dict(row) for row in found]

    # -- comments

    def comment(self, model: str, version: str | int, text: str) -> CommentRecord:
        """Say something about a version; it is kept for ever, with who and when."""
        return CommentRecord.from_dict(self._call("POST", _comments(model, version), json={"text": text}))

    def comments(self, model: str, version: str | int, *, limit: int = 100) -> list[CommentRecord]:
        """The newest comments on a version, oldest of them first."""
        found = self._call("GET", _comments(model, version), params={"limit": str(limit)})["comments"]
        return [CommentRecord.from_dict(row) for row in found]

    # -- finding

    def search(
        self, query: str = "", *, order_by: str = "created desc", limit: int = 100, cursor: str | None = None
    ) -> FoundPage:
        """One page of the versions that a query means (docs/reference/search.md), of models that one may read.

        Args:
            query: as ``metric.rmse < 1.2 and stage = 'Staging'``; an empty one finds everything.
            order_by: ``created``, ``name`` or ``metric.NAME``, with ``asc`` or ``desc``.
            limit: versions of a page, at most 1000.
            cursor: of the page before.

        Raises:
            RegistryError: WT_QUERY, with the place that is not understood.
        """
        given = {"query": query, "order_by": order_by, "limit": str(limit), **({"cursor": cursor} if cursor else {})}
        return FoundPage.from_dict(self._call("GET", "/search", params=given))

    def find(self, query: str = "", *, order_by: str = "created desc") -> Iterator[FoundVersion]:
        """Every version that a query means, page after page."""
        cursor = None
        while True:
            page = self.search(query, order_by=order_by, limit=500, cursor=cursor)
            yield from page.versions
            cursor = page.cursor
            if cursor is None:
                return

    def compare(self, model: str, left: str | int, right: str | int) -> dict[str, Any]:
        """What differs between two versions: ``versions``, ``metrics``, ``signature``, ``environment``, ``data``,
        ``recipe``, ``files``."""
        return self._call("GET", f"/models/{_q(model)}/compare", params={"left": str(left), "right": str(right)})


def _card(model: str, version: str | int | None) -> str:
    return f"/models/{_q(model)}{'' if version is None else f'/versions/{_q(version)}'}/card"


def _comments(model: str, version: str | int) -> str:
    return f"/models/{_q(model)}/versions/{_q(version)}/comments"


def _q(part: str | int) -> str:
    return quote(str(part), safe="")
