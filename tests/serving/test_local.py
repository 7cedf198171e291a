"""The local backend under faults: crashes, leaks, hangs, kills at any line, power cuts.

DEMAND SRV-2, SRV-3, SRV-10, ROL-6, ROL-7, ROL-12.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from windtunnel.errors import FencedError, IntegrityError, ServingError
from windtunnel.serving import artifacts, desired
from windtunnel.serving.backend import Observed, Release
from windtunnel.serving.local import LocalBackend, reconcile_all
from windtunnel.serving.local import backend as local
from windtunnel.serving.local.servers import ProcessStatus

pytestmark = pytest.mark.real

Kit = Any  # tests/serving/conftest.py


def asked(kit: Kit, champion: int, candidate: int | None = None, **more: Any) -> Release:
    if "token" not in more:
        more["token"] = kit.next_token()
    more.setdefault("rollout_id", f"rollout-{more['token']}")
    candidates = () if candidate is None else (kit.arm(2, candidate),)
    return Release(kit.model, kit.arm(1, champion), candidates, settings=kit.settings, **more)


def weights(observed: Observed) -> dict[str, int]:
    return {version: arm.weight for version, arm in observed.arms.items() if arm.weight}


@pytest.fixture(autouse=True)
def both(kit: Kit) -> Iterator[None]:
    """Both versions ready, all traffic on the champion."""
    kit.backend.apply(asked(kit, 100, 0))
    for version in ("1", "2"):
        kit.wait_until(lambda v=version: kit.backend.observe(kit.model).arms[v].ready, 40, f"version {version}")
    yield


class Load(threading.Thread):
    """Requests one after the other until stopped; (status, version) of each."""

    def __init__(self, kit: Kit, row: dict[str, Any] | None = None) -> None:
        super().__init__(daemon=True)
        self.kit, self.row = kit, row or kit.row
        self.answers: Counter[tuple[int, str | None]] = Counter()
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            answer = self.kit.served.infer(self.kit.model, self.row)
            self.answers[answer.status, answer.version] += 1

    def __enter__(self) -> Load:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.join(30)


def test_weight_changes_with_real_servers_fail_no_request(kit: Kit) -> None:
    token = kit.next_token()
    with Load(kit) as one, Load(kit) as two:
        for weight in (5, 25, 50, 75, 100, 50, 0, 100, 0, 30):
            seen = kit.backend.apply(asked(kit, 100 - weight, weight, token=token))
            assert seen.arms["2"].weight == weight
            time.sleep(0.1)
    answers = one.answers + two.answers
    assert sum(answers.values()) > 100
    assert {status for status, _ in answers} == {200}, answers
    assert {version for _, version in answers} == {"1", "2"}


def provoke(kit: Kit, mode: int, **more: Any) -> tuple[int, str | None]:
    """Ask the candidate for trouble, past the champion: only its share of the traffic reaches it."""
    answer = kit.served.infer(kit.model, {**kit.row, "visits": mode, **more}, headers={})
    return answer.status, answer.version


def champion_answers(kit: Kit) -> Counter[int]:
    """Statuses of the champion's own requests while both serve."""
    found: Counter[int] = Counter()
    while found.total() < 30:
        answer = kit.served.infer(kit.model, kit.row)
        if answer.version == "1":
            found[answer.status] += 1
    return found


def test_a_candidate_that_crashes_harms_nobody_else_and_comes_back(kit: Kit) -> None:
    kit.backend.apply(asked(kit, 50, 50))
    before, champion = kit.served.pid("wt-visits-2"), kit.served.pid("wt-visits-1")
    while True:
        status, version = provoke(kit, kit.trouble.EXIT)
        if version == "2":
            assert status == 503
            break
    assert champion_answers(kit) == {200: 30}
    assert kit.backend.observe(kit.model).arms["2"].weight == 50, "nobody moves traffic but who holds the rollout"
    kit.wait_until(lambda: kit.backend.observe(kit.model).arms["2"].ready, 30, "the candidate")
    assert kit.served.pid("wt-visits-2") != before
    assert kit.served.pid("wt-visits-1") == champion


