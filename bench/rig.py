"""A router with its meter, and things behind it, in a home of their own; all of it ends with the ``with`` block."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from windtunnel.home import ENV_HOME, Home
from windtunnel.loopback import any_free
from windtunnel.serving import routing
from windtunnel.serving.local import envoy
from windtunnel.serving.traffic.countfiles import read_traffic
from windtunnel.stackfile import StackFile

MODEL = "bench"
ROOT = Path(__file__).parent.parent
SERVING_PYTHON = os.environ.get("WINDTUNNEL_SERVING_PYTHON") or str(ROOT / ".venv-serving/bin/python")
PATH = f"/v2/models/{MODEL}/infer"


def wait_until(condition: Callable[[], object], limit_s: float, what: str) -> None:
    """Return when ``condition`` holds.

    Raises:
        RuntimeError: it does not within ``limit_s``.
    """
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            raise RuntimeError(f"{what} did not come within {limit_s:g} s")
        time.sleep(0.05)


@contextmanager
def temporary_home() -> Iterator[Home]:
    """A home with a short path, removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="wtb-"))
    try:
        yield Home(folder / "home")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def process(command: list[str], **more: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A child that is ended at the end, by force if need be."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **more)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@dataclass
class Rig:
    """A running router and meter."""

    home: Home
    port: int
    pids: dict[str, int]
    router: envoy.Router = field(init=False)

    def __post_init__(self) -> None:
        self.router = envoy.Router(self.home)

    @property
    def url(self) -> str:
        """Where a client asks the model through the router."""
        return f"http://127.0.0.1:{self.port}{PATH}"

    def processor_s(self) -> dict[str, float]:
        """Processor time that router and meter have used so far."""
        import psutil

        return {name: sum(psutil.Process(pid).cpu_times()[:2]) for name, pid in self.pids.items()}

    def send_all_to(self, *ports: int) -> None:
        """Route the model to servers on these ports, versions 1, 2 ... with even weights, and wait for the router."""
        versions = [str(n + 1) for n in range(len(ports))]
        self.router.write_clusters(
            routing.clusters(
                [routing.Upstream(MODEL, version, port) for version, port in zip(versions, ports, strict=True)]
            )
        )
        self.router.await_clusters()
        weights = {version: routing.SLOTS // len(ports) for version in versions}
        weights[versions[0]] += routing.SLOTS - sum(weights.values())
        route = routing.ModelRoute(MODEL, routing.assign((), weights), ready_from=versions[0])
        self.router.write_routes(routing.routes([route]))
        self.router.await_routes()

    def counted(self) -> int:
        """Requests the meter has published so far."""
        return sum(arm.requests for arm in read_traffic(self.home, MODEL).arms.values())

    def await_count(self, wanted: int, limit_s: float = 20.0) -> int:
        """What the meter has counted once it has reached ``wanted``, or when patience ends."""
        end = time.monotonic() + limit_s
        while self.counted() < wanted and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(1.0)  # more than was sent would be wrong, too
        return self.counted()


@contextmanager
def rig() -> Iterator[Rig]:
    """A router and its meter as the stack runs them, with nothing routed yet."""
    with temporary_home() as home, ExitStack() as stack:
        port = any_free()
        home.logs.mkdir(parents=True)
        told = StackFile(
            str(home.root), {"envoy": port}, {"inference": f"http://127.0.0.1:{port}"},
            {"main": sys.executable, "serving": SERVING_PYTHON},
        )  # fmt: skip
        home.stack_file.write_text(told.to_json(), encoding="utf-8")
        home.serving_model(MODEL).mkdir(parents=True)
        envoy.bootstrap(home, port)
        log = stack.enter_context((home.logs / "bench.log").open("wb"))
        router = stack.enter_context(process(envoy.command(home), stdout=log, stderr=log))
        command = [sys.executable, "-m", "windtunnel.serving.traffic.meter"]
        env = {**os.environ, ENV_HOME: str(home.root)}
        meter = stack.enter_context(process(command, stdout=log, stderr=log, env=env))
        made = Rig(home, port, {"router": router.pid, "meter": meter.pid})
        wait_until(made.router.alive, 20, "the router")
        wait_until((home.serving / "traffic" / f"{MODEL}.json").exists, 20, "the meter")
        yield made


@contextmanager
def stub(answer: dict[str, Any], port: int | None = None) -> Iterator[int]:
    """The fastest server there is here: a second Envoy that answers ``answer`` by itself; yields its port."""
    with temporary_home() as home, ExitStack() as stack:
        port = port or any_free()
        home.root.mkdir(parents=True)
        route = {
            "match": {"prefix": "/"},
            "direct_response": {"status": 200, "body": {"inline_string": json.dumps(answer)}},
        }
        manager = {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3."
            "HttpConnectionManager",
            "stat_prefix": "stub",
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
            "http_filters": [
                {
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
                }
            ],
        }
        listener = {
            "name": "stub",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
            "filter_chains": [
                {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
            ],
        }
        config = home.root / "stub.json"
        config.write_text(json.dumps({"static_resources": {"listeners": [listener]}}), encoding="utf-8")
        command = envoy.command(home)
        command[command.index("--config-path") + 1] = str(config)
        log = stack.enter_context((home.root / "stub.log").open("wb"))
        stack.enter_context(process(command, stdout=log, stderr=log))
        wait_until(lambda: _answers(port), 20, "the stub server")
        yield port


def _answers(port: int) -> bool:
    import httpx

    try:
        return httpx.get(f"http://127.0.0.1:{port}/", timeout=1).status_code == 200
    except httpx.HTTPError:
        return False
