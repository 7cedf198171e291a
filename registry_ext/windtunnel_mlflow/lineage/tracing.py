"""The operations on lineage: back, forward, whom a data set has touched, and all of it as of a time."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, cast

from sqlalchemy import ColumnElement, String, and_, func, literal, or_, select
from sqlalchemy import cast as cast_to
from sqlalchemy.orm import Session

from windtunnel_mlflow import tables
from windtunnel_mlflow.lineage import origins
from windtunnel_mlflow.lineage.graph import Graph, version_node
from windtunnel_mlflow.lineage.walk import Direction, Edge, Node, Walk, walk
from windtunnel_mlflow.part import Part, not_found
from windtunnel_mlflow.refusal import Refusal

#: Steps and nodes of one answer at most.
DEEPEST, MOST = 100, 10_000
_SEMVER = re.compile(r"[0-9]+\.[0-9]+\.[0-9]+\S*")
_V, _O, _C = tables.versions, tables.origins, tables.champions


class Tracing(Part):
    """Lineage of versions."""

    def lineage(
        self,
        model: str,
        which: str,
        *,
        direction: str = "both",
        depth: int = 3,
        as_of: float | None = None,
        limit: int = 500,
    ) -> dict[str, Any]:
        """What a version was made of (backward), and what came of it (forward).

        Args:
            which: MLflow's number, the semantic version, ``champion`` or ``latest``.
            direction: ``backward``, ``forward`` or ``both``.
            depth: steps at most.
            as_of: seconds since the epoch: as it was known then.
            limit: nodes at most in each direction; ``cut`` says that there are more.

        Raises:
            Refusal: WT_REQUEST.
            MlflowException: 404; there is no such version, or was none then.
        """
        if direction not in ("backward", "forward", "both"):
            raise Refusal("WT_REQUEST", f"direction is {direction!r}; expected backward, forward or both", status=400)
        _bounds(depth, limit)
        ways = ("backward", "forward") if direction == "both" else (direction,)
        with self.store.reading() as session:
            number = _resolve(session, model, which, as_of)
            graph = Graph(session, as_of, limit + 1)
            if not graph.knows(model, number):
                raise not_found(f"model {model!r} had no version {number} then")
            start = version_node(model, number)
            walks = {
                cast("Direction", way): walk(
                    [start],
                    lambda nodes, way=way: graph.neighbours(nodes, way),  # type: ignore[misc]
                    cast("Direction", way),
                    depth,
                    limit,
                )
                for way in ways
            }
            return {
                "root": start.id,
                "model": model,
                "version": str(number),
                "direction": direction,
                "depth": depth,
                "as_of": as_of,
                **_plain(graph, walks),
            }

    def impact(self, of: str, *, as_of: float | None = None, limit: int = 100) -> dict[str, Any]:
        """Versions that were made of a data set, and copies of those; which of them are champions, and ever were.

        Args:
            of: a digest of data (``sha256:`` may be left out), or the name or address of its source.
            limit: versions at most, the newest; ``total`` counts all. Champions are all there.
        """
        _bounds(1, limit)
        exact = [of, f"sha256:{of}"] if re.fullmatch("[0-9a-f]{64}", of) else [of]
        named = _O.c.kind.in_((origins.DATA, origins.SOURCE)) & _O.c.value.in_(exact)
        with self.store.reading() as session:
            matched = [
                {"kind": row.kind, "value": row.value}
                for row in session.execute(select(_O.c.kind, _O.c.value).where(named).distinct())
            ]
            then = (lambda column: column <= as_of) if as_of is not None else (lambda column: literal(True))
            used = select(_O.c.model, _O.c.version).where(named, then(_O.c.at)).cte("used", recursive=True)
            copies = select(_O.c.model, _O.c.version).join(
                used,
                and_(
                    _O.c.kind == origins.VERSION,
                    _O.c.value == used.c.model.concat("/").concat(cast_to(used.c.version, String(16))),
                    then(_O.c.at),
                ),
            )
            used = used.union(copies)
            here = and_(_V.c.model == used.c.model, _V.c.version == used.c.version)
            query = select(_V).join(used, here).where(then(_V.c.created_at))
            total = session.execute(select(func.count()).select_from(query.subquery())).scalar()
            rows = session.execute(query.order_by(_V.c.created_at.desc(), _V.c.model, _V.c.version).limit(limit)).all()
            terms = session.execute(
                select(_C, _V.c.semver)
                .join(used, and_(_C.c.model == used.c.model, _C.c.version == used.c.version))
                .join(_V, and_(_C.c.model == _V.c.model, _C.c.version == _V.c.version))
                .where(then(_C.c.since))
                .order_by(_C.c.since, _C.c.id)
            ).all()
        champions = [
            {
                "model": row.model, "version": str(row.version), "semver": row.semver, "since": row.since,
                "until": row.until if row.until is not None and (as_of is None or row.until <= as_of) else None,
            }
            for row in terms
        ]  # fmt: skip
        return {
            "of": of,
            "as_of": as_of,
            "matched": matched,
            "total": total,
            "versions": [
                {
                    "model": row.model, "version": str(row.version), "semver": row.semver, "digest": row.digest,
                    "created_at": row.created_at, "deleted": row.deleted_at is not None,
                    "state": row.state if as_of is None else None,
                }
                for row in rows
            ],
            "champions": champions,
            "champions_now": [one for one in champions if one["until"] is None],
        }  # fmt: skip


def _bounds(depth: int, limit: int) -> None:
    if not 1 <= depth <= DEEPEST:
        raise Refusal("WT_REQUEST", f"depth is {depth}; expected 1 to {DEEPEST}", status=400)
    if not 1 <= limit <= MOST:
        raise Refusal("WT_REQUEST", f"limit is {limit}; expected 1 to {MOST}", status=400)


#: What the column of versions holds; no version is as high.
_HIGHEST = 2**31 - 1


def _resolve(session: Session, model: str, which: str, as_of: float | None) -> int:
    """The number of a version by any of its names; deleted versions have them still."""
    rows = select(_V.c.version).where(_V.c.model == model)
    if which.isdecimal():
        query = rows.where(_V.c.version == min(int(which), _HIGHEST))
    elif _SEMVER.fullmatch(which):
        query = rows.where(_V.c.semver == which)
    elif which == "champion":
        query = select(_C.c.version).where(_C.c.model == model)
        until: ColumnElement[bool] = _C.c.until.is_(None)
        if as_of is not None:
            query = query.where(_C.c.since <= as_of)
            until = or_(until, _C.c.until > as_of)
        query = query.where(until).order_by(_C.c.id.desc())
    elif which == "latest":
        query = rows.order_by(_V.c.version.desc())
        if as_of is not None:
            query = query.where(_V.c.created_at <= as_of)
    else:
        raise Refusal(
            "WT_REQUEST",
            f"{which!r} names no version",
            hint="expected a number, a semantic version, champion or latest",
            status=400,
        )
    found = session.execute(query.limit(1)).scalar()
    if found is None:
        raise not_found(f"model {model!r} has no version {which}")
    return int(found)


def _plain(graph: Graph, walks: dict[Direction, Walk]) -> dict[str, Any]:
    """Nodes and edges as JSON; ``depth`` is negative for what lies before, positive for what came after."""
    depths: dict[Node, int] = {}
    edges: dict[Edge, None] = {}
    for way, found in walks.items():
        sign = -1 if way == "backward" else 1
        for node, steps in found.depths.items():
            depths.setdefault(node, sign * steps)
        edges |= dict.fromkeys(found.edges)
    return {
        "nodes": [
            {"id": node.id, "kind": node.kind, "depth": steps, **_split(graph.told.get(node, {}), node)}
            for node, steps in depths.items()
        ],
        "edges": [{"from": e.upstream.id, "to": e.downstream.id, "relation": e.relation} for e in edges],
        "cut": graph.cut or any(found.cut for found in walks.values()),
    }


def _split(told: dict[str, Any], node: Node) -> dict[str, Any]:
    """The fields every node has, and the rest below ``detail``."""
    own = ("label", "at")
    rest: Iterable[tuple[str, Any]] = ((key, value) for key, value in told.items() if key not in own)
    return {
        "label": told.get("label", node.key),
        "at": told.get("at"),
        "detail": {key: value for key, value in rest if value is not None},
    }
