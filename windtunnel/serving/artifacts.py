"""The private copy of a version's files: fetched, verified, renamed into place, verified again before each load.

The copy is what gets loaded, so nothing that happens to the registry, the artifact store or the source folder
afterwards can reach a running server, and a server restarts with all of them down (SRV-10).
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from windtunnel import files
from windtunnel.errors import IntegrityError, ServingError, UnavailableError
from windtunnel.evidence import manifest
from windtunnel.evidence.manifest import Manifest
from windtunnel.home import Home
from windtunnel.names import check_model_name
from windtunnel.safety import signature
from windtunnel.safety.keys import KeyRing
from windtunnel.serving.backend import Arm

if TYPE_CHECKING:
    from windtunnel.registry.records import VersionRecord

_ARTIFACTS = "api/2.0/mlflow-artifacts/artifacts"


@dataclass(frozen=True, slots=True)
class Folder:
    """Everything one version's server needs: ``HOME/serving/models/MODEL/versions/VERSION``."""

    path: Path

    @classmethod
    def of(cls, home: Home, model: str, version: str) -> Folder:
        return cls(home.serving_model(model) / "versions" / version)

    @property
    def model(self) -> Path:
        """The verified private copy."""
        return self.path / "model"

    @property
    def manifest_file(self) -> Path:
        return self.path / "manifest.json"

    @property
    def server_file(self) -> Path:
        """Settings of this version's server (``servers.config``)."""
        return self.path / "server.json"

    @property
    def mlserver(self) -> Path:
        """Folder given to MLServer; apart from the model, whose files it must not take for settings."""
        return self.path / "mlserver"

    def read_server(self) -> dict[str, Any]:
        """Settings of this version's server.

        Raises:
            ServingError: they are not there.
        """
        found = files.read_json(self.server_file, broken_ok=True)
        if not isinstance(found, dict):
            raise ServingError(f"{self.server_file} is missing", hint="apply the release again")
        return found

    def note(self, name: str, value: dict[str, Any]) -> None:
        """Leave a note for whoever looks at this server from outside (``loaded``, ``failed``)."""
        files.write_json(self.path / f"{name}.json", {"at": time.time(), "pid": os.getpid(), **value}, durable=False)

    def read_note(self, name: str) -> dict[str, Any] | None:
        found = files.read_json(self.path / f"{name}.json", broken_ok=True)
        return found if isinstance(found, dict) else None

    def clear_note(self, name: str) -> None:
        (self.path / f"{name}.json").unlink(missing_ok=True)

    def digest(self) -> str | None:
        """Digest of the copy that is here, as it was when it was made; None without a copy."""
        found = files.read_json(self.manifest_file, broken_ok=True)
        return str(found["content"]) if isinstance(found, dict) and self.model.is_dir() else None


def verify(folder: Folder) -> None:
    """Check that the private copy is, byte for byte, what was fetched and verified.

    Raises:
        IntegrityError: a file is missing, added or changed, the server was configured for another digest, or the
            signature is by a key that was revoked or that we do not know.
    """
    plain = files.read_json(folder.manifest_file, broken_ok=True)
    if not isinstance(plain, dict):
        raise IntegrityError(f"no manifest beside {folder.model}", hint="apply the release again to fetch the model")
    expected = Manifest.from_dict(plain)
    wanted = folder.read_server()["digest"]
    if expected.content != wanted:
        raise IntegrityError(f"{folder.model} has digest {expected.content}, the server was made for {wanted}")
    _check_digest(folder.model, manifest.verify(folder.model, expected), wanted)
    if expected.signature is not None:
        signature.verify(expected, _ring_of(folder))


