"""The language of searching: ``metric.rmse < 1.2 and tag.team = 'sea' and stage = 'Production'`` (REG-15). Pure.

Text becomes a tree of known fields, known comparisons and plain values; nothing else comes out of here, and everything
that is wrong is told with its place. What the tree means in SQL is in ``query``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Literal

from windtunnel.spec.mistakes import nearest

LONGEST, MOST, DEEPEST = 4000, 60, 20

Value = str | float | tuple[str, ...]
Operator = Literal["=", "!=", "<", "<=", ">", ">=", "~", "like", "in"]

_SIZES: tuple[Operator, ...] = ("=", "!=", "<", "<=", ">", ">=")
_WORDS: tuple[Operator, ...] = ("=", "!=", "like", "~", "in")
_SETS: tuple[Operator, ...] = ("=", "!=", "in")


class QueryError(ValueError):
    """The text cannot be understood.

    Attributes:
        message: one sentence, without the place.
        at: place in the text, from 0.
    """

    def __init__(self, message: str, at: int) -> None:
        super().__init__(f"{message} (at character {at + 1})")
        self.message, self.at = message, at


@dataclass(frozen=True, slots=True)
class Field:
    """What can be asked of a version.

    Attributes:
        operators: comparisons it takes.
        read: the value from a string or a number; raises ValueError with what was expected.
        keyed: it needs a name after a dot, as in ``metric.rmse``.
    """

    operators: tuple[Operator, ...]
    read: Callable[[str | float], str | float]
    keyed: bool = False


@dataclass(frozen=True, slots=True)
class Compare:
    """One comparison; ``value`` is a tuple for ``in``."""

    field: str
    key: str | None
    operator: Operator
    value: Value


@dataclass(frozen=True, slots=True)
class Both:
    """All of them."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """One of them at least."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """Exactly the others."""

    part: Node


Node = Compare | Both | Either | Not


@dataclass(frozen=True, slots=True)
class Order:
    """What comes first."""

    field: Literal["created", "name", "metric"] = "created"
    key: str | None = None
    descending: bool = True


def _text(value: str | float) -> str:
    if not isinstance(value, str):
        raise ValueError("expected text in quotes")
    if "\x00" in value:
        raise ValueError("expected text without a zero byte")
    return value


def _number(value: str | float) -> float:
    if isinstance(value, str):
        raise ValueError("expected a number")
    return value


def _whole(value: str | float) -> float:
    number = _number(value)
    if number != int(number) or not 0 <= number < 2**31:
        raise ValueError("expected a whole number")
    return number


def _time(value: str | float) -> float:
    if not isinstance(value, str):
        raise ValueError("expected a date or a time in quotes, as '2026-01-31' or '2026-01-31T12:00'")
    try:
        told = datetime.fromisoformat(value)
        return (told if told.tzinfo else told.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError("expected a date or a time, as '2026-01-31' or '2026-01-31T12:00' (UTC)") from None


def _one_of(*words: str) -> Callable[[str | float], str]:
    known = {word.casefold(): word for word in words}

    def read(value: str | float) -> str:
        found = known.get(value.strip().casefold()) if isinstance(value, str) else None
        if found is None:
            raise ValueError(f"expected one of {', '.join(map(repr, words))}")
        return found

    return read


def _stage(value: str | float) -> str:
    found = _one_of("None", "Development", "Staging", "Production", "Archived")(value)
    return "None" if found == "Development" else found


FIELDS: Mapping[str, Field] = MappingProxyType(
    {
        "name": Field(_WORDS, _text),
        "version": Field(_SIZES, _whole),
        "semver": Field(_WORDS, _text),
        "stage": Field(_SETS, _stage),
        "state": Field(_SETS, _one_of("candidate", "releasing", "champion", "archived", "rolled_back", "withdrawn")),
        "status": Field(_SETS, _one_of("PENDING_REGISTRATION", "READY", "FAILED_REGISTRATION")),
        "alias": Field(_SETS, _text),
        "created": Field(("<", "<=", ">", ">="), _time),
        "author": Field(_WORDS, _text),
        "owner": Field(_WORDS, _text),
        "risk": Field(_SETS, _one_of("low", "medium", "high")),
        "text": Field(("~",), _text),
        "tag": Field(_WORDS, _text, keyed=True),
        "param": Field(_WORDS, _text, keyed=True),
        "metric": Field(_SIZES, _number, keyed=True),
        "evidence": Field(_SETS, _one_of("PASS", "FAIL", "INCONCLUSIVE", "NONE"), keyed=True),
    }
)

_TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)(?![\w.])
  | (?P<text>'(?:[^']|'')*'|"(?:[^"]|"")*")
  | (?P<operator><=|>=|!=|=|<|>|~)
  | (?P<mark>[(),])
  | (?P<word>[A-Za-z_]\w*(?:\.(?:`[^`]+`|\w[\w\-./]*))?)
  )""",
    re.X | re.A,
)
_WORDS_OF_THE_LANGUAGE = ("and", "or", "not", "like", "in")


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int

    @property
    def word(self) -> str | None:
        """``and``, ``or``... where it is one of the language's own."""
        found = self.text.casefold() if self.kind == "word" else None
        return found if found in _WORDS_OF_THE_LANGUAGE else None


