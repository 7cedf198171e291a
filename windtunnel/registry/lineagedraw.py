"""Lineage as a picture: one SVG that needs nothing else, or a page with it. Pure.

What is in lineage was written by anybody who may register a version, so every word is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from windtunnel.registry.lineage import Lineage, LineageNode
from windtunnel.registry.lineagetext import moment

WIDTH, HEIGHT, ACROSS, DOWN, MARGIN = 232, 46, 96, 16, 24
_LETTERS = 26
_WAYS = {
    "backward": "What it was made of",
    "forward": "What came of it",
    "both": "What it was made of, what came of it",
}
#: Hue of each kind, in degrees.
_HUES = {
    "version": 212, "data": 150, "source": 165, "run": 265, "dag_run": 285, "code": 35, "commit": 25, "environment": 50,
    "image": 60, "evidence": 190, "approval": 330, "rollout": 230, "champion": 5,
}  # fmt: skip
_STYLE = """
svg.lineage{font-family:system-ui,-apple-system,"Segoe UI",sans-serif}
.paper{fill:#fff}.box{fill:#fff;stroke-width:1.2}.root{stroke-width:3}
.kind{font-size:10px;font-weight:600;letter-spacing:.06em;text-transform:uppercase}
.label{font-size:12.5px;fill:#1c2733}.edge{fill:none;stroke:#9aa7b4;stroke-width:1.3}.tip{fill:#9aa7b4}
@media (prefers-color-scheme:dark){.paper{fill:#14191f}.box{fill:#1d242c}.label{fill:#e6ebf0}
.edge{stroke:#5d6b79}.tip{fill:#5d6b79}}
"""
_PAGE = """
:root{color-scheme:light dark}
body{margin:0;padding:20px 24px;font:14px/1.45 system-ui,-apple-system,"Segoe UI",sans-serif;
color:#1c2733;background:#fff}
h1{font-size:19px;margin:0 0 2px}p{margin:0 0 14px;color:#667}.picture{overflow:auto;border:1px solid #8884;
border-radius:8px}
table{border-collapse:collapse;margin-top:18px;font-size:13px}th{text-align:left;font-weight:600}
td,th{padding:4px 14px 4px 0;border-bottom:1px solid #8883;vertical-align:top;overflow-wrap:anywhere}
td:nth-child(1),td:nth-child(3){white-space:nowrap}
@media (prefers-color-scheme:dark){body{color:#e6ebf0;background:#14191f}p{color:#9ab}}
"""


def svg(found: Lineage) -> str:
    """The picture: what came before on the left, what came after on the right."""
    places = _places(found)
    right = max(x for x, _ in places.values()) + WIDTH + MARGIN
    bottom = max(y for _, y in places.values()) + HEIGHT + MARGIN
    parts = [
        f'<svg class="lineage" xmlns="http://www.w3.org/2000/svg" width="{right}" height="{bottom}" '
        f'viewBox="0 0 {right} {bottom}" role="img" aria-label="{escape(_title(found))}">',
        f"<style>{_STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path class="tip" d="M0,0 L8,4 L0,8 z"/></marker></defs>',
        '<rect class="paper" width="100%" height="100%"/>',
    ]
    for edge in found.edges:
        (x1, y1), (x2, y2) = places[edge.upstream], places[edge.downstream]
        x1, y1, y2 = x1 + WIDTH, y1 + HEIGHT // 2, y2 + HEIGHT // 2
        bend = max(40, abs(x2 - x1) // 2)
        parts.append(
            f'<path class="edge" marker-end="url(#tip)" d="M{x1},{y1} C{x1 + bend},{y1} {x2 - bend},{y2} {x2},{y2}">'
            f"<title>{escape(edge.relation)}</title></path>"
        )
    parts += [_box(node, places[node.id], node.id == found.root) for node in found.nodes]
    return "\n".join([*parts, "</svg>", ""])


def page(found: Lineage) -> str:
    """A page with the picture and everything that is known of each thing in it."""
    rows = "\n".join(
        f"<tr><td>{escape(node.kind)}</td><td>{escape(node.label)}</td><td>{escape(moment(node.at))}</td>"
        f"<td>{escape('; '.join(f'{key}: {value}' for key, value in node.detail.items()))}</td></tr>"
        for node in sorted(found.nodes, key=lambda node: (node.depth, node.kind, node.label))
    )
    when = f"as it was known at {moment(found.as_of)} UTC" if found.as_of is not None else "as it is known now"
    more = " There is more than is shown." if found.cut else ""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(_title(found))}</title>'
        f"<style>{_PAGE}</style></head><body>\n<h1>{escape(_title(found))}</h1>\n"
        f"<p>{_WAYS.get(found.direction, '')}, at most {found.depth} steps, {when}.{more}</p>\n"
        f'<div class="picture">{svg(found)}</div>\n'
        f"<table><tr><th>kind</th><th>what</th><th>known since (UTC)</th><th>more</th></tr>\n{rows}\n</table>\n"
        "</body></html>\n"
    )


def _title(found: Lineage) -> str:
    return f"Lineage of {found.node(found.root).label}"


def _places(found: Lineage) -> dict[str, tuple[int, int]]:
    """Upper left corner of each box. Columns by the longest way from the root, so that arrows point to the right."""
    column = {node.id: node.depth for node in found.nodes}
    for _ in found.nodes:  # as many rounds as a way can be long, also if there were a circle
        moved = False
        for edge in found.edges:
            up, down = column[edge.upstream], column[edge.downstream]
            if up < down:
                continue
            moved = True
            if down <= 0 and edge.upstream != found.root:
                column[edge.upstream] = down - 1
            else:
                column[edge.downstream] = up + 1
        if not moved:
            break
    near: dict[str, list[str]] = {}
    for edge in found.edges:
        near.setdefault(edge.upstream, []).append(edge.downstream)
        near.setdefault(edge.downstream, []).append(edge.upstream)
    columns: dict[int, list[str]] = {}
    for node in found.nodes:
        columns.setdefault(column[node.id], []).append(node.id)
    order: dict[str, float] = {}
    for number in sorted(columns, key=abs):
        columns[number].sort(key=lambda one: _mean(order[o] for o in near.get(one, ()) if o in order))
        order |= {one: float(nth) for nth, one in enumerate(columns[number])}
    tallest = max(map(len, columns.values()))
    places = {}
    for nth, number in enumerate(sorted(columns)):
        top = MARGIN + (tallest - len(columns[number])) * (HEIGHT + DOWN) // 2
        for row, one in enumerate(columns[number]):
            places[one] = (MARGIN + nth * (WIDTH + ACROSS), top + row * (HEIGHT + DOWN))
    return places


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found) if found else 0.0


def _box(node: LineageNode, place: tuple[int, int], root: bool) -> str:
    x, y = place
    hue = _HUES.get(node.kind, 0)
    label = node.label if len(node.label) <= _LETTERS else f"{node.label[: _LETTERS - 1]}…"
    told = "\n".join([node.label, *(f"{key}: {value}" for key, value in node.detail.items())])
    return (
        f'<g><title>{escape(told)}</title><rect class="box{" root" if root else ""}" x="{x}" y="{y}" rx="7" '
        f'width="{WIDTH}" height="{HEIGHT}" stroke="hsl({hue} 55% 50%)"/>'
        f'<text class="kind" x="{x + 12}" y="{y + 17}" fill="hsl({hue} 55% 45%)">{escape(_kind(node))}</text>'
        f'<text class="label" x="{x + 12}" y="{y + 35}">{escape(label)}</text></g>'
    )


def _kind(node: LineageNode) -> str:
    state = node.detail.get("state") if node.kind == "version" else None
    return node.kind.replace("_", " ") + (f" · {state}" if state else "")
