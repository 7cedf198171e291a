"""Canonical JSON: the one byte form that is hashed, signed and chained.

RFC 8785 (JSON Canonicalization Scheme). It has no NaN, no infinities and no integers beyond
2^53, so these travel as tagged strings and come back as they were.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import rfc8785

_EXACT = 2**53
_TAG = "~wt:"


def _encode(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, str):
        # A string that looks like a tag is tagged itself, so decoding is exact.
        return f"{_TAG}str:{value}" if value.startswith(_TAG) else value
    if isinstance(value, int):
        return value if -_EXACT < value < _EXACT else f"{_TAG}int:{value}"
    if isinstance(value, float):
        if math.isnan(value):
            return f"{_TAG}nan"
        if math.isinf(value):
            return f"{_TAG}{'inf' if value > 0 else '-inf'}"
        return value
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"canonical JSON takes string keys, found {key!r}")
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    raise TypeError(
        f"canonical JSON takes None, bool, int, float, str, list and dict, found {type(value).__name__}: {value!r}"
    )


def _decode(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_TAG):
        body = value[len(_TAG) :]
        if body.startswith("str:"):
            return body[4:]
        if body.startswith("int:"):
            return int(body[4:])
        return float(body)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _EXACT:
        return float(value)  # an integer this large was tagged: without a tag it was a float
    if isinstance(value, dict):
        return {key: _decode(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_decode(item) for item in value]
    return value


def dumps(value: Any) -> bytes:
    """Canonical bytes of a value made of None, bool, int, float, str, list, tuple and dict.

    Raises:
        TypeError: anything else is inside, or a key is not a string.
    """
    return rfc8785.dumps(_encode(value))


def text(value: Any) -> bytes:
    """What ``loads`` reads as ``dumps``' bytes, made some times faster: for what is kept and never hashed or signed.

    Raises:
        TypeError: as ``dumps``.
    """
    return json.dumps(_encode(value), sort_keys=True, separators=(",", ":")).encode()


def loads(data: bytes | str) -> Any:
    """The value behind canonical bytes; the inverse of ``dumps`` (tuples come back as lists)."""
    return _decode(json.loads(data))


def digest(value: Any) -> str:
    """``sha256:`` and the hex digest of the canonical bytes."""
    return "sha256:" + hashlib.sha256(dumps(value)).hexdigest()
