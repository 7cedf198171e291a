"""Verdicts: kept, bound to what was judged, counted when the service says them."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

from sqlalchemy import insert, select

from windtunnel import canonical
from windtunnel.evidence import Verdict
from windtunnel_mlflow import records, tables
from windtunnel_mlflow.access import identity, matrix, people
from windtunnel_mlflow.part import Part
from windtunnel_mlflow.refusal import Refusal

_D = tables.verdicts


class Verdicts(Part):
    """Evidence taken in and shown."""

    def post_verdict(self, plain: dict[str, Any]) -> dict[str, Any]:
        """Keep a verdict. It counts when the service says it; from anybody else it is a claim.

        Sending the same judgement again gives the same id and changes nothing.
        """
        try:
            # Numbers without a JSON form (NaN, infinities) arrive in canonical form.
            verdict = Verdict.from_dict(canonical.loads(json.dumps(plain)))
            for name in ("model", "subject", "reason"):
                if not isinstance(getattr(verdict, name), str) or not getattr(verdict, name):
                    raise ValueError(f"{name} is empty or not text")
            identifier = verdict.id
        except (KeyError, ValueError, TypeError) as error:
            raise Refusal(
                "WT_VERDICT", f"this is not a verdict: {error!r}", hint="see docs/reference/verdicts.md", status=400
            ) from error
        actor = identity.actor()
        claimed = not matrix.may(people.roles_of(actor), "verdict")
        with self.store.change(
            verdict.model, "verdict", version=verdict.version, correlation_id=verdict.correlation_id
        ) as change:
            table = tables.verdicts
            known = change.session.execute(
                select(table.c.id).where(table.c.id == identifier, table.c.claimed == claimed)
            ).first()
            if known is not None:
                change.silent = True
            else:
                now = time.time()
                kept = replace(verdict, actor=actor.name, created_at=now)
                change.session.execute(
                    insert(table).values(
                        id=identifier,
                        claimed=claimed,
                        model=verdict.model,
                        kind=str(verdict.kind),
                        outcome=str(verdict.outcome),
                        subject=verdict.subject,
                        version=verdict.version,
                        body=canonical.dumps(kept.to_dict()).decode(),
                        actor=actor.name,
                        created_at=now,
                        correlation_id=verdict.correlation_id,
                    )
                )
                change.detail |= {
                    "id": identifier,
                    "kind": str(verdict.kind),
                    "outcome": str(verdict.outcome),
                    "subject": verdict.subject,
                    "claimed": claimed,
                }
        return {"id": identifier, "claimed": claimed}

    def verdicts(
        self, model: str, subject: str | None, kind: str | None, version: str | None, limit: int
    ) -> list[dict[str, Any]]:
        """Verdicts about a model, newest first; claimed ones are marked."""
        query = select(_D).where(_D.c.model == model).order_by(_D.c.seq.desc()).limit(limit)
        for column, value in ((_D.c.subject, subject), (_D.c.kind, kind), (_D.c.version, version)):
            if value is not None:
                query = query.where(column == value)
        with self.store.reading() as session:
            return [records.verdict(row) for row in session.execute(query)]
