"""What the sealer writes, and what is sealed: no file of a sealed version is written again (REG-3)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sqlalchemy import insert, select, update

from windtunnel import canonical
from windtunnel.evidence import Verdict
from windtunnel.evidence.manifest import Manifest
from windtunnel.safety import Allowance
from windtunnel.safety.signature import signer
from windtunnel_mlflow import rows, tables
from windtunnel_mlflow.access import identity
from windtunnel_mlflow.lineage import recording
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.transactions import Change, ChangingStore
from windtunnel_mlflow.versions import locations

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

    def allowance(self, model: str, version: int) -> Allowance:
        """What the description behind a version allows its files to hold. The service's word counts, a person's not."""
        with self.reading() as session:
            wanted = select(_V.c.recipe, _V.c.actor, _V.c.facts, _V.c.adopted)
            row = session.execute(wanted.where(_V.c.model == model, _V.c.version == version)).first()
        if row is not None and row.adopted:
            # Only administrators adopt, and they say what the old files may hold.
            given = json.loads(row.adopted)["formats"]
            return Allowance(given.get("pickle") is True, tuple(str(name) for name in given.get("trust") or ()))
        told = json.loads(row.recipe).get("formats") if row is not None and row.recipe else None
        if not isinstance(told, dict) or row is None:
            return Allowance()
        # A version that was moved here, an administrator took in with what its description allows.
        if row.actor not in (identity.SERVICE_USER, "admin") and "moved" not in json.loads(row.facts):
            return Allowance()
        return Allowance(told.get("pickle") is True, tuple(str(name) for name in told.get("trust") or ()))

    def sign_all(self, sign: Callable[[Manifest, str], dict[str, Any]]) -> int:
        """Sign what is sealed and has no signature, by its manifest; how many."""
        with self.reading() as session:
            found = session.execute(
                select(_V.c.model, _V.c.version, _V.c.manifest).where(
                    _V.c.status == rows.READY, _V.c.deleted_at.is_(None), _V.c.manifest.isnot(None)
                )
            ).all()
        count = 0
        for row in found:
            sealed = Manifest.from_dict(json.loads(row.manifest))
            if sealed.signature is not None:
                continue
            signed = replace(sealed, signature=sign(sealed, row.model))
            with self.change(row.model, "sign", version=row.version) as change:
                change.session.execute(
                    update(_V)
                    .where(_V.c.model == row.model, _V.c.version == row.version)
                    .values(manifest=canonical.dumps(signed.to_dict()).decode())
                )
                change.detail |= {"digest": sealed.content}
            count += 1
        return count

    def seal(self, model: str, version: int, found: Manifest, scan: Verdict | None = None) -> None:
        """Set rows.READY with digest, manifest, signature and what the scan said, in one transaction.

        A version that is not pending any more is left alone.
        """
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
            recording.sealed(change.session, model, version, {path: told[0] for path, told in found.files.items()})
            change.detail |= {"digest": found.content, "files": len(found.files), "bytes": found.size}
            if found.signature is not None:
                change.detail["signed_by"] = signer(found.signature)
            _keep(change, scan)

    def fail_seal(self, model: str, version: int, reason: str, scan: Verdict | None = None) -> None:
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
            if row.adopted is None:
                # What plain MLflow registered stays readable there as it was; nothing here lets it fly.
                rows.set_status(change.session, model, version, rows.FAILED, reason[:500])
            _keep(change, scan)

    def _pending(self, change: Change, model: str, version: int) -> Any:
        row = change.session.execute(
            select(_V).where(
                _V.c.model == model, _V.c.version == version, _V.c.status == rows.PENDING, _V.c.deleted_at.is_(None)
            )
        ).first()
        change.silent = row is None
        return row

    def being_purged(self, location: str) -> bool:
        """Whether files at, above or below a location are being removed: those of a deleted version, after its time."""
        with self.reading() as session:
            # Deleted ones first: that is an index, and few of millions.
            marked = select(_V.c.model).where(
                _V.c.deleted_at > 0, _V.c.purged_at.isnot(None), locations.touching(_V.c.location, location)
            )
            return session.execute(marked.limit(1)).first() is not None

    def remove_files(self, location: str) -> None:
        """Remove what is at a sealed location, past the guard, which knows of no removal."""
        repo = self._repo()
        kind: Any = type(repo)
        plain = kind.__mro__[1] if getattr(kind, "windtunnel_governed", False) else kind
        try:
            plain.delete_artifacts(repo, location)
        except FileNotFoundError:
            pass  # a former removal did not come to its end

    def check_artifact_write(self, path: str, tree: bool) -> None:
        """Refuse a write at ``path``, and with ``tree`` at everything below it, when a sealed version is touched."""
        touched = locations.touching(_V.c.location, path, below=tree)
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


def _keep(change: Change, verdict: Verdict | None) -> None:
    """Keep the server's own verdict, in the transaction of what it is about."""
    if verdict is None:
        return
    table, now = tables.verdicts, time.time()
    known = change.session.execute(
        select(table.c.id).where(table.c.id == verdict.id, table.c.claimed.is_(False))
    ).first()
    if known is not None:
        return
    kept = replace(verdict, actor=change.actor.name, created_at=now, correlation_id=change.correlation_id)
    change.session.execute(
        insert(table).values(
            id=verdict.id,
            claimed=False,
            model=verdict.model,
            kind=str(verdict.kind),
            outcome=str(verdict.outcome),
            subject=verdict.subject,
            version=verdict.version,
            body=canonical.dumps(kept.to_dict()).decode(),
            actor=change.actor.name,
            created_at=now,
            correlation_id=change.correlation_id,
        )
    )
    change.detail["scan"] = {"id": verdict.id, "outcome": str(verdict.outcome), "reason": verdict.reason}
