"""The same store on PostgreSQL: locks, migrations, triggers and the JSON that goes through it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from windtunnel.errors import RefusedError
from windtunnel.loopback import any_free

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def database(helpers: Any) -> Iterator[str]:
    """A PostgreSQL cluster of our own on loopback."""
    initdb, ctl = shutil.which("initdb"), shutil.which("pg_ctl")
    if not initdb or not ctl:
        pytest.skip("no PostgreSQL on this machine")
    folder = Path(tempfile.mkdtemp(prefix="wt-pg-", dir="/tmp"))
    # PostgreSQL does not run as root.
    user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    if user:
        shutil.chown(folder, "postgres", "postgres")
    port = any_free()

    def run(*argv: str) -> None:
        done = subprocess.run([*user, *argv], capture_output=True, text=True, cwd="/", check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    data = str(folder / "data")
    try:
        run(initdb, "-D", data, "-A", "trust", "-U", "wt", "--no-sync")
        run(ctl, "-D", data, "-w", "-l", f"{folder}/log", "-o", f"-p {port} -h 127.0.0.1 -k {folder} -F", "start")
        yield f"postgresql+psycopg2://wt@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*user, ctl, "-D", data, "-m", "immediate", "stop"], capture_output=True, cwd="/", check=False)
        shutil.rmtree(folder, ignore_errors=True)


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

    from windtunnel_mlflow import outbox

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
