"""A real governed MLflow server on loopback, one for the session, and small hands to use it.

``registry_server`` starts it, ``service`` and ``admin`` are clients, ``person`` is an ordinary MLflow user.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from postgres import serving

from windtunnel import procfs
from windtunnel.evidence import Kind, Outcome, Verdict
from windtunnel.home import Home
from windtunnel.loopback import any_free
from windtunnel.registry import launch
from windtunnel.registry.client import RegistryClient
from windtunnel.registry.records import VersionRecord
from windtunnel.registry.signin import SignIn
from windtunnel.stackfile import read_secret

sys.path.insert(0, str(Path(__file__).parent))

API = "/api/2.0/mlflow"
MLMODEL = """\
artifact_path: model
flavors:
  python_function:
    loader_module: {flavor}
signature:
  inputs: '{inputs}'
"""
RECIPE = {"recipe": "boosted", "code": "sha256:c1", "params": {"depth": 3}, "features": ["age"], "data": "sha256:d1"}


#: MLflow sends webhooks to public addresses by https alone; here they come to a port of the test.
WEBHOOKS_HERE = {
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    "MLFLOW_WEBHOOK_CACHE_TTL": "0",
}

#: Databases of the session's first server, as its first start left them: making their tables takes seconds each time.
#: By the process, for rooms that load this file as a module of their own share it.
MIGRATED = Path(tempfile.gettempdir()) / f"wt-migrated-{os.getpid()}-{procfs.started(os.getpid())}"


def keep_migrated(mlflow: Path) -> None:
    """Copies of the databases below ``mlflow``, whole even while the server runs; gone with this process."""
    made = Path(tempfile.mkdtemp(prefix="wt-migrating-"))
    for path in mlflow.glob("*.db"):
        with (
            contextlib.closing(sqlite3.connect(path)) as source,
            contextlib.closing(sqlite3.connect(made / path.name)) as copy,
        ):
            source.backup(copy)
        (made / path.name).chmod(0o600)
    made.rename(MIGRATED)
    atexit.register(shutil.rmtree, MIGRATED, ignore_errors=True)


class RegistryServer:
    """One governed server with a home of its own; may be killed and started again.

    The session's first makes its tables; later ones begin with copies of them. At each start the server sets the
    passwords of its own users from its secrets, so no copy knows another's.
    """

    def __init__(
        self,
        root: Path,
        database_url: str | None = None,
        *,
        oidc: SignIn | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.database_url, self.oidc, self.env = database_url, oidc, dict(env or {})
        self.home = Home(root)
        self.port = any_free()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.ready_after = 0.0
        self.home.secrets.mkdir(parents=True, mode=0o700)
        for name in launch.SECRETS:
            path = self.home.secrets / name
            path.touch(mode=0o600)
            path.write_text(secrets.token_urlsafe(24), encoding="utf-8")

    def start(self, argv: tuple[str, ...] | None = None) -> None:
        plan = launch.prepare(self.home, self.port, database_url=self.database_url, oidc=self.oidc)
        for folder in plan.folders:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for file in plan.files:
            file.path.touch(mode=file.mode)
            file.path.write_text(file.content, encoding="utf-8")
        fresh = self.database_url is None and argv is None and not any(self.home.mlflow.glob("*.db"))
        if fresh and MIGRATED.exists():
            shutil.copytree(MIGRATED, self.home.mlflow, dirs_exist_ok=True)
        began = time.monotonic()
        with (self.home.root / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                argv or plan.argv,
                env={**os.environ, **plan.env, **self.env},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        # Plain http: a client that made a TLS context at every question would take a quarter of a core from the server.
        asking = httpx.Client(timeout=2, trust_env=False, verify=False)
        while True:
            try:
                if asking.get(self.url + plan.health).status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            assert self.process.poll() is None, self.log()[-3000:]
            assert time.monotonic() - began < 240, self.log()[-3000:]
            time.sleep(0.1)
        asking.close()
        self.ready_after = time.monotonic() - began
        if fresh and not MIGRATED.exists():
            keep_migrated(self.home.mlflow)

    def log(self) -> str:
        return (self.home.root / "server.log").read_text(encoding="utf-8", errors="replace")

    def kill(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait(90)

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(90)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(90)

    def client(self, role: str = "service") -> RegistryClient:
        return RegistryClient(self.url, role, read_secret(self.home, f"mlflow-{role}"))

    def rest(self, role: str = "service") -> httpx.Client:
        """MLflow's own REST API, as this user."""
        auth = (role, read_secret(self.home, f"mlflow-{role}"))
        return httpx.Client(base_url=self.url, auth=auth, timeout=20, trust_env=False)

    @property
    def artifacts(self) -> Path:
        return self.home.mlflow / "artifacts"


