"""Takes over what plain MLflow registered before the registry was governed: sealed as it is, and marked as adopted.

A version is written PENDING_REGISTRATION with its location, so that its path is guarded from then on, and handed to
the sealer as any other. One that cannot be sealed is FAILED_REGISTRATION on our side alone: MLflow's row is left as
it was, its readers go on as before, and no policy lets it fly. Asking again goes on where the last call, or a crash,
ended.
"""

from __future__ import annotations

import time
from concurrent.futures import wait
from typing import Any
from urllib.parse import urlparse

from mlflow.entities.model_registry.model_version_stages import STAGE_DELETED_INTERNAL
from mlflow.exceptions import MlflowException
from mlflow.prompt.constants import IS_PROMPT_TAG_KEY
from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlRegisteredModelAlias,
    SqlRegisteredModelTag,
)
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME
from sqlalchemy import and_, func, select, update
from sqlalchemy.orm import Session

from windtunnel import canonical
from windtunnel_mlflow import records, rows, tables
from windtunnel_mlflow.access import permission
from windtunnel_mlflow.keeping.claims import Claim, claim
from windtunnel_mlflow.law import policybook
from windtunnel_mlflow.lineage import recording
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.replicas import tracking_store
from windtunnel_mlflow.service import Service
from windtunnel_mlflow.transactions import Change
from windtunnel_mlflow.versions import locations, semver
from windtunnel_mlflow.versions.registration import file_exists
from windtunnel_mlflow.versions.runs import Runs
from windtunnel_mlflow.versions.sealer import read_facts

#: Versions in one request, so that an answer comes in time.
MOST = 50
#: Seconds a request waits for the sealer.
SEAL_WAIT = 5.0
#: Versions may point to versions (``models:/OTHER/3``), but not for ever.
_DEPTH = 20
#: In the place of the policy's name, for a champion that no policy was asked about.
ADOPTED = "adopted"

_V = tables.versions
_C = tables.champions
_M = SqlModelVersion


