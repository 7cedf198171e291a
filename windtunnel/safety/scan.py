"""A model's folder looked through for what would run code when it is loaded. Nothing is loaded, imported or called.

Every file is looked at, whatever its name says: as a pickle from its first byte, as a zip or tar, as something
compressed, as NumPy's and Keras' formats. What is inside is looked at the same way. A file that cannot be followed is
refused, where somebody would unpickle it.
"""

from __future__ import annotations

import ast
import io
import lzma
import os
import re
import tarfile
import zipfile
import zlib
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

from windtunnel.safety import documents, mlmodel
from windtunnel.safety.allowed import Allowance, weights
from windtunnel.safety.inflate import Opener, inflating
from windtunnel.safety.machine import Machine
from windtunnel.safety.values import Broken, Reading, Source

#: Bumped when a rule changes what passes; a verdict says which rules it was made by.
RULES = 1
_DEPTH = 4
_PICKLES = (".pkl", ".pickle", ".pk", ".p", ".joblib", ".dill", ".cloudpickle", ".pt", ".pth", ".ckpt", ".mar")
_CODE = (
    ".py",
    ".pyc",
    ".pyo",
    ".pyd",
    ".pyz",
    ".pth.py",
    ".so",
    ".dll",
    ".dylib",
    ".whl",
    ".egg",
    ".jar",
    ".class",
    ".sh",
    ".exe",
    ".bat",
)
_NATIVE = (b"\x7fELF", b"MZ\x90\x00", b"\xcf\xfa\xed\xfe", b"\xca\xfe\xba\xbe")
_CLOSED = {
    b"\x04\x22\x4d\x18": "lz4",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
}
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_REQUIREMENTS = re.compile(r"(requirements|constraints)[\w.-]*\.(txt|in)|conda\.ya?ml|python_env\.ya?ml")
_STORAGE = re.compile(r"(.*/)?data/\d+")
_TEXT = 16 << 20
PERMIT = (
    "set training.pickle: true in the description if the file is yours, or save the model in a format that runs no code"
)
TRUST = "save it in a format that runs no code, or list the module in training.trust if you know it"


@dataclass(frozen=True, slots=True)
class Finding:
    """One reason against a file. ``path`` is relative to the model; ``!`` leads into an archive."""

    path: str
    format: str
    reason: str
    hint: str = TRUST

    def __str__(self) -> str:
        return f"{self.path} ({self.format}): {self.reason}"


@dataclass(slots=True)
class Report:
    """What a scan found.

    Attributes:
        findings: reasons not to load the model; none is a pass.
        formats: how many files of each format that can run code.
        names: every global that its pickles ask for.
        files: how many files were looked at.
    """

    findings: list[Finding] = field(default_factory=list)
    formats: dict[str, int] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    files: int = 0

    @property
    def passed(self) -> bool:
        """Nothing speaks against loading it."""
        return not self.findings

    def reason(self) -> str:
        """One sentence with the decisive number in it."""
        if self.passed:
            kinds = (
                ", ".join(f"{count} {kind}" for kind, count in sorted(self.formats.items())) or "none that can run code"
            )
            return f"{self.files} files looked through: {kinds}; {len(self.names)} names, all on the list"
        more = f" (and {len(self.findings) - 1} more)" if len(self.findings) > 1 else ""
        return f"{self.findings[0]}{more}"

    def numbers(self) -> dict[str, Any]:
        """For the verdict."""
        return {
            "files": self.files,
            "formats": dict(sorted(self.formats.items())),
            "names": sorted(self.names)[:200],
            "findings": [
                {"path": one.path, "format": one.format, "reason": one.reason, "hint": one.hint}
                for one in self.findings[:50]
            ],
        }


def scan(root: Path, allowance: Allowance = Allowance()) -> Report:
    """Look through every file below ``root``, which holds plain files only (``manifest.build`` has seen to that)."""
    scanner = _Scanner(allowance)
    described = mlmodel.Described()
    head = root / "MLmodel"
    if head.is_file():
        described = mlmodel.describe(_text(head.read_bytes()), allowance)
        for why in described.problems:
            scanner.found("MLmodel", "mlmodel", why)
    scanner.code = described.code
    for folder, _, names in os.walk(root):
        for name in sorted(names):
            path = Path(folder, name)
            key = path.relative_to(root).as_posix()
            scanner.report.files += 1
            scanner.file(key, cast("Opener", partial(path.open, "rb")), strict=key in described.pickled)
    return scanner.report


def scan_file(path: Path, allowance: Allowance = Allowance()) -> Report:
    """Look through one file."""
    scanner = _Scanner(allowance)
    scanner.report.files = 1
    scanner.file(path.name, lambda: path.open("rb"))
    return scanner.report


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


