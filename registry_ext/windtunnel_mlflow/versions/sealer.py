"""Seals versions: reads a version's files on the server's side, looks through them, signs the manifest, sets READY.

A version is PENDING_REGISTRATION from the transaction that creates it; from that commit its path refuses
writes. What was PENDING when the server died is sealed again at the next start.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import yaml

from windtunnel.errors import IntegrityError
from windtunnel.evidence import Kind, Outcome, Verdict, manifest
from windtunnel.safety import Allowance, Report, scan
from windtunnel.safety.keys import KeyRing
from windtunnel.safety.scan import RULES
from windtunnel_mlflow.access import identity
from windtunnel_mlflow.versions import scratch
from windtunnel_mlflow.versions.locations import MLMODEL

_logger = logging.getLogger(__name__)

#: Seconds a seal waits for uploads that began before it.
UPLOADS_END = 600.0
ATTEMPTS = 3
#: Seconds before a seal begins: the one who registered is answered first, and is not made to wait by our reading.
AFTER_THE_ANSWER = 0.1


def describe(mlmodel: str) -> dict[str, Any]:
    """Facts in an ``MLmodel`` file that semantic versions compare: signature and flavor."""
    # libyaml's is ten times as fast, and this is read while somebody waits.
    found = yaml.load(mlmodel, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    if not isinstance(found, dict):
        return {}
    flavors = found.get("flavors") if isinstance(found.get("flavors"), dict) else {}
    loader = flavors.get("python_function", {}).get("loader_module") if flavors else None
    facts: dict[str, Any] = {}
    if isinstance(found.get("signature"), dict):
        facts["signature"] = {str(key): value for key, value in found["signature"].items() if value is not None}
    if isinstance(loader, str):
        facts["flavor"] = loader
    return facts


def read_facts(repo: Any, location: str) -> dict[str, Any]:
    """``describe`` for a location; empty when there is no readable ``MLmodel`` yet (the seal will say so)."""
    try:
        local = repo.get_local_path(f"{location}/{MLMODEL}")
        if local:
            return describe(Path(local).read_text(encoding="utf-8"))
        with scratch.folder("facts") as folder:
            local = repo.download_artifacts(f"{location}/{MLMODEL}", str(folder))
            return describe(Path(local).read_text(encoding="utf-8"))
    except Exception:
        return {}


class Unsealed(Protocol):
    """What the sealer needs of the store; see ``GovernedStore`` for what each does."""

    writes: Any

    def pending_seals(self) -> list[tuple[str, int]]: ...

    def location(self, model: str, version: int) -> str | None: ...

    def being_purged(self, location: str) -> bool: ...

    def allowance(self, model: str, version: int) -> Allowance: ...

    def seal(self, model: str, version: int, found: manifest.Manifest, scan: Verdict | None = None) -> None: ...

    def fail_seal(self, model: str, version: int, reason: str, scan: Verdict | None = None) -> None: ...

    def sign_all(self, sign: Callable[[manifest.Manifest, str], dict[str, Any]]) -> int: ...


class Sealer:
    """A few threads that seal what the store hands them, each version once at a time."""

    def __init__(self, store: Unsealed, repo: Any, workers: int = 2, ring: KeyRing | None = None) -> None:
        self._store = store
        self._repo = repo
        self._ring = ring or KeyRing.configured()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="windtunnel-seal")
        self._lock = threading.Lock()
        self._running: dict[tuple[str, int], Future[None]] = {}

    def submit(self, model: str, version: int) -> Future[None]:
        """Seal in the background; the future ends when the version is READY or FAILED_REGISTRATION."""
        key = (model, version)
        with self._lock:
            running = self._running.get(key)
            if running is None:
                running = self._pool.submit(self._seal, model, version)
                self._running[key] = running
                running.add_done_callback(lambda _: self._forget(key))
            return running

    def _forget(self, key: tuple[str, int]) -> None:
        with self._lock:
            self._running.pop(key, None)

    def resume(self) -> int:
        """Seal everything a former process left pending; how many. What it left in temporary folders goes."""
        scratch.sweep()
        self._first_key()
        pending = self._store.pending_seals()
        for model, version in pending:
            self.submit(model, version)
        return len(pending)

    def _first_key(self) -> None:
        """Make the installation's key at the first start. What was sealed before is signed by it, this once only:
        later, a version without a signature is none of ours."""
        if self._ring is None:
            _logger.warning("versions are not signed: neither WINDTUNNEL_HOME nor WINDTUNNEL_SIGNING_KEY is set")
        elif self._ring.ensure():
            signed = self._store.sign_all(self._sign)
            _logger.info("made the installation's signing key; signed %s versions that were sealed before", signed)

    def _sign(self, found: manifest.Manifest, model: str) -> dict[str, Any]:
        from windtunnel_mlflow.versions.signing import sign

        if self._ring is None:
            raise RuntimeError("there is no key")
        return sign(found, model, self._ring)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _seal(self, model: str, version: int) -> None:
        time.sleep(AFTER_THE_ANSWER)
        identity.server_side.set(True)
        location = self._store.location(model, version)
        if location is None:
            return
        reason, verdict = "", None
        for attempt in range(1, ATTEMPTS + 1):
            try:
                if not self._store.writes.wait_idle(location, UPLOADS_END):
                    raise IntegrityError(f"an upload below {location} did not end within {UPLOADS_END:.0f} s")
                if self._store.being_purged(location):
                    raise IntegrityError(
                        f"the files at {location} belonged to a deleted version and are being removed",
                        hint="log the model anew, to another run",
                    )
                found, report = self._read(location, self._store.allowance(model, version))
                verdict = _verdict(model, version, found, report)
                if not report.passed:
                    raise IntegrityError(
                        f"{report.reason()}; it was not loaded",
                        hint="; ".join(sorted({f.hint for f in report.findings})),
                    )
                if self._ring is not None:
                    found = replace(found, signature=self._sign(found, model))
                self._store.seal(model, version, found, verdict)
                return
            except IntegrityError as error:
                reason = str(error)
                break
            except Exception as error:
                _logger.exception("sealing %s version %s, attempt %s of %s", model, version, attempt, ATTEMPTS)
                reason = f"{type(error).__name__}: {error}"
        self._store.fail_seal(model, version, reason, verdict)

    def _read(self, location: str, allowance: Allowance) -> tuple[manifest.Manifest, Report]:
        with scratch.folder("seal") as folder:
            try:
                local = self._repo.get_local_path(location)
            except Exception as error:
                raise IntegrityError(
                    f"there are no files at {location} in the artifact store",
                    hint="log the model before registering it, then register again with the same key",
                ) from error
            # A remote store is read once into a private copy; a local one is read in place.
            root = Path(local or self._repo.download_artifacts(location, str(folder)))
            found = manifest.build(root)
            if MLMODEL not in found.files:
                raise IntegrityError(
                    f"{location} holds no {MLMODEL} file", hint="register a model folder MLflow logged"
                )
            return found, scan(root, allowance)


def _verdict(model: str, version: int, found: manifest.Manifest, report: Report) -> Verdict:
    return Verdict(
        model=model,
        kind=Kind.SCAN,
        outcome=Outcome.PASS if report.passed else Outcome.FAIL,
        reason=report.reason(),
        subject=found.content,
        version=str(version),
        numbers={"rules": RULES, **report.numbers()},
    )
