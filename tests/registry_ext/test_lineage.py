"""DEMAND REG-8: the walk through lineage, over every small history that chance makes, and the reading of origins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.orm import Session

from windtunnel import canonical
from windtunnel_mlflow import migrate, tables
from windtunnel_mlflow.lineage import origins, tracing
from windtunnel_mlflow.lineage.graph import Graph, version_node
from windtunnel_mlflow.lineage.origins import Origin
from windtunnel_mlflow.lineage.walk import Direction, Edge, Node, Walk, walk

DEPTH, MANY = 100, 10_000
READ = (
    tables.versions, tables.origins, tables.verdicts, tables.champions, tables.rollouts, tables.approvals,
)  # fmt: skip


class History:
    """Registrations in order, as the registry writes them: version n is registered at time n, in one of two models."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        self.engine = create_engine("sqlite://")
        tables.metadata.create_all(self.engine, READ)
        self.end = float(len(rows) + 1)
        with Session(self.engine) as session:
            for row in rows:
                self._register(session, row)
            session.commit()

    def _register(self, session: Session, row: dict[str, Any]) -> None:
        name = {"model": row["model"], "version": row["version"]}
        at, digest = float(row["at"]), f"sha256:{row['model']}{row['version']}"
        recipe = canonical.dumps({"data": row["data"]}).decode()
        session.execute(
            tables.versions.insert().values(
                **name, semver=f"1.0.{row['version']}", semver_reason="", key=f"k{row['version']}", status="READY",
                state="candidate", source="s", recipe=recipe, facts="{}", parent=row["parent"], digest=digest,
                actor="service", created_at=at, sealed_at=at,
                deleted_at=at + 1 if row["deleted"] else None,
            )
        )  # fmt: skip
        for kind, value in [("data", row["data"]), *([("version", row["copy"])] if row["copy"] else [])]:
            session.execute(
                tables.origins.insert().values(**name, kind=kind, value=value, name="", said="recipe", at=at)
            )
        if row["judged"]:
            session.execute(
                tables.verdicts.insert().values(
                    id=digest, claimed=False, model=row["model"], kind="evaluation", outcome="PASS", subject=digest,
                    version=str(row["version"]), body='{"reason":"good","window":[1,2]}', actor="service",
                    created_at=at + 0.5,
                )
            )  # fmt: skip
            session.execute(
                tables.champions.insert().values(**name, since=at + 0.5, until=at + 2, actor="service", reason="r")
            )

    @contextmanager
    def graph(self, as_of: float | None = None) -> Iterator[Graph]:
        with Session(self.engine) as session:
            yield Graph(session, as_of, MANY)

    def walk(self, start: Node, direction: Direction, depth: int = DEPTH, as_of: float | None = None) -> Walk:
        with self.graph(as_of) as graph:
            if start.kind == "version":
                model, number = start.key.split("/")
                if not graph.knows(model, int(number)):
                    return Walk()
            return walk([start], lambda nodes: graph.neighbours(nodes, direction), direction, depth, MANY)

    @property
    def versions(self) -> list[Node]:
        return [version_node(row["model"], row["version"]) for row in self.rows]

    @property
    def things(self) -> set[Node]:
        return {Node("data", row["data"]) for row in self.rows}


@st.composite
def histories(draw: st.DrawFn) -> History:
    rows: list[dict[str, Any]] = []
    for at in range(1, draw(st.integers(1, 7)) + 1):
        model = draw(st.sampled_from(("sea", "sky")))
        own = [row["version"] for row in rows if row["model"] == model]
        rows.append(
            {
                "model": model,
                "version": len(own) + 1,
                "at": at,
                "parent": draw(st.sampled_from([None, *own])),
                "copy": draw(st.sampled_from([None, *(f"{row['model']}/{row['version']}" for row in rows)])),
                "data": draw(st.sampled_from(("d1", "d2", "d3"))),
                "judged": draw(st.booleans()),
                "deleted": draw(st.booleans()),
            }
        )
    return History(rows)


@settings(max_examples=25, deadline=None)
@given(histories(), st.integers(1, 4))
def test_backward_and_forward_are_each_others_inverse(history: History, depth: int) -> None:
    nodes = [*history.versions, *history.things]
    forward = {node: history.walk(node, "forward", depth).depths for node in nodes}
    backward = {node: history.walk(node, "backward", depth).depths for node in history.versions}
    for node in nodes:
        for version in history.versions:
            assert forward[node].get(version) == backward[version].get(node), (node, version)


