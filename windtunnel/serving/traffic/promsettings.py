"""A router's names as an installation's settings say them (``prometheus_names``): checked when they are read. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any

from windtunnel.errors import DescriptionError
from windtunnel.serving.traffic.promnames import Names

SETTING = "prometheus_names"
_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*", re.ASCII)
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
#: One matcher of PromQL's braces: label, operator, quoted value.
_MATCHER = r'\s*[a-zA-Z_][a-zA-Z0-9_]*\s*(=~|!~|!=|=)\s*"(\\.|[^"\\])*"\s*'
_MATCHERS = re.compile(rf"{_MATCHER}(,{_MATCHER})*,?\s*", re.ASCII)
_ANSWERS = ("ok", "client", "error")


def names_of(plain: Mapping[str, Any], usual: Names) -> Names:
    """``usual``, and in it what the settings say.

    Args:
        plain: keys of ``Names``, as a TOML table or a connection's extra holds them.

    Raises:
        DescriptionError: it names the key, what it is and what was expected.
    """
    if not isinstance(plain, Mapping):
        raise DescriptionError(f"seldon: {SETTING} is {plain!r}", hint=f"expected a table of {_known()}")
    strange = sorted(str(key) for key in plain if key not in _CHECKS)
    if strange:
        raise DescriptionError(f"seldon: {SETTING} has unknown {', '.join(strange)}", hint=f"known are {_known()}")
    for key, value in plain.items():
        right, expected = _CHECKS[key]
        if not right(value):
            raise DescriptionError(f"seldon: {SETTING}.{key} is {value!r}", hint=f"expected {expected}")
    given = dict(plain)
    if "instance" in given:
        given["instance"] = tuple(given["instance"])
    if given.get("start") == "":
        given["start"] = None
    found = replace(usual, **given)
    if "{model}" not in found.matchers:
        raise DescriptionError(
            f"seldon: {SETTING}.matchers is {found.matchers!r}",
            hint="it must select one model's series: {model} stands for its name",
        )
    return found


def _known() -> str:
    return ", ".join(one.name for one in fields(Names))


def _fits(pattern: re.Pattern[str]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_version(value: Any) -> bool:
    try:
        return isinstance(value, str) and re.compile(value.replace("{model}", "m")).groups == 1
    except re.error:
        return False


def _are_labels(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(map(_fits(_LABEL), value))


def _are_codes(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(k, str) and v in _ANSWERS for k, v in value.items())


#: By key: whether a value is right, and what was expected.
_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "requests": (_fits(_METRIC), "a metric's name: a counter, or the _count of a histogram"),
    "buckets": (_fits(_METRIC), "a metric's name: the _bucket of a histogram"),
    "matchers": (_fits(_MATCHERS), 'PromQL\'s matchers without braces, such as \'service="{model}",code!="0"\''),
    "version_label": (_fits(_LABEL), "a label's name"),
    "version": (_is_version, r"a pattern with one group, the version, such as 'v?(\w+)'"),
    "code": (_fits(_LABEL), "a label's name"),
    "unit": (lambda value: value in ("s", "ms"), "'s' or 'ms'"),
    "instance": (_are_labels, "a list of labels' names"),
    "start": (lambda value: isinstance(value, str), "PromQL, or '' where nobody tells when counters began"),
    "codes": (_are_codes, f"a table of values of the label code to {', '.join(_ANSWERS)}"),
}