def test_a_candidate_that_leaks_ends_only_itself(kit: Kit) -> None:
    kit.backend.apply(asked(kit, 50, 50))
    champion = kit.served.pid("wt-visits-1")
    while True:
        status, version = provoke(kit, kit.trouble.LEAK)
        if version == "2":
            assert status in (503, 504)
            break
    kit.wait_until(lambda: not kit.backend.observe(kit.model).arms["2"].ready, 20, "the end of the candidate")
    note = artifacts.Folder.of(kit.served.home, kit.model, "2").read_note("failed")
    assert note is not None and "MiB" in note["message"] and "600 MiB" in note["message"]
    assert champion_answers(kit) == {200: 30}
    assert kit.served.pid("wt-visits-1") == champion
    kit.wait_until(lambda: kit.backend.observe(kit.model).arms["2"].ready, 40, "the candidate")


def test_a_candidate_that_hangs_times_out_alone(kit: Kit) -> None:
    kit.backend.apply(asked(kit, 50, 50))
    while True:
        began = time.monotonic()
        status, version = provoke(kit, kit.trouble.SLEEP, age=6.0)
        if version == "2":
            break
    assert status == 504, "it took what the server takes"
    assert time.monotonic() - began > 1.9
    assert champion_answers(kit) == {200: 30}
    assert weights(kit.backend.apply(asked(kit, 100, 0))) == {"1": 100}


@pytest.mark.parametrize("program", ["envoy", "wt-visits-1"])
def test_a_killed_process_comes_back_with_the_same_traffic(kit: Kit, program: str) -> None:
    before = kit.backend.apply(asked(kit, 70, 30))
    pid = kit.served.pid(program)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    kit.wait_until(lambda: not kit.alive(pid), 5, "its end")

    def back() -> bool:
        try:
            return kit.backend.observe(kit.model) == before and kit.served.pid(program) not in (None, pid)
        except Exception:
            return False

    kit.wait_until(back, 40, program)
    kit.wait_until(lambda: kit.served.infer(kit.model).status == 200, 5, "an answer")


def test_abort_works_with_the_candidate_dead_and_the_supervisor_deaf(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """DEMAND ROL-6: from any state; it needs the state's file and the router, nothing else."""
    kit.backend.apply(asked(kit, 50, 50, lease_until=time.time() + 100))
    backend = LocalBackend(kit.served.home)
    monkeypatch.setattr("windtunnel.serving.local.servers.supervisor_socket", lambda home: Path("/nonexistent/socket"))
    assert weights(backend.abort(kit.model, "breach", "guard")) == {"1": 100}


def test_abort_with_the_router_dead_is_written_for_its_return(kit: Kit) -> None:
    kit.backend.apply(asked(kit, 50, 50))
    pid = kit.served.pid("envoy")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)  # deaf, so that the supervisor does not bring it back first
    try:
        kit.backend.abort(kit.model, "breach", "guard")
    finally:
        os.kill(pid, signal.SIGKILL)

    def gone() -> bool:
        try:
            return weights(kit.backend.observe(kit.model)) == {"1": 100}
        except Exception:
            return False

    kit.wait_until(gone, 15, "the router without the candidate")


