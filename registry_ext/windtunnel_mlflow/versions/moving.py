"""A version brought somewhere by hand over our own API: as MLflow's stage and alias calls, and told who is expected."""

from __future__ import annotations

from typing import Any

from windtunnel_mlflow import records, rows
from windtunnel_mlflow.access import permission
from windtunnel_mlflow.law.policies import target
from windtunnel_mlflow.part import not_found
from windtunnel_mlflow.releases.rollouts import expect
from windtunnel_mlflow.service import Service

_STAGES = {"staging": rows.STAGING, "production": rows.PRODUCTION, "archived": rows.ARCHIVED}


class Moving:
    """The operation behind ``/models/M/versions/N/transition``."""

    def __init__(self, service: Service) -> None:
        self.store = service.store

    def move(self, model: str, number: int, to: str, reason: str, expected: Any) -> dict[str, Any]:
        """Bring a version to ``to``.

        Args:
            expected: ``(given, champion)``: where given, who must be champion now (None: nobody).

        Raises:
            Refusal: WT_POLICY with what is missing; WT_CONFLICT naming the champion that won meanwhile.
        """
        development = to.strip().casefold() == "development"
        wanted = None if development else target(to)
        given, champion = expected
        with self.store.change(
            model, "transition", version=number, to=wanted or "development", reason=reason
        ) as change:
            session = change.session
            self.store._get_registered_model(session, model)
            if records.version(session, model, number) is None:
                raise not_found(f"model {model!r} has no version {number}")
            permission.need(change.actor, "stage", "move a version")
            if given:
                expect(records.champion(session, model), champion, model)
            if wanted == "challenger":
                self.store.challenge(change, model, number)
            else:
                stage = "None" if wanted is None else _STAGES[wanted]
                self.store.restage(change, model, number, stage, reason=reason)
            return records.version(session, model, number) or {}
