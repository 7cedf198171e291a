"""The matrix of roles and actions, cell by cell, and the page that shows it (DEMAND REG-11)."""

from __future__ import annotations

from pathlib import Path

import pytest

from windtunnel_mlflow.access import matrix

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "roles.md"

#: One letter for each of data_scientist, ml_engineer, approver, admin, service: y(es), n(o), p(olicy).
EXPECTED = {
    "read": "yyyyy",
    "register": "yynyy",
    "describe": "yyyyy",
    "card": "yynyy",
    "comment": "yyyyy",
    "delete": "yynyy",
    "stage": "yyyyy",
    "promote": "nynyy",
    "approve": "npppn",
    "rollback": "npppn",
    "review": "nyyyn",
    "withdraw": "nnnyy",
    "verdict": "nnnyy",
    "rollout": "nnnyy",
    "describe-policy": "nnnny",
    "set-policy": "nnnyn",
    "people": "nnnyn",
    "adopt": "nnnyn",
    "restore": "yynyy",
    "clean": "nnnyy",
    "exchange": "nnnyn",
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
