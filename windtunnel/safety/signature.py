"""Check an OpenSSF model signature against a manifest: who signed, and that it is about exactly these files.

The form is model-signing's 1.x: a Sigstore bundle with a DSSE envelope around an in-toto statement, whose predicate
lists every file with its SHA-256. Stricter than that package: one signature, by a key we know, over plain files, and
nothing ignored. Sources: DSSE 1.0 (protocol.md), in-toto attestation v1, model-signing's README.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import Any

from windtunnel.errors import IntegrityError
from windtunnel.evidence.manifest import Manifest
from windtunnel.safety.keys import KeyRing

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
#: Our own part of the predicate: the registry's model and the content digest.
OURS = "windtunnel"


def _wrong(what: str) -> IntegrityError:
    return IntegrityError(f"the signature {what}", hint="do not load this model; register it again")


def signer(bundle: dict[str, Any]) -> str:
    """Id of the key a signature says it is by; not yet believed."""
    try:
        return str(bundle["verificationMaterial"]["publicKey"]["hint"])
    except (KeyError, TypeError):
        raise _wrong("does not say by which key it is") from None


def verify(manifest: Manifest, ring: KeyRing, *, model: str | None = None) -> str:
    """Check the manifest's signature.

    Args:
        manifest: with its signature; its files are what was, or will be, compared with the disk.
        ring: the keys we trust.
        model: the model it must be about; None does not look at that.

    Returns:
        Id of the key that signed.

    Raises:
        IntegrityError: there is no signature, it is by another key, or about something else; it says which.
    """
    bundle = manifest.signature
    if not isinstance(bundle, dict):
        raise IntegrityError("there is no signature", hint="it was registered without one: register the model again")
    identifier = signer(bundle)
    payload = _payload(bundle, ring, identifier)
    _about(payload, manifest, model)
    return identifier


def _payload(bundle: dict[str, Any], ring: KeyRing, identifier: str) -> dict[str, Any]:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ring.trusted(identifier)
    kinds: dict[int, hashes.HashAlgorithm] = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
    try:
        envelope = bundle["dsseEnvelope"]
        signatures = envelope["signatures"]
        if bundle["mediaType"] != MEDIA_TYPE or envelope["payloadType"] != PAYLOAD_TYPE or len(signatures) != 1:
            raise _wrong("has another form than an OpenSSF model signature")
        raw = base64.b64decode(envelope["payload"], validate=True)
        signed = b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(raw), raw)
        key.verify(base64.b64decode(signatures[0]["sig"], validate=True), signed, ec.ECDSA(kinds[key.curve.key_size]))
        plain = json.loads(raw)
    except InvalidSignature:
        raise _wrong(f"does not fit the key {identifier[:12]}...") from None
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise _wrong(f"cannot be read ({type(error).__name__})") from None
    if not isinstance(plain, dict):
        raise _wrong("holds no statement")
    return plain


def _about(plain: dict[str, Any], manifest: Manifest, model: str | None) -> None:
    try:
        if plain["_type"] != STATEMENT or plain["predicateType"] != PREDICATE:
            raise _wrong("is about something else than a model")
        predicate = plain["predicate"]
        how = predicate["serialization"]
        if how["method"] != "files" or how["hash_type"] != "sha256" or how["allow_symlinks"] or how.get("ignore_paths"):
            raise _wrong("leaves out files, or digests them in another way")
        listed = [(entry["name"], entry["algorithm"], entry["digest"]) for entry in predicate["resources"]]
        (subject,) = plain["subject"]
        total = hashlib.sha256(b"".join(bytes.fromhex(digest) for _, _, digest in listed)).hexdigest()
        ours = predicate.get(OURS) or {}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _wrong(f"holds a statement that cannot be read ({type(error).__name__})") from None
    if subject.get("digest") != {"sha256": total}:
        raise _wrong("contradicts itself")
    expected = sorted((name, "sha256", digest) for name, (digest, _) in manifest.files.items())
    if sorted(listed) != expected:
        raise _wrong("is about other files than the manifest lists")
    if ours.get("content") != manifest.content:
        raise _wrong(f"names another content digest than {manifest.content[:19]}...")
    if model is not None and ours.get("model") != model:
        raise _wrong(f"is about the model {ours.get('model')!r}, not {model!r}")
