"""The governed registry store: MLflow's SQL store, with policy, seal and audit in front of every change.

Every client ends here: Python, REST, the ajax paths of the UI, the DAGs. Each method that changes something runs
MLflow's own code inside our transaction (``change``), so a change, its policy check and its audit row stand or fall
together. What MLflow's API cannot say (verdicts, rollouts) is in ``windtunnel_mlflow.service``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from mlflow.entities.model_registry import ModelVersion
from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL, get_canonical_stage
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlRegisteredModel
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME
from sqlalchemy import func, select, text, update
from sqlalchemy.orm import Session

from windtunnel import canonical
from windtunnel.evidence.manifest import Manifest
from windtunnel_mlflow import audit, identity, locations, records, semver, tables, wayback
from windtunnel_mlflow.guard import Writes
from windtunnel_mlflow.migrate import upgrade
from windtunnel_mlflow.policy import missing
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.sealer import Sealer, read_facts

_logger = logging.getLogger(__name__)

SCHEME = "windtunnel+"
CHAMPION = "champion"
PENDING, READY, FAILED = "PENDING_REGISTRATION", "READY", "FAILED_REGISTRATION"
PRODUCTION, ARCHIVED, STAGING = "Production", "Archived", "Staging"
TAG_PREFIX = "windtunnel."
_V = tables.versions


@dataclass
class Change:
    """An open change: its transaction, who asked, and what the audit will say."""

    session: Session
    actor: identity.Actor
    version: str | None = None
    detail: dict[str, Any] = field(default_factory=dict)
    correlation_id: str | None = None
    # A call that turned out to change nothing (an idempotent repetition) leaves no audit row.
    silent: bool = False


def governed_store(store_uri: str) -> GovernedStore:
    """Entry point of the schemes ``windtunnel+sqlite`` and ``windtunnel+postgresql``."""
    return GovernedStore(store_uri.removeprefix(SCHEME))


class GovernedStore(SqlAlchemyStore):  # type: ignore[misc]
    """MLflow's registry in which the policy is the law."""

    def __init__(self, db_uri: str, read_db_uri: str | None = None) -> None:
        super().__init__(db_uri, read_db_uri)
        if self.engine.dialect.name == "sqlite":
            with self.engine.connect() as connection:
                # Readers and the one writer do not wait for each other. Kept in the file itself.
                connection.execute(text("PRAGMA journal_mode = WAL"))
        upgrade(self.engine)
        self.writes = Writes()
        self.sealer: Sealer | None = None
        self.artifact_repo: Any = None
        self._session: ContextVar[Session | None] = ContextVar("windtunnel_session", default=None)
        self._own_session = self.ManagedSessionMaker
        self.ManagedSessionMaker = self._joining_session

    # -- transactions

    @contextmanager
    def _joining_session(self, read_only: bool = True) -> Iterator[Session]:
        """MLflow's methods, called inside a change, work in the change's transaction."""
        session = self._session.get()
        if session is not None:
            yield session
            return
        with self._own_session(read_only=read_only) as session:
            yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session for reading."""
        with self.ManagedSessionMaker() as session:
            yield session

    def _lock(self, session: Session, model: str) -> None:
        """One change per model at a time (on SQLite: per database), from before the policy check to the commit."""
        if self.engine.dialect.name == "sqlite":
            session.execute(text("BEGIN IMMEDIATE"))
        else:
            session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:model, 7751))"), {"model": model})

    @contextmanager
    def change(
        self,
        model: str,
        action: str,
        *,
        version: str | int | None = None,
        correlation_id: str | None = None,
        **detail: Any,
    ) -> Iterator[Change]:
        """One audited transaction on one model.

        A ``Refusal`` raised inside undoes it and is audited in a transaction of its own.
        """
        opened: Change | None = None
        actor = identity.actor()
        correlation_id = correlation_id or identity.correlation_id()
        number = None if version is None else str(version)
        try:
            with self._own_session(read_only=False) as session:
                self._lock(session, model)
                token = self._session.set(session)
                try:
                    opened = Change(session, actor, number, dict(detail), correlation_id)
                    yield opened
                    session.flush()
                    if not opened.silent:
                        audit.append(
                            session,
                            actor=actor.name,
                            action=action,
                            model=model,
                            version=opened.version,
                            detail=opened.detail,
                            correlation_id=opened.correlation_id,
                        )
                finally:
                    self._session.reset(token)
        except Refusal as refusal:
            self.note_refusal(
                model,
                action,
                refusal.code,
                version=opened.version if opened else number,
                detail={
                    **(opened.detail if opened else detail),
                    "message": refusal.plain,
                    "missing": list(refusal.missing),
                },
                correlation_id=correlation_id,
            )
            raise

    def note_refusal(
        self,
        model: str,
        action: str,
        code: str,
        *,
        version: str | int | None = None,
        detail: dict[str, Any] | None = None,
        correlation_id: str | None = None,
    ) -> None:
        """Audit that something was refused."""
        identity.mark_audited()
        with self._own_session(read_only=False) as session:
            self._lock(session, model)
            audit.append(
                session,
                actor=identity.actor().name,
                action=action,
                model=model,
                version=version,
                outcome="refused",
                code=code,
                detail=detail,
                correlation_id=correlation_id or identity.correlation_id(),
            )

    # -- registered models

    def create_registered_model(
        self, name: str, tags: Any = None, description: Any = None, deployment_job_id: Any = None
    ) -> Any:
        if self._model_exists(name):
            # MLflow's own answer to a repeated creation; nothing changes, so nothing is audited.
            return super().create_registered_model(name, tags, description, deployment_job_id)
        with self.change(name, "create-model") as change:
            _refuse_tags(tags)
            if _is_prompt(tags) and records.governed(change.session, name):
                raise Refusal("WT_PROMPT", f"{name!r} is the name of a governed model and cannot become a prompt")
            super().create_registered_model(name, tags, description, deployment_job_id)
            self._reserve_numbers(change.session, name)
            return super().get_registered_model(name)

    def update_registered_model(self, name: str, description: Any, deployment_job_id: Any = None) -> Any:
        with self.change(name, "describe-model", description=description):
            return super().update_registered_model(name, description, deployment_job_id)

    def rename_registered_model(self, name: str, new_name: str) -> Any:
        with self.change(name, "rename-model", new_name=new_name) as change:
            for which in (name, new_name):
                if records.governed(change.session, which):
                    raise Refusal(
                        "WT_RENAME",
                        f"model {name!r} cannot be renamed to {new_name!r}: {which!r} has a history "
                        "of versions, verdicts and champions under its name",
                        hint="register the model under the new name instead",
                    )
            return super().rename_registered_model(name, new_name)

    def delete_registered_model(self, name: str) -> None:
        with self.change(name, "delete-model") as change:
            current = records.champion(change.session, name)
            if current is not None:
                raise Refusal(
                    "WT_CHAMPION",
                    f"model {name!r} has a champion (version {current}) and cannot be deleted",
                    hint="withdraw the champion first",
                )
            self._refuse_open_rollout(change.session, name)
            now = time.time()
            for row in change.session.execute(select(_V).where(_V.c.model == name, _V.c.deleted_at.is_(None))).all():
                self._mark_deleted(change.session, row, now)
            super().delete_registered_model(name)

    def set_registered_model_tag(self, name: str, tag: Any) -> None:
        with self.change(name, "tag-model", key=tag.key, value=tag.value) as change:
            _refuse_tags([tag])
            self._refuse_prompt_mark(change.session, name, tag.key)
            super().set_registered_model_tag(name, tag)

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        with self.change(name, "untag-model", key=key) as change:
            _refuse_key(key)
            self._refuse_prompt_mark(change.session, name, key)
            super().delete_registered_model_tag(name, key)

    # -- versions

    def create_model_version(
        self,
        name: str,
        source: str,
        run_id: str | None = None,
        tags: Any = None,
        run_link: Any = None,
        description: Any = None,
        local_model_path: Any = None,
        model_id: str | None = None,
    ) -> ModelVersion:
        if _is_prompt(tags):
            with self.change(name, "create-prompt-version") as change:
                _refuse_tags(tags)
                if records.governed(change.session, name):
                    raise Refusal("WT_PROMPT", f"model {name!r} has governed versions and takes no prompt version")
                found = super().create_model_version(name, source, run_id, tags, run_link, description, None, model_id)
                change.version = str(found.version)
                return found
        number, _ = self.register(
            name, source=source, run_id=run_id, model_id=model_id, tags=tags, run_link=run_link, description=description
        )
        return self.get_model_version(name, number)

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
        own_key, key = key, key or run_id or model_id
        with self.change(
            model, "register", correlation_id=correlation_id, source=source, run_id=run_id, cause=cause
        ) as change:
            session = change.session
            _refuse_tags(tags)
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
        from mlflow.server.handlers import _get_tracking_store

        repo = self._repo()
        location = locations.resolve(
            source,
            run_id,
            model_id,
            tracking=_get_tracking_store(),
            exists=lambda path: bool(_exists(repo, path)),
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
        if known.status == FAILED:
            change.detail["again"] = True
            change.session.execute(
                update(_V)
                .where(_V.c.model == known.model, _V.c.version == known.version)
                .values(status=PENDING, status_reason=None, location=location, source=source)
            )
            self._mlflow_status(change.session, known.model, known.version, PENDING, None)
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
            assigned = semver.assign(compare, content, taken, given["wanted"])
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
        self._mlflow_status(session, model, number, PENDING, None)
        session.execute(
            _V.insert().values(
                model=model,
                version=number,
                semver=assigned.semver,
                semver_reason=assigned.reason,
                key=given["key"],
                status=PENDING,
                state="candidate",
                source=given["source"],
                location=given["location"],
                run_id=found.run_id or given["run_id"],
                recipe=canonical.dumps(given["recipe"]).decode(),
                facts=canonical.dumps(given["facts"]).decode(),
                parent=None if parent is None else int(parent["version"]),
                actor=change.actor.name,
                cause=given["cause"],
                correlation_id=change.correlation_id,
                created_at=time.time(),
            )
        )
        change.version = str(number)
        change.detail |= {"semver": assigned.semver, "semver_reason": assigned.reason, "key": given["key"]}
        return number

    def _parent(self, session: Session, model: str, wanted: str | None) -> dict[str, Any] | None:
        if wanted is not None:
            found = records.version(session, model, _number(wanted))
            if found is None:
                raise Refusal("WT_PARENT", f"model {model!r} has no version {wanted} to be the parent", status=400)
            return found
        current = records.champion(session, model)
        if current is not None:
            return records.version(session, model, current)
        newest = session.execute(
            select(func.max(_V.c.version)).where(_V.c.model == model, _V.c.deleted_at.is_(None), _V.c.status != FAILED)
        ).scalar()
        return None if newest is None else records.version(session, model, newest)

    def update_model_version(self, name: str, version: Any, description: Any = None) -> Any:
        with self.change(name, "describe-version", version=version, description=description):
            return super().update_model_version(name, version, description)

    def set_model_version_tag(self, name: str, version: Any, tag: Any) -> None:
        with self.change(name, "tag-version", version=version, key=tag.key, value=tag.value) as change:
            _refuse_tags([tag])
            self._refuse_prompt_mark(change.session, name, tag.key)
            super().set_model_version_tag(name, version, tag)

    def delete_model_version_tag(self, name: str, version: Any, key: str) -> None:
        with self.change(name, "untag-version", version=version, key=key):
            _refuse_key(key)
            super().delete_model_version_tag(name, version, key)

    def delete_model_version(self, name: str, version: Any) -> None:
        with self.change(name, "delete-version", version=version) as change:
            number = _number(version)
            self._get_sql_model_version(change.session, name, number)
            if records.champion(change.session, name) == number:
                raise Refusal(
                    "WT_CHAMPION",
                    f"version {number} is the champion of {name!r} and cannot be deleted",
                    hint="release another version, or withdraw it, first",
                )
            self._refuse_open_rollout(change.session, name, number)
            wayback.refuse(change.session, name, number, time.time())
            row = change.session.execute(select(_V).where(_V.c.model == name, _V.c.version == number)).first()
            if row is not None:
                self._mark_deleted(change.session, row, time.time())
            super().delete_model_version(name, version)

    # -- champion: alias and Production are one thing

    def set_registered_model_alias(self, name: str, alias: str, version: Any) -> None:
        with self.change(name, "set-alias", version=version, alias=alias) as change:
            number = _number(version)
            self._get_sql_model_version(change.session, name, number)
            if not _is_champion(alias) or self._plain_prompt(change.session, name):
                super().set_registered_model_alias(name, alias, version)
                return
            self._refuse_spelling(alias)
            self.crown(change, name, number, reason="alias set by a client")

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        with self.change(name, "delete-alias", alias=alias) as change:
            if _is_champion(alias) and records.champion(change.session, name) is not None:
                raise Refusal(
                    "WT_CHAMPION",
                    f"the champion of {name!r} cannot be removed by deleting its alias",
                    hint="release another version, or withdraw this one",
                )
            super().delete_registered_model_alias(name, alias)

    def transition_model_version_stage(
        self, name: str, version: Any, stage: str, archive_existing_versions: bool
    ) -> ModelVersion:
        wanted = get_canonical_stage(stage)
        with self.change(name, "transition-stage", version=version, stage=wanted) as change:
            number = _number(version)
            self._get_sql_model_version(change.session, name, number)
            if wanted == PRODUCTION and not self._plain_prompt(change.session, name):
                self.crown(change, name, number, reason="stage set by a client")
                return self.get_model_version(name, number)
            if records.champion(change.session, name) == number:
                raise Refusal(
                    "WT_CHAMPION",
                    f"version {number} is the champion of {name!r}; its stage is Production",
                    hint="release another version, or withdraw this one",
                )
            return super().transition_model_version_stage(name, version, stage, archive_existing_versions)

    def crown(
        self,
        change: Change,
        model: str,
        number: int,
        *,
        reason: str,
        rollout: dict[str, Any] | None = None,
    ) -> None:
        """Make a version champion, if policy allows: alias, both stages, history, states, in this transaction.

        Args:
            change: the open change.
            model: registered model.
            number: the version.
            reason: for the history.
            rollout: the open rollout that promotes it; None when a client sets the alias or the stage by itself.

        Raises:
            Refusal: WT_POLICY with what is missing, or WT_ROLLOUT_RUNNING.
        """
        session = change.session
        current = records.champion(session, model)
        if current == number:
            change.silent = rollout is None
            return
        if rollout is None:
            self._refuse_open_rollout(session, model)
        facts = records.facts(session, model, number, in_rollout=rollout is not None)
        lacking = missing(records.policy(session, model), facts)
        if records.version(session, model, number) is None:
            lacking = ["a version that was registered through the governed store"]
        if lacking:
            raise Refusal(
                "WT_POLICY",
                f"version {number} of {model!r} may not become champion",
                missing=tuple(lacking),
                hint="the verdicts come from the model's own DAGs: check, evaluate, release",
            )
        super().set_registered_model_alias(model, CHAMPION, number)
        now = time.time()
        table = tables.champions
        session.execute(update(table).where(table.c.model == model, table.c.until.is_(None)).values(until=now))
        session.execute(
            table.insert().values(
                model=model,
                version=number,
                since=now,
                actor=change.actor.name,
                reason=reason,
                rollout_id=None if rollout is None else rollout["id"],
            )
        )
        if current is not None:
            self._set_stage(session, model, current, ARCHIVED)
            self._set_state(session, model, current, "archived")
        self._set_stage(session, model, number, PRODUCTION)
        self._set_state(session, model, number, CHAMPION)
        change.detail |= {"champion": str(number), "former": None if current is None else str(current)}

    def uncrown(self, change: Change, model: str, number: int) -> None:
        """Take the alias from a champion that is withdrawn; the model has none until the next release."""
        super().delete_registered_model_alias(model, CHAMPION)
        table = tables.champions
        change.session.execute(
            update(table).where(table.c.model == model, table.c.until.is_(None)).values(until=time.time())
        )
        self._set_stage(change.session, model, number, ARCHIVED)

    # -- sealing

    def pending_seals(self) -> list[tuple[str, int]]:
        """Versions whose seal has not been finished, oldest first."""
        with self.reading() as session:
            rows = session.execute(
                select(_V.c.model, _V.c.version)
                .where(_V.c.status == PENDING, _V.c.deleted_at.is_(None))
                .order_by(_V.c.created_at)
            )
            return [(row.model, int(row.version)) for row in rows]

    def location(self, model: str, version: int) -> str | None:
        """Where a version's files are, below the artifact root."""
        with self.reading() as session:
            return session.execute(select(_V.c.location).where(_V.c.model == model, _V.c.version == version)).scalar()

    def seal(self, model: str, version: int, found: Manifest) -> None:
        """Set READY with digest and manifest. A version that is not pending any more is left alone."""
        with self.change(model, "seal", version=version) as change:
            row = self._pending(change, model, version)
            if row is None:
                return
            change.correlation_id = row.correlation_id
            change.session.execute(
                update(_V)
                .where(_V.c.model == model, _V.c.version == version)
                .values(
                    status=READY,
                    status_reason=None,
                    digest=found.content,
                    manifest=canonical.dumps(found.to_dict()).decode(),
                    sealed_at=time.time(),
                )
            )
            self._mlflow_status(change.session, model, version, READY, None)
            change.detail |= {"digest": found.content, "files": len(found.files), "bytes": found.size}

    def fail_seal(self, model: str, version: int, reason: str) -> None:
        """Set FAILED_REGISTRATION with the reason; the path may be written again."""
        with self.change(model, "seal-failed", version=version, reason=reason) as change:
            row = self._pending(change, model, version)
            if row is None:
                return
            change.correlation_id = row.correlation_id
            change.session.execute(
                update(_V)
                .where(_V.c.model == model, _V.c.version == version)
                .values(status=FAILED, status_reason=reason, location=None)
            )
            self._mlflow_status(change.session, model, version, FAILED, reason[:500])

    def _pending(self, change: Change, model: str, version: int) -> Any:
        row = change.session.execute(
            select(_V).where(
                _V.c.model == model, _V.c.version == version, _V.c.status == PENDING, _V.c.deleted_at.is_(None)
            )
        ).first()
        change.silent = row is None
        return row

    def check_artifact_write(self, path: str, tree: bool) -> None:
        """Refuse a write at ``path``, and with ``tree`` at everything below it, when a sealed version is touched."""
        parts = path.split("/")
        above = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        touched = _V.c.location.in_(above)
        if tree:
            # '0' is the character after '/': the range is everything below the path, and it uses the index.
            below = (_V.c.location >= f"{path}/") & (_V.c.location < f"{path}0")
            touched |= below if path else _V.c.location.isnot(None)
        with self.reading() as session:
            row = session.execute(select(_V.c.model, _V.c.version).where(touched).limit(1)).first()
        if row is None:
            return
        refusal = Refusal(
            "WT_SEALED",
            f"{path or 'the artifact root'} belongs to version {row.version} of {row.model!r}, which is sealed",
            hint="log to a new run and register a new version",
        )
        self.note_refusal(
            row.model, "write-artifact", refusal.code, version=row.version, detail={"path": path, "tree": tree}
        )
        raise refusal

    # -- small shared steps

    def _model_exists(self, name: str) -> bool:
        with self.reading() as session:
            return (
                session.execute(
                    select(SqlRegisteredModel.name).where(
                        SqlRegisteredModel.workspace == DEFAULT_WORKSPACE_NAME, SqlRegisteredModel.name == name
                    )
                ).first()
                is not None
            )

    def _plain_prompt(self, session: Session, name: str) -> bool:
        """MLflow keeps prompts as registered models; they hold no model, so they are not governed."""
        entity = self._get_registered_model(session, name).to_mlflow_entity([])
        return bool(entity._is_prompt()) and not records.governed(session, name)

    def _reserve_numbers(self, session: Session, model: str) -> None:
        """A model created again goes on counting: MLflow counts from its highest row, so one is left as a mark."""
        highest = session.execute(select(func.max(_V.c.version)).where(_V.c.model == model)).scalar()
        if highest is not None:
            session.add(
                self._with_workspace_field(
                    SqlModelVersion(name=model, version=highest, current_stage=STAGE_DELETED_INTERNAL)
                )
            )
            session.flush()

    def _mark_deleted(self, session: Session, row: Any, now: float) -> None:
        # The key is free again; number and semantic version are not. Its files stay sealed.
        session.execute(
            update(_V)
            .where(_V.c.model == row.model, _V.c.version == row.version)
            .values(deleted_at=now, key=f"deleted:{row.version}:{row.key}"[:256])
        )

    def _set_stage(self, session: Session, model: str, number: int, stage: str) -> None:
        session.execute(
            update(SqlModelVersion)
            .where(
                SqlModelVersion.workspace == DEFAULT_WORKSPACE_NAME,
                SqlModelVersion.name == model,
                SqlModelVersion.version == number,
            )
            .values(current_stage=stage, last_updated_time=int(time.time() * 1000))
        )

    def _set_state(self, session: Session, model: str, number: int, state: str) -> None:
        session.execute(update(_V).where(_V.c.model == model, _V.c.version == number).values(state=state))

    def _mlflow_status(self, session: Session, model: str, number: int, status: str, message: str | None) -> None:
        session.execute(
            update(SqlModelVersion)
            .where(
                SqlModelVersion.workspace == DEFAULT_WORKSPACE_NAME,
                SqlModelVersion.name == model,
                SqlModelVersion.version == number,
            )
            .values(status=status, status_message=message)
        )

    def _refuse_open_rollout(self, session: Session, model: str, number: int | None = None) -> None:
        running = records.open_rollout(session, model)
        if running is not None and number in (None, int(running["version"])):
            raise Refusal(
                "WT_ROLLOUT_RUNNING",
                f"a rollout of version {running['version']} of {model!r} is open ({running['holder']})",
                hint="let it end, or roll it back",
                status=409,
            )

    def _refuse_prompt_mark(self, session: Session, model: str, key: str) -> None:
        # MLflow hides prompts from every model search: the mark would make a governed model vanish.
        if key == IS_PROMPT_TAG_KEY and records.governed(session, model):
            raise Refusal("WT_TAG", f"model {model!r} has governed versions and cannot be marked as a prompt")

    @staticmethod
    def _refuse_spelling(alias: str) -> None:
        if alias != CHAMPION:
            raise Refusal("WT_ALIAS", f"the alias {alias!r} could be taken for {CHAMPION!r}")


def _exists(repo: Any, path: str) -> bool:
    try:
        local = repo.get_local_path(path)
    except Exception:
        return False
    if local is not None:
        return True
    folder, _, name = path.rpartition("/")
    return any(info.path.rpartition("/")[2] == name for info in repo.list_artifacts(folder))


def _is_champion(alias: str) -> bool:
    return alias.strip().casefold() == CHAMPION


def _number(version: Any) -> int:
    from mlflow.utils.validation import _validate_model_version

    return int(_validate_model_version(version))


def _refuse_key(key: str) -> None:
    if key.strip().casefold().startswith(TAG_PREFIX):
        raise Refusal(
            "WT_TAG",
            f"the tag {key!r} cannot be changed: tags {TAG_PREFIX}* are the registry's own",
            hint="choose another name",
        )


def _refuse_tags(tags: Any) -> None:
    for tag in tags or []:
        _refuse_key(tag.key)


def _is_prompt(tags: Any) -> bool:
    return any(tag.key == IS_PROMPT_TAG_KEY and str(tag.value).lower() == "true" for tag in tags or [])
