"""Audits of other installations, kept beside our own as they came: ``HOME/audit/foreign/LOG``. Never rewritten.

Our own chain says that they came. They arrive in pieces, are checked whole against a checkpoint that the other
installation signed, and take their place then; a longer one replaces the one that it goes on from.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from windtunnel import canonical
from windtunnel.errors import IntegrityError
from windtunnel.evidence import checkpoint, entry, merkle
from windtunnel.evidence.checkpoint import Checkpoint, VerifierKey
from windtunnel.files import sync_folder, write_bytes
from windtunnel.home import Home
from windtunnel.registry import auditfiles
from windtunnel.registry.exchange import ENTRIES, LOG, log_folder

_CHUNK = 1 << 20


def folder(home: Home, name: str) -> Path:
    """Where a log of this folder's name is kept.

    Raises:
        IntegrityError: it is no such name.
    """
    if not name or "/" in name or name.startswith("."):
        raise IntegrityError(f"{name[:80]!r} names no audit")
    return home.audit / "foreign" / name


def kept(home: Home) -> list[str]:
    """Folders of the logs that came whole."""
    root = home.audit / "foreign"
    return sorted(path.parent.name for path in root.glob(f"*/{LOG}")) if root.is_dir() else []


def said(plain: dict[str, Any]) -> tuple[Checkpoint, VerifierKey, str]:
    """What a statement about an audit says: its checkpoint, its key and the file (``audit.jsonl``, ``entries.jsonl``).

    Raises:
        IntegrityError: it contradicts itself.
    """
    try:
        key = VerifierKey.parse(plain["key"])
        point = checkpoint.open_note(plain["checkpoint"], [key])
        if plain["what"] not in (LOG, ENTRIES):
            raise IntegrityError(f"{plain['what']!r} is no part of an audit")
        return point, key, str(plain["what"])
    except (KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(f"the statement about an audit lacks {error}", hint="export it again") from None


def take(home: Home, plain: dict[str, Any], offset: int, text: str, last: bool, model: str | None = None) -> bool:
    """Take a piece of an audit; with the last one, check it and put it in its place.

    Args:
        plain: the signed statement about it.
        offset: bytes that came before.
        model: whose entries they are, where it is not the whole log.

    Returns:
        Whether something is there now that was not before.

    Raises:
        IntegrityError: what came is not what was signed, or contradicts what is here.
    """
    point, key, what = said(plain)
    place = folder(home, log_folder(point.origin))
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    name = what if what == LOG else f"{log_folder(model or '')}.{ENTRIES}"
    coming = place / f".coming-{name}"
    with coming.open("r+b" if offset and coming.exists() else "wb") as file:
        if file.seek(0, os.SEEK_END) < offset:
            raise IntegrityError(f"the piece of the audit at {offset} came before those ahead of it")
        file.seek(offset)
        file.truncate()
        file.write(text.encode())
        if not last:
            return False
        file.flush()
        os.fsync(file.fileno())
    try:
        check(coming, point, key, what)
        new = _place(coming, place / name)
    finally:
        coming.unlink(missing_ok=True)
    if new:
        write_bytes(place / auditfiles.name_of(point.size), str(plain["checkpoint"]).encode())
        write_bytes(place / f"{key.id.hex()}{auditfiles.KEY_SUFFIX}", f"{key.text()}\n".encode())
    return new


def check(path: Path, point: Checkpoint, key: VerifierKey, what: str) -> None:
    """Check a file of entries against a checkpoint.

    Raises:
        IntegrityError: it is broken, cut, or longer than what was signed; the first break is told.
    """
    if what == ENTRIES:
        _check_entries(path, point)
        return
    report = auditfiles.verify(path, [point], processes=1)
    if report.breaks:
        raise IntegrityError(f"the audit of {point.origin} is broken: {report.breaks[0].message}")
    if report.vouched != report.entries or report.entries != point.size:
        raise IntegrityError(
            f"the audit of {point.origin} has {report.entries} entries, {point.size} were signed",
            hint="export it again",
        )


def _check_entries(path: Path, point: Checkpoint) -> None:
    """Entries of one model with their proofs: each in the signed tree, each following the one before."""
    prev = entry.GENESIS
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                plain = json.loads(line)
                row = canonical.loads(plain["entry"])
                proof = [bytes.fromhex(part) for part in plain["proof"]]
                whole = entry.chain_hash(row) == row["hash"] and entry.line(row).decode() == plain["entry"]
                there = merkle.includes(
                    entry.leaf(row["seq"], row["hash"]), int(plain["index"]), point.size, proof, point.root
                )
            except (ValueError, KeyError, TypeError) as error:
                raise IntegrityError(f"line {number} of the entries is none: {error}") from None
            if not whole:
                raise IntegrityError(f"entry {row['seq']} is not what was written: its hash does not fit its content")
            if not there:
                raise IntegrityError(f"entry {row['seq']} is not in the audit that was signed")
            if row["prev"] != prev:
                raise IntegrityError(f"entry {row['seq']} does not follow its model's entry before it")
            prev = row["hash"]


def _place(coming: Path, place: Path) -> bool:
    """Put it in its place, where it goes on from what is there."""
    if place.exists():
        shorter, longer = sorted((place, coming), key=lambda path: path.stat().st_size)
        if place.name == LOG and not _begins(longer, shorter):
            raise IntegrityError(
                f"the audit {place.parent.name} that came is another one than that which is here",
                hint="one of the two histories was made anew: compare them with 'windtunnel audit verify'",
            )
        if longer == place and (place.name == LOG or place.stat().st_size > coming.stat().st_size):
            return False
        if place.stat().st_size == coming.stat().st_size and _begins(longer, shorter):
            return False
    shutil.move(coming, place)
    sync_folder(place.parent)
    return True


def _begins(longer: Path, shorter: Path) -> bool:
    with longer.open("rb") as one, shorter.open("rb") as other:
        while piece := other.read(_CHUNK):
            if one.read(len(piece)) != piece:
                return False
    return True


def piece(path: Path, offset: int, most: int = _CHUNK) -> tuple[str, int, bool]:
    """Whole lines from ``offset`` on: the text, where the next begin, and whether these were the last."""
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(most)
        ended = len(data) < most
        if not ended:
            data += file.readline()
        return data.decode(), offset + len(data), ended or file.tell() == path.stat().st_size
