"""Verify what the registry holds: every file of a version against its manifest, and the signature against our keys.

In a home the files are read where they lie, at the disk's speed; elsewhere a private copy is fetched and removed.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel.errors import IntegrityError
from windtunnel.evidence import Kind, Outcome, Verdict, manifest
from windtunnel.evidence.manifest import Manifest
from windtunnel.home import Home
from windtunnel.safety import signature
from windtunnel.safety.keys import KeyRing
from windtunnel.serving import artifacts

if TYPE_CHECKING:
    from windtunnel.registry.records import VersionRecord


@dataclass(frozen=True, slots=True)
class Verified:
    """What one version's verification gave.

    Attributes:
        whole: every file is what was sealed, and the signature is by a key we trust.
        reason: one sentence.
        key: id of the key that signed; None where the signature does not hold.
        size: bytes read.
        seconds: how long it took.
    """

    model: str
    version: str
    digest: str
    whole: bool
    reason: str
    key: str | None
    size: int
    seconds: float

    def verdict(self, at: float) -> Verdict:
        """As evidence; ``at`` (seconds since the epoch) tells one look from the next."""
        return Verdict(
            model=self.model,
            kind=Kind.INTEGRITY,
            outcome=Outcome.PASS if self.whole else Outcome.FAIL,
            reason=self.reason,
            subject=self.digest,
            version=self.version,
            numbers={"bytes": self.size, "seconds": round(self.seconds, 3), "key": self.key, "looked_at": at},
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def verify(home: Home, record: VersionRecord) -> Verified:
    """Look at one sealed version.

    Raises:
        UnavailableError, ServingError: its files cannot be reached, so nothing is known.
        IntegrityError: it is not sealed, so there is nothing to verify it by.
    """
    if record.digest is None or not record.manifest:
        raise IntegrityError(f"{record.model} version {record.version} is not sealed ({record.status})")
    began = time.monotonic()
    sealed = Manifest.from_dict(record.manifest)
    key: str | None = None
    try:
        if sealed.content != record.digest:
            raise IntegrityError(
                f"the manifest is about {sealed.content[:19]}..., the version is {record.digest[:19]}..."
            )
        key = signature.verify(sealed, KeyRing.of(home), model=record.model)
        found = _files(home, record, sealed)
        if found.content != record.digest:
            raise IntegrityError(f"the files have the digest {found.content[:19]}..., not {record.digest[:19]}...")
        whole, reason = True, f"{len(found.files)} files, {found.size} bytes, as sealed; signed by {key[:12]}"
    except IntegrityError as error:
        whole, reason = False, error.message
    seconds = time.monotonic() - began
    return Verified(record.model, record.version, record.digest, whole, reason, key, sealed.size, seconds)


def _files(home: Home, record: VersionRecord, sealed: Manifest) -> Manifest:
    place = home.mlflow / "artifacts" / (record.location or "")
    if record.location and place.is_dir():
        return manifest.verify(place, sealed)
    if record.location and (home.mlflow / "artifacts").is_dir():
        raise IntegrityError(f"the files at {place} are gone", hint="put them back from a backup")
    with tempfile.TemporaryDirectory(prefix="windtunnel-verify-") as folder:
        copy = Path(folder) / "model"
        try:
            artifacts.fetch(home, f"mlflow-artifacts:/{record.location}", sealed, copy)
            return manifest.verify(copy, sealed)
        finally:
            shutil.rmtree(copy, ignore_errors=True)
