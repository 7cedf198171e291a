"""``windtunnel registry export``: a registry, single models or one version, written into a folder.

Everything is written beside the place first and renamed at the end, so that nothing that looks whole is not. Files are
read and written in pieces; a model's record is in memory while it is written, and of a whole audit nothing is.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from windtunnel.errors import IntegrityError, WindtunnelError
from windtunnel.evidence import checkpoint, entry, merkle
from windtunnel.files import SHARED, sync_folder, write_bytes
from windtunnel.registry import exchange
from windtunnel.registry.client import RegistryClient
from windtunnel.safety import statement


@dataclass(slots=True)
class Exported:
    """What was written.

    Attributes:
        models: their names.
        versions: how many have their files here, or would have without ``files=False``.
        files: different contents.
        size: bytes of them.
        entries: of the audit.
    """

    models: list[str] = field(default_factory=list)
    versions: int = 0
    files: int = 0
    size: int = 0
    entries: int = 0


def write(
    registry: RegistryClient,
    where: Path,
    *,
    models: Iterable[str] = (),
    version: str | int | None = None,
    files: bool = True,
) -> Exported:
    """Export into the folder ``where``, which is not there yet.

    Args:
        registry: as an administrator.
        models: those alone; the whole registry when empty.
        version: one version of the one model.
        files: with the files of the versions.

    Raises:
        WindtunnelError: ``where`` is there, or the disk is full.
        RefusedError: WT_ROLE.
        IntegrityError: a file is not what was sealed; it is named.
    """
    only = list(models)
    if version is not None and len(only) != 1:
        raise WindtunnelError("a version is of one model", hint="tell one model and the version")
    with _beside(where) as folder:
        return _Writer(registry, folder, files).write(only, version)


@contextmanager
def _beside(where: Path) -> Iterator[Path]:
    if where.exists():
        raise WindtunnelError(f"{where} is there already", hint="export into a folder that is not there yet")
    where.parent.mkdir(parents=True, exist_ok=True)
    made = where.with_name(f".{where.name}.{secrets.token_hex(4)}.part")
    made.mkdir(mode=0o700)
    try:
        yield made
        made.rename(where)
        sync_folder(where.parent)
    except OSError as error:
        raise WindtunnelError(f"the export cannot be written: {error}", hint="is there room on the disk?") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


class _Writer:
    def __init__(self, registry: RegistryClient, folder: Path, files: bool) -> None:
        self.registry, self.folder, self.with_files = registry, folder, files
        self.listed: dict[str, list[Any]] = {}
        self.blobs: dict[str, int] = {}
        self.found = Exported()

    def write(self, only: list[str], version: str | int | None) -> Exported:
        told = self.registry.export_names()
        self.found.models = sorted(only) or list(told["models"])
        for identifier, pem in told["keys"].items():
            self._put(f"keys/{identifier}.pem", pem.encode())
        for name in self.found.models:
            self._record(exchange.record_path(name), self.registry.export_record(name, version))
        if not only:
            self._record(f"{exchange.HOUSE}.json", self.registry.export_house())
        self._audits(only)
        index = {
            "models": self.found.models,
            "version": None if version is None else str(version),
            "whole": not only,
            "with_files": self.with_files,
            "files": dict(sorted(self.listed.items())),
        }
        sealed = self.registry.export_seal(index)
        self._put(exchange.INDEX, json.dumps({"form": exchange.FORM, "signature": sealed}, indent=1).encode())
        self.found.files, self.found.size = len(self.blobs), sum(self.blobs.values())
        return self.found

    def _record(self, path: str, answer: Mapping[str, Any]) -> None:
        data = str(answer["record"]).encode()
        self._put(path, data)
        self._put(exchange.signature_path(path), json.dumps(answer["signature"]).encode())
        record = exchange.parse(data)
        for row, sealed in exchange.sealed(record):
            self.found.versions += 1
            if self.with_files:
                for name, (digest, size) in sealed.files.items():
                    self._blob(f"{row['location']}/{name}", digest, size)

    def _blob(self, source: str, digest: str, size: int) -> None:
        if digest in self.blobs:
            return
        path = self.folder / exchange.blob_path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            told = _Hashing(file)
            self.registry.download(source, told)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        found = told.digest.hexdigest()
        if found != digest:
            raise IntegrityError(
                f"{source} is not what was sealed: its SHA-256 is {found[:12]}..., not {digest[:12]}...",
                hint="'windtunnel registry verify --all' tells what is broken; withdraw it, or put the file back",
            )
        self.blobs[digest] = size

    # -- the audit

    def _audits(self, only: list[str]) -> None:
        told = self.registry.export_audits()
        own = told["entries"] if only else told["logs"][0]
        point = checkpoint.read(statement.read(own, "audit")["checkpoint"])
        log = islice(self.registry.audit_log(), point.size)
        place = f"audit/{exchange.log_folder(point.origin)}"
        if only:
            self._entries(place, log, set(only))
            self._put(f"{place}/{exchange.ABOUT}", json.dumps(own).encode())
            return
        with self._listed(f"{place}/{exchange.LOG}") as file:
            for row in log:
                file.write(entry.line(row) + b"\n")
                self.found.entries += 1
        if self.found.entries != point.size:
            raise IntegrityError(f"the audit has {self.found.entries} entries, {point.size} were signed")
        self._put(f"{place}/{exchange.ABOUT}", json.dumps(own).encode())
        for other in told["logs"][1:]:
            name = exchange.log_folder(checkpoint.read(statement.read(other, "audit")["checkpoint"]).origin)
            with self._listed(f"audit/{name}/{exchange.LOG}") as file:
                for piece in self.registry.export_foreign_audit(name):
                    file.write(piece)
            self._put(f"audit/{name}/{exchange.ABOUT}", json.dumps(other).encode())

    def _entries(self, place: str, log: Iterable[Mapping[str, Any]], only: set[str]) -> None:
        """Entries of single models with proofs that they are in the whole; of the others only hashes are kept."""
        leaves: list[bytes] = []
        kept: dict[str, list[tuple[int, str]]] = {name: [] for name in only}
        for index, row in enumerate(log):
            leaves.append(entry.leaf(row["seq"], row["hash"]))
            if row["model"] in only:
                kept[row["model"]].append((index, entry.line(row).decode()))
        levels = merkle.levels(leaves)
        for name, rows in sorted(kept.items()):
            with self._listed(f"{place}/{exchange.log_folder(name)}.{exchange.ENTRIES}") as file:
                for index, text in rows:
                    proof = [part.hex() for part in merkle.proof_in(levels, index)]
                    file.write(json.dumps({"index": index, "entry": text, "proof": proof}).encode() + b"\n")
                    self.found.entries += 1

    # -- files of the export

    def _put(self, path: str, data: bytes) -> None:
        write_bytes(self.folder / path, data, mode=SHARED, parents=True)
        self.listed[path] = [exchange.digest(data), len(data)]

    @contextmanager
    def _listed(self, path: str) -> Iterator[_Hashing]:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as file:
            told = _Hashing(file)
            yield told
            file.flush()
            os.fsync(file.fileno())
        self.listed[path] = [told.digest.hexdigest(), told.size]


class _Hashing:
    """A file that is digested while it is written."""

    def __init__(self, file: Any) -> None:
        self.file, self.digest, self.size = file, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.size += len(data)
        return int(self.file.write(data))
