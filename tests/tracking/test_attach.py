"""The life of a run: re-attachment, deaths of every process, cancel, races. Real processes.

DEMAND PIP-5, TRN-7, TRK-8
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import until

from windtunnel import procfs
from windtunnel.home import Home
from windtunnel.tracking import closing, lifelock, local, processes
from windtunnel.tracking.contract import RunSpec, RunStatus, run_dir

Spec = Callable[..., RunSpec]
Go = Callable[..., RunStatus]

STARTER = """
import json, os, sys
from pathlib import Path
from windtunnel.home import Home
from windtunnel.tracking import local
from windtunnel.tracking.contract import RunSpec
handle = local.start(Home(Path(sys.argv[1])), RunSpec.from_dict(json.loads(Path(sys.argv[2]).read_text())))
print(int(handle.attached), flush=True)
if "die" in sys.argv:
    os.kill(os.getpid(), 9)
"""


def begun(home: Home, task: RunSpec) -> None:
    until(lambda: (run_dir(home, task.run_id) / "work" / "begun").exists())


def papers(home: Home, task: RunSpec, name: str) -> dict[str, int]:
    return json.loads((run_dir(home, task.run_id) / name).read_text())  # type: ignore[no-any-return]


def starters(home: Home, task: RunSpec, tmp_path: Path, count: int, *more: str) -> list[subprocess.Popen[str]]:
    file = tmp_path / f"{task.run_id}.json"
    file.write_text(json.dumps(task.to_dict()))
    command = [sys.executable, "-c", STARTER, str(home.root), str(file), *more]
    return [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]


def test_a_run_goes_on_when_its_starter_is_killed(spec: Spec, home: Home, tmp_path: Path) -> None:
    task = spec("sleeps", kind="step", params={"seconds": 2})
    [starter] = starters(home, task, tmp_path, 1, "die")
    assert starter.wait(timeout=30) == -signal.SIGKILL
    assert local.status(home, task.run_id).state in ("starting", "running")
    again = local.start(home, task)
    assert again.attached
    found = local.wait(home, task.run_id, timeout=20)
    assert found.state == "succeeded"
    assert found.attempt == 1, "the second start has started nothing"


def test_the_runner_is_nobody_s_descendant(spec: Spec, home: Home) -> None:
    """What kills a task's process tree does not find it, nor does a signal to its group or terminal."""
    task = spec("sleeps", kind="step")
    local.start(home, task)
    begun(home, task)
    runner = papers(home, task, "runner.json")["pid"]
    assert runner not in processes.descendants(os.getpid())
    assert os.getsid(runner) != os.getsid(0)
    assert os.getpgid(runner) != os.getpgid(0)


def test_ten_starters_at_once_start_one_run(spec: Spec, home: Home, tmp_path: Path) -> None:
    task = spec("sleeps", kind="step", params={"seconds": 1})
    started = starters(home, task, tmp_path, 10)
    attached = [int(one.communicate(timeout=60)[0]) for one in started]
    assert sorted(attached) == [0] + [1] * 9
    assert local.wait(home, task.run_id, timeout=30).state == "succeeded"
    log, _ = local.tail(home, task.run_id)
    assert log.count("sleeping") == 1


def test_starting_what_has_ended_returns_it_as_it_ended(spec: Spec, home: Home, run: Go) -> None:
    task = spec("raises")
    assert run(task).state == "failed"
    again = local.start(home, task)
    assert again.attached
    assert again.status.state == "failed"
    assert again.status.attempt == 1


def test_a_killed_runner_takes_the_training_with_it_and_the_next_start_goes_on(spec: Spec, home: Home) -> None:
    task = spec("stubborn", kind="step")
    local.start(home, task)
    begun(home, task)
    child, other = papers(home, task, "child.json"), int((run_dir(home, task.run_id) / "work" / "other").read_text())
    os.kill(papers(home, task, "runner.json")["pid"], signal.SIGKILL)
    until(lambda: local.status(home, task.run_id).state == "lost")
    found = local.status(home, task.run_id)
    assert (found.failure, found.exit_code) == ("transient", 75)
    until(lambda: not procfs.alive(child["pid"], child["start"]))
    assert procfs.started(other) is not None, "a process in a session of its own survives the runner"
    second = spec("sleeps", kind="step", run_id=task.run_id, params={"seconds": 0})
    handle = local.start(home, second)
    assert not handle.attached
    assert procfs.started(other) is None, "no second training beside leftovers of the first"
    found = local.wait(home, task.run_id, timeout=30)
    assert (found.state, found.attempt) == ("succeeded", 2)
    assert (run_dir(home, task.run_id) / "attempts" / "1" / "log.txt").exists()


def test_a_killed_training_is_told_at_once(spec: Spec, home: Home) -> None:
    task = spec("sleeps", kind="step")
    local.start(home, task)
    begun(home, task)
    at = time.monotonic()
    os.kill(papers(home, task, "child.json")["pid"], signal.SIGKILL)
    found = local.wait(home, task.run_id, timeout=60)
    assert (found.state, found.failure) == ("failed", "transient")
    assert time.monotonic() - at < 30, "it waited for the whole sleep"


