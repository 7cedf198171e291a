"""What MLflow's own API cannot say: verdicts, policies, rollouts, promotion, withdrawal; and the reading side.

Everything returned is plain JSON values, exactly what the endpoints answer.
"""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import replace
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from mlflow.store.model_registry.dbmodels.models import SqlRegisteredModel, SqlRegisteredModelTag
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME
from pydantic import ValidationError
from sqlalchemy import func, insert, select, update

from windtunnel import canonical
from windtunnel.evidence import Verdict
from windtunnel.spec.policy import Policy
from windtunnel_mlflow import audit, identity, records, tables
from windtunnel_mlflow.policy import missing, present
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.store import ARCHIVED, STAGING, Change, GovernedStore

_R = tables.rollouts
_D = tables.verdicts

#: What ``update_rollout`` may do from each open state. ``promoted`` is reached by ``promote`` alone.
MOVES = {
    "running": {"running", "promoting", "rolled_back", "withdrawn"},
    "promoting": {"promoting", "running", "rolled_back", "withdrawn"},
}
ENDED = ("promoted", "rolled_back", "withdrawn")


def not_found(what: str) -> MlflowException:
    """404."""
    return MlflowException(what, error_code=RESOURCE_DOES_NOT_EXIST)


class Service:
    """The operations behind ``/api/windtunnel/v1``."""

    def __init__(self, store: GovernedStore) -> None:
        self.store = store

    # -- reading

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
            number = records.champion(session, model)
            return None if number is None else records.version(session, model, number)

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
                    summaries[row.model]["verdicts"][row.kind] = _verdict(row)
            table = tables.versions
            for row in session.execute(
                select(table.c.model, func.count().label("number"))
                .where(table.c.deleted_at.is_(None))
                .group_by(table.c.model)
            ):
                if row.model in summaries:
                    summaries[row.model]["versions"] = row.number
        return list(summaries.values())

    def audit(self, model: str | None, limit: int) -> list[dict[str, Any]]:
        """Newest audit rows first."""
        with self.store.reading() as session:
            return audit.read(session, model, limit)

    # -- verdicts

    def post_verdict(self, plain: dict[str, Any]) -> dict[str, Any]:
        """Keep a verdict. It counts when the service says it; from anybody else it is a claim.

        Sending the same judgement again gives the same id and changes nothing.
        """
        try:
            # Numbers without a JSON form (NaN, infinities) arrive in canonical form.
            verdict = Verdict.from_dict(canonical.loads(json.dumps(plain)))
            for name in ("model", "subject", "reason"):
                if not isinstance(getattr(verdict, name), str) or not getattr(verdict, name):
                    raise ValueError(f"{name} is empty or not text")
            identifier = verdict.id
        except (KeyError, ValueError, TypeError) as error:
            raise Refusal(
                "WT_VERDICT", f"this is not a verdict: {error!r}", hint="see docs/reference/verdicts.md", status=400
            ) from error
        actor = identity.actor()
        claimed = not actor.trusted
        with self.store.change(
            verdict.model, "verdict", version=verdict.version, correlation_id=verdict.correlation_id
        ) as change:
            table = tables.verdicts
            known = change.session.execute(
                select(table.c.id).where(table.c.id == identifier, table.c.claimed == claimed)
            ).first()
            if known is not None:
                change.silent = True
            else:
                now = time.time()
                kept = replace(verdict, actor=actor.name, created_at=now)
                change.session.execute(
                    insert(table).values(
                        id=identifier,
                        claimed=claimed,
                        model=verdict.model,
                        kind=str(verdict.kind),
                        outcome=str(verdict.outcome),
                        subject=verdict.subject,
                        version=verdict.version,
                        body=canonical.dumps(kept.to_dict()).decode(),
                        actor=actor.name,
                        created_at=now,
                        correlation_id=verdict.correlation_id,
                    )
                )
                change.detail |= {
                    "id": identifier,
                    "kind": str(verdict.kind),
                    "outcome": str(verdict.outcome),
                    "subject": verdict.subject,
                    "claimed": claimed,
                }
        return {"id": identifier, "claimed": claimed}

    def verdicts(
        self, model: str, subject: str | None, kind: str | None, version: str | None, limit: int
    ) -> list[dict[str, Any]]:
        """Verdicts about a model, newest first; claimed ones are marked."""
        query = select(_D).where(_D.c.model == model).order_by(_D.c.seq.desc()).limit(limit)
        for column, value in ((_D.c.subject, subject), (_D.c.kind, kind), (_D.c.version, version)):
            if value is not None:
                query = query.where(column == value)
        with self.store.reading() as session:
            return [_verdict(row) for row in session.execute(query)]

    def explain(self, model: str, number: int, to: str) -> dict[str, Any]:
        """Whether a version may become champion by its own rollout, and what is missing."""
        if to != "champion":
            raise Refusal("WT_REQUEST", f"cannot explain {to!r}; expected 'champion'", status=400)
        with self.store.reading() as session:
            if records.version(session, model, number) is None:
                raise not_found(f"model {model!r} has no version {number}")
            running = records.open_rollout(session, model)
            inside = running is not None and int(running["version"]) == number
            facts = records.facts(session, model, number, in_rollout=inside)
            policy = records.policy(session, model)
            if facts.champion == number:
                return {"allowed": True, "missing": [], "present": {}}
            lacking = missing(policy, facts)
            return {"allowed": not lacking, "missing": lacking, "present": present(policy, facts)}

    # -- policy

    def policy(self, model: str) -> dict[str, Any]:
        """The policy in force."""
        with self.store.reading() as session:
            return records.policy(session, model).model_dump(mode="json")

    def set_policy(self, model: str, plain: dict[str, Any]) -> dict[str, Any]:
        """Replace the policy; only the service and administrators may."""
        with self.store.change(model, "set-policy", policy=plain) as change:
            _trusted_only(change, "change a policy")
            try:
                policy = Policy.model_validate(plain)
            except ValidationError as error:
                raise Refusal("WT_REQUEST", f"this is not a policy: {error}", status=400) from error
            body = policy.model_dump_json()
            table = tables.policies
            former = change.session.execute(select(table.c.policy).where(table.c.model == model)).scalar()
            if former == body:
                change.silent = True
                return policy.model_dump(mode="json")
            values = {"policy": body, "actor": change.actor.name, "updated_at": time.time()}
            if former is None:
                change.session.execute(insert(table).values(model=model, **values))
            else:
                change.session.execute(update(table).where(table.c.model == model).values(**values))
                change.detail["former"] = json.loads(former)
            return policy.model_dump(mode="json")

    # -- rollouts

    def open_rollout(
        self, model: str, number: int, plan: dict[str, Any], holder: str, correlation_id: str | None
    ) -> dict[str, Any]:
        """Open the rollout of a version, find the holder's own again, or take it over from another holder."""
        with self.store.change(
            model, "open-rollout", version=number, correlation_id=correlation_id, holder=holder
        ) as change:
            _trusted_only(change, "open a rollout")
            session = change.session
            version = records.version(session, model, number)
            if version is None:
                raise not_found(f"model {model!r} has no version {number}")
            token = (session.execute(select(func.max(_R.c.token)).where(_R.c.model == model)).scalar() or 0) + 1
            running = records.open_rollout(session, model)
            if running is not None:
                if int(running["version"]) != number:
                    raise Refusal(
                        "WT_ROLLOUT_RUNNING",
                        f"a rollout of version {running['version']} of {model!r} is open ({running['holder']})",
                        hint="let it end, or roll it back",
                        status=409,
                    )
                if running["holder"] == holder:
                    change.silent = True
                    return running
                change.detail |= {"rollout": running["id"], "taken_from": running["holder"], "token": token}
                session.execute(
                    update(_R)
                    .where(_R.c.id == running["id"])
                    .values(holder=holder, token=token, updated_at=time.time())
                )
                return self._rollout(change, running["id"])
            ended = session.execute(
                select(_R)
                .where(_R.c.model == model, _R.c.version == number, _R.c.holder == holder)
                .order_by(_R.c.token.desc())
                .limit(1)
            ).first()
            if ended is not None:
                # The same holder asks again after the end: a task that was retried. It sees how it ended.
                change.silent = True
                return records.rollout(ended)
            if version["status"] != "READY":
                raise Refusal(
                    "WT_NOT_READY", f"version {number} of {model!r} is {version['status']}, not READY", status=409
                )
            champion = records.champion(session, model)
            if champion == number:
                raise Refusal("WT_CHAMPION", f"version {number} is the champion of {model!r} already", status=409)
            now = time.time()
            identifier = uuid.uuid4().hex
            session.execute(
                insert(_R).values(
                    id=identifier,
                    model=model,
                    version=number,
                    champion=champion,
                    token=token,
                    holder=holder,
                    state="running",
                    plan=canonical.dumps(plan).decode(),
                    correlation_id=change.correlation_id,
                    opened_at=now,
                    updated_at=now,
                )
            )
            self.store._set_state(session, model, number, "releasing")
            self.store._set_stage(session, model, number, STAGING)
            change.detail |= {"rollout": identifier, "token": token}
            return self._rollout(change, identifier)

    def rollout(self, identifier: str) -> dict[str, Any]:
        """One rollout; 404 when there is none."""
        with self.store.reading() as session:
            row = session.execute(select(_R).where(_R.c.id == identifier)).first()
        if row is None:
            raise not_found(f"there is no rollout {identifier!r}")
        return records.rollout(row)

    def rollouts(self, model: str, limit: int) -> list[dict[str, Any]]:
        """Rollouts of a model, newest first."""
        with self.store.reading() as session:
            rows = session.execute(select(_R).where(_R.c.model == model).order_by(_R.c.token.desc()).limit(limit))
            return [records.rollout(row) for row in rows]

    def update_rollout(
        self,
        identifier: str,
        token: int,
        *,
        state: str | None,
        step: int | None,
        weight: float | None,
        reason: str | None,
    ) -> dict[str, Any]:
        """Write down how a rollout stands; only its present holder may."""
        found = self.rollout(identifier)
        model, number = found["model"], int(found["version"])
        given = {"state": state, "step": step, "weight": weight, "reason": reason}
        values = {name: value for name, value in given.items() if value is not None}
        with self.store.change(
            model,
            "update-rollout",
            version=number,
            correlation_id=found["correlation_id"],
            rollout=identifier,
            **values,
        ) as change:
            _trusted_only(change, "change a rollout")
            current = self._rollout(change, identifier)
            _fence(current, token)
            if current["state"] in ENDED:
                if state in (None, current["state"]):
                    change.silent = True
                    return current
                raise Refusal(
                    "WT_ENDED",
                    f"the rollout of version {number} of {model!r} has ended ({current['state']})",
                    status=409,
                )
            if state is not None and state not in MOVES[current["state"]]:
                raise Refusal(
                    "WT_STATE",
                    f"a rollout that is {current['state']} cannot become {state!r}",
                    hint="'promoted' is reached by promote alone" if state == "promoted" else None,
                    status=400,
                )
            self._write(change, current, values)
            if state in ("rolled_back", "withdrawn"):
                self.store._set_state(change.session, model, number, state)
                self.store._set_stage(change.session, model, number, ARCHIVED)
            return self._rollout(change, identifier)

    def end(self, change: Change, current: dict[str, Any], state: str, reason: str) -> None:
        """Write down that an open rollout was undone: ``rolled_back`` or ``withdrawn``, its candidate at 0."""
        self._write(change, current, {"state": state, "reason": reason, "weight": 0})
        self.store._set_state(change.session, str(current["model"]), int(current["version"]), state)
        self.store._set_stage(change.session, str(current["model"]), int(current["version"]), ARCHIVED)

    def promote(self, identifier: str, token: int, expected_champion: str | None) -> dict[str, Any]:
        """Make the rollout's version champion: alias, stages, history and rollout in one transaction."""
        found = self.rollout(identifier)
        model, number = found["model"], int(found["version"])
        with self.store.change(
            model,
            "promote",
            version=number,
            correlation_id=found["correlation_id"],
            rollout=identifier,
            expected_champion=expected_champion,
        ) as change:
            _trusted_only(change, "promote a version")
            current = self._rollout(change, identifier)
            champion = records.champion(change.session, model)
            if current["state"] == "promoted" and champion == number:
                change.silent = True
                return records.version(change.session, model, number) or {}
            if champion is not None and str(champion) != expected_champion:
                raise Refusal(
                    "WT_CONFLICT",
                    f"the champion of {model!r} is version {champion} now, not {expected_champion or 'none'}",
                    hint=f"version {champion} won; roll this one back, or release it against version {champion}",
                    status=409,
                )
            if champion is None and expected_champion is not None:
                raise Refusal(
                    "WT_CONFLICT", f"{model!r} has no champion now; expected version {expected_champion}", status=409
                )
            _fence(current, token)
            if current["state"] in ENDED:
                raise Refusal(
                    "WT_ENDED",
                    f"the rollout of version {number} of {model!r} has ended ({current['state']})",
                    status=409,
                )
            self.store.crown(change, model, number, reason="rollout promoted", rollout=current)
            change.silent = False
            self._write(change, current, {"state": "promoted"})
            return records.version(change.session, model, number) or {}

    def withdraw(self, model: str, number: int, reason: str) -> dict[str, Any]:
        """Take a version out: its alias if it is champion, its rollout if one is open."""
        with self.store.change(model, "withdraw", version=number, reason=reason) as change:
            _trusted_only(change, "withdraw a version")
            session = change.session
            version = records.version(session, model, number)
            if version is None:
                raise not_found(f"model {model!r} has no version {number}")
            if version["state"] == "withdrawn":
                change.silent = True
                return version
            change.correlation_id = change.correlation_id or version["correlation_id"]
            if records.champion(session, model) == number:
                self.store.uncrown(change, model, number)
                change.detail["was_champion"] = True
            running = records.open_rollout(session, model)
            if running is not None and int(running["version"]) == number:
                self._write(change, running, {"state": "withdrawn", "reason": reason})
            self.store._set_state(session, model, number, "withdrawn")
            self.store._set_stage(session, model, number, ARCHIVED)
            return records.version(session, model, number) or {}

    def _rollout(self, change: Change, identifier: str) -> dict[str, Any]:
        row = change.session.execute(select(_R).where(_R.c.id == identifier)).first()
        if row is None:
            raise not_found(f"there is no rollout {identifier!r}")
        return records.rollout(row)

    def _write(self, change: Change, current: dict[str, Any], values: dict[str, Any]) -> None:
        now = time.time()
        ended = {"ended_at": now} if values.get("state") in ENDED else {}
        change.session.execute(update(_R).where(_R.c.id == current["id"]).values(**values, **ended, updated_at=now))


def _verdict(row: Any) -> dict[str, Any]:
    return {**json.loads(row.body), "id": row.id, "claimed": bool(row.claimed), "seq": row.seq}


def _trusted_only(change: Change, what: str) -> None:
    if not change.actor.trusted:
        raise Refusal(
            "WT_ROLE",
            f"user {change.actor.name!r} may not {what}",
            hint="only the service and administrators may",
        )


def _fence(current: dict[str, Any], token: int) -> None:
    if token != current["token"]:
        raise Refusal(
            "WT_FENCED",
            f"token {token} is not the present token {current['token']} of this rollout: "
            f"{current['holder']} holds it now",
            hint="stop writing",
            status=409,
        )
