"""A search's tree as SQL over our tables and MLflow's, values only as bound parameters.

Names, tags, aliases, metrics and owners become ``(model, version) IN (SELECT ...)``: a semi-join that begins at the
index of what was asked for, wherever that is.
"""

from __future__ import annotations

import operator as operators
from collections.abc import Callable, Mapping
from typing import Any

from mlflow.store.model_registry.dbmodels.models import (
    SqlModelVersion,
    SqlModelVersionTag,
    SqlRegisteredModel,
    SqlRegisteredModelAlias,
    SqlRegisteredModelTag,
)
from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlParam
from mlflow.utils.workspace_utils import DEFAULT_WORKSPACE_NAME
from sqlalchemy import (
    JSON,
    ColumnElement,
    Select,
    and_,
    cast,
    false,
    func,
    literal,
    literal_column,
    not_,
    or_,
    select,
    tuple_,
    union_all,
)

from windtunnel_mlflow import tables
from windtunnel_mlflow.finding.grammar import Both, Compare, Either, Node, Not, Order

V = tables.versions
M: Any = SqlModelVersion
_D, _CN, _CO = tables.verdicts, tables.cards_now, tables.comments
_HERE = DEFAULT_WORKSPACE_NAME

Condition = ColumnElement[bool]
_SIZES: Mapping[str, Callable[[Any, Any], Any]] = {
    "=": operators.eq,
    "<": operators.lt,
    "<=": operators.le,
    ">": operators.gt,
    ">=": operators.ge,
}


def condition(node: Node, dialect: str) -> Condition:
    """The tree as a condition on ``V`` joined with ``M``.

    Args:
        dialect: ``sqlite`` or ``postgresql``.
    """
    if isinstance(node, Both):
        return and_(*(condition(part, dialect) for part in node.parts))
    if isinstance(node, Either):
        return or_(*(condition(part, dialect) for part in node.parts))
    if isinstance(node, Not):
        # What is unknown is not so: without this, NULL would be neither in a search nor in its opposite.
        return not_(func.coalesce(condition(node.part, dialect), false()))
    return _compare(node, dialect)


def found(node: Node | None, order: Order, after: tuple[Any, ...] | None, dialect: str) -> Select[Any]:
    """The versions that a tree means, in order, those after a place.

    Args:
        after: what the last one that was read is ordered by: (value, model, version), or (model, version) by name.
    """
    query = select(V.c.model, V.c.version).join(
        M, and_(M.workspace == _HERE, M.name == V.c.model, M.version == V.c.version)
    )
    columns: list[Any] = [V.c.model, V.c.version]
    if order.field == "created":
        columns.insert(0, V.c.created_at)
    elif order.field == "metric":
        last: Any = SqlLatestMetric
        query = query.join(last, and_(last.run_uuid == V.c.run_id, last.key == order.key, last.is_nan.is_(False)))
        columns.insert(0, last.value)
    query = query.add_columns(columns[0].label("place")).where(V.c.deleted_at.is_(None))
    if node is not None:
        query = query.where(condition(node, dialect))
    if after is not None:
        here, there = tuple_(*columns), tuple_(*(literal(value) for value in after))
        query = query.where(here < there if order.descending else here > there)
    return query.order_by(*(column.desc() if order.descending else column.asc() for column in columns))


def _compare(node: Compare, dialect: str) -> Condition:
    name, value = node.field, node.value
    if name in _PLAIN:
        return _words(_PLAIN[name], node, dialect)
    if name == "version":
        return _sized(V.c.version, node)
    if name == "created":
        return _sized(V.c.created_at, node)
    if name == "text":
        return _anywhere(str(value))
    if name == "evidence":
        return _words(_outcome(str(node.key), dialect), node, dialect)
    of: Callable[[Compare, str], Any] = _OF[name]
    if name in ("metric", "param"):
        return V.c.run_id.in_(of(node, dialect))
    return tuple_(V.c.model, V.c.version).in_(of(node, dialect))


_PLAIN: Mapping[str, Any] = {
    "name": V.c.model,
    "semver": V.c.semver,
    "stage": M.current_stage,
    "state": V.c.state,
    "status": V.c.status,
    "author": V.c.actor,
}


def _sized(column: Any, node: Compare) -> Condition:
    made: Condition = _SIZES[node.operator](column, node.value)
    return made


def _words(column: Any, node: Compare, dialect: str) -> Condition:
    made: Condition
    if node.operator == "in":
        made = column.in_(list(node.value))  # type: ignore[arg-type]
    elif node.operator == "~":
        made = _contains(column, str(node.value))
    elif node.operator == "like":
        made = _like(column, str(node.value), dialect)
    else:
        made = column == node.value
    return made


def _contains(column: Any, text: str) -> Condition:
    made: Condition = func.lower(column).contains(text.lower(), autoescape=True)
    return made


def _like(column: Any, pattern: str, dialect: str) -> Condition:
    """``%`` and ``_`` as in SQL, a backslash before one that stands for itself; capital letters differ."""
    # SQLite's own LIKE takes capital letters for small ones.
    sqlite = dialect == "sqlite"
    made: Condition = column.op("GLOB")(glob(pattern)) if sqlite else column.like(_escapes(pattern), escape="\\")
    return made


