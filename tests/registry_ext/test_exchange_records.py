"""DEMAND REG-10: a record restored into another database is the same record, whatever is in it or there."""

from __future__ import annotations

from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from mlflow.store.db.base_sql_model import Base
from sqlalchemy import Boolean, Engine, Float, Integer, Table, UniqueConstraint, create_engine, insert
from sqlalchemy.orm import Session

from windtunnel.registry import exchange
from windtunnel_mlflow import tables
from windtunnel_mlflow.exchange import dumping, restoring

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
NUMBER = st.floats(allow_nan=False, allow_infinity=False, width=64)
#: Rows of other models that are in the target already, so that its own numbers are others.
OTHERS = 5


def database() -> Engine:
    engine = create_engine("sqlite://")
    needed = [*dumping.MLFLOW.values(), *dumping.OF_RUNS.values(), dumping.RUNS, dumping.EXPERIMENTS, dumping.LATEST]
    Base.metadata.create_all(engine, tables=needed)
    tables.metadata.create_all(engine)
    return engine


def unique(table: Table) -> set[str]:
    found = {column.name for column in table.primary_key.columns}
    for one in table.constraints:
        if isinstance(one, UniqueConstraint):
            found |= {column.name for column in one.columns}
    return found


def value(data: st.DataObject, table: Table, column: Any, number: int) -> Any:
    if column.name in unique(table) and not isinstance(column.type, Boolean):
        # A key of its own; which one is of no matter.
        return number + 1 if isinstance(column.type, Integer) else f"{column.name}-{number}"
    if column.nullable and data.draw(st.booleans()):
        return None
    if isinstance(column.type, Boolean):
        return data.draw(st.booleans())
    if isinstance(column.type, Integer):
        return data.draw(st.integers(0, 2**40))
    return data.draw(NUMBER) if isinstance(column.type, Float) else data.draw(TEXT)


def fill(data: st.DataObject, session: Session, model: str) -> None:
    """Some rows of every table."""
    for table in dumping.ours().values():
        counted = dumping.numbered(table)
        for number in range(data.draw(st.integers(0, 3))):
            row = {
                column.name: value(data, table, column, number)
                for column in table.c
                if column.name not in (counted, "model")
            }
            if table is tables.champions:
                row["until"] = float(number)  # one at a time has none
            if table is tables.approvals:
                row["seen"] = data.draw(st.integers(0, 5))
            for column in table.c:
                # Names of things that are unique over all models.
                if column.name in ("id", "rollout_id") and column.name in row and row[column.name] is not None:
                    row[column.name] = f"{model}-{row[column.name]}"
            session.execute(insert(table).values(**row, model=model))


# Making the rows smaller takes longer than finding out which are wrong.
@settings(max_examples=15, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(st.data())
def test_a_record_comes_back_as_it_went(data: st.DataObject) -> None:
    source, target = database(), database()
    with Session(source) as session:
        fill(data, session, "other")
        fill(data, session, "sea")
        record = exchange.parse(dumping.body(dumping.model(session, "sea")))
    with Session(target) as session:
        for number in range(OTHERS):
            session.execute(
                insert(tables.verdicts).values(
                    id=f"there-{number}", claimed=False, model="there", kind="scan", outcome="PASS", subject="s",
                    body="{}", actor="a", created_at=1.0,
                )
            )  # fmt: skip
        restoring.model(session, record)
        assert dumping.body(dumping.model(session, "sea")) == dumping.body(record)
        assert dumping.is_empty(dumping.model(session, "other"))
        if record["tables"]["wt_versions"]:
            changed = exchange.parse(dumping.body(record))
            changed["tables"]["wt_versions"][0]["actor"] += "x"
            assert exchange.differences(record, changed) == ["versions: 1 differs in actor"]


def test_every_table_of_models_is_in_a_record() -> None:
    """A new table is exported without a word; one that must not be has to be named in ``dumping``."""
    named = {table.name for table in tables.metadata.sorted_tables if "model" in table.c}
    assert named - set(dumping.ours()) == {"wt_audit", "wt_outbox"}
    assert {"wt_versions", "wt_verdicts", "wt_approvals", "wt_champions", "wt_rollouts", "wt_reviews"} <= named
