"""The governed registry store: MLflow's SQL store, with policy, seal and audit in front of every change.

Every client ends here: Python, REST, the ajax paths of the UI, the DAGs. Each method that changes something runs
MLflow's own code inside our transaction (``change``), so a change, its policy check and its audit row stand or fall
together. What MLflow's API cannot say (verdicts, rollouts) is in ``windtunnel_mlflow.service``.
"""

from __future__ import annotations

import time
from typing import Any

from mlflow.entities.model_registry import ModelVersion
from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlRegisteredModel
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from windtunnel.spec.policy import Transition
from windtunnel_mlflow import marks, records, replicas, rows, tables
from windtunnel_mlflow.access import permission
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.transactions import Change
from windtunnel_mlflow.versions import memory, wayback
from windtunnel_mlflow.versions.crowning import Crowning
from windtunnel_mlflow.versions.guard import Writes
from windtunnel_mlflow.versions.registration import Registering
from windtunnel_mlflow.versions.sealing import Sealing
from windtunnel_mlflow.webhooks import Webhooks

SCHEME = "windtunnel+"
_V = tables.versions


def governed_store(store_uri: str) -> GovernedStore:
    """Entry point of the schemes ``windtunnel+sqlite`` and ``windtunnel+postgresql``."""
    return GovernedStore(store_uri.removeprefix(SCHEME), replicas.replica_uri())


