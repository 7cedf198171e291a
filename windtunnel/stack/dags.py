"""The DAG files that ship with Windtunnel, placed where the embedded Airflow reads them."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from windtunnel.errors import StackError
from windtunnel.home import Home
from windtunnel.stack import files

PREFIX = "windtunnel_"


def shipped() -> dict[str, str]:
    """File name and text of each shipped DAG file (package ``windtunnel_dags``)."""
    spec = find_spec("windtunnel_dags")
    if spec is None or not spec.submodule_search_locations:
        return {}
    found = {}
    for folder in spec.submodule_search_locations:
        for path in sorted(Path(folder).glob("[!_]*.py")):
            name = path.name if path.name.startswith(PREFIX) else PREFIX + path.name
            found[name] = path.read_text(encoding="utf-8")
    return found


def place(home: Home) -> None:
    """Put the shipped files of this version into HOME/dags; files of a former version that no longer ship go away."""
    files.folder(home.dags)
    wanted = shipped()
    for name, text in wanted.items():
        files.write(home.dags / name, text)
    marker = home.dags / ".shipped"
    before = marker.read_text(encoding="utf-8").split() if marker.exists() else []
    for name in before:
        if name not in wanted:
            (home.dags / name).unlink(missing_ok=True)
    files.write(marker, "\n".join(wanted) + "\n")


def check_folders(paths: tuple[Path, ...]) -> None:
    """Refuse a DAG folder that is not there.

    Raises:
        StackError: a path is no folder.
    """
    for path in paths:
        if not path.is_dir():
            raise StackError(f"{path} is not a folder with DAG files", hint="give --dags an existing folder")
