"""Ports: free ones unless told, remembered, and a taken one names its holder."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from windtunnel.errors import StackError
from windtunnel.home import Home
from windtunnel.loopback import any_free, is_free
from windtunnel.stack import ports, stack


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        yield int(server.getsockname()[1])


def test_every_server_gets_a_free_port_of_its_own() -> None:
    chosen = ports.choose({}, {})
    assert set(chosen) == {"airflow", "mlflow", "envoy"}
    assert len(set(chosen.values())) == 3
    assert all(is_free(port) for port in chosen.values())


def test_told_wins_over_remembered_and_remembered_over_any() -> None:
    told, remembered = any_free(), any_free()
    chosen = ports.choose({"airflow": told}, {"airflow": remembered, "mlflow": remembered})
    assert chosen["airflow"] == told
    assert chosen["mlflow"] == remembered


def test_a_remembered_port_that_somebody_took_is_given_up(taken: int) -> None:
    assert ports.choose({}, {"mlflow": taken})["mlflow"] != taken


def test_a_told_port_that_is_taken_names_its_holder(taken: int) -> None:
    with pytest.raises(StackError, match=rf"port {taken} for envoy is taken by .*pid {os.getpid()}") as caught:
        ports.choose({"envoy": taken}, {})
    assert "--envoy-port" in str(caught.value.hint)


def test_one_port_for_two_servers_is_refused() -> None:
    port = any_free()
    with pytest.raises(StackError, match=f"{port} is named for two"):
        ports.choose({"airflow": port, "mlflow": port}, {})


@pytest.mark.parametrize(
    ("looks", "lost"),
    [
        ([1], False),
        ([None, 1], False),  # it began to listen while ports and processes were read
        ([2, 1], False),  # it was replaced by a program of its own: no mark for a moment
        ([None, "nobody listens"], False),
        ([2, 2], True),
        ([None, None], True),
    ],
)
def test_a_port_is_lost_to_a_stranger_and_not_to_a_process_that_has_just_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looks: list[Any], lost: bool
) -> None:
    found = iter([*looks, looks[-1]])
    monkeypatch.setattr(
        stack.port_choice, "listeners", lambda: {} if (pid := next(found)) == "nobody listens" else {5000: pid}
    )
    monkeypatch.setattr(stack.processes, "of_home", lambda home: [SimpleNamespace(pid=1)])
    file = SimpleNamespace(ports={"airflow": 8080, "mlflow": 5000, "envoy": 8085})
    with pytest.raises(StackError, match="port 5000 for mlflow was taken") if lost else nullcontext():
        stack.Stack(Home(tmp_path))._check_ports(file, {"mlflow": None}, ["mlflow"])  # type: ignore[arg-type, dict-item]
