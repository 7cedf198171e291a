"""The language of searching: what is understood, what is refused and where, and that values stay values
(DEMAND REG-15)."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.store.db.base_sql_model import Base
from sqlalchemy import Engine, create_engine, event, insert, inspect
from sqlalchemy.pool import StaticPool

from windtunnel_mlflow import tables
from windtunnel_mlflow.finding import query
from windtunnel_mlflow.finding.grammar import (
    FIELDS,
    Both,
    Compare,
    Either,
    Not,
    Order,
    QueryError,
    metrics_of,
    parse,
    parse_order,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", None),
        ("metric.rmse < 1.2", Compare("metric", "rmse", "<", 1.2)),
        ("metric.`val loss` >= -1e-3", Compare("metric", "val loss", ">=", -0.001)),
        ("metric.val/loss>1", Compare("metric", "val/loss", ">", 1.0)),
        ("tag.team = 'it''s'", Compare("tag", "team", "=", "it's")),
        ('tag.team = "a"', Compare("tag", "team", "=", "a")),
        ("stage = 'production'", Compare("stage", None, "=", "Production")),
        ("stage = 'Development'", Compare("stage", None, "=", "None")),
        ("name LIKE 'sea-%'", Compare("name", None, "like", "sea-%")),
        ("state in ('candidate', 'champion')", Compare("state", None, "in", ("candidate", "champion"))),
        ("owner != 'a'", Not(Compare("owner", None, "=", "a"))),
        ("evidence.data-check = 'pass'", Compare("evidence", "data-check", "=", "PASS")),
        ("created >= '2026-01-31'", Compare("created", None, ">=", 1769817600.0)),
        ("created < '2026-01-31T01:00+01:00'", Compare("created", None, "<", 1769817600.0)),
        (
            "version > 1 and version < 3 or not text ~ 'x'",
            Either(
                (
                    Both((Compare("version", None, ">", 1.0), Compare("version", None, "<", 3.0))),
                    Not(Compare("text", None, "~", "x")),
                )
            ),
        ),
        (
            "version = 1 and (alias = 'a' or alias = 'b')",
            Both(
                (
                    Compare("version", None, "=", 1.0),
                    Either((Compare("alias", None, "=", "a"), Compare("alias", None, "=", "b"))),
                )
            ),
        ),
    ],
)
def test_what_is_understood(text: str, expected: Any) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "at", "said"),
    [
        ("metrics.rmse < 1", 0, "there is no field 'metrics'; did you mean 'metric'"),
        ("metric < 1", 0, "metric of what"),
        ("name.x = 'a'", 0, "name has no parts"),
        ("metric.rmse < '1'", 14, "expected a number"),
        ("tag.team = 1", 11, "expected text in quotes"),
        ("tag.team = sea", 11, "expected a number, or text in quotes, found 'sea'"),
        ("tag.team < 'a'", 9, "after tag, expected one of = != like ~ in"),
        ("stage = 'Prod'", 8, "expected one of 'None', 'Development'"),
        ("created > 'yesterday'", 10, "expected a date or a time"),
        ("created > 5", 10, "expected a date or a time in quotes"),
        ("name = 'a' name = 'b'", 11, "expected and, or, or the end, found 'name'"),
        ("name = 'a", 7, "this quote is never closed"),
        ("(name = 'a'", 0, "this parenthesis is never closed"),
        ("name = 'a')", 10, "expected and, or, or the end, found ')'"),
        ("name", 4, "found the end"),
        ("name = ", 6, "found the end"),
        ("name = 'a' and", 14, "expected a field such as name or metric.rmse, found the end"),
        ("name = 'a' ; drop table x", 11, "';' has no meaning here"),
        ("name in 'a'", 8, "expected a list"),
        ("name in ('a' 'b')", 13, "expected a comma"),
        ("version = 1.5", 10, "expected a whole number"),
        ("metric.a < 1e999", 11, "no number that a computer can hold"),
        ("name = 'a\x00'", 7, "zero byte"),
        ("(" * 30 + "name = 'a'" + ")" * 30, 21, "inside each other"),
        ("not " * 30 + "name = 'a'", 84, "inside each other"),
        (" or ".join(["name = 'a'"] * 61), 840, "more than 60 comparisons"),
        ("name = '" + "a" * 4000 + "'", 4000, "at most 4000 characters"),
    ],
)
def test_what_is_refused_and_where(text: str, at: int, said: str) -> None:
    with pytest.raises(QueryError, match=re.escape(said)) as told:
        parse(text)
    assert told.value.at == at


def test_orders() -> None:
    assert parse_order("") == Order("created", None, True)
    assert parse_order("name") == Order("name", None, False)
    assert parse_order("metric.rmse DESC") == Order("metric", "rmse", True)
    for bad in ("rmse", "metric", "name.x", "created downwards", "name asc asc", "version"):
        with pytest.raises(QueryError):
            parse_order(bad)


def test_metrics_that_are_asked_for() -> None:
    assert metrics_of(parse("metric.a < 1 and not (metric.b > 2 or name = 'x')")) == {"a", "b"}


# -- the SQL of it, on real tables


@pytest.fixture(scope="module")
def engine() -> Engine:
    """MLflow's tables and ours in memory, with three versions of two models."""
    made = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    used = ("SqlRegisteredModel", "SqlModelVersion", "SqlModelVersionTag", "SqlRegisteredModelTag")
    used += ("SqlRegisteredModelAlias", "SqlLatestMetric", "SqlParam")
    Base.metadata.create_all(made, [getattr(query, name).__table__ for name in used])
    tables.metadata.create_all(made)
    with made.begin() as connection:
        for model in ("sea-level", "SEA"):
            connection.execute(insert(query.SqlRegisteredModel).values(name=model, workspace="default"))
        for number, (model, version) in enumerate((("sea-level", 1), ("sea-level", 2), ("SEA", 1))):
            connection.execute(
                insert(query.SqlModelVersion).values(
                    name=model, version=version, workspace="default", current_stage="Staging" if number else "None"
                )
            )
            connection.execute(
                insert(tables.versions).values(
                    model=model,
                    version=version,
                    semver=f"1.0.{number}",
                    semver_reason="",
                    key=str(number),
                    status="READY",
                    state="candidate",
                    source="",
                    recipe='{"data":"sha256:d"}',
                    facts="{}",
                    digest=f"sha256:{number}",
                    actor="ada",
                    created_at=float(number),
                    run_id=f"r{number}",
                )
            )
            connection.execute(
                insert(query.SqlModelVersionTag).values(
                    name=model, version=version, workspace="default", key="team", value=f"t{number}%"
                )
            )
        connection.execute(
            insert(query.SqlRegisteredModelTag).values(name="SEA", workspace="default", key="area", value="x" * 300)
        )
        connection.execute(
            insert(tables.cards_now).values(
                [
                    {"model": "sea-level", "version": 0, "card": "{}", "words": "Tides", "owner": "a", "risk": "low"},
                    {"model": "sea-level", "version": 2, "card": "{}", "words": "", "owner": None, "risk": "high"},
                ]
            )
        )
        for seq, (outcome, subject, claimed) in enumerate(
            (("FAIL", "sha256:0", False), ("PASS", "sha256:0", False), ("PASS", "sha256:1", True))
        ):
            connection.execute(
                insert(tables.verdicts).values(
                    seq=seq + 1,
                    id=str(seq),
                    claimed=claimed,
                    model="sea-level",
                    kind="evaluation",
                    outcome=outcome,
                    subject=subject,
                    body="{}",
                    actor="service",
                    created_at=1.0,
                )
            )
    return made


