"""Registration of a version: idempotent by key, numbered, PENDING_REGISTRATION until it is sealed (REG-1, REG-2)."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from windtunnel import canonical
from windtunnel_mlflow import marks, records, rows, tables
from windtunnel_mlflow.access import permission
from windtunnel_mlflow.law import policybook
from windtunnel_mlflow.lineage import recording
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.replicas import tracking_store
from windtunnel_mlflow.transactions import Change, ChangingStore
from windtunnel_mlflow.versions import locations, semver
from windtunnel_mlflow.versions.sealer import Sealer, read_facts

_V = tables.versions


class Registering(ChangingStore):
    """The store's registration."""

    sealer: Sealer | None = None
    artifact_repo: Any = None

    def register(
        self,
        model: str,
        *,
        source: str,
        run_id: str | None = None,
        model_id: str | None = None,
        key: str | None = None,
        recipe: dict[str, Any] | None = None,
        wanted: str | None = None,
        parent: str | None = None,
        cause: str | None = None,
        correlation_id: str | None = None,
        tags: Any = None,
        run_link: str | None = None,
        description: str | None = None,
    ) -> tuple[int, bool]:
        """Create a version, PENDING_REGISTRATION, and hand it to the sealer; the same key gives the same version.

        Returns:
            Its number, and whether it is new.

        Raises:
            Refusal: the source is not the run's own, or the semantic version asked for is too low or taken.
        """
        try:
            location, facts = self._inspect(source, run_id, model_id)
        except Refusal as refusal:
            self.note_refusal(model, "register", refusal.code, detail={"source": source, "message": refusal.plain})
            raise
        run_id = run_id or None
        run = run_of(run_id)
        trainer = _trainer(run)
        origins = recording.of_registration(recipe or {}, run_id, source, run)
        own_key, key = key, key or run_id or model_id
        with self.change(
            model, "register", correlation_id=correlation_id, source=source, run_id=run_id, cause=cause
        ) as change:
            session = change.session
            permission.need(change.actor, "register", "register a version")
            tags = recording.without_copied(session, source, tags)
            marks.refuse_tags(tags)
            if self._get_registered_model(session, model).to_mlflow_entity([])._is_prompt():
                raise Refusal("WT_PROMPT", f"{model!r} is a prompt and takes no model version")
            if not key:
                raise Refusal(
                    "WT_KEY",
                    f"a version of {model!r} needs a key: an MLflow run id, or the caller's own",
                    hint="register the model of a run, or pass key=",
                    status=400,
                )
            known = session.execute(select(_V).where(_V.c.model == model, _V.c.key == key)).first()
            if known is None and own_key is None:
                # The same files under another name (models:/m-... for a run's model) are the same version.
                known = session.execute(
                    select(_V).where(_V.c.model == model, _V.c.location == location, _V.c.deleted_at.is_(None))
                ).first()
            if known is not None:
                change.version = str(known.version)
                new = self._same_key(change, known, location, source)
                number = int(known.version)
            else:
                number = self._create(
                    change,
                    model,
                    key=key,
                    source=source,
                    location=location,
                    facts=facts,
                    run_id=run_id,
                    trainer=trainer,
                    origins=origins,
                    model_id=model_id,
                    recipe=recipe or {},
                    wanted=wanted,
                    parent=parent,
                    cause=cause,
                    tags=tags,
                    run_link=run_link,
                    description=description,
                )
                new = True
        if self.sealer is not None:
            self.sealer.submit(model, number)
        return number, new

    def _inspect(self, source: str, run_id: str | None, model_id: str | None) -> tuple[str, dict[str, Any]]:
        locations.destination()
        repo = self._repo()
        location = locations.resolve(
            source,
            run_id,
            model_id,
            tracking=tracking_store(),
            exists=lambda path: file_exists(repo, path),
            location_of=self.location,
        )
        if not location:
            raise Refusal("WT_SOURCE", f"the source {source!r} is the artifact root itself")
        return location, read_facts(repo, location)

    def _repo(self) -> Any:
        if self.artifact_repo is None:
            from mlflow.server.handlers import _get_artifact_repo_mlflow_artifacts

            self.artifact_repo = _get_artifact_repo_mlflow_artifacts()
        return self.artifact_repo

    def _same_key(self, change: Change, known: Any, location: str, source: str) -> bool:
        """The version that has this key already. A failed one is given another try."""
        if known.status == rows.FAILED:
            change.detail["again"] = True
            change.session.execute(
                update(_V)
                .where(_V.c.model == known.model, _V.c.version == known.version)
                .values(status=rows.PENDING, status_reason=None, location=location, source=source)
            )
            rows.set_status(change.session, known.model, known.version, rows.PENDING, None)
            if known.source != source:
                # MLflow's readers go where the sealed files are.
                rows.set_source(change.session, known.model, known.version, source, location)
            return False
        if known.location != location:
            # A task that was retried logged its model anew, under a new path: still the same version. It is noted.
            change.detail["kept"] = known.source
            return False
        change.silent = True
        return False

    def _create(self, change: Change, model: str, **given: Any) -> int:
        session = change.session
        content = semver.Content(given["recipe"], given["facts"])
        parent = self._parent(session, model, given["parent"])
        taken = set(session.execute(select(_V.c.semver).where(_V.c.model == model)).scalars())
        compare = (
            None
            if parent is None
            else (
                parent["semver"],
                semver.Content(parent["recipe"], parent["facts"]),
            )
        )
        try:
            rule = policybook.in_force(session, model).document.numbering
            assigned = semver.assign(compare, content, taken, given["wanted"], rule)
        except ValueError as error:
            raise Refusal(
                "WT_SEMVER", f"semantic version of {model!r}: {error}", hint="leave it out, or raise it", status=409
            ) from error
        found = super().create_model_version(
            model,
            given["source"],
            given["run_id"],
            given["tags"],
            given["run_link"],
            given["description"],
            None,
            given["model_id"],
        )
        number = int(found.version)
        rows.set_status(session, model, number, rows.PENDING, None)
        session.execute(
            _V.insert().values(
                model=model,
                version=number,
                semver=assigned.semver,
                semver_reason=assigned.reason,
                key=given["key"],
                status=rows.PENDING,
                state="candidate",
                source=given["source"],
                location=given["location"],
                run_id=found.run_id or given["run_id"],
                trainer=given["trainer"],
                recipe=canonical.dumps(given["recipe"]).decode(),
                facts=canonical.dumps(given["facts"]).decode(),
                parent=None if parent is None else int(parent["version"]),
                actor=change.actor.name,
                cause=given["cause"],
                correlation_id=change.correlation_id,
                created_at=time.time(),
            )
        )
        recording.begin(session, model, number, given["origins"], given["recipe"], parent and int(parent["version"]))
        change.version = str(number)
        change.detail |= {"semver": assigned.semver, "semver_reason": assigned.reason, "key": given["key"]}
        return number

    def _parent(self, session: Session, model: str, wanted: str | None) -> dict[str, Any] | None:
        if wanted is not None:
            found = records.version(session, model, marks.number(wanted))
            if found is None:
                raise Refusal("WT_PARENT", f"model {model!r} has no version {wanted} to be the parent", status=400)
            return found
        current = records.champion(session, model)
        if current is not None:
            return records.version(session, model, current)
        newest = session.execute(
            select(func.max(_V.c.version)).where(
                _V.c.model == model, _V.c.deleted_at.is_(None), _V.c.status != rows.FAILED
            )
        ).scalar()
        return None if newest is None else records.version(session, model, newest)


def file_exists(repo: Any, path: str) -> bool:
    """Whether there is such a file below the artifact root."""
    try:
        local = repo.get_local_path(path)
    except Exception:
        return False
    if local is not None:
        return True
    folder, _, name = path.rpartition("/")
    return any(info.path.rpartition("/")[2] == name for info in repo.list_artifacts(folder))


def run_of(run_id: str | None) -> Any:
    """MLflow's run as it is now: it may be edited or deleted later. None where there is none."""
    if run_id is None:
        return None
    from mlflow.exceptions import MlflowException

    try:
        return tracking_store().get_run(run_id)
    except MlflowException:
        return None


def trainer_of(run_id: str | None) -> str | None:
    """The run's user, as it is said now; whoever may edit the run could say otherwise later."""
    return _trainer(run_of(run_id))


def _trainer(run: Any) -> str | None:
    return None if run is None else str(run.data.tags.get("mlflow.user") or run.info.user_id or "")[:256] or None