class _Scanner:
    def __init__(self, allowance: Allowance) -> None:
        self.allowance = allowance
        self.report = Report()
        self.code: set[str] = set()

    def found(self, path: str, kind: str, reason: str, hint: str = TRUST) -> None:
        self.report.findings.append(Finding(path, kind, reason, hint))

    def count(self, kind: str) -> None:
        self.report.formats[kind] = self.report.formats.get(kind, 0) + 1

    def file(self, path: str, opener: Opener, *, strict: bool = False, depth: int = 0, tensors: bool = False) -> None:
        """Look at one file, or one member of an archive."""
        name = path.rpartition("!")[2]
        base = name.rpartition("/")[2].lower()
        strict = strict or base.endswith(_PICKLES)
        try:
            with opener() as stream:
                head = stream.read(1024)
            self._code(path, name, base, head)
            if _REQUIREMENTS.fullmatch(base):
                with opener() as stream:
                    for why in mlmodel.requirements(base, _text(stream.read(_TEXT))):
                        self.found(
                            path, "requirements", why, "name packages with versions only; the model server has its own"
                        )
            if base == "pickle_module_info.txt" and (why_not := mlmodel.torch_module(_text(head))):
                self.found(path, "torch", why_not)
            if base == "saved_model.pb" and not self.allowance.trusts("tensorflow"):
                self.found(path, "tensorflow", "a SavedModel's graph can read and write files when it runs")
            known = self._container(path, opener, head, depth, strict)
            if self._pickle(path, opener, head, strict and not known, tensors=tensors, known=known):
                known = True
            if strict and not known and head:
                self.found(path, "unknown", "it is loaded as a pickle, and is none that can be followed", PERMIT)
        except (
            Broken,
            OSError,
            EOFError,
            zlib.error,
            lzma.LZMAError,
            zipfile.BadZipFile,
            tarfile.TarError,
            NotImplementedError,
            RuntimeError,
            ValueError,
        ) as error:
            self.found(path, "unknown", f"it cannot be looked into: {error or type(error).__name__}")

    # -- kinds of files

    def _code(self, path: str, name: str, base: str, head: bytes) -> None:
        if not (base.endswith(_CODE) or head.startswith(_NATIVE)):
            return
        self.count("code")
        inside = name
        for folder in sorted(self.code, key=len, reverse=True):
            if name.startswith(folder + "/"):
                inside = name[len(folder) + 1 :]
                break
        root = re.split(r"[/.]", inside, maxsplit=1)[0]
        if not self.allowance.trusts(root):
            self.found(path, "code", f"it is code (of {root!r}) that comes with the model")

    def _container(self, path: str, opener: Opener, head: bytes, depth: int, strict: bool) -> bool:
        """Look into archives and compressed files; True when it was one."""
        if not head:
            return False
        for magic, kind in _CLOSED.items():
            if head.startswith(magic):
                self.found(path, kind, f"a {kind} file is not looked into")
                return True
        if head.startswith(b"\x93NUMPY"):
            self._npy(path, opener)
            return True
        if head.startswith(b"\x89HDF\r\n\x1a\n"):
            self._hdf5(path, opener)
            return True
        if head.startswith((b"PK\x03\x04", b"PK\x05\x06")) or (depth == 0 and self._zip_at_the_end(opener)):
            self._deeper(path, depth)
            self._zip(path, opener, depth)
            return True
        if head[257:262] == b"ustar":
            self._deeper(path, depth)
            self._tar(path, opener, depth)
            return True
        for opened in inflating(opener, head):
            try:
                with opened() as stream:
                    begun = stream.read(1024)
            except (OSError, EOFError, zlib.error, lzma.LZMAError):
                if strict:
                    raise
                return False  # bytes that only begin like a compressed file
            if not begun:
                return False
            self._deeper(path, depth)
            self.file(f"{path}!", opened, strict=strict, depth=depth + 1)
            return True
        return False

    @staticmethod
    def _zip_at_the_end(opener: Opener) -> bool:
        with opener() as stream:
            return zipfile.is_zipfile(stream)

    def _deeper(self, path: str, depth: int) -> None:
        if depth >= _DEPTH:
            raise Broken(f"archives in archives, more than {_DEPTH} deep")

    def _zip(self, path: str, opener: Opener, depth: int) -> None:
        with opener() as stream, zipfile.ZipFile(stream) as archive:
            members = [info for info in archive.infolist() if not info.is_dir()]
            names = [info.filename for info in members]
            if len(set(names)) != len(names):
                self.found(path, "zip", "it holds two files of one name; readers take different ones")
            torch = any(name.rpartition("/")[2] == "data.pkl" for name in names)
            for info in members:
                if info.flag_bits & 0x1:
                    self.found(path, "zip", f"{info.filename} is encrypted")
                    continue
                if info.file_size > (1 << 30) + 200 * info.compress_size:
                    self.found(
                        path, "zip", f"{info.filename} inflates to {info.file_size} bytes from {info.compress_size}"
                    )
                    continue
                if torch and _STORAGE.fullmatch(info.filename):
                    continue  # numbers, which torch never unpickles
                self.file(
                    f"{path}!{info.filename}",
                    cast("Opener", partial(archive.open, info)),
                    depth=depth + 1,
                    tensors=torch,
                )
            self._described(path, archive, set(names))

    def _described(self, path: str, archive: zipfile.ZipFile, names: set[str]) -> None:
        if "schema.json" in names:
            self.count("skops")
            for why in documents.skops(_text(archive.read("schema.json")), self.allowance):
                self.found(path, "skops", why)
        if "config.json" in names and "metadata.json" in names:
            self.count("keras")
            for why in documents.keras(_text(archive.read("config.json")), self.allowance):
                self.found(path, "keras", why)

    def _tar(self, path: str, opener: Opener, depth: int) -> None:
        with opener() as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for info in archive:
                if info.isdir():
                    continue
                if not info.isfile():
                    self.found(path, "tar", f"{info.name} is a link or special file")
                    continue
                self.file(
                    f"{path}!{info.name}",
                    cast("Opener", partial(archive.extractfile, info)),
                    depth=depth + 1,
                )

    def _npy(self, path: str, opener: Opener) -> None:
        with opener() as stream:
            source = Source(stream)
            source.read(6)
            major = source.read(2)[0]
            length = int.from_bytes(source.read(2 if major == 1 else 4), "little")
            if length > 1 << 20:
                raise Broken("a NumPy header of more than a megabyte")
            described = ast.literal_eval(source.read(length).decode("latin-1"))
            if not isinstance(described, dict) or "descr" not in described:
                raise Broken("no NumPy header")
            if "O" in re.sub(r"'[^']*'(?=\s*,\s*[\[('])", "", repr(described["descr"])):
                self._judge(path, "numpy objects", Machine(source, self.allowance.allows).run())

    def _hdf5(self, path: str, opener: Opener) -> None:
        if self.allowance.trusts("keras"):
            return
        last = b""
        with opener() as stream:
            while chunk := stream.read(1 << 20):
                if any(word in last + chunk for word in (b"model_config", b"class_name", b"Lambda")):
                    self.count("keras")
                    self.found(
                        path,
                        "hdf5",
                        "it holds a whole Keras model, whose layers may be code",
                        "save it as .keras, or only its weights",
                    )
                    return
                last = chunk[-32:]

    def _pickle(self, path: str, opener: Opener, head: bytes, strict: bool, *, tensors: bool, known: bool) -> bool:
        """Follow it as a pickle, and what comes after it as more of them; True when it is one."""
        strict = strict or (head[:1] == b"\x80" and len(head) > 1 and head[1] <= 5)
        with opener() as stream:
            source = Source(
                io.BufferedReader(cast("Any", stream), 1 << 16) if isinstance(stream, io.RawIOBase) else stream
            )
            first, count, legacy = source.more(), 0, False
            while first:
                reading = Machine(source, self.allowance.allows, tensors=tensors or legacy, arrays=not tensors).run(
                    first
                )
                if not reading.likely and not (strict and (reading.stopped or count == 0)):
                    # Numbers after the last pickle: only torch's old format has them.
                    if count and not legacy:
                        self.found(path, "pickle", "bytes follow the pickle that are none themselves", PERMIT)
                    break
                if count == 0 and reading.broken and not reading.likely and known:
                    break
                if strict and count == 0 and reading.broken and not reading.likely and not head.startswith(b"\x80"):
                    return False
                self._judge(path, "pickle", reading, many=count > 0)
                count += 1
                legacy = legacy or reading.integer == _TORCH_MAGIC
                if reading.broken:
                    break
                first = source.more()
        return count > 0

    def _judge(self, path: str, kind: str, reading: Reading, *, many: bool = False) -> None:
        if not many:
            self.count(kind)
        self.report.names |= reading.names
        for why in reading.problems:
            self.found(path, kind, why)
        if reading.broken:
            self.found(path, kind, f"it cannot be followed to its end: {reading.broken}")
        elif not (reading.problems or self.allowance.pickle or all(weights(name) for name in reading.names)):
            self.found(path, kind, "loading it runs what is in it, and the description does not allow that", PERMIT)