class Adoption:
    """The operations behind ``/adoption`` and ``/models/M/adopt``."""

    def __init__(self, service: Service) -> None:
        self.store = service.store

    def waiting(self) -> list[dict[str, Any]]:
        """Models with something to take over: ``model``, and how many ``versions`` are not ours yet."""
        prompts = select(SqlRegisteredModelTag.name).where(
            SqlRegisteredModelTag.workspace == DEFAULT_WORKSPACE_NAME,
            SqlRegisteredModelTag.key == IS_PROMPT_TAG_KEY,
            func.lower(SqlRegisteredModelTag.value) == "true",
        )
        ours = and_(_V.c.model == _M.name, _V.c.version == _M.version)
        open_ = _V.c.model.is_(None) | (_V.c.adopted.isnot(None) & (_V.c.status != rows.READY))
        query = (
            select(_M.name, func.count().label("number"))
            .outerjoin(_V, ours)
            .where(_live(), _M.name.not_in(prompts), open_)
            .group_by(_M.name)
        )
        crowned = select(_C.c.model)
        # Sealed by a former call that ended before the champion was written.
        heads = (
            select(_V.c.model)
            .join(_M, ours)
            .outerjoin(SqlRegisteredModelAlias, _is_champion())
            .where(
                _live(),
                _V.c.adopted.isnot(None),
                _V.c.status == rows.READY,
                _V.c.model.not_in(crowned),
                (_M.current_stage == rows.PRODUCTION) | SqlRegisteredModelAlias.version.isnot(None),
            )
        )
        with self.store.reading() as session:
            found = {row.name: int(row.number) for row in session.execute(query)}
            for model in session.execute(heads).scalars():
                found.setdefault(model, 0)
        return [{"model": model, "versions": number} for model, number in sorted(found.items())]

    def adopt(
        self,
        model: str,
        *,
        dry_run: bool = False,
        formats: dict[str, Any] | None = None,
        again: bool = True,
        after: int = 0,
    ) -> dict[str, Any]:
        """Take over a model's versions, a page of them at a time, and its champion when all are sealed.

        Args:
            dry_run: only say what would be taken over and what not.
            formats: what their files may hold, as in a description: ``{"pickle": bool, "trust": [names]}``.
            again: give those another try that could not be sealed.
            after: go on behind this version.

        Returns:
            ``versions``: each with ``version``, ``outcome`` (``adopted``, ``would-adopt``, ``pending`` or
            ``refused``), ``reason``, ``semver``; ``next``: what to go on behind, None at the end; ``champion`` and
            ``champion_reason``.

        Raises:
            Refusal: WT_ROLE; WT_PROMPT.
        """
        with self.store.change(model, "adopt") as change:
            change.silent = True
            permission.need(change.actor, "adopt", "adopt versions of a plain registry")
            registered = self.store._get_registered_model(change.session, model).to_mlflow_entity([])
            if registered._is_prompt():
                raise Refusal("WT_PROMPT", f"{model!r} is a prompt and holds no model")
            known, theirs = _ours(change.session, model), _theirs(change.session, model)
        rest = [row for row in theirs if row.version > after and _adoptable(known.get(row.version))]
        page = rest[:MOST]
        told: dict[int, dict[str, Any]] = {}
        for row in page:
            one = known.get(row.version)
            if one is not None and not (one.status == rows.FAILED and again and one.deleted_at is None):
                continue
            place, reason = self._place(row)
            if place is None:
                told[row.version] = _said(row.version, "refused", reason)
            elif dry_run:
                told[row.version] = _said(row.version, "would-adopt", f"{place} would be read and sealed")
            else:
                self._take(model, row, place, formats)
        if not dry_run:
            self._seal(model, {row.version for row in page})
        with self.store.reading() as session:
            known = _ours(session, model)
        versions = [told[row.version] if row.version in told else _stands(known[row.version]) for row in page]
        open_ = [row.version for row in theirs if row.version in known and known[row.version].status == rows.PENDING]
        if len(rest) > MOST or (open_ and not dry_run):
            champion, why = None, "decided when its versions are sealed"
        else:
            champion, why = self._champion(model, dry_run=dry_run)
        return {
            "model": model,
            "versions": versions,
            "next": page[-1].version if len(rest) > MOST else None,
            "champion": champion,
            "champion_reason": why,
        }

    def _seal(self, model: str, page: set[int]) -> None:
        sealer = self.store.sealer
        if sealer is None:
            return
        with self.store.reading() as session:
            pending = [number for number, row in _ours(session, model).items() if row.status == rows.PENDING]
        wait([sealer.submit(model, number) for number in pending if number in page], timeout=SEAL_WAIT)

    def _place(self, row: Any) -> tuple[str | None, str]:
        """Where a version's files are below the artifact root; or None and why it cannot be taken over."""
        try:
            place = self._resolve(row.name, row.version, _DEPTH)
        except Refusal as refusal:
            return None, refusal.plain
        except MlflowException as error:
            return None, f"its source {row.source!r} leads nowhere: {error.message}"
        if not place:
            return None, f"its source {row.source!r} is the artifact root itself"
        if not file_exists(self.store._repo(), f"{place}/{locations.MLMODEL}"):
            return None, f"there is no {locations.MLMODEL} file at {place} in the artifact store"
        return place, ""

    def _resolve(self, model: str, number: int, depth: int) -> str:
        from mlflow.store.artifact.utils.models import _parse_model_uri

        with self.store.reading() as session:
            row = next(iter(_theirs(session, model, number)), None)
        # MLflow keeps where a source led to when it was registered.
        source = None if row is None else row.storage_location or row.source
        if row is None or not source or depth == 0:
            raise Refusal("WT_SOURCE", f"version {number} of {model!r} does not say where its files are")
        scheme = urlparse(source).scheme
        if scheme == "models":
            parsed = _parse_model_uri(source)
            if parsed.model_id is None:
                if not parsed.version:
                    raise Refusal("WT_SOURCE", f"its source {source!r} names no version")
                return self._resolve(str(parsed.name), int(parsed.version), depth - 1)
        if scheme in ("models", "runs"):
            repo = self.store._repo()
            return locations.resolve(
                source,
                row.run_id,
                None,
                tracking=tracking_store(),
                get_run=Runs().get,
                exists=lambda path: file_exists(repo, path),
                location_of=self.store.location,
            )
        # Whose run it is does not matter: an administrator says that these are the version's files.
        return locations.repo_path(source)

    def _take(self, model: str, row: Any, place: str, formats: dict[str, Any] | None) -> None:
        run = Runs().of(row.run_id)
        facts, who = read_facts(self.store._repo(), place), None if run is None else run.trainer
        with self.store.change(model, "adopt", version=row.version, source=row.source) as change:
            permission.need(change.actor, "adopt", "adopt versions of a plain registry")
            session = change.session
            mark = canonical.dumps(_mark(session, change, row, formats)).decode()
            again = session.execute(select(_V).where(_V.c.model == model, _V.c.version == row.version)).first()
            if again is not None:
                if again.adopted is None or again.status != rows.FAILED:
                    change.silent = True
                    return
                change.detail |= {"semver": again.semver, "again": True}
                values = {
                    "status": rows.PENDING, "status_reason": None, "location": place, "source": row.source,
                    "facts": canonical.dumps(facts).decode(), "adopted": mark,
                }  # fmt: skip
                session.execute(update(_V).where(_V.c.model == model, _V.c.version == row.version).values(**values))
                return
            parent, assigned = _numbered(session, model, row.version, facts)
            taken = select(_V.c.version).where(_V.c.model == model, _V.c.key == row.run_id)
            key = row.run_id if row.run_id and session.execute(taken).first() is None else f"adopted:{row.version}"
            session.execute(
                _V.insert().values(
                    model=model,
                    version=row.version,
                    semver=assigned.semver,
                    semver_reason=assigned.reason,
                    key=key,
                    status=rows.PENDING,
                    state="archived" if row.current_stage == rows.ARCHIVED else "candidate",
                    source=row.source or place,
                    location=place,
                    run_id=row.run_id,
                    trainer=who,
                    recipe="{}",
                    facts=canonical.dumps(facts).decode(),
                    parent=parent,
                    actor=change.actor.name,
                    cause="adopted from a plain MLflow registry",
                    correlation_id=change.correlation_id,
                    created_at=(row.creation_time or 0) / 1000.0,
                    adopted=mark,
                )
            )
            origins = recording.of_registration({}, row.run_id, row.source or place, run)
            recording.begin(session, model, row.version, origins)
            recording.show(session, model, row.version, origins, {}, parent)
            change.detail |= {"semver": assigned.semver, "semver_reason": assigned.reason, "location": place}

    def _champion(self, model: str, *, dry_run: bool) -> tuple[str | None, str]:
        with self.store.reading() as session:
            claimed, history = _claim(session, model), _history(session, model)
            row = None if claimed.version is None else next(iter(_theirs(session, model, claimed.version)), None)
            one = None if claimed.version is None else _ours(session, model).get(claimed.version)
        if history:
            return None, "it has a history of champions here already"
        if claimed.conflict is not None:
            return None, claimed.conflict
        number = claimed.version
        if number is None or row is None:
            return None, "no version has the alias champion or the stage Production"
        lost = f"version {number} ({claimed.by}) is champion there and could not be adopted"
        if one is not None and one.status == rows.FAILED:
            return None, f"{lost}: {one.status_reason}"
        if one is None:
            place, reason = self._place(row)
            if place is None:
                return None, f"{lost}: {reason}"
        elif one.adopted is None or one.deleted_at is not None:
            return None, f"version {number} ({claimed.by}) was registered here; it becomes champion by a release"
        if dry_run:
            return str(number), f"{claimed.by}; it would stay champion"
        with self.store.change(model, "adopt-champion", version=number) as change:
            permission.need(change.actor, "adopt", "adopt a champion of a plain registry")
            found = records.version(change.session, model, number)
            ready = found is not None and found["status"] == rows.READY and found["adopted"] is not None
            # Read again: the first look was before the lock.
            if not ready or _history(change.session, model) or _claim(change.session, model) != claimed:
                change.silent = True
                return None, f"version {number} was changed meanwhile; adopt again"
            rows.refuse_open_rollout(change.session, model)
            change.detail |= {"policy": ADOPTED, "by": claimed.by, "others": [str(one) for one in claimed.others]}
            for other in claimed.others:
                rows.set_stage(change.session, model, other, rows.ARCHIVED)
                rows.set_state(change.session, model, other, "archived")
            reason = f"adopted: it was champion before the registry was governed ({claimed.by})"
            self.store.enthrone(change, model, number, reason=reason, rollout_id=None)
        return str(number), f"{claimed.by}; it stays champion"


