"""A manifest: every file of a model with its SHA-256, and one digest over all of them.

Volatile fields of the ``MLmodel`` file (ids and times MLflow writes anew at each logging) are
left out of the content digest, so that the same model logged twice has the same content. The
manifest itself still holds the exact bytes' digest of every file, ``MLmodel`` included. A signature, where
there is one, is about those exact bytes, and travels with the manifest.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from windtunnel import canonical
from windtunnel.errors import IntegrityError

_PARALLEL = 8 << 20  # bytes from which threads pay
_VOLATILE_MLMODEL = (
    "run_id",
    "model_uuid",
    "utc_time_created",
    "model_id",
    "artifact_path",
    "model_size_bytes",
)


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of one file, read in bounded memory."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class Manifest:
    """``files`` maps a POSIX path, relative to the model's root, to (sha256 hex, size in bytes)."""

    files: dict[str, tuple[str, int]]
    content: str  # "sha256:..." over the files, without MLmodel's volatile fields
    signature: dict[str, Any] | None = field(default=None, compare=False)  # see windtunnel.safety.signature

    def to_dict(self) -> dict[str, Any]:
        plain: dict[str, Any] = {"content": self.content, "files": {k: list(v) for k, v in sorted(self.files.items())}}
        return plain if self.signature is None else {**plain, "signature": self.signature}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Manifest:
        return cls(
            {k: (str(v[0]), int(v[1])) for k, v in plain["files"].items()}, plain["content"], plain.get("signature")
        )

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(size for _, size in self.files.values())


def _stable_mlmodel(path: Path) -> str:
    """Digest of an ``MLmodel`` file without the lines MLflow changes at each logging."""
    kept: list[bytes] = []
    for line in path.read_bytes().splitlines(keepends=True):
        if not any(line.startswith(f"{key}:".encode()) for key in _VOLATILE_MLMODEL):
            kept.append(line)
    return hashlib.sha256(b"".join(kept)).hexdigest()


def _digests(paths: list[Path], total: int) -> list[str]:
    """SHA-256 of each, several at once where that is worth a thread: hashing leaves the interpreter free.

    One file is one chain of SHA-256 (its digest is the one that everybody else computes), so a single big file has one
    processor only.
    """
    workers = min(4, os.cpu_count() or 1, len(paths))
    if workers < 2 or total < _PARALLEL:
        return [sha256_file(path) for path in paths]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(sha256_file, paths))


def build(root: Path) -> Manifest:
    """Read every file below ``root`` once.

    Raises:
        IntegrityError: ``root`` is not a folder, is empty, or holds a link, hard links included, or special file
            (whose content could change without the manifest noticing).
    """
    if not root.is_dir():
        raise IntegrityError(f"no model folder at {root}", hint="expected the folder MLflow logged the model to")
    files: dict[str, tuple[str, int]] = {}
    stable: dict[str, str] = {}
    sizes: dict[Path, int] = {}
    for folder, subfolders, names in os.walk(root):
        for entry in (*subfolders, *names):
            path = Path(folder, entry)
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise IntegrityError(
                    f"{path.relative_to(root)} in {root} is a link or special file",
                    hint="a model holds plain files only",
                )
        for name in names:
            path = Path(folder, name)
            about = path.stat()
            if about.st_nlink > 1:
                raise IntegrityError(
                    f"{path.relative_to(root)} in {root} is a link: the same file has {about.st_nlink} names",
                    hint="a model holds plain files only; copy it, so that nobody can change it by its other name",
                )
            sizes[path] = about.st_size
    if not sizes:
        raise IntegrityError(f"the model folder {root} is empty")
    for path, digest in zip(sizes, _digests(list(sizes), sum(sizes.values())), strict=True):
        key = path.relative_to(root).as_posix()
        files[key] = (digest, sizes[path])
        stable[key] = _stable_mlmodel(path) if key == "MLmodel" else digest
    return Manifest(files, canonical.digest(stable))


def verify(root: Path, expected: Manifest) -> Manifest:
    """Check that ``root`` holds exactly the files of ``expected``; what was found.

    Raises:
        IntegrityError: a file is missing, added or changed; it is named.
    """
    found = build(root)
    compare(root, found, expected)
    return found


def compare(root: Path, read: Manifest, expected: Manifest) -> None:
    """Check that what was read at ``root`` is exactly what is expected.

    Raises: like ``verify``.
    """
    found = read.files
    for key in sorted(expected.files.keys() | found.keys()):
        if key not in found:
            raise IntegrityError(f"{key} is missing from {root}", hint="the copy is incomplete: fetch it again")
        if key not in expected.files:
            raise IntegrityError(f"{key} in {root} was not there at registration", hint="do not load this copy")
        if found[key] != expected.files[key]:
            raise IntegrityError(
                f"{key} in {root} has SHA-256 {found[key][0][:12]}..., registered was {expected.files[key][0][:12]}...",
                hint="the file was changed after registration: do not load this copy",
            )
