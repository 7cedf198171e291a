"""The wheel works in an empty environment outside the checkout. DEMAND OPS-1

Built from a copy, installed by the ordinary client (uv where there is one, else pip), run from an empty folder.
"""

from __future__ import annotations

import configparser
import email
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.real, pytest.mark.timeout(420)]

ROOT = Path(__file__).parents[2]
BESIDE = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE")
#: To be copied and changed by a reader of the docs, not to be imported.
APART = "windtunnel_examples/own/"
JUNK = ("__pycache__", "*.egg-info", "*.pyc", ".*")

GOOD = """
name: arrivals
owner: yard
data:
  source: arrivals.parquet
  time: at
  target: late
  features: [weight, distance]
training:
  entry_point: arrivals.model:train
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, said: dict[str, Any]) -> Path:
    """The wheel, built from a copy of what belongs to the distribution."""
    source = tmp_path_factory.mktemp("source")
    for name in BESIDE:
        shutil.copy(ROOT / name, source)
    for folder in said["WHERE"].values():
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns(*JUNK), dirs_exist_ok=True)
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), "."],
        cwd=source, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    (found,) = out.iterdir()
    assert re.fullmatch(r"windtunnel-[0-9.]+-py3-none-any\.whl", found.name)
    return found


@pytest.fixture(scope="module")
def outside(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An environment that holds the wheel and its base requirements, as the lock has them, and nothing more."""
    folder = tmp_path_factory.mktemp("outside")
    pins = folder / "pins.txt"
    lock = (ROOT / "locks" / "main.txt").read_text(encoding="utf-8")
    # Without the hashes: with them the client would ask for one of the wheel, too.
    pins.write_text("\n".join(re.findall(r"^[A-Za-z0-9._-]+==[^\\\n]+", lock, re.M)), encoding="utf-8")
    venv = folder / "venv"
    uv = shutil.which("uv")
    if uv:
        commands = [
            [uv, "venv", "--quiet", "--python", sys.executable, str(venv)],
            [uv, "pip", "install", "--quiet", "--python", f"{venv}/bin/python", "-c", str(pins), str(wheel)],
        ]
    else:
        commands = [
            [sys.executable, "-m", "venv", str(venv)],
            [f"{venv}/bin/python", "-m", "pip", "install", "--quiet", "-c", str(pins), str(wheel)],
        ]
    for command in commands:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stderr[-3000:]}"
    yield venv
    shutil.rmtree(venv)


