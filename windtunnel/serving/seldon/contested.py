"""Fields that we say and somebody else has written to: found, told, and counted on the object itself. Pure.

Server-side apply with ``force`` gives a field to whoever applies last. For what moves traffic that is as it must be: a
rollback may not wait until two controllers agree. But the other one loses its value and nobody is told, and a
controller that writes again and again (a GitOps tool, an autoscaler) fights on in silence. So before each write what
others have made of our fields is found (``found``), and with the write it goes into an annotation (``added``): from
there it comes into the looks, the evidence of the release, and into whichever log comes next.

One field is left to who insists: the number of a predictor's servers (``leave``). An autoscaler that a team runs on its
own is right there, and no safety hangs on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from windtunnel.kube.client import FIELD_MANAGER
from windtunnel.serving.seldon import record

#: A manager that has taken fields so often will do it again.
INSISTS = 3
#: What is kept of it: managers, fields of each, letters of a field. Annotations are small, and looks stand there, too.
_MANAGERS, _FIELDS, _LETTERS = 4, 6, 160


@dataclass(frozen=True, slots=True)
class Overruled:
    """What another manager had written into our fields, and our write set back.

    Attributes:
        manager: as the API's ``managedFields`` name it.
        fields: path, what was found and what is written instead, in words.
        times: how often by now.
        rollout_id: the last one in which it was.
        at: when (seconds since the epoch).
        left: versions whose number of servers is left to it.
    """

    manager: str
    fields: tuple[str, ...]
    times: int = 1
    rollout_id: str | None = None
    at: float = 0.0
    left: tuple[str, ...] = ()


def shared(live: Mapping[str, Any]) -> bool:
    """Whether anybody else owns a field of ``spec``."""
    return any(_owns(one, ()) for one in _entries(live))


def scaler(live: Mapping[str, Any]) -> str | None:
    """Who owns ``spec.replicas`` by the object's scale: an autoscaler, or a person with ``kubectl scale``."""
    scaled = [one for one in _entries(live) if one.get("subresource") == "scale" and _owns(one, ("replicas",))]
    return str(scaled[-1].get("manager")) if scaled else None


