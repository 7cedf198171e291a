"""The look log: appended, fsynced, whole after a crash."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel import canonical
from windtunnel.errors import DescriptionError
from windtunnel.home import Home
from windtunnel.serving.release import intent, looklog
from windtunnel.serving.release.looklog import LookLog


def test_looks_come_back_by_rollout_in_order(tmp_path: Path) -> None:
    log = LookLog(Home(tmp_path), "visits")
    assert log.read("r1") == []
    assert log.last("r1") is None
    looks = [{"rollout_id": f"r{i % 2}", "at": i, "evidence": {"p": 0.1 * i, "none": None}} for i in range(6)]
    for look in looks:
        log.append(look)
    assert log.read("r1") == looks[1::2]
    assert log.last("r0") == looks[4]
    assert log.path == tmp_path / "serving" / "models" / "visits" / "looks.jsonl"
    assert log.path.stat().st_mode & 0o077 == 0


def test_nan_and_infinity_survive(tmp_path: Path) -> None:
    log = LookLog(Home(tmp_path), "visits")
    log.append({"rollout_id": "r", "nan": math.nan, "up": math.inf, "big": 2**60})
    found = log.last("r")
    assert found
    assert math.isnan(found["nan"])
    assert (found["up"], found["big"]) == (math.inf, 2**60)


@given(cut=st.integers(0, 200), more=st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_a_torn_end_is_left_out_and_repaired(tmp_path_factory: pytest.TempPathFactory, cut: int, more: int) -> None:
    """Whatever the crash left, looks acknowledged after it are read, and whole ones before it stay."""
    log = LookLog(Home(tmp_path_factory.mktemp("looks")), "visits")
    looks = [{"rollout_id": "r", "n": n, "text": "x" * n} for n in range(4)]
    for look in looks:
        log.append(look)
    data = log.path.read_bytes()
    kept = data[: max(0, len(data) - cut)]
    log.path.write_bytes(kept)
    whole = looks[: kept.count(b"\n")]
    assert log.read("r") == whole
    added = [{"rollout_id": "r", "n": 100 + n} for n in range(more)]
    for look in added:
        log.append(look)
    assert log.read("r") == whole + added
    assert log.path.read_bytes().endswith(b"\n")


def test_a_damaged_line_costs_only_itself(tmp_path: Path) -> None:
    log = LookLog(Home(tmp_path), "visits")
    for n in range(3):
        log.append({"rollout_id": "r", "n": n})
    lines = log.path.read_bytes().splitlines()
    log.path.write_bytes(b"\n".join([lines[0], b"\x00" * 20, lines[2]]) + b"\n")
    assert [look["n"] for look in log.read("r")] == [0, 2]


def test_writers_do_not_mix_their_lines(tmp_path: Path) -> None:
    home = Home(tmp_path)

    def append(name: str) -> None:
        for n in range(25):
            LookLog(home, "visits").append({"rollout_id": name, "n": n, "pad": "x" * 500})

    threads = [threading.Thread(target=append, args=(f"r{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(4):
        assert [look["n"] for look in LookLog(home, "visits").read(f"r{i}")] == list(range(25))


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = LookLog(Home(tmp_path), "visits")
    log.append({"rollout_id": "r", "n": 0})
    before = log.path.read_bytes()
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: real(fd, data[: len(data) // 2]))
        with pytest.raises(OSError):
            log.append({"rollout_id": "r", "n": 1})
    assert log.path.read_bytes() == before


def test_killed_while_appending(tmp_path: Path) -> None:
    """Every look the process saw acknowledged is there, in order, and no other."""
    code = """
import sys
from pathlib import Path
from windtunnel.home import Home
from windtunnel.serving.release.looklog import LookLog
log, n = LookLog(Home(Path(sys.argv[1])), "visits"), 0
while True:
    log.append({"rollout_id": "r", "n": n, "pad": "x" * 300})
    print(n, flush=True)
    n += 1
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout
    acknowledged = -1
    for line in process.stdout:
        acknowledged = int(line)
        if acknowledged >= 40:
            break
    process.kill()
    for line in process.stdout.read().splitlines():
        acknowledged = int(line)
    process.wait()
    process.stdout.close()
    found = [look["n"] for look in LookLog(Home(tmp_path), "visits").read("r")]
    assert found == list(range(len(found)))
    assert acknowledged < len(found) <= acknowledged + 2


def test_what_is_no_look_is_refused(tmp_path: Path) -> None:
    log = LookLog(Home(tmp_path), "visits")
    with pytest.raises(ValueError, match="rollout_id"):
        log.append({"at": 1.0})
    with pytest.raises(TypeError):
        log.append({"rollout_id": "r", "x": object()})
    assert not log.path.exists()
    with pytest.raises(DescriptionError):
        LookLog(Home(tmp_path), "../etc")


# -- intents


