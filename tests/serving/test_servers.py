"""Programs of model servers: what supervisord is told, ports, limits (DEMAND SRV-2)."""

from __future__ import annotations

import configparser
import json
import socket
from pathlib import Path

import pytest

from windtunnel.errors import ServingError
from windtunnel.home import Home
from windtunnel.serving.artifacts import Folder
from windtunnel.serving.local import servers
from windtunnel.serving.local.servers import ProcessServers, Program
from windtunnel.serving.modelserver import launch
from windtunnel.spec.serving import Scale, Serving
from windtunnel.stackfile import StackFile


def make(tmp_path: Path, serving: Serving) -> Program:
    home = Home(tmp_path)
    home.stack_file.write_text(StackFile(str(tmp_path), {}, {}, {"serving": "/env/bin/python"}).to_json())
    return servers.configure(
        Folder.of(home, "visits", "3"),
        home=home,
        model="visits",
        version="3",
        digest="sha256:ab",
        port=21_003,
        serving=serving,
        warmup=[{"age": 1.0}],
    )


def test_a_program_is_told_what_the_description_says(tmp_path: Path) -> None:
    program = make(tmp_path, Serving(memory="512Mi", timeout="3s", drain="7s", flush="2s", cpu=1.5, sample=0.5))
    assert program.name == "wt-visits-3"
    assert program.command == ("/env/bin/python", "-m", "windtunnel.serving.modelserver.launch", str(program.folder))
    assert program.environment["OMP_NUM_THREADS"] == "2"
    config = json.loads((program.folder / "server.json").read_text())
    assert {key: config[key] for key in ("memory", "timeout_s", "drain_s", "flush_s", "sample", "cpu", "port")} == {
        "memory": 2**29,
        "timeout_s": 3.0,
        "drain_s": 7.0,
        "flush_s": 2.0,
        "sample": 0.5,
        "cpu": 2,
        "port": 21_003,
    }
    mlserver = json.loads((program.folder / "mlserver/settings.json").read_text())
    assert (mlserver["host"], mlserver["http_port"], mlserver["parallel_workers"]) == ("127.0.0.1", 21_003, 0)
    model = json.loads((program.folder / "mlserver/model-settings.json").read_text())
    assert model["parameters"] == {"uri": str(program.folder), "version": "3"}


def test_the_same_settings_touch_no_file(tmp_path: Path) -> None:
    first = make(tmp_path, Serving())
    stamps = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*.json")}
    assert make(tmp_path, Serving()) == first
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*.json")} == stamps
    assert len(stamps) == 3


def test_supervisord_reads_what_we_write() -> None:
    program = Program(
        "wt-visits-3",
        ("/env with space/python", "-m", "x", "100%"),
        Path("/home/me"),
        Path("/logs/100%.log"),
        {"A": "1%"},
        12.5,
    )
    parser = configparser.RawConfigParser()
    parser.read_string(servers.conf(program))
    found = dict(parser["program:wt-visits-3"])
    assert found == {
        "command": "'/env with space/python' -m x 100%%",
        "directory": "/home/me",
        "environment": 'A="1%%"',
        "autostart": "true",
        "autorestart": "unexpected",
        "exitcodes": "3",
        "startsecs": "0",
        "stopsignal": "TERM",
        "stopwaitsecs": "13",
        "stopasgroup": "true",
        "killasgroup": "true",
        "redirect_stderr": "true",
        "stdout_logfile": "/logs/100%%.log",
        "stdout_logfile_maxbytes": "5MB",
        "stdout_logfile_backups": "1",
        "umask": "077",
    }


def test_an_environment_of_its_own_must_be_on_this_machine(tmp_path: Path) -> None:
    """DEMAND SRV-9"""
    with pytest.raises(ServingError, match="environment 'torch', which is not on this machine") as refused:
        make(tmp_path, Serving(environment="torch"))
    assert refused.value.hint == "windtunnel setup-serving torch requirements.txt"
    python = Home(tmp_path).serving_environment("torch") / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("")
    python.chmod(0o755)
    assert make(tmp_path, Serving(environment="torch")).command[0] == str(python)


def test_a_port_in_use_or_taken_is_not_given() -> None:
    first = servers.free_port(set(), 5000)
    with socket.create_server(("127.0.0.1", first)):
        second = servers.free_port(set(), 5000)
        assert second != first
        assert servers.free_port({second}, 5000) not in (first, second)
    assert all(port in servers.PORTS for port in (first, second))


def test_no_port_left_is_an_error() -> None:
    with pytest.raises(ServingError, match="no free port"):
        servers.free_port(set(servers.PORTS), 0)


@pytest.mark.parametrize(
    ("ages", "seconds"),
    [
        ([], 0),
        ([5], 0),
        ([5, 4], 2),
        ([6, 5, 4], 4),
        ([9, 8, 7, 6], 8),
        ([9] * 10, 30),
        ([90] * 10, 0),
        ([90] * 9 + [5], 0),
    ],
)
def test_a_crash_loop_slows_down_and_an_old_crash_is_forgotten(ages: list[int], seconds: float) -> None:
    assert launch.pause([1000.0 - age for age in ages], 1000.0) == seconds


def test_rows_become_tensors() -> None:
    rows = [{"age": 1, "income": None, "plan": "a", "old": True}, {"age": 2, "income": 2.5, "plan": None, "old": False}]
    assert servers.tensors(rows) == [
        {"name": "age", "shape": [2], "datatype": "INT64", "data": [1, 2]},
        {"name": "income", "shape": [2], "datatype": "FP64", "data": [None, 2.5]},
        {"name": "plan", "shape": [2], "datatype": "BYTES", "data": ["a", None]},
        {"name": "old", "shape": [2], "datatype": "BOOL", "data": [True, False]},
    ]


def test_a_process_is_started_left_alone_replaced_and_ended(tmp_path: Path) -> None:
    manager = ProcessServers()

    def program(seconds: str) -> Program:
        return Program("sleeper", ("/bin/sleep", seconds), tmp_path, tmp_path / "log", stop_s=5)

    try:
        assert manager.status("sleeper").state == "absent"
        manager.start(program("60"))
        pid = manager.status("sleeper").pid
        manager.start(program("60"))
        assert manager.status("sleeper").pid == pid
        manager.start(program("61"))
        assert manager.status("sleeper").pid not in (None, pid)
        assert manager.names() == ["sleeper"]
        manager.stop("sleeper")
        assert manager.status("sleeper").state == "absent"
        manager.start(Program("ends", ("/bin/sh", "-c", "exit 5"), tmp_path, tmp_path / "log"))
        manager._running["ends"][1].wait(90)
        assert manager.status("ends").message == "exit code 5"
    finally:
        manager.close()


def test_what_this_machine_does_not_follow_is_named() -> None:
    assert servers.ignored(Serving()) == []
    assert servers.ignored(Serving(replicas=2, disk=1, gpu=1, maximum=3, scale=Scale(cpu=50), api="core2")) == [
        "serving.replicas", "serving.maximum", "serving.scale", "serving.disk", "serving.gpu", "serving.api",
    ]  # fmt: skip