@pytest.fixture
def go(outside: Path, tmp_path: Path) -> Any:
    """Run a program of that environment in an empty folder, with nothing of this one's settings."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL", "WINDTUNNEL"))}
    env |= {"HOME": str(tmp_path), "PATH": f"{outside}/bin:/usr/bin:/bin", "NO_COLOR": "1"}

    def run(program: str, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [f"{outside}/bin/{program}", *words],
            cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    return run


def test_every_file_of_every_package_is_in_it_and_nothing_else(wheel: Path, said: dict[str, Any]) -> None:
    wanted = set()
    for package, folder in said["WHERE"].items():
        for path in (ROOT / folder).rglob("*"):
            inside = path.relative_to(ROOT / folder)
            if path.is_file() and "__pycache__" not in inside.parts and not path.name.startswith("."):
                wanted.add(f"{package}/{inside}")
    wanted = {name for name in wanted if not name.startswith(APART)}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == wanted
    # So that an empty checkout would not pass.
    assert held > {
        "windtunnel/py.typed",
        "windtunnel_airflow/operators/release.py",
        "windtunnel_mlflow/migrations/env.py",
        "windtunnel_mlflow/migrations/script.py.mako",
        "windtunnel_mlflow/migrations/versions/0001_first.py",
        "windtunnel_ui/templates/models.html",
        "windtunnel_examples/visits/demo/story.py",
        "windtunnel_dags/visits.py",
    }


def test_what_it_says_of_itself(wheel: Path, said: dict[str, Any]) -> None:
    archive = zipfile.ZipFile(wheel)
    (info,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
    about = email.message_from_string(archive.read(f"{info}/METADATA").decode())
    assert (about["Name"], about["License"], about["Requires-Python"]) == ("windtunnel", "Apache-2.0", ">=3.11")
    assert {"LICENSE", "NOTICE"} == set(about.get_all("License-File", []))
    assert "Apache License" in archive.read(f"{info}/licenses/LICENSE").decode()
    assert set(about.get_all("Provides-Extra", [])) == set(said["extras_require"])
    points = configparser.ConfigParser(delimiters=("=",))
    points.optionxform = str  # type: ignore[assignment,method-assign]
    points.read_string(archive.read(f"{info}/entry_points.txt").decode())
    assert {group: dict(points[group]) for group in points.sections()} == {
        group: dict(re.split(r"\s*=\s*", line, maxsplit=1) for line in lines)
        for group, lines in said["entry_points"].items()
    }
    for group in points.sections():
        for target in points[group].values():
            assert target.partition(":")[0].replace(".", "/") + ".py" in archive.namelist() or (
                target.partition(":")[0].replace(".", "/") + "/__init__.py" in archive.namelist()
            )


def test_every_module_of_the_library_can_be_imported_with_the_base_requirements(go: Any, outside: Path) -> None:
    """But one: the runtime inside a model server is a class of MLServer's."""
    code = """
import importlib, importlib.util, json, pkgutil, sys, windtunnel
missing = {}
for found in pkgutil.walk_packages(windtunnel.__path__, "windtunnel."):
    if not found.name.endswith("__main__"):
        try:
            importlib.import_module(found.name)
        except ModuleNotFoundError as error:
            missing[found.name] = error.name
servers = ("airflow", "mlflow", "mlserver", "evidently", "great_expectations", "sqlalchemy", "sklearn")
print(json.dumps({
    "missing": missing,
    "servers": [name for name in servers if importlib.util.find_spec(name)],
    "files": sorted({m.__file__ for m in sys.modules.values() if getattr(m, "__file__", None)}),
    "path": sys.path,
}))
"""
    done = go("python", "-c", code)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["missing"] == {"windtunnel.serving.modelserver.runtime": "mlserver"}
    assert told["servers"] == []
    ours = [name for name in told["files"] if "/windtunnel" in name]
    assert len(ours) > 100 and all(Path(name).is_relative_to(outside.resolve()) for name in ours)
    here = str(ROOT) + "/"
    assert [name for name in told["files"] + told["path"] if f"{name}/".startswith(here)] == []


def test_the_command_describes_checks_and_explains(go: Any, tmp_path: Path) -> None:
    told = go("windtunnel", "--help")
    assert told.returncode == 0 and "check" in told.stdout and "up" in told.stdout
    schema = json.loads(go("windtunnel", "schema").stdout)
    assert {"name", "data", "training"} <= set(schema["properties"])
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(GOOD, encoding="utf-8")
    bad.write_text(GOOD.replace("target:", "targte:"), encoding="utf-8")
    told = go("windtunnel", "check", str(good), "--json")
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout)["model"] == "arrivals"
    told = go("windtunnel", "check", str(bad))
    assert told.returncode != 0
    assert "bad.yaml:7" in told.stderr and "targte" in told.stderr
    assert "Traceback" not in told.stderr


def test_a_description_is_written_in_python_there(go: Any) -> None:
    code = (
        "from windtunnel import Model, load_model\n"
        "model = Model(name='a', owner='b', data=dict(source='s', time='t', target='y', features=['x']),"
        " training=dict(entry_point='a.b:c'))\n"
        "print(model.name, len(model.rollout.steps))"
    )
    told = go("python", "-c", code)
    assert told.returncode == 0, told.stderr
    assert told.stdout.split()[0] == "a" and int(told.stdout.split()[1]) >= 2


def test_what_is_missing_for_a_stack_is_said_with_the_command_that_brings_it(go: Any) -> None:
    told = go("windtunnel", "doctor")
    assert told.returncode == 1
    assert 'pip install "windtunnel[all]"' in told.stdout + told.stderr
