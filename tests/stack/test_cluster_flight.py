"""What ``windtunnel cluster demo`` believes, and who asks for predictions there.

No cluster is at hand: Airflow, the registry and ``kubectl`` are played here, so that each thing that is not as told is
seen to end the story.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from fakelaptop import ROOT
from waiting import until

from windtunnel.errors import StackError
from windtunnel.serving.seldon import record
from windtunnel.stack.laptop import Laptop, Machine
from windtunnel.stack.laptop.forward import Forward
from windtunnel_examples.visits import callers
from windtunnel_examples.visits.demo import cluster, prepare
from windtunnel_examples.visits.demo.airflow_api import DagRun
from windtunnel_examples.visits.demo.show import Telling
from windtunnel_examples.visits.demo.story import RELEASE, TRAIN, NotProven

LAPTOP = Laptop("kind", "windtunnel", ROOT, demo=True)


class World:
    """A cluster in which each training makes a version and each release ends as ``ends`` says."""

    def __init__(self) -> None:
        self.versions_, self.runs_, self.champion_ = [], {TRAIN: [], RELEASE: []}, ""  # type: ignore[var-annotated]
        self.asked = 0
        self.share: dict[str, int] = {}
        self.lies: dict[str, Any] = {}

    # -- Airflow
    def trigger(self, dag_id: str, conf: dict[str, Any], run_id: str) -> None:
        number = str(len(self.versions_) + 1)
        harmful = "remember_peers" in conf.get("params", {})
        semver = f"1.{len(self.versions_)}.0"
        state = "rolled_back" if harmful else "champion"
        self.versions_.append(
            SimpleNamespace(
                version=number, semver=semver, state=self.lies.get("state", state) if harmful else state,
                digest=f"sha256:{number:0>32}", recipe={"dag_run_id": run_id},
            )
        )  # fmt: skip
        if not harmful or "promoted" in self.lies:
            self.champion_ = number
        self.share = {self.champion_: 100} | self.lies.get("share", {})
        self.runs_[TRAIN].append(DagRun(TRAIN, run_id, "success", "manual", None, None, "", conf))
        ended = self.lies.get("release", "failed" if harmful else "success")
        name = f"asset-{number}"
        self.runs_[RELEASE].append(DagRun(RELEASE, name, ended, "asset_triggered", None, None, run_id, {}))

    def runs(self, dag_id: str, limit: int = 50) -> list[DagRun]:
        return self.runs_[dag_id][::-1][:limit]

    def upstream_events(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        return [{"source_run_id": one.triggered_by} for one in self.runs_[dag_id] if one.run_id == run_id]

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        failed = any(one.run_id == run_id and one.state == "failed" for one in self.runs_[dag_id])
        told = {f"step_{n:02d}.gate": "success" for n in range(1, 5 - self.lies.get("gates", 0))}
        told |= {"step_05.gate": "failed", "rollback": self.lies.get("rollback", "success")} if failed else {}
        return [{"task_id": task, "state": state, "duration": 1.0} for task, state in told.items()]

    # -- the registry
    def versions(self, model: str) -> list[Any]:
        return self.versions_

    def version(self, model: str, version: str) -> Any:
        return next(one for one in self.versions_ if one.version == version)

    def champion(self, model: str) -> Any:
        return self.version(model, self.champion_) if self.champion_ else None

    def champion_history(self, model: str) -> list[Any]:
        return [SimpleNamespace(version=self.lies.get("once", "1"))]

    def verdicts(self, model: str, **_: Any) -> list[Any]:
        return [SimpleNamespace(verdict=SimpleNamespace(outcome=self.lies.get("evaluation", "PASS")))]

    # -- kubectl
    def ask(self, argv: Any) -> tuple[int, str]:
        if "logs" in argv:
            self.asked += 0 if "silent" in self.lies else 7
            return 0, json.dumps({"by_version": {self.champion_: {"200": self.asked}, "": {"503": 2}}}) + "\n"
        assert "seldondeployment" in argv
        shares = self.share | dict.fromkeys(self.lies.get("left", []), 5)
        predictors = [
            {"name": f"v{version}", "labels": {record.VERSION: version}, "traffic": share}
            for version, share in shares.items()
        ]
        notes = {"windtunnel.io/last-look": self.lies.get("said", "roll_back: errors")}
        return 0, json.dumps({"metadata": {"annotations": notes}, "spec": {"predictors": predictors}})


def story(world: World) -> cluster.ClusterStory:
    facts = cluster.ClusterFacts(LAPTOP, world, world)  # type: ignore[arg-type]
    return cluster.ClusterStory(world, facts, Telling(), "errors")  # type: ignore[arg-type]


def test_three_chapters_each_read_back() -> None:
    told = story(World())
    told.fly()
    found = told.told()
    assert found["ok"] and [step["ok"] for step in found["steps"]] == [True] * 3
    assert [(one["version"], one["state"]) for one in found["versions"]] == [
        ("1", "champion"), ("2", "champion"), ("3", "rolled_back"),
    ]  # fmt: skip
    assert found["versions"][1]["answers"] > 0
    proof = "\n".join(line for step in found["steps"] for line in step["proof"])
    assert "Seldon gives 1.1.0 100 % of the requests" in proof and "four gates passed" in proof
    assert "its last look said: roll_back: errors" in proof


@pytest.mark.parametrize(
    ("lie", "expected"),
    [
        ({"release": "failed"}, "ended success"),
        ({"share": {"1": 95, "0": 5}}, "95 % of the requests"),
        ({"gates": 1}, "four gates passed"),
        ({"promoted": True}, "is still champion"),
        ({"rollback": "upstream_failed"}, "rollback succeeded"),
        ({"state": "candidate"}, "as rolled_back"),
        ({"evaluation": "FAIL"}, "offline evaluation was FAIL"),
        ({"once": "3"}, "was never champion"),
        ({"left": ["3"]}, "nothing any more"),
        ({"said": "hold"}, "last look said"),
    ],
)
def test_what_is_not_so_ends_the_story(lie: dict[str, Any], expected: str) -> None:
    world = World()
    world.lies = lie
    told = story(world)
    with pytest.raises(NotProven, match=expected):
        told.fly()
    assert not told.told()["ok"]


def test_callers_who_get_no_answer_end_the_story(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster.ClusterStory, "patience_s", 0.0)
    world = World()
    world.lies = {"silent": True}
    with pytest.raises(NotProven, match=r"answers of 1\.0\.0 did not come"):
        story(world).fly()


def test_a_story_begins_once() -> None:
    world = World()
    told = story(world)
    told.fly()
    with pytest.raises(NotProven, match="3 versions in this cluster already") as refused:
        told.fly()
    assert "cluster down" in str(refused.value.hint)


def test_the_log_in_is_asked_of_airflows_pod() -> None:
    def machine(code: int, out: str) -> Any:
        return SimpleNamespace(ask=lambda argv: (code, out))

    assert cluster.airflow_password(LAPTOP, machine(0, '{"admin": "word"}\n')) == "word"
    for code, out in ((1, ""), (0, "cat: no such file"), (0, "[]"), (0, "{}")):
        with pytest.raises(StackError, match="password of admin") as refused:
            cluster.airflow_password(LAPTOP, machine(code, out))
        assert "kubectl --context kind-windtunnel exec" in str(refused.value.hint)
    facts = cluster.ClusterFacts(LAPTOP, machine(0, "Error: no pod\n"), World())  # type: ignore[arg-type]
    with pytest.raises(StackError, match="callers say nothing"):
        facts.answers()
    with pytest.raises(StackError, match="SeldonDeployment visits cannot be read"):
        cluster.ClusterFacts(LAPTOP, machine(1, ""), World()).live()  # type: ignore[arg-type]


class _Model(BaseHTTPRequestHandler):
    """Two answers of version 2, then one without a version, then a page that is no JSON."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[Any]] = []

    def do_POST(self) -> None:
        self.seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        turn = len(self.seen) % 4
        code, body = {0: (502, b"<html>"), 3: (500, b'{"error": "full"}')}.get(turn, (200, b'{"model_version": "2"}'))
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def model() -> Iterator[str]:
    _Model.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Model)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v2/models/visits/infer"
    server.shutdown()
    server.server_close()


