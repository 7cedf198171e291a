"""The namespace: that it is there, and what it lets in."""

from __future__ import annotations

from collections.abc import Iterator

from windtunnel.errors import ForbiddenError
from windtunnel.kube.client import Client
from windtunnel.kube.kinds import NAMESPACE
from windtunnel.stack.clusterdoctor.looking import Cluster
from windtunnel.stack.finding import Finding

#: Label by which Kubernetes' own admission refuses pods (Pod Security Standards).
ENFORCE = "pod-security.kubernetes.io/enforce"


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
