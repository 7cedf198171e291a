"""What an access-log line counts as, and reading lines exactly once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from windtunnel.serving.traffic.accesslog import Tail, Tally, parse


def line(**more: Any) -> str:
    plain = {
        "time": "1767225600123", "request_id": "r", "model": "visits", "version": "3", "cluster": "visits.v3",
        "status": 200, "response_flags": "-", "duration_ms": 4, "duration_us": 4321, "correlation_id": None,
    }  # fmt: skip
    return json.dumps(plain | more)


@pytest.mark.parametrize(
    ("status", "flags", "counts_as"),
    [
        (200, "-", ""),
        (200, "", ""),
        (302, "-", ""),
        (400, "-", "client"),
        (404, "NR", "client"),
        (429, "RL", "client"),
        (500, "-", "error"),
        (502, "UPE", "error"),
        (503, "UF", "error"),
        (503, "UF,URX", "error"),
        (503, "UO", "error overload"),
        (503, "UH", "error"),
        (504, "UT", "error"),
        (0, "-", "error"),
        (0, "UR", "error"),
        (200, "UC", "error"),  # broke off after the status was sent
        (200, "UR", "error"),
        (0, "DC", "client gone"),
        (200, "DC", "client gone"),
        (0, "DR", "client gone"),
        (500, "DC", "error gone"),
        (None, "-", "error"),
        ("503", "-", "error"),
    ],
)
def test_what_a_line_counts_as(status: Any, flags: str, counts_as: str) -> None:
    entry = parse(line(status=status, response_flags=flags))
    assert entry
    found = {
        "error": entry.error,
        "client": entry.client_error,
        "overload": entry.overload,
        "gone": entry.disconnect,
    }
    assert {name for name, yes in found.items() if yes} == set(counts_as.split())


def test_fields_of_the_router() -> None:
    entry = parse(line())
    assert entry
    assert (entry.model, entry.version, entry.second, entry.latency_ms) == ("visits", "3", 1_767_225_600, 4.321)


@pytest.mark.parametrize(
    ("more", "latency", "second"),
    [
        ({"duration_us": None}, 4.0, 1_767_225_600),
        ({"duration_us": "-", "duration_ms": "7"}, 7.0, 1_767_225_600),
        ({"duration_us": None, "duration_ms": None}, 0.0, 1_767_225_600),
        ({"duration_us": -5}, 0.0, 1_767_225_600),
        ({"time": 1767225600999.5}, 4.321, 1_767_225_600),
        ({"time": None}, 4.321, 0),
        ({"time": "NaN"}, 4.321, 0),
    ],
)
def test_missing_fields_are_tolerated(more: dict[str, Any], latency: float, second: int) -> None:
    entry = parse(line(**more))
    assert entry
    assert (entry.latency_ms, entry.second) == (latency, second)


def test_lines_of_no_version_are_nobodys() -> None:
    assert parse(line(model=None, version=None, cluster=None)) is None
    assert parse(line(model="-", version="-", cluster="-")) is None
    assert parse(line(model="../x", version="1")) is None
    entry = parse(line(model=None, version=None))
    assert entry
    assert (entry.model, entry.version) == ("visits", "3")


@pytest.mark.parametrize("text", ["", "{", "nonsense", "[1]", "3", '{"a": 1'])
def test_no_json_object(text: str) -> None:
    with pytest.raises(ValueError):
        parse(text)


@given(st.lists(st.tuples(st.sampled_from([200, 404, 500, 503, 0]), st.sampled_from(["-", "UO", "DC"]),
                          st.floats(0, 1e6)), max_size=50))  # fmt: skip
def test_a_tally_survives_its_file_and_adds_up(rows: list[tuple[int, str, float]]) -> None:
    tally = Tally()
    for status, flags, ms in rows:
        entry = parse(line(status=status, response_flags=flags, duration_us=ms * 1000))
        assert entry
        tally.add(entry)
    again = Tally.from_dict(json.loads(json.dumps(tally.to_dict())))
    assert again == tally
    assert tally.requests == len(rows) == sum(tally.latency)
    assert tally.errors + tally.client_errors <= tally.requests


# -- tail


def take(tail: Tail) -> list[str]:
    return [text for block in tail.poll() for text in block]


class Log:
    """A log as the router writes it: appended, rotated by renaming, reopened some time later."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.count = 0
        self.rotations = 0
        self.descriptor = self._open()

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, lines: int, torn: int = 0) -> None:
        for _ in range(lines):
            data = f'{{"n": {self.count}}}\n'.encode()
            self.count += 1
            if torn:
                os.write(self.descriptor, data[:torn])
            os.write(self.descriptor, data[torn:])

    def rename(self) -> None:
        if self.path.exists():
            self.rotations += 1
            self.path.rename(self.path.with_name(f"{self.path.name}.{self.rotations:05d}"))

    def reopen(self) -> None:
        os.close(self.descriptor)
        self.descriptor = self._open()


