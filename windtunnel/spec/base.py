"""What every part of a description shares: strictness, durations, sizes, code references."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, PlainSerializer

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*")
_SIZES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(k|M|G|T|Ki|Mi|Gi|Ti)?B?\s*")
_CODE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class Part(BaseModel):
    """A part of a description: unknown keys are mistakes, values do not change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, str_strip_whitespace=True)


def parse_duration(value: Any) -> timedelta:
    """``"10m"``, ``"1h 30m"``, a number of seconds, or a timedelta."""
    if isinstance(value, timedelta):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return timedelta(seconds=value)
    if isinstance(value, str) and value.strip():
        rest, seconds = value, 0.0
        while rest:
            found = _DURATION.match(rest)
            if not found:
                raise ValueError(f"expected a duration such as '90s', '10m', '1h 30m' or '7d', found {value!r}")
            seconds += float(found[1]) * _UNITS[found[2]]
            rest = rest[found.end() :]
        return timedelta(seconds=seconds)
    raise ValueError(f"expected a duration such as '90s', '10m', '1h 30m' or '7d', found {value!r}")


def format_duration(value: timedelta) -> str:
    """The shortest text that ``parse_duration`` reads back."""
    seconds = value.total_seconds()
    for unit in ("w", "d", "h", "m", "s"):
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{int(seconds // _UNITS[unit])}{unit}"
    return f"{seconds:g}s"


def parse_size(value: Any) -> int:
    """Bytes from ``"2Gi"``, ``"500M"`` or a number of bytes."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and (found := _SIZE.fullmatch(value)):
        return int(float(found[1]) * _SIZES[found[2] or ""])
    raise ValueError(f"expected a size such as '500M' or '2Gi', found {value!r}")


def _positive(value: timedelta) -> timedelta:
    if value.total_seconds() < 0:
        raise ValueError("a duration cannot be negative")
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
Size = Annotated[int, BeforeValidator(parse_size, json_schema_input_type=str | int)]
Code = Annotated[str, AfterValidator(_code)]
