"""The DAG files that ship: in every stack, or only when asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from windtunnel.errors import StackError
from windtunnel.home import Home
from windtunnel.stack import dags

ALWAYS = {"windtunnel_steward.py", "windtunnel_control.py"}


def test_the_houses_own_are_everywhere_and_examples_only_when_wanted(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert "visits" in dags.examples() and not {"steward", "control"} & dags.examples()
    dags.place(home, ())
    assert {path.name for path in home.dags.glob("*.py")} == ALWAYS
    dags.place(home, ("visits", "of-an-older-version"))
    assert {path.name for path in home.dags.glob("*.py")} == ALWAYS | {"windtunnel_visits.py"}


def test_a_persons_own_files_are_never_touched(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.dags.mkdir()
    (home.dags / "mine.py").write_text("x = 1")
    dags.place(home, ("visits",))
    dags.place(home, ())
    assert (home.dags / "mine.py").read_text() == "x = 1"
    assert not (home.dags / "windtunnel_visits.py").exists()


def test_a_dag_folder_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(StackError, match="nowhere"):
        dags.check_folders((tmp_path / "nowhere",))
