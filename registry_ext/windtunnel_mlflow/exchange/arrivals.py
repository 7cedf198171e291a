"""One version that comes from another installation: a new version here, with the evidence and history it had (REG-12).

It is registered under a number of our own, looked through, sealed and signed again by us. What the other installation
judged about this very content is evidence here as well, said by ``NAME:USER``; what it judged about its own traffic is
shown and never counted. Where it comes from stands in the version's facts, which only the server writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace
from typing import Any

from sqlalchemy import insert, select

from windtunnel import canonical
from windtunnel.evidence import Verdict
from windtunnel.evidence.manifest import Manifest
from windtunnel.registry import exchange
from windtunnel_mlflow import tables
from windtunnel_mlflow.access import permission
from windtunnel_mlflow.exchange import files, restoring
from windtunnel_mlflow.exchange.imports import Imports
from windtunnel_mlflow.exchange.trust import ring
from windtunnel_mlflow.lineage.origins import Origin
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.transactions import Change
from windtunnel_mlflow.versions.sealer import read_facts

#: Where the files of versions that came are, below the artifact root.
ROOT = "moved"
#: Verdicts about content and data, which are the same here; the others are about traffic, or are made anew here.
COUNTED = ("data-check", "evaluation", "benchmark")
#: Seconds to wait for the seal before the answer says that it is not finished.
SEAL_WAIT = 5.0

_V = tables.versions
_D = tables.verdicts


class Arrivals(Imports):
    """The operations behind ``/imports`` that take one version."""

    def look(self, text: Any, envelope: Any) -> dict[str, Any]:
        """What taking it would do; ``Imports.plan`` says what is returned, and ``version`` where it is here already."""
        self.may("import-version")
        record, _, sealed = self._one(text, envelope)
        known = self._known(record["name"], _key_of(record, envelope))
        if known is not None:
            return {"state": "same", "differences": [], "upload": {}, "version": str(known)}
        place = _place(record, envelope)
        with self.store.reading() as session:
            # Of a version that came before and was deleted: its files stay sealed.
            there = session.execute(select(_V.c.version).where(_V.c.location == place)).first() is not None
        upload = {} if there else {place: sealed.to_dict()["files"]}
        return {"state": "new", "differences": [], "upload": upload, "version": None}

    def take(self, text: Any, envelope: Any) -> dict[str, Any]:
        """Register it here, with its evidence; the same one twice is one version.

        Returns:
            ``version``: its number here, and whether it is ``new``.

        Raises:
            Refusal: WT_EXPORT, WT_FILES, WT_ROLE.
        """
        self.may("import-version")
        record, row, sealed = self._one(text, envelope)
        model, place, key = record["name"], _place(record, envelope), _key_of(record, envelope)
        known = self._known(model, key)
        if known is not None:
            return self._sealed(model, known, False)
        self._experiments(record)
        if not self.store._model_exists(model):
            self.store.create_registered_model(model)
        try:
            with (
                files.arrived(self.store, {place: sealed}),
                self.store.change(model, "import-version", correlation_id=row["correlation_id"]) as change,
            ):
                permission.need(change.actor, "exchange", "import into the registry")
                number = self._register(change, record, row, place, key, _origin(record, row, envelope, sealed))
        except Refusal as refusal:
            if refusal.code == "WT_FILES":
                self.note(model, "import-version", refusal)
            raise
        return self._sealed(model, number, True)

    def _one(self, text: Any, envelope: Any) -> tuple[dict[str, Any], dict[str, Any], Manifest]:
        record = self.record(text, envelope)
        found = list(exchange.sealed(record))
        problem = None
        if record["kind"] != "version" or len(found) != 1:
            problem = f"the record of {record['name']!r} is not about one sealed version"
        elif _installation(envelope) is None:
            problem = f"version {found[0][0]['version']} of {record['name']!r} is this installation's own"
        if problem is not None:
            refusal = Refusal("WT_EXPORT", problem, hint="export one version of another installation")
            self.note("", "import-version", refusal)
            raise refusal
        return record, *found[0]

    def _known(self, model: str, key: str) -> int | None:
        with self.store.reading() as session:
            return session.execute(select(_V.c.version).where(_V.c.model == model, _V.c.key == key)).scalar()

    def _register(
        self, change: Change, record: Mapping[str, Any], row: Mapping[str, Any], place: str, key: str, origin: Any
    ) -> int:
        name = record["name"]
        restoring.runs(change.session, record["runs"])
        facts = {**read_facts(self.store._repo(), place), "moved": origin}
        described = record["tables"]["model_versions"]
        number = self.store._create(
            change,
            name,
            key=key,
            source=f"mlflow-artifacts:/{place}",
            location=place,
            facts=facts,
            run_id=row["run_id"] if record["runs"] else None,
            trainer=row["trainer"],
            origins=_origins(record),
            model_id=None,
            recipe=canonical.loads(row["recipe"]),
            wanted=None,
            parent=None,
            cause=row["cause"],
            tags=None,
            run_link=None,
            description=described[0]["description"] if described else None,
        ).number
        _carry(change, record, number, origin["installation"])
        told = ("installation", "key", "version", "semver", "digest")
        change.detail |= {"from": {field: origin[field] for field in told}}
        return number

    def _sealed(self, model: str, number: int, new: bool) -> dict[str, Any]:
        if self.store.sealer is not None:
            try:
                self.store.sealer.submit(model, number).result(timeout=SEAL_WAIT)
            except FutureTimeout:
                pass  # the client asks on
        return {"version": str(number), "new": new}


def _origins(record: Mapping[str, Any]) -> list[Origin]:
    """What the version was made of, as it was written down there."""
    fields = Origin.__dataclass_fields__
    rows = record["tables"].get(tables.origins.name, ())
    return [Origin(**{name: row[name] for name in fields}) for row in rows]


def _carry(change: Change, record: Mapping[str, Any], number: int, installation: str) -> None:
    """The verdicts that counted there, as what they are here."""
    for row in record["tables"][_D.name]:
        if row["claimed"]:
            continue
        claimed = row["kind"] not in COUNTED
        there = change.session.execute(select(_D.c.seq).where(_D.c.id == row["id"], _D.c.claimed == claimed)).first()
        if there is not None:
            continue
        actor = f"{installation}:{row['actor']}"[:256]
        kept = replace(Verdict.from_dict(canonical.loads(row["body"])), actor=actor)
        said = {"claimed": claimed, "version": str(number), "actor": actor}
        body = canonical.dumps(kept.to_dict()).decode()
        change.session.execute(insert(_D).values(**{**row, **said, "body": body}, model=record["name"]))


def _origin(record: Mapping[str, Any], row: Mapping[str, Any], envelope: Any, sealed: Manifest) -> dict[str, Any]:
    """Where a version comes from, with the signatures that say so."""
    found = record["tables"]
    judged = [
        one["outcome"]
        for one in found[_D.name]
        if one["kind"] == "rollout" and not one["claimed"] and one["subject"] == row["digest"]
    ]
    said = [
        {key: one[key] for key in ("by", "decision", "target", "at")}
        for one in found[tables.approvals.name]
        if one["withdrawn_at"] is None
    ]
    crowned = [[one["since"], one["until"]] for one in found[tables.champions.name]]
    facts = canonical.loads(row["facts"])
    return {
        "installation": _installation(envelope),
        "key": envelope["signatures"][0]["keyid"],
        "version": str(row["version"]),
        "semver": row["semver"],
        "digest": row["digest"],
        "registered_at": row["created_at"],
        "registered_by": row["actor"],
        "trainer": row["trainer"],
        "run_id": row["run_id"],
        "rollout": judged[-1] if judged else None,
        "approvals": said,
        "champion": crowned,
        "signature": sealed.signature,
        "statement": envelope,
        "before": facts.get("moved"),
    }


def _installation(envelope: Any) -> str | None:
    return ring().installation(str(envelope["signatures"][0]["keyid"]))


def _key_of(record: Mapping[str, Any], envelope: Any) -> str:
    row, _ = next(iter(exchange.sealed(record)))
    return f"from:{_installation(envelope)}:{row['version']}:{row['digest']}"[:256]


def _place(record: Mapping[str, Any], envelope: Any) -> str:
    told = {"model": record["name"], "key": _key_of(record, envelope)}
    return f"{ROOT}/{exchange.digest(canonical.dumps(told))[:32]}"
