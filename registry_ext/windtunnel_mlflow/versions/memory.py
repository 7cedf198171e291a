"""What MLflow's rows said of a version or a model when it was deleted, for MLflow blanks or removes them."""

from __future__ import annotations

import json
from typing import Any

from mlflow.entities.model_registry.model_version_stages import STAGE_NONE
from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlModelVersionTag,
    SqlRegisteredModel,
    SqlRegisteredModelAlias,
    SqlRegisteredModelTag,
)
from mlflow.utils.time import get_current_time_millis
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME
from sqlalchemy import select
from sqlalchemy.orm import Session

_FIELDS = (
    "creation_time", "description", "user_id", "current_stage", "source", "storage_location", "run_id", "run_link",
    "status", "status_message",
)  # fmt: skip
_MODEL_FIELDS = ("creation_time", "description")


def of_version(session: Session, model: str, number: int, key: str, actor: str) -> str:
    """JSON: MLflow's fields, ``tags`` and ``aliases``; our ``key``; and who deletes it, ``by``."""
    row = session.get(SqlModelVersion, (DEFAULT_WORKSPACE_NAME, model, number))
    tag, alias = SqlModelVersionTag, SqlRegisteredModelAlias
    tags = session.execute(
        select(tag.key, tag.value).where(
            tag.workspace == DEFAULT_WORKSPACE_NAME, tag.name == model, tag.version == number
        )
    )
    aliases = session.execute(
        select(alias.alias).where(
            alias.workspace == DEFAULT_WORKSPACE_NAME, alias.name == model, alias.version == number
        )
    ).scalars()
    return json.dumps(
        {
            "key": key,
            "by": actor,
            "row": {} if row is None else {name: getattr(row, name) for name in _FIELDS},
            "tags": {one.key: one.value for one in tags},
            "aliases": sorted(aliases),
        }
    )


def of_model(session: Session, model: str) -> str:
    """JSON: MLflow's fields of the model, and ``tags``."""
    row = session.get(SqlRegisteredModel, (DEFAULT_WORKSPACE_NAME, model))
    tag = SqlRegisteredModelTag
    tags = session.execute(select(tag.key, tag.value).where(tag.workspace == DEFAULT_WORKSPACE_NAME, tag.name == model))
    fields = {} if row is None else {name: getattr(row, name) for name in _MODEL_FIELDS}
    return json.dumps({"row": fields, "tags": {one.key: one.value for one in tags}})


def put_version_back(session: Session, model: str, number: int, kept: dict[str, Any]) -> None:
    """MLflow's row and tags as they were. Aliases are not: somebody else may have them, and to give one is a choice."""
    row = session.get(SqlModelVersion, (DEFAULT_WORKSPACE_NAME, model, number))
    if row is None:
        row = SqlModelVersion(workspace=DEFAULT_WORKSPACE_NAME, name=model, version=number)
        session.add(row)
    for name, value in kept["row"].items():
        setattr(row, name, value)
    if row.current_stage == "Production":
        row.current_stage = STAGE_NONE  # it was not the champion, for a champion is not deleted
    row.last_updated_time = get_current_time_millis()
    session.flush()
    for key, value in kept["tags"].items():
        session.merge(
            SqlModelVersionTag(workspace=DEFAULT_WORKSPACE_NAME, name=model, version=number, key=key, value=value)
        )


def put_model_back(session: Session, model: str, kept: dict[str, Any]) -> None:
    """MLflow's row and tags of the model as they were."""
    row = SqlRegisteredModel(workspace=DEFAULT_WORKSPACE_NAME, name=model, **kept["row"])
    row.last_updated_time = get_current_time_millis()
    session.add(row)
    session.flush()
    for key, value in kept["tags"].items():
        session.add(SqlRegisteredModelTag(workspace=DEFAULT_WORKSPACE_NAME, name=model, key=key, value=value))
    session.flush()