class Hands:
    """What a data scientist's code does, over MLflow's REST API as one user."""

    def __init__(self, http: httpx.Client) -> None:
        self.http = http

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None, **more: Any) -> Any:
        response = self.http.request(method, API + path, json=None if body is None else dict(body), **more)
        assert response.status_code == 200, response.text
        return response.json()

    def run(
        self,
        files: Mapping[str, bytes] | None = None,
        *,
        flavor: str = "mlflow.sklearn",
        inputs: str = "[]",
        mlmodel: bool = True,
    ) -> str:
        """A finished MLflow run with a model folder ``model``; the bytes differ from run to run."""
        run_id = self.call("POST", "/runs/create", {"experiment_id": "0"})["run"]["info"]["run_id"]
        if mlmodel:
            self.put(run_id, "model/MLmodel", MLMODEL.format(flavor=flavor, inputs=inputs).encode())
        for name, content in (files or {"model/weights": run_id.encode()}).items():
            self.put(run_id, name, content)
        return str(run_id)

    def put(self, run_id: str, name: str, content: bytes) -> httpx.Response:
        return self.http.put(f"/api/2.0/mlflow-artifacts/artifacts/0/{run_id}/artifacts/{name}", content=content)

    def model(self) -> str:
        """A fresh registered model; its name."""
        name = f"m-{uuid.uuid4().hex[:10]}"
        self.call("POST", "/registered-models/create", {"name": name})
        return name

    def plain_version(self, model: str, run_id: str) -> dict[str, Any]:
        body = {"name": model, "source": f"runs:/{run_id}/model", "run_id": run_id}
        return dict(self.call("POST", "/model-versions/create", body)["model_version"])


def judge(
    client: RegistryClient, record: VersionRecord, *kinds: str, outcome: Outcome = Outcome.PASS, reason: str = "as said"
) -> None:
    """Verdicts of these kinds about a version; the data check about its data."""
    for kind in kinds:
        subject = record.recipe["data"] if kind == "data-check" else record.digest
        client.post_verdict(
            Verdict(
                model=record.model,
                kind=Kind(kind),
                outcome=outcome,
                reason=reason,
                subject=str(subject),
                version=record.version,
            )
        )


def enter(client: RegistryClient, hands: Hands, model: str, **recipe: Any) -> VersionRecord:
    """Register a fresh run's model."""
    run_id = hands.run()
    return client.register(
        model,
        source=f"runs:/{run_id}/model",
        run_id=run_id,
        recipe={**RECIPE, **recipe},
        correlation_id="c1",
        cause="test",
    )


def crown(client: RegistryClient, hands: Hands, model: str, **recipe: Any) -> VersionRecord:
    """Register a version and bring it to champion the way a release does."""
    former = client.champion(model)
    record = enter(client, hands, model, **recipe)
    judge(client, record, "data-check", "evaluation", *(["rollout"] if former else []))
    rollout = client.open_rollout(model, record.version, plan={}, holder=f"h{record.version}", correlation_id="c1")
    return client.promote(rollout.id, rollout.token, former.version if former else None)


@pytest.fixture(scope="session")
def registry_server() -> Iterator[RegistryServer]:
    root = Path(tempfile.mkdtemp(prefix="wt-registry-"))
    server = RegistryServer(root, env=WEBHOOKS_HERE)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """A PostgreSQL of our own on loopback; the URL of its first database, as its owner."""
    with serving() as url:
        yield url


@pytest.fixture
def service(registry_server: RegistryServer) -> Iterator[RegistryClient]:
    with registry_server.client() as client:
        yield client


@pytest.fixture
def admin(registry_server: RegistryServer) -> Iterator[RegistryClient]:
    with registry_server.client("admin") as client:
        yield client


@pytest.fixture
def hands(registry_server: RegistryServer) -> Iterator[Hands]:
    with registry_server.rest() as http:
        yield Hands(http)


@pytest.fixture(scope="session")
def person(registry_server: RegistryServer) -> tuple[str, str]:
    """Name and password of an ordinary user who may change every model's MLflow metadata, and nothing more."""
    name, password = "ada", secrets.token_urlsafe(18)
    with registry_server.rest("admin") as http:
        assert http.post(f"{API}/users/create", json={"username": name, "password": password}).status_code == 200
    return name, password


@pytest.fixture
def person_http(registry_server: RegistryServer, person: tuple[str, str]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=registry_server.url, auth=person, timeout=20, trust_env=False) as http:
        yield http


@pytest.fixture
def person_client(registry_server: RegistryServer, person: tuple[str, str]) -> Iterator[RegistryClient]:
    with RegistryClient(registry_server.url, *person) as client:
        yield client


@pytest.fixture(scope="session")
def helpers() -> Any:
    """The functions of this file, for tests that cannot import a conftest."""

    class Helpers:
        judge = staticmethod(judge)
        enter = staticmethod(enter)
        crown = staticmethod(crown)
        RegistryServer = RegistryServer
        Hands = Hands
        RECIPE = RECIPE
        MIGRATED = MIGRATED

    return Helpers
