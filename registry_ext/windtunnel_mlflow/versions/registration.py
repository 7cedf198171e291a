"""Registration of a version: idempotent by key, numbered, PENDING_REGISTRATION until it is sealed (REG-1, REG-2)."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from mlflow.entities.model_registry import ModelVersion, ModelVersionTag
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModel, SqlRegisteredModelTag
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME
from sqlalchemy import and_, func, or_, select, update
from sqlalchemy.orm import Session

from windtunnel import canonical
from windtunnel_mlflow import marks, records, rows, tables
from windtunnel_mlflow.access import permission
from windtunnel_mlflow.law import policybook
from windtunnel_mlflow.lineage import origins, recording
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.replicas import tracking_store
from windtunnel_mlflow.transactions import Change, ChangingStore
from windtunnel_mlflow.versions import locations, semver
from windtunnel_mlflow.versions.runs import Runs
from windtunnel_mlflow.versions.sealer import Sealer, read_facts

_V = tables.versions


@dataclass(frozen=True, slots=True)
class Registered:
    """A version that is registered.

    Attributes:
        number: MLflow's.
        made: MLflow's version where it is new; None where it was there already.
    """

    number: int
    made: ModelVersion | None


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
    ) -> Registered:
        """Create a version, PENDING_REGISTRATION, and hand it to the sealer; the same key gives the same version.

        Raises:
            Refusal: the source is not the run's own, or the semantic version asked for is too low or taken.
        """
        runs = Runs()
        try:
            location, facts = self._inspect(source, run_id, model_id, runs)
        except Refusal as refusal:
            self.note_refusal(model, "register", refusal.code, detail={"source": source, "message": refusal.plain})
            raise
        run_id = run_id or None
        run = runs.of(run_id)
        trainer = None if run is None else run.trainer
        made_of = recording.of_registration(recipe or {}, run_id, source, run)
        own_key, key = key, key or run_id or model_id
        with self.change(
            model, "register", correlation_id=correlation_id, source=source, run_id=run_id, cause=cause
        ) as change:
            session = change.session
            permission.need(change.actor, "register", "register a version")
            tags = recording.without_copied(session, source, tags)
            marks.refuse_tags(tags)
            self._refuse_prompt(session, model)
            if not key:
                raise Refusal(
                    "WT_KEY",
                    f"a version of {model!r} needs a key: an MLflow run id, or the caller's own",
                    hint="register the model of a run, or pass key=",
                    status=400,
                )
            known = _same(session, model, key, location if own_key is None else None)
            if known is not None:
                change.version = str(known.version)
                self._same_key(change, known, location, source)
                made = Registered(int(known.version), None)
            else:
                made = self._create(
                    change,
                    model,
                    key=key,
                    source=source,
                    location=location,
                    facts=facts,
                    run_id=run_id,
                    trainer=trainer,
                    origins=made_of,
                    model_id=model_id,
                    recipe=recipe or {},
                    wanted=wanted,
                    parent=parent,
                    cause=cause,
                    tags=tags,
                    run_link=run_link,
                    description=description,
                )
        if self.sealer is not None:
            self.sealer.submit(model, made.number)
        return made

    def _inspect(self, source: str, run_id: str | None, model_id: str | None, runs: Runs) -> tuple[str, dict[str, Any]]:
        locations.destination()
        repo = self._repo()
        location = locations.resolve(
            source,
            run_id,
            model_id,
            tracking=tracking_store(),
            get_run=runs.get,
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

    def _refuse_prompt(self, session: Session, model: str) -> None:
        """Raises: Refusal: WT_PROMPT; MLflow's own error where there is no such model."""
        mark = session.execute(
            select(SqlRegisteredModel.name, SqlRegisteredModelTag.value)
            .outerjoin(
                SqlRegisteredModelTag,
                and_(
                    SqlRegisteredModelTag.workspace == SqlRegisteredModel.workspace,
                    SqlRegisteredModelTag.name == SqlRegisteredModel.name,
                    SqlRegisteredModelTag.key == IS_PROMPT_TAG_KEY,
                ),
            )
            .where(SqlRegisteredModel.workspace == DEFAULT_WORKSPACE_NAME, SqlRegisteredModel.name == model)
        ).first()
        if mark is None:
            self._get_registered_model(session, model)
        elif str(mark.value).lower() == "true":
            raise Refusal("WT_PROMPT", f"{model!r} is a prompt and takes no model version")

    def _same_key(self, change: Change, known: Any, location: str, source: str) -> None:
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
        elif known.location != location:
            # A task that was retried logged its model anew, under a new path: still the same version. It is noted.
            change.detail["kept"] = known.source
        else:
            change.silent = True

    def _create(self, change: Change, model: str, **given: Any) -> Registered:
        session = change.session
        content = semver.Content(given["recipe"], given["facts"])
        parent = self._parent(session, model, given["parent"])
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
            assigned = semver.assign(compare, content, Taken(session, model), given["wanted"], rule)
        except ValueError as error:
            raise Refusal(
                "WT_SEMVER", f"semantic version of {model!r}: {error}", hint="leave it out, or raise it", status=409
            ) from error
        before = None if parent is None else int(parent["version"])
        shown = origins.tags(given["origins"], given["recipe"], before)
        found = super().create_model_version(
            model,
            given["source"],
            given["run_id"],
            [*(given["tags"] or ()), *(ModelVersionTag(key, value) for key, value in shown.items())],
            given["run_link"],
            given["description"],
            None,
            given["model_id"],
        )
        number, change.fresh = int(found.version), True
        rows.set_status(session, model, number, rows.PENDING, None)
        found._status = rows.PENDING
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
                parent=before,
                actor=change.actor.name,
                cause=given["cause"],
                correlation_id=change.correlation_id,
                created_at=time.time(),
            )
        )
        recording.begin(session, model, number, given["origins"])
        change.version = str(number)
        change.detail |= {"semver": assigned.semver, "semver_reason": assigned.reason, "key": given["key"]}
        return Registered(number, found)

    def _parent(self, session: Session, model: str, wanted: str | None) -> dict[str, Any] | None:
        if wanted is not None:
            found = records.version(session, model, marks.number(wanted))
            if found is None:
                raise Refusal("WT_PARENT", f"model {model!r} has no version {wanted} to be the parent", status=400)
            return found
        return records.parent(session, model, but=rows.FAILED)


def _same(session: Session, model: str, key: str, location: str | None) -> Any:
    """The row of the version that has this key; else, with ``location``, the newest that has these files.

    The same files under another name (models:/m-... for a run's model) are the same version.
    """
    same = _V.c.key == key
    if location is not None:
        same = or_(same, and_(_V.c.location == location, _V.c.deleted_at.is_(None)))
    order = (_V.c.key == key).desc(), _V.c.version.desc()
    return session.execute(select(_V).where(_V.c.model == model, same).order_by(*order).limit(1)).first()


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


class Taken(Collection[str]):
    """Semantic versions that a model ever had; one by one, for a model may have very many."""

    def __init__(self, session: Session, model: str) -> None:
        self.session, self.model = session, model

    def __contains__(self, semver: object) -> bool:
        same = select(_V.c.version).where(_V.c.model == self.model, _V.c.semver == semver)
        return self.session.execute(same.limit(1)).first() is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.session.execute(select(_V.c.semver).where(_V.c.model == self.model)).scalars().all())

    def __len__(self) -> int:
        return int(self.session.execute(select(func.count()).where(_V.c.model == self.model)).scalar() or 0)
