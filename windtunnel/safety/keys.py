"""The keys of an installation: one private key that signs, and the public keys that verifiers trust, former ones too.

In a home the private key is ``secrets/model-signing.pem`` (0600) and the public ones are in ``keys/``: ``KEYID.pem``
and ``keys.json``, which says of each whether it is current, former or revoked, or trusted as another installation's.
Outside a home two settings say where: ``WINDTUNNEL_SIGNING_KEY`` (a PEM file) and ``WINDTUNNEL_KEYS`` (a folder).
Elliptic keys (P-256), as OpenSSF model signatures take them; a key's id is the SHA-256 of its public PEM, which such a
signature carries as a hint.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from windtunnel import files
from windtunnel.errors import IntegrityError, NotFoundError, StackError
from windtunnel.home import ENV_HOME, Home

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

ENV_PRIVATE = "WINDTUNNEL_SIGNING_KEY"
ENV_PUBLIC = "WINDTUNNEL_KEYS"
CURRENT, FORMER, REVOKED = "current", "former", "revoked"
#: The key of another installation, whose word counts here.
TRUSTED = "trusted"
#: A file beside the public keys: they were given with a secret and are changed there, not here.
GIVEN = "given.txt"


@dataclass(frozen=True, slots=True)
class Key:
    """One public key.

    Attributes:
        id: SHA-256 of its PEM, hex.
        state: current, former, revoked, or trusted: another installation's.
        created_at: seconds since the epoch.
        changed_at: when it became former or revoked.
        reason: why it was revoked.
        installation: what the other installation is called here; None for our own keys.
    """

    id: str
    state: str
    created_at: float
    changed_at: float | None = None
    reason: str | None = None
    installation: str | None = None


def key_id(pem: bytes) -> str:
    """Id of a public key, given as PEM."""
    return hashlib.sha256(pem).hexdigest()


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Keys on disk. ``private`` may be absent where signatures are only verified."""

    private: Path
    public: Path

    @classmethod
    def of(cls, home: Home) -> KeyRing:
        """The keys of a home, or those that the settings name."""
        return cls(
            Path(os.environ.get(ENV_PRIVATE) or home.secrets / "model-signing.pem"),
            Path(os.environ.get(ENV_PUBLIC) or home.root / "keys"),
        )

    @classmethod
    def configured(cls) -> KeyRing | None:
        """The keys of this process's installation; None where it has neither a home nor the settings."""
        if not (os.environ.get(ENV_HOME) or (os.environ.get(ENV_PRIVATE) and os.environ.get(ENV_PUBLIC))):
            return None
        return cls.of(Home.find())

    @property
    def exists(self) -> bool:
        """Whether this installation signs."""
        return (self.public / "keys.json").is_file()

    def keys(self) -> list[Key]:
        """All public keys, oldest first.

        Raises:
            StackError: the list cannot be read.
        """
        try:
            plain = files.read_json(self.public / "keys.json")
            return [] if plain is None else [Key(**entry) for entry in plain["keys"]]
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise StackError(
                f"{self.public / 'keys.json'} cannot be read: {error}", hint="put it back from a backup"
            ) from error

    def ensure(self) -> bool:
        """Make the first key where there is none; True when one was made.

        Raises:
            StackError: there is one half of a pair only, or others may read the private key.
        """
        if self.exists:
            self._check_private()
            return False
        if not self.private.is_file():
            self._make()
        self._check_private()
        self._write([self._current()])
        return True

    def rotate(self, now: float | None = None) -> Key:
        """A new key signs from now on; what the former one signed stays verifiable."""
        self._changeable()
        now = time.time() if now is None else now
        former = [
            Key(key.id, FORMER, key.created_at, now) if key.state == CURRENT else key for key in self.keys()
        ]  # fmt: skip
        self._make()
        made = self._current(now)
        self._write([*former, made])
        return made

    def revoke(self, identifier: str, reason: str, now: float | None = None) -> Key:
        """What this key signed counts no longer. The current one has to be rotated first.

        Raises:
            NotFoundError: there is no such key.
            StackError: it is the current one.
        """
        self._changeable()
        keys = self.keys()
        matching = [key for key in keys if key.id.startswith(identifier)]
        if len(matching) != 1 or len(identifier) < 8:
            raise NotFoundError(
                f"{len(matching)} keys begin with {identifier!r}", hint="'windtunnel registry keys list' names them"
            )
        found = matching[0]
        if found.state == CURRENT:
            raise StackError(
                f"key {found.id[:12]} signs at present", hint="make a new one first: windtunnel registry keys rotate"
            )
        gone = Key(found.id, REVOKED, found.created_at, time.time() if now is None else now, reason, found.installation)
        self._write([gone if key.id == found.id else key for key in keys])
        return gone

    def adopt(self, pem: bytes, installation: str, now: float | None = None) -> Key:
        """Trust the public key of another installation; one that was trusted under this name already is left alone.

        Raises:
            IntegrityError: it is no elliptic public key.
            StackError: it is our own, was revoked here, or has another name here; or the keys are a secret's.
        """
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

        try:
            found = serialization.load_pem_public_key(pem)
        except ValueError as error:
            raise IntegrityError(f"this is no public key: {error}", hint="expected HOME/keys/ID.pem of it") from None
        if not isinstance(found, EllipticCurvePublicKey):
            raise IntegrityError("this is no elliptic public key", hint="expected HOME/keys/ID.pem of the installation")
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        clean = found.public_bytes(serialization.Encoding.PEM, form)
        made = Key(key_id(clean), TRUSTED, time.time() if now is None else now, installation=installation)
        keys = self.keys()
        known = next((key for key in keys if key.id == made.id), None)
        if known is not None:
            if (known.state, known.installation) == (TRUSTED, installation):
                return known
            told = f"trusted as {known.installation}" if known.state == TRUSTED else f"here already: {known.state}"
            raise StackError(f"the key {made.id[:12]}... is {told}", hint="'windtunnel registry keys list' names them")
        self._changeable()
        files.write_bytes(self.public / f"{made.id}.pem", clean, mode=0o644, parents=True)
        self._write([*keys, made])
        return made

    def disown(self, installation: str, reason: str, now: float | None = None) -> list[Key]:
        """Trust no key of another installation any more; those that were trusted until now.

        Raises:
            NotFoundError: none is trusted under this name.
        """
        self._changeable()
        keys, when = self.keys(), time.time() if now is None else now
        gone = {
            key.id: Key(key.id, REVOKED, key.created_at, when, reason, installation)
            for key in keys
            if key.state == TRUSTED and key.installation == installation
        }
        if not gone:
            names = sorted({key.installation for key in keys if key.installation and key.state == TRUSTED})
            raise NotFoundError(
                f"no key of an installation {installation!r} is trusted",
                hint=f"trusted are: {', '.join(names) or 'none'}",
            )
        self._write([gone.get(key.id, key) for key in keys])
        return list(gone.values())

    def installation(self, identifier: str) -> str | None:
        """What the trusted installation is called whose key this is; None for our own keys and those not trusted."""
        found = next((key for key in self.keys() if key.id == identifier), None)
        return found.installation if found is not None and found.state == TRUSTED else None

    def trusted(self, identifier: str) -> EllipticCurvePublicKey:
        """The public key of this id.

        Raises:
            IntegrityError: it is not one of ours, or it was revoked.
        """
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        found = next((key for key in self.keys() if key.id == identifier), None)
        if found is None:
            raise IntegrityError(
                f"signed by the key {identifier[:12]}..., which this installation does not know",
                hint="if it is to be trusted: windtunnel registry trust-installation KEYFILE --name NAME",
            )
        if found.state == REVOKED:
            raise IntegrityError(
                f"signed by the key {identifier[:12]}..., which was revoked: {found.reason}",
                hint="register the model again, from a run you trust",
            )
        try:
            pem = (self.public / f"{identifier}.pem").read_bytes()
            key = load_pem_public_key(pem)
        except (OSError, ValueError) as error:
            raise IntegrityError(f"the public key {identifier[:12]}... cannot be read: {error}") from error
        if key_id(pem) != identifier or not isinstance(key, EllipticCurvePublicKey):
            raise IntegrityError(f"{self.public / identifier}.pem is not the key it is named after")
        return key

    # -- files

    def _changeable(self) -> None:
        if (self.public / GIVEN).exists():
            raise StackError(
                "the keys of this registry come from a secret of its cluster and are not changed here",
                hint="change the secret: kubectl get secret NAME -o json | windtunnel registry keys ... --secret",
            )

    def _make(self) -> None:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        files.write_bytes(self.private, pem, mode=0o600, parents=True)

    def _check_private(self) -> None:
        try:
            mode = self.private.stat().st_mode & 0o077
        except FileNotFoundError:
            raise StackError(
                f"the signing key {self.private} is gone, its public half is in {self.public}",
                hint="put it back from a backup, or make a new one: windtunnel registry keys rotate",
            ) from None
        if mode:
            raise StackError(f"{self.private} can be read by others (mode {mode:o})", hint=f"chmod 600 {self.private}")

    def _current(self, now: float | None = None) -> Key:
        from cryptography.hazmat.primitives import serialization

        private = serialization.load_pem_private_key(self.private.read_bytes(), None)
        pem = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        made = Key(key_id(pem), CURRENT, time.time() if now is None else now)
        files.write_bytes(self.public / f"{made.id}.pem", pem, mode=0o644, parents=True)
        return made

    def _write(self, keys: list[Key]) -> None:
        plain: dict[str, Any] = {"keys": [asdict(key) for key in keys]}
        files.write_json(self.public / "keys.json", plain, mode=0o644, parents=True)
