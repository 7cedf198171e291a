"""An export as it lies on disk (``windtunnel.export/1``): names, the record of a model read, and what is in it. Pure.

A folder::

    export.json              what is in it, and the signed statement over exactly that
    records/NAME.json        everything about one model (or one version of it), canonical JSON
    records/NAME.sig.json    the installation's signed statement about that record
    house.json, .sig.json    the policy of the house and freezes; of a whole registry only
    audit/LOG/audit.jsonl    the audit, every entry as it is hashed; entries.jsonl with proofs, of single models
    audit/LOG/log.sig.json   the signed statement about it: name, key, newest checkpoint
    files/AB/ABCD...         the files of versions by SHA-256, each content once
    keys/ID.pem              the installation's public keys, to look at; what counts is what the reader trusts
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

from windtunnel import canonical
from windtunnel.errors import IntegrityError
from windtunnel.evidence.manifest import Manifest

FORM = "windtunnel.export/1"

INDEX, HOUSE = "export.json", "house"
LOG, ENTRIES, ABOUT = "audit.jsonl", "entries.jsonl", "log.sig.json"
READY = "READY"


def record_path(name: str) -> str:
    """Where a model's record is."""
    return f"records/{_plain(name)}.json"


def signature_path(path: str) -> str:
    """Where the statement about a record is."""
    return f"{path.removesuffix('.json')}.sig.json"


def log_folder(origin: str) -> str:
    """Where the audit of a log with this name is; also what it is called in the registry's home."""
    return _plain(origin)


def blob_path(digest: str) -> str:
    """Where a file with this SHA-256 (hex) is."""
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise IntegrityError(f"{digest[:80]!r} is no SHA-256")
    return f"files/{digest[:2]}/{digest}"


def _plain(name: str) -> str:
    # Models' names are a registry's own affair; what is no plain letter is told by its code.
    return re.sub(r"[^A-Za-z0-9_-]", lambda found: f"%{ord(found[0]):02x}", name)


def digest(data: bytes) -> str:
    """Hex SHA-256."""
    return sha256(data).hexdigest()


def parse(data: bytes) -> dict[str, Any]:
    """A record from its bytes.

    Raises:
        IntegrityError: it is no record of this form.
    """
    try:
        found = canonical.loads(data)
        if found["form"] != FORM:
            raise IntegrityError(
                f"the record has the form {found['form']!r}, expected {FORM!r}", hint="use the Windtunnel it comes from"
            )
        if not isinstance(found["name"], str) or not isinstance(found["tables"], dict):
            raise TypeError("no name or no tables")
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"this is no record of a model: {error}", hint="export it again") from None
    return dict(found)


def sealed(record: Mapping[str, Any]) -> Iterable[tuple[dict[str, Any], Manifest]]:
    """The versions of a record whose files belong to it, each with its manifest; oldest first."""
    for row in record["tables"].get("wt_versions", ()):
        if row["status"] == READY and row["deleted_at"] is None and row["manifest"] and row["location"]:
            yield row, Manifest.from_dict(canonical.loads(row["manifest"]))


def differences(here: Mapping[str, Any], coming: Mapping[str, Any]) -> list[str]:
    """What of two records of one model is not the same, as sentences."""
    found = []
    for table in sorted({*here["tables"], *coming["tables"]}):
        left, right = here["tables"].get(table, []), coming["tables"].get(table, [])
        if left == right:
            continue
        what = table.removeprefix("wt_").replace("_", " ")
        if len(left) != len(right):
            found.append(f"{what}: {len(left)} here, {len(right)} in the export")
            continue
        number, one, other = next(
            (number, *pair) for number, pair in enumerate(zip(left, right, strict=True)) if pair[0] != pair[1]
        )
        names = sorted(key for key in {*one, *other} if one.get(key) != other.get(key))
        which = other.get("version", number + 1)
        found.append(f"{what}: {which} differs in {', '.join(names)}")
    if here["runs"] != coming["runs"]:
        found.append("the MLflow runs that versions come from differ")
    return found