def test_an_abort_during_apply_wins(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder is between its steps when the guard aborts: it learns of it, and the candidate gets nothing."""
    backend = LocalBackend(kit.served.home)
    publish = backend._publish_clusters

    def abort_now() -> None:
        kit.backend.abort(kit.model, "meanwhile", "guard")
        publish()

    monkeypatch.setattr(backend, "_publish_clusters", abort_now)
    with pytest.raises(FencedError, match="meanwhile"):
        backend.apply(asked(kit, 10, 90))
    assert weights(kit.backend.observe(kit.model)) == {"1": 100}


class Killed(BaseException):
    """The process ends here: nothing of ours may catch it."""


def _lines() -> list[tuple[str, Callable[[LocalBackend], tuple[object, str]]]]:
    return [
        ("write of the state", lambda backend: (desired.StateFile, "write")),
        ("write of the clusters", lambda backend: (backend.router, "write_clusters")),
        ("word on the clusters", lambda backend: (backend.router, "await_clusters")),
        ("write of the routes", lambda backend: (backend.router, "write_routes")),
        ("word on the routes", lambda backend: (backend.router, "await_routes")),
        ("start of a server", lambda backend: (backend.manager, "start")),
    ]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("call", [1, 2, 3])
@pytest.mark.parametrize("where", range(len(_lines())), ids=[name for name, _ in _lines()])
def test_killed_at_any_step_and_run_again_ends_in_the_same_place(kit: Kit, where: int, call: int, after: bool) -> None:
    release = asked(kit, 60, 40, lease_until=1e10)
    backend = LocalBackend(kit.served.home)
    owner, name = _lines()[where][1](backend)
    real, calls = getattr(owner, name), itertools.count(1)

    def die(*args: Any, **kwargs: Any) -> Any:
        now = next(calls) == call
        if now and not after:
            raise Killed
        result = real(*args, **kwargs)
        if now:
            raise Killed
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, die)
        try:
            backend.apply(release)
        except Killed:
            pass
    pids = kit.served.pids()
    assert sum(weights(kit.backend.observe(kit.model)).values()) == 100, "traffic is whole at any moment"
    seen = kit.backend.apply(release)
    assert weights(seen) == {"1": 60, "2": 40}
    assert (seen.token, seen.rollout_id, seen.lease_until) == (release.token, release.rollout_id, 1e10)
    assert kit.served.pids() == pids, "no server was restarted"


@pytest.mark.long
def test_apply_killed_with_minus_nine_while_a_server_starts(kit: Kit, tmp_path: Path) -> None:
    """A new version's server is starting when the process dies; anybody can finish from the file alone."""
    release = Release(
        kit.model,
        kit.arm(1, 80),
        (kit.saved.good.arm("3", 20),),
        token=kit.next_token(),
        rollout_id="killed",
        settings={**kit.settings, "3": kit.settings["1"]},
    )
    (tmp_path / "release.json").write_text(json.dumps(desired.to_dict(desired.State(release))))
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import json, sys; from pathlib import Path; from windtunnel.home import Home;"
            "from windtunnel.serving import desired; from windtunnel.serving.local import LocalBackend;"
            "state = desired.from_dict(json.loads(Path(sys.argv[2]).read_text()));"
            "LocalBackend(Home(Path(sys.argv[1]))).apply(state.release)",
            str(kit.served.home.root),
            str(tmp_path / "release.json"),
        ]
    )
    kit.wait_until(lambda: kit.served.pid("wt-visits-3"), 20, "the new server")
    child.kill()
    child.wait()
    assert weights(kit.backend.observe(kit.model)) == {"1": 100}, "not ready, so no traffic"
    pid = kit.served.pid("wt-visits-3")
    assert weights(kit.backend.reconcile(kit.model)) == {"1": 80, "3": 20}
    assert kit.served.pid("wt-visits-3") == pid
    assert weights(kit.backend.apply(release)) == {"1": 80, "3": 20}
    kit.backend.apply(asked(kit, 100, 0))
    kit.wait_until(lambda: "visits.v3" in kit.backend.sweep(time.time() + 3600), 5, "the end of version 3")
    assert kit.served.pid("wt-visits-3") is None
    assert "3" not in kit.backend.observe(kit.model).arms


def test_a_former_champion_stays_warm_and_takes_over_at_once(kit: Kit) -> None:
    """DEMAND ROL-12."""
    begun = asked(kit, 0, 100)
    kit.backend.apply(begun)
    promoted = Release(
        kit.model, kit.arm(2, 100), token=begun.token, rollout_id=begun.rollout_id, settings=kit.settings
    )
    pid = kit.served.pid("wt-visits-1")
    seen = kit.backend.apply(promoted)
    assert (weights(seen), seen.arms["1"].state, seen.arms["1"].ready) == ({"2": 100}, "warm", True)
    assert kit.backend.sweep(time.time() + 86_000) == []
    assert kit.served.pid("wt-visits-1") == pid
    assert weights(kit.backend.apply(asked(kit, 100, 0))) == {"1": 100}
    assert kit.served.pid("wt-visits-1") == pid, "the way back is warm"


def test_the_last_answer_of_a_candidate_comes_within_five_seconds_of_the_abort(kit: Kit) -> None:
    """DEMAND ROL-6: measured under load, users and testers; and nobody's request fails."""
    kit.backend.apply(asked(kit, 50, 50, audience=("x-tester", "1")))
    last: list[float] = []
    answers: Counter[int] = Counter()
    stop = threading.Event()

    def load(headers: dict[str, str]) -> None:
        while not stop.is_set():
            answer = kit.served.infer(kit.model, headers=headers)
            answers[answer.status] += 1
            if answer.version == "2":
                last.append(time.monotonic())

    clients = [threading.Thread(target=load, args=(headers,)) for headers in ({}, {"x-tester": "1"})]
    for client in clients:
        client.start()
    time.sleep(1)
    decided = time.monotonic()
    kit.backend.abort(kit.model, "breach", "guard")
    time.sleep(3)
    stop.set()
    for client in clients:
        client.join()
    assert set(answers) == {200} and answers[200] > 100
    late = max(last) - decided
    print(f"last answer of the candidate {late * 1000:.0f} ms after the decision, {answers[200]} requests")
    assert -1 < late < 5


