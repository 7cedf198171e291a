"""Our tables: made once, by whoever comes first, and as the code describes them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from mlflow.entities.model_registry import RegisteredModelTag
from sqlalchemy import Engine, create_engine, inspect, text

from windtunnel_mlflow import migrate, tables
from windtunnel_mlflow.store import GovernedStore

UPGRADE = """
import sys
from sqlalchemy import create_engine
from windtunnel_mlflow import migrate
engine = create_engine(sys.argv[1])
print("here", flush=True)
sys.stdin.readline()
print(migrate.upgrade(engine))
"""


def test_two_processes_at_once(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", UPGRADE, f"sqlite:///{tmp_path / 'both.db'}"]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert sorted(process.communicate(timeout=60)[0] for process in processes) == ["False\n", "True\n"]


def test_the_migrations_make_what_the_code_describes(tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'one.db'}")
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE somebody_elses (id INTEGER)"))
    assert migrate.upgrade(engine) is True
    assert migrate.upgrade(engine) is False
    assert {table.name for table in tables.metadata.sorted_tables} <= set(inspect(engine).get_table_names())
    with engine.connect() as connection:
        options = {
            "version_table": migrate.VERSION_TABLE,
            "include_name": lambda name, kind, _: kind != "table" or name.startswith("wt_"),
        }
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, tables.metadata) == []


def test_down_and_up_again_keeps_what_the_former_schema_knew(tmp_path: Path) -> None:
    """A policy of the time before 0006 becomes the description's first version, and goes back as it was."""
    there_and_back(create_engine(f"sqlite:///{tmp_path / 'walk.db'}"))


def there_and_back(engine: Engine) -> None:
    def walk(to: str, how: Callable[..., None]) -> None:
        config = migrate._config()
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            how(config, to)
            connection.commit()

    short = '{"champion":["evaluation"],"first":[]}'
    walk("0005", command.upgrade)
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO wt_policies VALUES ('sea', :body, 'service', 5.0)"), {"body": short})
    for _ in range(2):
        walk("head", command.upgrade)
        with engine.begin() as connection:
            found = connection.execute(text("SELECT model, layer, number, policy FROM wt_policy_versions")).all()
            assert [tuple(row) for row in found] == [("sea", "description", 1, short)]
            assert "trainer" in {column["name"] for column in inspect(connection).get_columns("wt_versions")}
        walk("0005", command.downgrade)
        with engine.begin() as connection:
            found = connection.execute(text("SELECT model, policy, actor, updated_at FROM wt_policies")).all()
            assert [tuple(row) for row in found] == [("sea", short, "service", 5.0)]
            assert "wt_approvals" not in inspect(connection).get_table_names()
    walk("0001", command.downgrade)
    assert "wt_orders" not in inspect(engine).get_table_names()
    walk("head", command.upgrade)
    assert set(tables.metadata.tables) <= set(inspect(engine).get_table_names())


@pytest.mark.real
def test_down_and_up_again_on_postgresql(postgres: str) -> None:
    with create_engine(postgres, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("CREATE DATABASE walk"))
    there_and_back(create_engine(f"{postgres.rpartition('/')[0]}/walk"))


@pytest.mark.real
def test_mlflows_search_by_a_tag_reads_an_index_on_postgresql(postgres: str) -> None:
    """DEMAND REG-9: of 2,000,000 tags it read every row; values of any length stay possible."""
    with create_engine(postgres, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("CREATE DATABASE tagged"))
    store = GovernedStore(f"{postgres.rpartition('/')[0]}/tagged")
    store.create_registered_model("m", [RegisteredModelTag("team", "sea"), RegisteredModelTag("long", "x" * 5000)])
    with store.engine.connect() as connection:
        connection.execute(text("SET enable_seqscan = off"))
        for table in ("model_version_tags", "registered_model_tags"):
            plan = connection.execute(text(f"EXPLAIN SELECT name FROM {table} WHERE key = 'team' AND value = 'sea'"))
            assert f"wt_on_{table}_whole" in "\n".join(plan.scalars())
    assert [found.name for found in store.search_registered_models("tags.team = 'sea'")] == ["m"]