def test_an_intent_stands_until_it_is_cleared(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert intent.read(home, "visits") is None
    first = intent.begin(home, "visits", rollout_id="r", token=3, candidate="2", champion="1", at=10.0)
    assert intent.read(home, "visits") == first
    assert intent.begin(home, "visits", rollout_id="r", token=3, candidate="2", champion="1", at=20.0) == first
    taken_over = intent.begin(home, "visits", rollout_id="r", token=4, candidate="2", champion="1", at=20.0)
    assert intent.read(home, "visits") == taken_over
    intent.clear(home, "visits")
    intent.clear(home, "visits")
    assert intent.read(home, "visits") is None


def test_a_file_that_is_no_intent_is_none(tmp_path: Path) -> None:
    home = Home(tmp_path)
    intent.path(home, "visits").parent.mkdir(parents=True)
    for text in ("", "[]", "{}", '{"rollout_id": "r", "token": "x"}'):
        intent.path(home, "visits").write_text(text)
        assert intent.read(home, "visits") is None


# -- what a gate goes on from


def _look(rollout: str, n: int, action: str, step: int = 0) -> dict[str, Any]:
    state = {"step": step, "n": n, "gates": {"errors": {"sums": [n, 2 * n]}}}
    decision = {"action": action, "outcome": "PASS", "reason": f"look {n}", "numbers": {"n": n}, "state": state}
    return {"rollout_id": rollout, "at": float(n), "evidence": {"rows": n}, "decision": decision}


def _tail_of_everything(log: LookLog, rollout: str) -> list[dict[str, Any]]:
    """The same from all looks: what ``tail`` must be, whatever it remembers."""
    looks = log.read(rollout)
    kept = []
    for look in looks[:-1]:
        decision = look["decision"]
        if decision["action"] != "hold":
            gist = {**decision, "state": {"step": decision["state"]["step"]}}
            kept.append({"rollout_id": rollout, "at": look["at"], "decision": gist})
    return [*kept, *looks[-1:]]


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["hold", "hold", "hold", "advance", "roll_back"])),
        st.tuples(st.sampled_from(["ask", "restart", "tear", "damage", "gone"]), st.just("")),
    ),
    max_size=25,
)


@given(_STEPS)
@settings(max_examples=60, deadline=None)
def test_a_tail_is_the_same_from_memory_and_from_the_file(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str]]
) -> None:
    """DEMAND ROL-6: whatever happens to the file or to the process, looks go on from the same place."""
    log = LookLog(Home(tmp_path_factory.mktemp("tails")), "visits")
    for n, (what, action) in enumerate(steps):
        match what:
            case "ask":
                log.tail("a")
            case "restart":
                looklog._tails.clear()
            case "tear" if log.path.exists():
                with log.path.open("ab") as file:
                    file.write(b'{"rollout_id": "a", "torn')
            case "damage" if log.path.exists():
                with log.path.open("ab") as file:
                    file.write(b'{"rollout_id": "a", "advance" \x00\n')
            case "gone" if log.path.exists():
                log.path.unlink()
            case "a" | "b":
                log.append(_look(what, n, action, n))
            case _:
                pass
        for rollout in "ab":
            assert log.tail(rollout) == _tail_of_everything(log, rollout)


def test_a_look_that_was_taken_back_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An append whose fsync fails is no look, also when somebody asks in that moment."""
    log = LookLog(Home(tmp_path), "visits")
    log.append(_look("r", 0, "hold"))
    log.tail("r")
    seen: list[list[dict[str, Any]]] = []
    asking = threading.Thread(target=lambda: seen.append(log.tail("r")))

    def failing(descriptor: int) -> None:
        asking.start()
        asking.join(0.2)
        raise OSError(5, "input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(OSError):
            log.append(_look("r", 1, "advance"))
    asking.join()
    log.append(_look("r", 2, "hold"))
    assert [look["at"] for look in seen[0]] == [0.0]
    assert [look["at"] for look in log.tail("r")] == [2.0]


def test_a_tail_reads_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost of a look must not grow with the looks before it."""
    log = LookLog(Home(tmp_path), "visits")
    parsed = 0
    real = canonical.loads

    def counting(data: bytes | str) -> Any:
        nonlocal parsed
        parsed += 1
        return real(data)

    monkeypatch.setattr(canonical, "loads", counting)
    most = 0
    for n in range(50):
        log.append(_look("r", n, "advance" if n == 10 else "hold"))
        parsed = 0
        assert [look["at"] for look in log.tail("r")] == [*([10.0] if n > 10 else []), float(n)]
        most = max(most, parsed)
    assert most <= 3


def test_only_so_many_rollouts_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looklog, "REMEMBERED", 3)
    looklog._tails.clear()
    log = LookLog(Home(tmp_path), "visits")
    for n in range(10):
        log.append(_look(f"r{n}", n, "hold"))
        assert [look["at"] for look in log.tail(f"r{n}")] == [float(n)]
    assert len(looklog._tails) == 3
    assert [look["at"] for look in log.tail("r0")] == [0.0]


def test_a_look_with_a_number_that_is_none_can_be_gone_on_from(tmp_path: Path) -> None:
    """NaN is not equal to itself: the look after one must not be refused for ever."""
    log = LookLog(Home(tmp_path), "visits")
    odd = {**_look("r", 0, "hold"), "evidence": {"at": math.nan}}
    assert log.append(odd, after=None)
    for n, read in enumerate([lambda: log.tail("r")[-1], lambda: log.read("r")[-1]], start=1):
        assert log.append({**_look("r", n, "hold"), "evidence": {"at": math.nan}}, after=read())
    assert not log.append(_look("r", 9, "hold"), after=odd)
    assert not log.append(_look("r", 9, "hold"), after=None)
    assert log.append(_look("other", 9, "hold"), after=None)
    assert log.append(_look("r", 10, "hold"), after=log.read("r")[-1])
