"""One event of Seldon Core 1's request logger: a CloudEvent in HTTP's binary form, understood or refused. Pure.

Names: ``executor/logger/worker.go`` of Seldon Core 1.18. Attributes are headers ``ce-NAME``; the body is what went to
the model, or came from it. The executor sends the two halves of a prediction by different workers, so in any order;
it sends each once, and forgets it when nobody takes it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

from windtunnel.names import MODEL_NAME
from windtunnel.serving.collector import payloads
from windtunnel.serving.collector.payloads import Answered, Asked, BadPayload

REQUEST, RESPONSE = "io.seldon.serving.inference.request", "io.seldon.serving.inference.response"
FEEDBACK = "io.seldon.serving.feedback"
#: Attributes that are kept, as headers are called.
KEPT = (
    "ce-id", "ce-source", "ce-type", "ce-time", "ce-requestid", "ce-modelid", "ce-inferenceservicename",
    "ce-namespace", "ce-endpoint", "ce-protocol", "content-type",
)  # fmt: skip
_PROTOCOLS = {"v2": "v2", "kfserving": "v2", "seldon": "seldon"}
#: A sender whose clock is further off than this (seconds) is not believed: its rows would lie in hours nobody reads.
FAR_S = 3600.0
_TEXT = re.compile(r"[\x21-\x7e]{1,256}")
_ENDPOINT = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")


class BadEvent(Exception):
    """An event that cannot become a row.

    Args:
        field: the header or part of the body that is wrong.
        message: what was found and what was expected.
        status: HTTP status of the refusal.
    """

    def __init__(self, field: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.field, self.message, self.status = field, message, status


@dataclass(slots=True)
class Half:
    """A request or an answer.

    Attributes:
        key: what makes it the same event again: source and id, as CloudEvents says; 16 bytes.
        what: which half.
        model: name of the SeldonDeployment; ``version`` from its predictor's name; ``node`` of its graph.
        request_id: Seldon's ``puid``, which both halves have.
        at: when the executor sent it, seconds since the epoch; when it came here where it does not say.
        came: when it came here.
        shadow: the request was copied to this predictor.
        payload: inputs or outputs.
        size: of the event in bytes.
        guest: another collector handed it over; it stays here, wherever else its home may be.
    """

    key: bytes
    what: Literal["request", "response"]
    model: str
    version: str
    node: str
    request_id: str
    at: float
    came: float
    shadow: bool
    payload: Asked | Answered
    size: int
    guest: bool = False

    @property
    def pair(self) -> tuple[str, str, str, str]:
        """What both halves of a prediction share."""
        return self.model, self.version, self.node, self.request_id


def understood(headers: Mapping[str, str], body: bytes, came: float, *, shadow: bool = False) -> Half | None:
    """The half that an event is; None for an event that is none of a prediction (feedback).

    Args:
        headers: names in lower case.
        came: seconds since the epoch.

    Raises:
        BadEvent: naming the header or the part of the body.
    """
    version = headers.get("ce-specversion", "1.0")
    if version not in ("1.0", "0.3", "0.2"):
        raise BadEvent("ce-specversion", f"ce-specversion is {version[:20]!r}: expected 1.0")
    told = headers.get("content-type", "").partition(";")[0].strip().lower()
    if told.startswith("application/cloudevents"):
        raise BadEvent(
            "content-type", f"content-type is {told}: expected an event in binary form, with ce- headers", 415
        )
    event, source = _text(headers, "ce-id"), _text(headers, "ce-source")
    kind = _text(headers, "ce-type")
    if kind == FEEDBACK:
        return None
    if kind not in (REQUEST, RESPONSE):
        raise BadEvent("ce-type", f"ce-type is {kind[:80]!r}: expected {REQUEST} or {RESPONSE}")
    model = _text(headers, "ce-inferenceservicename")
    if not MODEL_NAME.fullmatch(model):
        raise BadEvent("ce-inferenceservicename", f"ce-inferenceservicename is {model[:80]!r}: no model is called so")
    endpoint = _text(headers, "ce-endpoint")
    if not _ENDPOINT.fullmatch(endpoint):
        raise BadEvent("ce-endpoint", f"ce-endpoint is {endpoint[:80]!r}: expected a predictor's name, such as v3")
    protocol = headers.get("ce-protocol", "")
    if protocol and protocol not in _PROTOCOLS:
        raise BadEvent("ce-protocol", f"ce-protocol is {protocol[:40]!r}: expected v2 or seldon")
    request_id = _text(headers, "ce-requestid")
    try:
        plain = json.loads(body)
    except (ValueError, RecursionError) as error:
        # What a client called its JSON does not matter (curl calls it a form); what is none is told by its name.
        if told not in ("", "application/json"):
            raise BadEvent("content-type", f"content-type is {told[:80]!r}: expected JSON", 415) from None
        raise BadEvent("body", f"the body holds no JSON: {str(error)[:100]}") from None
    payload: Asked | Answered
    try:
        read: Any = payloads.asked if kind == REQUEST else payloads.answered
        payload = read(_PROTOCOLS[protocol] if protocol else _guessed(plain), plain)
    except BadPayload as error:
        raise BadEvent(error.field, error.message) from None
    return Half(
        key=hashlib.blake2b(f"{source}\0{event}".encode(), digest_size=16).digest(),
        what="request" if kind == REQUEST else "response",
        model=model,
        version=version_of(endpoint),
        node=headers.get("ce-modelid", "")[:256],
        request_id=request_id,
        at=_moment(headers.get("ce-time"), came),
        came=came,
        shadow=shadow,
        payload=payload,
        size=len(body) + 500,
    )


def _guessed(body: Any) -> str:
    """The protocol of a body whose event names none, as those of executors before 1.14 do."""
    return "v2" if isinstance(body, Mapping) and {"inputs", "outputs"} & set(body) else "seldon"


def plain(half: Half) -> dict[str, Any]:
    """A half as JSON-ready values; ``half_of`` reads it."""
    found = asdict(half)
    found["key"] = half.key.hex()
    return found


def handed_key(key: bytes) -> bytes:
    """The key of a half that another collector handed over.

    It is not the event's own: what a collector has given away it knows, and has to take all the same when it is given
    back by one that ends.
    """
    return hashlib.blake2b(b"handed" + key, digest_size=16).digest()


def half_of(plain: Mapping[str, Any]) -> Half:
    """What ``plain`` wrote."""
    kind: Any = Asked if plain["what"] == "request" else Answered
    return Half(**{**plain, "key": bytes.fromhex(plain["key"]), "payload": kind(**plain["payload"])})


def version_of(predictor: str) -> str:
    """The version a predictor serves: ``v3`` and ``3`` are version 3; another name is itself the version."""
    found = re.fullmatch(r"v?([0-9][a-z0-9]*)", predictor)
    return found[1] if found else predictor


def _text(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name, "")
    if not value:
        raise BadEvent(name, f"header {name} is missing")
    if not _TEXT.fullmatch(value):
        raise BadEvent(name, f"header {name} is {value[:60]!r}: expected up to 256 printed characters without spaces")
    return value


def _moment(text: str | None, came: float) -> float:
    if not text:
        return came
    try:
        # Go writes nanoseconds, of which Python reads six digits.
        told = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
    except ValueError:
        raise BadEvent(
            "ce-time", f"ce-time is {text[:60]!r}: expected RFC 3339, such as 2026-01-31T12:00:00Z"
        ) from None
    if told.tzinfo is None:
        raise BadEvent("ce-time", f"ce-time is {text[:60]!r}: expected a zone, such as Z")
    at = told.timestamp()
    return at if abs(at - came) < FAR_S else came
