"""The DAG files that ship with Windtunnel, placed where the embedded Airflow reads them."""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path

from windtunnel.errors import StackError
from windtunnel.home import Home
from windtunnel.stack import files

PREFIX = "windtunnel_"
#: In every stack; every other shipped file is an example that somebody asks for.
ALWAYS = frozenset({"steward", "control"})


def shipped() -> dict[str, str]:
    """Name and text of each shipped DAG file (package ``windtunnel_dags``)."""
    spec = find_spec("windtunnel_dags")
    if spec is None or not spec.submodule_search_locations:
        return {}
    found = {}
    for folder in spec.submodule_search_locations:
        for path in sorted(Path(folder).glob("[!_]*.py")):
            found[path.stem] = path.read_text(encoding="utf-8")
    return found


def examples() -> frozenset[str]:
    """Names of the shipped example DAG files."""
    return frozenset(shipped()) - ALWAYS


def place(home: Home, wanted_examples: Collection[str]) -> None:
    """Put the shipped files of this version into HOME/dags; those placed before and not wanted now go away.

    Args:
        wanted_examples: names out of ``examples()``; unknown ones are left out, for they may be of an older version.
    """
    files.folder(home.dags)
    chosen = ALWAYS | set(wanted_examples)
    wanted = {f"{PREFIX}{name}.py": text for name, text in shipped().items() if name in chosen}
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