def test_callers_tell_who_answered(model: str) -> None:
    async def ask() -> dict[str, Any]:
        people = callers.Callers(model, 200.0, tell=lambda *_, **__: None)
        running = asyncio.create_task(people.run())
        while people.sent < 8:
            await asyncio.sleep(0.01)
        people.stopped.set()
        await running
        return people.told()

    told = asyncio.run(ask())
    answered = sum(n for codes in told["by_version"].values() for n in codes.values())
    assert told["sent"] == answered + told["no_answer"] and told["no_answer"] == 0
    assert set(told["by_version"]) == {"2", ""} and set(told["by_version"]["2"]) == {"200"}
    assert set(told["by_version"][""]) == {"500", "502"}
    names = {one["name"] for one in _Model.seen[0]["inputs"]}
    assert "lncoins" in names and "mdvis" not in names


def test_callers_outlive_a_gateway_that_is_not_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}/"

    async def ask() -> int:
        people = callers.Callers(url, 200.0, tell=lambda *_, **__: None)
        running = asyncio.create_task(people.run())
        while people.no_answer < 2:
            await asyncio.sleep(0.01)
        people.stopped.set()
        await running
        return people.no_answer

    assert asyncio.run(ask()) >= 2


def test_the_table_and_the_bucket_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas as pd

    prepare.table(str(tmp_path))
    (made,) = tmp_path.glob("*.parquet")
    found, before = pd.read_parquet(made), made.stat().st_mtime_ns
    assert len(found) == 5_000 and {"time", "mdvis", "lncoins"} <= set(found)
    prepare.table(str(tmp_path))
    assert made.stat().st_mtime_ns == before
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in (
            ("AWS_ENDPOINT_URL_S3", f"http://{host}:{port}"),
            ("AWS_ACCESS_KEY_ID", "t"),
            ("AWS_SECRET_ACCESS_KEY", "t"),
            ("AWS_DEFAULT_REGION", "eu-west-1"),
        ):
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["prepare", "bucket", "windtunnel"])
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        prepare.main()
        prepare.main()
    finally:
        server.stop()
    monkeypatch.setattr(sys, "argv", ["prepare", "nothing"])
    with pytest.raises(SystemExit, match="expected"):
        prepare.main()


