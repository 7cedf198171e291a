"""Files that came before their record: at their place in the artifact store, held to the manifests that were signed."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from windtunnel.errors import IntegrityError
from windtunnel.evidence import manifest
from windtunnel.evidence.manifest import Manifest
from windtunnel.safety import signature
from windtunnel_mlflow.exchange.trust import refusing, ring
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.store import GovernedStore
from windtunnel_mlflow.versions.locations import clean

#: Seconds an import waits for uploads that began before it.
UPLOADS_END = 60.0


def check_manifest(found: Manifest, model: str, version: Any) -> None:
    """The manifest's own signature, and names that stay where they belong.

    Raises:
        Refusal: WT_EXPORT.
    """
    with refusing():
        try:
            signature.verify(found, ring(), model=model)
        except IntegrityError as error:
            raise IntegrityError(f"{model} version {version}: {error.message}", hint=error.hint) from error
    for name in found.files:
        if not name or clean(name) != name:
            raise Refusal("WT_EXPORT", f"{model} version {version} has a file {name!r}, which is no plain path")


def check_location(location: str) -> None:
    """Raises: Refusal: WT_EXPORT: it is no place below the artifact root."""
    if not location or clean(location) != location:
        raise Refusal("WT_EXPORT", f"{location!r} is no place below the artifact root")


@contextmanager
def arrived(store: GovernedStore, wanted: Mapping[str, Manifest]) -> Iterator[None]:
    """The files at each location are exactly these, and nothing writes there until this ends.

    Args:
        wanted: location below the artifact root: its manifest.

    Raises:
        Refusal: WT_FILES: a file is missing, added or changed; it is named.
    """
    with store.writes.held(wanted, UPLOADS_END):
        for location, expected in wanted.items():
            _check(store, location, expected)
        yield


def _check(store: GovernedStore, location: str, expected: Manifest) -> None:
    repo = store._repo()
    with tempfile.TemporaryDirectory(prefix="windtunnel-import-") as scratch:
        try:
            # A remote store is read once into a private copy; a local one is read in place.
            root = Path(repo.get_local_path(location) or repo.download_artifacts(location, scratch))
        except Exception as error:
            raise Refusal(
                "WT_FILES", f"there are no files at {location}", hint="import from an export with its files", status=409
            ) from error
        try:
            found = manifest.verify(root, expected)
        except IntegrityError as error:
            told = error.message.replace(str(root), location)
            raise Refusal("WT_FILES", told, hint="import from a whole export", status=409) from error
    if found.content != expected.content:
        raise Refusal("WT_FILES", f"the files at {location} have another content digest than was signed", status=409)
