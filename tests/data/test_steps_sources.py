"""Data between steps: where it lies, that it is verified, that a broken writer leaves nothing finished. DEMAND PIP-2"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from windtunnel.data import steps
from windtunnel.errors import DataError
from windtunnel.home import Home

WHERE = ("visits.train", "scheduled__2026-01-01T00:00:00+00:00", "data")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_an_output_lies_where_the_contract_says(home: Home) -> None:
    made = steps.write_output(home, *WHERE, "rows", b"abc")
    assert made.path == (
        home.root / "pipelines/visits.train/runs/scheduled__2026-01-01T00:00:00+00:00/steps/data/outputs/rows"
    )
    assert made.size == 3
    assert made.digest == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert steps.read_output(home, *WHERE, "rows") == made
    assert steps.Output.from_dict(made.to_dict()) == made
    assert steps.input_environment({"rows": made, "my-part": made}) == {
        "WINDTUNNEL_INPUT_ROWS_PATH": str(made.path),
        "WINDTUNNEL_INPUT_MY_PART_PATH": str(made.path),
    }


def test_strange_ids_stay_below_the_pipelines(home: Home) -> None:
    path = steps.output_path(home, "../../etc", "a/b c", "..x", "rows")
    assert path.is_relative_to(home.pipelines)
    assert ".." not in path.parts
    for bad in ("..", "", "."):
        with pytest.raises(ValueError, match="cannot name"):
            steps.output_path(home, bad, "r", "t", "rows")
    for bad in ("", "a/b", ".x", "rows.windtunnel.json"):
        with pytest.raises(ValueError, match="cannot name an output"):
            steps.output_path(home, "d", "r", "t", bad)


def test_files_and_folders_are_copied_or_moved_and_replaced(home: Home, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "x").write_text("1")
    first = steps.write_output(home, *WHERE, "model", folder)
    (folder / "x").write_text("2")
    second = steps.write_output(home, *WHERE, "model", folder, move=True)
    assert first.digest != second.digest
    assert not folder.exists()
    assert steps.verify_input(second) == second.path
    with pytest.raises(DataError, match="corrupt"):
        steps.verify_input(first)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(b"ab"), "has 2 bytes, expected 3"),
        (lambda path: path.write_bytes(b"abd"), "is corrupt"),
    ],
)
def test_a_damaged_input_is_refused(damage: object, words: str, home: Home) -> None:
    made = steps.write_output(home, *WHERE, "rows", b"abc")
    damage(made.path)  # type: ignore[operator]
    with pytest.raises(DataError, match=words):
        steps.verify_input(made)


def test_an_output_without_its_sidecar_was_not_finished(home: Home, tmp_path: Path) -> None:
    made = steps.write_output(home, *WHERE, "rows", b"abc")
    with pytest.raises(DataError, match="nothing at"):
        steps.write_output(home, *WHERE, "rows", tmp_path / "gone")
    assert steps.read_output(home, *WHERE, "rows") == made, "a step that has nothing to say changes nothing"
    made.path.with_name("rows.windtunnel.json").unlink()
    with pytest.raises(DataError, match="no finished output 'rows'"):
        steps.read_output(home, *WHERE, "rows")
    with pytest.raises(DataError, match="is missing"):
        steps.verify_input(replace(made, path=made.path.with_name("nope")))
