"""Names that are the registry's own: tags ``windtunnel.*``, the alias ``champion``, the mark of a prompt."""

from __future__ import annotations

from typing import Any

from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from sqlalchemy.orm import Session

from windtunnel_mlflow import records
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.rows import CHALLENGER, CHAMPION

TAG_PREFIX = "windtunnel."


def meant(alias: str) -> str | None:
    """Which of our two aliases this is, or could be taken for."""
    found = alias.strip().casefold()
    return found if found in (CHAMPION, CHALLENGER) else None


def number(version: Any) -> int:
    from mlflow.utils.validation import _validate_model_version

    return int(_validate_model_version(version))


def refuse_key(key: str) -> None:
    if key.strip().casefold().startswith(TAG_PREFIX):
        raise Refusal(
            "WT_TAG",
            f"the tag {key!r} cannot be changed: tags {TAG_PREFIX}* are the registry's own",
            hint="choose another name",
        )


def refuse_tags(tags: Any) -> None:
    for tag in tags or []:
        refuse_key(tag.key)


def is_prompt(tags: Any) -> bool:
    return any(tag.key == IS_PROMPT_TAG_KEY and str(tag.value).lower() == "true" for tag in tags or [])


def refuse_prompt_mark(session: Session, model: str, key: str) -> None:
    # MLflow hides prompts from every model search: the mark would make a governed model vanish.
    if key == IS_PROMPT_TAG_KEY and records.governed(session, model):
        raise Refusal("WT_TAG", f"model {model!r} has governed versions and cannot be marked as a prompt")


def refuse_spelling(alias: str, meant: str) -> None:
    if alias != meant:
        raise Refusal("WT_ALIAS", f"the alias {alias!r} could be taken for {meant!r}")