def _escapes(pattern: str) -> str:
    """A backslash that escapes nothing stands for itself; PostgreSQL refuses one at the end."""
    return "".join(f"\\{char}" if literal_ and char in "%_\\" else char for char, literal_ in _pieces(pattern))


def glob(pattern: str) -> str:
    """A pattern of LIKE as one of SQLite's GLOB, which knows capital letters."""
    meaning = {"%": "*", "_": "?"}
    return "".join(
        (f"[{char}]" if char in "*?[" else char) if literal_ else meaning[char] for char, literal_ in _pieces(pattern)
    )


def _pieces(pattern: str) -> list[tuple[str, bool]]:
    """Characters of a pattern, each with whether it stands for itself."""
    found, at = [], 0
    while at < len(pattern):
        char = pattern[at]
        if char == "\\" and at + 1 < len(pattern) and pattern[at + 1] in "%_\\":
            at += 1
            found.append((pattern[at], True))
        else:
            found.append((char, char not in "%_"))
        at += 1
    return found


def _start(column: Any) -> Any:
    """As the indexes of migration 0009 have it: a parameter in place of the numbers would not meet them."""
    return func.substr(column, literal_column("1"), literal_column("100"))


def _tagged(node: Compare, dialect: str) -> Any:
    """Versions with the tag, and those of models with it."""
    of_version: Any = SqlModelVersionTag
    of_model: Any = SqlRegisteredModelTag

    def fits(tag: Any) -> list[Condition]:
        made = [tag.workspace == _HERE, tag.key == node.key, _words(tag.value, node, dialect)]
        if node.operator in ("=", "in"):
            wanted = [node.value] if node.operator == "=" else list(node.value)  # type: ignore[arg-type]
            made.append(_start(tag.value).in_([str(one)[:100] for one in wanted]))
        return made

    return union_all(
        select(of_version.name, of_version.version).where(*fits(of_version)),
        select(V.c.model, V.c.version).join(of_model, of_model.name == V.c.model).where(*fits(of_model)),
    )


def _aliased(node: Compare, dialect: str) -> Any:
    alias: Any = SqlRegisteredModelAlias
    return select(alias.name, alias.version).where(alias.workspace == _HERE, _words(alias.alias, node, dialect))


def _card(node: Compare, dialect: str) -> Any:
    """By the card in force: the version's own where it has one, else the model's."""
    column, own = _CN.c[node.field], _CN.alias("own")
    without = ~select(own.c.model).where(own.c.model == V.c.model, own.c.version == V.c.version).exists()
    return union_all(
        select(_CN.c.model, _CN.c.version).where(_CN.c.version > 0, _words(column, node, dialect)),
        select(V.c.model, V.c.version)
        .join(_CN, and_(_CN.c.model == V.c.model, _CN.c.version == 0))
        .where(_words(column, node, dialect), without),
    )


def _measured(node: Compare, dialect: str) -> Any:
    last: Any = SqlLatestMetric
    return select(last.run_uuid).where(last.key == node.key, last.is_nan.is_(False), _sized(last.value, node))


def _given(node: Compare, dialect: str) -> Any:
    param: Any = SqlParam
    return select(param.run_uuid).where(param.key == node.key, _words(param.value, node, dialect))


_OF: Mapping[str, Callable[[Compare, str], Any]] = {
    "tag": _tagged,
    "alias": _aliased,
    "owner": _card,
    "risk": _card,
    "metric": _measured,
    "param": _given,
}


def _outcome(kind: str, dialect: str) -> Any:
    """Of the newest verdict that counts, as policy reads it; NONE where there is none."""
    data: Any = func.json_extract(V.c.recipe, "$.data")
    if dialect != "sqlite":
        data = func.json_extract_path_text(cast(V.c.recipe, JSON), "data")
    subjects = [V.c.digest, data] if kind == "data-check" else [V.c.digest]
    newest = (
        select(_D.c.outcome)
        .where(_D.c.model == V.c.model, _D.c.kind == kind, _D.c.claimed.is_(False), _D.c.subject.in_(subjects))
        .order_by(_D.c.seq.desc())
        .limit(1)
        .correlate(V)
        .scalar_subquery()
    )
    return func.coalesce(newest, "NONE")


def _anywhere(text: str) -> Condition:
    """In the name, the descriptions, the card and the comments."""
    model: Any = SqlRegisteredModel
    return or_(
        _contains(V.c.model, text),
        _contains(func.coalesce(M.description, ""), text),
        V.c.model.in_(select(model.name).where(model.workspace == _HERE, _contains(model.description, text))),
        V.c.model.in_(select(_CN.c.model).where(_CN.c.version == 0, _contains(_CN.c.words, text))),
        tuple_(V.c.model, V.c.version).in_(select(_CN.c.model, _CN.c.version).where(_contains(_CN.c.words, text))),
        tuple_(V.c.model, V.c.version).in_(select(_CO.c.model, _CO.c.version).where(_contains(_CO.c.text, text))),
    )
