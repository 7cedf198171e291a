"""What the nodes and the storage offer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from windtunnel.kube.client import Client
from windtunnel.kube.kinds import NODE, STORAGE_CLASS
from windtunnel.stack.clusterdoctor.looking import Cluster
from windtunnel.stack.finding import Finding
from windtunnel.tracking.pods.capacity import quantity

PRODUCT = "nvidia.com/gpu.product"
_DEFAULT = "storageclass.kubernetes.io/is-default-class"


def gpus(cluster: Cluster, client: Client) -> Iterator[Finding]:
    """Nodes, and their GPUs and slices (MIG) by what the device plugin says is allocatable."""
    yield from judge_nodes(client.list(NODE).get("items") or [])


def judge_nodes(items: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Findings ``nodes`` and ``gpus`` of Node objects as the API lists them."""
    ready = [one for one in items if _ready(one)]
    if not ready:
        text = f"none of {len(items)} nodes is ready" if items else "there are no nodes"
        yield Finding("nodes", "fail", text, "kubectl describe nodes")
    elif len(ready) < len(items):
        yield Finding("nodes", "warn", f"{len(ready)} of {len(items)} nodes are ready", "kubectl describe nodes")
    else:
        yield Finding("nodes", "ok", f"{len(ready)} ready")
    offered: Counter[tuple[str, str]] = Counter()
    shared, unlabelled = set(), set()
    for node in ready:
        labels = (node.get("metadata") or {}).get("labels") or {}
        for resource, amount in ((node.get("status") or {}).get("allocatable") or {}).items():
            if resource.startswith("nvidia.com/") and (count := int(quantity(amount))):
                offered[resource, labels.get(PRODUCT, "")] += count
                if resource.endswith(".shared"):
                    shared.add(node["metadata"]["name"])
                if PRODUCT not in labels:
                    unlabelled.add(node["metadata"]["name"])
    if not offered:
        mend = "for GPUs install NVIDIA's GPU operator or device plugin, on nodes that have them"
        yield Finding("gpus", "warn", "no ready node offers nvidia.com/gpu or a slice (nvidia.com/mig-...)", mend)
        return
    text = ", ".join(
        f"{count} {resource}{f' ({product})' if product else ''}"
        for (resource, product), count in sorted(offered.items())
    )
    if unlabelled:
        mend = f"install GPU feature discovery: without the label {PRODUCT} a description cannot ask for a type of GPU"
        yield Finding("gpus", "warn", f"{text}; no type is told by {', '.join(sorted(unlabelled))}", mend)
    else:
        yield Finding("gpus", "ok", text)


def _ready(node: Mapping[str, Any]) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or []
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)


def storage_classes(cluster: Cluster, client: Client) -> Iterator[Finding]:
    """There is one default, for the registry's volume."""
    items = client.list(STORAGE_CLASS).get("items") or []
    chosen = sorted(
        one["metadata"]["name"] for one in items if ((one["metadata"].get("annotations") or {}).get(_DEFAULT)) == "true"
    )
    name = "storage class"
    if len(chosen) == 1:
        yield Finding(name, "ok", f"{chosen[0]} is the default")
    elif chosen:
        yield Finding(name, "warn", f"several are the default: {', '.join(chosen)}", "leave it to one of them")
    else:
        there = ", ".join(sorted(one["metadata"]["name"] for one in items)) or "none at all"
        mend = f"name one in the chart's values (registry.storage), or annotate it: {_DEFAULT}=true"
        yield Finding(name, "warn", f"none is the default; there are: {there}", mend)
