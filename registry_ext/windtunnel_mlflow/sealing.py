"""What the sealer writes, and what is sealed: no file of a sealed version is written again (REG-3)."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import select, update

from windtunnel import canonical
from windtunnel.evidence.manifest import Manifest
from windtunnel_mlflow import rows, tables
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.transactions import Change, ChangingStore

_V = tables.versions


class Sealing(ChangingStore):
    """The store's side of the sealer (``sealer.Unsealed``) and of the artifact guard."""

    def pending_seals(self) -> list[tuple[str, int]]:
        """Versions whose seal has not been finished, oldest first."""
        with self.reading() as session:
            found = session.execute(
                select(_V.c.model, _V.c.version)
                .where(_V.c.status == rows.PENDING, _V.c.deleted_at.is_(None))
                .order_by(_V.c.created_at)
            )
            return [(row.model, int(row.version)) for row in found]

    def location(self, model: str, version: int) -> str | None:
        """Where a version's files are, below the artifact root."""
        with self.reading() as session:
            return session.execute(select(_V.c.location).where(_V.c.model == model, _V.c.version == version)).scalar()

    def seal(self, model: str, version: int, found: Manifest) -> None:
        """Set rows.READY with digest and manifest. A version that is not pending any more is left alone."""
        with self.change(model, "seal", version=version) as change:
            row = self._pending(change, model, version)
            if row is None:
                return
            change.correlation_id = row.correlation_id
            change.session.execute(
                update(_V)
                .where(_V.c.model == model, _V.c.version == version)
                .values(
                    status=rows.READY,
                    status_reason=None,
                    digest=found.content,
                    manifest=canonical.dumps(found.to_dict()).decode(),
                    sealed_at=time.time(),
                )
            )
            rows.set_status(change.session, model, version, rows.READY, None)
            change.detail |= {"digest": found.content, "files": len(found.files), "bytes": found.size}

    def fail_seal(self, model: str, version: int, reason: str) -> None:
        """Set FAILED_REGISTRATION with the reason; the path may be written again."""
        with self.change(model, "seal-failed", version=version, reason=reason) as change:
            row = self._pending(change, model, version)
            if row is None:
                return
            change.correlation_id = row.correlation_id
            change.session.execute(
                update(_V)
                .where(_V.c.model == model, _V.c.version == version)
                .values(status=rows.FAILED, status_reason=reason, location=None)
            )
            rows.set_status(change.session, model, version, rows.FAILED, reason[:500])

    def _pending(self, change: Change, model: str, version: int) -> Any:
        row = change.session.execute(
            select(_V).where(
                _V.c.model == model, _V.c.version == version, _V.c.status == rows.PENDING, _V.c.deleted_at.is_(None)
            )
        ).first()
        change.silent = row is None
        return row

    def check_artifact_write(self, path: str, tree: bool) -> None:
        """Refuse a write at ``path``, and with ``tree`` at everything below it, when a sealed version is touched."""
        parts = path.split("/")
        above = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        touched = _V.c.location.in_(above)
        if tree:
            # '0' is the character after '/': the range is everything below the path, and it uses the index.
            below = (_V.c.location >= f"{path}/") & (_V.c.location < f"{path}0")
            touched |= below if path else _V.c.location.isnot(None)
        with self.reading() as session:
            row = session.execute(select(_V.c.model, _V.c.version).where(touched).limit(1)).first()
        if row is None:
            return
        refusal = Refusal(
            "WT_SEALED",
            f"{path or 'the artifact root'} belongs to version {row.version} of {row.model!r}, which is sealed",
            hint="log to a new run and register a new version",
        )
        self.note_refusal(
            row.model, "write-artifact", refusal.code, version=row.version, detail={"path": path, "tree": tree}
        )
        raise refusal
