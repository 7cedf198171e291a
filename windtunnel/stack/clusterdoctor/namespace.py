"""The namespace: that it is there, what it lets in, what is left of its quotas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from windtunnel.errors import ForbiddenError
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import NAMESPACE, QUOTA
from windtunnel.stack.clusterdoctor.looking import Cluster
from windtunnel.stack.finding import Finding
from windtunnel.tracking.pods.capacity import quantity

#: Label by which Kubernetes' own admission refuses pods (Pod Security Standards).
ENFORCE = "pod-security.kubernetes.io/enforce"
#: From this share on a quota is told.
NEARLY = 0.9


def exists(cluster: Cluster, client: Client) -> Iterator[Finding]:
    """It is there, is not going, and enforces what our pods keep."""
    name = client.namespace
    try:
        found = client.get(NAMESPACE, name)
    except ForbiddenError as error:
        yield Finding("namespace", "warn", f"it cannot be looked at: {error.message}", "the right to get it would do")
        return
    if found is None:
        yield Finding("namespace", "fail", f"there is no namespace {name}", f"kubectl create namespace {name}")
        return
    if (found.get("metadata") or {}).get("deletionTimestamp"):
        yield Finding("namespace", "fail", f"{name} is being deleted", "wait until it is gone, and make it again")
        return
    yield Finding("namespace", "ok", name)
    level = ((found.get("metadata") or {}).get("labels") or {}).get(ENFORCE)
    yield judge_level(name, level)


def judge_level(name: str, level: str | None) -> Finding:
    """What the namespace's Pod Security level means. Our pods are ``restricted``, so every level lets them in."""
    if level == "restricted":
        return Finding("pod security", "ok", "restricted")
    said = f"{level} is enforced" if level else "nothing is enforced"
    mend = f"our pods need no more than restricted: kubectl label namespace {name} --overwrite {ENFORCE}=restricted"
    return Finding("pod security", "warn", f"{said} in {name}: other pods may be privileged", mend)


def quotas(cluster: Cluster, client: Client) -> Iterator[Finding]:
    """Whether anything more fits."""
    items = client.list(QUOTA).get("items") or []
    if not items:
        yield Finding("quotas", "ok", "none")
    for item in items:
        yield judge_quota(item)


def judge_quota(item: Mapping[str, Any]) -> Finding:
    """One ResourceQuota, by its status: what the cluster's own count says is used."""
    name = f"quota {item['metadata']['name']}"
    status = item.get("status") or {}
    hard, used = status.get("hard") or (item.get("spec") or {}).get("hard") or {}, status.get("used") or {}
    shares = {what: _share(used.get(what, "0"), limit) for what, limit in hard.items()}
    told = {what: f"{what} {used.get(what, '0')} of {hard[what]}" for what in sorted(shares)}
    full = [told[what] for what in told if shares[what] >= 1]
    tight = [told[what] for what in told if NEARLY <= shares[what] < 1]
    mend = "raise it, or remove what is no longer needed"
    if full:
        return Finding(name, "fail", f"used up: {', '.join(full)}", mend)
    if tight:
        return Finding(name, "warn", f"nearly used up: {', '.join(tight)}", mend)
    return Finding(name, "ok", ", ".join(told.values()) or "limits nothing")


def _share(used: str, hard: str) -> float:
    limit = quantity(hard)
    if limit == 0:  # forbids something, perhaps for ever: told when it is used
        return 0.0 if quantity(used) == 0 else 1.0
    return quantity(used) / limit
