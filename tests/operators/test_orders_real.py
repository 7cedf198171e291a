"""DEMAND ROL-8, ROL-6: gates and a real registry that is killed under them, and started again."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from windtunnel.registry.client import RegistryClient
from windtunnel.serving.release import knownorders
from windtunnel.stackfile import read_secret
from windtunnel_airflow.orderbook import TIMEOUT_S, OrderBook

pytestmark = pytest.mark.real


@pytest.fixture
def server() -> Iterator[Any]:
    path = Path(__file__).parents[1] / "registry_ext" / "conftest.py"
    spec = importlib.util.spec_from_file_location("registry_conftest", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    root = Path(tempfile.mkdtemp(prefix="wt-orders-"))
    made = module.RegistryServer(root)
    made.tests = module
    try:
        made.start()
        yield made
    finally:
        made.stop()
        shutil.rmtree(root, ignore_errors=True)


def book(server: Any) -> OrderBook:
    """As a triggerer that has just started has it."""
    secret = read_secret(server.home, "mlflow-service")
    connect = lambda: RegistryClient(server.url, "service", secret, timeout=TIMEOUT_S)  # noqa: E731
    return OrderBook(connect, knownorders.path(server.home), poll_s=0.0)


def test_orders_outlive_the_registry_and_the_triggerer(server: Any) -> None:
    with server.rest() as http, server.client() as service:
        hands = server.tests.Hands(http)
        model = hands.model()
        server.tests.crown(service, hands, model)
        record = server.tests.enter(service, hands, model)
        rollout = service.open_rollout(model, record.version, plan={"owner": "blue"}, holder="h", correlation_id="c")
    with server.client("admin") as person:
        running = book(server)
        assert running.standing(rollout.id, model).paused is None
        person.order(rollout.id, "pause", "call centre")
        freeze = person.freeze("black friday", scope="owner", target="blue")
        known = running.standing(rollout.id, model)
        assert known.paused is not None and known.paused.sentence == "admin: call centre" and len(known.frozen) == 1

        server.kill()
        assert running.standing(rollout.id, model) == known
        assert "cannot be reached" in str(running.error)
        restarted = book(server)
        began = time.perf_counter()
        assert restarted.standing(rollout.id, model) == known
        assert time.perf_counter() - began < TIMEOUT_S + 1

        server.start()
        assert person.rollout(rollout.id).orders[0].reason == "call centre"
        person.order(rollout.id, "resume", "back")
        person.thaw(freeze.id, "over")
        for one in (running, restarted):
            after = one.standing(rollout.id, model)
            assert after.paused is None and after.frozen == () and one.error is None
