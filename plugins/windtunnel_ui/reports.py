"""Which file a report's address means, and for whom. Only reports, only of models the reader may see."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from windtunnel.data.objects import Objects
from windtunnel.home import Home

#: What may be shown, and as what.
KINDS = {".html": "text/html", ".json": "application/json", ".md": "text/plain", ".txt": "text/plain"}

#: A report is somebody's HTML with data in it: it may run its own scripts, but not as the reader.
HEADERS = {"Content-Security-Policy": "sandbox allow-scripts", "X-Content-Type-Options": "nosniff"}


def model_of(address: str) -> str | None:
    """The model a report is about: ``monitoring/MODEL/...`` or ``pipelines/MODEL.train/...``."""
    parts = PurePosixPath(address).parts
    if len(parts) < 3 or parts[0] not in ("monitoring", "pipelines"):
        return None
    return parts[1].split(".", 1)[0] if parts[0] == "pipelines" else parts[1]


def find(home: Home, address: str) -> Path | None:
    """The file behind ``address``, or None: nothing there, not a report, or a way out of the folder."""
    if model_of(address) is None:
        return None
    root = home.monitoring if address.startswith("monitoring/") else home.pipelines
    path = (home.root / address).resolve()
    inside = path.is_relative_to(root.resolve())
    return path if inside and path.suffix in KINDS and path.is_file() else None


def fetch(store: Objects | None, address: str) -> bytes | None:
    """The same report in the object store where a cluster's workers put it, or None.

    Raises:
        UnavailableError, DataError: the store does not answer, or refuses.
    """
    path = PurePosixPath(address)
    # One that workers write has plain parts; anything else is not asked for.
    if store is None or path.suffix not in KINDS or ".." in path.parts or path.as_posix() != address:
        return None
    shown = path.parts[0] == "monitoring" or path.parts[-3:-1] == ("outputs", "data-check")
    return store.get_bytes(address) if shown and model_of(address) else None
