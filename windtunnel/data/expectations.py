"""Which Great Expectations expectations follow from a description. Plain values; nothing heavy is imported here.

They come in two rounds. The first is about shape (columns, types, number of rows); the second about values,
and asks only of columns whose shape is right, because an expectation over a column of the wrong type does not
fail, it breaks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from windtunnel.spec import Data, Feature

Part = Literal["training", "window"]

#: Beside the raw time column stands its parsed form, so that what is no time is counted as missing.
PARSED_TIME = "windtunnel_time"
LARGEST = 1.7976931348623157e308

_NUMBERS = [
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    *(f"{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64)),
    *("float16", "float32", "float64", "Float32", "Float64", "int", "float"),
]
_BOOLEANS = ["bool", "boolean", "bool_"]


@dataclass(frozen=True, slots=True)
class Expected:
    """One expectation: GX's name, its arguments, and who asked for it.

    Attributes:
        own: True for the user's ``checks``; False for what follows from the description.
        critical: its failure fails the check; otherwise it is a warning.
        about: what it means, in a few words.
    """

    expect: str
    column: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    about: str = ""
    critical: bool = True
    own: bool = False

    @property
    def kwargs(self) -> dict[str, Any]:
        return ({"column": self.column} if self.column is not None else {}) | self.arguments


def shape(data: Data, part: Part) -> list[Expected]:
    """Columns and their types; in training data also the number of rows."""
    found: list[Expected] = []
    names = data.feature_names if part == "window" else [*data.feature_names, data.target, data.time]
    for name in dict.fromkeys(names):
        found.append(Expected("expect_column_to_exist", name, about="the column is there"))
    for feature in data.features:
        allowed = {"numeric": _NUMBERS, "boolean": [*_BOOLEANS, *_NUMBERS]}.get(feature.kind)
        if allowed:
            what = "numbers" if feature.kind == "numeric" else "true or false"
            found.append(
                Expected(
                    "expect_column_values_to_be_in_type_list", feature.name, {"type_list": allowed}, f"holds {what}"
                )
            )
    if part == "training":
        found.append(
            Expected(
                "expect_table_row_count_to_be_between", None, {"min_value": data.min_rows}, "there are enough rows"
            )
        )
    return found


def values(data: Data, part: Part, usable: Iterable[str], *, numeric_target: bool) -> list[Expected]:
    """Values of the columns in ``usable`` (those whose shape is right), then the user's own checks.

    Args:
        numeric_target: the target holds numbers, so it must be finite too.
    """
    there = set(usable)
    found: list[Expected] = []
    if part == "training":
        if data.target in there:
            found.append(Expected("expect_column_values_to_not_be_null", data.target, about="the target is known"))
            if numeric_target:
                found.append(_between(data.target, -LARGEST, LARGEST, "finite"))
        if data.time in there:
            found.append(Expected("expect_column_values_to_not_be_null", PARSED_TIME, about="the time can be read"))
    for feature in data.features:
        if feature.name in there:
            found += _of(feature)
    known = there | {data.target, data.time}
    for check in data.checks:
        if part == "window" and check.column is not None and check.column not in there:
            continue  # a window has features only
        if part == "training" and check.column is not None and check.column in known - there:
            continue  # its shape has failed already, and that is what is told
        found.append(
            Expected(
                check.expect, check.column, dict(check.with_), "asked for in data.checks", check.critical, own=True
            )
        )
    return found


def _of(feature: Feature) -> list[Expected]:
    found = []
    if not feature.nullable:
        found.append(Expected("expect_column_values_to_not_be_null", feature.name, about="no value is missing"))
    if feature.kind == "numeric":
        low = -LARGEST if feature.minimum is None else feature.minimum
        high = LARGEST if feature.maximum is None else feature.maximum
        bounded = feature.minimum is not None or feature.maximum is not None
        about = f"between {_bound(feature.minimum)} and {_bound(feature.maximum)}" if bounded else "finite"
        found.append(_between(feature.name, low, high, about))
    elif feature.kind == "boolean":
        found.append(
            Expected("expect_column_values_to_be_in_set", feature.name, {"value_set": [True, False]}, "true or false")
        )
    if feature.categories is not None:
        about = f"one of {len(feature.categories)} known categories"
        found.append(
            Expected("expect_column_values_to_be_in_set", feature.name, {"value_set": list(feature.categories)}, about)
        )
    return found


def _between(column: str, low: float, high: float, about: str) -> Expected:
    return Expected("expect_column_values_to_be_between", column, {"min_value": low, "max_value": high}, about)


def _bound(value: float | None) -> str:
    return "anything" if value is None else f"{value:g}"


def thresholds(data: Data, part: Part) -> dict[str, Any]:
    """What the data is held against, as JSON values."""
    features = {
        feature.name: {
            key: value
            for key, value in (
                ("kind", feature.kind),
                ("nullable", feature.nullable),
                ("minimum", feature.minimum),
                ("maximum", feature.maximum),
                ("categories", feature.categories),
            )
            if value is not None
        }
        for feature in data.features
    }
    found: dict[str, Any] = {"features": features, "checks": [check.expect for check in data.checks]}
    if part == "training":
        found |= {"min_rows": data.min_rows, "target": data.target, "time": data.time}
    return found
