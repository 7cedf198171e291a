"""Whether some node could hold each pod of these models, were it empty: labels, affinity, GPUs, slices, sizes, taints.

A node that an autoscaler makes is on no list before, so what no node has is an error only where nobody makes nodes.
Affinity to other pods is not read: it changes with each that comes or goes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from windtunnel.kube.client import Client
from windtunnel.kube.kinds import NODE
from windtunnel.stack.clusterdoctor import needs
from windtunnel.stack.clusterdoctor.looking import Cluster
from windtunnel.stack.finding import Finding
from windtunnel.tracking.pods import capacity

#: Labels of nodes that belong to a group which their cloud can make larger -> whose.
_GROUPS = {
    "karpenter.sh/nodepool": "Karpenter",
    "eks.amazonaws.com/nodegroup": "the node group's autoscaler",
    "cloud.google.com/gke-nodepool": "GKE",
    "kubernetes.azure.com/agentpool": "AKS",
    "agentpool": "AKS",
}
#: APIs that are there where somebody makes nodes -> who.
_MAKERS = {"karpenter.sh": "Karpenter", "autoscaling.x-k8s.io": "the cluster autoscaler"}
#: Taints that come and go with a node's health.
_PASSING = ("node.kubernetes.io/", "node.cloudprovider.kubernetes.io/")
_KEPT = ("NoSchedule", "NoExecute")


def nodes_for_pods(cluster: Cluster, client: Client) -> Iterator[Finding]:
    """A finding per pod of the models that are named; nothing without models."""
    made = needs.pods(cluster, client.namespace) if cluster.models else []
    if not made:
        return
    nodes = client.list(NODE).get("items") or []
    by = maker(nodes, [group for group in _MAKERS if client.look(f"/apis/{group}").status == 200])
    for one in made:
        yield judge_place(one, nodes, by)


def maker(nodes: Sequence[Mapping[str, Any]], groups: Sequence[str]) -> str | None:
    """Who may make further nodes, in words; None: nobody that can be seen.

    Args:
        groups: of the APIs in ``_MAKERS``, those that the cluster has.
    """
    if groups:
        return _MAKERS[groups[0]]
    labels = {key for node in nodes for key in (node.get("metadata") or {}).get("labels") or {}}
    return next((whose for label, whose in _GROUPS.items() if label in labels), None)


def judge_place(one: needs.Made, nodes: Sequence[Mapping[str, Any]], by: str | None = None) -> Finding:
    """One pod's finding.

    Args:
        nodes: all of the cluster's, as the API lists them.
        by: who may make others, in words.
    """
    name, pod = f"nodes for {one.who}", {"spec": _filled(one.spec)}
    short = capacity.compare(pod, nodes)
    reason = short.reason
    if reason is None:
        usable = [node for node in nodes if not _kept_from(one.spec, node)]
        if capacity.compare(pod, usable).reason is None:
            return Finding(name, "ok", f"some node could hold it: {short.asked}")
        taints = {text for node in nodes for text in _kept_from(one.spec, node)}
        reason = f"the nodes that have it are kept for others by {', '.join(sorted(taints))}"
    text = f"{reason} (asked: {short.asked}; {short.there})"
    if by is not None:
        mend = f"right where {by} makes such a node when a pod waits for one; else ask for what there is"
        return Finding(name, "warn", text, mend)
    mend = "ask for what the nodes have, tolerate their taints, or add such a node: docs/how-to/train-in-a-pod.md"
    return Finding(name, "fail", text, mend)


def _filled(spec: Mapping[str, Any]) -> dict[str, Any]:
    """With requests where only a limit stands, as the API writes them: GPUs of model servers."""
    filled = copy.deepcopy(dict(spec))
    for container in filled.get("containers") or []:
        resources = container.setdefault("resources", {})
        resources["requests"] = {**(resources.get("limits") or {}), **(resources.get("requests") or {})}
    return filled


def _kept_from(spec: Mapping[str, Any], node: Mapping[str, Any]) -> list[str]:
    """The node's taints that the pod does not tolerate, as ``kubectl`` writes them."""
    taints = (node.get("spec") or {}).get("taints") or []
    return [
        f"{taint['key']}{'=' + taint['value'] if taint.get('value') else ''}:{taint['effect']}"
        for taint in taints
        if taint.get("effect") in _KEPT
        and not str(taint.get("key")).startswith(_PASSING)
        and not any(_tolerates(one, taint) for one in spec.get("tolerations") or [])
    ]


def _tolerates(one: Mapping[str, Any], taint: Mapping[str, Any]) -> bool:
    """Kubernetes' own rule: an empty key tolerates every one (``Exists``), an empty effect each."""
    if one.get("effect") not in (None, "", taint.get("effect")):
        return False
    if one.get("operator") == "Exists":
        return one.get("key") in (None, "", taint.get("key"))
    return one.get("key") == taint.get("key") and (one.get("value") or "") == (taint.get("value") or "")
