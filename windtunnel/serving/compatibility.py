"""Whether a candidate accepts every request the champion accepts (ROL-11): pure, over MLflow's schema of inputs.

Traffic is divided by lot: a request made for the champion must be a good one for the candidate too, or its errors
would say nothing about the model. What makes it a bad one: an input the candidate does not know, one that it alone
demands, a type that cannot hold the champion's whole range, a shape that is narrower. Inputs it takes but does
not need, a wider type or a free dimension are no reason.

Names, types, ``required`` and tensor shapes are those of an ``MLmodel`` file's signature
(mlflow.org/docs/latest/ml/model/signatures).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Input = Mapping[str, Any]

#: Column type to the types whose every value it takes. A type always takes itself.
_TAKES: dict[str, frozenset[str]] = {
    "long": frozenset({"integer"}),
    "float": frozenset({"integer", "long"}),
    "double": frozenset({"integer", "long", "float"}),
}


def refusals(
    champion: Sequence[Input] | None, candidate: Sequence[Input] | None, welcome: Iterable[str] = ()
) -> list[str]:
    """Why the candidate does not accept every request the champion accepts; empty when it does.

    Args:
        champion, candidate: ``inputs`` of their signatures, as MLflow writes them: column specs
            (``{"name", "type", "required"}``) or tensor specs (``{"name", "type": "tensor", "tensor-spec"}``); None or
            empty for a model without signature.
        welcome: inputs that the candidate's server takes though its model does not read them.
    """
    if not champion or not candidate:
        missing = "neither has" if not champion and not candidate else f"the {_without(champion)} has not"
        return [f"what both accept cannot be compared: a signature of inputs is needed, {missing}"]
    if any(_is_tensor(item) for item in champion) != any(_is_tensor(item) for item in candidate):
        return [f"the champion takes {_style(champion)}, the candidate {_style(candidate)}"]
    if not all(item.get("name") for item in (*champion, *candidate)):
        return _by_position(champion, candidate)
    return _by_name(champion, candidate, frozenset(welcome), "input")


def _by_name(
    champion: Sequence[Input], candidate: Sequence[Input], welcome: frozenset[str], what: str, within: str = ""
) -> list[str]:
    known = {str(item["name"]): item for item in candidate}
    sent = {str(item["name"]): item for item in champion}
    found = []
    for name, item in sent.items():
        here = f"{what} {within + name!r}"
        other = known.get(name)
        if other is None:
            if name not in welcome:
                found.append(f"{here} is unknown to the candidate")
            continue
        found += _compared(here, item, other, f"{within}{name}.")
    for name, item in known.items():
        if name not in sent and item.get("required", True):
            found.append(f"{what} {within + name!r} is demanded by the candidate, the champion does not know it")
    return found


def _by_position(champion: Sequence[Input], candidate: Sequence[Input]) -> list[str]:
    """Inputs of which some have no name are told apart by their place."""
    if len(champion) != len(candidate):
        return [f"the champion takes {len(champion)} inputs without name, the candidate {len(candidate)}"]
    return [
        reason
        for place, (item, other) in enumerate(zip(champion, candidate, strict=True), 1)
        for reason in _compared(f"input {place}", item, other, "")
    ]


def _compared(here: str, champion: Input, candidate: Input, within: str) -> list[str]:
    found = _types(here, champion, candidate, within)
    if candidate.get("required", True) and not champion.get("required", True):
        found.append(f"{here} may be missing for the champion, the candidate demands it")
    return found


def _types(here: str, champion: Input, candidate: Input, within: str) -> list[str]:
    before, after = str(champion.get("type")), str(candidate.get("type"))
    if after == "any":
        return []
    if before != after:
        if before in _TAKES.get(after, frozenset()):
            return []
        return [f"{here} is {before} for the champion, {after} for the candidate"]
    if before == "tensor":
        return _tensors(here, champion["tensor-spec"], candidate["tensor-spec"])
    if before == "array":
        return _types(f"{here}, each item,", champion["items"], candidate["items"], within)
    if before == "map":
        return _types(f"{here}, each value,", champion["values"], candidate["values"], within)
    if before == "object":
        parts = [
            [{"name": name, **part} for name, part in item.get("properties", {}).items()]
            for item in (champion, candidate)
        ]
        return _by_name(parts[0], parts[1], frozenset(), "property", within)
    return []


def _tensors(here: str, champion: Mapping[str, Any], candidate: Mapping[str, Any]) -> list[str]:
    """A tensor's type is taken exactly, as MLflow does; a dimension of -1 takes any size."""
    before, after = [int(size) for size in champion["shape"]], [int(size) for size in candidate["shape"]]
    found = []
    if champion["dtype"] != candidate["dtype"]:
        found.append(f"{here} has type {champion['dtype']} for the champion, {candidate['dtype']} for the candidate")
    fits = len(before) == len(after) and all(wide in (-1, narrow) for narrow, wide in zip(before, after, strict=True))
    if not fits:
        found.append(f"{here} has shape {before} for the champion, {after} for the candidate")
    return found


def _without(champion: Sequence[Input] | None) -> str:
    return "candidate" if champion else "champion"


def _is_tensor(item: Input) -> bool:
    return item.get("type") == "tensor"


def _style(items: Sequence[Input]) -> str:
    return "tensors" if any(_is_tensor(item) for item in items) else "columns"