@settings(max_examples=25, deadline=None)
@given(histories())
def test_there_is_no_circle_and_order_is_that_of_registration(history: History) -> None:
    registered = {node: nth for nth, node in enumerate(history.versions)}
    for start in history.versions:
        for direction in ("backward", "forward"):
            found = history.walk(start, direction)
            for edge in found.edges:
                if edge.upstream in registered and edge.downstream in registered:
                    assert registered[edge.upstream] < registered[edge.downstream]
            assert not set(history.walk(start, "backward").depths) & set(history.walk(start, "forward").depths) - {
                start
            }


@settings(max_examples=25, deadline=None)
@given(histories(), st.floats(0, 9), st.floats(0, 9), st.sampled_from(("backward", "forward")))
def test_what_was_known_is_never_known_less_later(history: History, one: float, two: float, way: Direction) -> None:
    early, late = sorted((one, two))
    for start in history.versions:
        before, after = history.walk(start, way, as_of=early), history.walk(start, way, as_of=late)
        assert set(before.edges) <= set(after.edges) <= set(history.walk(start, way).edges)
        # Depths only shrink: a shorter way may have come.
        assert all(after.depths[node] <= steps for node, steps in before.depths.items())


@settings(max_examples=25, deadline=None)
@given(histories(), st.sampled_from(("d1", "d2", "d3")))
def test_impact_is_what_comes_forward_without_parents(history: History, data: str) -> None:
    users = {(row["model"], row["version"]) for row in history.rows if row["data"] == data}
    for row in history.rows:
        copied = tuple(row["copy"].split("/")) if row["copy"] else None
        if copied and (copied[0], int(copied[1])) in users:
            users.add((row["model"], row["version"]))

    class Store:
        def reading(self) -> Session:
            return Session(history.engine)

    found = tracing.Tracing(Store()).impact(data)  # type: ignore[arg-type]
    assert {(one["model"], int(one["version"])) for one in found["versions"]} == users
    assert found["total"] == len(users)
    judged = {(row["model"], row["version"]) for row in history.rows if row["judged"]}
    assert {(one["model"], int(one["version"])) for one in found["champions"]} == users & judged
    then = tracing.Tracing(Store()).impact(data, as_of=3.0)  # type: ignore[arg-type]
    early = {(row["model"], row["version"]) for row in history.rows if row["at"] <= 3}
    assert {(one["model"], int(one["version"])) for one in then["versions"]} == users & early
    assert all(one["until"] is None or one["until"] <= 3 for one in then["champions"])


def test_a_walk_says_when_it_was_cut() -> None:
    many = [Edge(Node("data", "d"), Node("version", f"m/{n}"), "data") for n in range(10)]
    found = walk([Node("data", "d")], lambda _: many, "forward", 1, 5)
    assert (len(found.depths), found.cut) == (5, True)
    assert all(edge.downstream in found.depths for edge in found.edges)
    assert not walk([Node("data", "d")], lambda _: many, "forward", 1, 11).cut


def test_what_a_run_says_is_read_with_what_was_said_at_registration() -> None:
    recipe = {
        "data": "sha256:d1", "code": "team.train:main", "data_source": "postgresql://ann:secret@db/sea",
        "dag_id": "sea.train", "dag_run_id": "r1", "params": {"depth": 3}, "image": 7,
    }  # fmt: skip
    told = origins.of_recipe(recipe, "run1", "models:/sky/4")
    assert {(one.kind, one.value) for one in told} == {
        ("run", "run1"), ("data", "sha256:d1"), ("source", "postgresql://db/sea"), ("code", "team.train:main"),
        ("dag_run", "sea.train/r1"), ("version", "sky/4"),
    }  # fmt: skip
    tags = {
        "wt.git.commit": "abc", "wt.git.dirty": "true", "wt.packages": "sha256:p", "wt.image": "img:1",
        "wt.data.digest": "sha256:d1", "wt.input.rows": "sha256:r", "mlflow.source.git.commit": "older",
    }  # fmt: skip
    run = origins.of_run(tags, [("visits", "9f8e", '{"uri": "s3://bucket/visits"}'), ("dataset", "1a2b", "{}")])
    merged = origins.merged(told, run)
    assert Origin("commit", "abc", "with uncommitted changes", "run") in merged
    assert Origin("data", "sha256:d1", "", "recipe") in merged, "said once, by who said it first"
    assert {"s3://bucket/visits", "visits"} == {one.value for one in run if one.kind == "source"}
    assert {one.value for one in run if one.kind == "data"} == {"sha256:d1", "sha256:r", "9f8e", "1a2b"}
    assert origins.demanded(one.kind for one in merged) == {"run", "data", "code", "dag_run"}
    shown = origins.tags(merged, {"dag_run_url": "javascript:alert(1)"}, 3)
    assert shown == {
        "windtunnel.data": "sha256:d1", "windtunnel.source": "postgresql://db/sea",
        "windtunnel.code": "team.train:main", "windtunnel.commit": "abc", "windtunnel.image": "img:1",
        "windtunnel.dag_run": "sea.train/r1", "windtunnel.parent": "3",
    }  # fmt: skip
    assert origins.tags([], {"dag_run_url": "http://a/dags/x"}, None) == {"windtunnel.dag_run_url": "http://a/dags/x"}


