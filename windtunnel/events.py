"""The payload of an asset event: ``{v, model, version, digest, correlation_id, cause}``.

Events wake, the store decides: nothing in a payload is trusted for more than finding the
story (correlation id) and saying why (cause).
"""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass
from typing import Any

SCHEMA_VERSION = 1


def new_correlation_id() -> str:
    """A fresh correlation id: 32 hex digits, also usable as an OpenTelemetry trace id."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Event:
    """What one step tells the next."""

    model: str
    correlation_id: str
    cause: str
    version: str | None = None
    digest: str | None = None
    v: int = SCHEMA_VERSION

    def extra(self) -> dict[str, Any]:
        """The event as ``extra`` of an Airflow asset event."""
        return asdict(self)

    @classmethod
    def from_extra(cls, extra: dict[str, Any] | None) -> Event | None:
        """The event in ``extra``, or None when somebody else's event carries none of it.

        Airflow wraps what an asset watcher says: ``{"from_trigger": True, "payload": ...}``.
        """
        if extra and extra.get("from_trigger") and isinstance(extra.get("payload"), dict):
            extra = extra["payload"]
        if not extra or "model" not in extra or "correlation_id" not in extra:
            return None
        return cls(
            model=str(extra["model"]),
            correlation_id=str(extra["correlation_id"]),
            cause=str(extra.get("cause", "")),
            version=extra.get("version"),
            digest=extra.get("digest"),
            v=int(extra.get("v", SCHEMA_VERSION)),
        )
