"""The same store on PostgreSQL: locks, migrations, triggers and the JSON that goes through it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from windtunnel.errors import RefusedError
from windtunnel.evidence import auditcheck, checkpoint, entry
from windtunnel_mlflow.ledger import audit, roles

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def database(postgres: str) -> str:
    return postgres


@pytest.fixture(scope="module")
def server(database: str, helpers: Any) -> Iterator[Any]:
    root = Path(tempfile.mkdtemp(prefix="wt-registry-pg-"))
    found = helpers.RegistryServer(root, database)
    try:
        found.start()
        yield found
    finally:
        found.stop()
        shutil.rmtree(root, ignore_errors=True)


def test_a_models_life(server: Any, helpers: Any) -> None:
    with server.client() as client, server.rest() as http:
        hands = helpers.Hands(http)
        model = hands.model()
        helpers.crown(client, hands, model)
        runs = [hands.run() for _ in range(10)]
        with ThreadPoolExecutor(10) as pool:
            found = list(pool.map(lambda run: hands_register(client, model, run), runs))
        assert sorted(int(v.version) for v in found) == list(range(2, 12))
        assert len({v.semver for v in found}) == 10
        response = http.post(
            "/api/2.0/mlflow/registered-models/alias", json={"name": model, "alias": "champion", "version": "3"}
        )
        assert response.status_code == 403
        second = client.version(model, 2)
        rollout = client.open_rollout(model, 2, plan={}, holder="h", correlation_id="c")
        with pytest.raises(RefusedError):
            client.promote(rollout.id, rollout.token, "1")
        client.update_rollout(rollout.id, rollout.token, state="rolled_back", reason="errors")
        assert client.version(model, 2).state == "rolled_back"
        champion = helpers.crown(client, hands, model, data="sha256:d9")
        assert [row.version for row in client.champion_history(model)] == ["1", champion.version]
        assert hands.put(str(second.run_id), "model/weights", b"harm").status_code == 403
        assert http.delete(f"/api/2.0/mlflow-artifacts/artifacts/0/{second.run_id}").status_code == 403
        summary = next(m for m in client.models() if m.name == model)
        assert summary.champion is not None
        assert summary.champion.version == champion.version


def hands_register(client: Any, model: str, run_id: str) -> Any:
    return client.register(
        model, source=f"runs:/{run_id}/model", run_id=run_id, recipe={}, correlation_id=None, cause=None
    )


@pytest.mark.parametrize("statement", ["UPDATE wt_audit SET actor = 'x'", "DELETE FROM wt_audit", "TRUNCATE wt_audit"])
def test_the_audit_is_append_only(server: Any, database: str, statement: str) -> None:
    with (
        create_engine(database).connect() as connection,
        pytest.raises(DBAPIError, match="append-only"),
    ):
        connection.execute(text(statement))


def test_a_reader_waits_for_the_event_that_is_not_committed_yet(server: Any, database: str) -> None:
    """DEMAND PIP-6: of two changes the later number commits first; whoever reads now must not step over the other."""
    from sqlalchemy.orm import Session

    from windtunnel_mlflow.ledger import outbox

    engine = create_engine(database)
    said: dict[str, Any] = {"actor": "a", "version": None, "detail": {}, "correlation_id": None, "action": "tag-model"}

    def read(after: int) -> list[str]:
        with Session(engine) as reader:
            return [event["model"] for event in outbox.read(reader, after, 100)["events"]]

    with Session(engine) as reader:
        start = outbox.read(reader, None, 1)["next"]
    with ThreadPoolExecutor(1) as pool, Session(engine) as slow:
        outbox.write(slow, model="slow", **said)
        slow.flush()
        with Session(engine) as fast:
            outbox.write(fast, model="fast", **said)
            fast.commit()
        reading = pool.submit(read, start)
        waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        with engine.connect() as looking:
            while looking.execute(waiting).scalar() == 0:
                assert not reading.done()
                looking.rollback()
        slow.commit()
        assert reading.result(timeout=60) == ["slow", "fast"]
    with Session(engine) as undone:
        outbox.write(undone, model="undone", **said)
        undone.rollback()
    with Session(engine) as last:
        outbox.write(last, model="last", **said)
        last.commit()
    assert read(start) == ["slow", "fast", "last"]
    engine.dispose()


ROLE = "wt_server"


def as_role(database: str) -> str:
    return database.replace("wt@", f"{ROLE}@")


@pytest.fixture(scope="module")
def separated(server: Any, database: str) -> str:
    """The URL of a role that may run the server and owns nothing."""
    engine = create_engine(database)
    with engine.begin() as connection:
        connection.execute(text(f"CREATE ROLE {ROLE} LOGIN"))
        # What a careless hand granted is taken away again.
        connection.execute(text(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {ROLE}"))
    with engine.begin() as connection:
        roles.separate(connection, ROLE)
        with pytest.raises(ValueError, match="owns the tables"):
            roles.separate(connection, "wt")
        with pytest.raises(ValueError, match="no role 'nobody'"):
            roles.separate(connection, "nobody")
    return as_role(database)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE wt_audit SET actor = 'x'",
        "DELETE FROM wt_audit",
        "TRUNCATE wt_audit",
        "ALTER TABLE wt_audit DISABLE TRIGGER ALL",
        "DROP TABLE wt_audit",
        "SELECT setval('wt_audit_seq_seq', 1)",
        "CREATE TABLE wt_mine (id integer)",
        "SET session_replication_role = replica",
    ],
)
def test_the_servers_role_cannot_change_the_audit(separated: str, statement: str) -> None:
    """DEMAND REG-7: not even with the server's own database password."""
    with create_engine(separated).connect() as connection, pytest.raises(DBAPIError, match=r"denied|must be owner"):
        connection.execute(text(statement))


