"""The store asks the role matrix before anything that MLflow's own permissions do not decide."""

from __future__ import annotations

from collections.abc import Iterable

from windtunnel_mlflow.access import matrix, people
from windtunnel_mlflow.access.identity import Actor
from windtunnel_mlflow.refusal import Refusal


def need(actor: Actor, action: matrix.Action, what: str, named: Iterable[str] = ()) -> frozenset[str]:
    """The actor's roles, one of which may do it.

    Args:
        what: the action in words, for the refusal.
        named: roles that the policy in force names.

    Raises:
        Refusal: WT_ROLE.
    """
    named = list(named)
    held = people.roles_of(actor)
    if not matrix.may(held, action, named):
        can = matrix.who(action, named)
        raise Refusal(
            "WT_ROLE",
            f"user {actor.name!r} may not {what}",
            hint=f"it takes the role {' or '.join(can)}; {actor.name!r} is {' and '.join(sorted(held))}"
            if can
            else "the policy names no role that may",
        )
    return held