def _live() -> Any:
    return and_(_M.workspace == DEFAULT_WORKSPACE_NAME, _M.current_stage != STAGE_DELETED_INTERNAL)


def _is_champion() -> Any:
    return and_(
        SqlRegisteredModelAlias.workspace == DEFAULT_WORKSPACE_NAME,
        SqlRegisteredModelAlias.name == _M.name,
        SqlRegisteredModelAlias.version == _M.version,
        SqlRegisteredModelAlias.alias == rows.CHAMPION,
    )


def _theirs(session: Session, model: str, number: int | None = None) -> list[Any]:
    query = select(
        _M.name, _M.version, _M.source, _M.storage_location, _M.run_id, _M.current_stage, _M.user_id, _M.creation_time
    ).where(_live(), _M.name == model)
    if number is not None:
        query = query.where(_M.version == number)
    return list(session.execute(query.order_by(_M.version)))


def _ours(session: Session, model: str) -> dict[int, Any]:
    query = select(_V.c.version, _V.c.status, _V.c.status_reason, _V.c.semver, _V.c.adopted, _V.c.deleted_at)
    return {int(row.version): row for row in session.execute(query.where(_V.c.model == model)).all()}


def _adoptable(row: Any) -> bool:
    """Whether a version was not registered here: unknown, or adopted before."""
    return row is None or row.adopted is not None