def test_cancel_ends_even_what_ignores_it(spec: Spec, home: Home) -> None:
    task = spec("stubborn", kind="step")
    local.start(home, task)
    begun(home, task)
    child, other = papers(home, task, "child.json"), int((run_dir(home, task.run_id) / "work" / "other").read_text())
    at = time.monotonic()
    found = local.cancel(home, task.run_id, reason="Ada pressed stop")
    took = time.monotonic() - at
    assert took < 30
    assert (found.state, found.failure, found.exit_code) == ("cancelled", "cancelled", 130)
    assert found.message == "Ada pressed stop"
    assert not procfs.alive(child["pid"], child["start"])
    assert procfs.started(other) is None
    assert local.cancel(home, task.run_id).message == "Ada pressed stop", "a second cancel changes nothing"


def test_cancel_ends_a_run_whose_runner_hangs(spec: Spec, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "CANCEL_WITHIN", 8.0)
    task = spec("sleeps", kind="step")
    local.start(home, task)
    begun(home, task)
    os.kill(papers(home, task, "runner.json")["pid"], signal.SIGSTOP)
    found = local.cancel(home, task.run_id)
    assert found.state == "cancelled"
    until(lambda: not lifelock.held(run_dir(home, task.run_id)))


def test_an_order_to_cancel_is_followed_though_its_giver_died(spec: Spec, home: Home) -> None:
    task = spec("sleeps", kind="step")
    local.start(home, task)
    begun(home, task)
    (run_dir(home, task.run_id) / "cancel.json").write_text('{"reason": "from beyond"}')
    found = local.wait(home, task.run_id, timeout=20)
    assert (found.state, found.message) == ("cancelled", "from beyond")


def test_cancel_of_what_never_was_or_is_over(spec: Spec, home: Home, run: Go) -> None:
    assert local.cancel(home, "nobody").state == "absent"
    task = spec("own_class", kind="step")
    run(task)
    assert local.cancel(home, task.run_id).state == "succeeded"


def test_a_restart_goes_on_from_its_checkpoint_and_its_metrics(spec: Spec, home: Home, run: Go) -> None:
    task = spec("counts_attempts", kind="step")
    assert run(task).failure == "transient"
    found = run(task, restart=True)
    assert (found.state, found.attempt) == ("succeeded", 2)
    lines = [json.loads(line) for line in (run_dir(home, task.run_id) / "metrics.jsonl").read_text().splitlines()]
    assert [(value, step) for key, value, _, step in lines if key == "loss"] == [(0.5, 0), (0.25, 1)]


def test_stopping_the_stack_is_a_transient_failure(spec: Spec, home: Home) -> None:
    task = spec("sleeps", kind="step")
    local.start(home, task)
    begun(home, task)
    assert local.stop_all(home) == [task.run_id]
    found = local.status(home, task.run_id)
    assert (found.state, found.failure) == ("failed", "transient")
    assert list(local.running(home)) == []


def test_the_steward_ends_and_closes_what_was_abandoned(spec: Spec, home: Home) -> None:
    """DEMAND TRK-8"""
    task = spec("stubborn", kind="step")
    local.start(home, task)
    begun(home, task)
    other = int((run_dir(home, task.run_id) / "work" / "other").read_text())
    assert closing.close_abandoned(home) == {}, "a living run is left alone"
    os.kill(papers(home, task, "runner.json")["pid"], signal.SIGKILL)
    until(lambda: local.status(home, task.run_id).state == "lost")
    assert closing.close_abandoned(home, silent_for=60) == {}, "its task may take it up first"
    assert closing.close_abandoned(home, silent_for=0) == {task.run_id: "abandoned"}
    assert procfs.started(other) is None
    assert local.status(home, task.run_id).state == "lost"
    assert closing.close_abandoned(home, silent_for=0) == {}


def test_asking_never_looks_like_a_runner(spec: Spec, home: Home, tmp_path: Path) -> None:
    """A question must not take the lock: a starter that meets it would think the run alive."""
    folder = tmp_path / "run"
    folder.mkdir()
    over = threading.Event()
    asker = threading.Thread(target=lambda: [lifelock.held(folder) for _ in iter(over.is_set, True)])
    asker.start()
    try:
        for _ in range(2000):
            taken = lifelock.take(folder)
            assert taken is not None
            os.close(taken)
    finally:
        over.set()
        asker.join()


def test_tail_reads_on_from_where_it_was(spec: Spec, home: Home) -> None:
    folder = run_dir(home, "r1")
    folder.mkdir(parents=True)
    (folder / "log.txt").write_bytes("añb€".encode())
    text, at, seen = "", 0, []
    for _ in range(20):
        part, at = local.tail(home, "r1", at, limit=2)
        seen.append(part)
        text += part
    assert text == "añb€" or "�" in text
    assert local.tail(home, "r1", 0, limit=100) == ("añb€", 7)
    assert local.tail(home, "nobody") == ("", 0)
