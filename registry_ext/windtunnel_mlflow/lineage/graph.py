"""The edges of lineage, read from the tables they are in, as they were known at a time.

A level of the walk is a handful of queries, whatever it holds; each goes through an index.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from windtunnel.evidence import Kind
from windtunnel_mlflow import tables
from windtunnel_mlflow.lineage import origins
from windtunnel_mlflow.lineage.walk import Direction, Edge, Node
from windtunnel_mlflow.releases import candidates

VERSION = origins.VERSION
EVIDENCE, APPROVAL, ROLLOUT, CHAMPION = "evidence", "approval", "rollout", "champion"
#: Verdicts shown of a version and kind, the newest: a watched champion gets one every hour.
EVIDENCE_SHOWN = 10

_V, _O, _D, _A, _R, _C = (
    tables.versions, tables.origins, tables.verdicts, tables.approvals, tables.rollouts, tables.champions,
)  # fmt: skip
_MANY = 400
Key = tuple[str, int]


def version_node(model: str, number: int) -> Node:
    return Node(VERSION, f"{model}/{number}")


def version_key(node: Node) -> Key:
    model, _, number = node.key.rpartition("/")
    return model, int(number)


class Graph:
    """Lineage in a database.

    Args:
        as_of: seconds since the epoch; what the registry came to know later is left out. None: all.
        most: rows of one kind that a level may take.
    """

    def __init__(self, session: Session, as_of: float | None = None, most: int = 10_000) -> None:
        self.session, self.as_of, self.most = session, as_of, most
        self.told: dict[Node, dict[str, Any]] = {}
        self._versions: dict[Key, Any] = {}
        #: Somewhere more was there than a level may take.
        self.cut = False

    def neighbours(self, nodes: Sequence[Node], direction: Direction) -> list[Edge]:
        """All edges from these nodes in one direction, versions first; nothing came of evidence and approvals."""
        keys = [version_key(node) for node in nodes if node.kind == VERSION]
        self.load(keys)
        keys = [key for key in keys if key in self._versions]
        if direction == "backward":
            return [*self._parents(keys), *self._origins(keys)]
        things = [node for node in nodes if node.kind in origins.KINDS and node.kind != VERSION]
        return [
            *self._made_of(things),
            *self._children(keys),
            *self._terms(keys),
            *self._rollouts(keys),
            *self._approvals(keys),
            *self._evidence(keys),
        ]

    def load(self, keys: Iterable[Key]) -> None:
        """Read these versions, if they were known then."""
        wanted = [key for key in dict.fromkeys(keys) if key not in self._versions]
        columns = (
            _V.c.model, _V.c.version, _V.c.semver, _V.c.state, _V.c.status, _V.c.digest, _V.c.parent, _V.c.actor,
            _V.c.cause, _V.c.created_at, _V.c.sealed_at, _V.c.deleted_at, _V.c.recipe,
        )  # fmt: skip
        for row in self._rows(select(*columns), (_V.c.model, _V.c.version), wanted, _V.c.created_at):
            self._versions[(row.model, row.version)] = row
            self.told[version_node(row.model, row.version)] = self._version(row)

    def knows(self, model: str, number: int) -> bool:
        """Whether the version was registered then."""
        self.load([(model, number)])
        return (model, number) in self._versions

    def _version(self, row: Any) -> dict[str, Any]:
        deleted, sealed = self._by_then(row.deleted_at), self._by_then(row.sealed_at)
        return {
            "label": f"{row.model} {row.version} ({row.semver})",
            "at": row.created_at,
            "model": row.model,
            "version": str(row.version),
            "semver": row.semver,
            "digest": row.digest if sealed else None,
            # A state has no history of its own: of a time that is past, the terms and rollouts tell.
            "state": ("deleted" if deleted else row.state) if self.as_of is None else ("deleted" if deleted else None),
            "actor": row.actor,
            "cause": row.cause,
        }

    # -- backward

    def _parents(self, keys: Sequence[Key]) -> Iterator[Edge]:
        parents = {key: (key[0], int(self._versions[key].parent)) for key in keys if self._versions[key].parent}
        self.load(parents.values())
        for key, parent in parents.items():
            if parent in self._versions:
                yield Edge(version_node(*parent), version_node(*key), "parent")

    def _origins(self, keys: Sequence[Key]) -> Iterator[Edge]:
        rows = self._rows(select(_O), (_O.c.model, _O.c.version), keys, _O.c.at)
        copied = [_copied(row.value) for row in rows if row.kind == VERSION]
        self.load(key for key in copied if key is not None)
        for row in rows:
            node = Node(row.kind, row.value)
            if row.kind == VERSION:
                if _copied(row.value) not in self._versions:
                    continue
            else:
                self.told.setdefault(node, _thing(row))
            yield Edge(node, version_node(row.model, row.version), "copy" if row.kind == VERSION else row.kind)

    # -- forward

    def _made_of(self, things: Sequence[Node]) -> Iterator[Edge]:
        rows = self._rows(select(_O), (_O.c.kind, _O.c.value), things, _O.c.at)
        self.load((row.model, row.version) for row in rows)
        for row in rows:
            if (row.model, row.version) in self._versions:
                node = Node(row.kind, row.value)
                self.told.setdefault(node, _thing(row))
                yield Edge(node, version_node(row.model, row.version), row.kind)

    def _children(self, keys: Sequence[Key]) -> Iterator[Edge]:
        children = self._rows(
            select(_V.c.model, _V.c.version, _V.c.parent), (_V.c.model, _V.c.parent), keys, _V.c.created_at
        )
        copies = self._rows(
            select(_O), (_O.c.kind, _O.c.value), [(VERSION, f"{model}/{number}") for model, number in keys], _O.c.at
        )
        self.load((row.model, row.version) for row in [*children, *copies])
        for row in children:
            if (row.model, row.version) in self._versions:
                yield Edge(version_node(row.model, row.parent), version_node(row.model, row.version), "parent")
        for row in copies:
            if (row.model, row.version) in self._versions:
                yield Edge(Node(VERSION, row.value), version_node(row.model, row.version), "copy")

    def _terms(self, keys: Sequence[Key]) -> Iterator[Edge]:
        for row in self._rows(select(_C), (_C.c.model, _C.c.version), keys, _C.c.since):
            until = row.until if self._by_then(row.until) else None
            node = Node(CHAMPION, str(row.id))
            self.told[node] = {
                "label": "now" if until is None else "formerly",
                "at": row.since, "until": until, "actor": row.actor, "reason": row.reason, "policy": row.policy,
                "model": row.model, "version": str(row.version),
            }  # fmt: skip
            yield Edge(version_node(row.model, row.version), node, CHAMPION)

    def _rollouts(self, keys: Sequence[Key]) -> Iterator[Edge]:
        own = self._rows(select(_R), (_R.c.model, _R.c.version), keys, _R.c.opened_at)
        # The further candidates of a release are in its plan, which no index sees.
        models = dict.fromkeys(model for model, _ in keys)
        several = select(_R).where(_R.c.model.in_(list(models)), _R.c.plan.contains('"beside"')) if models else None
        shared = [] if several is None else self._known(several, _R.c.opened_at)
        wanted = set(keys)
        for row in {row.id: row for row in [*own, *shared]}.values():
            for number in candidates.named({"version": row.version, "plan": json.loads(row.plan)}):
                if (row.model, int(number)) not in wanted:
                    continue
                ended = self._by_then(row.ended_at)
                node = Node(ROLLOUT, row.id)
                self.told[node] = {
                    "label": f"release: {row.state if ended or self.as_of is None else 'running'}",
                    "at": row.opened_at, "until": row.ended_at if ended else None, "holder": row.holder,
                    "champion": None if row.champion is None else str(row.champion),
                    "reason": row.reason if ended or self.as_of is None else None,
                    "model": row.model, "version": str(row.version),
                }  # fmt: skip
                yield Edge(version_node(row.model, int(number)), node, ROLLOUT)

    def _approvals(self, keys: Sequence[Key]) -> Iterator[Edge]:
        for row in self._rows(select(_A), (_A.c.model, _A.c.version), keys, _A.c.at):
            gone = self._by_then(row.withdrawn_at)
            node = Node(APPROVAL, str(row.seq))
            self.told[node] = {
                "label": f"{row.decision} by {row.by}{' (withdrawn)' if gone else ''}",
                "at": row.at, "until": row.withdrawn_at if gone else None, "to": row.target, "reason": row.reason,
                "digest": row.digest, "evidence": row.evidence, "model": row.model, "version": str(row.version),
            }  # fmt: skip
            yield Edge(version_node(row.model, row.version), node, APPROVAL)

    def _evidence(self, keys: Sequence[Key]) -> Iterator[Edge]:
        about: dict[str, dict[tuple[str, str], list[Key]]] = {}
        for key in keys:
            row = self._versions[key]
            data = json.loads(row.recipe).get("data")
            for kind in map(str, Kind):
                for subject in (row.digest, data if kind == Kind.DATA_CHECK else None):
                    if isinstance(subject, str):
                        about.setdefault(row.model, {}).setdefault((kind, subject), []).append(key)
        place = func.row_number().over(partition_by=(_D.c.kind, _D.c.subject), order_by=_D.c.seq.desc())
        for model, wanted in about.items():
            numbered = (
                select(_D, place.label("place"))
                .where(
                    _D.c.model == model,
                    _D.c.kind.in_(list(map(str, Kind))),
                    _D.c.subject.in_({subject for _, subject in wanted}),
                    _D.c.claimed.is_(False),
                )
                .where(*(() if self.as_of is None else (_D.c.created_at <= self.as_of,)))
                .subquery()
            )
            query = select(numbered).where(numbered.c.place <= EVIDENCE_SHOWN).order_by(numbered.c.seq)
            for row in self.session.execute(query.limit(self.most)):
                if (row.kind, row.subject) not in wanted:
                    continue
                node = Node(EVIDENCE, str(row.seq))
                body = json.loads(row.body)
                self.told[node] = {
                    "label": f"{row.kind}: {row.outcome}", "at": row.created_at, "reason": body.get("reason"),
                    "verdict": row.kind, "outcome": row.outcome, "window": body.get("window"), "id": row.id,
                    "actor": row.actor, "model": row.model,
                }  # fmt: skip
                for key in wanted[(row.kind, row.subject)]:
                    yield Edge(version_node(*key), node, EVIDENCE)

    # -- reading

    def _by_then(self, at: float | None) -> bool:
        return at is not None and (self.as_of is None or at <= self.as_of)

    def _rows(
        self, query: Select[Any], columns: tuple[Any, Any], keys: Iterable[tuple[Any, Any]], known: Any
    ) -> list[Any]:
        """Rows whose two ``columns`` are one of ``keys`` and that were known then.

        One query for each first half: of a list of pairs SQLite takes an index for the first half alone.
        """
        groups: dict[Any, list[Any]] = {}
        for first, second in keys:
            groups.setdefault(first, []).append(second)
        return [
            row
            for first, seconds in groups.items()
            for start in range(0, len(seconds), _MANY)
            for row in self._known(
                query.where(columns[0] == first, columns[1].in_(seconds[start : start + _MANY])), known
            )
        ]

    def _known(self, query: Select[Any], known: Any) -> Sequence[Any]:
        if self.as_of is not None:
            query = query.where(known <= self.as_of)
        rows = self.session.execute(query.order_by(known).limit(self.most)).all()
        self.cut = self.cut or len(rows) == self.most
        return rows


def _thing(row: Any) -> dict[str, Any]:
    return {"label": row.value, "at": row.at, "name": row.name or None, "said": row.said}


def _copied(value: str) -> Key | None:
    model, _, number = value.rpartition("/")
    return (model, int(number)) if model and number.isdecimal() else None
