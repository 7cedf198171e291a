"""A walk through lineage, one level at a time. Pure: whoever knows the edges gives them, level by level.

Lineage has no circle, by construction: an edge into a version is written in the transaction that creates the version
(or seals it) and names things that are there already; its parent, and the version it copies, have been registered
before it, and no edge between versions is ever written or changed later. So every path between versions follows the
order of registration. Of a plain registry that was taken over we have only its word (a model deleted and made again
under old numbers can make it say anything), so a walk still enters nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Direction = Literal["backward", "forward"]


class Node(NamedTuple):
    """A thing in the lineage: its kind (``version``, ``data``, ``evidence`` ...) and what it is called there."""

    kind: str
    key: str

    @property
    def id(self) -> str:
        return f"{self.kind}:{self.key}"


class Edge(NamedTuple):
    """``downstream`` came of ``upstream``."""

    upstream: Node
    downstream: Node
    relation: str


@dataclass(slots=True)
class Walk:
    """What was found.

    Attributes:
        depths: steps from where the walk began, in the order found.
        edges: between nodes that were found.
        cut: more was there than was wanted.
    """

    depths: dict[Node, int] = field(default_factory=dict)
    edges: list[Edge] = field(default_factory=list)
    cut: bool = False


def walk(
    starts: Iterable[Node],
    neighbours: Callable[[Sequence[Node]], Iterable[Edge]],
    direction: Direction,
    depth: int,
    limit: int,
) -> Walk:
    """Everything at most ``depth`` steps away.

    Args:
        neighbours: the edges of these nodes in this direction; called once per level.
        limit: nodes at most, the starts included.
    """
    found = Walk(dict.fromkeys(starts, 0))
    level, seen = list(found.depths), set[Edge]()
    for steps in range(1, depth + 1):
        following = []
        for edge in neighbours(level):
            other = edge.upstream if direction == "backward" else edge.downstream
            if other not in found.depths:
                if len(found.depths) >= limit:
                    found.cut = True
                    continue
                found.depths[other] = steps
                following.append(other)
            if edge not in seen:
                seen.add(edge)
                found.edges.append(edge)
        if not following:
            break
        level = following
    return found
