"""A quota warns before it bites, and a full disk is said plainly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from windtunnel.errors import StackError
from windtunnel.home import Home
from windtunnel.stack import disk, files
from windtunnel.stack.health import Level
from windtunnel.stack.settings import Settings


@pytest.mark.parametrize(
    ("used", "quota", "level"),
    [
        (79, 100, Level.HEALTHY),
        (80, 100, Level.DEGRADED),
        (100, 100, Level.UNHEALTHY),
        (10_000, 0, Level.HEALTHY),
    ],
)
def test_quota(used: float, quota: int, level: Level) -> None:
    found, text = disk.Usage("logs", used, quota).judge()
    assert found is level
    assert "logs" in text


def test_usage_counts_what_is_there_and_follows_no_link(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    (home.logs / "deep").mkdir(parents=True)
    (home.logs / "deep" / "a.log").write_bytes(os.urandom(3 * disk.MIB))
    (tmp_path / "elsewhere").write_bytes(os.urandom(disk.MIB))
    (home.logs / "link").symlink_to(tmp_path / "elsewhere")
    (home.logs / "loop").symlink_to(home.logs)
    logs, artifacts = disk.usages(home, Settings())
    assert logs.used_mb == pytest.approx(3, abs=0.1)
    assert artifacts.used_mb == 0


def test_too_little_space_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="MiB free") as caught:
        disk.require_space(Home(tmp_path), Settings(min_free_mb=10**9))
    assert "min_free_mb" in str(caught.value.hint)


def test_a_full_disk_is_said_plainly_and_leaves_nothing(tmp_path: Path) -> None:
    """/dev/full answers every write with 'no space left'; the folder of the file stays as it was."""
    target = tmp_path / "file"
    target.write_text("old")
    real = os.fdopen

    def full(descriptor: int, *arguments: object, **options: object) -> object:
        os.dup2(os.open("/dev/full", os.O_WRONLY), descriptor)
        return real(descriptor, *arguments, **options)  # type: ignore[call-overload]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fdopen", full)
        with pytest.raises(StackError, match=r"(?i)no space left"):
            files.write(target, "new")
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_is_private_and_only_written_when_it_changes(tmp_path: Path) -> None:
    assert files.write(tmp_path / "a", "x")
    assert not files.write(tmp_path / "a", "x")
    assert files.write(tmp_path / "a", "y")
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
