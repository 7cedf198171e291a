"""The client's methods for exports, imports and other installations; part of ``RegistryClient``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

#: MLflow's artifact proxy, below the server's URL.
ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/"
_CHUNK = 1 << 20
#: Seconds for one step of a request that writes, reads or seals files.
PATIENT = 600.0


class ExchangeCalls(ABC):
    """One method per endpoint. All are for administrators."""

    @abstractmethod
    def _call(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        """One request; its JSON object."""

    @abstractmethod
    @contextmanager
    def _stream(self, method: str, path: str, **kwargs: Any) -> Iterator[Iterator[bytes]]:
        """One request outside this API, below the server's URL; its body in pieces."""

    # -- other installations

    def installations(self) -> list[dict[str, Any]]:
        """Keys of other installations: ``id``, ``installation``, ``state`` (trusted or revoked), ``reason``."""
        return list(self._call("GET", "/installations")["installations"])

    def trust_installation(self, name: str, key: str) -> dict[str, Any]:
        """Let what another installation signs count here, under a name.

        Args:
            key: its public key as PEM (``HOME/keys/ID.pem`` there).

        Raises:
            RefusedError: WT_ROLE.
            RegistryError: WT_REQUEST: no name, no key, or a key that is here already.
        """
        return self._call("POST", "/installations", json={"name": name, "key": key})

    def distrust_installation(self, name: str, reason: str) -> list[dict[str, Any]]:
        """Let no key of another installation count any more; the keys."""
        found = self._call("POST", f"/installations/{_q(name)}/distrust", json={"reason": reason})
        return list(found["installations"])

    # -- exports

    def export_names(self) -> dict[str, Any]:
        """``models``: every one that is or was; ``keys``: the installation's public keys, PEM by id."""
        return self._call("GET", "/exports/models")

    def export_house(self) -> dict[str, Any]:
        """``{"record", "signature"}``: what belongs to no model."""
        return self._call("GET", "/exports/house")

    def export_record(self, model: str, version: str | int | None = None) -> dict[str, Any]:
        """``{"record", "signature"}`` of a model, or of one version of it."""
        path = f"/exports/models/{_q(model)}" + ("" if version is None else f"/versions/{_q(version)}")
        return self._call("GET", path, timeout=PATIENT)

    def export_seal(self, index: Mapping[str, Any]) -> dict[str, Any]:
        """The signed statement over what is in an export."""
        return dict(self._call("POST", "/exports/seal", json={"index": dict(index)})["signature"])

    def export_audits(self) -> dict[str, Any]:
        """``logs``: signed statements about this installation's audit as of now, then about others; ``entries``."""
        return self._call("POST", "/exports/audits", json={}, timeout=PATIENT)

    def export_foreign_audit(self, name: str) -> Iterator[bytes]:
        """An audit of another installation that is kept there, in pieces."""
        offset, last = 0, False
        while not last:
            found = self._call("GET", f"/exports/audits/{_q(name)}", params={"offset": str(offset)})
            yield str(found["text"]).encode()
            offset, last = int(found["next"]), bool(found["last"])

    # -- imports

    def import_check(self, signature: Mapping[str, Any]) -> dict[str, Any]:
        """``{"index", "key", "installation"}`` of an export's signed statement.

        Raises:
            RefusedError: WT_EXPORT: no trusted key signed it.
        """
        return self._call("POST", "/imports/check", json={"signature": dict(signature)})

    def import_plan(self, record: str, signature: Mapping[str, Any], *, version: bool = False) -> dict[str, Any]:
        """What importing would do: ``state``, ``differences``, ``upload`` (location: path: SHA-256, bytes)."""
        path = "/imports/versions/plan" if version else "/imports/plan"
        return self._call("POST", path, json={"record": record, "signature": dict(signature)}, timeout=PATIENT)

    def import_record(self, record: str, signature: Mapping[str, Any]) -> dict[str, Any]:
        """Restore a record whose files are there.

        Raises:
            RefusedError: WT_EXPORT, WT_DIFFERENT (``missing`` is the list), WT_FILES.
        """
        body = {"record": record, "signature": dict(signature)}
        return self._call("POST", "/imports/records", json=body, timeout=PATIENT)

    def import_version(self, record: str, signature: Mapping[str, Any]) -> dict[str, Any]:
        """Take one version of another installation: ``{"version", "new"}``; it may not be sealed yet."""
        body = {"record": record, "signature": dict(signature)}
        return self._call("POST", "/imports/versions", json=body, timeout=PATIENT)

    def import_audit(
        self, statement: Mapping[str, Any], offset: int, text: str, last: bool, model: str | None = None
    ) -> bool:
        """A piece of another installation's audit; with the last it is checked, and whether there was anything new."""
        body = {"statement": dict(statement), "offset": offset, "text": text, "last": last, "model": model}
        return bool(self._call("POST", "/imports/audits", json=body, timeout=PATIENT)["new"])

    # -- files

    def download(self, path: str, into: IO[bytes]) -> None:
        """A file below the artifact root, in pieces."""
        with self._stream("GET", ARTIFACTS + quote(path), timeout=PATIENT) as pieces:
            for piece in pieces:
                into.write(piece)

    def upload(self, path: str, file: Path) -> None:
        """A file to a place below the artifact root, in pieces."""

        def content() -> Iterator[bytes]:
            with file.open("rb") as stream:
                while piece := stream.read(_CHUNK):
                    yield piece

        with self._stream("PUT", ARTIFACTS + quote(path), content=content(), timeout=PATIENT) as pieces:
            for _ in pieces:
                pass


def _q(part: str | int) -> str:
    return quote(str(part), safe="")
