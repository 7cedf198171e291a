"""Files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from windtunnel import files


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("mode", [files.PRIVATE, files.SHARED, 0o640])
@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_a_file_has_the_mode_that_was_asked_for(tmp_path: Path, mode: int, umask: int) -> None:
    before = os.umask(umask)
    try:
        assert files.write_bytes(tmp_path / "f", b"x", mode=mode) == tmp_path / "f"
        assert files.write_with(tmp_path / "g", lambda path: path.write_bytes(b"x"), mode=mode).read_bytes() == b"x"
    finally:
        os.umask(before)
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in ("f", "g")} == {mode}


def test_it_is_private_from_its_first_byte_on(tmp_path: Path) -> None:
    seen = []

    def write(temporary: Path) -> None:
        seen.append((temporary.parent, temporary.stat().st_mode & 0o777))
        temporary.write_bytes(b"secret")

    files.write_with(tmp_path / "f", write)
    assert seen == [(tmp_path, 0o600)]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("no JSON")])
def test_a_writer_that_dies_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = files.write_bytes(tmp_path / "f", b"old")

    def half(temporary: Path) -> None:
        temporary.write_bytes(b"ne")
        raise error

    with pytest.raises(type(error)):
        files.write_with(path, half)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["f"]


def test_a_full_disk_is_an_error_and_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full answers every write with 'no space left'."""
    path = files.write_bytes(tmp_path / "f", b"old")
    real = os.fdopen

    def full(descriptor: int, mode: str) -> object:
        os.dup2(os.open("/dev/full", os.O_WRONLY), descriptor)
        return real(descriptor, mode)

    monkeypatch.setattr(os, "fdopen", full)
    with pytest.raises(OSError, match="No space left"):
        files.write_json(path, {"a": 1})
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["f"]


@pytest.mark.parametrize(
    "write", [lambda p, **k: files.write_bytes(p, b"1", **k), lambda p, **k: files.write_json(p, 1, **k)]
)
def test_folders_are_made_only_when_asked_for(tmp_path: Path, write: Callable[..., Path]) -> None:
    deep = tmp_path / "a" / "b" / "f"
    with pytest.raises(FileNotFoundError):
        write(deep)
    assert names(tmp_path) == []
    assert write(deep, parents=True).exists()


def test_what_is_durable_is_flushed_with_every_folder_that_is_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[Path] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        flushed.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    files.write_bytes(tmp_path / "a" / "b" / "f", b"x", parents=True)
    first, *folders = flushed
    assert first.parent == tmp_path / "a" / "b", "the file itself, before it gets its name"
    assert folders == [tmp_path / "a" / "b", tmp_path / "a", tmp_path]
    flushed.clear()
    files.write_bytes(tmp_path / "a" / "b" / "f", b"y", durable=False)
    assert flushed == []
    assert (tmp_path / "a" / "b" / "f").read_bytes() == b"y"


@pytest.mark.parametrize("value", [None, 1, "é", [1.5, None], {"a": {"b": [True]}}])
def test_json_comes_back(tmp_path: Path, value: object) -> None:
    path = files.write_json(tmp_path / "f", value)
    assert files.read_json(path) == value
    assert path.read_bytes().count(b"\n") == 1


def test_no_file_is_none_and_a_broken_one_is_an_error_unless_it_may_be_broken(tmp_path: Path) -> None:
    broken = tmp_path / "f"
    assert files.read_json(broken) is None
    broken.write_bytes(b'{"a": ')
    assert files.read_json(broken / "below") is None
    with pytest.raises(ValueError, match=str(broken)):
        files.read_json(broken)
    broken.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="holds no JSON"):
        files.read_json(broken)
    assert files.read_json(broken, broken_ok=True) is None


def test_readers_and_a_killed_writer_never_meet_a_part(tmp_path: Path) -> None:
    """A writer replaces one file all the time and is killed with -9; every look in between finds a whole value."""
    path = tmp_path / "f"
    code = (
        "import sys, itertools; from pathlib import Path; from windtunnel import files\n"
        "for n in itertools.count(): files.write_json(Path(sys.argv[1]), [n] * 20_000, durable=False)"
    )
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", code, str(path)])
        try:
            looks, end = 0, time.monotonic() + 20
            while looks < 200 and time.monotonic() < end:
                found = files.read_json(path)
                if found is not None:
                    assert len(found) == 20_000 and len(set(found)) == 1
                    looks += 1
            assert looks == 200
        finally:
            writer.send_signal(signal.SIGKILL)
            writer.wait()
        assert len(set(json.loads(path.read_bytes()))) == 1
