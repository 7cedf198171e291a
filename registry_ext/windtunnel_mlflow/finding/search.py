"""Versions found, a page at a time, only those that MLflow lets the user read (REG-15)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any, NoReturn

from mlflow.store.model_registry.dbmodels.models import SqlModelVersion, SqlRegisteredModelAlias
from mlflow.store.tracking.dbmodels.models import SqlLatestMetric
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME
from sqlalchemy import and_, select, tuple_
from sqlalchemy.orm import Session

from windtunnel import canonical
from windtunnel_mlflow import tables
from windtunnel_mlflow.finding import query as sql
from windtunnel_mlflow.finding.grammar import Order, QueryError, metrics_of, parse, parse_order
from windtunnel_mlflow.refusal import Refusal
from windtunnel_mlflow.store import GovernedStore

MOST = 1000
_V, _N = tables.versions, tables.cards_now
Place = tuple[Any, ...]


class Search:
    """The operation behind ``/search``."""

    def __init__(self, store: GovernedStore) -> None:
        self.store = store

    def page(
        self, text: str, order_text: str, limit: int, cursor: str | None, readable: Callable[[str], bool]
    ) -> dict[str, Any]:
        """One page.

        Args:
            text: the query; an empty one finds everything.
            order_text: what comes first.
            limit: versions of a page.
            cursor: of the page before.
            readable: whether the user may read a model.

        Returns:
            ``{"versions": [...], "cursor"}``; the cursor is None on the last page. It names a place in the order, so a
            version that is registered meanwhile moves nothing.

        Raises:
            Refusal: WT_QUERY; the query, the order or the cursor is not understood.
        """
        try:
            node = parse(text)
        except QueryError as error:
            _refuse(text, error)
        try:
            order = parse_order(order_text)
        except QueryError as error:
            _refuse(order_text, error)
        name = canonical.digest({"query": text.strip(), "order": [order.field, order.key, order.descending]})[-16:]
        after = None if not cursor else _opened(cursor, name, order)
        limit = max(1, min(MOST, limit))
        dialect = self.store.engine.dialect.name
        rows: list[Any] = []
        with self.store.reading() as session:
            # One more than the page: is there another? Unreadable ones leave no trace, not in the cursor either.
            while len(rows) <= limit:
                size = min(MOST, 2 * (limit + 1))
                read = session.execute(sql.found(node, order, after, dialect).limit(size)).all()
                rows += [row for row in read if readable(row.model)]
                if len(read) < size:
                    break
                after = _place(read[-1], order)
            more, rows = len(rows) > limit, rows[:limit]
            wanted = metrics_of(node) | ({order.key} if order.key else set())
            versions = _shown(session, [(row.model, row.version) for row in rows], wanted)
        return {"versions": versions, "cursor": _closed(_place(rows[-1], order), name) if more else None}


def _place(row: Any, order: Order) -> Place:
    place: Place = (row.model, int(row.version))
    return place if order.field == "name" else (float(row.place), *place)


def _closed(place: Place, name: str) -> str:
    plain = json.dumps([name, *place], separators=(",", ":"))
    return base64.urlsafe_b64encode(plain.encode()).decode().rstrip("=")


def _opened(cursor: str, name: str, order: Order) -> Place:
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        found = json.loads(raw)
        of, *place = found
        kinds: tuple[Any, ...] = (str, int) if order.field == "name" else ((int, float), str, int)
        known = of == name and len(place) == len(kinds) and all(map(isinstance, place, kinds))
        if not known or any(isinstance(one, bool) for one in place) or not 0 <= place[-1] < 2**31:
            raise ValueError
    except (ValueError, TypeError, RecursionError):
        raise Refusal(
            "WT_QUERY",
            "this cursor is not of a page of this search",
            hint="ask with the same query and order as before, or without a cursor for the first page",
            status=400,
        ) from None
    return tuple(place)


def _refuse(text: str, error: QueryError) -> NoReturn:
    begin = max(0, error.at - 30)
    shown = text[begin : error.at + 30].replace("\n", " ")
    raise Refusal(
        "WT_QUERY",
        f"the query is not understood at character {error.at + 1}: {error.message}",
        hint=f"at the mark: {shown[: error.at - begin]}>>>{shown[error.at - begin :]}<<<  (docs/reference/search.md)",
        status=400,
    ) from error


def _shown(session: Session, pairs: list[tuple[str, int]], metrics: set[str]) -> list[dict[str, Any]]:
    """What a search says of each version; one question of each kind for the whole page."""
    if not pairs:
        return []
    mlflow: Any = SqlModelVersion
    here = tuple_(_V.c.model, _V.c.version)
    columns = [_V.c[name] for name in ("model", "version", "semver", "status", "state", "digest", "run_id", "actor")]
    rows = session.execute(
        select(*columns, _V.c.created_at, mlflow.current_stage.label("stage"))
        .join(
            mlflow,
            and_(
                mlflow.workspace == DEFAULT_WORKSPACE_NAME,
                mlflow.name == _V.c.model,
                mlflow.version == _V.c.version,
            ),
        )
        .where(here.in_(pairs))
    )
    known = {(row.model, row.version): dict(row._mapping) for row in rows}
    models = sorted({model for model, _ in pairs})
    cards = {
        (row.model, row.version): {"owner": row.owner, "risk": row.risk}
        for row in session.execute(
            select(_N.c.model, _N.c.version, _N.c.owner, _N.c.risk).where(_N.c.model.in_(models))
        )
    }
    alias: Any = SqlRegisteredModelAlias
    aliases: dict[tuple[str, int], list[str]] = {}
    for row in session.execute(
        select(alias.name, alias.version, alias.alias).where(
            alias.workspace == DEFAULT_WORKSPACE_NAME, alias.name.in_(models)
        )
    ):
        aliases.setdefault((row.name, row.version), []).append(row.alias)
    measured = _metrics(session, [row["run_id"] for row in known.values() if row["run_id"]], metrics)
    return [
        {
            **known[pair],
            "version": str(pair[1]),
            **cards.get(pair, cards.get((pair[0], 0), {"owner": None, "risk": None})),
            "aliases": sorted(aliases.get(pair, ())),
            "metrics": measured.get(known[pair]["run_id"], {}),
        }
        for pair in pairs
        if pair in known  # deleted between two questions
    ]


def _metrics(session: Session, runs: list[str], names: set[str]) -> dict[str, dict[str, float]]:
    if not names or not runs:
        return {}
    last: Any = SqlLatestMetric
    found: dict[str, dict[str, float]] = {}
    for row in session.execute(
        select(last.run_uuid, last.key, last.value).where(
            last.key.in_(names), last.run_uuid.in_(runs), last.is_nan.is_(False)
        )
    ):
        found.setdefault(row.run_uuid, {})[row.key] = row.value
    return found
