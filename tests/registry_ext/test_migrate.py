"""Our tables: made once, by whoever comes first, and as the code describes them."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import create_engine, inspect, text

from windtunnel_mlflow import migrate, tables


def _upgrade(url: str, start: object, done: object) -> None:
    start.wait()  # type: ignore[attr-defined]
    done.put(migrate.upgrade(create_engine(url)))  # type: ignore[attr-defined]


def test_two_processes_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'both.db'}"
    spawn = multiprocessing.get_context("spawn")
    start, done = spawn.Barrier(3), spawn.Queue()
    processes = [spawn.Process(target=_upgrade, args=(url, start, done)) for _ in range(2)]
    for process in processes:
        process.start()
    start.wait()
    assert sorted(done.get(timeout=60) for _ in processes) == [False, True]
    for process in processes:
        process.join()


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
