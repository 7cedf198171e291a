"""Files that go through an object store as one: whole, verified at both ends, or not there at all.

    KEY/FILE ...               the bytes of each file
    KEY.windtunnel.json        every file's SHA-256 and size; written last, read first

A parcel without its last object was not finished. What is received is checked file by file before it takes its place,
so a store that lost or changed a byte is found out, whatever it says of itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from windtunnel import canonical
from windtunnel.data.objects import Objects
from windtunnel.errors import IntegrityError
from windtunnel.evidence.manifest import sha256_file

SIDECAR = ".windtunnel.json"
#: Bytes between two questions whether to go on.
_PIECE = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Parcel:
    """What a parcel holds.

    Attributes:
        files: path below the parcel -> (SHA-256 in hex, bytes).
        about: whatever the sender wrote beside it, as JSON values.
    """

    files: Mapping[str, tuple[str, int]]
    about: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """One digest of all files."""
        return canonical.digest({name: digest for name, (digest, _) in self.files.items()})

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(size for _, size in self.files.values())


def contents(root: Path) -> dict[str, Path]:
    """Path below ``root`` -> file, for every plain file of a folder; of a file, its name -> itself."""
    if root.is_file():
        return {root.name: root}
    found = {
        path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file() and not path.is_symlink()
    }
    return dict(sorted(found.items()))


def measure(
    given: Mapping[str, Path], about: Mapping[str, Any] | None = None, go_on: Callable[[], None] | None = None
) -> Parcel:
    """Read every file once.

    Args:
        go_on: called again and again meanwhile; what it raises ends it.
    """
    return Parcel(
        {name: (_digest(path, go_on), path.stat().st_size) for name, path in given.items()}, dict(about or {})
    )


def _digest(path: Path, go_on: Callable[[], None] | None) -> str:
    if go_on is None:
        return sha256_file(path)
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            go_on()
            found.update(piece)
    return found.hexdigest()


def send(
    objects: Objects,
    key: str,
    given: Mapping[str, Path],
    about: Mapping[str, Any] | None = None,
    go_on: Callable[[], None] | None = None,
) -> Parcel:
    """Store files as a parcel; one that is there with the same files is left as it is.

    Args:
        given: path below the parcel -> file.
        go_on: called again and again meanwhile; what it raises ends it, and nothing is there then that could be
            received.

    Raises:
        IntegrityError: a file changed while it was sent; nothing is there then that could be received.
        DataError, UnavailableError: as the store's.
    """
    made = measure(given, about, go_on)
    there = read(objects, key)
    if there is not None and dict(there.files) == dict(made.files) and dict(there.about) == dict(made.about):
        return there
    objects.delete([key + SIDECAR])
    for name, path in given.items():
        objects.put(f"{key}/{name}", path, go_on)
    if (after := measure(given, go_on=go_on)).files != made.files:
        changed = sorted(name for name, found in after.files.items() if found != made.files[name])
        raise IntegrityError(f"{', '.join(changed[:5])} changed while being sent to {objects.url}/{key}")
    plain = {"files": {name: list(found) for name, found in made.files.items()}, "about": dict(made.about)}
    objects.put_bytes(key + SIDECAR, canonical.dumps(plain))
    return made


def read(objects: Objects, key: str) -> Parcel | None:
    """What a finished parcel says of itself; None when there is none."""
    raw = objects.get_bytes(key + SIDECAR)
    if raw is None:
        return None
    try:
        plain = canonical.loads(raw)
        files = {str(name): (str(found[0]), int(found[1])) for name, found in plain["files"].items()}
        return Parcel(files, dict(plain.get("about") or {}))
    except (ValueError, KeyError, TypeError, json.JSONDecodeError):
        raise IntegrityError(
            f"{objects.url}/{key}{SIDECAR} is no parcel's list of files", hint="send it again from where it was made"
        ) from None


def receive(objects: Objects, key: str, target: Path) -> Parcel | None:
    """Fetch a parcel into the folder ``target``, which then holds exactly its files; None when there is none.

    Raises:
        IntegrityError: a file is missing, cut short or changed, or names a place outside; ``target`` is as it was.
        DataError, UnavailableError: as the store's.
    """
    found = read(objects, key)
    if found is None:
        return None
    staging = target.with_name(f".{target.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        staging.mkdir(parents=True)
        for name, (digest, size) in found.files.items():
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or not path.parts:
                raise IntegrityError(f"{objects.url}/{key} names a file outside itself: {name!r}")
            part = staging / path
            part.parent.mkdir(parents=True, exist_ok=True)
            where = f"{objects.url}/{key}/{name}"
            if not objects.get(f"{key}/{name}", part):
                raise IntegrityError(f"{where} is missing", hint="run the step that made it again")
            if part.stat().st_size != size:
                raise IntegrityError(f"{where} has {part.stat().st_size} bytes, expected {size}")
            if (came := sha256_file(part)) != digest:
                raise IntegrityError(f"{where} is corrupt: SHA-256 {came[:12]}..., expected {digest[:12]}...")
        if target.exists():
            shutil.rmtree(target)
        staging.rename(target)
        return found
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def remove(objects: Objects, key: str) -> None:
    """Remove a parcel: first the word that it is there, then its files."""
    objects.delete([key + SIDECAR])
    objects.delete(list(objects.sizes(f"{key}/")))
