"""Every relative link, image and anchor of README and docs leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
_LINK = re.compile(r"(!?)\[[^\]\n]*\]\(([^)\s]+)\)")
_FENCED = re.compile(r"^ *```.*?^ *```$", re.M | re.S)
#: Screenshots of the browser test. Until it has made the folder they may be absent; then all must be there.
IMAGES = ROOT / "docs" / "images"


def text_of(page: Path) -> str:
    """A page without fenced blocks and code spans: links in code are code."""
    return re.sub(r"`[^`\n]*`", "code", _FENCED.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    heads = re.findall(r"^#{1,6} +(.+?) *$", _FENCED.sub("", page.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower().replace("`", "")).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for _, target in _LINK.findall(text_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        place = (page.parent / path).resolve() if path else page
        if place.parent == IMAGES and not IMAGES.exists():
            continue
        if not place.exists() or (anchor and anchor not in anchors(place)):
            broken.append(target)
        elif ROOT not in place.parents:
            broken.append(f"{target} (outside the project)")
    assert not broken


def test_pages_named_in_code_exist() -> None:
    """Error hints and docstrings send people to pages."""
    named = set()
    for folder in ("windtunnel", "operators", "registry_ext", "plugins"):
        for path in (ROOT / folder).rglob("*.py"):
            named |= set(re.findall(r"\bdocs/[\w/-]+\.md", path.read_text(encoding="utf-8")))
    assert "docs/reference/verdicts.md" in named
    assert not [name for name in named if not (ROOT / name).exists()]


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        seen.add(page)
        for _, target in _LINK.findall(text_of(page)):
            place = (page.parent / target.partition("#")[0]).resolve()
            if place.suffix == ".md" and place.exists() and place not in seen:
                waiting.append(place)
    # The results of benchmarks are a page for whoever runs them.
    unreached = {str(page.relative_to(ROOT)) for page in PAGES} - {str(page.relative_to(ROOT)) for page in seen}
    assert unreached <= {"docs/benchmarks.md"}


def test_a_heading_has_the_anchor_that_github_gives_it(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Up, and `down`!\n## Where new code goes\n```\n# no heading\n```\n")
    assert anchors(page) == {"up-and-down", "where-new-code-goes"}
