"""``windtunnel registry import``: what an export holds, checked, then brought into a registry.

First everything that lies in the folder is held to the signed list and every file to its digest; then the registry is
asked what each record would do; only then is anything changed. What was done before a crash is found done.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from windtunnel.errors import IntegrityError, NotFoundError, RefusedError, UnavailableError
from windtunnel.evidence.manifest import sha256_file
from windtunnel.registry import exchange
from windtunnel.registry.client import SEAL_TIMEOUT, RegistryClient

_PIECE = 1 << 20
PENDING = "PENDING_REGISTRATION"


@dataclass(slots=True)
class Imported:
    """What was done, or would be.

    Attributes:
        installation: what the other installation is called here; None for our own.
        new, same: models; one version as ``MODEL@NUMBER-HERE`` (``MODEL`` alone before it is there).
        uploaded: bytes of files that were brought.
        audit: whether there is more of the other installation's audit here than before.
        dry: nothing was changed.
    """

    installation: str | None = None
    new: list[str] = field(default_factory=list)
    same: list[str] = field(default_factory=list)
    uploaded: int = 0
    audit: bool = False
    dry: bool = False


@dataclass(frozen=True, slots=True)
class Signed:
    """A record with its statement."""

    path: str
    text: str
    signature: dict[str, Any]
    plain: dict[str, Any]

    @property
    def one(self) -> bool:
        """Whether it is one version, which comes as a new one."""
        return bool(self.plain["kind"] == "version")


def read(registry: RegistryClient, source: Path, *, models: Iterable[str] = (), dry: bool = False) -> Imported:
    """Import from the folder ``source``.

    Args:
        registry: as an administrator.
        models: those alone; everything when empty.
        dry: say what would be done.

    Raises:
        IntegrityError: something in the folder is not what was signed; it is named.
        NotFoundError: there is no such model in it.
        RefusedError: WT_EXPORT (nobody trusted signed it), WT_DIFFERENT (``missing`` is the list), WT_FILES, WT_ROLE.
    """
    told = _index(source)
    checked = registry.import_check(told["signature"])
    index = checked["index"]
    check_files(source, index)
    records = list(_records(source, index, set(models)))
    _check_blobs(source, records, index)
    found = Imported(installation=checked["installation"], dry=dry)
    plans = [(one, registry.import_plan(one.text, one.signature, version=one.one)) for one in records]
    _refuse_different(plans)
    for one, plan in plans:
        name = one.plain["name"] or "the policy of the house"
        (found.same if plan["state"] == "same" else found.new).append(name)
    if dry:
        return found
    for one, plan in plans:
        found.uploaded += _upload(registry, source, plan["upload"])
        if one.one:
            done = registry.import_version(one.text, one.signature)
            _await_seal(registry, one.plain["name"], done["version"])
            (found.new if done["new"] else found.same)[:] = [f"{one.plain['name']}@{done['version']}"]
        elif plan["state"] != "same":
            registry.import_record(one.text, one.signature)
    found.audit = _audits(registry, source, index, {one.plain["name"] for one in records} if models else None)
    return found


def _index(source: Path) -> dict[str, Any]:
    try:
        told = json.loads((source / exchange.INDEX).read_bytes())
        if told["form"] != exchange.FORM:
            raise IntegrityError(f"{source} has the form {told['form']!r}, expected {exchange.FORM!r}")
        return dict(told)
    except FileNotFoundError:
        raise NotFoundError(
            f"there is no {exchange.INDEX} in {source}", hint="expected a folder made by 'windtunnel registry export'"
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{source / exchange.INDEX} cannot be read: {error}", hint="export it again") from None


def check_files(source: Path, index: Mapping[str, Any]) -> None:
    """Hold everything but the versions' files to the signed list.

    Raises:
        IntegrityError: a file is missing or changed.
    """
    for name, (digest, size) in sorted(index["files"].items()):
        path = source / name
        if not path.is_file() or path.is_symlink():
            raise IntegrityError(f"{name} is missing from the export", hint="copy it again, whole")
        if path.stat().st_size != size or sha256_file(path) != digest:
            raise IntegrityError(f"{name} is not what was exported", hint="it was changed or cut: copy it again")


def _records(source: Path, index: Mapping[str, Any], only: set[str]) -> Iterator[Signed]:
    missing = sorted(only - set(index["models"]))
    if missing:
        raise NotFoundError(f"the export has no model {missing[0]!r}", hint=f"it has {', '.join(index['models'])}")
    paths = [exchange.record_path(name) for name in index["models"] if not only or name in only]
    if index["whole"] and not only:
        paths.insert(0, f"{exchange.HOUSE}.json")
    for path in paths:
        if path not in index["files"] or exchange.signature_path(path) not in index["files"]:
            raise IntegrityError(f"{path} is not among the files that were signed", hint="export it again")
        data = (source / path).read_bytes()
        signature = json.loads((source / exchange.signature_path(path)).read_bytes())
        yield Signed(path, data.decode(), signature, exchange.parse(data))


def _check_blobs(source: Path, records: Iterable[Signed], index: Mapping[str, Any]) -> None:
    if not index["with_files"]:
        return
    seen: set[str] = set()
    for one in records:
        for row, sealed in exchange.sealed(one.plain):
            for name, (digest, size) in sealed.files.items():
                if digest in seen:
                    continue
                seen.add(digest)
                path, what = (
                    source / exchange.blob_path(digest),
                    f"{one.plain['name']} version {row['version']}: {name}",
                )
                if not path.is_file() or path.is_symlink():
                    raise IntegrityError(
                        f"{what} is missing ({exchange.blob_path(digest)})", hint="copy it again, whole"
                    )
                if path.stat().st_size != size or sha256_file(path) != digest:
                    raise IntegrityError(f"{what} was changed ({exchange.blob_path(digest)})", hint="copy it again")


def _refuse_different(plans: Iterable[tuple[Signed, Mapping[str, Any]]]) -> None:
    lines = [
        f"{one.plain['name'] or 'the house'}: {line}"
        for one, plan in plans
        if plan["state"] == "different"
        for line in plan["differences"]
    ]
    if lines:
        raise RefusedError(
            "this registry has something else under these names; nothing was changed",
            hint="import into an empty registry, or name the models to import with --model",
            code="WT_DIFFERENT",
            missing=tuple(lines),
        )


def _upload(registry: RegistryClient, source: Path, wanted: Mapping[str, Mapping[str, Any]]) -> int:
    size = 0
    for location, files in wanted.items():
        for name, (digest, _) in sorted(files.items()):
            path = source / exchange.blob_path(digest)
            if not path.is_file():
                # An export without files: they may be at their place already, and the registry looks.
                continue
            registry.upload(f"{location}/{name}", path)
            size += path.stat().st_size
    return size


def _await_seal(registry: RegistryClient, model: str, version: str) -> None:
    """Wait until a version that came is looked through and signed.

    Raises:
        IntegrityError: it could not be sealed here.
        UnavailableError: not within ``SEAL_TIMEOUT``.
    """
    end, pause = time.monotonic() + SEAL_TIMEOUT, 0.1
    while (found := registry.version(model, version)).status == PENDING:
        if time.monotonic() > end:
            raise UnavailableError(
                f"version {version} of {model!r} is not sealed after {SEAL_TIMEOUT:.0f} s",
                hint="import again to go on waiting",
            )
        time.sleep(pause)
        pause = min(2.0, pause * 1.5)
    if not found.ready:
        raise IntegrityError(
            f"version {version} of {model!r} came and could not be sealed: {found.status_reason}",
            hint="what its description does not allow is not taken; delete that version before you import it again",
        )


def _audits(registry: RegistryClient, source: Path, index: Mapping[str, Any], only: set[str] | None) -> bool:
    new = False
    for name in sorted(index["files"]):
        folder, _, file = name.rpartition("/")
        model = None
        if file.endswith(f".{exchange.ENTRIES}"):
            model = next(one for one in index["models"] if f"{exchange.log_folder(one)}.{exchange.ENTRIES}" == file)
            if only is not None and model not in only:
                continue
        elif file != exchange.LOG:
            continue
        statement = json.loads((source / folder / exchange.ABOUT).read_bytes())
        for offset, text, last in _pieces(source / name):
            new = registry.import_audit(statement, offset, text, last, model) or new
    return new


def _pieces(path: Path) -> Iterator[tuple[int, str, bool]]:
    size = path.stat().st_size
    with path.open("rb") as file:
        offset = 0
        while True:
            data = file.read(_PIECE)
            if len(data) == _PIECE:
                data += file.readline()
            yield offset, data.decode(), offset + len(data) >= size
            offset += len(data)
            if offset >= size:
                return
