"""A plain MLflow server and a governed one with equal auth and databases of one kind, for benchmarks of both."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.rig import process, wait_until
from windtunnel.home import Home
from windtunnel.loopback import any_free
from windtunnel.registry import launch

API = "/api/2.0/mlflow"


@dataclass
class Server:
    """A server that answers; ``http`` asks it as its administrator, ``user`` as somebody who may change all models."""

    url: str
    home: Home
    process: subprocess.Popen[bytes]

    def http(self, name: str, password: str) -> Any:
        import httpx

        # Without TLS and without a proxy: a client of its own for each user, one connection kept.
        return httpx.Client(base_url=self.url, auth=(name, password), timeout=120, trust_env=False, verify=False)

    def admin(self) -> Any:
        return self.http("admin", (self.home.secrets / "mlflow-admin").read_text(encoding="utf-8"))

    def user(self) -> Any:
        """A fresh ordinary user, whose own models it may change, as in MLflow."""
        name, password = f"ada-{secrets.token_hex(3)}", secrets.token_urlsafe(18)
        with self.admin() as http:
            http.post(f"{API}/users/create", json={"username": name, "password": password}).raise_for_status()
        return self.http(name, password)

    def say(self) -> str:
        return (self.home.root / "server.log").read_text(encoding="utf-8", errors="replace")[-3000:]


@contextmanager
def server(folder: Path, database: str | None, *, governed: bool, limit_s: float = 300.0) -> Iterator[Server]:
    """Start one below ``folder``.

    Args:
        database: SQLAlchemy URL; SQLite below the folder when None.
        governed: ours; else MLflow's with its own auth, the same settings of it, and one worker.
    """
    import httpx

    home, port = Home(folder), any_free()
    home.secrets.mkdir(parents=True, mode=0o700)
    for name in launch.SECRETS:
        (home.secrets / name).write_text(secrets.token_urlsafe(24), encoding="utf-8")
        (home.secrets / name).chmod(0o600)
    plan = launch.prepare(home, port, database_url=database)
    for made in plan.folders:
        made.mkdir(parents=True, exist_ok=True, mode=0o700)
    for file in plan.files:
        file.path.write_text(file.content, encoding="utf-8")
    argv, env = list(plan.argv), {**os.environ, **plan.env}
    if not governed:
        uri = env["MLFLOW_REGISTRY_STORE_URI"].removeprefix(launch.SCHEME)
        env |= {
            "MLFLOW_REGISTRY_STORE_URI": uri,
            "MLFLOW_AUTH_ADMIN_PASSWORD": (home.secrets / "mlflow-admin").read_text(encoding="utf-8"),
            "MLFLOW_FLASK_SERVER_SECRET_KEY": (home.secrets / "mlflow-flask-key").read_text(encoding="utf-8"),
        }
        argv = [
            sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--serve-artifacts",
            "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        ]  # fmt: skip
        argv += ["--uvicorn-opts", "--no-access-log"]

    with (home.root / "server.log").open("ab") as log, process(argv, env=env, stdout=log, stderr=log) as child:
        found = Server(f"http://127.0.0.1:{port}", home, child)

        def answers() -> bool:
            if child.poll() is not None:
                raise RuntimeError(f"the server ended: {found.say()}")
            try:
                return bool(httpx.get(found.url + "/health", timeout=2, trust_env=False).status_code == 200)
            except httpx.HTTPError:
                return False

        wait_until(answers, limit_s, "the MLflow server")
        yield found


@contextmanager
def both(folder: Path, databases: tuple[str | None, str | None]) -> Iterator[tuple[Server, Server]]:
    """``(governed, plain)``."""
    with ExitStack() as stack:
        ours = stack.enter_context(server(folder / "ours", databases[0], governed=True))
        yield ours, stack.enter_context(server(folder / "plain", databases[1], governed=False))


def milliseconds(call: Any) -> float:
    """Time of one call that must succeed."""
    began = time.perf_counter()
    response = call()
    took = (time.perf_counter() - began) * 1000
    if response.status_code != 200:
        raise RuntimeError(f"{response.request.method} {response.request.url}: {response.status_code} {response.text}")
    return took