@pytest.mark.parametrize("source", ["models:/m-abc", "models:/sea@champion", "runs:/models:/1", "models:/sea/v2"])
def test_only_a_version_is_a_copy(source: str) -> None:
    assert origins.copy_of(source) is None


def test_a_run_without_a_checkout_has_no_commit_and_long_values_stay_apart() -> None:
    assert origins.of_run({"wt.git.commit": "none"}) == []
    long = ["x" * 600 + end for end in "ab"]
    first, second = (origins.of_recipe({"code": code}, None, "s")[0] for code in long)
    assert first.value != second.value and len(first.value) < 100 and first.name.startswith("xxx")
    files = {"conda.yaml": "sha256:1", "MLmodel": "sha256:2"}
    assert origins.of_files(files) == [Origin("environment", "sha256:1", "conda.yaml", "files")]


def test_the_migration_reads_what_is_there(tmp_path: Path) -> None:
    """Recipes of older versions, and their runs where those are in the same database and still there."""
    engine = create_engine(f"sqlite:///{tmp_path / 'old.db'}")
    config = migrate._config()

    def walk(to: str, how: Any) -> None:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            how(config, to)

    walk("0006", command.upgrade)
    recipe = canonical.dumps({"data": "sha256:d", "code": "a:b", "dag_id": "sea.train", "dag_run_id": "r"}).decode()
    row = {
        "semver_reason": "", "status": "READY", "state": "candidate", "facts": "{}", "actor": "service",
        "created_at": 5.0, "recipe": "{}", "run_id": None, "model": "sea", "source": "s",
    }  # fmt: skip
    rows = [
        {**row, "version": 1, "semver": "1.0.0", "key": "k1", "recipe": recipe, "run_id": "one"},
        {**row, "version": 2, "semver": "1.0.1", "key": "k2", "run_id": "gone", "source": "models:/sky/7"},
    ]
    names = ", ".join(rows[0])
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE tags (run_uuid TEXT, key TEXT, value TEXT)"))
        for key, value in (("wt.git.commit", "abc"), ("mlflow.source.git.commit", "older"), ("mlflow.user", "ann")):
            connection.execute(text("INSERT INTO tags VALUES ('one', :key, :value)"), {"key": key, "value": value})
        values = ", ".join(f":{name}" for name in rows[0])
        connection.execute(text(f"INSERT INTO wt_versions ({names}) VALUES ({values})"), rows)
    walk("0007", command.upgrade)
    with engine.connect() as connection:
        found = connection.execute(text("SELECT version, kind, value, said, at FROM wt_origins ORDER BY 1, 2")).all()
    assert [tuple(one[:4]) for one in found] == [
        (1, "code", "a:b", "recipe"), (1, "commit", "abc", "run"), (1, "dag_run", "sea.train/r", "recipe"),
        (1, "data", "sha256:d", "recipe"), (1, "run", "one", "source"),
        (2, "run", "gone", "source"), (2, "version", "sky/7", "source"),
    ]  # fmt: skip
    known = {one.kind: one.at for one in found if one.version == 1}
    assert known["data"] == 5.0 and known["commit"] > 5.0, "what the run says is known from now on only"
    walk("0006", command.downgrade)
    assert "wt_origins" not in inspect(engine).get_table_names()
