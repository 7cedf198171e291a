"""supervisord's configuration, read back by supervisord's own parser."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from windtunnel.stack.programs import Program, configuration, quote, value


def read_back(tmp_path: Path, *programs: Program) -> Any:
    from supervisor.options import ServerOptions

    (tmp_path / "conf.d").mkdir(exist_ok=True)
    (tmp_path / "logs").mkdir(exist_ok=True)
    path = tmp_path / "supervisord.conf"
    path.write_text(
        configuration(programs, folder=tmp_path, socket=tmp_path / "supervisor.sock", logs=tmp_path / "logs")
    )
    options = ServerOptions()
    options.realize(["-c", str(path), "-n"])
    return options


def test_command_and_environment_come_back_as_they_were(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", "print('a b', \"c\", 100%5)", "--x=y;z", "#no-comment", "%(x)s"]
    env = {"PLAIN": "x", "PERCENT": "50%", "COMMAS": "a,b=c", "BACK": "a\\nb", "URL": "sqlite:////x/y.db"}
    options = read_back(tmp_path, Program("one", argv, env, tmp_path))
    (group,) = options.process_group_configs
    (process,) = group.process_configs
    import shlex

    assert shlex.split(process.command) == argv
    assert {key: process.environment[key] for key in env} == env
    assert process.directory == str(tmp_path)


def test_programs_restart_stop_as_a_group_and_rotate_their_logs(tmp_path: Path) -> None:
    options = read_back(tmp_path, Program("one", ["/bin/true"], stop_signal="INT", stop_wait_s=3))
    process = options.process_group_configs[0].process_configs[0]
    assert process.autostart is False
    assert process.autorestart is not False
    assert process.stopasgroup and process.killasgroup
    assert process.stopsignal == signal.SIGINT and process.stopwaitsecs == 3
    assert process.stdout_logfile_maxbytes == 10 * 1024 * 1024 and process.stdout_logfile_backups == 3


def test_only_a_private_unix_socket_listens(tmp_path: Path) -> None:
    """DEMAND OPS-6: nothing of the supervisor is on the network."""
    options = read_back(tmp_path, Program("one", ["/bin/true"]))
    (server,) = options.server_configs
    assert server["file"] == str(tmp_path / "supervisor.sock")
    assert server["chmod"] == 0o600


def test_model_servers_are_included(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "m.conf").write_text("[program:m.v1]\ncommand=/bin/true\n")
    options = read_back(tmp_path, Program("one", ["/bin/true"]))
    assert {group.name for group in options.process_group_configs} == {"one", "m.v1"}


@pytest.mark.parametrize("bad", ["a\nb", 'a"b', "a'b"])
def test_what_supervisord_cannot_carry_is_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        value(bad)


def test_plain_words_stay_plain() -> None:
    assert quote("/usr/bin/x") == "/usr/bin/x"
    assert quote("") == "''"


assert os.name == "posix"
