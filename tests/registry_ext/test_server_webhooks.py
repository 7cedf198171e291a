"""MLflow's webhooks: audited, and told also of what passes MLflow's handlers by; MLflow's read replicas."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from windtunnel.registry.client import RegistryClient
from windtunnel_mlflow.webhooks import news

pytestmark = pytest.mark.real

WEBHOOKS = "/api/2.0/mlflow/webhooks"
EVENTS = [
    {"entity": "REGISTERED_MODEL", "action": "CREATED"},
    {"entity": "MODEL_VERSION", "action": "CREATED"},
    {"entity": "MODEL_VERSION_ALIAS", "action": "CREATED"},
    {"entity": "MODEL_VERSION_ALIAS", "action": "DELETED"},
]


class Sink:
    """Keeps what is posted to it."""

    def __init__(self) -> None:
        told = self.told = []  # type: ignore[var-annotated]

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def of(self, *models: str) -> list[tuple[str, str, dict[str, Any]]]:
        found = [(one["entity"], one["action"], one["data"]) for one in self.told]
        return [one for one in found if one[2]["name"] in models]


@pytest.fixture
def sink() -> Iterator[Sink]:
    found = Sink()
    yield found
    found.server.shutdown()
    found.server.server_close()


def test_a_webhook_hears_of_releases_as_of_mlflows_own_calls(
    registry_server: Any, service: RegistryClient, admin: RegistryClient, hands: Any, helpers: Any, sink: Sink
) -> None:
    with registry_server.rest("admin") as http:
        url = f"http://127.0.0.1:{sink.server.server_port}/secret-path?token=x"
        made = http.post(WEBHOOKS, json={"name": "w", "url": url, "events": EVENTS})
        assert made.status_code == 200, made.text
        identifier = made.json()["webhook"]["webhook_id"]
        model = hands.model()
        helpers.crown(service, hands, model)
        helpers.crown(service, hands, model, data="sha256:d2")
        hands.call("POST", "/registered-models/alias", {"name": model, "alias": "blue", "version": "1"})
        admin.withdraw(model, 2, "harm")
        wanted = [
            ("registered_model", "created", None, None),
            ("model_version", "created", None, "1"),
            ("model_version_alias", "created", "champion", "1"),
            ("model_version", "created", None, "2"),
            ("model_version_alias", "created", "champion", "2"),
            ("model_version_alias", "created", "blue", "1"),
            ("model_version_alias", "deleted", "champion", None),
        ]
        deadline = time.monotonic() + 60
        while len(sink.of(model)) < len(wanted):
            assert time.monotonic() < deadline, sink.told
            time.sleep(0.05)
        # They are sent by several threads, so in any order.
        found = [(entity, action, data.get("alias"), data.get("version")) for entity, action, data in sink.of(model)]
        assert sorted(found, key=str) == sorted(wanted, key=str)
        assert http.patch(f"{WEBHOOKS}/{identifier}", json={"description": "said"}).status_code == 200
        assert http.delete(f"{WEBHOOKS}/{identifier}").status_code == 200
    rows = [row for row in service.audit("", limit=50) if row.action.endswith("-webhook")][:3]
    assert [(row.action, row.actor, row.detail["webhook"]) for row in reversed(rows)] == [
        (action, "admin", identifier) for action in ("create-webhook", "update-webhook", "delete-webhook")
    ]
    # Chat programs put the password in the path.
    assert "secret-path" not in str(rows) and "token" not in str(rows)


def test_a_webhook_of_an_ordinary_user_is_refused_and_audited(hands: Any, service: RegistryClient, sink: Sink) -> None:
    url = f"http://127.0.0.1:{sink.server.server_port}/"
    assert hands.http.post(WEBHOOKS, json={"name": "w", "url": url, "events": EVENTS}).status_code == 403
    newest = service.audit("", limit=1)[0]
    assert (newest.outcome, newest.actor, newest.detail["path"]) == ("refused", "service", WEBHOOKS)


def test_mlflow_tells_of_its_own_calls_itself() -> None:
    assert news("m", "register", "1", {"source": "s"}, ours=False) == []
    assert news("m", "set-alias", "1", {"champion": "1"}, ours=False) == []
    assert [one.entity for one in news("m", "transition-stage", "1", {"champion": "1"}, ours=False)] == [
        "model_version_alias"
    ]


def test_the_law_is_read_from_the_primary(helpers: Any, registry_server: Any) -> None:
    """A replica that never follows: MLflow's own searches are of then, everything the registry decides is of now."""
    root = Path(tempfile.mkdtemp(prefix="wt-replica-"))
    server = helpers.RegistryServer(root)
    replica = server.home.mlflow / "replica.db"
    server.env["MLFLOW_READ_REPLICA_BACKEND_STORE_URI"] = f"sqlite:///{replica}"
    try:
        shutil.copy(helpers.MIGRATED / "mlflow.db", root)
        server.home.mlflow.mkdir(parents=True, mode=0o700)
        (root / "mlflow.db").rename(replica)
        shutil.copytree(helpers.MIGRATED, server.home.mlflow, dirs_exist_ok=True)
        server.start()
        with server.client() as client, server.rest() as http:
            hands = helpers.Hands(http)
            model = hands.model()
            assert http.get("/api/2.0/mlflow/registered-models/search").json().get("registered_models", []) == []
            for data in ("sha256:d1", "sha256:d2"):
                run_id = http.post("/api/2.0/mlflow/runs/create", json={"experiment_id": "0"})
                assert run_id.status_code == 200, run_id.text
                record = register(server, client, hands, model, data)
                champion = client.champion(model)
                kinds = ("data-check", "evaluation", "rollout")[: 3 if champion else 2]
                helpers.judge(client, record, *kinds)
                rollout = client.open_rollout(model, record.version, plan={}, holder=data, correlation_id="c1")
                client.promote(rollout.id, rollout.token, champion.version if champion else None)
            assert client.champion(model).version == "2"
            assert [row.version for row in client.champion_history(model)] == ["1", "2"]
            at = {"name": model, "alias": "champion", "version": "1"}
            # As an administrator: MLflow's own permissions look for the model on the replica.
            with server.rest("admin") as boss:
                refused = boss.post("/api/2.0/mlflow/registered-models/alias", json=at)
            assert refused.status_code == 403, refused.text
            assert refused.json()["windtunnel_code"] == "WT_POLICY", refused.text
            # The sealed path is known though the replica never heard of it.
            assert hands.put(str(record.run_id), "model/weights", b"harm").status_code == 403
    finally:
        server.stop()
        shutil.rmtree(root, ignore_errors=True)


def register(server: Any, client: RegistryClient, hands: Any, model: str, data: str) -> Any:
    """Files of a run that the replica does not know can be put into the store's folder alone."""
    run_id = hands.call("POST", "/runs/create", {"experiment_id": "0"})["run"]["info"]["run_id"]
    folder = server.artifacts / "0" / run_id / "artifacts" / "model"
    folder.mkdir(parents=True)
    (folder / "MLmodel").write_text(
        "artifact_path: model\nflavors:\n  python_function:\n    loader_module: mlflow.sklearn\n"
    )
    (folder / "weights").write_bytes(run_id.encode())
    return client.register(
        model, source=f"runs:/{run_id}/model", run_id=run_id, recipe={"data": data}, correlation_id=None, cause=None
    )