def run(engine: Engine, text: str, order: str = "name") -> list[tuple[str, int]]:
    with engine.connect() as connection:
        rows = connection.execute(query.found(parse(text), parse_order(order), None, "sqlite"))
        return [(row.model, row.version) for row in rows]


ALL = [("SEA", 1), ("sea-level", 1), ("sea-level", 2)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ALL),
        ("name like 'sea%'", ALL[1:]),
        ("name like 'SEA'", ALL[:1]),
        ("name like 's_a%'", ALL[1:]),
        ("name ~ 'SEA'", ALL),
        ("tag.team = 't1%'", [ALL[2]]),
        (r"tag.team like '%1\%'", [ALL[2]]),
        ("tag.team like '*'", []),
        ("tag.team != 't1%'", ALL[:2]),
        ("tag.nobody != 'x'", ALL),
        (f"tag.area = '{'x' * 300}'", ALL[:1]),
        (f"tag.area = '{'x' * 299}'", []),
        ("stage = 'Staging'", [ALL[0], ALL[2]]),
        ("owner = 'a'", [ALL[1]]),
        ("risk in ('high', 'low')", ALL[1:]),
        ("not owner = 'a'", [ALL[0], ALL[2]]),
        ("evidence.evaluation = 'PASS'", [ALL[1]]),
        ("evidence.evaluation = 'NONE'", [ALL[0], ALL[2]]),
        ("text ~ 'tides'", ALL[1:]),
        ("created > '1970-01-01T00:00:01'", [ALL[0]]),
        ("version >= 2 or name = 'SEA'", [ALL[0], ALL[2]]),
    ],
)
def test_what_is_found(engine: Engine, text: str, expected: Any) -> None:
    assert run(engine, text) == expected


