"""DEMAND OPS-10: the registry's certificate is by a new authority, and the file with it was exchanged: guard, triggerer
and tasks believe it without a restart."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import certificates
import pytest

from windtunnel.home import Home
from windtunnel.registry import connect
from windtunnel.serving.release.settling import Case, Settler
from windtunnel_airflow import orderbook
from windtunnel_airflow.hook import WindtunnelHook

ORDERS = {"seq": 0, "orders": [], "freezes": []}


class Registry(BaseHTTPRequestHandler):
    """Knows no rollout, and no order; each answer ends its connection, so the next one shakes hands anew."""

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        known = {"orders": (200, ORDERS), "health": (200, {"status": "ok"})}
        status, told = known.get(
            self.path.partition("?")[0].rpartition("/")[2], (404, {"error_code": "WT_NOT_FOUND", "message": "no such"})
        )
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[tuple[str, Path, Callable[[], None]]]:
    """Its URL, the file with its authority, and what renews both."""
    with certificates.renewable(Registry, tmp_path) as (url, renew):
        yield url, tmp_path / "ca.crt", renew


def test_the_guard(
    registry: tuple[str, Path, Callable[[], None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the chart starts it: by ``SSL_CERT_FILE``. At most one question is lost."""
    url, file, renew = registry
    variables = {
        connect.ENV_URL: url,
        connect.ENV_USER: "service",
        connect.ENV_PASSWORD: "p",
        "SSL_CERT_FILE": str(file),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    errors: dict[str, str] = {}
    nothing: Any = SimpleNamespace()
    settler = Settler(
        nothing, nothing, nothing, lambda: connect.nearest(Home(tmp_path / "home")).client(),
        act=lambda *_: None, errors=errors, monotonic=lambda: 0.0, wall=lambda: 0.0,
    )  # fmt: skip
    case = Case("sea", "r", 1, "2", False)

    def asked() -> str:
        settler._ask(case)
        return errors["sea"]

    assert "is not in this registry" in asked()
    before = file.read_bytes()
    renew()
    after = file.read_bytes()
    file.write_bytes(before)  # the kubelet is late
    assert "waits for the registry" in asked()
    assert "waits for the registry" in asked()
    file.write_bytes(after)
    assert "is not in this registry" in asked()


def test_airflow(
    registry: tuple[str, Path, Callable[[], None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tasks, and the triggerer's book of orders, which keeps its client: by ``ca`` of the connection."""
    url, file, renew = registry
    extra = {"ca": str(file), "home": str(tmp_path / "home")}
    given = {"conn_type": "windtunnel", "host": url, "login": "service", "password": "p", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_WINDTUNNEL_DEFAULT", json.dumps(given))
    now = [0.0]
    hook = WindtunnelHook()
    book = orderbook.OrderBook(lambda: hook.connected(5.0), clock=lambda: now[0])

    def asked() -> str | None:
        now[0] += 60.0
        book.standing("r", "sea")
        return book.error

    assert asked() is None and hook.registry.health()
    renew()
    assert "CERTIFICATE_VERIFY_FAILED" in str(asked())
    assert asked() is None and hook.registry.health()