def test_the_server_runs_as_that_role(server: Any, separated: str, database: str, helpers: Any) -> None:
    root = Path(tempfile.mkdtemp(prefix="wt-registry-pg-"))
    found = helpers.RegistryServer(root, separated)
    for path in server.home.secrets.iterdir():
        # Both have their users in one database, and the server that starts sets their passwords.
        shutil.copy2(path, found.home.secrets / path.name)
    try:
        found.start()
        with found.client() as client, found.rest() as http:
            helpers.crown(client, helpers.Hands(http), helpers.Hands(http).model())
            state = client.publish_checkpoint()
            assert (state["problem"], state["changeable"]) == (None, False)
            rows = list(client.audit_log())
        point = checkpoint.read(state["checkpoint"])
        report = auditcheck.check([entry.line(row) for row in rows], [point])
        assert (str(report.outcome), report.vouched) == ("PASS", point.size)
    finally:
        found.stop()
        shutil.rmtree(root, ignore_errors=True)


def test_no_setting_switches_the_trigger_off(server: Any, database: str) -> None:
    with create_engine(database).connect() as connection:
        connection.execute(text("SET session_replication_role = replica"))
        with pytest.raises(DBAPIError, match="append-only"):
            connection.execute(text("DELETE FROM wt_audit"))


def test_an_entry_that_has_a_number_and_no_commit_is_waited_for(server: Any, database: str) -> None:
    """Else a checkpoint would be signed over a log in which an entry comes up later."""
    engine = create_engine(database)
    slow, fast, look = Session(engine), Session(engine), Session(engine)
    audit.append(slow, actor="a", action="slow", model="m-slow")
    audit.append(fast, actor="a", action="fast", model="m-fast")
    fast.commit()
    with ThreadPoolExecutor(1) as pool, Session(engine) as asking:
        settled = pool.submit(audit.settled, asking)
        waiting = text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = 7753")
        while not look.execute(waiting).scalar():
            look.rollback()
            time.sleep(0.05)
        slow.commit()
        rows = audit.page(asking, 0, settled.result(30), 10**6)
        asking.rollback()
    assert {"m-slow", "m-fast"} <= {row["model"] for row in rows}
    for session in (slow, fast, look):
        session.close()


def test_several_entries_at_once_are_chained_in_their_order(server: Any, database: str) -> None:
    models = [f"m-{letter}" for letter in "xyz"]
    with Session(create_engine(database)) as session:
        for number in range(2):  # the second time each has a chain to go on from
            told = [audit.entry(actor="a", action=f"{number}{n}", model=models[n % 3]) for n in range(9)]
            audit.append_all(session, told)
            session.commit()
        rows = [row for row in audit.page(session, 0, 10**6, 10**6) if row["model"] in models]
    assert [row["action"] for row in rows] == [f"{number}{n}" for number in range(2) for n in range(9)]
    assert all(audit.broken([row for row in rows if row["model"] == model]) is None for model in models)


