"""Endpoints of cards and comments: one thin function each."""

from __future__ import annotations

from typing import Any

from flask import Blueprint

from windtunnel_mlflow.api import web
from windtunnel_mlflow.cards.book import MODEL
from windtunnel_mlflow.cards.cards import Cards
from windtunnel_mlflow.cards.comments import Comments
from windtunnel_mlflow.part import not_found
from windtunnel_mlflow.store import GovernedStore


def blueprint(store: GovernedStore) -> Blueprint:
    """The endpoints as a blueprint of the registry's app."""
    api = Blueprint("windtunnel-cards", __name__)
    cards, comments = Cards(store), Comments(store)

    def put(model: str, number: int) -> Any:
        body = web.body("card", "reason")
        web.need_edit(store, model, "set-card", number or None)
        return cards.set(model, number, body["card"], body["reason"])

    @api.get("/models/<model>/card")
    def card(model: str) -> Any:
        web.need_read(model)
        return cards.show(model)

    @api.put("/models/<model>/card")
    def set_card(model: str) -> Any:
        return put(model, MODEL)

    @api.get("/models/<model>/card/history")
    def history(model: str) -> Any:
        web.need_read(model)
        return {"history": cards.history(model, MODEL, web.limit())}

    @api.get("/models/<model>/versions/<int:number>/card")
    def version_card(model: str, number: int) -> Any:
        web.need_read(model)
        return cards.show(model, one(model, number))

    @api.put("/models/<model>/versions/<int:number>/card")
    def set_version_card(model: str, number: int) -> Any:
        return put(model, one(model, number))

    @api.get("/models/<model>/versions/<int:number>/card/history")
    def version_history(model: str, number: int) -> Any:
        web.need_read(model)
        return {"history": cards.history(model, one(model, number), web.limit())}

    @api.get("/models/<model>/versions/<int:number>/comments")
    def said(model: str, number: int) -> Any:
        web.need_read(model)
        return {"comments": comments.of(model, number, web.limit())}

    @api.post("/models/<model>/versions/<int:number>/comments")
    def comment(model: str, number: int) -> Any:
        web.need_read(model)
        return comments.add(model, number, web.body("text")["text"]), 201

    return api


def one(model: str, number: int) -> int:
    """A version's number; there is no version 0, which stands for the model."""
    if number == MODEL:
        raise not_found(f"model {model!r} has no version {number}")
    return number
