"""A real standby of PostgreSQL as MLflow's read replica: while it is behind, the law is read from the primary."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from postgres import following
from sqlalchemy import create_engine, text
from sqlalchemy.engine import make_url
from waiting import until

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def primary(postgres: str) -> str:
    with create_engine(postgres, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("CREATE DATABASE streamed"))
    return f"{postgres.rpartition('/')[0]}/streamed"


@pytest.fixture(scope="module")
def standby(primary: str) -> Iterator[str]:
    """The URL of the same database on a server that follows the first by streaming replication.

    Always a moment behind: a server that starts on an empty primary must wait for it.
    """
    of = make_url(primary)
    with following(str(of.host), int(of.port or 0), "-c recovery_min_apply_delay=1500ms") as port:
        yield of.set(port=port).render_as_string(hide_password=False)


def test_a_standby_that_is_behind_decides_nothing(primary: str, standby: str, helpers: Any) -> None:
    replica = create_engine(standby, isolation_level="AUTOCOMMIT")

    def tell(statement: str) -> Any:
        with replica.connect() as connection:
            return connection.execute(text(statement)).scalar()

    root = Path(tempfile.mkdtemp(prefix="wt-registry-standby-"))
    server = helpers.RegistryServer(root, primary, env={"MLFLOW_READ_REPLICA_BACKEND_STORE_URI": standby})
    try:
        server.start()
        assert tell("SELECT pg_is_in_recovery()")
        # MLflow asks the replica for the experiment of a run; the first one is made as the server starts.
        until(lambda: tell("SELECT count(*) FROM experiments"))
        with server.client() as client, server.rest() as http, server.rest("admin") as boss:
            hands = helpers.Hands(http)
            model = hands.model()

            def seen() -> list[str]:
                found = boss.get("/api/2.0/mlflow/model-versions/search", params={"filter": f"name = '{model}'"}).json()
                return sorted(version["version"] for version in found.get("model_versions", []))

            first = helpers.crown(client, hands, model)
            until(lambda: seen() == ["1"], 60)
            tell("SELECT pg_wal_replay_pause()")
            until(lambda: tell("SELECT pg_get_wal_replay_pause_state()") == "paused", 60)
            # From here on the standby knows nothing of what happens.
            second = helpers.crown(client, hands, model, data="sha256:d2")
            assert seen() == ["1"]
            champion = client.champion(model)
            assert champion is not None and champion.version == second.version == "2"
            assert [row.version for row in client.champion_history(model)] == ["1", "2"]
            at = {"name": model, "alias": "champion", "version": first.version}
            refused = boss.post("/api/2.0/mlflow/registered-models/alias", json=at)
            assert (refused.status_code, refused.json()["windtunnel_code"]) == (403, "WT_POLICY"), refused.text
            assert hands.put(str(second.run_id), "model/weights", b"harm").status_code == 403
            tell("SELECT pg_wal_replay_resume()")
            until(lambda: seen() == ["1", "2"], 60)
    finally:
        server.stop()
        replica.dispose()
        shutil.rmtree(root, ignore_errors=True)