def _tokens(text: str) -> list[_Token]:
    found, at = [], 0
    end = len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            start = at + len(text[at:]) - len(text[at:].lstrip())
            if text[start] in "'\"":
                raise QueryError("this quote is never closed", start)
            raise QueryError(f"{text[start]!r} has no meaning here", start)
        kind = str(match.lastgroup)
        found.append(_Token(kind, match[kind], match.start(kind)))
        at = match.end()
    found.append(_Token("end", "", end))
    return found


class _Parser:
    def __init__(self, text: str) -> None:
        self.tokens = _tokens(text)
        self.place = 0
        self.comparisons = 0

    @property
    def here(self) -> _Token:
        return self.tokens[self.place]

    def next(self) -> _Token:
        found = self.here
        self.place += found.kind != "end"
        return found

    def expression(self, depth: int) -> Node:
        if depth > DEEPEST:
            raise QueryError(f"more than {DEEPEST} parentheses and nots inside each other", self.here.at)
        parts = [self.all_of(depth)]
        while self.here.word == "or":
            self.next()
            parts.append(self.all_of(depth))
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def all_of(self, depth: int) -> Node:
        parts = [self.one(depth)]
        while self.here.word == "and":
            self.next()
            parts.append(self.one(depth))
        return parts[0] if len(parts) == 1 else Both(tuple(parts))

    def one(self, depth: int) -> Node:
        if self.here.word == "not":
            self.next()
            if depth >= DEEPEST:
                raise QueryError(f"more than {DEEPEST} parentheses and nots inside each other", self.here.at)
            return Not(self.one(depth + 1))
        if self.here.text == "(" and self.here.kind == "mark":
            opened = self.next()
            found = self.expression(depth + 1)
            if self.next().text != ")":
                raise QueryError("this parenthesis is never closed", opened.at)
            return found
        return self.comparison()

    def comparison(self) -> Node:
        self.comparisons += 1
        if self.comparisons > MOST:
            raise QueryError(f"more than {MOST} comparisons", self.here.at)
        token = self.next()
        if token.kind != "word" or token.word:
            said = f"{token.text!r}" if token.text else "the end"
            raise QueryError(f"expected a field such as name or metric.rmse, found {said}", token.at)
        name, key, field = _field(token)
        operator = self.operator(name, field)
        if operator == "in":
            return Compare(name, key, "in", self.several(name, field))
        value = self.value(name, field)
        if operator == "!=":
            return Not(Compare(name, key, "=", value))
        return Compare(name, key, operator, value)

    def operator(self, name: str, field: Field) -> Operator:
        token = self.next()
        found = token.word or token.text
        for operator in field.operators:
            if operator == found:
                return operator
        said = repr(token.text) if token.text else "the end"
        raise QueryError(f"after {name}, expected one of {' '.join(field.operators)}, found {said}", token.at)

    def value(self, name: str, field: Field) -> str | float:
        token = self.next()
        if token.kind == "number":
            plain: str | float = float(token.text)
            if not math.isfinite(float(token.text)):
                raise QueryError(f"{token.text} is no number that a computer can hold", token.at)
        elif token.kind == "text":
            quote = token.text[0]
            plain = token.text[1:-1].replace(quote * 2, quote)
        else:
            said = repr(token.text) if token.text else "the end"
            raise QueryError(f"expected a number, or text in quotes, found {said}", token.at)
        try:
            return field.read(plain)
        except ValueError as error:
            raise QueryError(f"{name}: {error}, found {token.text}", token.at) from None

    def several(self, name: str, field: Field) -> tuple[str, ...]:
        opened = self.next()
        if opened.text != "(" or opened.kind != "mark":
            raise QueryError("after in, expected a list such as ('a', 'b')", opened.at)
        found = [str(self.value(name, field))]
        while (token := self.next()).kind == "mark" and token.text == ",":
            found.append(str(self.value(name, field)))
        if token.text != ")" or token.kind != "mark":
            raise QueryError("expected a comma or the end of the list", token.at)
        if len(found) > 1000:
            raise QueryError("more than 1000 values in a list", opened.at)
        return tuple(found)