def ensure(home: Home, model: str, arm: Arm, folder: Folder | None = None) -> Folder:
    """A verified private copy of ``arm``, fetched when there is none that is whole.

    Args:
        folder: where it shall be; the folder of the version's server by default.

    Raises:
        IntegrityError: the source's files are not what was sealed.
        UnavailableError: the source cannot be reached.
        ServingError: the source is none we can fetch from.
    """
    folder = folder or Folder.of(home, model, arm.version)
    if folder.digest() == arm.digest:
        try:
            plain = json.loads(folder.manifest_file.read_bytes())
            manifest.verify(folder.model, Manifest.from_dict(plain))
            return folder
        except IntegrityError:
            pass  # a copy that rotted is fetched anew
    source, expected = _locate(home, model, arm)
    incoming = folder.path / f".incoming-{os.getpid()}-{time.monotonic_ns()}"
    folder.path.mkdir(parents=True, exist_ok=True)
    for left in folder.path.glob(".incoming-*"):  # of a fetch that was killed; the apply lock keeps others out
        shutil.rmtree(left, ignore_errors=True)
    try:
        fetch(home, source, expected, incoming)
        found = manifest.build(incoming)
        if expected is not None:
            manifest.compare(incoming, found, expected)
            found = replace(found, signature=expected.signature)
        _check_digest(incoming, found, arm.digest)
        for path in incoming.rglob("*"):
            if path.is_file():
                path.chmod(0o400)
                with path.open("rb") as stream:
                    os.fsync(stream.fileno())
        folder.manifest_file.unlink(missing_ok=True)  # until the new copy is whole there is none
        shutil.rmtree(folder.model, ignore_errors=True)
        incoming.rename(folder.model)
        files.write_json(folder.manifest_file, found.to_dict())
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return folder


def fetch_version(home: Home, record: VersionRecord) -> Path:
    """Folder with a verified private copy of a registered version, for whoever wants to look at it without serving it.

    Copies that nobody asked for in a day are removed.

    Raises: like ``ensure``.
    """
    if record.digest is None:
        raise IntegrityError(f"{record.model} version {record.version} is not sealed: there is nothing to verify it by")
    copies = home.serving_model(check_model_name(record.model)) / "copies"
    copies.mkdir(parents=True, exist_ok=True)
    with file_lock(copies / ".lock"):
        for old in copies.iterdir():
            if old.is_dir() and old.name != record.version and time.time() - old.stat().st_mtime > 86_400:
                shutil.rmtree(old, ignore_errors=True)
        arm = Arm(record.version, record.digest, f"models:/{record.model}/{record.version}")
        folder = ensure(home, record.model, arm, Folder(copies / record.version))
        os.utime(folder.path)
        return folder.model


def read_mlmodel(home: Home, model: str, arm: Arm) -> bytes:
    """The ``MLmodel`` file of a version: of the verified copy if there is one, else that file alone from its source.

    It is enough to compare signatures before a version of any size is fetched; whoever loads it verifies all of it.

    Raises:
        IntegrityError: it is not what was sealed, or there is none.
        UnavailableError, ServingError: like ``ensure``.
    """
    folder = Folder.of(home, model, arm.version)
    if folder.digest() == arm.digest and (folder.model / "MLmodel").is_file():
        return (folder.model / "MLmodel").read_bytes()
    source, expected = _locate(home, model, arm)
    parts = urlsplit(source)
    with tempfile.TemporaryDirectory(prefix="windtunnel-") as scratch:
        target = Path(scratch) / "MLmodel"
        if parts.scheme in ("", "file"):
            target = Path(unquote(parts.path) if parts.scheme else source) / "MLmodel"
        elif parts.scheme == "mlflow-artifacts":
            _download(home, f"{unquote(parts.path).strip('/')}/MLmodel", target)
        else:
            raise ServingError(f"cannot read a model from {source}")
        if not target.is_file():
            raise IntegrityError(f"{model} version {arm.version} has no MLmodel file in {source}")
        if expected is not None and expected.files.get("MLmodel", ("",))[0] != manifest.sha256_file(target):
            raise IntegrityError(f"the MLmodel file of {model} version {arm.version} is not the one that was sealed")
        return target.read_bytes()


