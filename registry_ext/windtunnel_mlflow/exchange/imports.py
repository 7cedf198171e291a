"""What comes: records of models restored as they were, after everything in them was held to signatures (REG-10).

The client uploads the files first, through MLflow's artifact proxy, to the places that ``plan`` names. Then ``restore``
reads them where they lie, and writes all rows of a model in one transaction. A registry that has something else under
the name is left alone; one that has exactly this already is, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from windtunnel.evidence.manifest import Manifest
from windtunnel.registry import exchange
from windtunnel_mlflow import tables
from windtunnel_mlflow.access import identity, permission
from windtunnel_mlflow.exchange import dumping, files, foreign, restoring
from windtunnel_mlflow.exchange.exports import home
from windtunnel_mlflow.exchange.trust import believed, refusing, ring
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.replicas import tracking_store
from windtunnel_mlflow.store import GovernedStore

_V = tables.versions


class Imports:
    """The operations behind ``/imports`` that restore."""

    def __init__(self, store: GovernedStore) -> None:
        self.store = store

    def index(self, envelope: Any) -> dict[str, Any]:
        """What an export says is in it, and whose it is; refused unless a trusted key signed it."""
        self.may("import")
        plain, key = self._believed(envelope, "export")
        return {"index": plain, "key": key, "installation": ring().installation(key)}

    def plan(self, text: Any, envelope: Any) -> dict[str, Any]:
        """What importing a record would do; nothing is changed.

        Returns:
            ``state`` (``new``, ``same`` or ``different``), ``differences`` in words, and ``upload``: by location below
            the artifact root the files (path: SHA-256, bytes) that have to be there first.
        """
        self.may("import")
        record = self.record(text, envelope)
        with self.store.reading() as session:
            dumping.snapshot(session)
            here = _here(session, record)
            sealed = set(session.execute(select(_V.c.location).where(_V.c.location.isnot(None))).scalars())
        found = _compare(here, record)
        wanted = _wanted(record) if found["state"] == "new" else {}
        upload = {place: one.to_dict()["files"] for place, one in wanted.items() if place not in sealed}
        return {**found, "upload": upload}

    def restore(self, text: Any, envelope: Any) -> dict[str, Any]:
        """Write a record; the same one twice changes nothing.

        Raises:
            Refusal: WT_EXPORT (not to be believed), WT_DIFFERENT (with the list), WT_FILES.
        """
        self.may("import")
        record = self.record(text, envelope)
        name, whole = record["name"], record["kind"] == exchange.HOUSE
        wanted = {} if whole else _wanted(record)
        with self.store.reading() as session:
            first = _compare(_here(session, record), record)
        if first["state"] == "same":
            return first
        if first["state"] == "new":
            self._experiments(record)
        # What is different is refused inside, where the audit hears of it; nothing is read for it.
        held = wanted if first["state"] == "new" else {}
        try:
            with files.arrived(self.store, held), self.store.change(name, "import", of=record["kind"]) as change:
                permission.need(change.actor, "exchange", "import into the registry")
                session = change.session
                found = _compare(_here(session, record), record)
                if found["state"] == "same":
                    change.silent = True
                    return found
                if found["state"] == "different":
                    raise Refusal(
                        "WT_DIFFERENT",
                        f"this registry has something else as {name!r}"
                        if name
                        else "this registry has a policy of its own",
                        missing=tuple(found["differences"]),
                        hint="import into an empty registry, or leave this model out",
                        status=409,
                    )
                (restoring.house if whole else restoring.model)(session, record)
                change.detail |= {"record": exchange.digest(dumping.body(record)), "key": _key(envelope)}
        except Refusal as refusal:
            if refusal.code == "WT_FILES":
                self.note(name, "import", refusal)
            raise
        return {"state": "new", "differences": []}

    def audit(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Take a piece of another installation's audit; ``new``: whether, with this one, there is more than before."""
        self.may("import-audit")
        plain, _ = self._believed(body["statement"], "audit")
        try:
            with refusing():
                new = foreign.take(
                    home(to_keep=True),
                    plain,
                    int(body["offset"]),
                    str(body["text"]),
                    bool(body["last"]),
                    body.get("model"),
                )
        except Refusal as refusal:
            self.note("", "import-audit", refusal)
            raise
        if new:
            with self.store.change("", "import-audit") as change:
                point, _, what = foreign.said(plain)
                change.detail |= {"log": point.origin, "entries": point.size, "what": what}
        return {"new": new}

    # -- what others need as well

    def may(self, action: str) -> None:
        """Raises: Refusal: WT_ROLE, audited."""
        try:
            permission.need(identity.actor(), "exchange", "import into the registry")
        except Refusal as refusal:
            self.note("", action, refusal)
            raise

    def note(self, model: str, action: str, refusal: Refusal) -> None:
        """Audit a refusal that no change was open for."""
        self.store.note_refusal(model, action, refusal.code, detail={"message": refusal.plain})

    def record(self, text: Any, envelope: Any) -> dict[str, Any]:
        """A record that a trusted key signed, its manifests and places looked at.

        Raises:
            Refusal: WT_EXPORT, audited.
        """
        plain, _ = self._believed(envelope, "record")
        try:
            with refusing():
                data = str(text).encode()
                found = exchange.parse(data)
            if exchange.digest(data) != plain.get("sha256"):
                raise Refusal("WT_EXPORT", f"the record of {found['name']!r} is not the one that was signed")
            if (found["kind"], found["name"]) != (plain.get("of"), plain.get("name")):
                raise Refusal("WT_EXPORT", f"the statement is about {plain.get('name')!r}, not {found['name']!r}")
            for row, sealed in exchange.sealed(found):
                files.check_location(row["location"])
                files.check_manifest(sealed, found["name"], row["version"])
                if sealed.content != row["digest"]:
                    raise Refusal("WT_EXPORT", f"{found['name']} version {row['version']}: manifest and digest differ")
        except Refusal as refusal:
            self.note("", "import", refusal)
            raise
        return found

    def _believed(self, envelope: Any, kind: str) -> tuple[dict[str, Any], str]:
        try:
            return believed(envelope, kind)
        except Refusal as refusal:
            self.note("", "import", refusal)
            raise

    def _experiments(self, record: Mapping[str, Any]) -> None:
        """Make the experiments its runs are in, in transactions of MLflow's own."""
        with self.store.reading() as session:
            absent = restoring.experiments(session, record) if record["runs"] else []
        for name in absent:
            tracking_store().create_experiment(name)


def _here(session: Session, record: Mapping[str, Any]) -> dict[str, Any]:
    return dumping.house(session) if record["kind"] == exchange.HOUSE else dumping.model(session, record["name"])


def _key(envelope: Any) -> str:
    return str(envelope["signatures"][0]["keyid"])


def _wanted(record: Mapping[str, Any]) -> dict[str, Manifest]:
    return {row["location"]: sealed for row, sealed in exchange.sealed(record)}


def _compare(here: dict[str, Any], record: Mapping[str, Any]) -> dict[str, Any]:
    # Through the bytes: what the database gives back and what was read from a file are compared in one form.
    here = exchange.parse(dumping.body(here))
    if dumping.is_empty(here):
        return {"state": "same" if dumping.is_empty(record) else "new", "differences": []}
    found = exchange.differences(here, record)
    return {"state": "different" if found else "same", "differences": found}
