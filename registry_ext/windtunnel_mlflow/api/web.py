"""What every endpoint needs: the body, numbers in it, and MLflow's own right to change a model."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flask import request
from mlflow.exceptions import MlflowException
from mlflow.server import auth
from werkzeug.routing import IntegerConverter, Map

from windtunnel_mlflow.access import identity
from windtunnel_mlflow.refusal import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from windtunnel_mlflow.store import GovernedStore

_MOST = 10_000
#: Of a number in the database: PostgreSQL's integer, the smaller of the two.
_LARGEST = 2**31 - 1


class Number(IntegerConverter):
    """A number in a path; one that no table can hold names nothing (404)."""

    def __init__(self, map: Map) -> None:
        super().__init__(map, max=_LARGEST)


def refuse_unwritable() -> None:
    """PostgreSQL's texts hold no NUL, so nothing has such a name.

    Raises:
        Refusal: the path or a parameter has one.
    """
    if "\0" in request.path or any("\0" in value for values in request.args.listvalues() for value in values):
        raise Refusal("WT_REQUEST", "the request's path or a parameter has a NUL character", status=400)


def body(*required: str) -> dict[str, Any]:
    found = request.get_json(silent=True)
    if not isinstance(found, dict):
        raise Refusal("WT_REQUEST", "expected a JSON object as the request's body", status=400)
    if b"\\u0000" in request.get_data():
        raise Refusal("WT_REQUEST", "a text in the request's body has a NUL character", status=400)
    absent = [name for name in required if found.get(name) is None]
    if absent:
        raise Refusal("WT_REQUEST", f"the request lacks {', '.join(absent)}", status=400)
    return found


def whole(value: Any, name: str, most: int = _LARGEST) -> int:
    try:
        found = int(value)
    except (TypeError, ValueError, OverflowError):
        raise Refusal("WT_REQUEST", f"{name} is {value!r}; expected a whole number", status=400) from None
    if abs(found) > most:
        raise Refusal("WT_REQUEST", f"{name} is {found}; expected at most {most}", status=400)
    return found


def number(value: Any, name: str) -> float:
    """A finite number."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise Refusal("WT_REQUEST", f"{name} is {value!r}; expected a number", status=400)
    return found


def texts(body: dict[str, Any], *names: str) -> None:
    """Check that these are texts, where they are given.

    Raises:
        Refusal: one is not.
    """
    for name in names:
        if not isinstance(body.get(name), str | None):
            raise Refusal("WT_REQUEST", f"{name} is {body[name]!r}; expected a text", status=400)


def moment(value: str, name: str) -> float:
    """Seconds since the epoch, or an ISO date with a time; UTC unless it says otherwise."""
    try:
        found = float(value)
    except ValueError:
        try:
            told = datetime.fromisoformat(value)
        except ValueError:
            raise Refusal(
                "WT_REQUEST", f"{name} is {value!r}; expected a time such as 2026-01-31T12:00", status=400
            ) from None
        return (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
    if not math.isfinite(found):
        raise Refusal("WT_REQUEST", f"{name} is {value!r}; expected a time", status=400)
    return found


def limit() -> int:
    return max(1, min(_MOST, whole(request.args.get("limit", 100), "limit")))


def may_edit(model: str) -> bool:
    """Whether MLflow lets the user of the request change the model; anybody may start a new one, as in MLflow."""
    actor = identity.actor()
    if actor.trusted:
        return True
    permission = auth._get_role_permission_or_default(
        auth._role_permission_for(
            username=actor.name,
            resource_type="registered_model",
            resource_key=model,
            workspace_lookup_id=model,
            workspace_fetcher=auth._get_model_registry_store().get_registered_model,
            workspace_label="registered model",
        )
    )
    return bool(permission.can_update)


def may_update(model: str) -> None:
    """Registering needs the right to change the model.

    Raises:
        Refusal: the user has it not.
    """
    if not may_edit(model):
        raise Refusal("WT_ROLE", f"user {identity.actor().name!r} may not change model {model!r}")


def may_edit_known(model: str) -> bool:
    """``may_edit``; False for a model that is not there."""
    try:
        return may_edit(model)
    except MlflowException:
        return identity.actor().trusted


def readable() -> Callable[[str], bool]:
    """Says of a model's name whether MLflow lets the user of the request read it; its grants are read once."""
    actor = identity.actor()
    if actor.trusted:
        return lambda model: True
    can_read: Callable[[str], bool] = auth._role_based_read_predicate(actor.name, "registered_model")
    return can_read


def need_read(model: str) -> None:
    """Raises:
    Refusal: MLflow does not let the user of the request read the model.
    """
    if not readable()(model):
        raise Refusal("WT_ROLE", f"user {identity.actor().name!r} may not read model {model!r}")


def need_edit(store: GovernedStore, model: str, action: str, number: int | None = None) -> None:
    """Raises:
    Refusal: MLflow does not let the user of the request change the model; it is in the audit as ``action``.
    """
    if not may_edit_known(model):
        refusal = Refusal("WT_ROLE", f"user {identity.actor().name!r} may not change model {model!r}")
        store.note_refusal(model, action, refusal.code, version=number)
        raise refusal
