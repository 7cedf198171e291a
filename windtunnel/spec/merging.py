"""Several policies made one: the house's, a model's own, and the wish of a description. Pure.

A model's policy names only what it has otherwise. What it names is taken where the house lets it be looser, else the
stricter of both counts, field by field.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

from windtunnel.spec.policy import BUILT_IN, TRANSITIONS, Ages, Needs, Policy, PolicyDocument

#: Fields that only the house's policy has.
HOUSE_ONLY = ("looser", "people")


def complete(house: PolicyDocument) -> PolicyDocument:
    """The house's policy with the built-in one where it says nothing."""
    return _overlay(BUILT_IN, house, lambda name, field: True, house)


def merge(house: PolicyDocument, model: PolicyDocument) -> PolicyDocument:
    """The house's complete policy with what a model has otherwise; ``looser`` and ``people`` are the house's."""
    return _overlay(house, model, lambda name, field: name in house.looser or f"{name}.{field}" in house.looser, house)


def looser(house: PolicyDocument, model: PolicyDocument) -> list[str]:
    """What of a model's policy is looser than the house allows, as sentences; such a policy is refused."""
    found = [f"{name} is for the policy of the house" for name in HOUSE_ONLY if name in model.model_fields_set]
    if "retention" in model.model_fields_set and model.retention < house.retention:
        found.append(f"retention: {_said(model.retention)} is shorter than the house's {_said(house.retention)}")
    effective = merge(house, model)
    for name in (*TRANSITIONS, "emergency"):
        if name not in model.model_fields_set:
            continue
        theirs, ours, now = getattr(model, name), getattr(house, name), getattr(effective, name)
        for field in (field for field in type(theirs).model_fields if field in theirs.model_fields_set):
            wanted, given = getattr(theirs, field), getattr(now, field)
            if not _kept(wanted, given):
                found.append(
                    f"{name}.{field}: {_said(wanted)} is looser than the house's {_said(getattr(ours, field))}"
                )
        if getattr(now, "approvals", 0) and not now.approvers:
            found.append(f"{name}.approvers: nobody is left who may approve")
    return found


def wished(effective: PolicyDocument, short: Policy, *, free: bool) -> PolicyDocument:
    """``effective`` with the evidence that a description asks for.

    Args:
        free: nobody has set a policy, so the description's word is the only one; else it can only add kinds.
    """
    made = {name: getattr(effective, name) for name in PolicyDocument.model_fields}
    for name, kinds in (("production", short.champion), ("first", short.first)):
        needs: Needs = made[name]
        ages = dict.fromkeys(kinds) if free else {**dict.fromkeys(kinds), **needs.evidence}
        made[name] = needs.model_copy(update={"evidence": ages})
    return PolicyDocument.model_construct(**made)


def _overlay(
    below: PolicyDocument, above: PolicyDocument, free: Callable[[str, str], bool], house: PolicyDocument
) -> PolicyDocument:
    """``below`` with the fields that ``above`` names: taken where they are free, else the stricter of both."""
    made: dict[str, Any] = {name: getattr(house, name) for name in HOUSE_ONLY}
    if "retention" not in above.model_fields_set:
        made["retention"] = below.retention
    elif free("retention", ""):
        made["retention"] = above.retention
    else:
        made["retention"] = max(below.retention, above.retention)
    made["numbering"] = (above if "numbering" in above.model_fields_set else below).numbering
    for name in (*TRANSITIONS, "emergency"):
        ours, theirs = getattr(below, name), getattr(above, name)
        named = theirs.model_fields_set if name in above.model_fields_set else ()
        values = {field: getattr(ours, field) for field in type(ours).model_fields}
        for field in named:
            wanted = getattr(theirs, field)
            values[field] = wanted if free(name, field) else _STRICTER[field](values[field], wanted)
        made[name] = type(ours).model_construct(**values)
    return PolicyDocument.model_construct(**made)


def _kept(wanted: Any, given: Any) -> bool:
    """Whether what a model wants came through; lists and mappings that were added to did."""
    if isinstance(wanted, dict):
        return all(given.get(key) == value for key, value in wanted.items())
    if isinstance(wanted, list):
        return set(wanted) <= set(given)
    return bool(wanted == given)


def _both(ours: Sequence[Any], theirs: Sequence[Any]) -> list[Any]:
    return [one for one in ours if one in theirs]


def _either(ours: Sequence[Any], theirs: Sequence[Any]) -> list[Any]:
    return [*ours, *(one for one in theirs if one not in ours)]


def _shorter(ours: timedelta | None, theirs: timedelta | None) -> timedelta | None:
    return min((one for one in (ours, theirs) if one is not None), default=None)


def _ages(ours: Ages, theirs: Ages) -> Ages:
    return {kind: _shorter(ours.get(kind), theirs.get(kind)) for kind in _either(list(ours), list(theirs))}


def _limits(ours: dict[str, int], theirs: dict[str, int]) -> dict[str, int]:
    roles = _either(list(ours), list(theirs))
    return {role: min(found[role] for found in (ours, theirs) if role in found) for role in roles}


def _from(ours: list[str], theirs: list[str]) -> list[str]:
    # Nobody named is no demand; one of those named is enough.
    return (_both(ours, theirs) or ours) if ours and theirs else ours or theirs


def _by(ours: list[Any] | None, theirs: list[Any] | None) -> list[Any] | None:
    if ours is None or theirs is None:
        return theirs if ours is None else ours
    return _both(ours, theirs)


#: The stricter of the house's and the model's, by field.
_STRICTER: dict[str, Any] = {
    "evidence": _ages,
    "approvals": max,
    "approvers": _both,
    "four_eyes": _either,
    "valid": _shorter,
    "rejection": lambda ours, theirs: "until_withdrawn" if "until_withdrawn" in (ours, theirs) else ours,
    "lineage": _either,
    "moved_from": _from,
    "card": _either,
    "by": _by,
    "limits": _limits,
}


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(str(key) for key in value) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "no limit" if value is None else str(value)
