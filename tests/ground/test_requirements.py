"""The wheel's requirements and the lock files say the same. DEMAND OPS-1"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCKS = Path(__file__).parents[2] / "locks"

#: In locks/main.in for whoever works on Windtunnel, not for whoever runs it.
TOOLS = "# tools"


def plain(lines: Iterable[str]) -> dict[str, str]:
    """Name to version range."""
    wanted = (Requirement(line.partition("#")[0]) for line in lines if line.partition("#")[0].strip())
    return {canonicalize_name(one.name): str(one.specifier) for one in wanted}


def asked(name: str) -> dict[str, str]:
    """What a lock is made from, without the developer's tools."""
    return plain((LOCKS / name).read_text(encoding="utf-8").partition(TOOLS)[0].splitlines())


def locked(name: str) -> dict[str, set[str]]:
    """Name to versions; more than one where Pythons differ."""
    found: dict[str, set[str]] = {}
    for one, version in re.findall(
        r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", (LOCKS / name).read_text(encoding="utf-8"), re.M
    ):
        found.setdefault(canonicalize_name(one), set()).add(version)
    return found


def test_everything_the_stack_runs_is_in_all_and_nothing_else(said: dict[str, Any]) -> None:
    assert plain([*said["install_requires"], *said["extras_require"]["all"]]) == asked("main.in")


def test_a_model_server_runs_what_the_serving_extra_names(said: dict[str, Any]) -> None:
    own = plain(said["extras_require"]["serving"])
    wanted = asked("serving.in")
    models = {"scikit-learn", "skops"}  # what the demo's models are made of and stored with
    assert own.items() <= wanted.items()
    assert {name: found for name, found in wanted.items() if name not in own.keys() | models} == plain(
        said["install_requires"]
    )


@pytest.mark.parametrize("lock", ["main.txt", "serving.txt"])
def test_the_base_wheel_fits_into_both_environments(said: dict[str, Any], lock: str) -> None:
    pins = locked(lock)
    for line in said["install_requires"]:
        need = Requirement(line)
        versions = pins[canonicalize_name(need.name)]
        assert all(need.specifier.contains(version) for version in versions), f"{line}: {lock} has {versions}"


def test_the_base_wheel_asks_for_no_server(said: dict[str, Any]) -> None:
    """It is installed beside anything, so it names neither Airflow nor MLflow nor a web framework."""
    heavy = {
        "apache-airflow",
        "mlflow",
        "mlserver",
        "evidently",
        "great-expectations",
        "fastapi",
        "flask",
        "sqlalchemy",
    }
    assert not heavy & set(plain(said["install_requires"]))
    assert all(re.search(r"[<>=~]", line) for line in said["install_requires"]), "every need has a floor"
