"""The client's methods for the audit; part of ``RegistryClient``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from windtunnel.registry.records import AuditRecord

#: Entries asked for at a time.
PAGE = 5_000


class AuditCalls(ABC):
    """One method per endpoint."""

    @abstractmethod
    def _call(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        """One request; its JSON object."""

    def audit(
        self,
        model: str | None = None,
        limit: int = 100,
        *,
        actor: str | None = None,
        action: str | None = None,
        outcome: str | None = None,
        correlation_id: str | None = None,
        since: float | None = None,
        until: float | None = None,
    ) -> list[AuditRecord]:
        """Changes and refusals, newest first.

        Args:
            limit: at most so many.
            outcome: ``done`` or ``refused``.
            since, until: seconds since the epoch; ``since`` is part of it, ``until`` is not.
        """
        given = {
            "model": model, "limit": limit, "actor": actor, "action": action, "outcome": outcome,
            "correlation_id": correlation_id, "since": since, "until": until,
        }  # fmt: skip
        found = self._call("GET", "/audit", params={k: str(v) for k, v in given.items() if v is not None})["audit"]
        return [AuditRecord.from_dict(row) for row in found]

    def audit_log(self, after: int = 0) -> Iterator[dict[str, Any]]:
        """Every entry after number ``after``, oldest first, with all ``windtunnel.evidence.entry.FIELDS``.

        Ends with the last entry that was there when the first was asked for.
        """
        until: int | None = None
        while True:
            given = {"after": after, "limit": PAGE} | ({} if until is None else {"until": until})
            page = self._call("GET", "/audit/log", params={key: str(value) for key, value in given.items()})
            yield from page["entries"]
            until = page["until"]
            if not page["entries"] or page["next"] >= page["until"]:
                return
            after = page["next"]

    def audit_state(self) -> dict[str, Any]:
        """``{"checkpoint": signed note or None, "key": public key or None, "problem": why none is published or None,
        "changeable": whether the server's own database role could change entries by itself}``."""
        return self._call("GET", "/audit/checkpoint")

    def publish_checkpoint(self) -> dict[str, Any]:
        """Publish a checkpoint over everything that is committed now; for the service and administrators."""
        return self._call("POST", "/audit/checkpoint", json={})