words = st.text(min_size=0, max_size=30).filter(lambda text: "\x00" not in text and text.isprintable())
hostile = st.sampled_from(
    [
        "'; DROP TABLE wt_versions; --",
        "' OR '1'='1",
        "%' ESCAPE '",
        ":p1",
        "%(x)s",
        "?",
        "\\",
        "%%",
        "[a",
        "`",
        '"x" = "x',
    ]
)
values = words | hostile


@given(
    st.sampled_from(["name", "tag.team", "owner", "author", "text", "tag"]),
    st.sampled_from(["=", "like", "~", "in"]),
    values,
    values,
)
@settings(max_examples=150, deadline=None)
def test_a_value_is_never_a_part_of_the_statement(
    engine: Engine, field: str, operator: str, value: str, key: str
) -> None:
    """Whatever stands in quotes, the statement is the same as for a harmless value, and so are the tables."""
    if field == "text":
        operator = "~"
    key = key.replace("`", "").strip() or "k"
    asked = field if field != "tag" else f"tag.`{key}`"

    def text(of: str) -> str:
        quoted = "'" + of.replace("'", "''") + "'"
        return f"{asked} in ({quoted})" if operator == "in" else f"{asked} {operator} {quoted}"

    seen: list[str] = []

    def listen(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        seen.append(statement)

    event.listen(engine, "before_cursor_execute", listen)
    try:
        found = run(engine, text(value))
        run(engine, text("harmless"))
    finally:
        event.remove(engine, "before_cursor_execute", listen)
    assert seen[0] == seen[1]
    assert set(found) <= set(ALL)
    assert inspect(engine).has_table("wt_versions")
    assert run(engine, "") == ALL


own = ["()", "(", ")", "=", "<", "~", ",", "'a'", "1", ".x", "and", "or", "not", "in", "like"]
pieces = st.sampled_from([*FIELDS, *own])


@given(st.text(max_size=60) | st.lists(pieces, max_size=12).map(" ".join))
@settings(max_examples=300, deadline=None)
def test_any_text_is_understood_or_refused_with_its_place(engine: Engine, text: str) -> None:
    try:
        parse(text)
    except QueryError as error:
        assert 0 <= error.at <= len(text)
        return
    run(engine, text)


@given(st.text("ab%_\\*?[]A", max_size=6), st.text("ab%_\\*?[]A", max_size=6))
@settings(max_examples=300, deadline=None)
def test_a_pattern_means_on_sqlite_what_it_means_in_sql(pattern: str, text: str) -> None:
    """Against a matcher of our own, for LIKE's meaning with capital letters told apart."""
    meant = "".join(
        re.escape(char) if itself else ".*" if char == "%" else "." for char, itself in query._pieces(pattern)
    )
    with create_engine("sqlite://").connect() as connection:
        (got,) = connection.exec_driver_sql("SELECT ? GLOB ?", (text, query.glob(pattern))).one()
    assert bool(got) == (re.fullmatch(meant, text, re.S) is not None)
