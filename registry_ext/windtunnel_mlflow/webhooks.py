"""MLflow's webhooks: their making is audited, and they are told what MLflow's own handlers do not see.

MLflow sends a webhook from the handler of its own route. A release, a rollback or a registration over
``/api/windtunnel/v1`` passes none of them, so ``change`` sends what MLflow would have sent, when it is committed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from flask import current_app, has_app_context

from windtunnel_mlflow import rows
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.tables import HOUSE
from windtunnel_mlflow.transactions import Change, ChangingStore

#: Name of our own Flask app; MLflow's is ``mlflow.server``.
OURS = "windtunnel"
_KEY = "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY"


class News(NamedTuple):
    """One event as MLflow names it: entity, action, payload."""

    entity: str
    action: str
    payload: dict[str, Any]


def news(model: str, action: str, version: str | None, detail: Mapping[str, Any], *, ours: bool) -> list[News]:
    """What MLflow's handlers do not send about a change.

    Args:
        version: number of the version; None for a change of the model.
        detail: as the audit has it.
        ours: the change came over our own endpoints, so MLflow's handlers sent nothing.
    """
    found = []
    if ours and action == "create-model":
        found.append(News("registered_model", "created", {"name": model, "tags": {}, "description": None}))
    if ours and action == "register" and not detail.get("again"):
        told: dict[str, Any] = {
            "source": str(detail.get("source")),
            "run_id": detail.get("run_id"),
            "tags": {},
            "description": None,
        }
        found.append(News("model_version", "created", {"name": model, "version": str(version), **told}))
    # A stage call that makes a champion sets the alias as well, and MLflow has no webhook for stages.
    if "champion" in detail and (ours or action != "set-alias"):
        alias = {"name": model, "alias": rows.CHAMPION, "version": str(detail["champion"])}
        found.append(News("model_version_alias", "created", alias))
    if detail.get("was_champion"):
        found.append(News("model_version_alias", "deleted", {"name": model, "alias": rows.CHAMPION}))
    if ours and detail.get("to") == rows.CHALLENGER:
        alias = {"name": model, "alias": rows.CHALLENGER, "version": str(version)}
        found.append(News("model_version_alias", "created", alias))
    return found


class Webhooks(ChangingStore):
    """The store's webhooks."""

    @contextmanager
    def change(self, model: str, action: str, **said: Any) -> Iterator[Change]:
        """``ChangingStore.change``, and its webhooks when it is committed."""
        with super().change(model, action, **said) as change:
            yield change
        if change.silent or model == HOUSE:
            return
        ours = has_app_context() and current_app.name == OURS
        for event in news(model, action, change.version, change.detail, ours=ours):
            self._deliver(event)

    def _deliver(self, event: News) -> None:
        from mlflow.entities.webhook import WebhookAction, WebhookEntity, WebhookEvent
        from mlflow.webhooks.delivery import deliver_webhook

        told = WebhookEvent(WebhookEntity(event.entity), WebhookAction(event.action))
        # It only hands the payload to a pool of threads, and logs what goes wrong.
        deliver_webhook(event=told, payload=event.payload, store=self)

    def create_webhook(
        self, name: str, url: str, events: Any, description: str | None = None, secret: str | None = None,
        status: Any = None,
    ) -> Any:  # fmt: skip
        with self.change(HOUSE, "create-webhook", name=name, url=_bare(url), events=_names(events)) as change:
            _check_secret(secret)
            found = super().create_webhook(name, url, events, description, secret, status)
            change.detail["webhook"] = found.webhook_id
            return found

    def update_webhook(
        self, webhook_id: str, name: str | None = None, description: str | None = None, url: str | None = None,
        events: Any = None, secret: str | None = None, status: Any = None,
    ) -> Any:  # fmt: skip
        given = {
            "name": name,
            "description": description,
            "url": None if url is None else _bare(url),
            "events": None if events is None else _names(events),
            "status": None if status is None else str(status),
            "secret": None if secret is None else "changed",
        }
        said = {key: value for key, value in given.items() if value is not None}
        with self.change(HOUSE, "update-webhook", webhook=webhook_id, **said):
            _check_secret(secret)
            return super().update_webhook(webhook_id, name, description, url, events, secret, status)

    def delete_webhook(self, webhook_id: str) -> None:
        with self.change(HOUSE, "delete-webhook", webhook=webhook_id):
            super().delete_webhook(webhook_id)


def _names(events: Any) -> list[str]:
    return [f"{event.entity.value}.{event.action.value}" for event in events or []]


def _bare(url: str) -> str:
    """Without query and user: webhooks of chat programs carry their password there."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(str(url))
        return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}"
    except ValueError:
        return ""


def _check_secret(secret: str | None) -> None:
    # MLflow would encrypt it with a key that is lost at the next start, and then could read no webhook at all.
    if secret and not os.environ.get(_KEY):
        raise Refusal(
            "WT_WEBHOOK",
            "a webhook with a secret needs a key that outlives the server",
            hint=f"start the server with {_KEY} (a Fernet key), or leave the secret out",
            status=400,
        )
