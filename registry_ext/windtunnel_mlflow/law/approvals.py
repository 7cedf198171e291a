"""Approvals and rejections: from the person's own credential, or from Airflow's own record of a person's answer.

Nothing that a worker holds is enough: its user is ``service``, which has no role that may approve, and an answer to a
human-in-the-loop task is read from Airflow by the registry itself.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, insert, select, update

from windtunnel import canonical
from windtunnel.registry.approvals import REJECT, question
from windtunnel.registry.orders import APPROVE, CONTROL_DAG
from windtunnel_mlflow import records, tables
from windtunnel_mlflow.access import answers, identity, matrix, people, permission
from windtunnel_mlflow.law import policybook, weighing
from windtunnel_mlflow.law.approving import blind
from windtunnel_mlflow.law.policies import target
from windtunnel_mlflow.law.policy import evidence_digest, needs_digest, needs_of
from windtunnel_mlflow.part import not_found
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.releases.orderrules import check_reason
from windtunnel_mlflow.service import Service
from windtunnel_mlflow.transactions import Change

_A = tables.approvals


@dataclass(frozen=True, slots=True)
class _Person:
    name: str
    roles: frozenset[str]
    via: str


class Approvals:
    """The operations behind ``/models/M/versions/N/approvals``.

    Args:
        ask: reads a human-in-the-loop task from Airflow.
    """

    def __init__(self, service: Service, ask: answers.Ask = answers.from_airflow) -> None:
        self.store = service.store
        self._ask = ask

    def take(self, model: str, number: int, body: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """Approve or reject.

        Args:
            body: ``decision`` (approve, reject), ``to``, ``reason``, ``digest`` of the content and ``evidence``,
                as ``explain`` shows them; ``key``; ``answer``, the task in Airflow in which a person said so. What
                the person wrote there is the reason then.

        Returns:
            What is kept, and whether it is new: the same key, or the same answer, is one approval.

        Raises:
            Refusal: WT_ROLE, WT_FOUR_EYES, WT_DIGEST, WT_EVIDENCE, WT_NOT_READY, WT_ANSWER, WT_KEY, WT_REQUEST.
        """
        decision, to = str(body.get("decision")), target(str(body.get("to") or "production"))
        if decision not in ("approve", "reject"):
            raise Refusal("WT_REQUEST", f"the decision is {decision!r}; expected approve or reject", status=400)
        task = body.get("answer")
        # Airflow is asked before the database is locked: it may take seconds.
        answered = None if task is None else self._answered(decision, to, model, number, body, task)
        said = {name: str(body[name])[:2000] for name in ("reason", "digest", "evidence") if body.get(name) is not None}
        with self.store.change(model, decision, version=number, to=to, **said) as change:
            if isinstance(answered, Refusal):
                raise answered
            session = change.session
            found = records.version(session, model, number)
            if found is None:
                raise not_found(f"model {model!r} has no version {number}")
            policy = policybook.in_force(session, model)
            facts = weighing.facts(session, model, number, in_rollout=False, to=to)
            needs = needs_of(policy.document, to, facts)
            name = None if answered is None else answered.person
            person = self._person(change, name, policy.document.people, needs.approvers, decision)
            change.detail |= {"by": person.name, "via": person.via, "policy": policy.name}
            key = _key(body.get("key"), task, answered)
            known = session.execute(select(_A).where(_A.c.model == model, _A.c.key == key)).first()
            if known is not None:
                same = (known.version, known.target, known.decision, known.by) == (number, to, decision, person.name)
                if not same:
                    raise Refusal("WT_KEY", f"the key {key!r} was used for another approval", status=409)
                change.silent = True
                return _plain(known), False
            if found["status"] != "READY" or facts.digest is None:
                raise Refusal("WT_NOT_READY", f"version {number} of {model!r} is {found['status']}", status=409)
            if body.get("digest") != facts.digest:
                raise Refusal(
                    "WT_DIGEST",
                    f"version {number} of {model!r} has the content {facts.digest}, not {body.get('digest')}",
                    hint="look again: windtunnel registry explain",
                    status=409,
                )
            evidence = evidence_digest(model, number, facts)
            if body.get("evidence") != evidence and not (decision == "reject" and body.get("evidence") is None):
                raise Refusal(
                    "WT_EVIDENCE",
                    f"the evidence about version {number} of {model!r} is not what was shown"
                    f" ({body.get('evidence') or 'nothing was shown'}; now it is {evidence})",
                    hint="look again: windtunnel registry explain",
                    status=409,
                )
            if decision == "approve" and (own := blind(needs, person.name, facts.past)) is not None:
                raise Refusal(
                    "WT_FOUR_EYES",
                    f"{person.name} may not approve version {number} of {model!r}: {own}",
                    hint="ask somebody else who may approve",
                )
            session.execute(
                insert(_A).values(
                    key=key,
                    model=model,
                    version=number,
                    target=to,
                    decision=decision,
                    digest=facts.digest,
                    evidence=evidence,
                    seen=session.execute(select(func.max(tables.verdicts.c.seq))).scalar() or 0,
                    policy=policy.name,
                    needs=needs_digest(needs),
                    by=person.name,
                    actor=change.actor.name,
                    via=person.via,
                    roles=",".join(sorted(person.roles)),
                    reason=check_reason((answered.reason if answered is not None else "") or body.get("reason")),
                    at=time.time(),
                )
            )
            row = session.execute(select(_A).where(_A.c.model == model, _A.c.key == key)).one()
            change.detail["seq"] = row.seq
            return _plain(row), True

    def withdraw(self, model: str, number: int, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Take back what one said; an administrator may take back somebody else's.

        Args:
            body: ``to``, ``reason``, and ``by``: whose, where it is not the caller's own.

        Raises:
            Refusal: WT_ROLE; WT_APPROVAL where there is nothing to take back.
        """
        to, by = target(str(body.get("to") or "production")), body.get("by")
        said = {name: str(body[name])[:2000] for name in ("reason", "by") if body.get(name) is not None}
        with self.store.change(model, "withdraw-approval", version=number, to=to, **said) as change:
            held = people.roles_of(change.actor)
            whose = str(by or change.actor.name)
            if "service" in held or (whose != change.actor.name and "admin" not in held):
                raise Refusal(
                    "WT_ROLE",
                    f"user {change.actor.name!r} may not withdraw what {whose} said",
                    hint="everybody withdraws its own, an administrator anybody's",
                )
            mine = (
                (_A.c.model == model)
                & (_A.c.version == number)
                & (_A.c.target == to)
                & (_A.c.by == whose)
                & _A.c.withdrawn_at.is_(None)
            )
            standing = list(change.session.execute(select(_A.c.seq).where(mine)).scalars())
            if not standing:
                raise Refusal("WT_APPROVAL", f"nothing that {whose} said about version {number} stands", status=409)
            values = {
                "withdrawn_at": time.time(),
                "withdrawn_by": change.actor.name,
                "withdrawn_reason": check_reason(body.get("reason")),
            }
            change.session.execute(update(_A).where(_A.c.seq.in_(standing)).values(**values))
            change.detail["seqs"] = standing
            rows = change.session.execute(select(_A).where(_A.c.seq.in_(standing)).order_by(_A.c.seq))
            return [_plain(row) for row in rows]

    def of(self, model: str, number: int) -> list[dict[str, Any]]:
        """Everything that was said about a version, oldest first."""
        with self.store.reading() as session:
            if records.version(session, model, number) is None:
                raise not_found(f"model {model!r} has no version {number}")
            rows = session.execute(
                select(_A).where(_A.c.model == model, _A.c.version == number).order_by(_A.c.seq)
            ).all()
        return [_plain(row) for row in rows]

    def _answered(
        self, decision: str, to: str, model: str, number: int, body: Mapping[str, Any], task: Any
    ) -> answers.Answer | Refusal:
        """Who said so in Airflow; a refusal instead of raising it, so that the change can audit it."""
        if not isinstance(task, Mapping):
            return Refusal("WT_REQUEST", "answer must name a task: dag_id, dag_run_id, task_id, map_index", status=400)
        about = (to, model, str(number), str(body.get("digest")), str(body.get("evidence")))
        wanted = {question(decision, *about): APPROVE}
        if decision == "reject":
            wanted[question("approve", *about)] = REJECT
        try:
            return answers.answered(self._ask, task, wanted, dags=(CONTROL_DAG, f"{model}.release"))
        except Refusal as refusal:
            return refusal

    def _person(
        self, change: Change, answered: str | None, known: Mapping[str, str], approvers: list[Any], decision: str
    ) -> _Person:
        if answered is None:
            held = permission.need(change.actor, "approve", f"{decision} a version", approvers)
            return _Person(change.actor.name, held, "credential")
        name = known.get(answered, answered)
        held_there = people.held_by(name)
        if name == identity.SERVICE_USER or held_there is None or not matrix.may(held_there, "approve", approvers):
            raise Refusal(
                "WT_ROLE",
                f"{answered} answered in Airflow; as {name!r} in the registry that person may not {decision}",
                hint=f"it takes the role {' or '.join(approvers)}; the house's policy maps names (people)",
            )
        return _Person(name, held_there, "airflow")


def _key(given: Any, task: Any, answered: answers.Answer | None) -> str:
    if isinstance(task, Mapping) and answered is not None:
        # One answer is one approval: withdrawn, it does not come back by being told again.
        parts = [str(task.get(name)) for name in ("dag_id", "dag_run_id", "task_id", "map_index")]
        return "airflow:" + canonical.digest([*parts, answered.at])
    return f"key:{given or uuid.uuid4().hex}"[:200]


def _plain(row: Any) -> dict[str, Any]:
    return {**row._mapping, "version": str(row.version)}
