"""Environments of the model servers: what is asked for, and what is there already. DEMAND SRV-9"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from windtunnel.errors import StackError
from windtunnel.home import Home
from windtunnel.stack import serving_env

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 13), reason="MLServer does not run on this Python")


@pytest.fixture
def wanted(tmp_path: Path) -> Path:
    file = tmp_path / "torch.txt"
    file.write_text("torch==2.13.0\n")
    return file


def made(home: Home, name: str, asked: str) -> Path:
    """As ``make`` leaves it."""
    python = home.serving_environment(name) / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("")
    python.chmod(0o755)
    (home.serving_environment(name) / serving_env.ASKED).write_text(asked)
    return python


@pytest.mark.parametrize(
    ("name", "file", "says"),
    [
        ("torch", None, "a name and a requirements file"),
        (None, "torch.txt", "a name and a requirements file"),
        ("../torch", "torch.txt", "cannot name an environment"),
        ("Torch", "torch.txt", "cannot name an environment"),
        ("torch", "nothing.txt", "nothing.txt cannot be read"),
    ],
)
def test_what_cannot_be_made_leaves_nothing(
    name: str | None, file: str | None, says: str, wanted: Path, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    with pytest.raises(StackError, match=says):
        serving_env.make(home, name, tmp_path / file if file else None)
    assert not home.root.exists()


def test_one_that_is_there_is_taken_and_never_changed(wanted: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    python = made(home, "torch", wanted.read_text())
    assert serving_env.make(home, "torch", wanted) == str(python)
    wanted.write_text("torch==2.14.0\n")
    with pytest.raises(StackError, match="made from something else"):
        serving_env.make(home, "torch", wanted)


def test_half_an_environment_goes_again(wanted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path / "home")
    monkeypatch.setattr(serving_env, "requirement", lambda: str(tmp_path / "no-such.whl"))
    with pytest.raises(StackError, match="could not be made"):
        serving_env.make(home, "torch", wanted)
    assert not home.serving_environment("torch").exists()
