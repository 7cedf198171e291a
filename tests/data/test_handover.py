"""Outputs of steps between workers that share no disk. DEMAND PIP-2"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from windtunnel.data import handover, steps
from windtunnel.data.objects import FolderObjects
from windtunnel.errors import DataError, IntegrityError, WindtunnelError
from windtunnel.home import Home

KEY = "pipelines/sea.train/runs/run/steps/data/outputs/made"


def file(at: Path) -> None:
    at.write_bytes(b"rows")


def folder(at: Path) -> None:
    (at / "below").mkdir(parents=True)
    (at / "below" / "one.txt").write_text("1")


def folder_of_one_called_as_itself(at: Path) -> None:
    at.mkdir()
    (at / "made").write_text("1")


@pytest.mark.parametrize("write", [file, folder, folder_of_one_called_as_itself])
def test_what_one_worker_wrote_another_has_as_it_was(write: Callable[[Path], None], tmp_path: Path) -> None:
    store, home = FolderObjects(tmp_path / "store"), Home(tmp_path / "home")
    write(tmp_path / "made")
    told = steps.write_output(home, "sea.train", "run", "data", "made", tmp_path / "made")
    handover.hand_over(store, home, told)
    assert handover.key_of(home, told.path) == KEY
    home.root.rename(tmp_path / "the other worker's")
    assert handover.known(store, KEY, told) is not None
    handover.fetch(store, KEY, told)
    handover.fetch(store, KEY, told)  # two tasks may want the same
    steps.verify_input(told)
    assert told.path.is_dir() == (write is not file)
    assert steps.read_output(home, "sea.train", "run", "data", "made") == told
    assert [one.name for one in told.path.parent.iterdir() if one.name.startswith(".")] == [], "nothing half is left"


def changed(store: FolderObjects) -> None:
    store.put_bytes(f"{KEY}/made", b"sowr")


def absent(store: FolderObjects) -> None:
    store.delete([f"{KEY}{steps.SIDECAR}"])


def another(store: FolderObjects) -> None:
    """The step ran again, on other data."""
    home = Home(store.root.parent / "again")
    handover.hand_over(store, home, steps.write_output(home, "sea.train", "run", "data", "made", b"other"))


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (changed, IntegrityError, "corrupt"),
        (absent, DataError, "missing: nothing at"),
        (another, DataError, "expected"),
    ],
)
def test_nothing_else_takes_its_place(
    spoil: Callable[[FolderObjects], None], error: type[WindtunnelError], said: str, tmp_path: Path
) -> None:
    store, home = FolderObjects(tmp_path / "store"), Home(tmp_path / "home")
    told = steps.write_output(home, "sea.train", "run", "data", "made", b"rows")
    handover.hand_over(store, home, told)
    told.path.unlink()
    spoil(store)
    with pytest.raises(error, match=said):
        handover.fetch(store, KEY, told)
    assert not told.path.exists()
