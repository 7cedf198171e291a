"""Ports: free ones unless told, remembered, and a taken one names its holder."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from windtunnel.errors import StackError
from windtunnel.loopback import any_free, is_free
from windtunnel.stack import ports


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
