"""Who may do what: role by action. Pure; ``docs/reference/roles.md`` is this table (REG-10, REG-11).

``yes`` needs MLflow's own right to the model as well, where MLflow asks for it. ``policy`` is a yes where the policy in
force names the role. What is missing here is no.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

Role = Literal["viewer", "data_scientist", "ml_engineer", "approver", "admin", "service"]
ROLES: tuple[Role, ...] = ("viewer", "data_scientist", "ml_engineer", "approver", "admin", "service")
#: All but who only reads.
WRITERS: tuple[Role, ...] = ROLES[1:]

#: What each role is for; the description of the role in MLflow.
MEANING: dict[str, str] = {
    "viewer": "reads, and changes nothing",
    "data_scientist": "trains and registers models",
    "ml_engineer": "releases models and takes them back",
    "approver": "approves and rejects what others made",
    "admin": "sets policies and looks after people",
    "service": "the stack's own programs",
}

#: A user who has none of the six, unless the server is told another of ``launch.DEFAULT_ROLES``.
DEFAULT: Role = "data_scientist"

Cell = Literal["yes", "no", "policy"]

Action = Literal[
    "read",
    "register",
    "describe",
    "card",
    "comment",
    "delete",
    "stage",
    "promote",
    "approve",
    "rollback",
    "review",
    "withdraw",
    "verdict",
    "rollout",
    "describe-policy",
    "set-policy",
    "people",
    "adopt",
    "restore",
    "clean",
    "exchange",
]

#: Action: what it is, who may, and who may where policy says so.
MATRIX: dict[Action, tuple[str, tuple[Role, ...], tuple[Role, ...]]] = {
    "read": ("see versions, verdicts, policies, the audit", ROLES, ()),
    "register": ("register a version", ("data_scientist", "ml_engineer", "admin", "service"), ()),
    "describe": ("describe and tag models and versions", WRITERS, ()),
    "card": ("write the card of a model or a version", ("data_scientist", "ml_engineer", "admin", "service"), ()),
    "comment": ("comment on versions", WRITERS, ()),
    "delete": ("delete a version or a model", ("data_scientist", "ml_engineer", "admin", "service"), ()),
    "stage": ("bring to Staging, Development, Archived; alias `challenger`", WRITERS, ()),
    "promote": ("make a version champion by hand, where policy allows it", ("ml_engineer", "admin", "service"), ()),
    "approve": ("approve and reject", (), ("ml_engineer", "approver", "admin")),
    "rollback": ("emergency rollback", (), ("ml_engineer", "approver", "admin")),
    "review": ("close the review of somebody else's rollback", ("ml_engineer", "approver", "admin"), ()),
    "withdraw": ("take a version out of use", ("admin", "service"), ()),
    "verdict": ("send verdicts that count", ("admin", "service"), ()),
    "rollout": ("open, move and promote rollouts", ("admin", "service"), ()),
    "describe-policy": ("pass on the policy of a model's description", ("service",), ()),
    "set-policy": ("set the policy of the house or of a model", ("admin",), ()),
    "people": ("add users and give them roles", ("admin",), ()),
    "adopt": ("adopt what a plain MLflow server registered", ("admin",), ()),
    "restore": ("bring back a deleted version or model", ("data_scientist", "ml_engineer", "admin", "service"), ()),
    "clean": (
        "remove files of deleted versions after their time, and files that nobody needs",
        ("admin", "service"),
        (),
    ),
    "exchange": ("export and import the registry; trust other installations", ("admin",), ()),
}


def cell(role: Role, action: Action) -> Cell:
    """One cell of the matrix."""
    _, may_always, where_policy_says = MATRIX[action]
    return "yes" if role in may_always else "policy" if role in where_policy_says else "no"


def may(roles: Iterable[str], action: Action, named: Iterable[str] = ()) -> bool:
    """Whether somebody with these roles may do it.

    Args:
        named: roles that the policy in force names for it.
    """
    _, always, policy = MATRIX[action]
    held = set(roles)
    return bool(held & set(always)) or bool(held & set(policy) & set(named))


def only_reads(roles: Iterable[str]) -> bool:
    """Whether somebody with these roles may change nothing, through any door."""
    return not set(roles) & set(WRITERS)


def who(action: Action, named: Iterable[str] | None = None) -> list[str]:
    """Roles that may; those of ``named`` only where policy decides."""
    _, always, policy = MATRIX[action]
    given = set(policy) if named is None else set(named)
    return [role for role in ROLES if role in always or (role in policy and role in given)]
