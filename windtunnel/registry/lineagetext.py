"""Lineage as a tree of text, and as a diagram for Mermaid. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from windtunnel.registry.lineage import Lineage, LineageNode

#: What stands before a thing in the tree, by relation, where its kind alone would not do.
_SAYS = {"parent": "version", "copy": "copy"}


def tree(found: Lineage) -> Iterator[str]:
    """Lines: the version, what it was made of, and what came of it; a thing is opened out once."""
    root = found.node(found.root)
    yield f"{root.label}{_remark(root)}"
    titles = (("backward", "made of"), ("forward", "came of it"))
    for way, title in titles:
        if found.direction not in (way, "both"):
            continue
        yield f"{title}:"
        lines = list(_below(found, root, way == "backward", "  ", {root.id}))
        yield from lines or ["  nothing that is known"]
    if found.cut:
        yield "... and more: --limit shows them"


def mermaid(found: Lineage) -> Iterator[str]:
    """Lines of a Mermaid flowchart, from what came before on the left to what came after on the right."""
    names = {node.id: f"n{nth}" for nth, node in enumerate(found.nodes)}
    yield "flowchart LR"
    for node in found.nodes:
        yield f'  {names[node.id]}["{_plain(node.kind)}<br/>{_plain(node.label)}"]'
    for edge in found.edges:
        yield f"  {names[edge.upstream]} --> {names[edge.downstream]}"
    yield f"  style {names[found.root]} stroke-width:3px"


def moment(at: float | None) -> str:
    """Seconds since the epoch as people write a time, UTC."""
    return "-" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _below(found: Lineage, node: LineageNode, backward: bool, indent: str, opened: set[str]) -> Iterator[str]:
    nodes = {one.id: one for one in found.nodes}
    steps = [
        (nodes[edge.upstream if backward else edge.downstream], edge.relation)
        for edge in found.edges
        if (edge.downstream if backward else edge.upstream) == node.id
        and (edge.upstream if backward else edge.downstream) in nodes
    ]
    # Other versions last: they are what is opened out.
    steps.sort(key=lambda step: step[0].kind == "version")
    for nth, (other, relation) in enumerate(steps):
        last = nth == len(steps) - 1
        again = " (see above)" if other.id in opened and other.kind == "version" else ""
        says = _SAYS.get(relation, other.kind)
        if relation == "parent":
            says = "parent" if backward else "child"
        yield f"{indent}{'└─' if last else '├─'} {says}: {other.label}{'' if again else _remark(other)}{again}"
        if other.kind == "version" and not again:
            opened.add(other.id)
            yield from _below(found, other, backward, indent + ("   " if last else "│  "), opened)


def _remark(node: LineageNode) -> str:
    told = node.detail
    if node.kind == "version":
        parts = [told.get("state"), told.get("digest")]
    elif node.kind in ("champion", "rollout"):
        until = told.get("until")
        parts = [f"{moment(node.at)} to {moment(until) if until else 'now'}", told.get("reason")]
    elif node.kind in ("evidence", "approval"):
        window = told.get("window")
        over = f"of {moment(window[0])} to {moment(window[1])}" if window else None
        parts = [moment(node.at), told.get("reason"), over]
    else:
        parts = [told.get("name")]
    kept = [str(part) for part in parts if part]
    return f"  [{'; '.join(kept)}]" if kept else ""


def _plain(text: str) -> str:
    for char, told in (("&", "#amp;"), ('"', "#quot;"), ("<", "#lt;"), (">", "#gt;"), ("\n", " ")):
        text = text.replace(char, told)
    return text