def _entries(live: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Others' entries of ``managedFields``, the newest last."""
    every = (live.get("metadata") or {}).get("managedFields") or []
    others = [one for one in every if one.get("manager") != FIELD_MANAGER and one.get("subresource") != "status"]
    return sorted(others, key=lambda one: str(one.get("time") or ""))


def _owns(entry: Mapping[str, Any], keys: Sequence[str]) -> bool:
    """Whether an entry has ``spec.KEYS``, or a whole of which it is a part: a list without merge keys is one field."""
    at: Any = entry.get("fieldsV1") or {}
    for name in ("spec", *keys):
        if not isinstance(at, Mapping) or (at := at.get(f"f:{name}")) is None:
            return False
        if not at or any(key.startswith(("k:", "v:")) for key in at):
            return True
    return True


def found(live: Mapping[str, Any], expected: Mapping[str, Any]) -> list[Overruled]:
    """What others have made of our fields since we wrote them, by manager.

    Args:
        live: the object as it is.
        expected: the whole of what we say of it, by the state that stands on it.
    """
    entries = _entries(live)
    if not entries:
        return []
    told: dict[str, list[str]] = {}
    for difference in _differences(live.get("spec") or {}, expected["spec"], _Path()):
        owner = next((one for one in reversed(entries) if _owns(one, difference.path.keys)), None)
        if owner is not None:
            told.setdefault(str(owner.get("manager")), []).append(difference.words)
    return [
        Overruled(manager, (*fields[:_FIELDS], *([f"and {len(fields) - _FIELDS} more"] if fields[_FIELDS:] else ())))
        for manager, fields in told.items()
    ]


@dataclass(frozen=True, slots=True)
class _Path:
    """A place below ``spec``: in words, and its keys down to the first list."""

    text: str = ""
    keys: tuple[str, ...] = ()
    in_list: bool = False

    def key(self, name: str) -> _Path:
        text = f"{self.text}.{name}" if self.text else name
        return _Path(text, self.keys if self.in_list else (*self.keys, name), self.in_list)

    def item(self, name: object) -> _Path:
        return _Path(f"{self.text}[{name}]", self.keys, True)


@dataclass(frozen=True, slots=True)
class _Difference:
    path: _Path
    there: Any
    ours: Any

    @property
    def words(self) -> str:
        path = self.path.text
        if self.ours is None:
            return f"{path} was added"
        if self.there is None:
            return f"{path} was removed"
        return f"{path}: {_short(self.there)} instead of {_short(self.ours)}"[:_LETTERS]


def _differences(live: Any, ours: Any, path: _Path) -> Iterator[_Difference]:
    """Only below what we name."""
    if isinstance(live, Mapping) and isinstance(ours, Mapping):
        for name, value in ours.items():
            yield from _differences(live.get(name), value, path.key(str(name)))
    elif _named(live) and _named(ours):
        theirs = {item["name"]: item for item in live}
        for item in ours:
            yield from _differences(theirs.get(item["name"]), item, path.item(item["name"]))
        for name in theirs.keys() - {item["name"] for item in ours}:
            yield _Difference(path.item(name), theirs[name], None)
    elif isinstance(live, list) and isinstance(ours, list) and len(live) == len(ours) == 1:
        yield from _differences(live[0], ours[0], path.item(0))
    elif live != ours:
        yield _Difference(path, live, ours)


def _named(items: Any) -> bool:
    return isinstance(items, list) and bool(items) and all(isinstance(one, Mapping) and "name" in one for one in items)


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return text if len(text) <= _LETTERS // 3 else f"{text[: _LETTERS // 3]}..."


def read(journal: Mapping[str, str]) -> list[Overruled]:
    """From the annotation; what cannot be read is nothing, for nothing hangs on it."""
    try:
        plain = json.loads(journal.get(record.OVERRULED) or "[]")
        return [
            Overruled(
                str(one["manager"]), tuple(map(str, one["fields"])), int(one["times"]), one.get("rollout_id"),
                float(one["at"]), tuple(map(str, one.get("left") or ())),
            )
            for one in plain
        ]  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def write(entries: Sequence[Overruled]) -> dict[str, str]:
    """The annotation, newest last."""
    plain = [
        {"manager": one.manager, "fields": list(one.fields), "times": one.times, "rollout_id": one.rollout_id,
         "at": round(one.at), **({"left": list(one.left)} if one.left else {})}
        for one in entries[-_MANAGERS:]
    ]  # fmt: skip
    return {record.OVERRULED: json.dumps(plain, sort_keys=True)}


def added(entries: Sequence[Overruled], one: Overruled, rollout_id: str | None, at: float) -> list[Overruled]:
    """With one more, the same manager's counted on. Servers of whom insists are left to it from now on."""
    before = next((entry for entry in entries if entry.manager == one.manager), None)
    times = (before.times if before else 0) + 1
    left = set(before.left) if before else set()
    if times >= INSISTS:
        left |= {version for text in one.fields if (version := _scaled(text)) is not None}
    counted = Overruled(one.manager, one.fields, times, rollout_id, at, tuple(sorted(left)))
    return [*(entry for entry in entries if entry.manager != one.manager), counted]


def _scaled(text: str) -> str | None:
    """The predictor whose number of servers the words are about."""
    path = text.partition(":")[0]
    begin, end = "predictors[", "].replicas"
    return path[len(begin) : -len(end)] if path.startswith(begin) and path.endswith(end) else None


def leave(made: dict[str, Any], live: Mapping[str, Any] | None, entries: Sequence[Overruled]) -> None:
    """Numbers of servers that are left to somebody stay as they are, in place; never none, and none where nothing may
    serve."""
    left = {name for entry in entries for name in entry.left}
    if not left or live is None:
        return
    there = {one.get("name"): one.get("replicas") for one in (live.get("spec") or {}).get("predictors") or []}
    for one in made["spec"].get("predictors") or []:
        if one["name"] in left and one.get("replicas") and there.get(one["name"]):
            one["replicas"] = there[one["name"]]


def sentence(what: str, one: Overruled) -> str:
    """For a log: who, which fields, and what to do where it goes on."""
    text = f"{what}: {one.manager} had written fields that are Windtunnel's, they are set back: {'; '.join(one.fields)}"
    if one.left:
        text += f"; the number of servers of {', '.join(one.left)} is left to it from now on"
    if one.times >= INSISTS:
        text += f". That was {one.times} times by now: {ADVICE}"
    return text


ADVICE = (
    "let it leave spec alone (Argo CD: ignoreDifferences with RespectIgnoreDifferences=true; others: take the object "
    "out of what they sync), or let serving.minimum and serving.maximum scale instead of an autoscaler of your own"
)