def _stands(row: Any) -> dict[str, Any]:
    if row.deleted_at is not None:
        why = "its number was that of a version that was deleted here, and numbers are not used again"
        return _said(row.version, "refused", why)
    outcome = {rows.READY: "adopted", rows.PENDING: "pending", rows.FAILED: "refused"}[row.status]
    reason = "being sealed" if outcome == "pending" else row.status_reason or ""
    return _said(row.version, outcome, reason, row.semver)


def _said(number: int, outcome: str, reason: str, semver: str | None = None) -> dict[str, Any]:
    return {"version": str(number), "outcome": outcome, "reason": reason, "semver": semver}


def _claim(session: Session, model: str) -> Claim:
    production = session.execute(
        select(_M.version).where(_live(), _M.name == model, _M.current_stage == rows.PRODUCTION)
    ).scalars()
    return claim(records.alias(session, model, rows.CHAMPION), [int(one) for one in production])


def _history(session: Session, model: str) -> bool:
    return session.execute(select(_C.c.id).where(_C.c.model == model).limit(1)).first() is not None


def _mark(session: Session, change: Change, row: Any, formats: dict[str, Any] | None) -> dict[str, Any]:
    aliases = session.execute(
        select(SqlRegisteredModelAlias.alias)
        .where(
            SqlRegisteredModelAlias.workspace == DEFAULT_WORKSPACE_NAME,
            SqlRegisteredModelAlias.name == row.name,
            SqlRegisteredModelAlias.version == row.version,
        )
        .order_by(SqlRegisteredModelAlias.alias)
    ).scalars()
    return {
        "by": change.actor.name,
        "at": time.time(),
        "source": row.source,
        "stage": row.current_stage,
        "aliases": list(aliases),
        "user": row.user_id,
        "created_at": (row.creation_time or 0) / 1000.0,
        "formats": formats or {},
    }


def _numbered(session: Session, model: str, number: int, facts: dict[str, Any]) -> tuple[int | None, semver.Assigned]:
    """Parent and semantic version: compared with the version before it, for the order of numbers is what is known."""
    before = session.execute(
        select(func.max(_V.c.version)).where(_V.c.model == model, _V.c.version < number, _V.c.deleted_at.is_(None))
    ).scalar()
    parent = None if before is None else records.version(session, model, before)
    compare = None if parent is None else (parent["semver"], semver.Content(parent["recipe"], parent["facts"]))
    taken = set(session.execute(select(_V.c.semver).where(_V.c.model == model)).scalars())
    rule = policybook.in_force(session, model).document.numbering
    return before, semver.assign(compare, semver.Content({}, facts), taken, None, rule)
