"""Every ``windtunnel ...`` in the docs is a command that exists, with its options; and the reference is whole."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from windtunnel.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: In a code span from its first word on; as a line of a block, indented or fenced, with or without the folder.
_SPAN = re.compile(r"`(?:\.venv/bin/)?windtunnel ([^`\n]+)`")
_LINE = re.compile(r"^(?: {3,}|\$ )?(?:\.venv/bin/)?windtunnel ([a-z-].*)$", re.M)


def root() -> Any:
    return typer.main.get_command(app)


def commands_in(page: Path) -> Iterator[str]:
    text = page.read_text(encoding="utf-8").replace("\\|", "|")
    for pattern in (_SPAN, _LINE):
        for found in pattern.findall(text):
            yield found.partition("#")[0].partition("|")[0].strip() if pattern is _LINE else found


def wrong(words: list[str]) -> str | None:
    """What is wrong with a command line; None when it would be understood."""
    here, arguments = root(), 0
    while words:
        word = words.pop(0)
        known = {option: param for param in here.params for option in param.opts if option.startswith("-")}
        if word.startswith("-"):
            option, given, _ = word.partition("=")
            if option in ("-h", "--help"):
                return None
            if option not in known:
                return f"{here.name} has no option {option}"
            if not known[option].is_flag and not given:
                if not words:
                    return None  # named in the text, without a value
                words.pop(0)
        elif hasattr(here, "commands"):
            if word not in here.commands:
                return f"{here.name} has no command {word}"
            here = here.commands[word]
        else:
            arguments += 1
    expected = [param for param in here.params if param.param_type_name == "argument"]
    if arguments > len(expected):
        return f"{here.name} takes {len(expected)} arguments, found {arguments}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page: Path) -> None:
    problems = {}
    for line in commands_in(page):
        if line.startswith(("COMMAND", "[", "@")) or "==" in line:
            continue
        problem = wrong(shlex.split(line))
        if problem:
            problems[line] = problem
    assert not problems


def test_commands_are_found_in_the_docs() -> None:
    found = {line for page in PAGES for line in commands_in(page)}
    assert {"up --dags ~/flying", "down", "rollout abort MODEL"} <= found
    assert len(found) > 20


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("upp", "no command"),
        ("up --port 3", "no option"),
        ("down now", "arguments"),
        ("rollout stop m", "no command"),
        ("up --dags a --dags b --examples", None),
        ("--home /x status --json", None),
    ],
)
def test_a_wrong_command_would_be_noticed(line: str, says: str | None) -> None:
    found = wrong(line.split())
    assert found is None if says is None else (found is not None and says in found)


def _leaves(command: Any, path: str = "windtunnel") -> Iterator[tuple[str, Any]]:
    for name, found in command.commands.items():
        if hasattr(found, "commands"):
            yield from _leaves(found, f"{path} {name}")
        else:
            yield f"{path} {name}", found


def test_the_reference_names_every_command_and_option() -> None:
    rows = {}
    for line in (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("| `windtunnel "):
            span = line.split("`")[1]
            rows[re.sub(r"( [A-Z]+)+$", "", span)] = line
    leaves = dict(_leaves(root()))
    assert set(rows) == set(leaves)
    for name, command in leaves.items():
        for param in command.params:
            if param.param_type_name == "option" and not param.hidden and param.name not in ("home", "help"):
                assert any(f"`{option}" in rows[name] for option in param.opts), f"{name} {param.opts}"
