"""What is wrong with a description: where, what was found, what was expected. All of it at once."""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from windtunnel.errors import DescriptionError

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake.

    Attributes:
        path: keys and positions that lead to it, e.g. ``("rollout", "steps", 0, "weight")``.
        text: what was found and what was expected.
        file, line: where it stands; line counts from 1.
    """

    path: Path
    text: str
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: " if self.line else f"{self.file}: " if self.file else ""
        dotted = shown(self.path)
        return f"{where}{dotted + ': ' if dotted else ''}{self.text}"


class InvalidDescription(DescriptionError, ValueError):
    """The mistakes of one description; ``mistakes`` holds each by itself."""

    def __init__(self, subject: str, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        if len(self.mistakes) == 1:
            text = f"{subject} is not a valid description: {self.mistakes[0]}"
        else:
            lines = "".join(f"\n  {mistake}" for mistake in self.mistakes)
            text = f"{subject} is not a valid description; {len(self.mistakes)} mistakes:{lines}"
        super().__init__(text, hint="'windtunnel schema' prints all keys; see docs/reference/description.md")


class DescriptionWarning(UserWarning):
    """Something of a description that is no mistake, and does nothing where the model flies."""


def shown(path: Path) -> str:
    """``rollout.steps[0].weight``."""
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else part
    return out


def nearest(word: str, known: Iterable[str]) -> str:
    """``did you mean 'x'`` or the list of what there is."""
    choices = sorted(known)
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}" if close else f"expected one of {', '.join(choices)}"


def several(problems: Sequence[tuple[Path, str]]) -> PydanticCustomError:
    """An error for a validator that found several mistakes; paths are relative to what it validates."""
    text = "; ".join(f"{shown(path)}: {message}" if path else message for path, message in problems)
    return PydanticCustomError("mistakes", "{text}", {"text": text, "problems": [list(p) for p in problems]})


def _part(annotation: Any) -> type[BaseModel] | None:
    """The description class inside ``X``, ``X | None`` or ``list[X]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if typing.get_origin(annotation) in (list, typing.Union, types.UnionType, typing.Annotated):
        for inside in typing.get_args(annotation):
            if found := _part(inside):
                return found
    return None


def keys_at(root: type[BaseModel], path: Path) -> list[str]:
    """The keys a mapping at ``path`` may have."""
    here: type[BaseModel] | None = root
    for part in path:
        if isinstance(part, int) or here is None:
            continue
        field = next((f for name, f in here.model_fields.items() if part in (name, f.alias)), None)
        here = _part(field.annotation) if field else None
    return [field.alias or name for name, field in here.model_fields.items()] if here else []


def _found(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _said(root: type[BaseModel], path: Path, error: Any) -> str:
    """One error of pydantic as found and expected."""
    kind, message, given = str(error["type"]), str(error["msg"]), error.get("input")
    if kind == "extra_forbidden":
        return f"unknown key; {nearest(str(path[-1]), keys_at(root, path[:-1]))}"
    if kind == "missing":
        return "is missing: this key is needed"
    if kind in ("value_error", "assertion_error", "mistakes"):
        return message.removeprefix("Value error, ")
    expected = message.removeprefix("Input should be ")
    if kind == "string_pattern_mismatch":
        expected = f"text like {error['ctx']['pattern']}"
    elif expected == message:
        return f"{message[0].lower()}{message[1:]}; found {_found(given)}"
    return f"expected {expected}, found {_found(given)}"


def collect(
    root: type[BaseModel], error: ValidationError, locate: Callable[[Path], tuple[str | None, int | None]]
) -> list[Mistake]:
    """Pydantic's errors as mistakes, in the order of the file.

    Args:
        locate: file and line of a path, or of the nearest thing above it.
    """
    out: list[Mistake] = []
    for item in error.errors(include_url=False):
        # Names of validators and union members stand in pydantic's paths too; keys have no brackets.
        path: Path = tuple(p for p in item["loc"] if isinstance(p, int) or not any(c in p for c in "[]()"))
        if item["type"] == "mistakes":
            for below, text in item["ctx"]["problems"]:
                out.append(Mistake((*path, *below), text, *locate((*path, *below))))
            continue
        at = path[:-1] if item["type"] == "missing" else path
        out.append(Mistake(path, _said(root, path, item), *locate(at)))
    return sorted(out, key=lambda mistake: mistake.line or 0)
