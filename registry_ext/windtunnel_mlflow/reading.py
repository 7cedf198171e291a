"""The reading side: versions, champions, what waits for a release, every model at a glance."""

from __future__ import annotations

from typing import Any

from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModel, SqlRegisteredModelTag
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME
from sqlalchemy import func, select

from windtunnel_mlflow import records, tables
from windtunnel_mlflow.part import Part, not_found

_R = tables.rollouts
_D = tables.verdicts


class Reading(Part):
    """What is."""

    def version(self, model: str, number: int) -> dict[str, Any]:
        """One version; 404 when there is none."""
        with self.store.reading() as session:
            found = records.version(session, model, number)
        if found is None:
            raise not_found(f"model {model!r} has no version {number}")
        return found

    def versions(self, model: str) -> list[dict[str, Any]]:
        """All versions, newest first; 404 when there is no such model."""
        with self.store.reading() as session:
            self.store._get_registered_model(session, model)
            return records.versions(session, model)

    def champion(self, model: str) -> dict[str, Any] | None:
        """The champion, or None."""
        with self.store.reading() as session:
            self.store._get_registered_model(session, model)
            return records.champion_version(session, model)

    def champion_history(self, model: str) -> list[dict[str, Any]]:
        """Who was champion from when until when, oldest first."""
        table = tables.champions
        semver = (
            select(tables.versions.c.semver)
            .where(tables.versions.c.model == table.c.model, tables.versions.c.version == table.c.version)
            .scalar_subquery()
        )
        with self.store.reading() as session:
            rows = session.execute(
                select(table, semver.label("semver")).where(table.c.model == model).order_by(table.c.id)
            )
            return [{**row, "version": str(row["version"])} for row in rows.mappings()]

    def champion_at(self, model: str, at: float) -> dict[str, Any] | None:
        """Who was champion at a time (seconds since the epoch): one query, also for versions that are gone."""
        table = tables.champions
        semver = (
            select(tables.versions.c.semver)
            .where(tables.versions.c.model == table.c.model, tables.versions.c.version == table.c.version)
            .scalar_subquery()
        )
        query = select(table, semver.label("semver")).where(
            table.c.model == model, table.c.since <= at, table.c.until.is_(None) | (table.c.until > at)
        )
        with self.store.reading() as session:
            row = session.execute(query).mappings().first()
        return None if row is None else {**row, "version": str(row["version"])}

    def pending(self, model: str) -> dict[str, Any] | None:
        """The version a release should take up.

        One whose rollout is still open comes first, so that a restarted release finishes what was begun. Otherwise
        the newest READY candidate that is newer than the champion.
        """
        with self.store.reading() as session:
            running = records.open_rollout(session, model)
            if running is not None:
                return records.version(session, model, int(running["version"]))
            table = tables.versions
            newest = session.execute(
                select(func.max(table.c.version)).where(
                    table.c.model == model,
                    table.c.status == "READY",
                    table.c.state == "candidate",
                    table.c.deleted_at.is_(None),
                    table.c.version > (records.champion(session, model) or 0),
                )
            ).scalar()
            return None if newest is None else records.version(session, model, newest)

    def models(self) -> list[dict[str, Any]]:
        """Every registered model with champion, open or last rollout, and the newest verdict of each kind."""
        prompts = select(SqlRegisteredModelTag.name).where(
            SqlRegisteredModelTag.workspace == DEFAULT_WORKSPACE_NAME,
            SqlRegisteredModelTag.key == IS_PROMPT_TAG_KEY,
            func.lower(SqlRegisteredModelTag.value) == "true",
        )
        with self.store.reading() as session:
            names = list(
                session.execute(
                    select(SqlRegisteredModel.name)
                    .where(
                        SqlRegisteredModel.workspace == DEFAULT_WORKSPACE_NAME,
                        SqlRegisteredModel.name.not_in(prompts),
                    )
                    .order_by(SqlRegisteredModel.name)
                ).scalars()
            )
            summaries = {
                name: {"name": name, "champion": None, "rollout": None, "verdicts": {}, "versions": 0} for name in names
            }
            champions = tables.champions
            for row in session.execute(
                select(champions.c.model, champions.c.version).where(champions.c.until.is_(None))
            ).all():
                if row.model in summaries:
                    summaries[row.model]["champion"] = records.version(session, row.model, row.version)
            latest = select(_R.c.model, func.max(_R.c.token).label("token")).group_by(_R.c.model).subquery()
            for row in session.execute(
                select(_R).join(latest, (_R.c.model == latest.c.model) & (_R.c.token == latest.c.token))
            ):
                if row.model in summaries:
                    summaries[row.model]["rollout"] = records.rollout(row)
            last = (
                select(func.max(_D.c.seq).label("seq"))
                .where(_D.c.claimed.is_(False))
                .group_by(_D.c.model, _D.c.kind)
                .subquery()
            )
            for row in session.execute(select(_D).join(last, _D.c.seq == last.c.seq)):
                if row.model in summaries:
                    summaries[row.model]["verdicts"][row.kind] = records.verdict(row)
            table = tables.versions
            for row in session.execute(
                select(table.c.model, func.count().label("number"))
                .where(table.c.deleted_at.is_(None))
                .group_by(table.c.model)
            ):
                if row.model in summaries:
                    summaries[row.model]["versions"] = row.number
        return list(summaries.values())
