"""Who is champion in a registry that nobody governed: alias and stage say it there, and may say two things. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Claim:
    """What MLflow's tables say about a model's champion.

    Attributes:
        version: the one that is champion there; None where nobody is, or where they do not agree.
        others: further versions in the stage Production, which has room for one.
        by: how it is known: ``alias champion`` or ``stage Production``.
        conflict: why nobody can be taken over; None where it is clear.
    """

    version: int | None
    others: tuple[int, ...] = ()
    by: str = ""
    conflict: str | None = None


def claim(alias: int | None, production: Sequence[int]) -> Claim:
    """The champion of a plain registry.

    ``models:/NAME/Production`` has always meant the newest version of the stage, and ``models:/NAME@champion`` the
    alias. Where both are used and differ, two versions are in use, and which is champion is not ours to guess.

    Args:
        alias: version of the alias ``champion``.
        production: versions in the stage Production.
    """
    newest = max(production, default=None)
    if alias is None:
        return Claim(newest, tuple(sorted(set(production) - {newest})), "stage Production" if newest else "")
    if production and alias not in production:
        return Claim(
            None,
            conflict=f"the alias champion is version {alias} and the stage Production is version {newest}; bring the "
            "one that is not champion to Archived, or delete the alias, and adopt again",
        )
    return Claim(alias, tuple(sorted(set(production) - {alias})), "alias champion")
