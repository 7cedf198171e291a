"""Signed statements: what an installation says of its records, so that another one can hold it to that.

DSSE 1.0 (its protocol.md): one ECDSA signature over SHA-256, by the same elliptic key that signs versions. The payload
is canonical JSON, an object with ``kind``.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from windtunnel import canonical
from windtunnel.errors import IntegrityError
from windtunnel.safety.keys import KeyRing, key_id

PAYLOAD_TYPE = "application/vnd.windtunnel.statement+json"


def sign(plain: dict[str, Any], ring: KeyRing) -> dict[str, Any]:
    """The envelope of a statement, by the installation's key.

    Args:
        plain: JSON values; has ``kind``.

    Raises:
        StackError: the key is missing or can be read by others.
    """
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    ring.ensure()
    private = serialization.load_pem_private_key(ring.private.read_bytes(), None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise IntegrityError(f"{ring.private} holds no elliptic key", hint="windtunnel registry keys rotate")
    pem = private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    raw = canonical.dumps(plain)
    made = private.sign(_signed(raw), ec.ECDSA(hashes.SHA256()))
    return {
        "payloadType": PAYLOAD_TYPE,
        "payload": base64.b64encode(raw).decode(),
        "signatures": [{"keyid": key_id(pem), "sig": base64.b64encode(made).decode()}],
    }


def read(envelope: Any, kind: str) -> dict[str, Any]:
    """What an envelope says, whoever signed it: not to be believed.

    Raises:
        IntegrityError: it is no envelope, or of another kind.
    """
    return _parts(envelope, kind)[3]


def verify(envelope: Any, ring: KeyRing, kind: str) -> tuple[dict[str, Any], str]:
    """What a trusted key says, and the key's id.

    Args:
        kind: what the statement must be.

    Raises:
        IntegrityError: it cannot be read, is of another kind, or no key that we trust signed it.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    identifier, signature, raw, plain = _parts(envelope, kind)
    key = ring.trusted(identifier)
    try:
        key.verify(signature, _signed(raw), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise IntegrityError(
            f"the signature of this {kind} does not fit the key {identifier[:12]}...", hint="export it again"
        ) from None
    return plain, identifier


def _signed(raw: bytes) -> bytes:
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(raw), raw)


def _parts(envelope: Any, kind: str) -> tuple[str, bytes, bytes, dict[str, Any]]:
    try:
        (one,) = envelope["signatures"]
        if envelope["payloadType"] != PAYLOAD_TYPE:
            raise ValueError("another payload type")
        raw = base64.b64decode(envelope["payload"], validate=True)
        plain = json.loads(raw)
        found = str(one["keyid"]), base64.b64decode(one["sig"], validate=True), raw, plain
        if plain["kind"] != kind:
            raise ValueError(f"it is about a {plain['kind']}")
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise IntegrityError(f"this is no signed {kind} of an installation: {error}", hint="export it again") from None
    return found
