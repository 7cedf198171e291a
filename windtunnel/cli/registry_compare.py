"""A comparison of two versions as people read it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def lines(found: Mapping[str, Any]) -> Iterator[str]:
    """What differs, area by area."""
    left, right = found["versions"]
    named = [f"version {one['version']} ({one['semver']})" for one in (left, right)]
    yield f"{found['model']}: {' and '.join(named)}"
    for one in (left, right):
        yield f"  {one['version']}: {one['semver_reason']}"
    yield "metrics:"
    yield from (f"  {_metric(one)}" for one in found["metrics"])
    if not found["metrics"]:
        yield "  none are known"
    signature = found["signature"]
    changed = [row for part in ("inputs", "outputs", "params") for row in _rows(signature[part], part)]
    yield from _area("signature", changed, known=signature["known"])
    environment = found["environment"]
    packages = _rows(environment["packages"])
    if environment["python"]:
        packages.insert(0, f"Python: {environment['python'][0]} -> {environment['python'][1]}")
    yield from _area("environment", packages, known=environment["known"])
    yield f"data: {_data(found['data'])}"
    recipe = found["recipe"]
    changed = [row for part in ("params", "features", "other") for row in _rows(recipe[part], part)]
    yield from _area("recipe", changed, known=recipe["known"])
    yield from _files(found["files"])


def _metric(one: Mapping[str, Any]) -> str:
    difference = "" if one["difference"] is None else f" ({one['difference']:+.4g})"
    chance = one["significance"]
    if chance != "not known":
        low, high = one["interval"]
        chance = f"{chance}: worse by {low:.4g} to {high:.4g}, 95 %"
    else:
        chance = f"significance not known: {one['why']}"
    return f"{one['name']} ({one['source']}): {_number(one['left'])} -> {_number(one['right'])}{difference}; {chance}"


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, (int, float)) else "-"


def _rows(changes: Sequence[Mapping[str, Any]], part: str = "") -> list[str]:
    found = []
    for one in changes:
        name = f"{part}: {one['name']}" if part else one["name"]
        if one["change"] == "changed":
            found.append(f"{name}: {one['left']} -> {one['right']}")
        else:
            value = one["right"] if one["change"] == "added" else one["left"]
            found.append(f"{name}: {one['change']}{f' ({value})' if value not in (None, '', {}) else ''}")
    return found


def _area(name: str, changed: Sequence[str], *, known: bool) -> Iterator[str]:
    if changed:
        yield f"{name}:"
        yield from (f"  {row}" for row in changed)
        if not known:
            yield "  and what only one of the two tells"
    else:
        yield f"{name}: {'the same' if known else 'not known of both'}"


def _data(data: Mapping[str, Any]) -> str:
    sides = []
    for one in (data["left"], data["right"]):
        rows = "" if one["rows"] is None else f", {one['rows']} rows"
        sides.append(f"{(one['digest'] or 'not known')[:19]}{rows}")
    same = {True: "the same, ", False: "", None: ""}[data["same"]]
    return f"{same}{sides[0]}" if data["same"] else f"{sides[0]} -> {sides[1]}"


def _files(files: Mapping[str, Any]) -> Iterator[str]:
    if files["same_content"]:
        yield "files: the same content"
        return
    yield f"files: {files['same']} the same"
    for one in files["added"]:
        yield f"  {one['path']}: added, {one['bytes']} bytes"
    for one in files["removed"]:
        yield f"  {one['path']}: removed, {one['bytes']} bytes"
    for one in files["changed"]:
        yield f"  {one['path']}: changed, {one['bytes'][0]} -> {one['bytes'][1]} bytes"