class GovernedStore(Webhooks, Registering, Sealing, Crowning):
    """MLflow's registry in which the policy is the law."""

    def __init__(self, db_uri: str, read_db_uri: str | None = None) -> None:
        super().__init__(db_uri, read_db_uri)
        self.writes = Writes()

    def create_registered_model(
        self, name: str, tags: Any = None, description: Any = None, deployment_job_id: Any = None
    ) -> Any:
        if self._model_exists(name):
            # MLflow's own answer to a repeated creation; nothing changes, so nothing is audited.
            return super().create_registered_model(name, tags, description, deployment_job_id)
        with self.change(name, "create-model") as change:
            marks.refuse_tags(tags)
            if marks.is_prompt(tags) and records.governed(change.session, name):
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
            permission.need(change.actor, "delete", "delete a model")
            current = records.champion(change.session, name)
            if current is not None:
                raise Refusal(
                    "WT_CHAMPION",
                    f"model {name!r} has a champion (version {current}) and cannot be deleted",
                    hint="withdraw the champion first",
                )
            rows.refuse_open_rollout(change.session, name)
            now = time.time()
            for row in change.session.execute(select(_V).where(_V.c.model == name, _V.c.deleted_at.is_(None))).all():
                rows.mark_deleted(change.session, row, now, change.actor.name)
            if records.governed(change.session, name):
                change.session.execute(
                    tables.deleted_models.insert().values(
                        model=name,
                        deleted_at=now,
                        actor=change.actor.name,
                        kept=memory.of_model(change.session, name),
                    )
                )
            super().delete_registered_model(name)

    def set_registered_model_tag(self, name: str, tag: Any) -> None:
        with self.change(name, "tag-model", key=tag.key, value=tag.value) as change:
            marks.refuse_tags([tag])
            marks.refuse_prompt_mark(change.session, name, tag.key)
            super().set_registered_model_tag(name, tag)

    def delete_registered_model_tag(self, name: str, key: str) -> None:
        with self.change(name, "untag-model", key=key) as change:
            marks.refuse_key(key)
            marks.refuse_prompt_mark(change.session, name, key)
            super().delete_registered_model_tag(name, key)

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
        if marks.is_prompt(tags):
            with self.change(name, "create-prompt-version") as change:
                marks.refuse_tags(tags)
                if records.governed(change.session, name):
                    raise Refusal("WT_PROMPT", f"model {name!r} has governed versions and takes no prompt version")
                found = super().create_model_version(name, source, run_id, tags, run_link, description, None, model_id)
                change.version = str(found.version)
                return found
        found = self.register(
            name, source=source, run_id=run_id, model_id=model_id, tags=tags, run_link=run_link, description=description
        )
        if found.made is not None:
            return found.made
        with self.reading():
            return self.get_model_version(name, found.number)

    def update_model_version(self, name: str, version: Any, description: Any = None) -> Any:
        with self.change(name, "describe-version", version=version, description=description):
            return super().update_model_version(name, version, description)

    def set_model_version_tag(self, name: str, version: Any, tag: Any) -> None:
        with self.change(name, "tag-version", version=version, key=tag.key, value=tag.value) as change:
            marks.refuse_tags([tag])
            marks.refuse_prompt_mark(change.session, name, tag.key)
            super().set_model_version_tag(name, version, tag)

    def delete_model_version_tag(self, name: str, version: Any, key: str) -> None:
        with self.change(name, "untag-version", version=version, key=key):
            marks.refuse_key(key)
            super().delete_model_version_tag(name, version, key)

    def delete_model_version(self, name: str, version: Any) -> None:
        with self.change(name, "delete-version", version=version) as change:
            permission.need(change.actor, "delete", "delete a version")
            number = marks.number(version)
            self._get_sql_model_version(change.session, name, number)
            if records.champion(change.session, name) == number:
                raise Refusal(
                    "WT_CHAMPION",
                    f"version {number} is the champion of {name!r} and cannot be deleted",
                    hint="release another version, or withdraw it, first",
                )
            rows.refuse_open_rollout(change.session, name, number)
            wayback.refuse(change.session, name, number, time.time())
            row = change.session.execute(select(_V).where(_V.c.model == name, _V.c.version == number)).first()
            if row is not None:
                rows.mark_deleted(change.session, row, time.time(), change.actor.name)
            super().delete_model_version(name, version)

    # -- champion: alias and Production are one thing; challenger is an alias that policy looks at

    def set_registered_model_alias(self, name: str, alias: str, version: Any) -> None:
        with self.change(name, "set-alias", version=version, alias=alias) as change:
            number = marks.number(version)
            self._get_sql_model_version(change.session, name, number)
            meant = marks.meant(alias)
            if meant is None or self._plain_prompt(change.session, name):
                super().set_registered_model_alias(name, alias, version)
                return
            marks.refuse_spelling(alias, meant)
            if meant == rows.CHALLENGER:
                self.challenge(change, name, number)
            else:
                self.crown(change, name, number, reason="alias set by a client")

    def challenge(self, change: Change, model: str, number: int) -> None:
        """Give a version the alias ``challenger``, if policy allows.

        Raises:
            Refusal: WT_POLICY; WT_CHAMPION for the champion, which cannot challenge itself.
        """
        if records.champion(change.session, model) == number:
            raise Refusal("WT_CHAMPION", f"version {number} is the champion of {model!r}, and no challenger of itself")
        self.check(change, model, number, "challenger")
        SqlAlchemyStore.set_registered_model_alias(self, model, rows.CHALLENGER, number)

    def delete_registered_model_alias(self, name: str, alias: str) -> None:
        with self.change(name, "delete-alias", alias=alias) as change:
            if marks.meant(alias) == rows.CHAMPION and records.champion(change.session, name) is not None:
                raise Refusal(
                    "WT_CHAMPION",
                    f"the champion of {name!r} cannot be removed by deleting its alias",
                    hint="release another version, or withdraw this one",
                )
            super().delete_registered_model_alias(name, alias)

    def transition_model_version_stage(
        self, name: str, version: Any, stage: str, archive_existing_versions: bool
    ) -> ModelVersion:
        wanted = rows.canonical_stage(stage)
        with self.change(name, "transition-stage", version=version, stage=wanted) as change:
            number = marks.number(version)
            self._get_sql_model_version(change.session, name, number)
            self.restage(change, name, number, wanted, archive_existing_versions)
            return self.get_model_version(name, number)

    def restage(
        self, change: Change, model: str, number: int, stage: str, archive_existing: bool = False, reason: str = ""
    ) -> None:
        """Bring a version to a stage by hand, if policy allows.

        Args:
            stage: as MLflow spells it; ``None`` is Development.
            archive_existing: archive the others of the stage, as MLflow can.
            reason: for the champion's history.

        Raises:
            Refusal: WT_POLICY; WT_CHAMPION for the champion, which stays in Production.
        """
        prompt = self._plain_prompt(change.session, model)
        if stage == rows.PRODUCTION and not prompt:
            self.crown(change, model, number, reason=reason or "stage set by a client")
            return
        if records.champion(change.session, model) == number:
            raise Refusal(
                "WT_CHAMPION",
                f"version {number} is the champion of {model!r}; its stage is Production",
                hint="release another version, or withdraw this one",
            )
        to: Transition | None = "staging" if stage == rows.STAGING else "archived" if stage == rows.ARCHIVED else None
        if prompt:
            pass
        elif to is not None:
            self.check(change, model, number, to)
        else:
            permission.need(change.actor, "stage", "change the stage of a version")
        super().transition_model_version_stage(model, number, stage, archive_existing)

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