@pytest.mark.parametrize("kind", ["mirror", "audience"])
def test_copies_and_testers_begin_only_with_a_candidate_that_is_ready(kit: Kit, kind: str) -> None:
    """DEMAND SRV-2: what was proven once and has died since is waited for, as if it got traffic."""
    release = asked(kit, 100, 0, **{"mirror": {"mirror": 100}, "audience": {"audience": ("x-tester", "1")}}[kind])
    pid = kit.served.pid("wt-visits-2")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    kit.wait_until(lambda: not kit.alive(pid), 5, "its end")
    seen = kit.backend.apply(release)
    assert seen.arms["2"].ready
    assert kit.backend.apply(release) == seen


def test_a_server_whose_death_was_not_seen_yet_is_started_once_more(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting what seems to run does nothing; found dead a moment later, it is not given up."""
    release, pid = asked(kit, 75, 25), kit.served.pid("wt-visits-2")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    kit.wait_until(lambda: not kit.alive(pid), 5, "its end")
    manager, starts = kit.backend.manager, []
    start, status = manager.start, manager.status

    def unseen(program: Any) -> None:
        if program.name == "wt-visits-2":
            starts.append(program.name)
        if program.name != "wt-visits-2" or len(starts) > 1:
            start(program)

    def dead_between(name: str) -> ProcessStatus:
        between = name == "wt-visits-2" and len(starts) == 1
        return ProcessStatus("failed", message="Bad exit code -1") if between else status(name)

    monkeypatch.setattr(manager, "start", unseen)
    monkeypatch.setattr(manager, "status", dead_between)
    assert kit.backend.apply(release).arms["2"].ready
    assert len(starts) == 2


def test_the_way_back_is_checked_before_it_is_needed(kit: Kit) -> None:
    """DEMAND ROL-12: bytes, server and a real inference of the version that would take over."""
    begun = asked(kit, 0, 100)
    kit.backend.apply(begun)
    assert kit.backend.check_target(kit.model) == [], "the champion, while a candidate has everything"
    kit.backend.apply(
        Release(kit.model, kit.arm(2, 100), token=begun.token, rollout_id=begun.rollout_id, settings=kit.settings)
    )
    assert kit.backend.check_target(kit.model) == [], "the former champion, which is warm"

    [victim] = list(artifacts.Folder.of(kit.served.home, kit.model, "1").model.rglob("MLmodel"))
    whole = victim.read_bytes()
    victim.chmod(0o600)
    victim.write_bytes(whole + b"# changed\n")
    [problem] = kit.backend.check_target(kit.model)
    assert "version 1" in problem and "MLmodel" in problem
    victim.write_bytes(whole)

    pid = kit.served.pid("wt-visits-1")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        assert kit.backend.check_target(kit.model) == ["visits version 1: its server is not ready"]
    finally:
        os.kill(pid, signal.SIGCONT)
    kit.wait_until(lambda: kit.backend.check_target(kit.model) == [], 20, "its recovery")
    assert kit.served.pid("wt-visits-1") == pid, "nothing was moved or restarted"

    assert weights(kit.backend.apply(asked(kit, 100))) == {"1": 100}
    kit.backend.sweep(time.time() + 90_000)
    [problem] = kit.backend.check_target(kit.model)
    assert problem.startswith("visits has no version to go back to")


def test_a_version_that_changed_on_disk_is_not_loaded_again(kit: Kit) -> None:
    """DEMAND SRV-2: the server itself verifies its copy; the next apply puts a good one in its place."""
    folder = artifacts.Folder.of(kit.served.home, kit.model, "2")
    [victim] = list(folder.model.rglob("behaviour.py"))
    good = victim.read_bytes()
    victim.chmod(0o600)
    victim.write_bytes(good + b"\n# changed\n")
    pid = kit.served.pid("wt-visits-2")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    kit.wait_until(lambda: "SHA-256" in kit.backend.observe(kit.model).arms["2"].message, 60, "its refusal")
    kit.wait_until(lambda: kit.backend.observe(kit.model).arms["2"].state == "failed", 5, "the end of its server")
    assert weights(kit.backend.observe(kit.model)) == {"1": 100}
    kit.backend.apply(asked(kit, 90, 10))
    assert [path.read_bytes() for path in folder.model.rglob("behaviour.py")] == [good]


def test_a_serving_version_never_becomes_other_bytes(kit: Kit) -> None:
    kit.backend.apply(asked(kit, 50, 50))
    other = Release(
        kit.model, kit.arm(1, 50), (kit.saved.good.arm("2", 50),), token=kit.next_token(), settings=kit.settings
    )
    with pytest.raises(IntegrityError, match="serves with digest"):
        kit.backend.apply(other)
    assert weights(kit.backend.observe(kit.model)) == {"1": 50, "2": 50}


@pytest.mark.parametrize(
    ("environment", "says"), [("torch", "not on this machine"), ("requirements.txt", "serving.environment")]
)
def test_an_environment_that_is_not_there_is_refused_not_ignored(kit: Kit, environment: str, says: str) -> None:
    release = Release(
        kit.model,
        kit.arm(1, 100),
        (kit.saved.good.arm("4", 0),),
        token=kit.next_token(),
        settings={**kit.settings, "4": {"serving": {"environment": environment}}},
    )
    with pytest.raises(ServingError, match=says):
        kit.backend.apply(release)
    assert "4" not in kit.backend.observe(kit.model).arms


def test_a_version_is_served_from_its_own_environment(kit: Kit, serving_python: str) -> None:
    """DEMAND SRV-9"""
    own = kit.served.home.serving_environment("own")
    own.parent.mkdir(parents=True, exist_ok=True)
    own.symlink_to(Path(serving_python).parents[1])
    settings = {**kit.settings["1"], "serving": {**kit.settings["1"]["serving"], "environment": "own"}}
    release = Release(
        kit.model,
        kit.arm(1, 50),
        (kit.saved.good.arm("5", 50),),
        token=kit.next_token(),
        rollout_id="own",
        settings={**kit.settings, "5": settings},
    )
    kit.backend.apply(release)
    assert kit.backend.observe(kit.model).arms["5"].ready
    command = Path(f"/proc/{kit.served.pid('wt-visits-5')}/cmdline").read_bytes().split(b"\0")
    assert command[0].decode() == str(own / "bin" / "python")
    other = Path(f"/proc/{kit.served.pid('wt-visits-1')}/cmdline").read_bytes().split(b"\0")
    assert other[0].decode() == serving_python


def test_a_torn_state_file_is_an_error_not_an_empty_state(kit: Kit) -> None:
    path = desired.StateFile(kit.served.home, kit.model).path
    whole = path.read_bytes()
    try:
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(ServingError, match="cannot be read"):
            kit.backend.apply(asked(kit, 0, 100))
    finally:
        path.write_bytes(whole)


def test_after_a_power_cut_everything_is_as_it_was(kit: Kit) -> None:
    """DEMAND SRV-10: from the disk alone; there is no MLflow server and no Airflow in this home."""
    before = kit.backend.apply(asked(kit, 65, 35))
    kit.served.power_cut()
    kit.served.start()
    found = reconcile_all(kit.served.home)
    assert weights(kit.backend.observe(kit.model)) == {"1": 65, "2": 35}
    seen = found[kit.model]
    assert isinstance(seen, Observed), seen
    assert {version: seen.arms[version] for version in "12"} == {version: before.arms[version] for version in "12"}
    answers = Counter(kit.served.infer(kit.model).status for _ in range(40))
    assert answers == {200: 40}
    kit.wait_until(lambda: kit.backend.observe(kit.model) == before, 40, "those that only stay warm")


def test_local_is_a_serving_backend() -> None:
    from windtunnel.serving.backend import ServingBackend

    backend: ServingBackend = local.LocalBackend.__new__(LocalBackend)
    assert backend is not None


def test_a_version_that_is_up_keeps_its_settings(kit: Kit) -> None:
    """A changed description must not restart the champion in the middle of a release."""
    pids = kit.served.pids()
    changed = {**kit.settings["1"], "serving": {**kit.settings["1"]["serving"], "cpu": 4, "timeout": "9s"}}
    release = Release(
        kit.model, kit.arm(1, 90), (kit.arm(2, 10),), token=kit.next_token(), settings={**kit.settings, "1": changed}
    )
    assert weights(kit.backend.apply(release)) == {"1": 90, "2": 10}
    assert kit.served.pids() == pids
