"""A batch of halves that one collector hands to another, as JSON: written, and read by who believes nothing. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from windtunnel.names import MODEL_NAME
from windtunnel.serving.collector import events
from windtunnel.serving.collector.events import BadEvent, Half

_KEY = re.compile(r"[0-9a-f]{32}")
#: Most halves of one batch.
COUNT = 500


@dataclass(frozen=True, slots=True)
class Batch:
    """Halves for one collector.

    Attributes:
        sender, to: names of collectors.
        leaving: the sender ends, and wants its own watermarks to wait no longer: this collector's have to speak of
            these halves before it answers.
    """

    sender: str
    to: str
    halves: tuple[Half, ...]
    leaving: bool = False


def written(batch: Batch) -> bytes:
    """The body of ``POST /v1/halves``; ``read`` reads it."""
    told = {
        "from": batch.sender,
        "to": batch.to,
        "leaving": batch.leaving,
        "halves": [events.plain(half) for half in batch.halves],
    }
    return json.dumps(told, separators=(",", ":")).encode()


def read(body: bytes, came: float) -> Batch:
    """What ``written`` wrote; each half as one that came now, by another collector.

    Args:
        came: seconds since the epoch.

    Raises:
        BadEvent: naming the part that is wrong; then nothing of it may be kept.
    """
    try:
        plain = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadEvent("body", f"the body holds no JSON: {str(error)[:100]}") from None
    if not isinstance(plain, Mapping):
        raise BadEvent("body", "the body is no object: expected from, to, halves")
    halves = plain.get("halves")
    for name in ("from", "to"):
        if not isinstance(plain.get(name), str):
            raise BadEvent(name, f"{name} is missing: expected the name of a collector")
    if not isinstance(halves, list) or len(halves) > COUNT:
        raise BadEvent("halves", f"halves: expected a list of up to {COUNT}")
    found = []
    for number, one in enumerate(halves):
        try:
            half = _half(one)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadEvent(f"halves[{number}]", f"halves[{number}] is no half: {str(error)[:200]}") from None
        found.append(replace(half, key=events.handed_key(half.key), came=came, guest=True))
    return Batch(plain["from"], plain["to"], tuple(found), plain.get("leaving") is True)


def _half(plain: Any) -> Half:
    """Raises ValueError, TypeError, KeyError or AttributeError: it is none."""
    if not _KEY.fullmatch(plain["key"]):
        raise ValueError("key: expected 32 hexadecimal digits")
    if plain["what"] not in ("request", "response"):
        raise ValueError("what: expected request or response")
    half = events.half_of(plain)
    if not MODEL_NAME.fullmatch(half.model):
        raise ValueError(f"model is {half.model[:80]!r}: no model is called so")
    for name in ("version", "node", "request_id"):
        value = getattr(half, name)
        if len(value) > 256 or not isinstance(value, str) or (not value and name != "node"):
            raise ValueError(f"{name}: expected up to 256 characters")
    if not all(isinstance(at, (int, float)) and math.isfinite(at) and 0 <= at < 2**40 for at in (half.at, half.came)):
        raise ValueError("at, came: expected seconds since the epoch")
    if not isinstance(half.shadow, bool) or not isinstance(half.size, int) or half.size < 0:
        raise ValueError("shadow, size: expected a truth and a number of bytes")
    payload: Any = half.payload
    rows = payload.rows
    lists = list(payload.columns.values()) if half.what == "request" else [payload.outputs]
    lists += [one for one in (getattr(payload, "ids", None), getattr(payload, "confidence", None)) if one]
    if not isinstance(rows, int) or any(not isinstance(one, list) or len(one) != rows for one in lists):
        raise ValueError("payload: expected as many values in each column as rows")
    if not all(isinstance(one, str) for one in getattr(payload, "ids", ())):
        raise ValueError("payload: expected ids of text")
    return half
