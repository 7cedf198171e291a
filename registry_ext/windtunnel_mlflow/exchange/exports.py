"""What leaves: records of models, each signed, and the audit with a checkpoint over exactly what is exported."""

from __future__ import annotations

import os
import time
from typing import Any

from windtunnel.errors import IntegrityError
from windtunnel.home import ENV_HOME, ENV_TEMPORARY, Home
from windtunnel.registry import auditfiles
from windtunnel.registry.exchange import ENTRIES, FORM, LOG, digest, log_folder
from windtunnel.safety import statement
from windtunnel_mlflow.access import identity, permission
from windtunnel_mlflow.exchange import dumping, foreign
from windtunnel_mlflow.exchange.trust import refusing, ring
from windtunnel_mlflow.ledger.checkpoints import Publisher
from windtunnel_mlflow.part import not_found
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.store import GovernedStore
from windtunnel_mlflow.tables import HOUSE


class Exports:
    """The operations behind ``/exports``.

    Args:
        store: the registry.
        publisher: signs checkpoints of its audit.
    """

    def __init__(self, store: GovernedStore, publisher: Publisher | None) -> None:
        self.store, self.publisher = store, publisher

    def names(self) -> list[str]:
        """Every model that is, or ever was."""
        self._may()
        with self.store.reading() as session:
            return dumping.names(session)

    def record(self, model: str, number: int | None = None) -> dict[str, Any]:
        """``{"record": canonical JSON, "signature": envelope}`` of a model or of one version; as of one moment."""
        self._may()
        with self.store.reading() as session:
            dumping.snapshot(session)
            if model == HOUSE:
                found = dumping.house(session)
            elif number is None:
                found = dumping.model(session, model)
            else:
                found = dumping.version(session, model, number)
        if model != HOUSE and (dumping.is_empty(found) if number is None else not found["tables"]["wt_versions"]):
            raise not_found(f"there is no {model!r}{'' if number is None else f' version {number}'} to export")
        data = dumping.body(found)
        about = {"kind": "record", "form": FORM, "of": found["kind"], "name": model, "sha256": digest(data)}
        return {"record": data.decode(), "signature": statement.sign(about, ring())}

    def seal(self, index: dict[str, Any]) -> dict[str, Any]:
        """Sign what is in an export, when it is whole; the audit says that it was made."""
        with self.store.change(HOUSE, "export") as change:
            permission.need(change.actor, "exchange", "export the registry")
            signed = statement.sign({**index, "kind": "export", "form": FORM, "made_at": time.time()}, ring())
            change.detail |= {"models": list(index.get("models") or ()), "files": len(index.get("files") or ())}
        return {"signature": signed}

    def keys(self) -> dict[str, str]:
        """This installation's own public keys: PEM by id."""
        found = ring()
        keys = found.keys()
        return {
            key.id: (found.public / f"{key.id}.pem").read_text(encoding="ascii")
            for key in keys
            if key.installation is None and key.state != "revoked"
        }

    # -- audits

    def logs(self) -> list[dict[str, Any]]:
        """Signed statements about our own audit, as of now, and about those of others that are kept here."""
        self._may()
        if self.publisher is None:
            raise Refusal("WT_SERVER", "this server signs no audit: it has no home", hint="set WINDTUNNEL_HOME")
        state = self.publisher.publish()
        if state["checkpoint"] is None:
            raise Refusal("WT_SERVER", f"there is no checkpoint of the audit: {state['problem']}")
        own = {"kind": "audit", "form": FORM, "what": LOG, "key": state["key"], "checkpoint": state["checkpoint"]}
        return [statement.sign(own, ring()), *(self._foreign(name) for name in foreign.kept(home()))]

    def entries(self, own: dict[str, Any]) -> dict[str, Any]:
        """The statement for entries of single models with their proofs, made of the one about our own audit."""
        return statement.sign({**statement.read(own, "audit"), "what": ENTRIES}, ring())

    def log(self, name: str, offset: int) -> dict[str, Any]:
        """A piece of another installation's audit: ``{"text", "next", "last"}``."""
        self._may()
        with refusing("WT_REQUEST"):
            path = foreign.folder(home(), name) / LOG
        if not path.is_file():
            raise not_found(f"no audit {name!r} is kept here")
        text, after, last = foreign.piece(path, offset)
        return {"text": text, "next": after, "last": last}

    def _foreign(self, name: str) -> dict[str, Any]:
        place = auditfiles.place(foreign.folder(home(), name))
        newest = [one for one in place.names() if one.endswith(auditfiles.SUFFIX)][-1]
        note = place.read(newest)
        for key in auditfiles.keys_in(place):
            plain = {"kind": "audit", "form": FORM, "what": LOG, "key": key.text(), "checkpoint": note}
            try:
                point, _, _ = foreign.said(plain)
            except IntegrityError:
                continue
            if log_folder(point.origin) == name:
                return statement.sign(plain, ring())
        raise Refusal("WT_EXPORT", f"no key that is kept beside the audit {name} signed its newest checkpoint")

    def _may(self) -> None:
        try:
            permission.need(identity.actor(), "exchange", "export the registry")
        except Refusal as refusal:
            self.store.note_refusal(HOUSE, "export", refusal.code, detail={"message": refusal.plain})
            raise


def home(*, to_keep: bool = False) -> Home:
    """Where audits of other installations are.

    Args:
        to_keep: something is to be kept there.

    Raises:
        Refusal: WT_SERVER: there is none, or what is put there would not stay.
    """
    if not os.environ.get(ENV_HOME):
        raise Refusal("WT_SERVER", "this server keeps no audits: it has no home", hint="set WINDTUNNEL_HOME")
    if to_keep and os.environ.get(ENV_TEMPORARY):
        raise Refusal(
            "WT_SERVER",
            "this server's home ends with its pod, so the audit of another installation would not be kept",
            hint="import into an installation with a volume (registry.volume.enabled), and keep the export's own copy",
        )
    return Home.find()