KUBECTL = """#!{python} -IS
import os, socket, sys

if os.environ.get("FAKE_FAIL"):
    sys.exit("error: services \\"airflow-api-server\\" not found")
local = int(sys.argv[-1].partition(":")[0])
with open(os.environ["FAKE_STATE"] + "/calls", "a") as log:
    log.write(" ".join(sys.argv[1:]) + "\\n")
with socket.create_server(("127.0.0.1", local)) as server:
    while True:
        one, _ = server.accept()
        one.sendall(str(os.getpid()).encode())
        one.close()
"""


def test_a_cut_forward_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(KUBECTL.format(python=sys.executable))
    kubectl.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("FAKE_STATE", str(tmp_path))
    monkeypatch.setattr("windtunnel.stack.laptop.forward.AGAIN_S", 0.05)

    def answer(forward: Forward) -> int:
        try:
            with socket.create_connection(("127.0.0.1", int(forward.url.rpartition(":")[2])), 5) as one:
                return int(one.recv(100) or b"0")
        except (OSError, ValueError):
            return 0

    with Forward(LAPTOP, "airflow-api-server", 8080) as forward:
        first = until(lambda: answer(forward))
        os.kill(first, 9)
        second = until(lambda: (found := answer(forward)) not in (0, first) and found)
        assert second != first
    calls = (tmp_path / "calls").read_text().splitlines()
    assert len(calls) == 2 and calls[0].startswith("--context kind-windtunnel port-forward --namespace windtunnel ")
    assert calls[0].rpartition(" ")[2].endswith(":8080")
    with pytest.raises(ProcessLookupError):  # it has ended
        os.kill(second, 0)
    monkeypatch.setenv("FAKE_FAIL", "1")
    for within in (1.0, 10.0, 60.0):  # on a slow machine the script has said nothing yet
        with (
            pytest.raises(StackError, match="cannot be reached") as refused,
            Forward(LAPTOP, "airflow-api-server", 8080, within_s=within),
        ):
            pass
        if '"airflow-api-server" not found' in refused.value.message:
            break
    else:
        raise AssertionError(refused.value.message)
    assert "kubectl --context kind-windtunnel port-forward" in str(refused.value.hint)


def test_the_flight_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing answers: one line, exit code 1; a harm that nobody knows is refused before anything is asked."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(cluster, "Forward", lambda *_: Forward(LAPTOP, "airflow-api-server", 8080, within_s=0.1))
    said: list[str] = []
    machine = Machine(said.append, str(tmp_path))
    assert cluster.main(LAPTOP, machine) == 1
    with pytest.raises(StackError, match="unknown harm"):
        cluster.main(LAPTOP, machine, harm="rain")
