"""Which semantic version a new version gets, by comparison with its parent. Pure.

What differs is found here, the gravest first; what it makes of the version is the policy's ``numbering`` (REG-1).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from windtunnel.canonical import digest
from windtunnel.spec.numbering import Cause, Level, Numbering
from windtunnel_mlflow.versions import signatures

CAUSES: tuple[Cause, ...] = get_args(Cause)
LEVELS: tuple[Level, ...] = get_args(Level)

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


def level(parent: Content, child: Content, numbering: Numbering) -> tuple[Level, str]:
    """What a version is over its parent, by the gravest difference, and a sentence that names it."""
    graded = [(numbering.level(cause), cause, why) for cause, why in _differences(parent, child)]
    found = min(graded, key=lambda one: (LEVELS.index(one[0]), CAUSES.index(one[1])))
    return found[0], found[2]


def _differences(parent: Content, child: Content) -> Iterator[tuple[Cause, str]]:
    before, after = parent.facts.get("signature"), child.facts.get("signature")
    if before is None or after is None:
        before, after = parent.recipe.get("signature"), child.recipe.get("signature")
    if before is not None and after is not None and not _same(before, after):
        broken = signatures.broken(before, after)
        yield ("signature", f"the signature changed: {broken}") if broken else ("wider", "the signature is wider")
    before, after = parent.facts.get("flavor"), child.facts.get("flavor")
    if before is not None and after is not None and not _same(before, after):
        yield "algorithm", f"the model flavor changed from {before} to {after}"
    before, after = parent.recipe.get("algorithm"), child.recipe.get("algorithm")
    if before is not None and after is not None and not _same(before, after):
        yield "algorithm", f"the algorithm changed from {before} to {after}"
    if not child.recipe or not parent.recipe:
        yield "unknown", f"the recipe of {'this version' if not child.recipe else 'its parent'} is not known"
        return
    if changed := [key for key in RECIPE_KEYS if not _same(parent.recipe.get(key), child.recipe.get(key))]:
        yield "recipe", f"the recipe changed ({', '.join(changed)})"
    if not _same(parent.recipe.get("data"), child.recipe.get("data")):
        yield "data", "same recipe, other data"
    else:
        yield "nothing", "same recipe, same data"


def assign(
    parent: tuple[str, Content] | None,
    child: Content,
    taken: Collection[str],
    wanted: str | None = None,
    numbering: Numbering | None = None,
) -> Assigned:
    """The semantic version of a new version.

    Args:
        parent: semantic version and content of the champion, else of the newest version; None for the first.
        child: content of the new version.
        taken: every semantic version this model ever had, deleted ones too: none is used again.
        wanted: the caller's override; may only be higher than the rule's answer.
        numbering: what each difference makes of the version; the built-in rule when None.

    Raises:
        ValueError: ``wanted`` is not MAJOR.MINOR.PATCH, is taken, or is below the rule's answer.
    """
    if parent is None:
        base, step, reason = FIRST, 1, "the first version"
        if render(base) in taken:
            base = _next(parse(max(taken, key=parse)), 1)
            reason = "no version is left to compare with"
    else:
        how, why = level(parent[1], child, numbering or Numbering())
        step = LEVELS.index(how)
        base = _next(parse(parent[0]), step)
        reason = f"{how.upper()} over {parent[0]}: {why}"
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
