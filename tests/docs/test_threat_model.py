"""The threat model claims nothing without a test: each that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "threat-model.md"


def test_every_test_that_is_named_is_there() -> None:
    named, page = [], None
    for path, name in re.findall(r"`(?:(tests/[\w/]+\.py)::)?(test_\w+)`", PAGE.read_text(encoding="utf-8")):
        page = ROOT / path if path else page  # without a file it is in the one named last
        assert page is not None, name
        named.append((page, name))
    assert len(named) > 40
    missing = [
        (page.name, name) for page, name in named if not re.search(rf"^def {name}\(", page.read_text("utf-8"), re.M)
    ]
    assert missing == []
