"""The candidates of a rollout: one, or several that are released together against one champion (A/B/n).

A rollout has the number of its first candidate; its plan names the others (``beside``), so what is judged and who flies
are one document that never changes while it is open.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.orm import Session

from windtunnel_mlflow import records, rows
from windtunnel_mlflow.refusal import Refusal


def named(rollout: Mapping[str, Any]) -> list[int]:
    """Version numbers of all candidates of a rollout, the first one first."""
    return [int(rollout["version"]), *(int(number) for number in rollout["plan"].get("beside") or ())]


def asked(number: int, plan: Mapping[str, Any]) -> list[int]:
    """Version numbers that a wish for a rollout names.

    Raises:
        Refusal: WT_REQUEST when ``plan.beside`` is no list of different version numbers.
    """
    beside = plan.get("beside") or []
    good = isinstance(beside, list) and all(str(one).isdecimal() for one in beside)
    found = [number, *(int(one) for one in beside)] if good else []
    if not good or len(set(found)) != len(found):
        raise Refusal(
            "WT_REQUEST",
            f"plan.beside must name further versions, each once, found {beside!r}",
            hint=f"for instance [{number + 1}]",
            status=400,
        )
    return found


def check(session: Session, model: str, numbers: list[int], champion: int | None) -> None:
    """Refuse further candidates that cannot fly.

    Raises:
        Refusal: WT_CHAMPION, WT_NOT_READY, WT_REQUEST.
    """
    for number in numbers[1:]:
        version = records.version(session, model, number)
        if version is None:
            raise Refusal("WT_REQUEST", f"model {model!r} has no version {number}", status=400)
        if champion is None:
            raise Refusal(
                "WT_REQUEST",
                f"several versions of {model!r} need a champion to be compared with",
                hint="release one of them first",
                status=409,
            )
        if champion == number:
            raise Refusal("WT_CHAMPION", f"version {number} is the champion of {model!r} already", status=409)
        if version["status"] != "READY":
            raise Refusal(
                "WT_NOT_READY", f"version {number} of {model!r} is {version['status']}, not READY", status=409
            )


def winner(rollout: Mapping[str, Any], version: int | None) -> int:
    """The candidate that is to become champion.

    Raises:
        Refusal: WT_REQUEST when it is not said which of several, or none of them is named.
    """
    numbers = named(rollout)
    if version is None and len(numbers) == 1:
        return numbers[0]
    if version not in numbers:
        raise Refusal(
            "WT_REQUEST",
            f"this rollout releases versions {numbers} of {rollout['model']!r}, and "
            + ("it is not said which one won" if version is None else f"version {version} is none of them"),
            hint="name one of them as 'version'",
            status=400,
        )
    return int(version)


def taken_back(session: Session, rollout: Mapping[str, Any], state: str, *, but: int | None = None) -> None:
    """Write that the candidates of a rollout are in ``state`` now, archived; all, or all ``but`` the winner."""
    for number in named(rollout):
        if number != but:
            rows.set_state(session, str(rollout["model"]), number, state)
            rows.set_stage(session, str(rollout["model"]), number, rows.ARCHIVED)