def test_a_search_means_the_same_here(server: Any, helpers: Any) -> None:
    """DEMAND REG-15: every field of the language, and comments that nobody can change."""
    with server.client() as client, server.client("admin") as admin, server.rest() as http:
        hands = helpers.Hands(http)
        model = hands.model()
        helpers.crown(client, hands, model)
        second = helpers.enter(client, hands, model, data="sha256:d2")
        tag = {"name": model, "version": "2", "key": "team", "value": "x" * 3000}
        hands.call("POST", "/model-versions/set-tag", tag)
        metric = {"run_id": second.run_id, "key": "rmse", "value": 1.5, "timestamp": 1, "step": 0}
        hands.call("POST", "/runs/log-metric", metric)
        admin.set_card(model, {"owner": "sea", "risk": "high"}, "known")
        admin.comment(model, 2, "after the Storm")

        def found(query: str, order_by: str = "name") -> list[str]:
            page = admin.search(f"name = '{model}' and ({query})", order_by=order_by)
            return [one.version for one in page.versions]

        for query, expected in (
            (f"name like '{model[:5]}%' and author = 'service'", ["1", "2"]),
            (f"name like '{model.upper()}'", []),
            (r"name like '%\'", []),
            ("stage = 'Production' and alias = 'champion' and state = 'champion'", ["1"]),
            ("evidence.data-check = 'PASS' and evidence.evaluation in ('PASS', 'FAIL')", ["1"]),
            ("evidence.evaluation != 'PASS' and status = 'READY'", ["2"]),
            (f"tag.team = '{'x' * 3000}'", ["2"]),
            (f"tag.team = '{'x' * 2999}'", []),
            ("metric.rmse < 2 and version > 1", ["2"]),
            ("not metric.rmse < 2", ["1"]),
            ("param.depth = '3'", []),
            ("owner ~ 'SEA' and risk = 'high' and created > '2020-01-01'", ["1", "2"]),
            ("text ~ 'the storm'", ["2"]),
        ):
            assert found(query) == expected, query
        assert found("version >= 1", "created desc") == ["2", "1"]
        assert found("version >= 1", "metric.rmse") == ["2"]
        page = admin.search(f"name = '{model}'", limit=1)
        assert [one.version for one in admin.search(f"name = '{model}'", limit=1, cursor=page.cursor).versions] == ["1"]
    with create_engine(server.database_url).begin() as connection, pytest.raises(DBAPIError, match="append-only"):
        connection.execute(text("DELETE FROM wt_comments"))


def test_what_is_kept(server: Any, database: str, helpers: Any) -> None:
    """Adopted, deleted, brought back, mended and cleaned: the same questions in PostgreSQL's words."""
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore

    plain = SqlAlchemyStore(database)
    try:
        with server.client() as client, server.client("admin") as admin, server.rest() as http:
            hands = helpers.Hands(http)
            model = hands.model()
            for _ in range(2):
                run_id = hands.run()
                plain.create_model_version(model, f"mlflow-artifacts:/0/{run_id}/artifacts/model", run_id)
            plain.transition_model_version_stage(model, 2, "Production", False)
            assert {"model": model, "versions": 2} in admin.adoption()
            found = admin.adopt(model)
            assert ([one["outcome"] for one in found["versions"]], found["champion"]) == (["adopted"] * 2, "2")
            assert client.agreement(model) == []
            plain.set_registered_model_alias(model, "champion", 1)
            assert [one["what"] for one in client.agreement() if one["model"] == model] == ["alias"]
            assert admin.mend(model, "a second server")["left"] == []
            hands.call("DELETE", "/model-versions/delete", {"name": model, "version": "1"})
            assert [one["version"] for one in client.deleted(model)] == ["1"]
            assert client.restore(model, 1, "a mistake")["status"] == "READY"
            assert client.agreement(model) == []
            assert client.purge() == {"purged": [], "left": 0}
            assert client.collect() == {"collected": [], "left": 0}
    finally:
        plain.engine.dispose()
