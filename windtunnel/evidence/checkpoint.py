"""A checkpoint: how large a log is and its root, signed. Text that anybody can keep, mail or print.

The text is C2SP's tlog-checkpoint (c2sp.org/tlog-checkpoint): the log's name, the number of entries, the root in
base64, one line each; then here a line ``time SECONDS``. It is signed as C2SP's signed-note (c2sp.org/signed-note)
with Ed25519 (RFC 8032). Pure: keys come and go as text.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from windtunnel.errors import IntegrityError, WindtunnelError

#: Signature type of signed-note for Ed25519.
_ED25519 = b"\x01"
_DASH = "—"
_SECRET = "PRIVATE+KEY"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What was signed.

    Attributes:
        origin: the log's name.
        size: entries it had.
        root: root of the tree over them, 32 bytes.
        at: when it was made (seconds since the epoch) by the clock of who signed; None where it does not say.
    """

    origin: str
    size: int
    root: bytes
    at: int | None = None

    def text(self) -> str:
        """The text that is signed; ends with a newline."""
        lines = [self.origin, str(self.size), base64.b64encode(self.root).decode()]
        if self.at is not None:
            lines.append(f"time {self.at}")
        return "\n".join(lines) + "\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """From its text; lines of others after the first three are left alone.

        Raises:
            IntegrityError: it is not a checkpoint.
        """
        lines = text.split("\n")
        try:
            if len(lines) < 4 or lines[-1] or not lines[0]:
                raise ValueError("too few lines")
            size, hashed = int(lines[1]), base64.b64decode(lines[2], validate=True)
            if size < 0 or str(size) != lines[1] or len(hashed) != 32:
                raise ValueError("no size and root")
            told = next((line.removeprefix("time ") for line in lines[3:] if line.startswith("time ")), None)
            return cls(lines[0], size, hashed, None if told is None else int(told))
        except (ValueError, binascii.Error) as error:
            raise IntegrityError(
                f"this is not a checkpoint: {error}", hint="expected name, size and root, one a line"
            ) from error


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key with the name it signs for.

    Attributes:
        name: the log's name.
        public: 32 bytes.
    """

    name: str
    public: bytes

    @property
    def id(self) -> bytes:
        """The four bytes by which a signature names its key."""
        return hashlib.sha256(self.name.encode() + b"\n" + _ED25519 + self.public).digest()[:4]

    def text(self) -> str:
        """``NAME+ID+KEY``, one line without its newline."""
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(_ED25519 + self.public).decode()}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """From ``NAME+ID+KEY``.

        Raises:
            IntegrityError: it is not a key of this kind.
        """
        name, _, rest = text.strip().partition("+")
        identifier, _, body = rest.partition("+")
        try:
            raw = base64.b64decode(body, validate=True)
        except binascii.Error:
            raw = b""
        if name and raw[:1] == _ED25519 and len(raw) == 33:
            found = cls(name, raw[1:])
            if found.id.hex() == identifier:
                return found
        raise IntegrityError(
            f"{text[:60]!r} is not a verification key", hint="expected a line NAME+ID+KEY, as in HOME/audit/*.vkey"
        )


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A secret key with the name it signs for.

    Attributes:
        name: the log's name; no ``+`` and no space in it.
        seed: 32 random bytes.
    """

    name: str
    seed: bytes

    def __post_init__(self) -> None:
        if not self.name or "+" in self.name or any(character.isspace() for character in self.name):
            raise ValueError(f"{self.name!r} cannot name a key")
        if len(self.seed) != 32:
            raise ValueError(f"a key has 32 bytes, found {len(self.seed)}")

    @property
    def verifier(self) -> VerifierKey:
        """What others need to check what it signs."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return VerifierKey(self.name, Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw())

    def text(self) -> str:
        """One line for a 0600 file."""
        return f"{_SECRET}+{self.name}+{self.verifier.id.hex()}+{base64.b64encode(_ED25519 + self.seed).decode()}"

    @classmethod
    def parse(cls, text: str) -> SigningKey:
        """From ``text()``.

        Raises:
            IntegrityError: it is not a key of this kind; the message does not show it.
        """
        parts = text.strip().removeprefix(_SECRET + "+").split("+", 2)
        try:
            raw = base64.b64decode(parts[2], validate=True)
            found = cls(parts[0], raw[1:])
            if raw[:1] == _ED25519 and found.verifier.id.hex() == parts[1]:
                return found
        except (IndexError, ValueError, binascii.Error):
            pass
        raise IntegrityError("this is not a signing key", hint="expected PRIVATE+KEY+NAME+ID+KEY")


def sign(checkpoint: Checkpoint, key: SigningKey) -> str:
    """The signed note: text, empty line, signature line."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if checkpoint.origin != key.name:
        raise ValueError(f"a key of {key.name!r} signs no checkpoint of {checkpoint.origin!r}")
    text = checkpoint.text()
    signature = Ed25519PrivateKey.from_private_bytes(key.seed).sign(text.encode())
    line = base64.b64encode(key.verifier.id + signature).decode()
    return f"{text}\n{_DASH} {key.name} {line}\n"


def read(note: str) -> Checkpoint:
    """The checkpoint in a signed note, whoever signed it.

    Raises:
        IntegrityError: it is not a signed note with a checkpoint in it.
    """
    return Checkpoint.parse(_parts(note)[0])


def open_note(note: str, keys: Iterable[VerifierKey]) -> Checkpoint:
    """The checkpoint in a signed note that one of ``keys`` signed. Signatures of others do no harm.

    Raises:
        IntegrityError: it is not such a note, or no signature of these keys is right.
    """
    text, signatures = _parts(note)
    found = Checkpoint.parse(text)
    known = list(keys)
    for name, identifier, signature in signatures:
        for key in known:
            if (key.name, key.id) == (name, identifier) and key.name == found.origin and _holds(key, text, signature):
                return found
    signers = ", ".join(f"{name}+{identifier.hex()}" for name, identifier, _ in signatures) or "nobody"
    raise IntegrityError(
        f"the checkpoint of {found.origin} at {found.size} entries is signed by {signers}: by no key that is trusted",
        hint="trusted are: " + (", ".join(f"{key.name}+{key.id.hex()}" for key in known) or "none"),
    )


def _holds(key: VerifierKey, text: str, signature: bytes) -> bool:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise WindtunnelError(
            f"signatures of checkpoints cannot be checked: {error}", hint="pip install cryptography"
        ) from error

    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature, text.encode())
    except (InvalidSignature, ValueError):
        return False
    return True


def _parts(note: str) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    text, gap, below = note.rpartition("\n\n")
    signatures = []
    lines = below.split("\n")
    if not gap or not lines or lines[-1]:
        raise IntegrityError("this is not a signed note", hint="expected a text, an empty line and signature lines")
    for line in lines[:-1]:
        dash, _, rest = line.partition(" ")
        name, _, body = rest.partition(" ")
        try:
            raw = base64.b64decode(body, validate=True)
        except binascii.Error:
            raw = b""
        if dash != _DASH or not name or len(raw) < 5:
            raise IntegrityError(f"this is not a signature line: {line[:60]!r}")
        signatures.append((name, raw[:4], raw[4:]))
    return text + "\n", signatures