def expect(log: Log, got: list[str]) -> None:
    assert sorted(json.loads(text)["n"] for text in got) == list(range(log.count))


_STEPS = st.lists(
    st.sampled_from(["write", "write", "write", "poll", "poll", "rename", "reopen", "restart", "delete"]), max_size=40
)


@given(_STEPS)
@settings(max_examples=150, deadline=None)
@example(steps=["write", "poll", "restart", "restart"])
def test_every_line_once_whatever_happens_to_the_files(
    tmp_path_factory: pytest.TempPathFactory, steps: list[str]
) -> None:
    """Rotation before or after a poll, a restart of the reader between any two, old files deleted once read."""
    log = Log(tmp_path_factory.mktemp("log") / "access.jsonl")
    tail, got = Tail(log.path), []
    for step in [*steps, "reopen", "poll"]:
        if step == "write":
            log.write(3)
        elif step == "poll":
            got += take(tail)
        elif step == "rename":
            log.rename()
        elif step == "reopen":
            log.reopen()
        elif step == "restart":
            positions = tail.positions()
            tail.close()
            tail = Tail(log.path, positions)
        elif step == "delete":
            for path in tail.rotated():
                # Nobody may hold it open any more, as the meter makes sure by waiting.
                if log.path.exists() and tail.finished(path, 0.0, 1e12):
                    path.unlink()
    tail.close()
    os.close(log.descriptor)
    expect(log, got)


def test_a_torn_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    tail = Tail(path)
    assert take(tail) == []
    path.write_bytes(b'{"n": 0}\n{"n"')
    assert take(tail) == ['{"n": 0}']
    assert take(tail) == []
    with path.open("ab") as file:
        file.write(b': 1}\n{"n": 2}\n')
    assert take(tail) == ['{"n": 1}', '{"n": 2}']


def test_a_reader_that_restarts_at_a_torn_first_line(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    path.write_bytes(b'{"n"')
    tail = Tail(path)
    assert take(tail) == []
    tail = Tail(path, tail.positions())
    with path.open("ab") as file:
        file.write(b": 0}\n")
    assert take(tail) == ['{"n": 0}']
    assert take(Tail(path, tail.positions())) == []


def test_a_reused_inode_is_another_file(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    path.write_bytes(b'{"n": 0}\n')
    tail = Tail(path)
    take(tail)
    positions = tail.positions()
    tail.close()
    path.write_bytes(b'{"n": 1}\n')  # the same inode, another content of the same length
    assert take(Tail(path, positions)) == ['{"n": 1}']


def test_a_truncated_log_starts_again(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    path.write_bytes(b'{"n": 0}\n{"n": 1}\n')
    tail = Tail(path)
    take(tail)
    path.write_bytes(b'{"n": 2}\n')
    assert take(tail) == ['{"n": 2}']


def test_a_line_without_end_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "access.jsonl"
    path.write_bytes(b'{"n": 0}\n' + b"x" * (3 * 2**20) + b'\n{"n": 1}\n')
    tail = Tail(path)
    assert take(tail) == ['{"n": 0}', '{"n": 1}']
    assert tail.skipped > 3 * 2**20
    assert take(Tail(path, tail.positions())) == []
