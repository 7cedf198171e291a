"""Signs what was sealed: an OpenSSF model signature by the installation's key, made by the package model-signing."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

from windtunnel.evidence.manifest import Manifest
from windtunnel.safety.keys import KeyRing
from windtunnel.safety.signature import OURS
from windtunnel_mlflow.versions import scratch


def sign(found: Manifest, model: str, ring: KeyRing) -> dict[str, Any]:
    """The signature's bundle as plain JSON values. The files are not read again: their digests are in the manifest.

    Raises:
        StackError: the key is missing or can be read by others.
    """
    # 2 s of imports, so not before something is signed.
    from model_signing import manifest as described
    from model_signing._hashing.hashing import Digest
    from model_signing._signing import sign_ec_key, signing

    ring.ensure()
    items = [
        described.FileManifestItem(path=PurePosixPath(name), digest=Digest("sha256", bytes.fromhex(digest)))
        for name, (digest, _) in found.files.items()
    ]
    how = described.SerializationType.from_args({"method": "files", "hash_type": "sha256", "allow_symlinks": False})
    payload = signing.Payload(described.Manifest(model, items, how))
    # Other fields of the predicate are free, and other verifiers leave them alone.
    payload.statement.pb.predicate.update({OURS: {"model": model, "content": found.content}})
    with scratch.folder("sign") as folder:
        written = folder / "model.sig"
        sign_ec_key.Signer(ring.private).sign(payload).write(written)
        return dict(json.loads(written.read_text(encoding="utf-8")))
