"""Code in the pages: Python compiles, imports exist, descriptions and settings say something that can be done."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from windtunnel.spec.load import loads
from windtunnel.spec.policy import PolicyDocument

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: A reader's own modules.
THEIRS = {"sea", "my_models", "visits"}


#: The rest of a description of which a page shows a part.
PART_OF = """name: visits
owner: me
data: {source: x.csv, time: t, target: y, features: [{name: a}]}
training: {entry_point: "visits.train:train"}
"""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_is_code(page: Path, blocks: Callable[[Path], list[Any]]) -> None:
    for block in blocks(page):
        where = f"{block.page}:{block.line}"
        if block.language == "python":
            tree = ast.parse(block.code, where)
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] not in THEIRS:
                    module = importlib.import_module(str(node.module))
                    lacking = [name.name for name in node.names if not hasattr(module, name.name)]
                    assert not lacking, f"{where}: {node.module} has no {lacking}"
        elif block.language == "json":
            json.loads(block.code)
        elif block.language == "toml":
            tomllib.loads(block.code)
        elif block.language == "yaml" and page.name in ("set-up-policy.md", "move-between-installations.md"):
            PolicyDocument.model_validate(yaml.safe_load(block.code))
        elif block.language == "yaml" and page.name.startswith("install-on-"):
            yaml.safe_load(block.code)  # values of the chart: tests/chart/test_pages.py renders them
        elif block.language == "yaml" and block.code.startswith("apiVersion: "):
            yaml.safe_load(block.code)  # a cluster's object: tests/kube asks a real API server
        elif block.language == "bash":
            done = subprocess.run(["bash", "-n"], input=block.code, capture_output=True, text=True, check=False)
            assert done.returncode == 0, f"{where}: {done.stderr}"
        elif block.language == "yaml":
            loads(block.code if "\nname: " in f"\n{block.code}" else f"{PART_OF}{block.code}", where)
        else:
            assert block.language in ("mermaid", "text"), f"{where}: {block.language} is not looked at"


@pytest.mark.parametrize("name", ["own-steps", "serving-limits", "send-labels"])
def test_parts_of_descriptions_are_right(name: str, blocks: Callable[[Path], list[Any]]) -> None:
    """Blocks that make parts of a description are run: a wrong key would be refused."""
    ran = 0
    for block in blocks(ROOT / "docs" / "how-to" / f"{name}.md"):
        if "from windtunnel import" in block.code:
            exec(compile(block.code, name, "exec"), {})
            ran += 1
    assert ran


def test_the_steps_of_the_how_to_fit_into_a_model(blocks: Callable[[Path], list[Any]]) -> None:
    from windtunnel import Data, Model, Training

    space: dict[str, Any] = {}
    exec(blocks(ROOT / "docs" / "how-to" / "own-steps.md")[0].code, space)
    Model(
        name="visits",
        owner="me",
        data=Data(source="x.csv", time="t", target="y", features=["a"]),
        training=Training(entry_point="visits.train:train"),
        steps=space["steps"],
    )


def test_the_settings_of_the_home_are_understood(blocks: Callable[[Path], list[Any]]) -> None:
    from windtunnel.stack.settings import parse

    page = ROOT / "docs" / "reference" / "home-folder.md"
    text = next(block.code for block in blocks(page) if block.language == "toml")
    found, default = parse(tomllib.loads(text), "page"), parse({}, "page")
    assert (found.logs_mb, found.artifacts_mb, found.min_free_mb) == (
        default.logs_mb, default.artifacts_mb, default.min_free_mb,
    )  # fmt: skip
