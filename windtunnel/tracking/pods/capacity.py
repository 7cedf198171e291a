"""What a pod asks for beside what the cluster's nodes have (TRN-5). Pure.

Objects are those of the Kubernetes API as plain dictionaries, with its own (camelCase) keys.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from windtunnel.tracking.pods import nodeaffinity

_QUANTITY = re.compile(r"([+-]?[0-9]*\.?[0-9]+)(?:[eE]([+-]?[0-9]+)|(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|n|u)?)")
_SUFFIX = {
    "": 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip
_BYTES = ("memory", "ephemeral-storage", "storage")


def quantity(text: str | int | float) -> float:
    """The number behind a quantity of the Kubernetes API: ``500m``, ``16Gi``, ``1e3``.

    Raises:
        ValueError: it is none.
    """
    found = _QUANTITY.fullmatch(str(text).strip())
    if not found:
        raise ValueError(f"expected a quantity such as '500m' or '16Gi', found {text!r}")
    return float(found[1]) * (10.0 ** int(found[2]) if found[2] else _SUFFIX[found[3] or ""])


def words(name: str, amount: float) -> str:
    """``16.0 GiB memory``, ``2 nvidia.com/gpu``, ``0.5 cpu``."""
    return f"{amount / 2**30:.1f} GiB {name}" if name in _BYTES else f"{amount:g} {name}"


def asked(pod: Mapping[str, Any]) -> dict[str, float]:
    """What the pod's containers request together, by resource name."""
    out: dict[str, float] = {}
    for container in (pod.get("spec") or {}).get("containers") or []:
        for name, amount in ((container.get("resources") or {}).get("requests") or {}).items():
            out[name] = out.get(name, 0.0) + quantity(amount)
    return out


@dataclass(frozen=True, slots=True)
class Shortage:
    """Why no node of the cluster can ever take a pod, however empty it is.

    Attributes:
        asked: in words, everything.
        there: in words, the most that one node has of each, and the values of the GPU label.
        reason: the first thing that no node has, in words; None where some node would do.
    """

    asked: str
    there: str
    reason: str | None


def compare(pod: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]]) -> Shortage:
    """Hold a pod's requests, node selector and required node affinity against what the nodes are and may give away.

    Args:
        nodes: every node the caller may see; those that take no pods (``unschedulable``) do not count.
    """
    wanted = asked(pod)
    selector: Mapping[str, str] = (pod.get("spec") or {}).get("nodeSelector") or {}
    terms = nodeaffinity.required(pod)
    text = ", ".join([*(words(*one) for one in wanted.items()), *(f"{key}={value}" for key, value in selector.items())])
    if terms is not None:
        text += f", a node with {nodeaffinity.words(terms)}"
    ready = [node for node in nodes if not (node.get("spec") or {}).get("unschedulable")]
    have = [_allocatable(node) for node in ready]
    most = {name: max((each.get(name, 0.0) for each in have), default=0.0) for name in wanted}
    there = ", ".join(words(name, amount) for name, amount in most.items())
    for key, value in selector.items():
        values = sorted({str(labels[key]) for node in ready if key in (labels := _labels(node))})
        there += f"; {key} is {', '.join(values) or 'on no node'}"
        if value not in values:
            return Shortage(text, _counted(there, len(ready)), f"no node has {key}={value}")
    if terms is not None and not any(nodeaffinity.allows(terms, node) for node in ready):
        unmet = f"no node meets the affinity ({nodeaffinity.words(terms)})"
        return Shortage(text, _counted(there, len(ready)), unmet)
    lacking = next((name for name, amount in wanted.items() if amount > most[name]), None)
    reason: str | None = None
    if lacking is not None:
        reason = f"no node has {words(lacking, wanted[lacking])}: the most is {words(lacking, most[lacking])}"
    elif not any(
        all(_labels(node).get(key) == value for key, value in selector.items())
        and nodeaffinity.allows(terms, node)
        and all(amount <= each.get(name, 0.0) for name, amount in wanted.items())
        for node, each in zip(ready, have, strict=True)
    ):
        reason = "no single node has all of it together"
    return Shortage(text, _counted(there, len(ready)), reason)


def _allocatable(node: Mapping[str, Any]) -> dict[str, float]:
    out: dict[str, float] = {}
    for name, amount in ((node.get("status") or {}).get("allocatable") or {}).items():
        try:
            out[name] = quantity(amount)
        except ValueError:  # a device plugin's own invention
            continue
    return out


def _labels(node: Mapping[str, Any]) -> Mapping[str, str]:
    found: Mapping[str, str] = (node.get("metadata") or {}).get("labels") or {}
    return found


def _counted(there: str, nodes: int) -> str:
    return f"of {nodes} node{'' if nodes == 1 else 's'} the largest: {there}" if nodes else "no node takes pods"
