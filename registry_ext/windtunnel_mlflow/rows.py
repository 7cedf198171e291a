"""What every part of the store writes into a version's rows, ours and MLflow's, and the words in them."""

from __future__ import annotations

import time
from typing import Any

from mlflow.entities.model_registry.model_version_stages import get_canonical_stage
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME
from sqlalchemy import update
from sqlalchemy.orm import Session

from windtunnel_mlflow import records, tables
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.versions import memory

CHAMPION, CHALLENGER = "champion", "challenger"
PENDING, READY, FAILED = "PENDING_REGISTRATION", "READY", "FAILED_REGISTRATION"
PRODUCTION, ARCHIVED, STAGING = "Production", "Archived", "Staging"
_V = tables.versions


def canonical_stage(stage: str) -> str:
    """A stage as MLflow spells it; Development is its ``None``."""
    return "None" if str(stage).strip().casefold() == "development" else str(get_canonical_stage(stage))


def mark_deleted(session: Session, row: Any, now: float, actor: str) -> None:
    # The key is free again; number and semantic version are not. Its files stay sealed.
    kept = memory.of_version(session, row.model, row.version, row.key, actor)
    session.execute(
        update(_V)
        .where(_V.c.model == row.model, _V.c.version == row.version)
        .values(deleted_at=now, key=f"deleted:{row.version}:{row.key}"[:256], kept=kept)
    )


def set_stage(session: Session, model: str, number: int, stage: str) -> None:
    session.execute(
        update(SqlModelVersion)
        .where(
            SqlModelVersion.workspace == DEFAULT_WORKSPACE_NAME,
            SqlModelVersion.name == model,
            SqlModelVersion.version == number,
        )
        .values(current_stage=stage, last_updated_time=int(time.time() * 1000))
    )


def set_state(session: Session, model: str, number: int, state: str) -> None:
    session.execute(update(_V).where(_V.c.model == model, _V.c.version == number).values(state=state))


def set_status(session: Session, model: str, number: int, status: str, message: str | None) -> None:
    session.execute(
        update(SqlModelVersion)
        .where(
            SqlModelVersion.workspace == DEFAULT_WORKSPACE_NAME,
            SqlModelVersion.name == model,
            SqlModelVersion.version == number,
        )
        .values(status=status, status_message=message)
    )


def set_source(session: Session, model: str, number: int, source: str, location: str) -> None:
    session.execute(
        update(SqlModelVersion)
        .where(
            SqlModelVersion.workspace == DEFAULT_WORKSPACE_NAME,
            SqlModelVersion.name == model,
            SqlModelVersion.version == number,
        )
        .values(
            source=source,
            storage_location=f"mlflow-artifacts:/{location}",
            last_updated_time=int(time.time() * 1000),
        )
    )


def refuse_open_rollout(session: Session, model: str, number: int | None = None) -> None:
    running = records.open_rollout(session, model)
    named = [] if running is None else [running["version"], *(running["plan"].get("beside") or ())]
    if running is not None and (number is None or str(number) in map(str, named)):
        raise Refusal(
            "WT_ROLLOUT_RUNNING",
            f"a rollout of version {running['version']} of {model!r} is open ({running['holder']})",
            hint="let it end, or roll it back",
            status=409,
        )
