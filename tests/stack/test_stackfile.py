"""Sockets of homes with long paths, and the environment of everything below the supervisor."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from windtunnel.errors import StackError
from windtunnel.home import Home
from windtunnel.stack.supervisor import clean_environment
from windtunnel.stackfile import make_socket_folder, supervisor_socket


def test_a_short_home_keeps_its_socket() -> None:
    home = Home(Path("/h"))
    assert supervisor_socket(home) == Path("/h/supervisor/supervisor.sock")


def test_a_long_home_gets_a_short_private_socket_always_the_same(tmp_path: Path) -> None:
    home = Home(tmp_path / ("x" * 90))
    path = supervisor_socket(home)
    assert path == supervisor_socket(Home(home.root))
    assert path != supervisor_socket(Home(tmp_path / ("y" * 90)))
    make_socket_folder(path)
    try:
        assert path.parent.stat().st_mode & 0o777 == 0o700
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"{path}.{os.getpid()}")  # as supervisord does first
            Path(f"{path}.{os.getpid()}").unlink()
    finally:
        path.parent.rmdir()


def test_a_socket_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(StackError, match="not ours"):
        make_socket_folder(tmp_path / "link" / "supervisor.sock")


def test_foreign_settings_do_not_reach_the_servers(tmp_path: Path) -> None:
    env = clean_environment(
        Home(tmp_path),
        {
            "AIRFLOW__CORE__EXECUTOR": "X", "MLFLOW_TRACKING_URI": "http://elsewhere", "PYTHONPATH": "/evil",
            "WINDTUNNEL_DATABASE_URL": "postgresql://u:secret@h/d", "HOME": "/home/ann", "no_proxy": "example.org",
        },
    )  # fmt: skip
    assert "secret" not in " ".join(env.values())
    assert not [key for key in env if key.startswith(("AIRFLOW", "PYTHON")) or key == "MLFLOW_TRACKING_URI"]
    assert env["DO_NOT_TRACK"] == "1"
    assert env["HOME"] == "/home/ann"
    assert env["no_proxy"].split(",") == ["example.org", "127.0.0.1", "localhost"]
    assert env["WINDTUNNEL_HOME"] == str(tmp_path)
    assert env["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_the_stack_room_is_cheap_to_import() -> None:
    """The command line's first words must not wait for Airflow or MLflow."""
    heavy = ("airflow", "mlflow", "pandas", "httpx")
    code = f"import sys, windtunnel.stack.stack; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
