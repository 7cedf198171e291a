"""The real stack: comes up healthy, survives kills and a power cut, and goes away without a trace."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from dagruns import trigger
from waiting import until

from windtunnel.home import Home
from windtunnel.loopback import any_free
from windtunnel.stack import processes
from windtunnel.stack import stack as stack_module
from windtunnel.stack.health import Level
from windtunnel.stack.stack import PROGRAMS, Stack, Status
from windtunnel.stackfile import StackFile, read_secret

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

WINDTUNNEL = str(Path(sys.executable).parent / "windtunnel")

DAG = """
import os, subprocess
from airflow.sdk import Connection, dag, task

@dag(schedule=None, catchup=False)
def stacktest():
    @task
    def look() -> dict:
        # Detached like a training runner: nobody's child by the time the stack stops.
        subprocess.Popen(["sleep", "3600"], start_new_session=True, stdin=subprocess.DEVNULL,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        connection = Connection.get("windtunnel_default")
        return {"home": os.environ["WINDTUNNEL_HOME"], "type": connection.conn_type, "port": connection.port,
                "login": connection.login, "password": bool(connection.password)}
    look()

stacktest()
"""


class Airflow:
    """Airflow's REST API, as a person's script uses it."""

    def __init__(self, stack: Stack) -> None:
        url = StackFile.read(stack.home).urls["airflow"]
        login = {"username": "admin", "password": read_secret(stack.home, "airflow-admin")}
        token = httpx.post(f"{url}/auth/token", json=login, timeout=30).raise_for_status().json()["access_token"]
        self.client = httpx.Client(base_url=f"{url}/api/v2", headers={"Authorization": f"Bearer {token}"}, timeout=30)

    def get(self, path: str) -> Any:
        return self.client.get(path).raise_for_status().json()

    def run(self, dag_id: str) -> str:
        return trigger(self.client, f"/dags/{dag_id}/dagRuns")

    def finished(self, dag_id: str, run_id: str) -> str | None:
        state = self.get(f"/dags/{dag_id}/dagRuns/{run_id}")["state"]
        return str(state) if state in ("success", "failed") else None


def healthy(stack: Stack) -> Status | None:
    status = stack.status()
    return status if status.running and status.level is Level.HEALTHY else None


def pids(stack: Stack) -> dict[str, int | None]:
    return {name: state.pid for name, state in stack.supervisor.states().items()}


@pytest.fixture(scope="module")
def ran(stack: Stack) -> str:
    """A DAG file dropped into HOME/dags has run: its run id."""
    (stack.home.dags / "stacktest.py").write_text(DAG, encoding="utf-8")
    airflow = Airflow(stack)
    until(lambda: airflow.get("/dags/stacktest"), 60)
    run_id = airflow.run("stacktest")
    assert until(lambda: airflow.finished("stacktest", run_id)) == "success"
    return run_id


def test_everything_is_healthy_on_loopback_and_small(stack: Stack) -> None:
    """DEMAND OPS-5, OPS-6: health with reasons; loopback only. Idle memory below 3 GiB."""
    status = until(lambda: healthy(stack))
    assert {component.name for component in status.components} >= set(PROGRAMS)
    assert all(component.reason and component.pid for component in status.components)
    assert sum(component.memory_mb or 0 for component in status.components) < 3 * 1024
    ours = {process.pid for process in processes.of_home(stack.home)}
    listening = [c for c in psutil.net_connections("tcp") if c.pid in ours and c.status == psutil.CONN_LISTEN]
    assert {connection.laddr.ip for connection in listening} == {"127.0.0.1"}


def test_nobody_gets_in_without_a_password(stack: Stack) -> None:
    """DEMAND OPS-6: everything authenticated by default."""
    urls = StackFile.read(stack.home).urls
    assert httpx.get(f"{urls['airflow']}/api/v2/dags", timeout=30).status_code == 401
    wrong = {"username": "admin", "password": "admin"}
    assert httpx.post(f"{urls['airflow']}/auth/token", json=wrong, timeout=30).status_code == 401
    search = f"{urls['mlflow']}/api/2.0/mlflow/experiments/search?max_results=1"
    assert httpx.get(search, timeout=30).status_code == 401
    for user in ("admin", "service"):
        password = read_secret(stack.home, f"mlflow-{user}")
        assert httpx.get(search, auth=(user, password), timeout=30).status_code == 200


def test_secrets_are_private_and_in_no_process_list(stack: Stack, ran: str) -> None:
    """DEMAND OPS-6: mode 0600; never in a command line, a log or stack.json."""
    home = stack.home
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700
    assert stat.S_IMODE(home.secrets.stat().st_mode) == 0o700
    for path in [*home.secrets.iterdir(), home.airflow / "airflow.cfg", home.supervisor / "supervisord.conf"]:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(stack.supervisor.socket.stat().st_mode) == 0o600
    words = [path.read_text().strip() for path in home.secrets.iterdir() if path.suffix == "" and path.name[0] != "."]
    assert len(words) >= 7
    for process in processes.of_home(home):
        assert not [word for word in words if word in process.command]
    for path in [home.stack_file, *home.logs.rglob("*")]:
        if path.is_file():
            text = path.read_text(errors="replace")
            assert not [word for word in words if word in text], path


def test_a_dropped_dag_runs_and_finds_the_registry(stack: Stack, ran: str) -> None:
    airflow = Airflow(stack)
    said = airflow.get(f"/dags/stacktest/dagRuns/{ran}/taskInstances/look/xcomEntries/return_value")["value"]
    said = said if isinstance(said, dict) else json.loads(said.replace("'", '"'))
    port = StackFile.read(stack.home).ports["mlflow"]
    assert said == {
        "home": str(stack.home.root), "type": "windtunnel", "port": port, "login": "service", "password": True,
    }  # fmt: skip
    errors = airflow.get("/importErrors")["import_errors"]
    ours = ("stacktest.py", "windtunnel_steward.py", "windtunnel_control.py")
    assert [error for error in errors if error["filename"] in ours] == []
    airflow.get("/dags/windtunnel.steward")  # ships with every stack


def test_up_again_changes_nothing(stack: Stack) -> None:
    before = pids(stack)
    done = subprocess.run(
        [WINDTUNNEL, "--home", str(stack.home.root), "up", "--json"], capture_output=True, text=True, check=True
    )
    plain = json.loads(done.stdout)
    assert plain["already_running"] is True
    assert plain["urls"] == StackFile.read(stack.home).urls
    assert pids(stack) == before
    other = subprocess.run(
        [WINDTUNNEL, "--home", str(stack.home.root), "up", "--mlflow-port", "1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert other.returncode == 1 and "runs already" in other.stderr
    assert pids(stack) == before


def test_doctor_finds_nothing_wrong(stack: Stack) -> None:
    """DEMAND OPS-4."""
    until(lambda: healthy(stack))
    done = subprocess.run(
        [WINDTUNNEL, "doctor", "--json", "--home", str(stack.home.root)], capture_output=True, text=True, check=False
    )
    failed = [finding for finding in json.loads(done.stdout)["findings"] if finding["result"] == "fail"]
    assert failed == [] and done.returncode == 0


def _known(pid: int | None) -> int:
    """0 would be everybody in the tests' own process group."""
    assert pid
    return pid


def test_every_program_killed_at_once_comes_back(stack: Stack) -> None:
    """DEMAND OPS-9: back after kill -9: serving in 1 minute, registry in 2, pipelines in 10."""
    until(lambda: healthy(stack))
    before = pids(stack)
    for name in PROGRAMS:
        with contextlib.suppress(ProcessLookupError):  # some end by themselves when what they need is gone
            os.kill(_known(before[name]), signal.SIGKILL)
    began = time.monotonic()
    back: dict[str, float] = {}

    def all_back() -> bool:
        for component in stack.status().components:
            if component.pid and component.pid != before.get(component.name) and component.level is Level.HEALTHY:
                back.setdefault(component.name, time.monotonic() - began)
        return set(PROGRAMS) <= set(back)

    until(all_back, 120)
    assert max(back[name] for name in ("envoy", "meter", "guard")) < 60
    assert back["mlflow"] < 120
    assert max(back.values()) < 120


@pytest.mark.long
@pytest.mark.parametrize("name", PROGRAMS)
def test_each_program_killed_alone_comes_back(stack: Stack, name: str) -> None:
    """DEMAND OPS-9, one by one: the others do not even notice."""
    until(lambda: healthy(stack))
    before = pids(stack)
    os.kill(_known(before[name]), signal.SIGKILL)
    until(lambda: pids(stack)[name] not in (None, before[name]))
    until(lambda: healthy(stack), 120)
    after = pids(stack)
    assert {other for other in PROGRAMS if after[other] != before[other]} == {name}


def test_power_cut(stack: Stack, ran: str) -> None:
    """DEMAND OPS-9: kill -9 of everything; 'up' comes back to the same state."""
    file = StackFile.read(stack.home)
    password = read_secret(stack.home, "airflow-admin")
    supervisor = processes.identify(file.pid or 0)
    assert supervisor is not None
    processes.end_all(stack.home, patience_s=-1)  # SIGKILL at once
    assert not processes.is_alive(supervisor)
    assert stack.supervisor.socket.exists()  # stale, as after a power cut
    dead = stack.status()
    assert not dead.running and dead.level is Level.UNHEALTHY

    started = stack.up()
    assert not started.already and started.passwords == {}
    assert started.file.ports == file.ports and started.file.pid != file.pid
    assert read_secret(stack.home, "airflow-admin") == password
    assert Airflow(stack).get(f"/dags/stacktest/dagRuns/{ran}")["state"] == "success"
    until(lambda: healthy(stack))


@pytest.mark.parametrize("supervisor", ["alive", "killed"])
def test_down_leaves_no_process(stack: Stack, ran: str, supervisor: str) -> None:
    """Detached processes included, and without a supervisor to ask."""
    airflow = Airflow(stack)
    run_id = airflow.run("stacktest")
    until(lambda: airflow.finished("stacktest", run_id))
    assert any("sleep 3600" in process.command for process in processes.of_home(stack.home))
    if supervisor == "killed":
        os.kill(_known(stack.supervisor.pid()), signal.SIGKILL)
    began = time.monotonic()
    assert stack.down() == []
    assert time.monotonic() - began < 20
    assert processes.of_home(stack.home) == []
    mark = f"{processes.MARK}={stack.home.root}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                assert mark not in (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
    assert not stack.status().running
    assert stack.down() == []  # once more is no error
    stack.up()
    until(lambda: healthy(stack))


def interrupted_up(home: Path, after_s: float, number: signal.Signals = signal.SIGINT) -> int:
    """``windtunnel up`` in a terminal where somebody types Ctrl-C, seconds after its first line; its exit code.

    Before that line it is Python that is interrupted, which says 1 while it is still starting itself.
    """
    child = subprocess.Popen(
        [WINDTUNNEL, "--home", str(home), "up"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        # As in a terminal: a test run that is itself a background job ignores SIGINT, and its children would too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    assert child.stderr is not None
    try:
        assert child.stderr.readline()
        threading.Thread(target=child.stderr.read, daemon=True).start()  # a full pipe would stop it
        time.sleep(after_s)
        os.killpg(child.pid, number)
        time.sleep(0.3)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)  # people type it twice
        return child.wait(60)
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)


@pytest.mark.parametrize(
    "moments",
    [(0.0, 2.0), pytest.param((0.1, 0.5, 1.0, 1.5, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0), marks=pytest.mark.long)],
)
def test_ctrl_c_leaves_nothing_running_and_nothing_half_done(tmp_path: Path, moments: tuple[float, ...]) -> None:
    home = Home(tmp_path / "home")
    try:
        for moment in moments:
            assert interrupted_up(home.root, moment) in (130, -signal.SIGINT)
            assert processes.of_home(home) == []
            assert not (home.airflow / "airflow.db.partial").exists()
        # Killed while Airflow's tables are being made: it cannot clean up, so the next one does.
        assert interrupted_up(home.root, 1.8, signal.SIGKILL) == -signal.SIGKILL
        assert processes.of_home(home) != []
        started = Stack(home).up()
        assert set(started.passwords) == {"airflow", "mlflow"}  # never shown before, so shown now
    finally:
        assert Stack(home).down() == []


def test_a_taken_port_stops_up_before_anything_starts(stack: Stack, tmp_path: Path) -> None:
    """The holder is named: here the session's own router."""
    taken = StackFile.read(stack.home).ports["envoy"]
    done = subprocess.run(
        [WINDTUNNEL, "--home", str(tmp_path / "h"), "up", "--airflow-port", str(taken)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"port {taken} for airflow is taken by" in done.stderr and "envoy" in done.stderr
    assert "--airflow-port" in done.stderr
    assert processes.of_home(Home(tmp_path / "h")) == []


def test_a_port_lost_while_starting_is_replaced_by_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody listens between our choosing a port and our server's listening; and answers 200 to everything."""
    lost = any_free()
    home = Home(tmp_path / "h")
    code = (
        "import http.server, sys\n"
        "class Polite(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self): self.send_response(200); self.end_headers()\n"
        "http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Polite).serve_forever()\n"
    )
    stranger = subprocess.Popen([sys.executable, "-c", code, str(lost)], stderr=subprocess.DEVNULL)
    real = stack_module.port_choice.choose
    choices: list[dict[str, int]] = []

    def choose(told: Mapping[str, int], remembered: Mapping[str, int]) -> dict[str, int]:
        choices.append({**real(told, {}), "envoy": lost} if not choices else real(told, {}))
        return choices[-1]

    monkeypatch.setattr(stack_module.port_choice, "choose", choose)
    told: list[str] = []
    try:
        started = Stack(home, only=("envoy", "meter")).up(tell=told.append)
        assert started.file.ports["envoy"] != lost and len(choices) == 2
        assert any(str(lost) in line and "taken" in line for line in told)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()
        assert Stack(home).down() == []


def test_a_server_that_cannot_start_is_named_and_nothing_stays(tmp_path: Path) -> None:
    """A program that dies at once: the message has its last words, and all the others are stopped."""
    home = Home(tmp_path / "h")
    home.root.mkdir()
    (home.root / "windtunnel.toml").write_text('[airflow.core]\nauth_manager = "no.such.Manager"\n')
    from windtunnel.errors import StackError

    with pytest.raises(StackError, match=r"airflow"):
        Stack(home).up(limit_s=25)
    assert processes.of_home(home) == []
