"""DEMAND REG-8: lineage as text, Mermaid and picture, whatever is written in it."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windtunnel.registry import lineagedraw, lineagetext
from windtunnel.registry.lineage import Lineage, LineageEdge, LineageNode


def version(number: int, depth: int, **detail: object) -> LineageNode:
    return LineageNode(f"version:sea/{number}", "version", depth, f"sea {number}", 10.0, {"state": "READY", **detail})


def sample(**changes: object) -> Lineage:
    nodes = (
        version(3, 0),
        LineageNode("data:d", "data", -1, "d", 1.0, {"name": "visits"}),
        version(2, -1),
        version(1, -2),
        LineageNode("champion:1", "champion", 1, "now", 5.0, {"reason": "proven"}),
        LineageNode("evidence:9", "evidence", 1, "drift: FAIL", 6.0, {"window": [0.0, 3600.0]}),
    )
    edges = [("data:d", 3), (2, 3), (1, 2), ("data:d", 2), (1, 3), (3, "champion:1"), (3, "evidence:9")]
    names = [tuple(f"version:sea/{end}" if isinstance(end, int) else end for end in edge) for edge in edges]
    told = tuple(
        LineageEdge(up, down, "parent" if up.startswith("version") and down.startswith("version") else "data")
        for up, down in names
    )
    given = {"direction": "both", "depth": 3, "as_of": None, "cut": False, **changes}
    return Lineage("version:sea/3", "sea", "3", nodes=nodes, edges=told, **given)  # type: ignore[arg-type]


def test_the_tree_opens_each_version_once() -> None:
    lines = list(lineagetext.tree(sample()))
    assert lines == [
        "sea 3  [READY]",
        "made of:",
        "  ├─ data: d  [visits]",
        "  ├─ parent: sea 2  [READY]",
        "  │  ├─ data: d  [visits]",
        "  │  └─ parent: sea 1  [READY]",
        "  └─ parent: sea 1 (see above)",
        "came of it:",
        "  ├─ champion: now  [1970-01-01 00:00:05 to now; proven]",
        "  └─ evidence: drift: FAIL  [1970-01-01 00:00:06; of 1970-01-01 00:00:00 to 1970-01-01 01:00:00]",
    ]
    assert list(lineagetext.tree(sample(cut=True)))[-1] == "... and more: --limit shows them"
    assert "came of it:" not in list(lineagetext.tree(sample(direction="backward")))


def test_mermaid_names_every_thing_and_arrow() -> None:
    lines = list(lineagetext.mermaid(sample()))
    assert lines[0] == "flowchart LR" and len(lines) == 1 + 6 + 7 + 1
    assert "  n1 --> n0" in lines


def test_arrows_point_to_the_right_and_boxes_do_not_touch() -> None:
    """Also where a short way skips a column: 1 is an origin of 3 and of 2."""
    places = lineagedraw._places(sample())
    for edge in sample().edges:
        assert places[edge.upstream][0] < places[edge.downstream][0], edge
    assert len(set(places.values())) == len(places)


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=60))
def test_no_word_of_a_stranger_is_markup(label: str) -> None:
    strange = f'<script>alert("{label}")</script>'
    printable = "".join(char for char in strange if char.isprintable())
    node = LineageNode(f"data:{printable}", "data", -1, printable, 1.0, {"name": printable})
    found = Lineage("version:sea/1", "sea", "1", "both", 1, None, (version(1, 0), node), (), False)
    assert "<script" not in lineagedraw.page(found)
    root = ElementTree.fromstring(lineagedraw.svg(found))
    texts = [one.text or "" for one in root.iter("{http://www.w3.org/2000/svg}title")]
    assert any(printable in text for text in texts)
    assert all("<script" not in line and line.count('"') in (0, 2) for line in lineagetext.mermaid(found))


@pytest.mark.parametrize("draw", [lineagedraw.page, lineagedraw.svg])
def test_the_picture_needs_nothing_from_elsewhere(draw: object) -> None:
    text = draw(sample())  # type: ignore[operator]
    assert text.replace("http://www.w3.org/2000/svg", "").count("http") == 0
    assert "@import" not in text and " src=" not in text


def test_what_goes_over_the_wire_comes_back() -> None:
    assert Lineage.from_dict(sample().to_dict()) == sample()
