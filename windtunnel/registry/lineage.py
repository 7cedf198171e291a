"""Lineage as the registry tells it, as frozen values."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self

Direction = Literal["backward", "forward", "both"]


@dataclass(frozen=True, slots=True)
class LineageNode:
    """A version, or a thing it was made of or that came of it.

    Attributes:
        id: ``KIND:KEY``, unique.
        kind: ``version``; before it ``run``, ``data``, ``source``, ``code``, ``commit``, ``environment``, ``image``,
            ``dag_run``; after it ``evidence``, ``approval``, ``rollout``, ``champion``.
        depth: steps from the root; below 0 before it, above 0 after it.
        label: in a few words.
        at: when the registry came to know it, seconds since the epoch.
        detail: what else is known of it, by kind.
    """

    id: str
    kind: str
    depth: int
    label: str
    at: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LineageEdge:
    """``downstream`` came of ``upstream``; ``relation`` says how."""

    upstream: str
    downstream: str
    relation: str


@dataclass(frozen=True, slots=True)
class Lineage:
    """What was found around one version.

    Attributes:
        root: id of its node.
        cut: there is more than was asked for.
    """

    root: str
    model: str
    version: str
    direction: str
    depth: int
    as_of: float | None
    nodes: tuple[LineageNode, ...]
    edges: tuple[LineageEdge, ...]
    cut: bool = False

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Self:
        """From the server's JSON."""
        known = {f.name for f in fields(LineageNode)}
        nodes = tuple(LineageNode(**{k: v for k, v in node.items() if k in known}) for node in plain["nodes"])
        edges = tuple(LineageEdge(edge["from"], edge["to"], edge["relation"]) for edge in plain["edges"])
        own = {f.name: plain[f.name] for f in fields(cls) if f.name in plain and f.name not in ("nodes", "edges")}
        return cls(**own, nodes=nodes, edges=edges)

    def to_dict(self) -> dict[str, Any]:
        """As the server says it."""
        edges = [{"from": e.upstream, "to": e.downstream, "relation": e.relation} for e in self.edges]
        return {**asdict(self), "nodes": [asdict(node) for node in self.nodes], "edges": edges}

    def node(self, identifier: str) -> LineageNode:
        """The node with this id.

        Raises:
            KeyError: there is none.
        """
        for node in self.nodes:
            if node.id == identifier:
                return node
        raise KeyError(identifier)


@dataclass(frozen=True, slots=True)
class Impact:
    """What a data set has touched.

    Attributes:
        of: what was asked for.
        matched: the origins it is: ``kind`` and ``value``.
        total: number of versions; ``versions`` may hold fewer, the newest.
        champions: every term as champion of such a version, oldest first: ``model``, ``version``, ``semver``,
            ``since``, ``until``.
        champions_now: those that have no end.
    """

    of: str
    as_of: float | None
    total: int
    matched: tuple[dict[str, Any], ...] = ()
    versions: tuple[dict[str, Any], ...] = ()
    champions: tuple[dict[str, Any], ...] = ()
    champions_now: tuple[dict[str, Any], ...] = ()

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Self:
        """From the server's JSON."""
        known = {f.name for f in fields(cls)}
        kept: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items() if k in known}
        return cls(**kept)
