"""The keys of an installation as one secret of a cluster: what a registry without a volume signs by.

``model-signing.pem`` signs versions, ``audit-key`` the audit's checkpoints; ``keys.json`` and ``ID.pem`` are the public
keys, former and trusted ones too. Where the server runs they cannot be changed: a change that ended with its pod would
be worse than none. They are changed in the secret (``windtunnel registry keys ... --secret``).
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from windtunnel.errors import IntegrityError, StackError
from windtunnel.evidence.checkpoint import SigningKey
from windtunnel.files import write_bytes
from windtunnel.safety.keys import CURRENT, GIVEN, KeyRing, key_id

PRIVATE, AUDIT, LIST = "model-signing.pem", "audit-key", "keys.json"
_Answer = TypeVar("_Answer")


def fresh(folder: Path) -> None:
    """Make new keys in an empty folder."""
    KeyRing(folder / PRIVATE, folder).ensure()
    _new_audit_key(folder, f"windtunnel-audit/{secrets.token_hex(6)}")


def rotate_audit(folder: Path) -> str:
    """A new key for the audit under the log's old name; its text for verifiers."""
    former = SigningKey.parse((folder / AUDIT).read_text(encoding="utf-8"))
    return _new_audit_key(folder, former.name)


def _new_audit_key(folder: Path, name: str) -> str:
    made = SigningKey(name, secrets.token_bytes(32))
    write_bytes(folder / AUDIT, f"{made.text()}\n".encode())
    return made.verifier.text()


def collect(ring: KeyRing, audit_key: Path, folder: Path) -> None:
    """Bring the keys of a home into an empty folder, as a secret has them.

    Raises:
        StackError: there are none yet.
    """
    if not ring.exists or not ring.private.is_file() or not audit_key.is_file():
        raise StackError(
            f"there are no keys to bring away: expected {ring.public / LIST}, {ring.private} and {audit_key}",
            hint="the registry makes them when it starts; or make new ones: windtunnel registry keys secret NAME --new",
        )
    for path in (ring.private, audit_key, *ring.public.glob("*.pem"), ring.public / LIST):
        name = {ring.private: PRIVATE, audit_key: AUDIT}.get(path, path.name)
        write_bytes(folder / name, path.read_bytes())


def install(folder: Path, ring: KeyRing, audit_key: Path) -> None:
    """Put the keys of a mounted secret where the server looks, and mark them as given: nothing changes them there.

    Raises:
        StackError: one is missing, or they do not belong together.
    """
    try:
        private, audit = (folder / PRIVATE).read_bytes(), (folder / AUDIT).read_text(encoding="utf-8")
    except OSError as error:
        raise StackError(
            f"the secret with the registry's keys cannot be read: {error.strerror or error} ({error.filename})",
            hint="make it: windtunnel registry keys secret NAME --new | kubectl apply -f -",
        ) from error
    try:
        SigningKey.parse(audit)
    except IntegrityError as error:
        raise StackError(f"{AUDIT} in the secret is none: {error.message}", hint=error.hint) from None
    write_bytes(ring.private, private, parents=True)
    write_bytes(audit_key, audit.encode(), parents=True)
    shutil.rmtree(ring.public, ignore_errors=True)
    for path in (*sorted(folder.glob("*.pem")), folder / LIST):
        if path.name != PRIVATE and path.is_file():
            write_bytes(ring.public / path.name, path.read_bytes(), mode=0o644, parents=True)
    try:
        ring.ensure()
        keys = ring.keys()
        current = [key.id for key in keys if key.state == CURRENT]
        signs = key_id(_public(private))
    except (ValueError, TypeError) as error:
        raise StackError(f"{PRIVATE} in the secret is no key: {error}", hint="expected PEM, P-256") from None
    if current != [signs]:
        raise StackError(
            f"{PRIVATE} in the secret is the key {signs[:12]}..., {LIST} says {', '.join(current)[:12] or 'none'}...",
            hint="both come from one command: windtunnel registry keys rotate --secret",
        )
    write_bytes(ring.public / GIVEN, b"These keys come from a secret of the cluster; change that.\n", mode=0o644)


def _public(private: bytes) -> bytes:
    from cryptography.hazmat.primitives import serialization

    found = serialization.load_pem_private_key(private, None).public_key()
    return found.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def manifest(name: str, folder: Path) -> dict[str, Any]:
    """A Kubernetes Secret of the files in a folder."""
    data = {path.name: base64.b64encode(path.read_bytes()).decode() for path in sorted(folder.iterdir())}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "Opaque", "data": data}


def public(name: str, ring: KeyRing) -> dict[str, Any]:
    """A Kubernetes ConfigMap of the public keys: whose signatures count, for pods that load models.

    Raises:
        StackError: there are none yet.
    """
    if not ring.exists:
        raise StackError(
            f"there are no keys in {ring.public}",
            hint="the registry makes or installs them when it starts; run this where it runs, or name its --home",
        )
    paths = [*sorted(ring.public.glob("*.pem")), ring.public / LIST]
    data = {path.name: path.read_text(encoding="utf-8") for path in paths}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def changed(secret: str, change: Callable[[Path], _Answer]) -> tuple[dict[str, Any], _Answer]:
    """A Secret with its keys changed, ready to be applied; and what ``change`` answered.

    Args:
        secret: as ``kubectl get secret NAME --output json`` prints it.
        change: changes the files in a folder.

    Raises:
        StackError: it is no secret with keys.
    """
    try:
        plain = json.loads(secret)
        if not isinstance(plain, Mapping) or plain.get("kind") != "Secret":
            raise ValueError("its kind is not Secret")
        entries = {str(name): base64.b64decode(value, validate=True) for name, value in plain["data"].items()}
        if not {PRIVATE, AUDIT} <= set(entries) or any("/" in name or name.startswith(".") for name in entries):
            raise ValueError(f"expected the keys {PRIVATE} and {AUDIT}")
    except (ValueError, KeyError, AttributeError, TypeError, binascii.Error) as error:
        raise StackError(
            f"what came on stdin is no secret with a registry's keys: {error}",
            hint="kubectl get secret NAME --output json | windtunnel registry keys ... --secret | kubectl apply -f -",
        ) from None
    with tempfile.TemporaryDirectory(prefix="windtunnel-keys-") as made:
        folder = Path(made)
        for name, content in entries.items():
            write_bytes(folder / name, content)
        KeyRing(folder / PRIVATE, folder).ensure()
        answer = change(folder)
        metadata = {key: plain["metadata"][key] for key in ("name", "namespace", "labels") if key in plain["metadata"]}
        return {**manifest("", folder), "metadata": metadata}, answer
