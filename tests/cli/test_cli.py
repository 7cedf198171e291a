"""The command line's contract: data on stdout, talk on stderr, exit codes, errors without tracebacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WINDTUNNEL = str(Path(sys.executable).parent / "windtunnel")


def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [WINDTUNNEL, *words], capture_output=True, text=True, timeout=60, env={**os.environ, **env}, check=False
    )


def test_help_names_every_command_and_the_exit_codes() -> None:
    done = run("--help")
    assert done.returncode == 0
    for command in ("up", "down", "status", "logs", "doctor", "uninstall", "schema", "check", "demo", "rollout"):
        assert f"\n  {command} " in done.stdout
    assert "INCONCLUSIVE" in done.stdout
    assert "..." not in done.stdout.split("Commands:")[1]  # no summary is cut off


@pytest.mark.parametrize("command", ["up", "down", "status", "logs", "doctor", "uninstall", "check", "demo", "schema"])
def test_each_command_has_help_of_its_own(command: str) -> None:
    assert run(command, "--help").returncode == 0


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['windtunnel', '--help']\n"
        "from windtunnel.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('rich', 'pandas', 'numpy', 'airflow', 'mlflow', 'httpx', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "words",
    [
        ["nope"],
        ["up", "--nope"],
        ["up", "--airflow-port", "0"],
        ["logs"],
        ["demo", "--harm", "mild"],
        ["rollout", "abort", "m"],
    ],
)
def test_wrong_usage_is_two(words: list[str]) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_a_password_on_the_command_line_is_refused_and_not_repeated(tmp_path: Path) -> None:
    done = run("up", "--home", str(tmp_path / "h"), "--database-url", "postgresql://ann:s3cret@h/d")
    assert done.returncode == 2
    assert "WINDTUNNEL_DATABASE_URL" in done.stderr and "s3cret" not in done.stderr
    assert not (tmp_path / "h").exists()


def test_status_of_no_stack(tmp_path: Path) -> None:
    done = run("--home", str(tmp_path / "h"), "status", "--json")
    assert done.returncode == 1
    plain = json.loads(done.stdout)
    assert plain["schema"] == "windtunnel.status/1"
    assert plain["running"] is False and plain["level"] == "unknown"
    human = run("status", "--home", str(tmp_path / "h"))
    assert human.returncode == 1 and "windtunnel up" in human.stderr


def test_down_of_no_stack_is_done_already(tmp_path: Path) -> None:
    assert run("down", "--home", str(tmp_path / "h")).returncode == 0
    assert not (tmp_path / "h").exists()


def test_an_error_says_what_and_what_to_do(tmp_path: Path) -> None:
    done = run("logs", "nope", "--home", str(tmp_path))
    assert done.returncode == 1
    message, hint = done.stderr.strip().splitlines()
    assert message.startswith("windtunnel: ") and "nope" in message
    assert hint.startswith("  -> ")
    assert "Traceback" in run("logs", "nope", "--home", str(tmp_path), WINDTUNNEL_DEBUG="1").stderr


@pytest.mark.parametrize("home", ["with space", "per%cent", 'quo"te'])
def test_a_home_that_cannot_be_is_refused(tmp_path: Path, home: str) -> None:
    done = run("up", "--home", str(tmp_path / home))
    assert done.returncode == 1
    assert "cannot be a home" in done.stderr
    assert not (tmp_path / home).exists()


def test_uninstall_asks_first(tmp_path: Path) -> None:
    (tmp_path / "h").mkdir()
    (tmp_path / "h" / "stack.json").write_text("{}")
    done = run("uninstall", "--home", str(tmp_path / "h"))
    assert done.returncode == 2 and "--yes" in done.stderr
    assert (tmp_path / "h").exists()
    assert run("uninstall", "--yes", "--home", str(tmp_path / "h")).returncode == 0
    assert not (tmp_path / "h").exists()


def test_uninstall_leaves_a_folder_alone_that_is_no_home(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    done = run("uninstall", "--yes", "--home", str(tmp_path))
    assert done.returncode == 1 and "does not look like a home" in done.stderr
    assert (tmp_path / "precious").exists()


def test_logs_are_shown_for_people_and_raw_for_machines(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    line = json.dumps({"timestamp": "2026-01-01T10:00:00Z", "level": "info", "event": "hello", "logger": "x", "run": 3})
    (tmp_path / "logs" / "guard.log").write_text("plain\n" + line + "\n")
    shown = run("logs", "guard", "--home", str(tmp_path)).stdout.splitlines()
    assert shown[0] == "plain"
    assert shown[1].startswith("10:00:00 INFO") and "hello" in shown[1] and "run=3" in shown[1]
    assert run("logs", "guard", "-n", "1", "--json", "--home", str(tmp_path)).stdout == line + "\n"


def test_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "guard.log").write_text("line\n" * 50_000)
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {WINDTUNNEL} logs guard -n 50000 --home {tmp_path} | head -1"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and done.stderr == ""


def test_doctor_tells_how_to_mend(tmp_path: Path) -> None:
    done = run("doctor", "--json", "--home", str(tmp_path / "h"), WINDTUNNEL_SERVING_PYTHON="/nowhere/python")
    assert done.returncode == 1
    plain = json.loads(done.stdout)
    failed = {finding["name"]: finding for finding in plain["findings"] if finding["result"] == "fail"}
    assert "/nowhere/python" in failed["model server"]["found"]
    assert all(finding["mend"] for finding in failed.values())
    assert {"python", "mlflow", "router", "disk", "memory", "permissions", "clock"} <= {
        f["name"] for f in plain["findings"]
    }