def _field(token: _Token) -> tuple[str, str | None, Field]:
    name, dot, key = token.text.partition(".")
    key = key.strip("`") if key.startswith("`") else key
    field = FIELDS.get(name)
    if field is None:
        raise QueryError(f"there is no field {name!r}; {nearest(name, FIELDS)}", token.at)
    if field.keyed and not key:
        raise QueryError(f"{name} of what? Write {name}.NAME", token.at)
    if dot and not field.keyed:
        raise QueryError(f"{name} has no parts: write {name} alone", token.at)
    return name, key or None, field


def parse(text: str) -> Node | None:
    """The tree of a query; None for an empty one, which finds everything.

    Raises:
        QueryError: it is none, and where.
    """
    if len(text) > LONGEST:
        raise QueryError(f"a query has at most {LONGEST} characters, found {len(text)}", LONGEST)
    if not text.strip():
        return None
    parser = _Parser(text)
    found = parser.expression(0)
    if parser.here.kind != "end":
        raise QueryError(f"expected and, or, or the end, found {parser.here.text!r}", parser.here.at)
    return found


def parse_order(text: str) -> Order:
    """``created desc``, ``name``, ``metric.rmse asc``: what comes first.

    Raises:
        QueryError: it is none.
    """
    words = text.split()
    if not words:
        return Order()
    match = _TOKEN.fullmatch(words[0])
    name, _, key = words[0].partition(".")
    key = key.strip("`")
    if match is None or name not in ("created", "name", "metric") or bool(key) != (name == "metric"):
        raise QueryError(f"order by created, name or metric.NAME, found {words[0]!r}", 0)
    direction = words[1].casefold() if len(words) > 1 else "desc" if name == "created" else "asc"
    if len(words) > 2 or direction not in ("asc", "desc"):
        raise QueryError(f"after {words[0]}, expected asc, desc or nothing, found {' '.join(words[1:])!r}", 0)
    field: Literal["created", "name", "metric"] = (
        "created" if name == "created" else "name" if name == "name" else "metric"
    )
    return Order(field, key or None, direction == "desc")


def metrics_of(node: Node | None) -> set[str]:
    """Names of the metrics that a query compares."""
    if isinstance(node, Compare):
        return {node.key} if node.field == "metric" and node.key else set()
    if isinstance(node, Not):
        return metrics_of(node.part)
    return set() if node is None else {name for part in node.parts for name in metrics_of(part)}
