"""What of a model's signature a caller of before would miss. Pure, over MLflow's signatures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from windtunnel.serving.compatibility import refusals


def broken(before: Any, after: Any) -> str | None:
    """Why requests or answers of ``before`` are no good with ``after``; None when it only takes or tells more.

    Args:
        before, after: as ``MLmodel`` has them: ``inputs``, ``outputs``, ``params``, each JSON text. What cannot be
            read counts as broken.
    """
    if not isinstance(before, Mapping) or not isinstance(after, Mapping):
        return "it was given as a word, which cannot be compared"
    parts = {name: (_specs(before.get(name)), _specs(after.get(name))) for name in ("inputs", "outputs", "params")}
    for name, (left, right) in parts.items():
        if left is None or right is None:
            return f"its {name} cannot be read"
    inputs, outputs, params = parts["inputs"], parts["outputs"], parts["params"]
    if inputs[0] != inputs[1] and (reasons := refusals(*inputs)):
        return reasons[0].replace("the candidate", "this version").replace("the champion", "its parent")
    for what, (left, right) in (("output", outputs), ("parameter", params)):
        if left != right and (reason := _lost(what, left or [], right or [])):
            return reason
    return None


def _specs(text: Any) -> list[dict[str, Any]] | None:
    """The specs of one part; empty where there is none."""
    if text is None:
        return []
    try:
        found = json.loads(text) if isinstance(text, str) else text
    except ValueError:
        return None
    if found is None:
        return []
    good = isinstance(found, list) and all(isinstance(one, dict) for one in found)
    return found if good else None


def _lost(what: str, before: list[dict[str, Any]], after: list[dict[str, Any]]) -> str | None:
    """A named thing that is gone or another; where some have no name, any difference."""
    if not all(one.get("name") for one in (*before, *after)):
        return f"its {what}s are others"
    now = {one["name"]: one for one in after}
    for one in before:
        if one["name"] not in now:
            return f"{what} {one['name']!r} is gone"
        if one != now[one["name"]]:
            return f"{what} {one['name']!r} is another"
    return None
