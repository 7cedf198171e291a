"""Which nodes a pod's required node affinity allows (TRN-5). Pure.

By the rules of the Kubernetes API, NodeSelector v1: terms are alternatives, the requirements of a term hold together,
an empty term allows no node, and a node without the label meets ``NotIn``. What a pod only prefers keeps no node from
it, and where other pods are is not read: both change with every pod that comes or goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Term = Mapping[str, Any]

_WORDS = {"In": "in", "NotIn": "not in", "Gt": ">", "Lt": "<"}


def required(pod: Mapping[str, Any]) -> Sequence[Term] | None:
    """The alternatives that the pod requires of a node; None: it requires nothing."""
    affinity = ((pod.get("spec") or {}).get("affinity") or {}).get("nodeAffinity") or {}
    selector = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    return None if selector is None else selector.get("nodeSelectorTerms") or []


def allows(terms: Sequence[Term] | None, node: Mapping[str, Any]) -> bool:
    """Whether one of the terms holds for the node as the API lists it; where nothing is required, each does."""
    return terms is None or any(_holds(term, node) for term in terms)


def words(terms: Sequence[Term]) -> str:
    """``topology.kubernetes.io/zone in (a, b) and disk, or metadata.name in (n1)``."""
    return (
        ", or ".join(" and ".join(_said(one) for one in _all(term)) or "an empty term" for term in terms) or "no term"
    )


def _holds(term: Term, node: Mapping[str, Any]) -> bool:
    metadata = node.get("metadata") or {}
    labels, fields = metadata.get("labels") or {}, {"metadata.name": metadata.get("name")}
    return bool(_all(term)) and (
        all(_meets(one, labels) for one in term.get("matchExpressions") or [])
        and all(_meets(one, fields) for one in term.get("matchFields") or [])
    )


def _meets(one: Mapping[str, Any], labels: Mapping[str, Any]) -> bool:
    found, values = labels.get(str(one.get("key"))), [str(value) for value in one.get("values") or []]
    match one.get("operator"):
        case "In":
            return found in values
        case "NotIn":
            return found not in values
        case "Exists":
            return found is not None
        case "DoesNotExist":
            return found is None
        case "Gt" | "Lt" as operator:
            try:
                number, limit = int(str(found)), int(values[0])
            except (ValueError, IndexError):  # a label that is no number meets neither, as in Kubernetes
                return False
            return number > limit if operator == "Gt" else number < limit
    return False


def _all(term: Term) -> list[Mapping[str, Any]]:
    return [*(term.get("matchExpressions") or []), *(term.get("matchFields") or [])]


def _said(one: Mapping[str, Any]) -> str:
    key, operator = str(one.get("key")), str(one.get("operator"))
    values = ", ".join(str(value) for value in one.get("values") or [])
    if operator in ("Gt", "Lt"):
        return f"{key} {_WORDS[operator]} {values}"
    if operator in _WORDS:
        return f"{key} {_WORDS[operator]} ({values})"
    return {"Exists": key, "DoesNotExist": f"no {key}"}.get(operator, f"{key} {operator} ({values})")
