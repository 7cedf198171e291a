"""What every part of a description shares: strictness, durations, sizes, code references."""

from __future__ import annotations

import inspect
import re
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetJsonSchemaHandler,
    PlainSerializer,
    ValidationError,
)
from pydantic_core import CoreSchema

from windtunnel.spec.mistakes import InvalidDescription, collect

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*")
_SIZES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(k|M|G|T|Ki|Mi|Gi|Ti)?B?\s*")
_CODE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


_ATTRIBUTE = re.compile(r"^    (\w+(?:, \w+)*): (.*)$")


def attribute_docs(of: type) -> tuple[str, dict[str, str]]:
    """The text of a class's docstring before ``Attributes:``, and what that section says of each name."""
    text, _, section = inspect.cleandoc(of.__doc__ or "").partition("\nAttributes:\n")
    docs: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if found := _ATTRIBUTE.match(line):
            names = found[1].split(", ")
            docs |= dict.fromkeys(names, found[2].strip())
        elif line.strip():
            docs |= {name: f"{docs[name]} {line.strip()}" for name in names}
    return " ".join(text.split()), docs


if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)  # its own name is private to pydantic


class _Located(ModelMetaclass):
    """Mistakes in ``Part(...)`` are told with the file and line of that call.

    Only calls are concerned: pydantic's own methods (``model_validate``) raise pydantic's errors.
    """

    if not TYPE_CHECKING:  # type checkers keep to the fields

        def __call__(cls, *args: Any, **values: Any) -> Any:
            try:
                return super().__call__(*args, **values)
            except ValidationError as error:
                caller = sys._getframe(1)
                where = (caller.f_code.co_filename, caller.f_lineno)
                mistakes = collect(cls, error, lambda path: where)
            raise InvalidDescription(cls.__name__, mistakes)


class Part(BaseModel, metaclass=_Located):
    """A part of a description: unknown keys are mistakes, values do not change afterwards."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, str_strip_whitespace=True, allow_inf_nan=False
    )

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The schema, with the docstring's words at each key."""
        made = handler.resolve_ref_schema(handler(core_schema))
        text, docs = attribute_docs(cls)
        made["description"] = text
        for name, field in cls.model_fields.items():
            if name in docs:
                made["properties"][field.alias or name]["description"] = docs[name].replace("``", "`")
        return made


def parse_duration(value: Any) -> timedelta:
    """``"10m"``, ``"1h 30m"``, a number of seconds, or a timedelta."""
    if isinstance(value, timedelta):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return timedelta(seconds=value)
        except (ValueError, OverflowError):
            raise ValueError(f"expected a duration of fewer than 10^9 days, found {value!r}") from None
    if isinstance(value, str) and value.strip():
        rest, seconds = value, 0.0
        while rest:
            found = _DURATION.match(rest)
            if not found:
                raise ValueError(f"expected a duration such as '90s', '10m', '1h 30m' or '7d', found {value!r}")
            seconds += float(found[1]) * _UNITS[found[2]]
            rest = rest[found.end() :]
        return parse_duration(seconds)
    raise ValueError(f"expected a duration such as '90s', '10m', '1h 30m' or '7d', found {value!r}")


def format_duration(value: timedelta) -> str:
    """Text that ``parse_duration`` reads back as the same duration."""
    seconds = value.total_seconds()
    for unit in ("w", "d", "h", "m", "s"):
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{int(seconds // _UNITS[unit])}{unit}"
    return f"{seconds:f}".rstrip("0").rstrip(".") + "s"


def parse_size(value: Any) -> int:
    """Bytes from ``"2Gi"``, ``"500M"`` or a number of bytes."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and (found := _SIZE.fullmatch(value)):
        return int(float(found[1]) * _SIZES[found[2] or ""])
    raise ValueError(f"expected a size such as '500M' or '2Gi', found {value!r}")


def _positive(value: timedelta) -> timedelta:
    if value.total_seconds() < 0:
        raise ValueError(f"a duration cannot be negative, found {value}")
    return value


def _some(value: int) -> int:
    if value <= 0:
        raise ValueError(f"expected a size above 0, found {value}")
    return value


def _code(value: str) -> str:
    if not _CODE.fullmatch(value):
        raise ValueError(f"expected code as 'package.module:function', found {value!r}")
    return value


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration, json_schema_input_type=str | float),
    AfterValidator(_positive),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
]
Size = Annotated[int, BeforeValidator(parse_size, json_schema_input_type=str | int), AfterValidator(_some)]
Code = Annotated[str, AfterValidator(_code)]
