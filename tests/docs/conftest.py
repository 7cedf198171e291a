"""Code of the pages, and the README's own model in a folder as a reader would write it."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# Before anything imports Airflow: it reads its configuration at import and would write into the user's home.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="wt-airflow-"))

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(
    r"(?:^<!-- file: (?P<file>\S+) -->\n)?^(?P<margin> *)```(?P<language>\w+)\n(?P<code>.*?)^ *```$", re.M | re.S
)


@dataclass(frozen=True)
class Block:
    """One fenced block; ``file`` when the comment above it names one."""

    page: str
    language: str
    code: str
    file: str | None
    line: int


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        margin = len(found["margin"])  # a block in a list is indented
        code = "".join(line[margin:] or "\n" for line in found["code"].splitlines(keepends=True))
        line = text.count("\n", 0, found.start("language")) + 1
        yield Block(str(page.relative_to(ROOT)), found["language"], code, found["file"], line)


@pytest.fixture(scope="session")
def blocks() -> Callable[[Path], list[Block]]:
    """The fenced blocks of a page."""
    return lambda page: list(_blocks(page))


@pytest.fixture
def flying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The README's files, and nothing else, in a folder from which Python imports, as Airflow does."""
    for block in _blocks(ROOT / "README.md"):
        if block.file:
            (tmp_path / block.file).write_text(block.code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)