@contextmanager
def file_lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """An exclusive lock that ends with the process that holds it; yields False when it is taken and ``wait`` is off."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)


def _check_digest(path: Path, found: Manifest, wanted: str) -> None:
    if found.content != wanted:
        raise IntegrityError(
            f"the model in {path} has content digest {found.content[:19]}..., sealed was {wanted[:19]}...",
            hint="the files were changed after registration: register the model again, do not release this version",
        )


def _locate(home: Home, model: str, arm: Arm) -> tuple[str, Manifest | None]:
    """Where the files are, and the registry's manifest where the source is a registered version."""
    if not arm.source.startswith("models:/"):
        return arm.source, None
    from windtunnel.registry import connect

    with connect.nearest(home).client() as client:
        record = client.version(model, arm.version)
    if record.digest != arm.digest:
        raise IntegrityError(
            f"the registry has digest {record.digest} for {model} version {arm.version}, "
            f"the release asks for {arm.digest}"
        )
    if not record.manifest:
        raise IntegrityError(f"{model} version {arm.version} is not sealed: the registry has no manifest of it")
    sealed = Manifest.from_dict(record.manifest)
    ring = KeyRing.of(home)
    if ring.exists:
        signature.verify(sealed, ring, model=model)
    # The sealed files, by their place in the artifact store; a source given at registration may say anything.
    source = f"mlflow-artifacts:/{record.location}" if record.location else record.source
    return source, sealed


def _ring_of(folder: Folder) -> KeyRing:
    """The keys of the home a folder lies in; those of the settings, or the default home, where it lies in none."""
    for above in folder.path.parents:
        ring = KeyRing.of(Home(above))
        if ring.exists:
            return ring
    return KeyRing.of(Home.find())


def fetch(home: Home, source: str, expected: Manifest | None, target: Path) -> None:
    parts = urlsplit(source)
    if parts.scheme in ("", "file"):
        path = Path(unquote(parts.path) if parts.scheme else source)
        if not path.is_dir():
            raise ServingError(f"no model folder at {path}", hint="expected the folder MLflow logged the model to")
        manifest.build(path)
        shutil.copytree(path, target, symlinks=True)
    elif parts.scheme == "mlflow-artifacts":
        root = unquote(parts.path).strip("/")
        target.mkdir()
        names = list(expected.files) if expected else list(_listed(home, root, ""))
        for name in names:
            _download(home, f"{root}/{name}", target / _inside(name))
    else:
        raise ServingError(
            f"cannot fetch a model from {source}", hint="expected a path, models:/NAME/VERSION or mlflow-artifacts:/..."
        )


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise IntegrityError(f"{name!r} is no path inside a model")
    return path


def _client(home: Home) -> Any:
    import httpx

    from windtunnel.registry import connect

    server = connect.nearest(home)
    return httpx.Client(
        base_url=server.url.rstrip("/") + "/",
        auth=(server.user, server.password),
        timeout=httpx.Timeout(10.0, read=60.0),
        trust_env=server.remote,  # loopback never goes through a proxy
    )


def _listed(home: Home, root: str, below: str) -> Iterator[str]:
    """Files below ``root/below``, relative to ``root``."""
    for entry in _ask(home, _ARTIFACTS, {"path": f"{root}/{below}".rstrip("/")}).get("files", []):
        name = f"{below}/{entry['path']}".lstrip("/")
        _inside(name)
        if entry.get("is_dir"):
            yield from _listed(home, root, name)
        else:
            yield name


def _ask(home: Home, path: str, params: dict[str, str]) -> dict[str, Any]:
    import httpx

    with _client(home) as client:
        try:
            response = client.get(path, params=params)
        except httpx.HTTPError as error:
            raise UnavailableError(
                f"the MLflow server does not answer: {error}", hint="see 'windtunnel status'"
            ) from error
        _answered(response, path)
        return dict(response.json())


def _download(home: Home, path: str, target: Path) -> None:
    import httpx

    target.parent.mkdir(parents=True, exist_ok=True)
    with _client(home) as client:
        try:
            with client.stream("GET", f"{_ARTIFACTS}/{quote(path)}") as response:
                _answered(response, path)
                with target.open("wb") as stream:
                    for chunk in response.iter_bytes():
                        stream.write(chunk)
        except httpx.HTTPError as error:
            raise UnavailableError(f"the MLflow server broke off while sending {path}: {error}") from error


def _answered(response: Any, path: str) -> None:
    if response.status_code >= 500:
        raise UnavailableError(f"the MLflow server answered {response.status_code} for {path}")
    if response.status_code == 404:
        raise IntegrityError(f"{path} is missing from the artifact store", hint="the version lost files after sealing")
    if response.status_code >= 400:
        raise ServingError(
            f"the MLflow server refused {path} with {response.status_code}",
            hint="the user 'service' must be allowed to read artifacts",
        )
