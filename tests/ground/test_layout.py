"""The folders of the architecture are there, each with its package, and DAG files stay a few lines. DEMAND PIP-1"""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "windtunnel": "windtunnel",
    "registry_ext": "windtunnel_mlflow",
    "operators": "windtunnel_airflow",
    "plugins": "windtunnel_ui",
    "dags": "windtunnel_dags",
    "examples": "windtunnel_examples",
}
OTHERS = ("helm", "docker", "docs", "bench", "tests", "locks")
DAG_FILES = sorted((ROOT / "dags").glob("[!_]*.py"))


@pytest.mark.parametrize(("folder", "package"), PACKAGES.items())
def test_every_folder_holds_its_package(folder: str, package: str, said: dict[str, Any]) -> None:
    where = ROOT / said["WHERE"][package]
    assert where.relative_to(ROOT).parts[0] == folder
    found = importlib.util.find_spec(package)
    assert found is not None and found.origin is not None
    assert Path(found.origin).samefile(where / "__init__.py")


def test_no_package_is_unknown_to_setup(said: dict[str, Any]) -> None:
    assert set(said["WHERE"]) == set(PACKAGES.values())
    listed = set(said["packages"])
    for package, folder in said["WHERE"].items():
        for path in (ROOT / folder).rglob("__init__.py"):
            assert ".".join((package, *path.parent.relative_to(ROOT / folder).parts)) in listed


@pytest.mark.parametrize("folder", OTHERS)
def test_the_other_folders_hold_something(folder: str) -> None:
    assert any(path.is_file() for path in (ROOT / folder).iterdir())


def test_every_room_has_tests_in_a_folder_of_its_name() -> None:
    """Each folder of the library is mirrored; the ground floor's modules share ``ground``."""
    rooms = {path.parent.name for path in (ROOT / "windtunnel").glob("*/__init__.py")}
    folders = {path.name for path in (ROOT / "tests").iterdir() if any(path.glob("**/test_*.py"))}
    assert rooms | {"ground", "operators", "plugins", "registry_ext"} <= folders


def imported(path: Path) -> set[str]:
    """Top-level names of everything a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {one.name.partition(".")[0] for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: Airflow loads DAG files one by one; a relative import finds nothing"
            found.add(str(node.module).partition(".")[0])
    return found - {"__future__"}


@pytest.mark.parametrize("path", DAG_FILES, ids=lambda path: path.name)
def test_a_dag_file_is_a_few_lines_over_the_factory(path: Path) -> None:
    assert imported(path) <= {"windtunnel_airflow", "windtunnel_examples"}
    code = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(code) <= 15


def test_dag_files_ship() -> None:
    assert {path.stem for path in DAG_FILES} >= {"steward", "visits"}


def test_nothing_of_the_library_shadows_the_standard_library() -> None:
    """``dags/`` and ``plugins/`` come onto sys.path in Airflow."""
    for folder in ("dags", "plugins", "operators", "registry_ext"):
        names = {path.stem for path in (ROOT / folder).iterdir() if path.suffix == ".py" or path.is_dir()}
        assert not names & sys.stdlib_module_names
