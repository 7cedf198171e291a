"""Which semantic version a new version gets, by comparison with its parent. Pure.

The simple rule (REG-1): MAJOR when the signature or the algorithm changed, MINOR when the recipe changed (name,
code, parameters, features) or is not known, PATCH for the same recipe on other data.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from windtunnel.canonical import digest

FIRST = (1, 0, 0)
RECIPE_KEYS = ("recipe", "code", "params", "features")
_SHAPE = re.compile(r"(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})\.(0|[1-9]\d{0,8})")

Triple = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Content:
    """What the rule compares.

    Attributes:
        recipe: as the caller gave it at registration; empty when it gave none.
        facts: what the server read from the model itself: ``signature`` and ``flavor``.
    """

    recipe: Mapping[str, Any]
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Assigned:
    """A semantic version and the sentence that says why."""

    semver: str
    reason: str


def parse(text: str) -> Triple:
    """``"1.2.3"`` as numbers.

    Raises:
        ValueError: it is not MAJOR.MINOR.PATCH.
    """
    found = _SHAPE.fullmatch(text)
    if not found:
        raise ValueError(f"expected MAJOR.MINOR.PATCH such as '1.4.0', found {text!r}")
    return int(found[1]), int(found[2]), int(found[3])


def render(triple: Triple) -> str:
    """The text ``parse`` reads."""
    return ".".join(str(part) for part in triple)


def _same(left: Any, right: Any) -> bool:
    return digest({"value": left}) == digest({"value": right})


def level(parent: Content, child: Content) -> tuple[int, str]:
    """0 for MAJOR, 1 for MINOR, 2 for PATCH, and why."""
    for name, label in (("signature", "signature"), ("flavor", "model flavor")):
        before, after = parent.facts.get(name), child.facts.get(name)
        if before is not None and after is not None and not _same(before, after):
            return 0, f"the {label} changed"
    if "signature" not in child.facts or "signature" not in parent.facts:
        before, after = parent.recipe.get("signature"), child.recipe.get("signature")
        if before is not None and after is not None and not _same(before, after):
            return 0, "the signature changed"
    before, after = parent.recipe.get("algorithm"), child.recipe.get("algorithm")
    if before is not None and after is not None and not _same(before, after):
        return 0, f"the algorithm changed from {before} to {after}"
    if not child.recipe or not parent.recipe:
        whose = "this version" if not child.recipe else "its parent"
        return 1, f"the recipe of {whose} is not known"
    changed = [key for key in RECIPE_KEYS if not _same(parent.recipe.get(key), child.recipe.get(key))]
    if changed:
        return 1, f"the recipe changed ({', '.join(changed)})"
    if _same(parent.recipe.get("data"), child.recipe.get("data")):
        return 2, "same recipe, same data"
    return 2, "same recipe, other data"


def assign(
    parent: tuple[str, Content] | None,
    child: Content,
    taken: Collection[str],
    wanted: str | None = None,
) -> Assigned:
    """The semantic version of a new version.

    Args:
        parent: semantic version and content of the champion, else of the newest version; None for the first.
        child: content of the new version.
        taken: every semantic version this model ever had, deleted ones too: none is used again.
        wanted: the caller's override; may only be higher than the rule's answer.

    Raises:
        ValueError: ``wanted`` is not MAJOR.MINOR.PATCH, is taken, or is below the rule's answer.
    """
    if parent is None:
        base, step, reason = FIRST, 1, "the first version"
        if render(base) in taken:
            base = _next(parse(max(taken, key=parse)), 1)
            reason = "no version is left to compare with"
    else:
        step, why = level(parent[1], child)
        base = _next(parse(parent[0]), step)
        reason = f"{('MAJOR', 'MINOR', 'PATCH')[step]} over {parent[0]}: {why}"
    while render(base) in taken:
        base = _next(base, step)
    if wanted is None:
        return Assigned(render(base), reason)
    if parse(wanted) < base:
        raise ValueError(f"{wanted} is below {render(base)}, which the rule gives ({reason})")
    if wanted in taken:
        raise ValueError(f"{wanted} is taken by another version, maybe a deleted one")
    return Assigned(wanted, f"asked for; the rule gives {render(base)} ({reason})")


def _next(triple: Triple, step: int) -> Triple:
    major, minor, patch = triple
    return ((major + 1, 0, 0), (major, minor + 1, 0), (major, minor, patch + 1))[step]
