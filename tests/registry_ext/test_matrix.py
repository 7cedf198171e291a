"""The matrix of roles and actions, cell by cell, and the page that shows it (DEMAND REG-11)."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from windtunnel.errors import StackError
from windtunnel.home import Home
from windtunnel.registry import launch, signin
from windtunnel.stack import settings
from windtunnel_mlflow.access import matrix, people

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "roles.md"

#: One letter for each of viewer, data_scientist, ml_engineer, approver, admin, service: y(es), n(o), p(olicy).
EXPECTED = {
    "read": "yyyyyy",
    "register": "nyynyy",
    "describe": "nyyyyy",
    "card": "nyynyy",
    "comment": "nyyyyy",
    "delete": "nyynyy",
    "stage": "nyyyyy",
    "promote": "nnynyy",
    "approve": "nnpppn",
    "rollback": "nnpppn",
    "review": "nnyyyn",
    "withdraw": "nnnnyy",
    "verdict": "nnnnyy",
    "rollout": "nnnnyy",
    "describe-policy": "nnnnny",
    "set-policy": "nnnnyn",
    "people": "nnnnyn",
    "adopt": "nnnnyn",
    "restore": "nyynyy",
    "clean": "nnnnyy",
    "exchange": "nnnnyn",
}
CELLS = [(role, action, EXPECTED[action][i]) for action in matrix.MATRIX for i, role in enumerate(matrix.ROLES)]


def test_every_action_is_expected() -> None:
    assert list(EXPECTED) == list(matrix.MATRIX)


@pytest.mark.parametrize(("role", "action", "expected"), CELLS)
def test_cell(role: matrix.Role, action: matrix.Action, expected: str) -> None:
    assert matrix.cell(role, action)[0] == expected
    assert matrix.may({role}, action) == (expected == "y")
    assert matrix.may({role}, action, [role]) == (expected in "yp"), "policy may name nobody whom the matrix refuses"
    assert (role in matrix.who(action)) == (expected in "yp")
    assert (role in matrix.who(action, [])) == (expected == "y")


def test_several_roles_add_up() -> None:
    assert matrix.may({"approver", "ml_engineer"}, "promote")
    assert matrix.may({"data_scientist", "approver"}, "approve", ["approver"])
    assert not matrix.may(set(), "read")
    assert matrix.only_reads({"viewer"}) and not matrix.only_reads({"viewer", "approver"})


def test_a_group_of_the_identity_provider_may_bring_any_role_of_people() -> None:
    """DEMAND REG-10"""
    assert get_args(signin.Given) == tuple(role for role in matrix.ROLES if role != "service")


def test_who_was_given_no_role_has_what_the_setting_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def held(told: str | None) -> frozenset[str]:
        env = launch.prepare(Home(tmp_path), 1, default_role=told).env
        monkeypatch.setenv(launch.ENV_DEFAULT_ROLE, env.get(launch.ENV_DEFAULT_ROLE, ""))
        return people._held(set(), False)

    assert held(None) == {"data_scientist"}
    assert held(settings.parse({"people": {"default_role": "viewer"}}, "x").default_role) == {"viewer"}
    assert people._held({"approver"}, False) == {"approver"} and people._held(set(), True) == {"admin"}
    for plain in ({"default_role": "approver"}, {"default_role": "viewer", "roles": 1}, {"role": "viewer"}):
        with pytest.raises(StackError, match="people"):
            settings.parse({"people": plain}, "windtunnel.toml")
    with pytest.raises(StackError, match="approver"):
        held("approver")


def test_the_page_shows_the_matrix() -> None:
    """``python -m tests...`` is not needed: the table is short, a difference is shown whole."""
    text = PAGE.read_text(encoding="utf-8")
    assert table() in text, f"docs/reference/roles.md should hold:\n{table()}"


def table() -> str:
    head = [
        "| action | " + " | ".join(f"`{role}`" for role in matrix.ROLES) + " |",
        "|---|" + "---|" * len(matrix.ROLES),
    ]
    rows = [
        f"| {says} | " + " | ".join(matrix.cell(role, action) for role in matrix.ROLES) + " |"
        for action, (says, _, _) in matrix.MATRIX.items()
    ]
    return "\n".join([*head, *rows])
